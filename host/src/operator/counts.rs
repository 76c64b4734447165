//! The close of count windows: rows numbered over all epochs, windows that are full finished, keys that are idle forgotten.

use crate::operator::assigner::count::{Count, TOTAL};
use crate::operator::close::{Closed, Closer, Closing};
use crate::operator::fold::Partial;
use crate::operator::isolate::Budget;
use crate::operator::merge::{external, external_store};
use crate::operator::results::WindowRow;
use crate::operator::sessions::slice;
use crate::operator::view::View;
use crate::state::codec::CodecError;
use crate::state::store::{PaneId, Slot, Store, Update};
use arrow::array::AsArray;
use arrow::datatypes::TimestampMillisecondType;
use datafusion_common::Result;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Key, partition, number within it, and which row of which partial it is.
type NumberedRow = (Box<[u8]>, i64, i64, usize, usize);

/// What is known of a key's rows so far: the state of [`TOTAL`]. Little-endian, 64 bits each; only the first where no key is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Number of the next row.
    pub total: i64,
    /// Number of the key's first row since it began anew.
    pub base: i64,
    /// Greatest event time.
    pub last: i64,
}

impl Tally {
    const NONE: Self = Self { total: 0, base: 0, last: i64::MIN };

    /// Reads the state of [`TOTAL`].
    ///
    /// # Errors
    /// [`CodecError::Corrupt`] when it has another length.
    pub fn read(state: &[u8]) -> std::result::Result<Self, CodecError> {
        let at = |i: usize| state.get(i * 8..).and_then(|s| s.first_chunk()).map_or(0, |b| i64::from_le_bytes(*b));
        match state.len() {
            8 => Ok(Self { total: at(0), ..Self::NONE }),
            24 => Ok(Self { total: at(0), base: at(1), last: at(2) }),
            other => Err(CodecError::Corrupt { what: "state", why: format!("a number of rows has {other} bytes") }),
        }
    }

    fn write(&self, count: &Count) -> Box<[u8]> {
        if count.forgets() {
            [self.total, self.base, self.last].map(i64::to_le_bytes).concat().into()
        } else {
            self.total.to_le_bytes().into()
        }
    }
}

/// The timer of a new slot: when its key is forgotten.
pub(super) fn first_timer(count: &Count, pane: PaneId, state: &[u8]) -> Option<i64> {
    // A state that can't be read is looked at with the next epoch, and told.
    (pane == TOTAL).then(|| Tally::read(state).map_or(i64::MIN, |tally| count.ends_at(tally.last)))
}

/// Rows of a key in an epoch between which it did not begin anew, by their numbers: `from..to`.
struct Run {
    base: i64,
    from: i64,
    to: i64,
}

/// A key's rows in an epoch; the last of the runs goes on, unless the key is idle.
struct Rows {
    runs: Vec<Run>,
    last: i64,
}

impl Rows {
    fn of(store: &Store, key: &[u8]) -> Result<Self> {
        let Tally { total, base, last } = match store.get(TOTAL, key).map_err(external_store)? {
            Some(state) => Tally::read(state).map_err(external)?,
            None => Tally::NONE,
        };
        Ok(Self { runs: vec![Run { base, from: total, to: total }], last })
    }

    /// The number of the next row, which makes the watermark `since` and is of event time `time`.
    fn next(&mut self, count: &Count, since: i64, time: i64) -> i64 {
        let is_first = self.last == i64::MIN;
        let Some(run) = self.runs.last_mut() else { return 0 };
        let number = if count.forgets() && !is_first && count.ends_at(self.last) <= since {
            let base = count.base(run.to);
            self.runs.push(Run { base, from: base, to: base + 1 });
            base
        } else {
            run.to += 1;
            run.to - 1
        };
        self.last = self.last.max(time);
        number
    }
}

/// The rows of an epoch by key.
type RowsByKey = BTreeMap<Box<[u8]>, Rows>;

impl Closer {
    /// Numbers the rows of all partials over all epochs, partition by partition in order, behind the rows a key had before; gives the partials
    /// with the panes of these numbers.
    fn numbered(&self, count: &Count, store: &Store, partials: &[&Partial]) -> Result<(Vec<Partial>, RowsByKey)> {
        let mut rows: Vec<NumberedRow> = Vec::new();
        for (i, partial) in partials.iter().enumerate() {
            let each = |row: usize, key: &[u8]| {
                let PaneId { start: number, from: partition } = partial.panes[row];
                rows.push((key.into(), partition, number, i, row));
            };
            self.layout.keys.encode(&partial.keys, partial.len(), each).map_err(external)?;
        }
        rows.sort_unstable();
        let mut numbered: Vec<Partial> =
            partials.iter().map(|p| Partial { panes: p.panes.clone(), keys: p.keys.clone(), states: p.states.clone() }).collect();
        let mut by_key = RowsByKey::new();
        let totals = rows.chunk_by(|a, b| a.0 == b.0).map(|group| (TOTAL, group[0].0.as_ref()));
        store.fetch(totals).map_err(external_store)?;
        for group in rows.chunk_by(|a, b| a.0 == b.0) {
            let key = &group[0].0;
            let mut of_key = Rows::of(store, key)?;
            for (_, _, _, partial, row) in group {
                let states = &partials[*partial].states;
                // The least watermark that rows made (where keys are forgotten), the least event time, the greatest.
                let time =
                    |from_end: usize| states[states.len() - from_end].as_primitive::<TimestampMillisecondType>().value(*row);
                let since = if count.forgets() { time(3) } else { i64::MIN };
                numbered[*partial].panes[*row] = count.pane(of_key.next(count, since, time(1)));
            }
            by_key.insert(key.clone(), of_key);
        }
        Ok((numbered, by_key))
    }

    pub(super) fn close_counts(
        &self,
        count: &Count,
        closing: &Closing<'_>,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let (numbered, mut rows_of) = self.numbered(count, closing.store, closing.partials)?;
        let partials: Vec<&Partial> = numbered.iter().collect();
        let closing = &Closing { partials: &partials, ..*closing };
        let Some(updates) = self.merge_panes(closing, budget, closed)? else { return Ok(()) };
        let ended = closing.now == i64::MAX;
        let went_off = closing.store.timers_until(closing.now).map_err(external_store)?;
        let went_off: BTreeSet<Box<[u8]>> = went_off.into_iter().map(|(_, key)| key.into()).collect();
        let mut idle: Vec<Slot> = went_off.iter().map(|key| (TOTAL, key.clone())).collect();
        if ended {
            for entry in closing.store.sorted(TOTAL) {
                idle.push((TOTAL, entry.map_err(external_store)?.0.as_ref().into()));
            }
        }
        idle.retain(|(_, key)| !rows_of.contains_key(key));
        for (_, key) in stored(closing.store, idle.into_iter())? {
            let rows = Rows::of(closing.store, &key)?;
            rows_of.insert(key, rows);
        }
        let view = View::new(closing.store, &updates);
        let mut windows = Vec::new();
        let mut gone: HashSet<Slot> = HashSet::new();
        let mut totals = Vec::new();
        for (key, rows) in &rows_of {
            let is_idle = count.forgets() && count.ends_at(rows.last) <= closing.reached;
            for (i, run) in rows.runs.iter().enumerate() {
                let is_over = i + 1 < rows.runs.len() || is_idle;
                closed.expired += u64::from(is_over);
                for (start, end) in count.full(run.from, run.to, ended && !is_over) {
                    let panes = count.panes(start.max(run.base), end);
                    windows.extend(window_row(key, view.states(panes, key)?)?);
                }
                gone.extend(count.done(run.from, run.to).map(|pane| (pane, key.clone())));
                if is_over || ended {
                    gone.extend(count.held(run.base, run.to).map(|pane| (pane, key.clone())));
                }
            }
            let Some(Run { base, to: total, .. }) = rows.runs.last() else { continue };
            if ended || is_idle || count.begins_anew(*total) {
                gone.insert((TOTAL, key.clone()));
                continue;
            }
            let tally = Tally { total: *total, base: *base, last: rows.last };
            totals.push(Update::new(TOTAL, key, &tally.write(count)));
            if went_off.contains(key) {
                closed.rearmed.push((count.ends_at(rows.last), TOTAL, key.clone()));
            }
        }
        self.finish(&windows, true, closing.policy, budget, closed)?;
        drop((windows, view));
        closed.updates = updates;
        closed.updates.extend(totals);
        closed.updates.retain(|u| !gone.contains(&(u.pane, u.key().into())));
        closed.removed_slots = stored(closing.store, gone.into_iter())?;
        closed.rearmed.sort_unstable();
        Ok(())
    }
}

/// Those of the slots that are stored, in order.
pub(super) fn stored(store: &Store, slots: impl Iterator<Item = Slot>) -> Result<Vec<Slot>> {
    let mut slots: Vec<Slot> = slots.collect();
    slots.sort_unstable();
    store.fetch(slots.iter().map(|(pane, key)| (*pane, key.as_ref()))).map_err(external_store)?;
    let known = |slot: Slot| store.has(slot.0, &slot.1).map(|has| has.then_some(slot)).transpose();
    slots.into_iter().filter_map(known).collect::<std::result::Result<_, _>>().map_err(external_store)
}

/// A window from its first row's time to just behind its last one's.
fn window_row<'a>(key: &'a [u8], states: Vec<&'a [u8]>) -> Result<Option<WindowRow<'a>>> {
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    for state in &states {
        let bounds = slice(TOTAL, state)?;
        (first, last) = (first.min(bounds.min), last.max(bounds.max));
    }
    Ok((!states.is_empty()).then_some(WindowRow { key, start: first, end: last.saturating_add(1), states }))
}
