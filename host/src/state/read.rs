//! Reading the table: a slot, a pane, all of it; from memory, and from disk where slots are there only.
//!
//! What is read for the close of an epoch is kept until the epoch is applied, so it can be borrowed like what is in memory; what is read whole
//! pane by pane is given as it comes.

use super::arena::Arena;
use super::savepoint;
use super::slots::InMemory;
use super::spill::{Spill, SpillError};
use super::store::{Pair, Pane, PaneId, Place, Slot, Store, shard};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

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
pub(super) struct Read {
    pub(super) bytes: Arena,
    /// Number in `bytes`; none where the disk has no such slot.
    index: RefCell<HashMap<Slot, Option<usize>, ahash::RandomState>>,
}

/// The state of a slot that is there, and where it is, if in memory.
pub type Found<'a> = Option<(&'a [u8], Option<Place>)>;

/// Slots that are touched at once.
pub(super) const AT_ONCE: usize = 64;

/// Reads a little of many, before each is looked at: one that is not in the processor's caches is waited for, several times, and in a short loop
/// the processor waits for many together. That halves what an epoch over many keys costs.
pub(super) fn touch(some: impl Iterator<Item = Option<u8>>) {
    std::hint::black_box(some.flatten().fold(0, |all, byte| all ^ byte));
}

/// Takes a key and a state.
type Each<'a> = dyn FnMut(Box<[u8]>, Box<[u8]>) -> Result<(), SpillError> + 'a;

impl Store {
    /// The stored state of a key in a pane.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn get(&self, pane: PaneId, key: &[u8]) -> Result<Option<&[u8]>, SpillError> {
        Ok(self.find(pane, self.hash(key), key)?.map(|(state, _)| state))
    }

    /// The same for a key of this hash ([`Store::hash`]), and where it is, if in memory.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn find(&self, pane: PaneId, hash: u64, key: &[u8]) -> Result<Found<'_>, SpillError> {
        let Some(slots) = self.panes.get(&pane) else { return Ok(None) };
        match slots.slots.find(hash, key) {
            Some((number, slot)) => Ok(Some((slot.state(), Some(Place::Number(number))))),
            None if slots.cold == 0 => Ok(None),
            None => Ok(self.read.get(self.disk.as_ref(), pane, key)?.map(|state| (state, None))),
        }
    }

    /// [`Store::find`] for many slots, each with its key's hash; `each` is given what is found, in their order.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn find_all<'a, 'k>(
        &'a self,
        mut slots: impl Iterator<Item = (PaneId, u64, &'k [u8])>,
        mut each: impl FnMut(Found<'a>),
    ) -> Result<(), SpillError> {
        let mut some: Vec<(PaneId, u64, &[u8])> = Vec::with_capacity(AT_ONCE);
        loop {
            some.extend(slots.by_ref().take(AT_ONCE));
            if some.is_empty() {
                return Ok(());
            }
            for of_pane in some.chunk_by(|a, b| a.0 == b.0) {
                if let Some(slots) = self.panes.get(&of_pane[0].0) {
                    touch(of_pane.iter().map(|(_, hash, _)| slots.slots.touch(*hash)));
                }
            }
            for (pane, hash, key) in some.drain(..) {
                each(self.find(pane, hash, key)?);
            }
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
    pub fn fetch<'k>(&self, slots: impl Iterator<Item = (PaneId, &'k [u8])>) -> Result<(), SpillError> {
        if self.cold == 0 {
            return Ok(());
        }
        let is_cold = |(pane, key): &(PaneId, &[u8])| self.panes.get(pane).is_some_and(|p| p.cold > 0 && !self.is_hot(p, key));
        let mut cold: Vec<_> = slots.filter(is_cold).collect();
        cold.sort_unstable();
        cold.into_iter().try_for_each(|(pane, key)| self.read.get(self.disk.as_ref(), pane, key).map(drop))
    }

    /// Whether a slot of a pane is in memory.
    fn is_hot(&self, pane: &Pane, key: &[u8]) -> bool {
        pane.slots.find(self.hash(key), key).is_some()
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
        let hot = slots.into_iter().flat_map(|p| p.slots.iter()).map(InMemory::parts);
        Ok(hot.chain(cold))
    }

    /// The slots of a pane by key; those on disk are read as it goes, and not kept.
    ///
    /// # Errors
    /// Each item may be a [`SpillError`], and is the last one then.
    pub fn sorted(&self, pane: PaneId) -> impl Iterator<Item = Result<Pair<'_>, SpillError>> {
        let slots = self.panes.get(&pane);
        let mut hot: Vec<(&[u8], &[u8])> = slots.into_iter().flat_map(|p| p.slots.iter()).map(InMemory::parts).collect();
        hot.sort_unstable_by_key(|(key, _)| *key);
        let mut hot = hot.into_iter().peekable();
        let expected = slots.map_or(0, |p| p.cold);
        let disk = self.disk.as_ref().filter(|_| expected > 0);
        let stored = disk.into_iter().flat_map(move |d| d.pane(pane, &[]));
        let known = move |key: &[u8]| slots.is_some_and(|p| self.is_hot(p, key));
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
    fn cold_entries(&self, pane: PaneId, each: &mut Each<'_>) -> Result<(), SpillError> {
        let Some(slots) = self.panes.get(&pane).filter(|p| p.cold > 0) else { return Ok(()) };
        let mut found = 0;
        for entry in self.disk.iter().flat_map(|d| d.pane(pane, &[])) {
            let (key, state) = entry?;
            if !self.is_hot(slots, &key) {
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
        let hot = slots.slots.iter().map(InMemory::parts).filter(|(key, _)| !skip(key));
        part.slots.extend(hot.take(count));
        if part.slots.len() == count || slots.cold == 0 {
            return Ok(part);
        }
        let mut index = self.read.index.borrow_mut();
        let mut found = 0;
        for entry in self.disk.iter().flat_map(|d| d.pane(pane, &slots.first)) {
            let (key, state) = entry?;
            if self.is_hot(slots, &key) {
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

    pub(super) fn lost(&self, pane: PaneId, expected: usize, found: usize) -> Result<(), SpillError> {
        match &self.disk {
            Some(disk) if expected != found => {
                Err(disk.damaged(format!("the slice of time {} has {found} entries there, {expected} were written", pane.start)))
            }
            _ => Ok(()),
        }
    }

    /// Appends all entries, or those of one encoded key, to a savepoint that is built in memory, with `prefix` before their keys; how many, or none where `savepoint` would
    /// have more than `bytes_max`.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn copy(
        &self,
        prefix: &[u8],
        key: Option<&[u8]>,
        bytes_max: usize,
        savepoint: &mut Vec<u8>,
    ) -> Result<Option<u64>, SpillError> {
        let mut count = 0;
        let mut add = |pane: PaneId, key: &[u8], state: &[u8]| {
            let (start, from) = (pane.start.to_be_bytes(), pane.from.to_be_bytes());
            let fits = savepoint.len() + key.len() + state.len() <= bytes_max;
            if fits {
                savepoint::entry(shard(key), &[prefix, &start, &from, key], state, savepoint);
                count += 1;
            }
            fits
        };
        for (pane, slots) in &self.panes {
            if let Some(key) = key {
                let hot = slots.slots.find(self.hash(key), key).map(|(_, slot)| slot.state());
                if let Some(state) = hot
                    && !add(*pane, key, state)
                {
                    return Ok(None);
                }
                if let Some(disk) = self.disk.as_ref().filter(|_| slots.cold > 0 && hot.is_none())
                    && let Some(state) = disk.get(*pane, key)?
                    && !add(*pane, key, &state)
                {
                    return Ok(None);
                }
                continue;
            }
            if !slots.slots.iter().all(|slot| add(*pane, slot.key(), slot.state())) {
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
}

impl Read {
    /// A slot of a pane that is not in memory.
    pub(super) fn get(&self, disk: Option<&Spill>, pane: PaneId, key: &[u8]) -> Result<Option<&[u8]>, SpillError> {
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
    pub(super) fn forget(&self, pane: PaneId, key: &[u8]) {
        self.index.borrow_mut().insert((pane, key.into()), None);
    }
}
