//! The close of an epoch of a keyed process: from the state before and the epoch's rows to the slots that change and the rows that come out.
//!
//! **Invariant**: the store is only read; what fails leaves nothing behind.

use super::calls::{Call, Current, Place, Work};
use super::kept::{Kept, decode, encode};
use super::rows::{Groups, Table};
use super::{LIVE, ProcessCloser};
use crate::operator::FaultPolicy;
use crate::operator::epoch::{RejectedRow, RowError, TaskEpoch};
use crate::operator::isolate::Budget;
use crate::operator::merge::{external, external_store};
use crate::state::store::{PaneId, Slot, Store, Update};
use arrow::array::RecordBatch;
use datafusion::error::Result;
use std::sync::Arc;

/// An epoch to be closed.
pub struct ProcessClosing<'a> {
    /// The state before the epoch.
    pub store: &'a Store,
    /// Its tasks.
    pub tasks: &'a [TaskEpoch],
    /// For each partition the least watermark of the others at the start of the epoch; [`i64::MAX`] where none holds it back.
    pub others: &'a [i64],
    /// Watermark that the epoch before has reached.
    pub before: i64,
    /// Watermark now; [`i64::MAX`] where the input has ended.
    pub now: i64,
    /// The same, but where the input has ended: the greatest that its rows have made.
    pub reached: i64,
    /// Processing time, milliseconds since 1970 UTC.
    pub time: i64,
    /// What to do with faults.
    pub policy: FaultPolicy,
}

/// Something at fault that is no record of the epoch: a row that waited, timers.
pub struct SetAside {
    /// What, for people.
    pub what: String,
    /// Why.
    pub error: Arc<RowError>,
}

/// What the close of an epoch does.
#[derive(Default)]
pub struct Processed {
    /// Slots to set.
    pub updates: Vec<Update>,
    /// Panes to remove: of rows that wait no longer.
    pub removed: Vec<PaneId>,
    /// Slots to remove.
    pub removed_slots: Vec<Slot>,
    /// When the watermark wakes slots that are there already.
    pub rearmed: Vec<(i64, PaneId, Box<[u8]>)>,
    /// When processing time wakes slots that are there already.
    pub rearmed_processing: Vec<(i64, PaneId, Box<[u8]>)>,
    /// Rows by output, with its schema.
    pub outputs: Vec<Vec<RecordBatch>>,
    /// Rows at fault, with their task.
    pub rejects: Vec<(usize, RejectedRow)>,
    /// What else was at fault.
    pub set_aside: Vec<SetAside>,
    /// Lives that ended.
    pub expired: u64,
}

/// What is stored of the keys of a close.
struct Stored<'a> {
    /// Bytes by key; none where it has no slot.
    slots: Vec<Option<&'a [u8]>>,
    kept: Vec<Kept>,
}

impl ProcessCloser {
    /// Closes an epoch.
    ///
    /// # Errors
    /// Under [`FaultPolicy::Fail`] the guest's first error; [`CodecError`](crate::state::codec::CodecError) when stored bytes don't read back;
    /// [`SpillError`](crate::state::spill::SpillError) when the disk does not give what is over the memory budget.
    pub fn close(&self, closing: &ProcessClosing<'_>, budget: &mut Budget) -> Result<Processed> {
        let (table, waiting) = self.table(closing)?;
        let store = closing.store;
        let woken = store.timers_until(closing.now).map_err(external_store)?.into_iter().map(|(_, key)| key);
        let by_time = store.processing_timers_until(closing.time).into_iter().map(|(_, key)| key);
        let groups = self.groups(closing, &table, woken.chain(by_time))?;
        let slots: Vec<Slot> = groups.keys.iter().map(|key| (LIVE, key.clone())).collect();
        store.fetch(&slots).map_err(external_store)?;
        let mut stored = Stored { slots: Vec::with_capacity(slots.len()), kept: Vec::new() };
        for (pane, key) in &slots {
            stored.slots.push(store.get(*pane, key).map_err(external_store)?);
        }
        let (kept, columns) = decode(&self.states, stored.slots.iter().flatten().copied()).map_err(external)?;
        let mut read = kept.iter().cloned().enumerate();
        let current = stored.slots.iter().map(|slot| match slot.and_then(|_| read.next()) {
            Some((row, kept)) => Current { state: Some((1, row)), kept },
            None => Current { state: None, kept: Kept { touched: i64::MIN, ..Kept::default() } },
        });
        let current: Vec<Current> = current.collect();
        stored.kept = kept;
        let calls = self.lives(closing, &table, &groups, &current);
        let looked: Vec<u32> = calls.iter().map(|call| call.key).collect();
        let mut work = Work::new(self, closing, (&table, &groups), columns, current);
        work.run(calls, budget)?;
        self.changes(closing, &groups, &stored, looked, work).map(|mut out| {
            out.updates.extend(waiting.updates);
            out.removed.extend(waiting.released);
            out
        })
    }

    /// The lives of the keys that have rows or are woken, in the order of keys.
    fn lives<'t>(&self, closing: &ProcessClosing<'_>, table: &Table, groups: &'t Groups, current: &[Current]) -> Vec<Call<'t>> {
        let ttl = i64::try_from(self.plan.ttl.as_millis()).unwrap_or(i64::MAX);
        let mut calls = Vec::with_capacity(groups.keys.len());
        for (key, now) in current.iter().enumerate() {
            let rows = groups.rows(key);
            let is_awake = now.state.is_some() && (now.kept.armed <= closing.now || now.kept.armed_processing <= closing.time);
            if rows.is_empty() && !is_awake {
                // A timer that was set and is set no more.
                continue;
            }
            let mut touched = now.state.map(|_| now.kept.touched);
            let (mut start, mut fresh) = (0, false);
            let call = |rows: &'t [u32], until, fresh, ends| Call { key: key as u32, rows: rows.into(), until, fresh, ends };
            for (i, row) in rows.iter().enumerate() {
                let (time, watermark) = (table.times[*row as usize], table.watermarks[*row as usize]);
                if let Some(end) = touched.map(|t| t.saturating_add(ttl)).filter(|end| watermark >= *end) {
                    calls.push(call(&rows[start..i], end, fresh, true));
                    (start, fresh, touched) = (i, true, None);
                }
                touched = Some(touched.map_or(time, |t| t.max(time)));
            }
            let end = touched.map_or(i64::MAX, |t| t.saturating_add(ttl));
            let ends = closing.reached >= end;
            calls.push(call(&rows[start..], if ends { end.min(closing.now) } else { closing.now }, fresh, ends));
        }
        calls
    }

    /// What is to be stored of the keys that were looked at.
    fn changes(
        &self,
        closing: &ProcessClosing<'_>,
        groups: &Groups,
        stored: &Stored<'_>,
        mut looked: Vec<u32>,
        mut work: Work<'_>,
    ) -> Result<Processed> {
        looked.dedup();
        let ttl = i64::try_from(self.plan.ttl.as_millis()).unwrap_or(i64::MAX);
        let mut out = std::mem::take(&mut work.out);
        let mut rows_of_stored = vec![0; stored.slots.len()];
        for (row, (key, _)) in stored.slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).enumerate() {
            rows_of_stored[key] = row;
        }
        let (mut keys, mut places, mut kept): (Vec<u32>, Vec<Place>, Vec<Kept>) = (Vec::new(), Vec::new(), Vec::new());
        for key in looked {
            let number = key as usize;
            let name = || groups.keys[number].clone();
            let slot = stored.slots[number];
            let Some(place) = work.current[number].state else {
                if slot.is_some() {
                    out.removed_slots.push((LIVE, name()));
                }
                continue;
            };
            let mut now = std::mem::take(&mut work.current[number].kept);
            let wakes = now.event.first().copied().unwrap_or(i64::MAX).min(now.touched.saturating_add(ttl));
            let wakes_processing = now.processing.first().copied().unwrap_or(i64::MAX);
            (now.armed, now.armed_processing) = (wakes, wakes_processing);
            if slot.is_some() {
                let old = &stored.kept[rows_of_stored[number]];
                // The timer that is set wakes it in time, if early: then it is set anew.
                if old.armed <= wakes && old.armed > closing.now {
                    now.armed = old.armed;
                } else {
                    out.rearmed.push((wakes, LIVE, name()));
                }
                if old.armed_processing <= wakes_processing && old.armed_processing > closing.time {
                    now.armed_processing = old.armed_processing;
                } else if wakes_processing != i64::MAX {
                    out.rearmed_processing.push((wakes_processing, LIVE, name()));
                }
            }
            keys.push(key);
            places.push(place);
            kept.push(now);
        }
        let states = work.gather(&places)?;
        let set = |i: usize, bytes: Vec<u8>| {
            let key = keys[i] as usize;
            if stored.slots[key] != Some(bytes.as_slice()) {
                out.updates.push(Update { pane: LIVE, key: groups.keys[key].clone(), state: bytes.into() });
            }
        };
        encode(&self.states, &kept, states, set).map_err(external)?;
        Ok(out)
    }
}
