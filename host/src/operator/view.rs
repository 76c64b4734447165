//! The state table as it will be after the epoch: what is stored, with the epoch's changes over it.

use crate::operator::merge::external_store;
use crate::state::spill::SpillError;
use crate::state::store::{Pair, PaneId, Store, Update};
use ahash::RandomState;
use datafusion_common::Result;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
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
            fresh.entry(update.pane).or_default().insert(update.key(), update.state());
        }
        Self { store, fresh }
    }

    /// The state of a key in a pane.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn get(&self, pane: PaneId, key: &[u8]) -> Result<Option<&'a [u8]>> {
        match self.fresh.get(&pane).and_then(|entries| entries.get(key).copied()) {
            Some(state) => Ok(Some(state)),
            None => self.store.get(pane, key).map_err(external_store),
        }
    }

    /// The states of a key in those of the panes where it has one.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn states(&self, panes: impl Iterator<Item = PaneId>, key: &[u8]) -> Result<Vec<&'a [u8]>> {
        panes.filter_map(|pane| self.get(pane, key).transpose()).collect()
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

    /// All slots of a pane, in no order; those on disk are read whole.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn entries(&self, pane: PaneId) -> Result<impl Iterator<Item = (&'a [u8], &'a [u8])>> {
        let fresh = self.fresh.get(&pane);
        let stored = self.store.entries(pane).map_err(external_store)?;
        let unchanged = stored.filter(move |(key, _)| fresh.is_none_or(|f| !f.contains_key(key)));
        Ok(unchanged.chain(fresh.into_iter().flatten().map(|(key, state)| (*key, *state))))
    }

    /// Whether slots of a pane are on disk only.
    pub fn is_cold(&self, pane: PaneId) -> bool {
        self.store.is_cold(pane)
    }

    /// The slots of a pane by key; those on disk are read as it goes.
    pub fn sorted<'s>(&'s self, pane: PaneId) -> Source<'s> {
        let fresh = self.fresh.get(&pane);
        let stored = self.store.sorted(pane);
        if fresh.is_none() {
            return Box::new(stored);
        }
        let unchanged =
            stored.filter(move |e| !e.as_ref().is_ok_and(|(key, _)| fresh.is_some_and(|f| f.contains_key(key.as_ref()))));
        let mut changed: Vec<(&[u8], &[u8])> = fresh.into_iter().flatten().map(|(key, state)| (*key, *state)).collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        let sources: Vec<Source<'s>> = vec![Box::new(unchanged), of_sorted(changed)];
        Box::new(Merged::new(sources).flat_map(|group| match group {
            Ok((key, states)) => states.into_iter().map(|state| Ok((key.clone(), state))).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        }))
    }
}

/// Keys with a state, ascending.
pub type Source<'a> = Box<dyn Iterator<Item = std::result::Result<Pair<'a>, SpillError>> + 'a>;

/// Entries that are in order.
pub fn of_sorted<'a>(entries: Vec<(&'a [u8], &'a [u8])>) -> Source<'a> {
    Box::new(entries.into_iter().map(|(key, state)| Ok((Cow::Borrowed(key), Cow::Borrowed(state)))))
}

/// A key with its states.
pub type Group<'a> = (Cow<'a, [u8]>, Vec<Cow<'a, [u8]>>);

/// Key, number of its source, state.
type Head<'a> = (Cow<'a, [u8]>, usize, Cow<'a, [u8]>);

/// Several sources as one: each key once, with its states.
pub struct Merged<'a> {
    sources: Vec<Source<'a>>,
    /// The next entry of each source that has one.
    heads: BinaryHeap<Reverse<Head<'a>>>,
    failed: Option<SpillError>,
}

impl<'a> Merged<'a> {
    /// Of some sources.
    pub fn new(sources: Vec<Source<'a>>) -> Self {
        let mut merged = Self { heads: BinaryHeap::with_capacity(sources.len()), sources, failed: None };
        (0..merged.sources.len()).for_each(|source| merged.advance(source));
        merged
    }

    fn advance(&mut self, source: usize) {
        match self.sources[source].next() {
            Some(Ok((key, state))) => self.heads.push(Reverse((key, source, state))),
            Some(Err(error)) => self.failed = Some(error),
            None => {}
        }
    }
}

impl<'a> Iterator for Merged<'a> {
    type Item = std::result::Result<Group<'a>, SpillError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.heads.clear();
            return Some(Err(error));
        }
        let Reverse((key, source, state)) = self.heads.pop()?;
        let mut states = vec![state];
        self.advance(source);
        while self.heads.peek().is_some_and(|Reverse((other, ..))| *other == key) {
            let Some(Reverse((_, source, state))) = self.heads.pop() else { break };
            states.push(state);
            self.advance(source);
        }
        Some(Ok((key, states)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_merged_by_key() {
        let of = |keys: &'static [&'static str]| of_sorted(keys.iter().map(|k| (k.as_bytes(), &b"s"[..])).collect());
        let merged = Merged::new(vec![of(&["a", "c"]), of(&[]), of(&["a", "b", "d"]), of(&["d"])]);
        let got: Vec<(Vec<u8>, usize)> =
            merged.map(|g| g.unwrap()).map(|(key, states)| (key.into_owned(), states.len())).collect();
        let want: Vec<(Vec<u8>, usize)> =
            [("a", 2), ("b", 1), ("c", 1), ("d", 2)].map(|(k, n)| (k.as_bytes().to_vec(), n)).into();
        assert_eq!(got, want);
    }
}
