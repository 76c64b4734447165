//! Slots by when to look at them again, in order. Not stored with the state: made anew from the slots.
//!
//! Over the memory budget the timers that are due last go to disk; they come back when they are due.

use super::arena::Arena;
use super::spill::{Spill, SpillError};
use super::store::{PaneId, allocated};
use std::collections::BTreeMap;

/// Timers that go to disk at once.
const BATCH: usize = 65_536;
/// Timers lie together by this power of two of milliseconds: a list for each of them would cost more than what is in it.
const TOGETHER: u32 = 10;

/// When to look at a new slot for the first time, milliseconds: by its pane and encoded state; none: never.
pub type FirstTimer = Box<dyn Fn(PaneId, &[u8]) -> Option<i64> + Send + Sync>;

/// The timers of a table.
pub struct Timers {
    first: FirstTimer,
    /// By when they are due, in units of [`TOGETHER`].
    due: BTreeMap<i64, Vec<Timer>>,
    memory: usize,
    on_disk: usize,
    /// No timer on disk is due before.
    disk_from: i64,
}

/// When it is due, and of which slot.
type Timer = (i64, PaneId, Box<[u8]>);

/// A timer in memory: what it costs.
fn cost(key: &[u8]) -> usize {
    size_of::<Timer>() * 3 / 2 + allocated(key.len())
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
        self.due.entry(due >> TOGETHER).or_default().push((due, pane, key));
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
        let mut found = Vec::new();
        for timers in self.due.range(..=now >> TOGETHER).map(|(_, timers)| timers) {
            let from = found.len();
            found.extend(timers.iter().filter(|(due, ..)| *due <= now));
            found[from..].sort_by_key(|(due, ..)| *due);
        }
        found.into_iter().map(|(_, pane, key)| (*pane, key.as_ref())).collect()
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
        let edge = now >> TOGETHER;
        let later = self.due.split_off(&edge);
        let mut gone = std::mem::replace(&mut self.due, later);
        if let Some(timers) = self.due.remove(&edge) {
            let (later, due): (Vec<Timer>, Vec<Timer>) = timers.into_iter().partition(|(due, ..)| *due > now);
            gone.insert(edge, due);
            if !later.is_empty() {
                self.due.insert(edge, later);
            }
        }
        self.memory -= gone.values().flatten().map(|(_, _, key)| cost(key)).sum::<usize>();
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
                match last.get_mut().pop() {
                    Some(timer) => {
                        self.memory -= cost(&timer.2);
                        batch.push(timer);
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
