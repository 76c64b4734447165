//! The close of windows that are the same for all keys: which are due, which have changed, and the slots that they are the merge of.

use crate::config::spec::Emit;
use crate::operator::assigner::{Aligned, Assigner, is_done, windows_of};
use crate::operator::blocks::Blocks;
use crate::operator::close::{Closed, Closer, Closing};
use crate::operator::isolate::Budget;
use crate::operator::results::WindowRow;
use crate::operator::view::View;
use crate::state::store::{PaneId, Update};
use ahash::RandomState;
use datafusion::error::Result;
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
        let first = windows.first_open(least.start, closing.before);
        let is_due = windows.closes_at(first) <= now;
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
            let rows = match grid {
                Some((pane, offset)) if (end - start) / pane > PANES_WITHOUT_BLOCKS => {
                    let indices = (start - offset) / pane..(end - offset) / pane;
                    let source = |index: i64| {
                        let start = index * pane + offset;
                        PaneId { start, from: windows.first(start) }
                    };
                    blocks.forget_before(indices.start);
                    blocks.prepare(
                        indices.clone(),
                        &|groups| self.layout.combine(&self.window, groups),
                        &source,
                        view,
                        closing.policy,
                    )?;
                    let mut by_key: HashMap<&[u8], Vec<&[u8]>, RandomState> = HashMap::default();
                    blocks.collect(indices, &source, view, &mut |key, state| by_key.entry(key).or_default().push(state));
                    let late = partly_late.iter().filter(|p| start <= p.start && p.start < end && p.from <= window);
                    for (key, state) in late.flat_map(|p| view.entries(*p)) {
                        by_key.entry(key).or_default().push(state);
                    }
                    sorted(by_key, start, end)
                }
                _ => {
                    let mut panes = view.panes(PaneId::range(start, end - 1));
                    panes.retain(|p| p.from <= window);
                    rows_of(view, &panes, start, end)
                }
            };
            self.finish(&rows, true, closing.policy, budget, closed)?;
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
                changed.entry(*window).or_default().insert(&update.key);
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
            let states = |key: &[u8]| panes.iter().filter_map(|p| view.get(*p, key)).collect();
            let rows: Vec<WindowRow<'_>> =
                keys.into_iter().map(|key| WindowRow { key, start, end, states: states(key) }).collect();
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
fn rows_of<'a>(view: &View<'a>, panes: &[PaneId], start: i64, end: i64) -> Vec<WindowRow<'a>> {
    if let [pane] = panes {
        let mut rows: Vec<_> =
            view.entries(*pane).map(|(key, state)| WindowRow { key, start, end, states: vec![state] }).collect();
        rows.sort_unstable_by_key(|r| r.key);
        return rows;
    }
    let mut by_key: HashMap<&[u8], Vec<&[u8]>, RandomState> = HashMap::default();
    for (key, state) in panes.iter().flat_map(|p| view.entries(*p)) {
        by_key.entry(key).or_default().push(state);
    }
    sorted(by_key, start, end)
}

fn sorted<'a>(by_key: HashMap<&'a [u8], Vec<&'a [u8]>, RandomState>, start: i64, end: i64) -> Vec<WindowRow<'a>> {
    let mut rows: Vec<_> = by_key.into_iter().map(|(key, states)| WindowRow { key, start, end, states }).collect();
    rows.sort_unstable_by_key(|r| r.key);
    rows
}
