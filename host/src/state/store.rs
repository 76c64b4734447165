//! The state table of a job: pane -> encoded key -> encoded partial state.
//!
//! In: the updates and removals of an epoch that closed well. Out: stored states by (pane, key), and the changes for the log.
//! **Invariant**: only [`Store::apply`] and [`Store::load`] change it, so an epoch that fails before them leaves no trace.

use crate::limits::STATE_SHARDS;
use crate::output::Change;
use crate::state::codec::{CodecError, stable_hash};
use crate::state::savepoint;
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

/// A slot: pane and encoded key.
pub type Slot = (PaneId, Box<[u8]>);

/// The entries of one pane.
pub type PaneEntries = HashMap<Box<[u8]>, Box<[u8]>, ahash::RandomState>;

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

/// The table.
#[derive(Default)]
pub struct Store {
    panes: BTreeMap<PaneId, PaneEntries>,
    bytes: usize,
    slots: usize,
    timers: Option<Timers>,
}

/// When to look at a new slot for the first time, milliseconds: by its pane and encoded state; none: never.
pub type FirstTimer = Box<dyn Fn(PaneId, &[u8]) -> Option<i64> + Send + Sync>;

/// Slots by when to look at them again, in order. Not stored: made anew from the slots.
struct Timers {
    first: FirstTimer,
    due: BTreeMap<i64, Vec<Slot>>,
}

impl Store {
    /// An empty table; with a rule for it, slots have timers.
    pub fn new(first: Option<FirstTimer>) -> Self {
        Self { timers: first.map(|first| Timers { first, due: BTreeMap::new() }), ..Self::default() }
    }

    /// Slots whose timers went off at `now` or before, in order; some may be gone by now.
    pub fn timers_until(&self, now: i64) -> impl Iterator<Item = (PaneId, &[u8])> {
        let due = self.timers.iter().flat_map(move |t| t.due.range(..=now).flat_map(|(_, slots)| slots));
        due.map(|(pane, key)| (*pane, key.as_ref()))
    }

    /// Drops the timers up to `now`, and sets `rearmed`.
    pub fn rearm(&mut self, now: i64, rearmed: Vec<(i64, PaneId, Box<[u8]>)>) {
        let Some(timers) = &mut self.timers else { return };
        timers.due = match now.checked_add(1) {
            Some(next) => timers.due.split_off(&next),
            None => BTreeMap::new(),
        };
        for (due, pane, key) in rearmed {
            timers.due.entry(due).or_default().push((pane, key));
        }
    }

    /// The stored state of a key in a pane.
    pub fn get(&self, pane: PaneId, key: &[u8]) -> Option<&[u8]> {
        self.panes.get(&pane)?.get(key).map(AsRef::as_ref)
    }

    /// The entries of a pane.
    pub fn pane(&self, pane: PaneId) -> Option<&PaneEntries> {
        self.panes.get(&pane)
    }

    /// All panes, by start.
    pub fn panes(&self) -> impl Iterator<Item = PaneId> {
        self.panes.keys().copied()
    }

    /// Panes in a range, ascending.
    pub fn panes_in(&self, range: RangeInclusive<PaneId>) -> impl Iterator<Item = PaneId> {
        self.panes.range(range).map(|(pane, _)| *pane)
    }

    /// Slots in all panes.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes of keys and states.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Applies an epoch: removes whole panes, then sets slots. Gives the changes for the log.
    pub fn apply(&mut self, updates: Vec<Update>, removed: &[PaneId]) -> Vec<Change> {
        let mut changes = Vec::with_capacity(updates.len());
        for pane in removed {
            for (key, state) in self.panes.remove(pane).unwrap_or_default() {
                self.bytes -= key.len() + state.len();
                self.slots -= 1;
                changes.push(change(*pane, &key, None));
            }
        }
        for update in updates {
            changes.push(change(update.pane, &update.key, Some(update.state.to_vec())));
            self.set(update);
        }
        changes
    }

    /// Appends all entries, or those of one encoded key, to a savepoint that is built in memory; how many, or none where `savepoint` would
    /// have more than `bytes_max`.
    pub fn copy(&self, key: Option<&[u8]>, bytes_max: usize, savepoint: &mut Vec<u8>) -> Option<u64> {
        let mut count = 0;
        for (pane, entries) in &self.panes {
            let (start, from) = (pane.start.to_be_bytes(), pane.from.to_be_bytes());
            let one = key.map(|k| entries.get_key_value(k));
            let all = one.is_none().then_some(entries).into_iter().flatten();
            for (key, state) in one.flatten().into_iter().chain(all) {
                if savepoint.len() + key.len() + state.len() > bytes_max {
                    return None;
                }
                savepoint::entry(shard(key), &[&start, &from, key], state, savepoint);
                count += 1;
            }
        }
        Some(count)
    }

    /// Removes slots. Gives the changes for the log.
    pub fn remove(&mut self, slots: &[(PaneId, Box<[u8]>)]) -> Vec<Change> {
        let mut changes = Vec::with_capacity(slots.len());
        for (pane, key) in slots {
            self.unset(*pane, key);
            changes.push(change(*pane, key, None));
        }
        changes
    }

    /// Takes one entry of the log back in.
    ///
    /// # Errors
    /// [`CodecError::Corrupt`] when the entry has no pane.
    pub fn load(&mut self, entry: Change) -> Result<(), CodecError> {
        let (pane, key) = split(&entry.key)?;
        match entry.value {
            Some(state) => self.set(Update { pane, key: key.into(), state: state.into() }),
            None => self.unset(pane, key),
        }
        Ok(())
    }

    fn unset(&mut self, pane: PaneId, key: &[u8]) {
        let Some(entries) = self.panes.get_mut(&pane) else { return };
        if let Some(old) = entries.remove(key) {
            self.bytes -= key.len() + old.len();
            self.slots -= 1;
        }
        if entries.is_empty() {
            self.panes.remove(&pane);
        }
    }

    fn set(&mut self, update: Update) {
        self.bytes += update.key.len() + update.state.len();
        let key_length = update.key.len();
        let entries = self.panes.entry(update.pane).or_default();
        if let Some(timers) = self.timers.as_mut().filter(|_| !entries.contains_key(&update.key))
            && let Some(due) = (timers.first)(update.pane, &update.state)
        {
            timers.due.entry(due).or_default().push((update.pane, update.key.clone()));
        }
        match entries.insert(update.key, update.state) {
            Some(old) => self.bytes -= key_length + old.len(),
            None => self.slots += 1,
        }
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
mod tests {
    use super::*;

    fn update(start: i64, key: &str, state: &str) -> Update {
        Update { pane: PaneId { start, from: start }, key: key.as_bytes().into(), state: state.as_bytes().into() }
    }

    #[test]
    fn what_the_log_holds_is_what_the_table_holds() {
        let mut store = Store::default();
        let mut log = store.apply(vec![update(-5, "a", "1"), update(10, "b", "22"), update(10, "a", "3")], &[]);
        log.extend(store.apply(vec![update(10, "b", "4")], &[PaneId { start: -5, from: -5 }]));
        let mut again = Store::default();
        for entry in log {
            again.load(entry).unwrap();
        }
        assert_eq!(again.panes, store.panes);
        assert_eq!((store.slots(), store.bytes()), (2, 4));
        assert_eq!((again.slots(), again.bytes()), (2, 4));
        assert_eq!(store.get(PaneId { start: 10, from: 10 }, b"b"), Some(&b"4"[..]));
        assert!(again.load(Change { shard: 0, key: vec![1, 2], value: None }).is_err());
    }

    #[test]
    fn each_slot_has_one_timer() {
        let mut store = Store::new(Some(Box::new(|pane, _| Some(pane.start + 5))));
        store.apply(vec![update(0, "a", "1"), update(10, "b", "2")], &[]);
        store.apply(vec![update(0, "a", "3")], &[]);
        let due = |store: &Store, now: i64| -> Vec<String> {
            store.timers_until(now).map(|(_, key)| String::from_utf8_lossy(key).into_owned()).collect()
        };
        assert_eq!(
            (due(&store, 4).len(), due(&store, 5), due(&store, 15)),
            (0, vec!["a".to_owned()], vec!["a".into(), "b".into()])
        );
        store.rearm(5, vec![(7, PaneId { start: 0, from: 0 }, b"a"[..].into())]);
        assert_eq!((due(&store, 6).len(), due(&store, 7)), (0, vec!["a".to_owned()]));
        let removed = store.remove(&[(PaneId { start: 0, from: 0 }, b"a"[..].into())]);
        assert_eq!((removed.len(), removed[0].value.is_none(), store.slots(), store.bytes()), (1, true, 1, 2));
        store.rearm(i64::MAX, Vec::new());
        assert_eq!(due(&store, i64::MAX).len(), 0);
    }
}
