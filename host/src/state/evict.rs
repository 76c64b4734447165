//! What goes to disk when the table is over its budget: the slots that were not changed for longest.
//!
//! How long ago is known by powers of two of epochs, which is all that a choice needs; within the last of them it is the oldest panes'. No row pays
//! for it: an epoch notes its number in the slots that it changes, and a pass over the table finds the oldest when there is too
//! much, moving a tenth of the budget, so that passes are rare.

use super::slots::InMemory;
use super::spill::{KEY_BYTES_MAX, Spill, SpillError};
use super::store::{PaneId, Store, allocated};
use crate::limits::spill_cache_bytes;

/// Ages: none, 1, 2 to 3, 4 to 7, ... epochs.
const AGES: usize = 33;
/// Passes in a row: a pass frees what it reckons, but for what holds the slots where that alone is too much.
const PASSES: usize = 4;

/// A slot on its way to disk.
struct Moved {
    pane: PaneId,
    slot: InMemory,
}

fn age(slot: &InMemory, round: u32) -> usize {
    (u32::BITS - round.saturating_sub(slot.touched).leading_zeros()) as usize
}

/// Its place is the next new slot's.
fn frees(slot: &InMemory) -> usize {
    allocated(slot.len())
}

impl Store {
    /// Bytes of memory that the table takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory + self.beside + self.timers.iter().chain(&self.processing_timers).map(|t| t.memory()).sum::<usize>()
    }

    /// Moves slots to disk where the table takes more memory than its budget, until it takes a tenth less.
    ///
    /// # Errors
    /// [`SpillError`].
    pub(super) fn keep_to_budget(&mut self) -> Result<(), SpillError> {
        if self.memory_bytes() <= self.limit.memory_bytes {
            return Ok(());
        }
        let Some(path) = &self.limit.spill else { return Ok(()) };
        let target = self.limit.memory_bytes - self.limit.memory_bytes / 10;
        let disk = match &mut self.disk {
            Some(disk) => disk,
            none => none.insert(Spill::open(path, spill_cache_bytes(self.limit.memory_bytes))?),
        };
        // Slots that are changed often are worth more memory than timers of what is far off.
        if let Some(timers) = self.timers.as_mut().filter(|t| t.memory() > self.limit.memory_bytes / 4) {
            timers.spill(self.limit.memory_bytes / 8, disk)?;
        }
        for _ in 0..PASSES {
            let over = self.memory_bytes().saturating_sub(target);
            if over == 0 || !self.evict(over)? {
                break;
            }
        }
        Ok(())
    }

    /// Moves slots that take about so many bytes to disk; whether there were any.
    fn evict(&mut self, bytes: usize) -> Result<bool, SpillError> {
        let moved = self.coldest(bytes);
        if moved.is_empty() {
            return Ok(false);
        }
        if let Some(disk) = &mut self.disk {
            disk.write(moved.len(), moved.iter().map(|m| (m.pane, m.slot.key(), Some(m.slot.state()))))?;
        }
        for Moved { pane, slot } in &moved {
            self.cold += 1;
            self.cold_bytes += slot.len();
            if let Some(slots) = self.panes.get_mut(pane) {
                slots.cold += 1;
                if slot.key() < &*slots.first {
                    slots.first = Box::default();
                }
                slots.on_disk += usize::from(!slot.on_disk());
            }
        }
        Ok(true)
    }

    /// Takes the slots that were not changed for longest out of memory, in the order of panes and keys.
    fn coldest(&mut self, bytes: usize) -> Vec<Moved> {
        let round = self.round;
        let mut by_age = [0usize; AGES];
        for slot in self.panes.values().flat_map(|p| p.slots.iter()) {
            by_age[age(slot, round)] += frees(slot);
        }
        // All that are older than `last`, and of those as old as it `left` bytes.
        let (mut last, mut left) = (0, bytes);
        for (age, there) in by_age.iter().enumerate().rev() {
            last = age;
            match left.checked_sub(*there) {
                Some(rest) => left = rest,
                None => break,
            }
        }
        let mut moved = Vec::new();
        for (pane, slots) in &mut self.panes {
            let from = moved.len();
            let before = slots.slots.memory();
            let gone = slots.slots.extract(|slot| {
                let age = age(slot, round);
                let goes = slot.key().len() <= KEY_BYTES_MAX && (age > last || (age == last && left > 0));
                if goes && age == last {
                    left = left.saturating_sub(frees(slot));
                }
                goes
            });
            self.memory = self.memory + slots.slots.memory() - before;
            moved.extend(gone.into_iter().map(|slot| Moved { pane: *pane, slot }));
            moved[from..].sort_unstable_by(|a, b| a.slot.key().cmp(b.slot.key()));
        }
        moved
    }
}
