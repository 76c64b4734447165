//! The rows of an epoch as one table, and which of them belong to which key.

use super::ProcessCloser;
use super::close::{ProcessClosing, Processed, SetAside};
use super::kept::{waiting_before, waiting_pane};
use crate::config::spec::Order;
use crate::limits::ROW_COLUMN;
use crate::operator::assigner::idle::LIVE;
use crate::operator::columns::{row_numbers, row_text};
use crate::operator::epoch::{RejectedRow, RowError};
use crate::operator::merge::{external, external_store};
use crate::state::codec::CodecError;
use crate::state::store::{Found, PaneId, Place, Slot, Store, Update};
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, TimestampMillisecondType};
use datafusion_common::Result;
use hashbrown::HashTable;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

const LENGTH_BYTES: usize = 4;

/// Where a row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Task, its batch, record in it.
    Read(usize, usize, usize),
    /// It waited in the state.
    Waited,
}

/// Rows that the process is to be given, in the order in which they came.
pub(super) struct Table {
    /// In the schema that reaches the process.
    pub rows: RecordBatch,
    /// The watermark before each.
    pub watermarks: Vec<i64>,
    /// Event times.
    pub times: Vec<i64>,
    pub origins: Vec<Origin>,
    /// Partition and offset, where they are needed to sort by.
    places: Vec<(i64, i64)>,
}

/// Rows by key.
#[derive(Default)]
pub(super) struct Groups {
    /// The encoded keys by number, one behind the other.
    keys: Vec<u8>,
    /// Where each ends in `keys`.
    key_ends: Vec<usize>,
    /// Of each, as the table hashes it.
    hashes: Vec<u64>,
    /// Numbers of rows, key by key.
    order: Vec<u32>,
    /// Where those of each key end in `order`.
    ends: Vec<usize>,
}

impl Table {
    /// Sets a row aside.
    pub fn reject(&self, row: u32, error: Arc<RowError>, out: &mut Processed) {
        match self.origins[row as usize] {
            Origin::Read(task, batch, row) => out.rejects.push((task, RejectedRow { batch, row, error })),
            Origin::Waited => {
                let what = row_text(&self.rows, row as usize);
                out.set_aside.push(SetAside { what, place: self.places.get(row as usize).copied(), error });
            }
        }
    }
}

impl Groups {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.key_ends.len()
    }

    /// An encoded key.
    pub fn key(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.key_ends[before]);
        &self.keys[start..self.key_ends[number]]
    }

    /// What is stored of each key, and where.
    pub fn stored(&self, store: &Store) -> Result<Stored> {
        let keys = (0..self.len()).map(|number| self.key(number));
        store.fetch(keys.clone().map(|key| (LIVE, key))).map_err(external_store)?;
        let mut stored =
            Stored { states: Vec::new(), ends: Vec::with_capacity(self.len()), places: Vec::with_capacity(self.len()) };
        let each = |found: Found<'_>| {
            let (state, place) = found.unwrap_or_default();
            stored.states.extend_from_slice(state);
            stored.ends.push(found.map(|_| stored.states.len()));
            stored.places.push(place.unwrap_or_else(|| Place::of_hash(self.hashes[stored.places.len()])));
        };
        store.find_all(keys.zip(&self.hashes).map(|(key, hash)| (LIVE, *hash, key)), each).map_err(external_store)?;
        Ok(stored)
    }

    /// The rows of a key.
    pub fn rows(&self, key: usize) -> &[u32] {
        let start = key.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.order[start..self.ends[key]]
    }

    /// The same without some rows.
    pub fn without(&self, rows: &HashSet<u32>) -> Self {
        let (mut order, mut ends) = (Vec::with_capacity(self.order.len()), Vec::with_capacity(self.ends.len()));
        for key in 0..self.ends.len() {
            order.extend(self.rows(key).iter().filter(|row| !rows.contains(row)));
            ends.push(order.len());
        }
        Self { keys: self.keys.clone(), key_ends: self.key_ends.clone(), hashes: self.hashes.clone(), order, ends }
    }
}

/// What is stored of keys. A copy: the table lies all over memory, and this is gone over more than once.
pub(super) struct Stored {
    /// One behind the other.
    states: Vec<u8>,
    /// Where that of each key ends; none where nothing is stored of it.
    ends: Vec<Option<usize>>,
    /// Where each is set.
    pub places: Vec<Place>,
}

impl Stored {
    /// The state of each key.
    pub fn states(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut start = 0;
        self.ends.iter().map(move |end| end.map(|end| &self.states[std::mem::replace(&mut start, end)..end]))
    }
}

/// What became of rows that wait.
#[derive(Default)]
pub(super) struct Waiting {
    /// Slots to set.
    pub updates: Vec<Update>,
    /// Panes whose rows wait no longer.
    pub released: Vec<PaneId>,
}

impl ProcessCloser {
    /// The rows that are given in this epoch, and what is stored of those that are not.
    pub(super) fn table(&self, closing: &ProcessClosing<'_>) -> Result<(Table, Waiting)> {
        let mut batches = Vec::new();
        let (mut watermarks, mut origins, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let sorts = self.plan.order == Order::EventTime;
        for (number, task) in closing.tasks.iter().enumerate() {
            for keyed in &task.keyed {
                let most = closing.others.get(keyed.partition).copied().unwrap_or(i64::MAX);
                watermarks.extend(keyed.watermarks.iter().map(|w| (*w).min(most).max(closing.before)));
                let rows = row_numbers(&keyed.rows);
                origins.extend(rows.iter().map(|row| Origin::Read(number, keyed.batch, *row as usize)));
                if sorts {
                    let raw = &task.input[keyed.batch].records;
                    places.extend(rows.iter().map(|row| (keyed.partition as i64, raw.record(*row as usize).offset)));
                }
                batches.push(keyed.rows.clone());
            }
        }
        let mut waiting = Waiting::default();
        if sorts {
            self.released(closing, &mut batches, &mut places, &mut waiting)?;
            origins.resize(places.len(), Origin::Waited);
        }
        let rows = concat_batches(&self.input, &batches)?;
        let times = rows.column(self.plan.event_time).as_primitive::<TimestampMillisecondType>().values().to_vec();
        if sorts {
            watermarks.clone_from(&times);
        }
        let table = Table { rows, watermarks, times, origins, places };
        if sorts {
            self.wait(closing, &table, &mut waiting)?;
        }
        Ok((table, waiting))
    }

    /// Rows that have waited until now.
    fn released(
        &self,
        closing: &ProcessClosing<'_>,
        batches: &mut Vec<RecordBatch>,
        places: &mut Vec<(i64, i64)>,
        waiting: &mut Waiting,
    ) -> Result<()> {
        let mut rows: Vec<Box<[u8]>> = Vec::new();
        for pane in waiting_before(closing.now).into_iter().flat_map(|panes| closing.store.panes_in(panes)) {
            for entry in closing.store.sorted(pane) {
                let (_, value) = entry.map_err(external_store)?;
                split(&value, |row| rows.push(row.into())).map_err(external)?;
            }
            waiting.released.push(pane);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut columns = self.waiting.decode(rows.iter().map(|row| row.as_ref())).map_err(external)?;
        let of: Vec<ArrayRef> = columns.drain(..2).collect();
        let (partitions, offsets) = (of[0].as_primitive::<Int64Type>().values(), of[1].as_primitive::<Int64Type>().values());
        places.extend(partitions.iter().copied().zip(offsets.iter().copied()));
        columns.push(Arc::new(UInt32Array::from(vec![0; rows.len()])));
        debug_assert_eq!(self.input.fields().last().map(|f| f.name().as_str()), Some(ROW_COLUMN));
        batches.push(RecordBatch::try_new(Arc::clone(&self.input), columns)?);
        Ok(())
    }

    /// Rows of this epoch that wait: behind those of their key and time that wait already.
    fn wait(&self, closing: &ProcessClosing<'_>, table: &Table, waiting: &mut Waiting) -> Result<()> {
        let wait: Vec<u32> = (0..table.times.len() as u32).filter(|i| table.times[*i as usize] >= closing.now).collect();
        if wait.is_empty() {
            return Ok(());
        }
        let rows = arrow::compute::take_record_batch(&table.rows, &UInt32Array::from(wait.clone()))?;
        let place = |of: fn(&(i64, i64)) -> i64| -> ArrayRef {
            Arc::new(arrow::array::Int64Array::from_iter_values(wait.iter().map(|i| of(&table.places[*i as usize]))))
        };
        let mut columns = vec![place(|p| p.0), place(|p| p.1)];
        columns.extend(rows.columns()[..rows.num_columns() - 1].iter().cloned());
        let mut keys: Vec<Box<[u8]>> = Vec::with_capacity(wait.len());
        self.keys.encode(&self.key_columns(&rows), wait.len(), |_, key| keys.push(key.into())).map_err(external)?;
        let mut values: BTreeMap<Slot, Vec<u8>> = BTreeMap::new();
        let add = |i: usize, row: &[u8]| {
            let slot = (waiting_pane(table.times[wait[i] as usize]), std::mem::take(&mut keys[i]));
            let value = values.entry(slot).or_default();
            value.extend((row.len() as u32).to_be_bytes());
            value.extend_from_slice(row);
        };
        self.waiting.encode(&columns, wait.len(), add).map_err(external)?;
        closing.store.fetch(values.keys().map(|(pane, key)| (*pane, key.as_ref()))).map_err(external_store)?;
        for ((pane, key), value) in values {
            let before = closing.store.get(pane, &key).map_err(external_store)?.unwrap_or_default();
            waiting.updates.push(Update::new(pane, &key, &[before, &value].concat()));
        }
        Ok(())
    }

    pub(super) fn key_columns(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.plan.keys.iter().map(|k| Arc::clone(rows.column(*k))).collect()
    }

    /// The table's rows by key, without those that wait; `woken` keys have a place even without rows.
    pub(super) fn groups<'a>(
        &self,
        closing: &ProcessClosing<'_>,
        table: &Table,
        woken: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Groups> {
        let count = table.times.len();
        let (mut numbers, mut groups) = (HashTable::with_capacity(count), Groups::default());
        let mut number = |key: &[u8]| -> u32 {
            let hash = closing.store.hash(key);
            let is_it = |number: &u32| groups.hashes[*number as usize] == hash && groups.key(*number as usize) == key;
            if let Some(number) = numbers.find(hash, is_it) {
                return *number;
            }
            let next = groups.len() as u32;
            groups.keys.extend_from_slice(key);
            groups.key_ends.push(groups.keys.len());
            groups.hashes.push(hash);
            numbers.insert_unique(hash, next, |number| groups.hashes[*number as usize]);
            next
        };
        let mut of_row = Vec::with_capacity(count);
        self.keys.encode(&self.key_columns(&table.rows), count, |_, key| of_row.push(number(key))).map_err(external)?;
        woken.for_each(|key| {
            number(key);
        });
        let waits = |row: usize| self.plan.order == Order::EventTime && table.times[row] >= closing.now;
        let mut ends = vec![0; groups.len()];
        for (_, key) in of_row.iter().enumerate().filter(|(row, _)| !waits(*row)) {
            ends[*key as usize] += 1;
        }
        let mut total = 0;
        for end in &mut ends {
            total += std::mem::replace(end, total);
        }
        // Each key's place to write to goes from where its rows start to where they end.
        let mut order = vec![0; total];
        for (row, key) in of_row.iter().enumerate().filter(|(row, _)| !waits(*row)) {
            let at = &mut ends[*key as usize];
            order[*at] = row as u32;
            *at += 1;
        }
        (groups.order, groups.ends) = (order, ends);
        if self.plan.order == Order::EventTime {
            let mut start = 0;
            for end in &groups.ends {
                let by = |row: &u32| (table.times[*row as usize], table.places[*row as usize]);
                groups.order[start..*end].sort_by_key(by);
                start = *end;
            }
        }
        Ok(groups)
    }
}

/// The rows of a slot of waiting rows.
pub(super) fn split(mut value: &[u8], mut each: impl FnMut(&[u8])) -> std::result::Result<(), CodecError> {
    let corrupt = |why: &str| CodecError::Corrupt { what: "waiting rows", why: why.to_owned() };
    while !value.is_empty() {
        let (length, rest) = value.split_at_checked(LENGTH_BYTES).ok_or_else(|| corrupt("a length is cut off"))?;
        let length = length.try_into().map_or(0, u32::from_be_bytes) as usize;
        let (row, rest) = rest.split_at_checked(length).ok_or_else(|| corrupt("a row is cut off"))?;
        each(row);
        value = rest;
    }
    Ok(())
}
