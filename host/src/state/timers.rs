//! Slots by when to look at them again, in order. Not stored with the state: made anew from the slots.
//!
//! Over the memory budget the timers that are due last go to disk; they come back when they are due.

use super::arena::Arena;
use super::spill::{Spill, SpillError};
use super::store::{PaneId, Slot, allocated};
use std::collections::BTreeMap;

/// Timers that go to disk at once.
const BATCH: usize = 65_536;

/// When to look at a new slot for the first time, milliseconds: by its pane and encoded state; none: never.
pub type FirstTimer = Box<dyn Fn(PaneId, &[u8]) -> Option<i64> + Send + Sync>;

/// The timers of a table.
pub struct Timers {
    first: FirstTimer,
    due: BTreeMap<i64, Vec<Slot>>,
    memory: usize,
    on_disk: usize,
    /// No timer on disk is due before.
    disk_from: i64,
}

/// A timer in memory: what it costs.
fn cost(key: &[u8]) -> usize {
    size_of::<Slot>() * 3 / 2 + allocated(key.len())
}

impl Timers {
    /// None, with the rule for those to come.
    pub fn new(first: FirstTimer) -> Self {
        Self { first, due: BTreeMap::new(), memory: 0, on_disk: 0, disk_from: i64::MAX }
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// A slot that was not there before.
    pub fn add(&mut self, pane: PaneId, key: &[u8], state: &[u8]) {
        if let Some(due) = (self.first)(pane, state) {
            self.set(due, pane, key.into());
        }
    }

    fn set(&mut self, due: i64, pane: PaneId, key: Box<[u8]>) {
        self.memory += cost(&key);
        self.due.entry(due).or_default().push((pane, key));
    }

    /// Those that go off at `now` or before, in order, but for those on disk, which come last.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn until<'a>(&'a self, now: i64, disk: Option<&Spill>, read: &'a Arena) -> Result<Vec<(PaneId, &'a [u8])>, SpillError> {
        let mut found = self.in_memory_until(now);
        if let Some(disk) = disk.filter(|_| self.on_disk > 0 && self.disk_from <= now) {
            for timer in disk.timers_until(now) {
                let (_, pane, key) = timer?;
                found.push((pane, read.keep(key)));
            }
        }
        Ok(found)
    }

    /// Those in memory that go off at `now` or before, in order.
    pub fn in_memory_until(&self, now: i64) -> Vec<(PaneId, &[u8])> {
        self.due.range(..=now).flat_map(|(_, slots)| slots).map(|(pane, key)| (*pane, key.as_ref())).collect()
    }

    /// Drops those up to `now`, and sets `rearmed`.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn rearm(
        &mut self,
        now: i64,
        rearmed: Vec<(i64, PaneId, Box<[u8]>)>,
        disk: Option<&mut Spill>,
    ) -> Result<(), SpillError> {
        let later = match now.checked_add(1) {
            Some(next) => self.due.split_off(&next),
            None => BTreeMap::new(),
        };
        let gone = std::mem::replace(&mut self.due, later);
        self.memory -= gone.values().flatten().map(|(_, key)| cost(key)).sum::<usize>();
        if let Some(disk) = disk.filter(|_| self.on_disk > 0 && self.disk_from <= now) {
            let due = disk.timers_until(now).collect::<Result<Vec<_>, _>>()?;
            disk.remove_timers(&due)?;
            self.on_disk = self.on_disk.saturating_sub(due.len());
            self.disk_from = if self.on_disk == 0 { i64::MAX } else { now.saturating_add(1) };
        }
        for (due, pane, key) in rearmed {
            self.set(due, pane, key);
        }
        Ok(())
    }

    /// Moves those that are due last to disk until the rest has `target` bytes.
    ///
    /// # Errors
    /// [`SpillError`]: some are lost then.
    pub fn spill(&mut self, target: usize, disk: &mut Spill) -> Result<(), SpillError> {
        while self.memory > target {
            let mut batch = Vec::new();
            while self.memory > target && batch.len() < BATCH {
                let Some(mut last) = self.due.last_entry() else { break };
                let due = *last.key();
                match last.get_mut().pop() {
                    Some((pane, key)) => {
                        self.memory -= cost(&key);
                        batch.push((due, pane, key));
                    }
                    None => drop(last.remove()),
                }
            }
            if batch.is_empty() {
                break;
            }
            batch.sort_unstable();
            batch.dedup();
            self.on_disk += batch.len();
            self.disk_from = self.disk_from.min(batch[0].0);
            disk.keep_timers(&batch)?;
        }
        Ok(())
    }
}
