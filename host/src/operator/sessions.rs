//! The close of sessions: slices of a key chained, finished where the watermark has passed, given early where they changed.
//!
//! A slot's timer goes off when a session that ends with it could close. The last slice of a session keeps its timer set for when the session
//! closes as things are; those before it need none.

use crate::config::spec::Emit;
use crate::operator::FaultPolicy;
use crate::operator::assigner::session::{Chain, PLAIN, Session, Slice};
use crate::operator::close::{Closed, Closer, Closing};
use crate::operator::counts::stored;
use crate::operator::isolate::Budget;
use crate::operator::merge::{external, external_store};
use crate::operator::results::WindowRow;
use crate::operator::view::View;
use crate::state::codec::CodecError;
use crate::state::store::{PaneId, Update};
use ahash::RandomState;
use datafusion_common::Result;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Bytes of an encoded timestamp: a tag and 64 bits.
const TIME_BYTES: usize = 9;

/// Start of a slice, and a key.
type At<'a> = (i64, &'a [u8]);

/// A key's slice with its state.
#[derive(Clone, Copy)]
struct Part<'a> {
    slice: Slice,
    state: &'a [u8],
}

/// A key's slices that touch or nearly do, and the sessions that they make.
struct Run<'a> {
    key: &'a [u8],
    parts: Vec<Part<'a>>,
    chains: Vec<Chain>,
}

impl<'a> Run<'a> {
    fn row(&self, session: &Session, chain: &Chain) -> WindowRow<'a> {
        let states = chain.slices.iter().map(|i| self.parts[*i].state).collect();
        WindowRow { key: self.key, start: chain.min, end: chain.max + session.gap(), states }
    }

    fn has_slice(&self, chain: &Chain, start: i64) -> bool {
        chain.slices.iter().any(|i| self.parts[*i].slice.pane.start == start)
    }
}

impl Closer {
    pub(super) fn close_sessions(
        &self,
        session: &Session,
        closing: &Closing<'_>,
        mut updates: Vec<Update>,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let view = View::new(closing.store, &updates);
        if self.window.is_speculative() {
            self.give_changed_sessions(session, closing, &view, &updates, budget, closed)?;
        }
        let gone = self.finish_due_sessions(session, closing, &view, &updates, budget, closed)?;
        let Settled { merged: settled, gone: settled_gone } = self.settle(closing, &view, &gone)?;
        let removed: HashSet<(PaneId, Box<[u8]>), RandomState> =
            gone.into_iter().chain(settled_gone).map(|(pane, key)| (pane, key.into())).collect();
        drop(view);
        let merged: HashSet<(PaneId, &[u8]), RandomState> = settled.iter().map(|u| (u.pane, u.key())).collect();
        updates.retain(|u| !merged.contains(&(u.pane, u.key())) && !removed.contains(&(u.pane, u.key().into())));
        drop(merged);
        updates.extend(settled);
        closed.removed_slots = stored(closing.store, removed.into_iter())?;
        closed.updates = updates;
        Ok(())
    }

    /// Finishes the sessions that have closed; says which slots they were.
    fn finish_due_sessions<'a>(
        &self,
        session: &Session,
        closing: &Closing<'a>,
        view: &View<'a>,
        updates: &'a [Update],
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<HashSet<(PaneId, &'a [u8]), RandomState>> {
        let now = closing.now;
        let mut gone: HashSet<(PaneId, &'a [u8]), RandomState> = HashSet::default();
        let timers = closing.store.timers_until(now).map_err(external_store)?;
        let timers = timers.into_iter().map(|(pane, key)| (pane, key, true));
        let fresh = updates.iter().filter(|u| u.pane.start.saturating_add(session.lag()) <= now);
        let fresh = fresh.map(|u| (u.pane, u.key(), false));
        let mut rows = Vec::new();
        for (pane, key, had_timer) in timers.chain(fresh) {
            if gone.contains(&(pane, key)) || view.get(pane, key)?.is_none() {
                continue;
            }
            let run = run(session, view, key, pane.start)?;
            for chain in &run.chains {
                let closes = session.closes_at(chain.max);
                let first = &run.parts[chain.slices[0]].slice;
                if closes > now {
                    let is_last = run.parts[chain.slices[chain.slices.len() - 1]].slice.pane.start == pane.start;
                    let is_here = chain.slices.iter().any(|i| run.parts[*i].slice.pane == pane);
                    if had_timer && is_here && is_last {
                        closed.rearmed.push((closes, pane, key.into()));
                    }
                } else if !gone.contains(&(first.pane, key)) {
                    gone.extend(chain.slices.iter().map(|i| (run.parts[*i].slice.pane, key)));
                    rows.push(run.row(session, chain));
                }
            }
        }
        rows.sort_unstable_by(|a, b| (a.end, a.start, a.key).cmp(&(b.end, b.start, b.key)));
        self.finish(&rows, true, closing.policy, budget, closed)?;
        Ok(gone)
    }

    /// Gives the sessions that have changed and whose time it is, and takes back those that are part of others now.
    fn give_changed_sessions<'a>(
        &self,
        session: &Session,
        closing: &Closing<'a>,
        view: &View<'a>,
        updates: &'a [Update],
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let now = closing.now;
        let touched: BTreeSet<At<'a>> = updates.iter().map(|u| (u.pane.start, u.key())).collect();
        let mut waiting: BTreeSet<At<'a>> = BTreeSet::new();
        for (start, keys) in closing.emission.changed() {
            // Before that no session with this slice has ended.
            if closing.is_firing || start.saturating_add(session.gap()) <= now {
                waiting.extend(keys.iter().map(|k| (start, k.as_ref())));
            }
        }
        let mut rows: BTreeMap<At<'a>, WindowRow<'a>> = BTreeMap::new();
        let mut gone: BTreeMap<At<'a>, i64> = BTreeMap::new();
        for (start, key) in touched.iter().chain(waiting.difference(&touched)).copied() {
            let run = run(session, view, key, start)?;
            let mut is_given = closing.is_firing || self.window.emit == Emit::OnUpdate;
            if touched.contains(&(start, key)) {
                let before = stored_chains(session, closing, &run)?;
                for old in before.iter().filter(|b| !run.chains.iter().any(|c| c.min == b.min)) {
                    gone.insert((old.min, key), old.max + session.gap());
                    // What it has become part of must not wait, or it would be in no result.
                    is_given |= run.chains.iter().any(|c| run.has_slice(c, start) && c.min <= old.min && old.min <= c.max);
                }
            }
            let mut is_left = false;
            for chain in run.chains.iter().filter(|c| run.has_slice(c, start) && session.closes_at(c.max) > now) {
                if is_given || chain.max.saturating_add(session.gap()) <= now {
                    rows.entry((chain.min, key)).or_insert_with(|| run.row(session, chain));
                } else {
                    is_left = true;
                }
            }
            match (is_left, waiting.contains(&(start, key))) {
                (true, false) => closed.emission.changed.push((start, key.into())),
                (false, true) => closed.emission.given_keys.push((start, key.into())),
                _ => {}
            }
        }
        if !gone.is_empty() {
            let gone: Vec<(&[u8], i64, i64)> = gone.into_iter().map(|((start, key), end)| (key, start, end)).collect();
            closed.retracted.push(self.retraction(&gone)?);
        }
        let rows: Vec<WindowRow<'_>> = rows.into_values().collect();
        self.finish(&rows, false, closing.policy, budget, closed)
    }

    /// Merges slices of rows that came behind their watermark with the others, where that watermark is the job's by now: every session that
    /// they could not join is finished, and no row to come is before them.
    fn settle<'a>(
        &self,
        closing: &Closing<'a>,
        view: &View<'a>,
        gone: &HashSet<(PaneId, &'a [u8]), RandomState>,
    ) -> Result<Settled<'a>> {
        let mut behind = view.panes(PaneId::range(i64::MIN, i64::MAX));
        behind.retain(|p| p.from != PLAIN && p.from <= closing.now);
        let mut settled = Settled::default();
        let mut groups: BTreeMap<At<'a>, Vec<&'a [u8]>> = BTreeMap::new();
        for pane in behind {
            for (key, state) in view.entries(pane)?.filter(|(key, _)| !gone.contains(&(pane, *key))) {
                groups.entry((pane.start, key)).or_default().push(state);
                settled.gone.push((pane, key));
            }
        }
        for ((start, key), states) in &mut groups {
            let plain = PaneId { start: *start, from: PLAIN };
            states.extend(view.get(plain, key)?.filter(|_| !gone.contains(&(plain, *key))));
        }
        let (slots, groups): (Vec<At<'a>>, Vec<Vec<&'a [u8]>>) = groups.into_iter().unzip();
        if slots.is_empty() {
            return Ok(Settled::default());
        }
        match self.layout.combine(&self.window, &groups) {
            Ok(states) => {
                let update =
                    |((start, key), state): ((i64, &[u8]), Box<[u8]>)| Update::new(PaneId { start, from: PLAIN }, key, &state);
                settled.merged = slots.into_iter().zip(states).map(update).collect();
                Ok(settled)
            }
            Err(error) if closing.policy == FaultPolicy::Fail => Err(error),
            // They stay apart; the session's result will say what is wrong.
            Err(_) => Ok(Settled::default()),
        }
    }
}

#[derive(Default)]
struct Settled<'a> {
    merged: Vec<Update>,
    gone: Vec<(PaneId, &'a [u8])>,
}

/// The sessions of the slots of `run` as they were stored before the epoch.
fn stored_chains(session: &Session, closing: &Closing<'_>, run: &Run<'_>) -> Result<Vec<Chain>> {
    let mut slices = Vec::new();
    for part in &run.parts {
        if let Some(state) = closing.store.get(part.slice.pane, run.key).map_err(external_store)? {
            slices.push(slice(part.slice.pane, state)?);
        }
    }
    Ok(session.chains(&slices))
}

/// The slices of a key around the one at `start`, up to the next that is empty on either side.
fn run<'a>(session: &Session, view: &View<'a>, key: &'a [u8], start: i64) -> Result<Run<'a>> {
    let mut parts = Vec::new();
    let mut at = start;
    while gather(view, key, at, &mut parts)? {
        at -= session.gap();
    }
    at = start + session.gap();
    while gather(view, key, at, &mut parts)? {
        at += session.gap();
    }
    parts.sort_unstable_by_key(|p: &Part<'_>| p.slice.pane);
    let slices: Vec<Slice> = parts.iter().map(|p| p.slice).collect();
    Ok(Run { key, chains: session.chains(&slices), parts })
}

/// Adds the slices of a key that start at `start`; whether there are any.
fn gather<'a>(view: &View<'a>, key: &'a [u8], start: i64, parts: &mut Vec<Part<'a>>) -> Result<bool> {
    let known = parts.len();
    for pane in view.panes(PaneId::range(start, start)) {
        if let Some(state) = view.get(pane, key)? {
            parts.push(Part { slice: slice(pane, state)?, state });
        }
    }
    Ok(parts.len() > known)
}

/// A slice from its state, whose last two columns are the least and the greatest event time.
pub(super) fn slice(pane: PaneId, state: &[u8]) -> Result<Slice> {
    let (min, max) = last_times(state).map_err(external)?;
    Ok(Slice { pane, min, max })
}

/// The last two columns of a state, which are times: milliseconds since 1970 UTC.
pub(super) fn last_times(state: &[u8]) -> std::result::Result<(i64, i64), CodecError> {
    let times = || -> Option<(i64, i64)> {
        let (rest, last) = state.split_last_chunk::<8>()?;
        let (_, first) = rest.split_last_chunk::<TIME_BYTES>().map(|(rest, tagged)| (rest, &tagged[..8]))?;
        Some((i64::from_le_bytes(first.try_into().ok()?), i64::from_le_bytes(*last)))
    };
    times().ok_or_else(|| CodecError::Corrupt { what: "state", why: "it is too short for the times at its end".into() })
}
