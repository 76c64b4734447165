//! What a keyed process stores of a key: the guest's state, its timers, when it is forgotten, and the rows that wait for their turn.

use super::{Part, corrupt, msgpack, unused};
use crate::config::spec::Order;
use crate::operator::assigner::EVENT_TIME_MAX;
use crate::operator::assigner::idle::LIVE;
use crate::operator::process::{Kept, ProcessCloser};
use crate::plan::timestamp_type;
use crate::state::codec::RowCodec;
use arrow::array::{
    ArrayRef, Int64Array, ListBuilder, RecordBatch, TimestampMillisecondArray, TimestampMillisecondBuilder, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::Result;
use std::collections::HashSet;
use std::sync::Arc;

/// Reads the state of a keyed process.
pub(super) struct Keyed {
    process: ProcessCloser,
    /// Keys, the guest's state, what Kindling keeps beside it.
    pub(super) schema: SchemaRef,
}

/// What is stored of a key, or a part of it.
#[derive(Default)]
struct Stored<'a> {
    key: &'a [u8],
    /// Its own slot.
    slot: Option<&'a [u8]>,
    /// The least event time of rows that wait.
    waiting_from: Option<i64>,
    waiting_rows: i64,
}

/// A point in time, where it is one.
fn shown(ms: i64) -> Option<i64> {
    (-EVENT_TIME_MAX..=EVENT_TIME_MAX).contains(&ms).then_some(ms)
}

impl Keyed {
    /// Of a plan's process, whose keys are `keys`.
    pub(super) fn new(process: ProcessCloser, keys: &[Field]) -> Self {
        let timers = || DataType::List(Arc::new(Field::new_list_field(timestamp_type(), true)));
        let mut own = vec![
            ("last_event_time", timestamp_type()),
            ("event_timers", timers()),
            ("processing_timers", timers()),
            ("forgotten_at", timestamp_type()),
        ];
        if process.plan().order == Order::EventTime {
            own.extend([("waiting_from", timestamp_type()), ("waiting_rows", DataType::Int64)]);
        }
        let state = process.plan().signature().state.iter().map(|field| {
            let data_type = field.data_type.data_type();
            (field.name.as_str(), if msgpack::is(&data_type, &field.layout) { DataType::Utf8 } else { data_type })
        });
        let mut fields: Vec<Field> = keys.iter().map(|f| f.clone().with_nullable(true)).collect();
        let mut seen: HashSet<String> = fields.iter().map(|f| f.name().clone()).collect();
        for (name, data_type) in state.chain(own) {
            fields.push(Field::new(unused(name.to_owned(), &mut seen), data_type, true));
        }
        Self { schema: Arc::new(Schema::new(fields)), process }
    }

    fn stored<'a>(&self, (pane, key, value): &Part<'a>) -> Result<Stored<'a>> {
        if *pane == LIVE {
            return Ok(Stored { key, slot: Some(value), ..Stored::default() });
        }
        let waiting_rows = self.process.waiting(value).map_err(corrupt)?;
        Ok(Stored { key, slot: None, waiting_from: Some(pane.start), waiting_rows })
    }

    /// One row a slot: a key's own, or its rows that wait for one event time.
    pub(super) fn slots(&self, keys: &RowCodec, slots: &[Part<'_>]) -> Result<RecordBatch> {
        self.batch(keys, &slots.iter().map(|slot| self.stored(slot)).collect::<Result<Vec<_>>>()?)
    }

    /// One row, of all slots of a key; none where it has none.
    pub(super) fn of_key(&self, keys: &RowCodec, slots: &[Part<'_>]) -> Result<RecordBatch> {
        let mut whole: Option<Stored<'_>> = None;
        for slot in slots {
            let part = self.stored(slot)?;
            whole = Some(match whole {
                None => part,
                Some(so_far) => Stored {
                    key: so_far.key,
                    slot: so_far.slot.or(part.slot),
                    waiting_from: so_far.waiting_from.into_iter().chain(part.waiting_from).min(),
                    waiting_rows: so_far.waiting_rows + part.waiting_rows,
                },
            });
        }
        self.batch(keys, whole.as_slice())
    }

    fn batch(&self, keys: &RowCodec, rows: &[Stored<'_>]) -> Result<RecordBatch> {
        let slots: Vec<&[u8]> = rows.iter().filter_map(|r| r.slot).collect();
        let (kept, states) = self.process.read(&slots).map_err(corrupt)?;
        // Which of the slots that were read each row has.
        let mut read = 0..kept.len() as u32;
        let places: UInt32Array = rows.iter().map(|row| row.slot.and_then(|_| read.next())).collect();
        let mut columns = keys.decode(rows.iter().map(|row| row.key)).map_err(corrupt)?;
        for (field, state) in self.process.plan().signature().state.iter().zip(states) {
            let state = msgpack::shown(state, msgpack::is(&field.data_type.data_type(), &field.layout));
            columns.push(take(&state, &places, None)?);
        }
        let kept: Vec<Option<&Kept>> = places.iter().map(|place| place.and_then(|p| kept.get(p as usize))).collect();
        let time = |of: &dyn Fn(&Kept) -> i64| -> ArrayRef {
            Arc::new(kept.iter().map(|k| k.and_then(|k| shown(of(k)))).collect::<TimestampMillisecondArray>())
        };
        columns.push(time(&|k| k.touched));
        columns.push(timers(&kept, |k| &k.event));
        columns.push(timers(&kept, |k| &k.processing));
        columns.push(time(&|k| self.process.ends(k.touched)));
        if self.process.plan().order == Order::EventTime {
            columns.push(Arc::new(rows.iter().map(|r| r.waiting_from).collect::<TimestampMillisecondArray>()));
            columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.waiting_rows))));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

fn timers(kept: &[Option<&Kept>], of: impl Fn(&Kept) -> &[i64]) -> ArrayRef {
    let mut lists = ListBuilder::new(TimestampMillisecondBuilder::new());
    for kept in kept {
        match kept {
            Some(kept) => lists.append_value(of(kept).iter().map(|time| shown(*time))),
            None => lists.append_null(),
        }
    }
    Arc::new(lists.finish())
}
