//! The state table as it will be after the epoch: what is stored, with the epoch's changes over it.

use crate::state::store::{PaneId, Store, Update};
use ahash::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

/// Reads slots; changes nothing.
pub struct View<'a> {
    store: &'a Store,
    fresh: BTreeMap<PaneId, HashMap<&'a [u8], &'a [u8], RandomState>>,
}

impl<'a> View<'a> {
    /// `updates` over `store`.
    pub fn new(store: &'a Store, updates: &'a [Update]) -> Self {
        let mut fresh: BTreeMap<PaneId, HashMap<&'a [u8], &'a [u8], RandomState>> = BTreeMap::new();
        for update in updates {
            fresh.entry(update.pane).or_default().insert(&update.key, &update.state);
        }
        Self { store, fresh }
    }

    /// The state of a key in a pane.
    pub fn get(&self, pane: PaneId, key: &[u8]) -> Option<&'a [u8]> {
        self.fresh.get(&pane).and_then(|entries| entries.get(key).copied()).or_else(|| self.store.get(pane, key))
    }

    /// The panes in a range, ascending.
    pub fn panes(&self, range: RangeInclusive<PaneId>) -> Vec<PaneId> {
        let mut panes: Vec<PaneId> = self.store.panes_in(range.clone()).collect();
        if self.fresh.is_empty() {
            return panes;
        }
        let known = panes.len();
        panes.extend(self.fresh.range(range).map(|(pane, _)| *pane));
        if panes.len() > known {
            panes = panes.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        }
        panes
    }

    /// The first pane that starts at `start` or after it.
    pub fn pane_from(&self, start: i64) -> Option<PaneId> {
        let range = PaneId::range(start, i64::MAX);
        let stored = self.store.panes_in(range.clone()).next();
        let fresh = self.fresh.range(range).next().map(|(pane, _)| *pane);
        stored.into_iter().chain(fresh).min()
    }

    /// All slots of a pane, in no order.
    pub fn entries(&self, pane: PaneId) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let fresh = self.fresh.get(&pane);
        let stored = self.store.pane(pane).into_iter().flatten().map(|(key, state)| (key.as_ref(), state.as_ref()));
        let unchanged = stored.filter(move |(key, _)| fresh.is_none_or(|f| !f.contains_key(key)));
        unchanged.chain(fresh.into_iter().flatten().map(|(key, state)| (*key, *state)))
    }
}
