//! The close of a key's lives: global windows whose keys are forgotten once nothing has updated them for the TTL.
//!
//! In: parts of keys, stored and fresh, each with the least watermark that its rows made and their greatest event time. Out: for each key one
//! state, that of the life which the watermark is in; the states of lives that ended are cleared. Lives that begin ahead of the job's watermark
//! are kept beside it until the watermark is there: a row of a partition that is behind may still join them to the life before.
//!
//! A part that is of the life before it can be merged into it at once: whatever rows are still to come, those made by a watermark before the
//! part's are of that life too, and those after it find it alive.

use crate::config::spec::{Emit, OutputMode};
use crate::operator::assigner::idle::{Idle, LIVE, Part};
use crate::operator::close::{Closed, Closer, Closing, Slots};
use crate::operator::isolate::Budget;
use crate::operator::merge::{external, external_store};
use crate::operator::results::WindowRow;
use crate::operator::sessions::last_times;
use crate::state::store::{PaneId, Store, Update};
use ahash::RandomState;
use arrow::array::AsArray;
use arrow::datatypes::TimestampMillisecondType;
use datafusion_common::Result;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What [`Emission`](crate::operator::emission::Emission) knows a changed key by.
pub(super) const CHANGED: i64 = 0;

/// Where a part of a key is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Stored(PaneId),
    /// Partial, and row in it.
    Fresh(usize, usize),
}

/// A key, and a fresh part of it unless something else is the reason to look at it.
type Looked<'a> = (Box<[u8]>, Option<(i64, Place, i64)>);

/// A life of a key in this close.
struct Life {
    places: Vec<Place>,
    since: i64,
    last: i64,
    is_fresh: bool,
    /// Slot that it is merged in.
    slot: Option<usize>,
}

impl Life {
    fn stored(&self) -> impl Iterator<Item = PaneId> {
        self.places.iter().filter_map(|p| if let Place::Stored(pane) = p { Some(*pane) } else { None })
    }
}

/// A key's lives, in order; none where a timer finds nothing any more.
struct Key {
    key: Box<[u8]>,
    lives: Vec<Life>,
}

/// Panes of stored lives that begin ahead of the watermark, by key.
type Pending<'a> = HashMap<&'a [u8], Vec<PaneId>, RandomState>;

impl Closer {
    pub(super) fn close_lives(&self, idle: &Idle, closing: &Closing<'_>, budget: &mut Budget, closed: &mut Closed) -> Result<()> {
        let mut keys = self.keys_with_lives(idle, closing)?;
        let slots = slots(&mut keys, closing);
        let Some(updates) = self.merge(closing, &slots, budget, closed)? else { return Ok(()) };
        let mut states: Vec<&[u8]> = vec![&[]; slots.keys.len()];
        for update in &updates {
            states[number(update.pane)] = update.state();
        }
        self.give_lives(idle, closing, &keys, &states, budget, closed)?;
        let changed = after(idle, closing, &keys, &states, closed)?;
        closed.expired = keys.iter().flat_map(|k| &k.lives).filter(|l| idle.ends_at(l.last) <= closing.reached).count() as u64;
        closed.updates = changed;
        Ok(())
    }

    /// The keys to look at, in order, with their lives: those with fresh rows, those whose timer went off, those that wait for an early
    /// result where it is time for it, and all where the input has ended.
    fn keys_with_lives(&self, idle: &Idle, closing: &Closing<'_>) -> Result<Vec<Key>> {
        let mut looked: Vec<Looked<'_>> = Vec::new();
        for (p, partial) in closing.partials.iter().enumerate() {
            let Some(at) = partial.states.len().checked_sub(2) else { continue };
            let times = |i: usize| partial.states[i].as_primitive::<TimestampMillisecondType>().values();
            let (since, last) = (times(at), times(at + 1));
            let each = |row: usize, key: &[u8]| looked.push((key.into(), Some((since[row], Place::Fresh(p, row), last[row]))));
            self.layout.keys.encode(&partial.keys, partial.len(), each).map_err(external)?;
        }
        let store = closing.store;
        let went_off = store.timers_until(closing.now).map_err(external_store)?;
        looked.extend(went_off.into_iter().map(|(_, key)| (key.into(), None)));
        if closing.is_firing {
            looked.extend(waiting(closing).into_iter().flatten().map(|key| (key.clone(), None)));
        }
        if closing.now == i64::MAX {
            for entry in store.panes().flat_map(|pane| store.sorted(pane)) {
                looked.push((entry.map_err(external_store)?.0.as_ref().into(), None));
            }
        }
        looked.sort_unstable();
        let live = looked.chunk_by(|a, b| a.0 == b.0).map(|group| (LIVE, group[0].0.as_ref()));
        store.fetch(live).map_err(external_store)?;
        let pending = pending(store)?;
        let mut keys = Vec::new();
        for group in looked.chunk_by(|a, b| a.0 == b.0) {
            let key = group[0].0.clone();
            let mut parts: Vec<(i64, Place, i64)> = Vec::new();
            let panes = std::iter::once(LIVE).chain(pending.get(key.as_ref()).into_iter().flatten().copied());
            for pane in panes {
                let Some(state) = store.get(pane, &key).map_err(external_store)? else { continue };
                let (since, last) = last_times(state).map_err(external)?;
                // What is live has begun before all else.
                parts.push((if pane == LIVE { i64::MIN } else { since }, Place::Stored(pane), last));
            }
            parts.extend(group.iter().filter_map(|(_, part)| *part));
            parts.sort_unstable();
            keys.push(Key { key, lives: lives(idle, &parts) });
        }
        Ok(keys)
    }

    /// Gives the results that have changed and whose time it is. Of upserts a key has one row, which is of its last life.
    fn give_lives(
        &self,
        idle: &Idle,
        closing: &Closing<'_>,
        keys: &[Key],
        states: &[&[u8]],
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let waiting = waiting(closing);
        let (mut rows, mut last_rows) = (Vec::new(), Vec::new());
        for Key { key, lives } in keys {
            let is_waiting = waiting.is_some_and(|keys| keys.contains(key));
            let mut is_left = false;
            for (i, life) in lives.iter().enumerate() {
                let is_last = i + 1 == lives.len();
                // At the end of the input a next life may be ahead of the watermark.
                let has_ended = idle.ends_at(life.last) <= closing.reached || closing.now == i64::MAX && !is_last;
                let row = || -> Result<WindowRow<'_>> {
                    Ok(WindowRow { key, start: i64::MIN, end: i64::MAX, states: states_of(life, key, states, closing.store)? })
                };
                if closing.now == i64::MAX && !has_ended {
                    last_rows.push(row()?);
                    continue;
                }
                let has_changed = life.is_fresh || is_waiting && life.stored().next().is_some();
                if !has_changed || self.window.output == OutputMode::Upsert && !is_last {
                    continue;
                }
                // What ends can't wait.
                if self.window.emit == Emit::OnUpdate || closing.is_firing || has_ended {
                    rows.push(row()?);
                } else {
                    is_left = true;
                }
            }
            match (is_left, is_waiting) {
                (true, false) => closed.emission.changed.push((CHANGED, key.clone())),
                (false, true) => closed.emission.given_keys.push((CHANGED, key.clone())),
                _ => {}
            }
        }
        self.finish(&rows, false, closing.policy, budget, closed)?;
        self.finish(&last_rows, true, closing.policy, budget, closed)
    }
}

fn waiting<'a>(closing: &Closing<'a>) -> Option<&'a HashSet<Box<[u8]>, RandomState>> {
    closing.emission.changed().find(|(id, _)| *id == CHANGED).map(|(_, keys)| keys)
}

/// Few: only where partitions are further apart than the TTL.
fn pending(store: &Store) -> Result<Pending<'_>> {
    let mut pending = Pending::default();
    for pane in store.panes_in(PaneId::range(i64::MIN + 1, i64::MAX)) {
        for (key, _) in store.entries(pane).map_err(external_store)? {
            pending.entry(key).or_default().push(pane);
        }
    }
    Ok(pending)
}

fn lives(idle: &Idle, parts: &[(i64, Place, i64)]) -> Vec<Life> {
    let bounds: Vec<Part> = parts.iter().map(|(since, _, last)| Part { since: *since, last: *last }).collect();
    let life = |(range, life): (std::ops::Range<usize>, Part)| {
        let places: Vec<Place> = parts[range].iter().map(|p| p.1).collect();
        let is_fresh = places.iter().any(|p| matches!(p, Place::Fresh(..)));
        Life { places, since: life.since, last: life.last, is_fresh, slot: None }
    };
    idle.lives(&bounds).into_iter().map(life).collect()
}

/// A slot for each life with fresh rows, known by a pane of its own: its number.
fn slots(keys: &mut [Key], closing: &Closing<'_>) -> Slots {
    let mut slots = Slots { of: closing.partials.iter().map(|p| vec![0; p.len()]).collect(), ..Slots::default() };
    let mut stored = Vec::new();
    for Key { key, lives } in keys {
        for life in lives.iter_mut().filter(|l| l.is_fresh) {
            let slot = slots.keys.len();
            for place in &life.places {
                if let Place::Fresh(partial, row) = place {
                    slots.of[*partial][*row] = slot;
                }
            }
            slots.keys.push((PaneId { start: slot as i64, from: slot as i64 }, key.clone()));
            stored.push(life.stored().collect());
            life.slot = Some(slot);
        }
    }
    slots.stored = Some(stored);
    slots
}

/// The slot that [`slots`] has given a pane to.
fn number(pane: PaneId) -> usize {
    usize::try_from(pane.start).unwrap_or_default()
}

/// The states that a life is the merge of.
fn states_of<'a>(life: &Life, key: &[u8], merged: &[&'a [u8]], store: &'a Store) -> Result<Vec<&'a [u8]>> {
    match life.slot {
        Some(slot) => Ok(vec![merged[slot]]),
        None => life.stored().filter_map(|pane| store.get(pane, key).map_err(external_store).transpose()).collect(),
    }
}

/// What is stored of each key after the epoch: the slots to set; those to remove, and the timers to set anew, go to `closed`.
fn after(idle: &Idle, closing: &Closing<'_>, keys: &[Key], merged: &[&[u8]], closed: &mut Closed) -> Result<Vec<Update>> {
    if closing.now == i64::MAX {
        closed.removed = closing.store.panes().collect();
        return Ok(Vec::new());
    }
    let mut updates = Vec::new();
    let mut due: HashMap<(PaneId, &[u8]), i64, RandomState> = HashMap::default();
    for Key { key, lives } in keys {
        let mut kept: Vec<PaneId> = Vec::new();
        for life in lives.iter().filter(|l| idle.ends_at(l.last) > closing.reached) {
            let has_begun = life.since <= closing.reached;
            let pane = if has_begun { LIVE } else { idle.pending(life.since) };
            let timer = if has_begun { idle.ends_at(life.last) } else { life.since };
            match (life.slot, life.places.as_slice()) {
                (Some(slot), _) => updates.push(Update::new(pane, key, merged[slot])),
                (None, [Place::Stored(old)]) if *old == pane => {}
                (None, [Place::Stored(old)]) => {
                    let state = closing.store.get(*old, key).map_err(external_store)?.unwrap_or_default();
                    updates.push(Update::new(pane, key, state));
                }
                // Apart until a row comes: a longer TTL than before has joined them.
                (None, _) => {
                    for old in life.stored() {
                        kept.push(old);
                        due.insert((old, key), idle.ends_at(life.last));
                    }
                    continue;
                }
            }
            kept.push(pane);
            due.insert((pane, key), timer);
        }
        let old = lives.iter().flat_map(Life::stored).filter(|pane| !kept.contains(pane));
        closed.removed_slots.extend(old.map(|pane| (pane, key.clone())));
    }
    let went_off = closing.store.timers_until(closing.now).map_err(external_store)?;
    let went_off: BTreeSet<(PaneId, &[u8])> = went_off.into_iter().collect();
    for (pane, key) in went_off {
        // A slot that is new gets its timer when it is set.
        if let Some(due) = due.get(&(pane, key))
            && closing.store.has(pane, key).map_err(external_store)?
        {
            closed.rearmed.push((*due, pane, key.into()));
        }
    }
    Ok(updates)
}
