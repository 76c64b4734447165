//! The close of windows that are the same for all keys: which are due, which have changed, and the slots that they are the merge of.

use crate::config::spec::Emit;
use crate::operator::FaultPolicy;
use crate::operator::assigner::{Aligned, Assigner, is_done, windows_of};
use crate::operator::blocks::Blocks;
use crate::operator::close::{Closed, Closer, Closing};
use crate::operator::isolate::Budget;
use crate::operator::merge::external_store;
use crate::operator::results::{RESULT_ROWS, WindowRow};
use crate::operator::view::{Merged, View};
use crate::state::store::{PaneId, Update};
use ahash::RandomState;
use datafusion_common::Result;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Windows of more panes than this are merged from blocks of panes.
const PANES_WITHOUT_BLOCKS: i64 = 8;

impl Closer {
    pub(super) fn close_aligned(
        &self,
        windows: &dyn Aligned,
        closing: &Closing<'_>,
        updates: Vec<Update>,
        blocks: &mut Blocks,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let (store, now) = (closing.store, closing.now);
        let least = updates.iter().map(|u| u.pane).chain(store.panes().next()).min();
        let Some(least) = least else { return Ok(()) };
        let is_owed = is_done(windows, least, closing.before);
        let first = if is_owed { windows.first(least.start) } else { windows.first_open(least.start, closing.before) };
        let is_due = windows.closes_at(first) <= now;
        if is_due && self.must_wait(windows, closing, least, updates.len()) {
            if self.window.is_speculative() {
                let view = View::new(store, &updates);
                self.give_changed(windows, closing, &view, &updates, budget, closed)?;
            }
            self.finish_part(windows, closing, &updates, budget, closed)?;
            closed.updates = updates;
            return Ok(());
        }
        if is_due || self.window.is_speculative() {
            let view = View::new(store, &updates);
            if self.window.is_speculative() {
                self.give_changed(windows, closing, &view, &updates, budget, closed)?;
            }
            if is_due {
                self.finish_due(windows, closing, &view, first, blocks, budget, closed)?;
            }
        }
        closed.removed = store.panes().take_while(|p| is_done(windows, *p, now)).collect();
        closed.updates = updates;
        if is_due {
            closed.updates.retain(|u| !is_done(windows, u.pane, now));
        }
        Ok(())
    }

    /// Whether more results are due than one epoch gives, of windows that can be taken off in parts: a pane's slots are in one window, so a
    /// slot is removed with its result, and what is left says what is owed. What must not see rows again once it has closed is known
    /// by the watermark; there is none over processing time that outlives the input, nor of global windows.
    fn must_wait(&self, windows: &dyn Aligned, closing: &Closing<'_>, least: PaneId, updates: usize) -> bool {
        let window = windows.first(least.start);
        let is_single = window == windows.last(least.start) && windows.bounds(window) == windows.pane(least.start);
        if !is_single || self.window.processing_time || windows.last_close(least.start).is_none() {
            return false;
        }
        let due = closing.store.panes().take_while(|p| is_done(windows, *p, closing.now));
        due.map(|p| closing.store.pane_slots(p)).sum::<usize>() + updates > closing.results_max
    }

    /// Finishes as many stored slots of closed windows as an epoch gives; those that the epoch changes wait too.
    fn finish_part(
        &self,
        windows: &dyn Aligned,
        closing: &Closing<'_>,
        updates: &[Update],
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let changed: HashSet<(PaneId, &[u8]), RandomState> = updates.iter().map(|u| (u.pane, u.key())).collect();
        let mut left = closing.results_max;
        for pane in closing.store.panes().take_while(|p| is_done(windows, *p, closing.now)) {
            let part = closing.store.some(pane, left, &|key| changed.contains(&(pane, key))).map_err(external_store)?;
            left -= part.slots.len();
            let window = windows.first(pane.start);
            let (start, end) = windows.bounds(window);
            let rows = sorted(part.slots.iter().map(|(key, state)| (*key, vec![*state])).collect(), start, end);
            self.finish(&rows, true, closing.policy, budget, closed)?;
            closed.removed_slots.extend(part.slots.iter().map(|(key, _)| (pane, Box::from(*key))));
            closed.taken.extend(part.next.map(|key| (pane, key)));
            if self.window.is_speculative() {
                closed.emission.given.push(window);
            }
            if left == 0 {
                break;
            }
        }
        closed.removed_slots.sort_unstable();
        closed.owes = true;
        Ok(())
    }

    /// Finishes the windows from `window` on that the watermark has closed.
    #[expect(clippy::too_many_arguments, reason = "the parts of one close; a struct for them would have this one use")]
    fn finish_due(
        &self,
        windows: &dyn Aligned,
        closing: &Closing<'_>,
        view: &View<'_>,
        mut window: i64,
        blocks: &mut Blocks,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let grid = windows.grid();
        // Of rows that came when some of their windows had closed: few.
        let mut partly_late = Vec::new();
        if grid.is_some() {
            partly_late = view.panes(PaneId::range(i64::MIN, i64::MAX));
            partly_late.retain(|p| p.from != windows.first(p.start));
        }
        while windows.closes_at(window) <= closing.now {
            let (start, end) = windows.bounds(window);
            match view.pane_from(start) {
                Some(pane) if pane.start < end => {}
                // Nothing in it: on to the first window that has something.
                Some(pane) => match windows.next(window).max(windows.first(pane.start)) {
                    next if next > window => {
                        window = next;
                        continue;
                    }
                    _ => break,
                },
                None => break,
            }
            self.finish_window(windows, closing, view, window, &partly_late, blocks, budget, closed)?;
            if self.window.is_speculative() {
                closed.emission.given.push(window);
            }
            match windows.next(window) {
                next if next > window => window = next,
                _ => break,
            }
        }
        Ok(())
    }

    /// Finishes one window; `partly_late` has the panes of rows that came when some of their windows had closed.
    #[expect(clippy::too_many_arguments, reason = "the parts of one close; a struct for them would have this one use")]
    fn finish_window(
        &self,
        windows: &dyn Aligned,
        closing: &Closing<'_>,
        view: &View<'_>,
        window: i64,
        partly_late: &[PaneId],
        blocks: &mut Blocks,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let (start, end) = windows.bounds(window);
        let (pane, offset) = match windows.grid() {
            Some((pane, offset)) if (end - start) / pane > PANES_WITHOUT_BLOCKS => (pane, offset),
            _ => {
                let mut panes = view.panes(PaneId::range(start, end - 1));
                panes.retain(|p| p.from <= window);
                if panes.iter().any(|p| view.is_cold(*p)) {
                    let merged = Merged::new(panes.iter().map(|p| view.sorted(*p)).collect());
                    return self.finish_merged(merged, (start, end), closing.policy, budget, closed);
                }
                return self.finish(&rows_of(view, &panes, start, end)?, true, closing.policy, budget, closed);
            }
        };
        let indices = (start - offset) / pane..(end - offset) / pane;
        let source = |index: i64| {
            let start = index * pane + offset;
            PaneId { start, from: windows.first(start) }
        };
        blocks.forget_before(indices.start);
        let combine = |groups: &[Vec<&[u8]>]| self.layout.combine(&self.window, groups);
        blocks.prepare(indices.clone(), &combine, &source, view, closing.policy)?;
        let late = partly_late.iter().filter(|p| start <= p.start && p.start < end && p.from <= window);
        let late: Vec<PaneId> = late.copied().collect();
        if blocks.has_cold(indices.clone(), &source, view) || late.iter().any(|p| view.is_cold(*p)) {
            let mut sources = Vec::new();
            blocks.sources(indices, &source, view, &mut sources);
            sources.extend(late.iter().map(|p| view.sorted(*p)));
            return self.finish_merged(Merged::new(sources), (start, end), closing.policy, budget, closed);
        }
        let mut by_key = ByKey::default();
        blocks.collect(indices, &source, view, &mut |key, state| by_key.entry(key).or_default().push(state))?;
        add_entries(view, &late, &mut by_key)?;
        self.finish(&sorted(by_key, start, end), true, closing.policy, budget, closed)
    }

    /// Finishes a window whose slots are on disk in part: so many keys at a time that their states need not be in memory all at once.
    fn finish_merged(
        &self,
        mut merged: Merged<'_>,
        (start, end): (i64, i64),
        policy: FaultPolicy,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        loop {
            let chunk = merged.by_ref().take(RESULT_ROWS).collect::<std::result::Result<Vec<_>, _>>().map_err(external_store)?;
            if chunk.is_empty() {
                return Ok(());
            }
            let row = |(key, states)| WindowRow { key, start, end, states };
            let rows = chunk.iter().map(|(key, states)| (key.as_ref(), states.iter().map(AsRef::as_ref).collect())).map(row);
            self.finish(&rows.collect::<Vec<_>>(), true, policy, budget, closed)?;
        }
    }

    /// Gives the results that have changed, of windows that are open: those whose time it is.
    fn give_changed(
        &self,
        windows: &dyn Aligned,
        closing: &Closing<'_>,
        view: &View<'_>,
        updates: &[Update],
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let mut changed: BTreeMap<i64, BTreeSet<&[u8]>> = BTreeMap::new();
        let mut of_pane: HashMap<PaneId, Vec<i64>, RandomState> = HashMap::default();
        for update in updates {
            let open = of_pane.entry(update.pane).or_insert_with(|| self.changed_windows(update.pane, closing.now));
            for window in open.iter() {
                changed.entry(*window).or_default().insert(update.key());
            }
        }
        let is_given = |window: i64| match self.window.emit {
            Emit::OnUpdate => true,
            _ => closing.is_firing || windows.bounds(window).1 <= closing.now,
        };
        // What waits for its time, and need not wait any longer.
        for (window, keys) in closing.emission.changed() {
            if windows.closes_at(window) > closing.now && is_given(window) {
                changed.entry(window).or_default().extend(keys.iter().map(AsRef::as_ref));
            }
        }
        for (window, keys) in changed {
            if !is_given(window) {
                closed.emission.changed.extend(keys.into_iter().map(|k| (window, k.into())));
                continue;
            }
            let (start, end) = windows.bounds(window);
            let mut panes = view.panes(PaneId::range(start, end - 1));
            panes.retain(|p| p.from <= window);
            let row = |key| Ok(WindowRow { key, start, end, states: view.states(panes.iter().copied(), key)? });
            let rows = keys.into_iter().map(row).collect::<Result<Vec<_>>>()?;
            self.finish(&rows, false, closing.policy, budget, closed)?;
            closed.emission.given.push(window);
        }
        Ok(())
    }

    /// Open windows over a pane; of sessions the start of the slice, which stands for the sessions that it is in; 0 for a key's lives.
    pub(super) fn changed_windows(&self, pane: PaneId, now: i64) -> Vec<i64> {
        match &self.assigner {
            Assigner::Session(_) => vec![pane.start],
            Assigner::Count(_) => Vec::new(),
            Assigner::Idle(_) => vec![super::idle::CHANGED],
            Assigner::Aligned(windows) if is_done(windows.as_ref(), pane, now) => Vec::new(),
            Assigner::Aligned(windows) => {
                let from = pane.from.max(windows.first_open(pane.start, now));
                windows_of(windows.as_ref(), PaneId { start: pane.start, from }).collect()
            }
        }
    }
}

/// The rows of a window over some panes, by key.
fn rows_of<'a>(view: &View<'a>, panes: &[PaneId], start: i64, end: i64) -> Result<Vec<WindowRow<'a>>> {
    if let [pane] = panes {
        let mut rows: Vec<_> =
            view.entries(*pane)?.map(|(key, state)| WindowRow { key, start, end, states: vec![state] }).collect();
        rows.sort_unstable_by_key(|r| r.key);
        return Ok(rows);
    }
    let mut by_key = ByKey::default();
    add_entries(view, panes, &mut by_key)?;
    Ok(sorted(by_key, start, end))
}

/// Keys with their states.
type ByKey<'a> = HashMap<&'a [u8], Vec<&'a [u8]>, RandomState>;

fn add_entries<'a>(view: &View<'a>, panes: &[PaneId], by_key: &mut ByKey<'a>) -> Result<()> {
    for pane in panes {
        view.entries(*pane)?.for_each(|(key, state)| by_key.entry(key).or_default().push(state));
    }
    Ok(())
}

fn sorted<'a>(by_key: ByKey<'a>, start: i64, end: i64) -> Vec<WindowRow<'a>> {
    let mut rows: Vec<_> = by_key.into_iter().map(|(key, states)| WindowRow { key, start, end, states }).collect();
    rows.sort_unstable_by_key(|r| r.key);
    rows
}
