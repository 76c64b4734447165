//! The state table of a job: pane -> encoded key -> encoded partial state.
//!
//! In: the updates and removals of an epoch that closed well. Out: stored states by (pane, key), and the changes for the log.
//! **Invariant**: only [`Store::apply`] and [`Store::load`] change it, so an epoch that fails before them leaves no trace.

use crate::limits::STATE_SHARDS;
use crate::output::Change;
use crate::state::codec::{CodecError, stable_hash};
use crate::state::savepoint;
use std::collections::{BTreeMap, HashMap};

/// A pane: a slice of event time that overlapping windows share.
///
/// `from` is the start of the first window that its rows count in. It is the first window over the pane for all rows but those that
/// came when some of their windows had closed: they count in the rest only, so they have a pane of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaneId {
    /// Start of the pane, milliseconds since 1970 UTC.
    pub start: i64,
    /// Start of the first window that the pane's rows count in.
    pub from: i64,
}

const PANE_BYTES: usize = 16;

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
}

impl Store {
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

    /// Takes one entry of the log back in.
    ///
    /// # Errors
    /// [`CodecError::Corrupt`] when the entry has no pane.
    pub fn load(&mut self, entry: Change) -> Result<(), CodecError> {
        let (pane, key) = split(&entry.key)?;
        match entry.value {
            Some(state) => self.set(Update { pane, key: key.into(), state: state.into() }),
            None => {
                if let Some(entries) = self.panes.get_mut(&pane) {
                    if let Some(old) = entries.remove(key) {
                        self.bytes -= key.len() + old.len();
                        self.slots -= 1;
                    }
                    if entries.is_empty() {
                        self.panes.remove(&pane);
                    }
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, update: Update) {
        self.bytes += update.key.len() + update.state.len();
        let key_length = update.key.len();
        match self.panes.entry(update.pane).or_default().insert(update.key, update.state) {
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
}
