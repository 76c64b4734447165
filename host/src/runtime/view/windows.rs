//! What is stored of windows: each pane or open window of a key, its finished values, and the raw columns of its partial states.

use super::{Part, corrupt, msgpack, unused};
use crate::config::spec::WindowKind;
use crate::operator::assigner::count::TOTAL;
use crate::operator::assigner::{Assigner, EVENT_TIME_MAX};
use crate::operator::merge::{Layout, Merger};
use crate::operator::open::open_windows;
use crate::plan::{WindowPlan, timestamp_type};
use crate::plugin::LAYOUT;
use crate::state::codec::RowCodec;
use crate::state::store::PaneId;
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::Result;
use std::collections::HashSet;
use std::sync::Arc;

/// Reads the state of windows.
pub(super) struct Windows {
    window: WindowPlan,
    assigner: Assigner,
    layout: Layout,
    keys: usize,
    /// Whether each state column is MessagePack.
    is_packed: Vec<bool>,
    /// Keys, start and end, finished values, state columns.
    pub(super) schema: SchemaRef,
}

/// Columns of a window's bounds.
const WINDOW: [&str; 2] = ["window_start", "window_end"];

impl Windows {
    /// Of a plan's window; `input` is the schema that reaches it.
    pub(super) fn new(window: &WindowPlan, input: &Schema, keys: &[Field]) -> Result<Self> {
        let is_window = match window.kind {
            WindowKind::Hopping { duration, slide } => duration == slide,
            WindowKind::Calendar { .. } => true,
            _ => false,
        };
        let (names, of_pane) = match window.kind {
            WindowKind::Count { .. } => (["first_row", "end_row"], DataType::Int64),
            _ if is_window => (WINDOW, timestamp_type()),
            _ => (["pane_start", "pane_end"], timestamp_type()),
        };
        let result = window.result.fields();
        let visible = window.aggregates.len() - window.hidden;
        let last = result.len() - usize::from(window.plugin_versions.is_some());
        let values: Vec<Field> = result[last - visible..last].iter().map(|f| f.as_ref().clone()).collect();
        let mut fields: Vec<Field> = keys.to_vec();
        fields.extend(names.map(|name| Field::new(name, of_pane.clone(), true)));
        fields.extend(values.iter().cloned());
        let mut seen: HashSet<String> = fields.iter().map(|f| f.name().clone()).collect();
        let mut is_packed = Vec::new();
        for (i, aggregate) in window.aggregates.iter().enumerate() {
            let value = values.get(i).map_or(aggregate.function.name(), |v| v.name());
            for field in aggregate.function.state_fields()? {
                let name = unused(format!("{value}[{}]", short(field.name())), &mut seen);
                let is_msgpack = field.metadata().get(LAYOUT).is_some_and(|layout| msgpack::is(field.data_type(), layout));
                let data_type = if is_msgpack { DataType::Utf8 } else { field.data_type().clone() };
                fields.push(Field::new(name, data_type, true));
                is_packed.push(is_msgpack);
            }
        }
        Ok(Self {
            window: window.clone(),
            assigner: window.assigner(),
            layout: Layout::new(window, input)?,
            keys: keys.len(),
            is_packed,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// One row a pane. Without `finished` the aggregates are not called, and their values are null.
    pub(super) fn slots(&self, keys: &RowCodec, mut slots: Vec<Part<'_>>, finished: bool) -> Result<RecordBatch> {
        // What is known of a key's rows is no partial state.
        slots.retain(|slot| !matches!(self.assigner, Assigner::Count(_)) || slot.0 != TOTAL);
        let states = self.layout.states.decode(slots.iter().map(|s| s.2)).map_err(corrupt)?;
        let groups: Vec<usize> = (0..slots.len()).collect();
        let values = if finished { Some(self.finish(&states, &groups, slots.len())?) } else { None };
        let bounds: Vec<(i64, i64)> = slots.iter().map(|s| self.assigner.pane_bounds(s.0)).collect();
        let keys = keys.decode(slots.iter().map(|s| s.1)).map_err(corrupt)?;
        self.batch(keys, &bounds, values, states, &self.schema)
    }

    /// One row a window of one key that is still open, by start: the merge of its panes.
    pub(super) fn open(&self, keys: &RowCodec, slots: &[Part<'_>], closed: i64) -> Result<RecordBatch> {
        let states: Vec<(PaneId, &[u8])> = slots.iter().map(|s| (s.0, s.2)).collect();
        let windows = open_windows(&self.assigner, closed, &states).map_err(corrupt)?;
        let of = || windows.iter().flat_map(|w| &w.slots);
        let groups: Vec<usize> = windows.iter().enumerate().flat_map(|(i, w)| std::iter::repeat_n(i, w.slots.len())).collect();
        let states = self.layout.states.decode(of().map(|i| slots[*i].2)).map_err(corrupt)?;
        let values = self.finish(&states, &groups, windows.len())?;
        let states = self.merger(&states, &groups, windows.len())?.states()?;
        let bounds: Vec<(i64, i64)> = windows.iter().map(|w| (w.start, w.end)).collect();
        let mut fields: Vec<Field> = self.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        for (i, name) in WINDOW.into_iter().enumerate() {
            fields[self.keys + i] = Field::new(name, timestamp_type(), true);
        }
        let keys = keys.decode(windows.iter().map(|w| slots[w.slots[0]].1)).map_err(corrupt)?;
        self.batch(keys, &bounds, Some(values), states, &Arc::new(Schema::new(fields)))
    }

    fn batch(
        &self,
        mut columns: Vec<ArrayRef>,
        bounds: &[(i64, i64)],
        values: Option<Vec<ArrayRef>>,
        states: Vec<ArrayRef>,
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        // A global window has no bounds.
        let shown = |ms: i64| (-EVENT_TIME_MAX..=EVENT_TIME_MAX).contains(&ms).then_some(ms);
        for of in [|b: &(i64, i64)| b.0, |b: &(i64, i64)| b.1] {
            let numbers: Int64Array = bounds.iter().map(|b| shown(of(b))).collect();
            columns.push(match schema.field(columns.len()).data_type() {
                DataType::Int64 => Arc::new(numbers),
                _ => Arc::new(numbers.reinterpret_cast::<arrow::datatypes::TimestampMillisecondType>()),
            });
        }
        let aggregates = self.window.aggregates.len() - self.window.hidden;
        let of_values = &schema.fields()[columns.len()..columns.len() + aggregates];
        let none = || of_values.iter().map(|f| arrow::array::new_null_array(f.data_type(), bounds.len())).collect();
        columns.extend(values.unwrap_or_else(none));
        columns.extend(states.into_iter().zip(&self.is_packed).map(|(state, is_msgpack)| msgpack::shown(state, *is_msgpack)));
        let fit = |(column, field): (ArrayRef, &Arc<Field>)| -> Result<ArrayRef> {
            if column.data_type() == field.data_type() {
                Ok(column)
            } else {
                Ok(arrow::compute::cast(&column, field.data_type())?)
            }
        };
        let columns = columns.into_iter().zip(schema.fields()).map(fit).collect::<Result<Vec<_>>>()?;
        // A field that never is null in a result may be so here: what is shown is no result.
        let fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    fn finish(&self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<Vec<ArrayRef>> {
        self.merger(states, groups, total)?.results(self.window.aggregates.len() - self.window.hidden)
    }

    /// The states merged by group.
    fn merger(&self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<Merger<'_>> {
        let mut merger = Merger::new(&self.window, &self.layout.widths)?;
        merger.add(states, groups, total)?;
        Ok(merger)
    }
}

/// `count(1)[sum]` as `sum`.
fn short(field: &str) -> &str {
    let inner = field.strip_suffix(']').and_then(|f| f.rsplit_once('[')).map(|(_, inner)| inner);
    inner.filter(|i| !i.is_empty()).unwrap_or(field)
}
