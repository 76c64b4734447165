//! The close of count windows: rows numbered over all epochs, windows that are full finished.

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
use datafusion::error::Result;
use std::collections::BTreeMap;

/// Key, partition, number within it, and which row of which partial it is.
type NumberedRow = (Box<[u8]>, i64, i64, usize, usize);
/// Keys with rows in an epoch, and how many.
type Rows = BTreeMap<Box<[u8]>, i64>;

impl Closer {
    /// The panes of the rows of all partials, numbered over all epochs: partition by partition in order, behind the rows a key had before.
    pub(super) fn numbered(&self, count: &Count, store: &Store, partials: &[&Partial]) -> Result<Vec<Vec<PaneId>>> {
        let mut rows: Vec<NumberedRow> = Vec::new();
        for (i, partial) in partials.iter().enumerate() {
            let each = |row: usize, key: &[u8]| {
                let PaneId { start: number, from: partition } = partial.panes[row];
                rows.push((key.into(), partition, number, i, row));
            };
            self.layout.keys.encode(&partial.keys, partial.len(), each).map_err(external)?;
        }
        rows.sort_unstable();
        let mut panes: Vec<Vec<PaneId>> = partials.iter().map(|p| p.panes.clone()).collect();
        let mut last: Option<(&[u8], i64)> = None;
        for (key, _, _, partial, row) in &rows {
            let number = match last {
                Some((of, number)) if of == key.as_ref() => number + 1,
                _ => total(store, key)?,
            };
            panes[*partial][*row] = count.pane(number);
            last = Some((key, number));
        }
        Ok(panes)
    }

    pub(super) fn close_counts(
        &self,
        count: &Count,
        closing: &Closing<'_>,
        updates: Vec<Update>,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let ended = closing.now == i64::MAX;
        let mut rows_of = Rows::new();
        for partial in closing.partials {
            let each = |_: usize, key: &[u8]| *rows_of.entry(key.into()).or_default() += 1;
            self.layout.keys.encode(&partial.keys, partial.len(), each).map_err(external)?;
        }
        if ended {
            for entry in closing.store.sorted(TOTAL) {
                rows_of.entry(entry.map_err(external_store)?.0.as_ref().into()).or_default();
            }
        }
        let view = View::new(closing.store, &updates);
        let mut rows = Vec::new();
        let mut gone = std::collections::HashSet::new();
        let mut totals = Vec::new();
        for (key, added) in &rows_of {
            let before = total(closing.store, key)?;
            let after = before + added;
            for (start, end) in count.full(before, after, ended) {
                rows.extend(window_row(key, view.states(count.panes(start, end), key)?)?);
            }
            let done: Vec<PaneId> = match ended {
                true => count.panes(count.full(before, before + 1, true).first().map_or(0, |w| w.0), after).collect(),
                false => count.done(before, after).collect(),
            };
            gone.extend(done.into_iter().map(|pane| (pane, key.clone())));
            if ended || count.begins_anew(after) {
                gone.insert((TOTAL, key.clone()));
            } else {
                totals.push(Update { pane: TOTAL, key: key.clone(), state: after.to_le_bytes().into() });
            }
        }
        self.finish(&rows, true, closing.policy, budget, closed)?;
        drop((rows, view));
        closed.updates = updates;
        closed.updates.extend(totals);
        closed.updates.retain(|u| !gone.contains(&(u.pane, u.key.clone())));
        closed.removed_slots = stored(closing.store, gone.into_iter())?;
        Ok(())
    }
}

/// Those of the slots that are stored, in order.
pub(super) fn stored(store: &Store, slots: impl Iterator<Item = Slot>) -> Result<Vec<Slot>> {
    let mut slots: Vec<Slot> = slots.collect();
    slots.sort_unstable();
    store.fetch(&slots).map_err(external_store)?;
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

/// How many rows a key has had.
fn total(store: &Store, key: &[u8]) -> Result<i64> {
    let Some(state) = store.get(TOTAL, key).map_err(external_store)? else { return Ok(0) };
    let corrupt = || CodecError::Corrupt { what: "state", why: format!("a number of rows has {} bytes", state.len()) };
    Ok(i64::from_le_bytes(state.try_into().map_err(|_| external(corrupt()))?))
}
