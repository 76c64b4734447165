//! The close of an epoch: partial states into the stored ones, and the results of the windows that the watermark closed.
//!
//! In: the store as the epoch before left it, the partial states of all tasks, the watermark. Out: a [`Closed`].
//! **Invariant**: the store is only read. States are merged into fresh arrays; what fails leaves nothing behind.

use crate::operator::FaultPolicy;
use crate::operator::assigner::Assigner;
use crate::operator::assigner::count::TOTAL;
use crate::operator::assigner::idle::LIVE;
use crate::operator::blocks::Blocks;
use crate::operator::counts;
use crate::operator::emission::{Emission, EmissionChange};
use crate::operator::epoch::{ExcludedKeys, RowError};
use crate::operator::fold::Partial;
use crate::operator::isolate::{Budget, isolate};
use crate::operator::merge::{Layout, Merger, external, external_store};
use crate::operator::sessions::last_times;
use crate::plan::WindowPlan;
use crate::state::codec::RowCodec;
use crate::state::spill::SpillError;
use crate::state::store::{Found, PaneId, Place, Slot, Store, Update};
use crate::state::timers::FirstTimer;
use ahash::RandomState;
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Schema, TimestampMillisecondType};
use datafusion_common::Result;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// A window's result that could not be made: the state of the key goes to the rejects instead.
pub struct BadResult {
    /// Start of the window.
    pub window: i64,
    /// Encoded key.
    pub key: Box<[u8]>,
    /// Encoded partial states of the panes, one after the other.
    pub state: Vec<u8>,
    /// Why.
    pub error: Arc<RowError>,
}

/// What the close of an epoch does.
#[derive(Default)]
pub struct Closed {
    /// Slots to set.
    pub updates: Vec<Update>,
    /// Panes that no open window needs any more.
    pub removed: Vec<PaneId>,
    /// Slots that no open window needs any more.
    pub removed_slots: Vec<(PaneId, Box<[u8]>)>,
    /// Results of windows that have closed are left for the next epochs: their slots are still there.
    pub owes: bool,
    /// Panes that were taken off in part, and the key on disk from which on the rest is.
    pub taken: Vec<(PaneId, Box<[u8]>)>,
    /// Timers that went off and are set anew: for when, and of which slot.
    pub rearmed: Vec<(i64, PaneId, Box<[u8]>)>,
    /// The same by processing time, of a keyed process.
    pub rearmed_processing: Vec<(i64, PaneId, Box<[u8]>)>,
    /// Result rows: columns as [`WindowPlan::result`].
    pub results: Vec<RecordBatch>,
    /// Results that were given and are no more, as sessions were merged: their keys count, aggregates are null.
    pub retracted: Vec<RecordBatch>,
    /// What becomes of the results that have changed.
    pub emission: EmissionChange,
    /// Keys on which merging failed: the epoch must be run again without their rows, and nothing else in here counts.
    pub excluded: ExcludedKeys,
    /// Results that could not be made.
    pub bad_results: Vec<BadResult>,
    /// Lives of keys that ended because nothing updated them.
    pub expired: u64,
}

/// An epoch to be closed: windows that close in `(before, now]` are finished.
pub struct Closing<'a> {
    /// The state before the epoch. A pane in it whose windows have all closed is one whose results are owed.
    pub store: &'a Store,
    /// Partial states of its tasks.
    pub partials: &'a [&'a Partial],
    /// Watermark that windows have been closed up to.
    pub before: i64,
    /// Watermark now; [`i64::MAX`] where the input has ended.
    pub now: i64,
    /// The same, but where the input has ended: the greatest that its rows have made.
    pub reached: i64,
    /// Results that have changed and were not given.
    pub emission: &'a Emission,
    /// Whether it is time to give early results.
    pub is_firing: bool,
    /// What to do with faults.
    pub policy: FaultPolicy,
    /// Results of closed windows that may wait for the next epoch where there are more than these.
    pub results_max: usize,
}

/// Closes epochs of one plan.
pub struct Closer {
    pub(super) window: WindowPlan,
    pub(super) assigner: Assigner,
    pub(super) layout: Layout,
}

impl Closer {
    /// For a plan's window; `input` is the schema that reaches the aggregation.
    ///
    /// # Errors
    /// When an aggregate doesn't say what its state is.
    pub fn new(window: &WindowPlan, input: &Schema) -> Result<Self> {
        Ok(Self { assigner: window.assigner(), layout: Layout::new(window, input)?, window: window.clone() })
    }

    /// The codec of keys.
    pub fn keys(&self) -> &RowCodec {
        &self.layout.keys
    }

    /// The plan's window.
    pub fn window(&self) -> &WindowPlan {
        &self.window
    }

    /// When a slot's timer goes off for the first time; none where windows are the same for all keys.
    pub fn first_timer(&self) -> Option<FirstTimer> {
        match &self.assigner {
            Assigner::Aligned(_) => None,
            Assigner::Session(session) => {
                let lag = session.lag();
                Some(Box::new(move |pane, _| Some(pane.start.saturating_add(lag))))
            }
            Assigner::Count(count) if !count.forgets() => None,
            Assigner::Count(count) => {
                let count = *count;
                Some(Box::new(move |pane, state| counts::first_timer(&count, pane, state)))
            }
            Assigner::Idle(idle) => {
                let idle = *idle;
                // A state that can't be read is looked at with the next epoch, and told.
                Some(Box::new(move |pane, state| {
                    Some(
                        last_times(state).map_or(i64::MIN, |(since, last)| if pane == LIVE { idle.ends_at(last) } else { since }),
                    )
                }))
            }
        }
    }

    /// Whether a partial state counts in a window that `closed` has closed: then the epoch must be run again from that time.
    pub fn is_stale(&self, partial: &Partial, closed: i64) -> bool {
        match &self.assigner {
            Assigner::Count(count) if !count.forgets() => false,
            // The least watermark that rows made stands before one time, or two where windows are counted.
            Assigner::Count(_) => self.is_before(partial, 3, closed),
            Assigner::Idle(_) => self.is_before(partial, 2, closed),
            Assigner::Aligned(windows) => partial.panes.iter().any(|p| windows.closes_at(p.from) <= closed),
            Assigner::Session(session) => {
                let Some(least) = partial.states.len().checked_sub(2).map(|i| &partial.states[i]) else { return false };
                let least = least.as_primitive::<TimestampMillisecondType>();
                partial.panes.iter().zip(least.values()).any(|(pane, min)| session.is_stale(*pane, *min, closed))
            }
        }
    }

    /// Whether a time in the column that stands so far from the end of the states is before `closed`.
    fn is_before(&self, partial: &Partial, from_end: usize, closed: i64) -> bool {
        let column =
            partial.states.len().checked_sub(from_end).map(|i| partial.states[i].as_primitive::<TimestampMillisecondType>());
        column.is_some_and(|times| times.values().iter().any(|time| *time < closed))
    }

    /// The watermark that closes the last window over all stored panes and `partials`.
    pub fn last_close<'a>(&self, store: &Store, partials: impl Iterator<Item = &'a Partial>) -> Option<i64> {
        match &self.assigner {
            Assigner::Count(_) | Assigner::Idle(_) => None,
            Assigner::Aligned(windows) => {
                let panes = store.panes().chain(partials.flat_map(|p| p.panes.iter().copied()));
                panes.filter_map(|p| windows.last_close(p.start)).max()
            }
            // No row of a slice is behind its last millisecond.
            Assigner::Session(session) => {
                let panes = store.panes().chain(partials.flat_map(|p| p.panes.iter().copied()));
                panes.map(|p| session.closes_at(p.start + session.gap() - 1)).max()
            }
        }
    }

    /// Windows, or starts of slices, of the stored slots: after a restart all of them count as changed.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn all_changed(&self, store: &Store, closed: i64) -> std::result::Result<EmissionChange, SpillError> {
        let mut change = EmissionChange::default();
        for pane in store.panes() {
            let windows = self.changed_windows(pane, closed);
            for entry in store.sorted(pane) {
                let (key, _) = entry?;
                change.changed.extend(windows.iter().map(|w| (*w, key.as_ref().into())));
            }
        }
        Ok(change)
    }

    /// Closes an epoch.
    ///
    /// # Errors
    /// Under [`FaultPolicy::Fail`] the first error of an aggregate or guest; [`CodecError`](crate::state::codec::CodecError) when stored bytes don't read back;
    /// [`SpillError`] when the disk does not give what is over the memory budget.
    pub fn close(&self, closing: &Closing<'_>, blocks: &mut Blocks, budget: &mut Budget) -> Result<Closed> {
        let mut closed = Closed::default();
        match &self.assigner {
            Assigner::Count(count) => self.close_counts(count, closing, budget, &mut closed)?,
            Assigner::Idle(idle) => self.close_lives(idle, closing, budget, &mut closed)?,
            Assigner::Aligned(windows) => {
                if let Some(updates) = self.merge_panes(closing, budget, &mut closed)? {
                    self.close_aligned(windows.as_ref(), closing, updates, blocks, budget, &mut closed)?;
                }
            }
            Assigner::Session(session) => {
                if let Some(updates) = self.merge_panes(closing, budget, &mut closed)? {
                    self.close_sessions(session, closing, updates, budget, &mut closed)?;
                }
            }
        }
        Ok(closed)
    }

    /// Merges all partials into the stored states; none where keys must be left out.
    pub(super) fn merge_panes(
        &self,
        closing: &Closing<'_>,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<Option<Vec<Update>>> {
        let slots = self.slots(closing.partials)?;
        self.merge(closing, &slots, budget, closed)
    }

    /// Numbers the (pane, key) of all partials: `slots[p][row]`, and the keys by number.
    fn slots(&self, partials: &[&Partial]) -> Result<Slots> {
        let mut slots = Slots::default();
        // The encoded keys of all rows in one block: a key is allocated once, where it is a slot's.
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for partial in partials {
            let each = |_: usize, key: &[u8]| {
                bytes.extend_from_slice(key);
                ends.push(bytes.len());
            };
            self.layout.keys.encode(&partial.keys, partial.len(), each).map_err(external)?;
        }
        // The groups of one partial are distinct, but for rows that were numbered since: only several need the table.
        let is_numbered = matches!(self.assigner, Assigner::Count(_));
        let several = is_numbered || partials.iter().filter(|p| !p.is_empty()).count() > 1;
        let mut numbers: HashMap<(PaneId, &[u8]), usize, RandomState> = HashMap::default();
        numbers.reserve(if several { ends.len() } else { 0 });
        let (mut start, mut ends) = (0, ends.into_iter());
        for partial in partials {
            let mut of_partial = Vec::with_capacity(partial.len());
            for (pane, end) in partial.panes.iter().zip(ends.by_ref()) {
                let key = &bytes[std::mem::replace(&mut start, end)..end];
                let next = slots.keys.len();
                let number = if several { *numbers.entry((*pane, key)).or_insert(next) } else { next };
                if number == next {
                    slots.keys.push((*pane, key.into()));
                }
                of_partial.push(number);
            }
            slots.of.push(of_partial);
        }
        Ok(slots)
    }

    /// Merges partials into the stored states, slot by slot; none where keys must be left out.
    pub(super) fn merge(
        &self,
        closing: &Closing<'_>,
        slots: &Slots,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<Option<Vec<Update>>> {
        let count = slots.keys.len();
        if count == 0 {
            // Some aggregates can't merge nothing; and that is no key's fault.
            return Ok(Some(Vec::new()));
        }
        // Before anything that keys can be at fault for: what the disk fails at is nobody's row.
        let stored = slots.stored_states(closing.store).map_err(external_store)?;
        let merge_range = |range: Range<usize>| self.merged(closing, slots, &stored, range);
        let states = match merge_range(0..count) {
            Ok(states) => states,
            Err(error) if closing.policy == FaultPolicy::Fail => return Err(error),
            Err(error) => {
                for fault in isolate(count, error, budget, &mut |r| merge_range(r).map(drop)) {
                    let error = Arc::new(RowError::of(&fault.error));
                    let slots: Vec<Slot> = match self.assigner {
                        // What a row's pane was is not known when the epoch is run again: the key is left out as a whole.
                        Assigner::Count(_) => slots.keys[fault.items].iter().map(|(_, key)| (TOTAL, key.clone())).collect(),
                        Assigner::Idle(_) => slots.folded(closing.partials, fault.items),
                        _ => slots.keys[fault.items].to_vec(),
                    };
                    closed.excluded.extend(slots.into_iter().map(|slot| (slot, Arc::clone(&error))));
                }
                return Ok(None);
            }
        };
        let Merged { slots: order, states } = states;
        let mut updates = Vec::with_capacity(count);
        let update = |i: usize, state: &[u8]| {
            let (pane, key) = &slots.keys[order[i]];
            updates.push(Update::new(*pane, key, state).at(stored.places[order[i]]));
        };
        self.layout.states.encode(&states, count, update).map_err(external)?;
        Ok(Some(updates))
    }

    /// The merged states of the slots in `range`: stored ones first, then each task's.
    fn merged(
        &self,
        closing: &Closing<'_>,
        slots: &Slots,
        stored_states: &StoredStates<'_>,
        range: Range<usize>,
    ) -> Result<Merged> {
        let partials = closing.partials;
        let mut numbers: Vec<Option<usize>> = vec![None; range.len()];
        let mut order = Vec::with_capacity(range.len());
        let (mut stored, mut of_stored) = (Vec::new(), Vec::new());
        for slot in range.clone() {
            for state in stored_states.of(slot) {
                stored.push(state);
                of_stored.push(*numbers[slot - range.start].get_or_insert_with(|| {
                    order.push(slot);
                    order.len() - 1
                }));
            }
        }
        let whole = range.len() == slots.keys.len();
        let mut merging = partials.iter().zip(&slots.of).filter(|(p, _)| !p.is_empty());
        if let (true, true, Some((only, of)), None) = (whole, stored.is_empty(), merging.next(), merging.next())
            && of.iter().copied().eq(range.clone())
        {
            return Ok(Merged { slots: range.collect(), states: only.states.clone() });
        }
        let mut merger = Merger::new(&self.window, &self.layout.widths)?;
        merger.add(&self.layout.states.decode(stored.into_iter().copied()).map_err(external)?, &of_stored, order.len())?;
        for (partial, of) in partials.iter().zip(&slots.of) {
            let rows: Vec<u32> = (0..of.len() as u32).filter(|r| range.contains(&of[*r as usize])).collect();
            let mut here = Vec::with_capacity(rows.len());
            for row in &rows {
                let slot = of[*row as usize];
                here.push(*numbers[slot - range.start].get_or_insert_with(|| {
                    order.push(slot);
                    order.len() - 1
                }));
            }
            if whole {
                merger.add(&partial.states, &here, order.len())?;
            } else {
                let rows = UInt32Array::from(rows);
                let states = partial.states.iter().map(|s| Ok(take(s, &rows, None)?)).collect::<Result<Vec<_>>>()?;
                merger.add(&states, &here, order.len())?;
            }
        }
        Ok(Merged { slots: order, states: merger.states()? })
    }
}

/// Merged states, and which slot each row of them is.
struct Merged {
    slots: Vec<usize>,
    states: Vec<ArrayRef>,
}

/// Stored states by slot.
struct StoredStates<'a> {
    states: Vec<&'a [u8]>,
    /// Where those of each slot end in `states`.
    ends: Vec<usize>,
    /// Where the last of those of each slot is in memory. Only a slot that is the merge of what is stored of itself is set there again.
    places: Vec<Option<Place>>,
}

impl<'a> StoredStates<'a> {
    fn of(&self, slot: usize) -> &[&'a [u8]] {
        let start = slot.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.states[start..self.ends[slot]]
    }
}

/// What partials are merged into.
#[derive(Default)]
pub(super) struct Slots {
    /// Slot of each row of each partial.
    pub of: Vec<Vec<usize>>,
    /// Pane and encoded key of each slot.
    pub keys: Vec<Slot>,
    /// Panes of the stored states that each slot is the merge of, where it isn't its own.
    pub stored: Option<Vec<Vec<PaneId>>>,
}

impl Slots {
    /// What is stored of each slot.
    fn stored_states<'a>(&self, store: &'a Store) -> std::result::Result<StoredStates<'a>, SpillError> {
        let count = self.keys.len();
        let mut stored = StoredStates { states: Vec::new(), ends: Vec::with_capacity(count), places: Vec::with_capacity(count) };
        let mut add = |found: &[Found<'a>]| {
            stored.states.extend(found.iter().flatten().map(|(state, _)| *state));
            stored.ends.push(stored.states.len());
            stored.places.push(found.last().copied().flatten().and_then(|(_, place)| place));
        };
        let Some(panes) = &self.stored else {
            store.fetch(self.keys.iter().map(|(pane, key)| (*pane, key.as_ref())))?;
            let slots = self.keys.iter().map(|(pane, key)| (*pane, store.hash(key), key.as_ref()));
            store.find_all(slots, |found| add(&[found]))?;
            return Ok(stored);
        };
        for ((_, key), panes) in self.keys.iter().zip(panes) {
            let (hash, mut found) = (store.hash(key), Vec::with_capacity(panes.len()));
            store.find_all(panes.iter().map(|pane| (*pane, hash, key.as_ref())), |one| found.push(one))?;
            add(&found);
        }
        Ok(stored)
    }

    /// The panes and keys by which rows of some slots were folded.
    fn folded(&self, partials: &[&Partial], slots: Range<usize>) -> Vec<Slot> {
        let rows = self.of.iter().zip(partials).flat_map(|(of, partial)| of.iter().zip(&partial.panes));
        rows.filter(|(slot, _)| slots.contains(slot)).map(|(slot, pane)| (*pane, self.keys[*slot].1.clone())).collect()
    }
}
