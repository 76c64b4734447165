//! The state table of a job: pane -> encoded key -> encoded partial state.
//!
//! In: the updates and removals of an epoch that closed well. Out: stored states by (pane, key), and the changes for the log.
//! Slots are in memory; over the budget those that were not changed for longest are on disk only (`evict.rs`). `read.rs` reads both.
//! **Invariant**: only [`Store::apply`], [`Store::remove`] and [`Store::load`] change it, so an epoch that fails before them leaves no trace.
//! **Invariant**: a slot in memory counts, whatever the disk has of it. After an error of the disk the table is not whole: it is dropped, and
//! made anew from the log.

use crate::limits::{STATE_SHARDS, StateLimit};
use crate::output::Change;
use crate::state::bulk::Bulk;
use crate::state::codec::{CodecError, stable_hash};
use crate::state::read::{AT_ONCE, Read, touch};
pub use crate::state::read::{Found, Part};
use crate::state::slots::{InMemory, Slots};
use crate::state::spill::{Spill, SpillError};
use crate::state::timers::{FirstTimer, Timers};
pub use crate::state::update::{Place, Update};
use std::borrow::Cow;
use std::collections::BTreeMap;
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

/// Bytes of an encoded pane.
pub(super) const PANE_BYTES: usize = 16;
/// Changes of removed slots that go to disk at once.
const REMOVED: usize = 65_536;

/// A slot: pane and encoded key.
pub type Slot = (PaneId, Box<[u8]>);

/// Key and state.
pub type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

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

impl std::iter::Sum for Sizes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            slots: a.slots + b.slots,
            bytes: a.bytes + b.bytes,
            memory_bytes: a.memory_bytes + b.memory_bytes,
            disk_slots: a.disk_slots + b.disk_slots,
            disk_bytes: a.disk_bytes + b.disk_bytes,
            disk_reads: a.disk_reads + b.disk_reads,
            disk_writes: a.disk_writes + b.disk_writes,
        })
    }
}

/// The slots of a pane.
#[derive(Default)]
pub(super) struct Pane {
    pub(super) slots: Slots,
    /// Slots that are on disk only.
    pub(super) cold: usize,
    /// Entries on disk: those, and those whose slot is in memory.
    pub(super) on_disk: usize,
    /// No slot that is on disk only has a key before this one: where a pane is taken off in parts, it is not searched anew for what has gone.
    pub(super) first: Box<[u8]>,
}

/// The table.
#[derive(Default)]
pub struct Store {
    pub(super) panes: BTreeMap<PaneId, Pane>,
    hasher: ahash::RandomState,
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
    /// Those of processing time: few, so they stay in memory.
    pub(super) processing_timers: Option<Timers>,
    pub(super) limit: StateLimit,
    pub(super) disk: Option<Spill>,
    pub(super) read: Read,
}

/// Bytes that an allocation takes: the allocator's classes are an eighth apart, and no less than 16.
pub fn allocated(bytes: usize) -> usize {
    if bytes <= 128 { bytes.next_multiple_of(16).max(16) } else { bytes + bytes / 8 }
}

/// Bytes of a pane without slots.
pub(super) const PANE_COST: usize = 2 * size_of::<(PaneId, Pane)>();

impl Store {
    /// An empty table without bounds; with a rule for it, slots have timers.
    pub fn new(first: Option<FirstTimer>) -> Self {
        Self { timers: first.map(Timers::new), ..Self::default() }
    }

    /// The same with timers of processing time too.
    #[must_use]
    pub fn waking(self, first: FirstTimer) -> Self {
        Self { processing_timers: Some(Timers::new(first)), ..self }
    }

    /// Slots whose timers of processing time went off at `now` or before; some may be gone by now.
    pub fn processing_timers_until(&self, now: i64) -> Vec<(PaneId, &[u8])> {
        self.processing_timers.as_ref().map_or_else(Vec::new, |timers| timers.in_memory_until(now))
    }

    /// Drops the timers of processing time up to `now`, and sets `rearmed`.
    ///
    /// # Errors
    /// None: they are never on disk.
    pub fn rearm_processing(&mut self, now: i64, rearmed: Vec<(i64, PaneId, Box<[u8]>)>) -> Result<(), SpillError> {
        self.processing_timers.as_mut().map_or(Ok(()), |timers| timers.rearm(now, rearmed, None))
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

    /// Applies an epoch: removes whole panes, then sets slots. Adds the changes for the log. What is over the budget goes to disk.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn apply(&mut self, updates: Vec<Update>, removed: &[PaneId], changes: &mut Bulk) -> Result<(), SpillError> {
        for pane in removed {
            self.remove_pane(*pane, changes)?;
        }
        let mut updates = updates.into_iter();
        while !updates.as_slice().is_empty() {
            let next = updates.as_slice();
            self.touch(&next[..next.len().min(AT_ONCE)]);
            for update in updates.by_ref().take(AT_ONCE) {
                change(changes, update.pane, update.key(), Some(update.state()));
                self.set(update)?;
            }
        }
        self.read = Read::default();
        self.round = self.round.saturating_add(1);
        self.keep_to_budget()
    }

    fn remove_pane(&mut self, pane: PaneId, changes: &mut Bulk) -> Result<(), SpillError> {
        let Some(gone) = self.panes.remove(&pane) else { return Ok(()) };
        self.memory -= PANE_COST + gone.slots.memory();
        let mut found = 0;
        if let Some(disk) = self.disk.as_mut().filter(|_| gone.on_disk > 0) {
            let mut keys: Vec<Box<[u8]>> = Vec::new();
            let mut entries = Vec::new();
            // What is read is of the moment at which reading began, so removing does not disturb it.
            for entry in disk.pane(pane, &[]) {
                let (key, state) = entry?;
                if gone.slots.find(hash_of(&self.hasher, &key), &key).is_none() {
                    found += 1;
                    self.bytes -= key.len() + state.len();
                    self.cold_bytes -= key.len() + state.len();
                    change(changes, pane, &key, None);
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
        self.slots -= gone.slots.len();
        for slot in gone.slots.iter() {
            self.bytes -= slot.len();
            change(changes, pane, slot.key(), None);
        }
        Ok(())
    }

    /// Removes slots. Adds the changes for the log.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn remove(&mut self, slots: &[Slot], changes: &mut Bulk) -> Result<(), SpillError> {
        let mut on_disk = Vec::new();
        for (pane, key) in slots {
            if self.unset(*pane, key)? {
                on_disk.push((*pane, key.as_ref()));
            }
            change(changes, *pane, key, None);
        }
        if let Some(disk) = self.disk.as_mut().filter(|_| !on_disk.is_empty()) {
            on_disk.sort_unstable();
            disk.write(on_disk.len(), on_disk.iter().map(|(pane, key)| (*pane, *key, None)))?;
        }
        Ok(())
    }

    /// Takes one entry of the log back in; the last of a slot counts. What is over the budget goes to disk.
    ///
    /// # Errors
    /// [`LoadError`]: the entry has no pane, or the disk refuses.
    pub fn load(&mut self, entry: Change) -> Result<(), LoadError> {
        let (pane, key) = split(&entry.key)?;
        match entry.value {
            Some(state) => {
                self.set(Update::new(pane, key, &state))?;
                self.keep_to_budget()?;
            }
            None => self.remove(&[(pane, key.into())], &mut Bulk::default())?,
        }
        if self.disk.is_some() {
            // What was read may have changed on disk since.
            self.read = Read::default();
        }
        Ok(())
    }

    /// Takes a slot out of the table; whether the disk has an entry of it, which is still there.
    fn unset(&mut self, pane: PaneId, key: &[u8]) -> Result<bool, SpillError> {
        let hash = self.hash(key);
        let Some(slots) = self.panes.get_mut(&pane) else { return Ok(false) };
        let before = slots.slots.memory();
        let mut on_disk = false;
        if let Some(old) = slots.slots.remove(hash, key) {
            self.bytes -= old.len();
            self.memory = self.memory + slots.slots.memory() - before;
            self.slots -= 1;
            on_disk = old.on_disk();
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
            self.memory -= PANE_COST + slots.slots.memory();
            self.panes.remove(&pane);
        }
        Ok(on_disk)
    }

    /// Touches slots that are about to be set.
    fn touch(&self, updates: &[Update]) {
        for of_pane in updates.chunk_by(|a, b| a.pane == b.pane) {
            let Some(Pane { slots, .. }) = self.panes.get(&of_pane[0].pane) else { continue };
            touch(of_pane.iter().map(|update| match update.place {
                Some(Place::Number(number)) => slots.at(number)?.touch(),
                Some(Place::Hash(hash)) => slots.touch(hash.into()),
                None => slots.touch(self.hash(update.key())),
            }));
        }
    }

    /// Sets a slot.
    fn set(&mut self, update: Update) -> Result<(), SpillError> {
        let (hasher, memory) = (&self.hasher, &mut self.memory);
        let slots = self.panes.entry(update.pane).or_insert_with(|| {
            *memory += PANE_COST;
            Pane::default()
        });
        let (pane, key) = (update.pane, update.key());
        let before = slots.slots.memory();
        self.bytes += update.bytes.len();
        let is_it = |number: u32| slots.slots.at(number).is_some_and(|slot| slot.key() == key);
        let (hash, found) = match update.place {
            Some(Place::Number(number)) if is_it(number) => (0, Some(number)),
            place => {
                let hash = if let Some(Place::Hash(hash)) = place { hash.into() } else { hash_of(hasher, key) };
                (hash, slots.slots.find(hash, key).map(|(number, _)| number))
            }
        };
        match found {
            Some(number) => {
                self.bytes -= slots.slots.at(number).map_or(0, InMemory::len);
                slots.slots.replace(number, update.bytes, self.round);
            }
            None => {
                let cold = slots.cold > 0;
                let old = if cold { self.read.get(self.disk.as_ref(), pane, key)?.map(<[u8]>::len) } else { None };
                match old {
                    Some(old) => {
                        self.bytes -= key.len() + old;
                        self.cold_bytes -= key.len() + old;
                        (self.cold, slots.cold) = (self.cold - 1, slots.cold - 1);
                    }
                    None => {
                        self.slots += 1;
                        for timers in self.timers.iter_mut().chain(&mut self.processing_timers) {
                            timers.add(pane, key, update.state());
                        }
                    }
                }
                slots.slots.insert(hash, InMemory::new(update.bytes, update.key, self.round, old.is_some()));
            }
        }
        self.memory = self.memory + slots.slots.memory() - before;
        Ok(())
    }

    /// The hash of a key, for [`Store::find`].
    pub fn hash(&self, key: &[u8]) -> u64 {
        hash_of(&self.hasher, key)
    }
}

fn hash_of(hasher: &ahash::RandomState, key: &[u8]) -> u64 {
    hasher.hash_one(key)
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

pub(super) fn shard(key: &[u8]) -> u16 {
    (stable_hash(key) % u64::from(STATE_SHARDS)) as u16
}

fn be(bytes: &[u8]) -> i64 {
    bytes.try_into().map_or(0, i64::from_be_bytes)
}

/// Adds the log's entry of a slot: shard by the key alone, so that a key's panes stay together.
fn change(changes: &mut Bulk, pane: PaneId, key: &[u8], value: Option<&[u8]>) {
    let mut of = [0; PANE_BYTES];
    of[..8].copy_from_slice(&pane.start.to_be_bytes());
    of[8..].copy_from_slice(&pane.from.to_be_bytes());
    changes.push_parts(shard(key), [&of, key], value);
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
