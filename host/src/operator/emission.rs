//! Which results have changed since they were last given, where results are given before they are final.
//!
//! Kept in memory only: after a restart all open windows count as changed, so each is given once more; results are upserts.

use crate::state::store::allocated;
use ahash::RandomState;
use std::collections::{BTreeMap, HashSet};

/// Keys by window: a window's id, or the start of a key's slice. At most one entry a slot and window that is open.
#[derive(Debug, Default)]
pub struct Emission {
    changed: BTreeMap<i64, HashSet<Box<[u8]>, RandomState>>,
    bytes: usize,
}

/// Bytes that a key takes here, about.
fn cost(key: &[u8]) -> usize {
    2 * size_of::<Box<[u8]>>() + allocated(key.len())
}

/// What an epoch does to it.
#[derive(Debug, Default)]
pub struct EmissionChange {
    /// Changed, and not given.
    pub changed: Vec<(i64, Box<[u8]>)>,
    /// Windows whose keys are all given, or closed.
    pub given: Vec<i64>,
    /// Keys that are given.
    pub given_keys: Vec<(i64, Box<[u8]>)>,
}

impl Emission {
    /// The windows that have changed, ascending, with the keys in them.
    pub fn changed(&self) -> impl Iterator<Item = (i64, &HashSet<Box<[u8]>, RandomState>)> {
        self.changed.iter().map(|(window, keys)| (*window, keys))
    }

    /// Bytes of memory, about. They count in the budget of the state, so slots make room for them; they themselves stay in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Goes on by an epoch that closed well.
    pub fn apply(&mut self, change: EmissionChange) {
        for window in change.given {
            let keys = self.changed.remove(&window);
            self.bytes -= keys.iter().flatten().map(|key| cost(key)).sum::<usize>();
        }
        for (window, key) in change.given_keys {
            if let Some(keys) = self.changed.get_mut(&window) {
                self.bytes -= keys.take(&key).map_or(0, |key| cost(&key));
                if keys.is_empty() {
                    self.changed.remove(&window);
                }
            }
        }
        for (window, key) in change.changed {
            let bytes = cost(&key);
            self.bytes += if self.changed.entry(window).or_default().insert(key) { bytes } else { 0 };
        }
    }
}
