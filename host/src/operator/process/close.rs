//! The close of an epoch of a keyed process: from the state before and the epoch's rows to the slots that change and the rows that come out.
//!
//! **Invariant**: the store is only read; what fails leaves nothing behind.

use super::calls::{Call, Current, Place, Work};
use super::kept::{Kept, armed, decode, encode, has_timers};
use super::rows::{Groups, Table};
use super::{LIVE, ProcessCloser};
use crate::operator::FaultPolicy;
use crate::operator::close::Closed;
use crate::operator::epoch::{RejectedRow, RowError, TaskEpoch};
use crate::operator::isolate::Budget;
use crate::operator::merge::{external, external_store};
use crate::state::store::{Found, Store, Update};
use arrow::array::{ArrayRef, RecordBatch};
use datafusion_common::Result;
use std::collections::HashSet;
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
    /// Of a row: partition and offset. Its record is not kept.
    pub place: Option<(i64, i64)>,
    /// Why.
    pub error: Arc<RowError>,
}

/// What the close of an epoch does.
#[derive(Default)]
pub struct Processed {
    /// What becomes of the table, and the rows of the output `results` where it has no sink of its own.
    pub closed: Closed,
    /// Rows by output, with its schema; of those with a sink of their own.
    pub outputs: Vec<Vec<RecordBatch>>,
    /// Rows at fault, with their task.
    pub rejects: Vec<(usize, RejectedRow)>,
    /// What else was at fault.
    pub set_aside: Vec<SetAside>,
}

/// What keys have to do in a close.
#[derive(Default)]
struct Lives<'t> {
    calls: Vec<Call<'t>>,
    /// Keys whose life ends without a call: no row and no timer is left of it.
    ended: Vec<u32>,
    /// All keys that may change, each once.
    looked: Vec<u32>,
}

/// What is to be stored of some keys.
struct After {
    /// Their numbers.
    keys: Vec<usize>,
    kept: Vec<Kept>,
    /// A column a field of the guest's state.
    states: Vec<ArrayRef>,
}

impl ProcessCloser {
    /// Closes an epoch.
    ///
    /// # Errors
    /// Under [`FaultPolicy::Fail`] the guest's first error; [`CodecError`](crate::state::codec::CodecError) when stored bytes don't read back;
    /// [`SpillError`](crate::state::spill::SpillError) when the disk does not give what is over the memory budget.
    pub fn close(&self, closing: &ProcessClosing<'_>, budget: &mut Budget) -> Result<Processed> {
        let (table, waiting) = self.table(closing)?;
        let woken = self.woken(closing)?;
        let mut groups = self.groups(closing, &table, woken.into_iter())?;
        let found = groups.stored(closing.store)?;
        let stored: Vec<Option<&[u8]>> = found.states().collect();
        let mut rejected = Vec::new();
        let (mut out, after) = loop {
            let (columns, current) = self.current(&stored)?;
            let lives = self.lives(closing, &table, &groups, &current);
            let mut work = Work::new(self, closing, (&table, &groups), columns, current);
            work.run(lives.calls, budget)?;
            lives.ended.iter().for_each(|key| work.end(*key));
            let aside = std::mem::take(&mut work.rejected);
            let rest = self.replanned(closing, &table, &groups, &stored, &aside)?;
            rejected.extend(aside);
            match rest {
                Some(rest) => groups = rest,
                None => break self.after(closing, &groups, &stored, &lives.looked, work)?,
            }
        };
        rejected.into_iter().for_each(|(row, error)| table.reject(row, error, &mut out));
        let set = |i: usize, bytes: &[u8]| {
            let key = after.keys[i];
            if stored[key] != Some(bytes) {
                out.closed.updates.push(Update::new(LIVE, groups.key(key), bytes).at(Some(found.places[key])));
            }
        };
        encode(&self.states, &after.kept, after.states, set).map_err(external)?;
        out.closed.updates.extend(waiting.updates);
        out.closed.removed.extend(waiting.released);
        Ok(out)
    }

    /// What is stored of keys, as columns of the guest's states and key by key.
    fn current(&self, stored: &[Option<&[u8]>]) -> Result<(Vec<ArrayRef>, Vec<Current>)> {
        let found: Vec<&[u8]> = stored.iter().copied().flatten().collect();
        let (kept, columns) = decode(&self.states, &found).map_err(external)?;
        let mut read = kept.into_iter().enumerate();
        let current = stored.iter().map(|slot| match slot.and_then(|_| read.next()) {
            Some((row, kept)) => Current { state: Some((1, row)), kept },
            None => Current { state: None, kept: Kept { touched: i64::MIN, ..Kept::default() } },
        });
        let current = current.collect();
        Ok((columns, current))
    }

    /// A row at fault is as if it had never come, so it keeps no key alive: the rows without those that were set aside, where the lives of their
    /// keys are others then.
    fn replanned(
        &self,
        closing: &ProcessClosing<'_>,
        table: &Table,
        groups: &Groups,
        stored: &[Option<&[u8]>],
        aside: &[(u32, Arc<RowError>)],
    ) -> Result<Option<Groups>> {
        if aside.is_empty() {
            return Ok(None);
        }
        let aside: HashSet<u32> = aside.iter().map(|(row, _)| *row).collect();
        let (_, current) = self.current(stored)?;
        let rest = groups.without(&aside);
        let new = self.lives(closing, table, &rest, &current);
        let looked: HashSet<u32> = new.looked.iter().copied().collect();
        let old = self.lives(closing, table, groups, &current).calls.into_iter().map(|mut call| {
            call.rows = call.rows.iter().copied().filter(|row| !aside.contains(row)).collect();
            call
        });
        // Nothing is left of a key that was only looked at for such rows.
        let old = old.filter(|call| call.ends || !call.rows.is_empty() || looked.contains(&call.key));
        Ok((!old.eq(new.calls)).then_some(rest))
    }

    /// Keys whose timers went off. At the end of the input all event time has passed, but a key lives on by the rows that came: there, beside
    /// those that are due, only those are woken that have timers of the guest's.
    fn woken<'a>(&self, closing: &ProcessClosing<'a>) -> Result<Vec<&'a [u8]>> {
        let store = closing.store;
        let mut woken = store.timers_until(closing.now).map_err(external_store)?;
        if closing.now > closing.reached {
            store.fetch(woken.iter().copied()).map_err(external_store)?;
            let (mut awake, mut timers) = (Vec::new(), woken.iter());
            let each = |found: Found<'_>| {
                let is_awake = |slot: &[u8]| armed(slot).0 <= closing.reached || has_timers(slot);
                awake.extend(timers.next().filter(|_| found.is_some_and(|(slot, _)| is_awake(slot))));
            };
            store.find_all(woken.iter().map(|(pane, key)| (*pane, store.hash(key), *key)), each).map_err(external_store)?;
            woken = awake;
        }
        woken.extend(store.processing_timers_until(closing.time));
        Ok(woken.into_iter().map(|(_, key)| key).collect())
    }

    /// The lives of the keys that have rows or are woken, in the order of keys.
    fn lives<'t>(&self, closing: &ProcessClosing<'_>, table: &Table, groups: &'t Groups, current: &[Current]) -> Lives<'t> {
        let mut lives = Lives::default();
        for (number, now) in current.iter().enumerate() {
            let (key, rows) = (number as u32, groups.rows(number));
            let is_awake = now.state.is_some() && (now.kept.armed <= closing.now || now.kept.armed_processing <= closing.time);
            if rows.is_empty() && !is_awake {
                // A timer that was set and is set no more.
                continue;
            }
            lives.looked.push(key);
            let mut touched = now.state.map(|_| now.kept.touched);
            let (mut start, mut fresh) = (0, false);
            let call = |rows: &'t [u32], until, fresh, ends| Call { key, rows: rows.into(), until, fresh, ends };
            for (i, row) in rows.iter().enumerate() {
                let (time, watermark) = (table.times[*row as usize], table.watermarks[*row as usize]);
                if let Some(end) = touched.map(|t| self.ends(t)).filter(|end| watermark >= *end) {
                    lives.calls.push(call(&rows[start..i], end, fresh, true));
                    (start, fresh, touched) = (i, true, None);
                }
                touched = Some(touched.map_or(time, |t| t.max(time)));
            }
            let end = touched.map_or(i64::MAX, |t| self.ends(t));
            let ends = closing.reached >= end;
            let until = if ends { end.min(closing.now) } else { closing.now };
            if rows.is_empty() && !now.kept.is_due(until, closing.time) {
                lives.ended.extend(ends.then_some(key));
            } else {
                lives.calls.push(call(&rows[start..], until, fresh, ends));
            }
        }
        lives
    }

    /// What the keys that were looked at have come to; `stored` by key.
    fn after(
        &self,
        closing: &ProcessClosing<'_>,
        groups: &Groups,
        stored: &[Option<&[u8]>],
        looked: &[u32],
        mut work: Work<'_>,
    ) -> Result<(Processed, After)> {
        let mut out = std::mem::take(&mut work.out);
        let closed = &mut out.closed;
        let (mut keys, mut places, mut kept): (Vec<usize>, Vec<Place>, Vec<Kept>) = (Vec::new(), Vec::new(), Vec::new());
        for key in looked.iter().map(|key| *key as usize) {
            let name = || Box::from(groups.key(key));
            let Some(place) = work.current[key].state else {
                if stored[key].is_some() {
                    closed.removed_slots.push((LIVE, name()));
                }
                continue;
            };
            let mut now = std::mem::take(&mut work.current[key].kept);
            let wakes = now.event.first().copied().unwrap_or(i64::MAX).min(self.ends(now.touched));
            let wakes_processing = now.processing.first().copied().unwrap_or(i64::MAX);
            (now.armed, now.armed_processing) = (wakes, wakes_processing);
            if let Some((armed, armed_processing)) = stored[key].map(armed) {
                // The timer that is set wakes it in time, if early: then it is set anew.
                if armed <= wakes && armed > closing.reached {
                    now.armed = armed;
                } else {
                    closed.rearmed.push((wakes, LIVE, name()));
                }
                if armed_processing <= wakes_processing && armed_processing > closing.time {
                    now.armed_processing = armed_processing;
                } else if wakes_processing != i64::MAX {
                    closed.rearmed_processing.push((wakes_processing, LIVE, name()));
                }
            }
            keys.push(key);
            places.push(place);
            kept.push(now);
        }
        Ok((out, After { keys, kept, states: work.gather(&places)? }))
    }
}
