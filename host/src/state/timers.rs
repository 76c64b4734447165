//! Slots by when to look at them again, in order. Not stored with the state: made anew from the slots.
//!
//! Over the memory budget the timers that are due last go to disk; they come back when they are due.

use super::arena::Arena;
use super::spill::{Spill, SpillError};
use super::store::{PANE_BYTES, PaneId, allocated};
use std::collections::BTreeMap;

/// Timers that go to disk at once.
const BATCH: usize = 65_536;
/// Timers lie together by this power of two of milliseconds: a list for each of them would cost more than what is in it.
const TOGETHER: u32 = 10;

/// Bytes of what follows a key in a block of timers.
const TRAILER: usize = 6;

/// When to look at a new slot for the first time, milliseconds: by its pane and encoded state; none: never.
pub type FirstTimer = Box<dyn Fn(PaneId, &[u8]) -> Option<i64> + Send + Sync>;

/// The timers of a table.
pub struct Timers {
    first: FirstTimer,
    /// By when they are due, in units of [`TOGETHER`].
    due: BTreeMap<i64, Together>,
    memory: usize,
    on_disk: usize,
    /// No timer on disk is due before.
    disk_from: i64,
}

/// When it is due, and of which slot.
type Timer<K> = (i64, PaneId, K);

/// Timers of one unit of [`TOGETHER`] in one block of memory: an allocation for each would cost as much again.
struct Together {
    /// The unit that all are due in.
    unit: i64,
    /// The pane of most of them: the first one's.
    pane: PaneId,
    /// Of each: the pane where it is another, the key, milliseconds from the start of the unit, and the key's length, with [`OWN_PANE`].
    bytes: Vec<u8>,
}

/// Marks the length of a key whose pane stands before it.
const OWN_PANE: u32 = 1 << 31;

impl Together {
    fn new(unit: i64, pane: PaneId) -> Self {
        Self { unit, pane, bytes: Vec::new() }
    }

    /// Adds a timer that is due in this unit.
    fn push(&mut self, (due, pane, key): Timer<&[u8]>) {
        let own = pane != self.pane;
        let bytes = key.len() + TRAILER + if own { PANE_BYTES } else { 0 };
        if self.bytes.capacity() - self.bytes.len() < bytes {
            // By a quarter: a doubled block would be empty to a third, and there are as many timers as slots.
            self.bytes.reserve_exact(bytes + self.bytes.len() / 4);
        }
        if own {
            self.bytes.extend_from_slice(&pane.start.to_le_bytes());
            self.bytes.extend_from_slice(&pane.from.to_le_bytes());
        }
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(&((due - (self.unit << TOGETHER)) as u16).to_le_bytes());
        // A key of 2 GiB would have been refused long before.
        self.bytes.extend_from_slice(&(key.len() as u32 | if own { OWN_PANE } else { 0 }).to_le_bytes());
    }

    /// All, the last first.
    fn backwards(&self) -> impl Iterator<Item = Timer<&[u8]>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (before, length) = rest.split_last_chunk::<4>()?;
            let (before, after) = before.split_last_chunk::<2>()?;
            let length = u32::from_le_bytes(*length);
            let (mut before, key) = before.split_at_checked(before.len().checked_sub((length & !OWN_PANE) as usize)?)?;
            let mut pane = self.pane;
            if length & OWN_PANE != 0 {
                let (start, from);
                (before, from) = before.split_last_chunk::<8>()?;
                (before, start) = before.split_last_chunk::<8>()?;
                let [start, from] = [start, from].map(|bytes| i64::from_le_bytes(*bytes));
                pane = PaneId { start, from };
            }
            rest = before;
            Some(((self.unit << TOGETHER) + i64::from(u16::from_le_bytes(*after)), pane, key))
        })
    }

    /// Takes the last one off.
    fn pop(&mut self) -> Option<Timer<Box<[u8]>>> {
        let (due, pane, key) = self.backwards().next()?;
        let bytes = key.len() + TRAILER + if pane == self.pane { 0 } else { PANE_BYTES };
        let timer = (due, pane, Box::from(key));
        self.bytes.truncate(self.bytes.len() - bytes);
        if self.bytes.capacity() > 4 * self.bytes.len() {
            self.bytes.shrink_to(2 * self.bytes.len());
        }
        Some(timer)
    }

    /// What it costs, with its place among others.
    fn memory(&self) -> usize {
        allocated(self.bytes.capacity()) + 2 * size_of::<(i64, Self)>()
    }
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
            self.set((due, pane, key));
        }
    }

    fn set(&mut self, timer: Timer<&[u8]>) {
        let mut before = 0;
        let unit = timer.0 >> TOGETHER;
        let timers = self.due.entry(unit).and_modify(|timers| before = timers.memory());
        let timers = timers.or_insert_with(|| Together::new(unit, timer.1));
        timers.push(timer);
        self.memory = self.memory + timers.memory() - before;
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
        let mut found: Vec<Timer<&[u8]>> = Vec::new();
        for timers in self.due.range(..=now >> TOGETHER).map(|(_, timers)| timers) {
            let from = found.len();
            found.extend(timers.backwards().filter(|(due, ..)| *due <= now));
            found[from..].reverse();
            found[from..].sort_by_key(|(due, ..)| *due);
        }
        found.into_iter().map(|(_, pane, key)| (pane, key)).collect()
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
        let gone = std::mem::replace(&mut self.due, later);
        self.memory -= gone.values().map(Together::memory).sum::<usize>();
        if let Some(timers) = self.due.remove(&edge) {
            self.memory -= timers.memory();
            let mut later: Vec<_> = timers.backwards().filter(|(due, ..)| *due > now).collect();
            later.reverse();
            later.into_iter().for_each(|timer| self.set(timer));
        }
        if let Some(disk) = disk.filter(|_| self.on_disk > 0 && self.disk_from <= now) {
            let due = disk.timers_until(now).collect::<Result<Vec<_>, _>>()?;
            disk.remove_timers(&due)?;
            self.on_disk = self.on_disk.saturating_sub(due.len());
            self.disk_from = if self.on_disk == 0 { i64::MAX } else { now.saturating_add(1) };
        }
        for (due, pane, key) in rearmed {
            self.set((due, pane, &key));
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
                let before = last.get().memory();
                match last.get_mut().pop() {
                    Some(timer) => {
                        batch.push(timer);
                        self.memory = self.memory + last.get().memory() - before;
                    }
                    None => {
                        self.memory -= before;
                        last.remove();
                    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_order_and_their_memory_is_counted() {
        let mut timers = Timers::new(Box::new(|pane, _| Some(pane.start)));
        let pane = |start: i64| PaneId { start, from: 7 };
        // Before 1970, some at one moment, two seconds.
        for due in [2_500, -1, 2_100, 2_100, 0, -2_000, 1_023, 1_024] {
            let key = format!("key {}", timers.in_memory_until(i64::MAX).len());
            timers.add(pane(due), key.as_bytes(), b"");
        }
        let due = |timers: &Timers, now: i64| -> Vec<(i64, String)> {
            let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
            timers.in_memory_until(now).into_iter().map(|(pane, key)| (pane.start, text(key))).collect()
        };
        let want = [(-2_000, 5), (-1, 1), (0, 4), (1_023, 6), (1_024, 7), (2_100, 2), (2_100, 3), (2_500, 0)];
        let want: Vec<(i64, String)> = want.map(|(due, key)| (due, format!("key {key}"))).into();
        assert_eq!(due(&timers, i64::MAX), want);
        assert_eq!(due(&timers, 1_023), want[..4]);
        timers.rearm(2_100, vec![(2_499, pane(3), b"again"[..].into())], None).unwrap();
        assert_eq!(due(&timers, i64::MAX), [(3, "again".to_owned()), (2_500, "key 0".to_owned())]);
        assert_eq!(timers.memory(), timers.due.values().map(Together::memory).sum::<usize>());
        timers.rearm(i64::MAX, Vec::new(), None).unwrap();
        assert_eq!((timers.memory(), timers.due.len()), (0, 0));
        // Taken off the end as it grew, and the memory with it.
        let mut together = Together::new(-1, pane(3));
        let timer = |n: i64| (n - 1_024, pane(n % 5), n.to_le_bytes());
        (0..1_000).map(timer).for_each(|(due, pane, key)| together.push((due, pane, &key)));
        for (due, pane, key) in (0..1_000).rev().map(timer) {
            assert_eq!(together.pop(), Some((due, pane, key[..].into())));
        }
        assert_eq!((together.pop(), together.bytes.capacity()), (None, 0));
    }
}
