//! The state table of a job: pane -> encoded key -> encoded partial state.
//!
//! In: the updates and removals of an epoch that closed well. Out: stored states by (pane, key), and the changes for the log.
//! Slots are in memory; over the budget those that were not changed for longest are on disk only ([`crate::state::evict`]).
//! **Invariant**: only [`Store::apply`], [`Store::remove`] and [`Store::load`] change it, so an epoch that fails before them leaves no trace.
//! **Invariant**: a slot in memory counts, whatever the disk has of it. After an error of the disk the table is not whole: it is dropped, and
//! made anew from the log.

use crate::limits::{STATE_SHARDS, StateLimit};
use crate::output::Change;
use crate::state::arena::Arena;
use crate::state::codec::{CodecError, stable_hash};
use crate::state::savepoint;
use crate::state::spill::{Spill, SpillError};
use crate::state::timers::{FirstTimer, Timers};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

/// A pane: a slice of event time that overlapping windows share.
///
/// `from` is the first window that its rows count in (its start; see [`crate::operator::assigner::Aligned`]). It is the first window over the
/// pane for all rows but those that came when some of their windows had closed: they count in the rest only, so they have a pane of
/// their own. Of sessions it is the watermark that rows came behind ([`crate::operator::assigner::session`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaneId {
    /// Start of the pane, milliseconds since 1970 UTC.
    pub start: i64,
    /// Start of the first window that the pane's rows count in.
    pub from: i64,
}

impl PaneId {
    /// All panes whose start is in `first..=last`.
    pub fn range(first: i64, last: i64) -> RangeInclusive<Self> {
        Self { start: first, from: i64::MIN }..=Self { start: last, from: i64::MAX }
    }
}

const PANE_BYTES: usize = 16;
/// Changes of removed slots that go to disk at once.
const REMOVED: usize = 65_536;

/// A slot: pane and encoded key.
pub type Slot = (PaneId, Box<[u8]>);

/// Key and state.
pub type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// One slot's new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Pane.
    pub pane: PaneId,
    /// Encoded key.
    pub key: Box<[u8]>,
    /// Encoded partial state.
    pub state: Box<[u8]>,
}

/// Why an entry could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It does not read back.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// There is no room for it.
    #[error("{0}")]
    Spill(#[from] SpillError),
}

/// How large a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Slots, in memory or not.
    pub slots: usize,
    /// Bytes of their keys and states.
    pub bytes: usize,
    /// Bytes of memory that the table takes, with what holds it: hash tables, the allocator's rounding, timers, merged panes, keys of results
    /// that have changed.
    pub memory_bytes: usize,
    /// Slots that are on disk only.
    pub disk_slots: usize,
    /// Bytes of their keys and states.
    pub disk_bytes: usize,
    /// Entries read from disk since the table was made.
    pub disk_reads: u64,
    /// Entries written to disk since the table was made.
    pub disk_writes: u64,
}

/// A slot in memory.
pub(super) struct InMemory {
    pub(super) state: Box<[u8]>,
    /// The epoch, counted from the start of the table, that changed it last.
    pub(super) touched: u32,
    /// The disk has an older state of it.
    pub(super) on_disk: bool,
}

/// The slots of a pane.
#[derive(Default)]
pub(super) struct Pane {
    pub(super) slots: HashMap<Box<[u8]>, InMemory, ahash::RandomState>,
    /// Its capacity as it is counted: that of the hash table falls with removals, and the memory does not.
    pub(super) capacity: usize,
    /// Slots that are on disk only.
    pub(super) cold: usize,
    /// Entries on disk: those, and those whose slot is in memory.
    pub(super) on_disk: usize,
    /// No slot that is on disk only has a key before this one: where a pane is taken off in parts, it is not searched anew for what has gone.
    pub(super) first: Box<[u8]>,
}

/// Some slots of a pane.
#[derive(Default)]
pub struct Part<'a> {
    /// Keys and states.
    pub slots: Vec<(&'a [u8], &'a [u8])>,
    /// The first key on disk that is not among them, where it is known.
    pub next: Option<Box<[u8]>>,
}

/// What was read from disk since the last change of the table.
#[derive(Default)]
struct Read {
    bytes: Arena,
    /// Number in `bytes`; none where the disk has no such slot.
    index: RefCell<HashMap<Slot, Option<usize>, ahash::RandomState>>,
}

/// The table.
#[derive(Default)]
pub struct Store {
    pub(super) panes: BTreeMap<PaneId, Pane>,
    bytes: usize,
    slots: usize,
    pub(super) cold: usize,
    pub(super) cold_bytes: usize,
    /// Bytes of memory of `panes`.
    pub(super) memory: usize,
    /// Bytes of memory of what others keep by slot.
    pub(super) beside: usize,
    pub(super) round: u32,
    pub(super) timers: Option<Timers>,
    pub(super) limit: StateLimit,
    pub(super) disk: Option<Spill>,
    read: Read,
}

/// Bytes that an allocation takes: the allocator's classes are an eighth apart, and no less than 16.
pub fn allocated(bytes: usize) -> usize {
    if bytes <= 128 { bytes.next_multiple_of(16).max(16) } else { bytes + bytes / 8 }
}

/// Bytes of a hash table of this capacity: an entry and a byte of control each place, of which 7 in 8 are used.
pub(super) fn table(capacity: usize) -> usize {
    (capacity * 8 / 7) * (size_of::<(Box<[u8]>, InMemory)>() + 1)
}

/// Bytes of a pane without slots.
pub(super) const PANE_COST: usize = 2 * size_of::<(PaneId, Pane)>();

impl Store {
    /// An empty table without bounds; with a rule for it, slots have timers.
    pub fn new(first: Option<FirstTimer>) -> Self {
        Self { timers: first.map(Timers::new), ..Self::default() }
    }

    /// The same with a budget of memory; what is over it goes to disk.
    #[must_use]
    pub fn within(self, limit: StateLimit) -> Self {
        Self { limit, ..self }
    }

    /// Removes what a process that was killed left on disk, where this table has not begun to use the disk itself.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn tidy(&self) -> Result<(), SpillError> {
        match (&self.limit.spill, &self.disk) {
            (Some(path), None) => Spill::remove(path),
            _ => Ok(()),
        }
    }

    /// Slots whose timers went off at `now` or before; some may be gone by now.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn timers_until(&self, now: i64) -> Result<Vec<(PaneId, &[u8])>, SpillError> {
        let timers = self.timers.as_ref().map(|t| t.until(now, self.disk.as_ref(), &self.read.bytes));
        timers.unwrap_or(Ok(Vec::new()))
    }

    /// Drops the timers up to `now`, and sets `rearmed`.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn rearm(&mut self, now: i64, rearmed: Vec<(i64, PaneId, Box<[u8]>)>) -> Result<(), SpillError> {
        self.timers.as_mut().map_or(Ok(()), |timers| timers.rearm(now, rearmed, self.disk.as_mut()))
    }

    /// The stored state of a key in a pane.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn get(&self, pane: PaneId, key: &[u8]) -> Result<Option<&[u8]>, SpillError> {
        let Some(slots) = self.panes.get(&pane) else { return Ok(None) };
        match slots.slots.get(key) {
            Some(slot) => Ok(Some(&slot.state)),
            None if slots.cold == 0 => Ok(None),
            None => self.read.get(self.disk.as_ref(), pane, key),
        }
    }

    /// Whether a slot is there.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn has(&self, pane: PaneId, key: &[u8]) -> Result<bool, SpillError> {
        Ok(self.get(pane, key)?.is_some())
    }

    /// Reads those of the slots that are on disk, in the disk's order, which costs less than as they come.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn fetch(&self, slots: &[Slot]) -> Result<(), SpillError> {
        if self.cold == 0 {
            return Ok(());
        }
        let is_cold = |(pane, key): &&Slot| self.panes.get(pane).is_some_and(|p| p.cold > 0 && !p.slots.contains_key(key));
        let mut cold: Vec<&Slot> = slots.iter().filter(is_cold).collect();
        cold.sort_unstable();
        cold.into_iter().try_for_each(|(pane, key)| self.read.get(self.disk.as_ref(), *pane, key).map(drop))
    }

    /// Whether some slots of a pane are on disk only.
    pub fn is_cold(&self, pane: PaneId) -> bool {
        self.panes.get(&pane).is_some_and(|p| p.cold > 0)
    }

    /// The slots of a pane, in no order. Those on disk are read whole; see [`Store::sorted`].
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn entries(&self, pane: PaneId) -> Result<impl Iterator<Item = (&[u8], &[u8])>, SpillError> {
        let slots = self.panes.get(&pane);
        let mut cold = Vec::new();
        if slots.is_some_and(|p| p.cold > 0) {
            self.cold_entries(pane, &mut |key, state| {
                cold.push((self.read.bytes.keep(key), self.read.bytes.keep(state)));
                Ok(())
            })?;
        }
        let hot = slots.into_iter().flat_map(|p| &p.slots).map(|(key, slot)| (key.as_ref(), slot.state.as_ref()));
        Ok(hot.chain(cold))
    }

    /// The slots of a pane by key; those on disk are read as it goes, and not kept.
    ///
    /// # Errors
    /// Each item may be a [`SpillError`], and is the last one then.
    pub fn sorted(&self, pane: PaneId) -> impl Iterator<Item = Result<Pair<'_>, SpillError>> {
        let slots = self.panes.get(&pane);
        let mut hot: Vec<(&[u8], &[u8])> =
            slots.into_iter().flat_map(|p| &p.slots).map(|(key, slot)| (key.as_ref(), slot.state.as_ref())).collect();
        hot.sort_unstable_by_key(|(key, _)| *key);
        let mut hot = hot.into_iter().peekable();
        let expected = slots.map_or(0, |p| p.cold);
        let disk = self.disk.as_ref().filter(|_| expected > 0);
        let stored = disk.into_iter().flat_map(move |d| d.pane(pane, &[]));
        let known = move |key: &[u8]| slots.is_some_and(|p| p.slots.contains_key(key));
        let mut cold = stored.filter(move |e| !e.as_ref().is_ok_and(|(key, _)| known(key))).peekable();
        let mut found = 0;
        std::iter::from_fn(move || {
            let is_cold = match (hot.peek(), cold.peek()) {
                (_, Some(Err(_))) => true,
                (Some((key, _)), Some(Ok((other, _)))) => other.as_ref() < *key,
                (hot, cold) => hot.is_none() && cold.is_some(),
            };
            if !is_cold {
                let next = hot.next().map(|(key, state)| Ok((Cow::Borrowed(key), Cow::Borrowed(state))));
                // At the end: what was written is there, or the disk has lost something.
                return next.or_else(|| self.lost(pane, expected, std::mem::replace(&mut found, expected)).err().map(Err));
            }
            found += 1;
            cold.next().map(|entry| entry.map(|(key, state)| (Cow::Owned(key.into_vec()), Cow::Owned(state.into_vec()))))
        })
    }

    /// Calls `each` with the slots of a pane that are on disk only.
    fn cold_entries(
        &self,
        pane: PaneId,
        each: &mut dyn FnMut(Box<[u8]>, Box<[u8]>) -> Result<(), SpillError>,
    ) -> Result<(), SpillError> {
        let Some(slots) = self.panes.get(&pane).filter(|p| p.cold > 0) else { return Ok(()) };
        let mut found = 0;
        for entry in self.disk.iter().flat_map(|d| d.pane(pane, &[])) {
            let (key, state) = entry?;
            if !slots.slots.contains_key(&key) {
                found += 1;
                each(key, state)?;
            }
        }
        self.lost(pane, slots.cold, found)
    }

    /// Up to `count` slots of a pane but those that `skip` names, in no order, those in memory first; and from which key on to look next time
    /// ([`Store::taken`]), when these have been removed.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn some(&self, pane: PaneId, count: usize, skip: &dyn Fn(&[u8]) -> bool) -> Result<Part<'_>, SpillError> {
        let mut part = Part::default();
        let Some(slots) = self.panes.get(&pane) else { return Ok(part) };
        let hot = slots.slots.iter().filter(|(key, _)| !skip(key)).map(|(key, slot)| (key.as_ref(), slot.state.as_ref()));
        part.slots.extend(hot.take(count));
        if part.slots.len() == count || slots.cold == 0 {
            return Ok(part);
        }
        let mut index = self.read.index.borrow_mut();
        let mut found = 0;
        for entry in self.disk.iter().flat_map(|d| d.pane(pane, &slots.first)) {
            let (key, state) = entry?;
            if slots.slots.contains_key(&key) {
                continue;
            }
            found += 1;
            if skip(&key) {
                continue;
            }
            if part.slots.len() == count {
                part.next = Some(key);
                return Ok(part);
            }
            let at = self.read.bytes.push(state);
            part.slots.push((self.read.bytes.keep(key.clone()), self.read.bytes.get(at)));
            index.insert((pane, key), Some(at));
        }
        self.lost(pane, slots.cold, found)?;
        Ok(part)
    }

    /// The slots of a pane that are on disk and before `key` have been removed.
    pub fn taken(&mut self, pane: PaneId, key: Box<[u8]>) {
        if let Some(slots) = self.panes.get_mut(&pane) {
            slots.first = key;
        }
    }

    /// Slots of a pane.
    pub fn pane_slots(&self, pane: PaneId) -> usize {
        self.panes.get(&pane).map_or(0, |p| p.slots.len() + p.cold)
    }

    fn lost(&self, pane: PaneId, expected: usize, found: usize) -> Result<(), SpillError> {
        match &self.disk {
            Some(disk) if expected != found => {
                Err(disk.damaged(format!("the slice of time {} has {found} entries there, {expected} were written", pane.start)))
            }
            _ => Ok(()),
        }
    }

    /// All panes, by start.
    pub fn panes(&self) -> impl Iterator<Item = PaneId> {
        self.panes.keys().copied()
    }

    /// Panes in a range, ascending.
    pub fn panes_in(&self, range: RangeInclusive<PaneId>) -> impl Iterator<Item = PaneId> {
        self.panes.range(range).map(|(pane, _)| *pane)
    }

    /// Slots in all panes, in memory or not.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes of keys and states, in memory or not.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All sizes.
    pub fn sizes(&self) -> Sizes {
        let (disk_reads, disk_writes) = self.disk.as_ref().map_or((0, 0), Spill::counts);
        Sizes {
            slots: self.slots,
            bytes: self.bytes,
            memory_bytes: self.memory_bytes(),
            disk_slots: self.cold,
            disk_bytes: self.cold_bytes,
            disk_reads,
            disk_writes,
        }
    }

    /// Says how many bytes others keep by slot, beside the table: they count in the budget.
    pub fn set_beside(&mut self, bytes: usize) {
        self.beside = bytes;
    }

    /// Applies an epoch: removes whole panes, then sets slots. Gives the changes for the log. What is over the budget goes to disk.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn apply(&mut self, updates: Vec<Update>, removed: &[PaneId]) -> Result<Vec<Change>, SpillError> {
        let mut changes = Vec::with_capacity(updates.len());
        for pane in removed {
            self.remove_pane(*pane, &mut changes)?;
        }
        for update in updates {
            changes.push(change(update.pane, &update.key, Some(update.state.to_vec())));
            self.set(update, false)?;
        }
        self.read = Read::default();
        self.round = self.round.saturating_add(1);
        self.keep_to_budget()?;
        Ok(changes)
    }

    fn remove_pane(&mut self, pane: PaneId, changes: &mut Vec<Change>) -> Result<(), SpillError> {
        let Some(gone) = self.panes.remove(&pane) else { return Ok(()) };
        self.memory -= PANE_COST + table(gone.capacity);
        let mut found = 0;
        if let Some(disk) = self.disk.as_mut().filter(|_| gone.on_disk > 0) {
            let mut keys: Vec<Box<[u8]>> = Vec::new();
            let mut entries = Vec::new();
            // What is read is of the moment at which reading began, so removing does not disturb it.
            for entry in disk.pane(pane, &[]) {
                let (key, state) = entry?;
                if !gone.slots.contains_key(&key) {
                    found += 1;
                    self.bytes -= key.len() + state.len();
                    self.cold_bytes -= key.len() + state.len();
                    changes.push(change(pane, &key, None));
                }
                keys.push(key);
                if keys.len() == REMOVED {
                    entries.push(std::mem::take(&mut keys));
                }
            }
            entries.push(keys);
            for keys in entries {
                disk.write(keys.len(), keys.iter().map(|key| (pane, key.as_ref(), None)))?;
            }
            self.cold -= gone.cold;
            self.slots -= gone.cold;
        }
        self.lost(pane, gone.cold, found)?;
        for (key, slot) in gone.slots {
            self.bytes -= key.len() + slot.state.len();
            self.memory -= allocated(key.len()) + allocated(slot.state.len());
            self.slots -= 1;
            changes.push(change(pane, &key, None));
        }
        Ok(())
    }

    /// Appends all entries, or those of one encoded key, to a savepoint that is built in memory; how many, or none where `savepoint` would
    /// have more than `bytes_max`.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn copy(&self, key: Option<&[u8]>, bytes_max: usize, savepoint: &mut Vec<u8>) -> Result<Option<u64>, SpillError> {
        let mut count = 0;
        let mut add = |pane: PaneId, key: &[u8], state: &[u8]| {
            let (start, from) = (pane.start.to_be_bytes(), pane.from.to_be_bytes());
            let fits = savepoint.len() + key.len() + state.len() <= bytes_max;
            if fits {
                savepoint::entry(shard(key), &[&start, &from, key], state, savepoint);
                count += 1;
            }
            fits
        };
        for (pane, slots) in &self.panes {
            if let Some(key) = key {
                if let Some(state) = slots.slots.get(key).map(|s| &s.state)
                    && !add(*pane, key, state)
                {
                    return Ok(None);
                }
                if let Some(disk) = self.disk.as_ref().filter(|_| slots.cold > 0 && !slots.slots.contains_key(key))
                    && let Some(state) = disk.get(*pane, key)?
                    && !add(*pane, key, &state)
                {
                    return Ok(None);
                }
                continue;
            }
            if !slots.slots.iter().all(|(key, slot)| add(*pane, key, &slot.state)) {
                return Ok(None);
            }
            let mut fits = true;
            self.cold_entries(*pane, &mut |key, state| {
                fits = fits && add(*pane, &key, &state);
                Ok(())
            })?;
            if !fits {
                return Ok(None);
            }
        }
        Ok(Some(count))
    }

    /// Removes slots. Gives the changes for the log.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn remove(&mut self, slots: &[Slot]) -> Result<Vec<Change>, SpillError> {
        let mut changes = Vec::with_capacity(slots.len());
        let mut on_disk = Vec::new();
        for (pane, key) in slots {
            if self.unset(*pane, key)? {
                on_disk.push((*pane, key.as_ref()));
            }
            changes.push(change(*pane, key, None));
        }
        if let Some(disk) = self.disk.as_mut().filter(|_| !on_disk.is_empty()) {
            on_disk.sort_unstable();
            disk.write(on_disk.len(), on_disk.iter().map(|(pane, key)| (*pane, *key, None)))?;
        }
        Ok(changes)
    }

    /// Takes one entry of the log back in; each slot comes once. What is over the budget goes to disk.
    ///
    /// # Errors
    /// [`LoadError`]: the entry has no pane, or the disk refuses.
    pub fn load(&mut self, entry: Change) -> Result<(), LoadError> {
        let (pane, key) = split(&entry.key)?;
        match entry.value {
            Some(state) => {
                self.set(Update { pane, key: key.into(), state: state.into() }, true)?;
                Ok(self.keep_to_budget()?)
            }
            None => Ok(self.remove(&[(pane, key.into())]).map(drop)?),
        }
    }

    /// Takes a slot out of the table; whether the disk has an entry of it, which is still there.
    fn unset(&mut self, pane: PaneId, key: &[u8]) -> Result<bool, SpillError> {
        let Some(slots) = self.panes.get_mut(&pane) else { return Ok(false) };
        let mut on_disk = false;
        if let Some(old) = slots.slots.remove(key) {
            self.bytes -= key.len() + old.state.len();
            self.memory -= allocated(key.len()) + allocated(old.state.len());
            self.slots -= 1;
            on_disk = old.on_disk;
        } else if slots.cold > 0
            && let Some(state) = self.read.get(self.disk.as_ref(), pane, key)?.map(<[u8]>::len)
        {
            self.bytes -= key.len() + state;
            self.cold_bytes -= key.len() + state;
            (self.slots, self.cold, slots.cold) = (self.slots - 1, self.cold - 1, slots.cold - 1);
            on_disk = true;
        }
        if on_disk {
            slots.on_disk -= 1;
            self.read.forget(pane, key);
        }
        if slots.slots.is_empty() && slots.on_disk == 0 {
            self.memory -= PANE_COST + table(slots.capacity);
            self.panes.remove(&pane);
        }
        Ok(on_disk)
    }

    /// Sets a slot; `is_new` where it is known that there is none on disk.
    fn set(&mut self, update: Update, is_new: bool) -> Result<(), SpillError> {
        let Update { pane, key, state } = update;
        let memory = &mut self.memory;
        let slots = self.panes.entry(pane).or_insert_with(|| {
            *memory += PANE_COST;
            Pane::default()
        });
        self.bytes += key.len() + state.len();
        self.memory += allocated(state.len());
        match slots.slots.entry(key) {
            Entry::Occupied(mut slot) => {
                self.bytes -= slot.key().len() + slot.get().state.len();
                self.memory -= allocated(slot.get().state.len());
                let slot = slot.get_mut();
                (slot.state, slot.touched) = (state, self.round);
            }
            Entry::Vacant(place) => {
                let key = place.key();
                self.memory += allocated(key.len());
                let cold = slots.cold > 0 && !is_new;
                let old = if cold { self.read.get(self.disk.as_ref(), pane, key)?.map(<[u8]>::len) } else { None };
                match old {
                    Some(old) => {
                        self.bytes -= key.len() + old;
                        self.cold_bytes -= key.len() + old;
                        (self.cold, slots.cold) = (self.cold - 1, slots.cold - 1);
                    }
                    None => {
                        self.slots += 1;
                        if let Some(timers) = &mut self.timers {
                            timers.add(pane, key, &state);
                        }
                    }
                }
                place.insert(InMemory { state, touched: self.round, on_disk: old.is_some() });
            }
        }
        let capacity = slots.slots.capacity();
        if capacity > slots.capacity {
            self.memory += table(capacity) - table(slots.capacity);
            slots.capacity = capacity;
        }
        Ok(())
    }
}

impl Read {
    /// A slot of a pane that is not in memory.
    fn get(&self, disk: Option<&Spill>, pane: PaneId, key: &[u8]) -> Result<Option<&[u8]>, SpillError> {
        let Some(disk) = disk else { return Ok(None) };
        let slot: Slot = (pane, key.into());
        if let Some(known) = self.index.borrow().get(&slot) {
            return Ok(known.map(|at| self.bytes.get(at)));
        }
        let found = disk.get(pane, key)?.map(|state| self.bytes.push(state));
        self.index.borrow_mut().insert(slot, found);
        Ok(found.map(|at| self.bytes.get(at)))
    }

    /// The disk's entry of a slot is about to be removed.
    fn forget(&self, pane: PaneId, key: &[u8]) {
        self.index.borrow_mut().insert((pane, key.into()), None);
    }
}

/// The pane and the encoded key of an entry of the log.
///
/// # Errors
/// [`CodecError::Corrupt`] when it has no pane.
pub fn split(entry: &[u8]) -> Result<(PaneId, &[u8]), CodecError> {
    let Some((pane, key)) = entry.split_at_checked(PANE_BYTES) else {
        return Err(CodecError::Corrupt { what: "key", why: format!("{} bytes are too few for a pane", entry.len()) });
    };
    Ok((PaneId { start: be(&pane[..8]), from: be(&pane[8..]) }, key))
}

fn shard(key: &[u8]) -> u16 {
    (stable_hash(key) % u64::from(STATE_SHARDS)) as u16
}

fn be(bytes: &[u8]) -> i64 {
    bytes.try_into().map_or(0, i64::from_be_bytes)
}

/// The log's entry of a slot: shard by the key alone, so that a key's panes stay together.
fn change(pane: PaneId, key: &[u8], value: Option<Vec<u8>>) -> Change {
    let mut full = Vec::with_capacity(PANE_BYTES + key.len());
    full.extend_from_slice(&pane.start.to_be_bytes());
    full.extend_from_slice(&pane.from.to_be_bytes());
    full.extend_from_slice(key);
    Change { shard: shard(key), key: full, value }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
