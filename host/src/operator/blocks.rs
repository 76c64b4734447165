//! Merged states of runs of panes, so that a window of many panes is the merge of few states.
//!
//! Aggregates have no inverse, so a window that slides can't drop what leaves it. Panes are therefore merged in blocks of 4, 16, 64, ...: a
//! window of n panes is at most 6 blocks a level, about 3 log4(n) in all, and each block is made once, as all panes of a window
//! that closes are as they will stay. It is FlatFAT's tree with wider nodes (Tangwongsan et al., "General Incremental Sliding-Window
//! Aggregation", PVLDB 2015), over the panes of all keys at once. Two stacks (there, and DABA) would take 3 merges, but hold a state more a
//! pane, and can't take rows that come late.
//!
//! **Invariant**: only a cache: a job works the same without it, and makes it anew after a restart. A block is kept only where it is at most
//! half as many entries as what it stands for, so it never holds more than the panes do; and only within the bytes that it may take
//! ([`Blocks::set_bytes_max`]): past them windows are put together from panes, which costs more and takes no memory.

use crate::operator::FaultPolicy;
use crate::operator::view::{Source, View, of_sorted};
use crate::state::store::{PaneId, allocated};
use ahash::RandomState;
use datafusion_common::Result;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Panes, or blocks of the level below, in a block.
const FAN: i64 = 4;

type Entries = HashMap<Box<[u8]>, Box<[u8]>, RandomState>;

/// The blocks of a job, by level and number; block `n` of level `l` (from 1) is of the panes `n * FAN^l..(n + 1) * FAN^l`.
#[derive(Default)]
pub struct Blocks {
    /// None: not worth keeping, as its parts have few keys in common, or there is no room for it.
    levels: Vec<BTreeMap<i64, Option<Entries>>>,
    bytes: usize,
    bytes_max: Option<usize>,
}

/// Bytes that a block takes, about.
fn cost(block: &Entries) -> usize {
    block.iter().map(|(key, state)| 3 * size_of::<Box<[u8]>>() + allocated(key.len()) + allocated(state.len())).sum()
}

/// Merges groups of states.
pub type Combine<'a> = dyn Fn(&[Vec<&[u8]>]) -> Result<Vec<Box<[u8]>>> + 'a;
/// The pane of an index.
pub type PaneOf<'a> = dyn Fn(i64) -> PaneId + 'a;

impl Blocks {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.levels.clear();
        self.bytes = 0;
    }

    /// Bounds the bytes of memory.
    pub fn set_bytes_max(&mut self, bytes: usize) {
        self.bytes_max = Some(bytes);
    }

    /// Bytes of memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets the blocks that hold panes before `index`: no window to come is over them.
    pub fn forget_before(&mut self, index: i64) {
        let mut size = FAN;
        for level in &mut self.levels {
            let first = index.div_euclid(size) + i64::from(index.rem_euclid(size) != 0);
            while level.first_key_value().is_some_and(|(n, _)| *n < first) {
                self.bytes -= level.pop_first().and_then(|(_, block)| block).map_or(0, |block| cost(&block));
            }
            size *= FAN;
        }
    }

    /// Entries that are held.
    pub fn entries(&self) -> usize {
        self.levels.iter().flat_map(BTreeMap::values).flatten().map(HashMap::len).sum()
    }

    /// Makes the blocks that a window over the panes `indices` is put together from.
    ///
    /// # Errors
    /// Under [`FaultPolicy::Fail`] what `combine` says; else a block that can't be made is left out, and its parts are used.
    pub fn prepare(
        &mut self,
        indices: Range<i64>,
        combine: &Combine<'_>,
        pane: &PaneOf<'_>,
        view: &View<'_>,
        policy: FaultPolicy,
    ) -> Result<()> {
        for (level, number) in parts(indices) {
            self.make(level, number, combine, pane, view, policy)?;
        }
        Ok(())
    }

    /// Calls `each` with the keys and states of the blocks and panes that `indices` is put together from. A key comes several times.
    ///
    /// # Errors
    /// [`SpillError`](crate::state::spill::SpillError).
    pub fn collect<'a>(
        &'a self,
        indices: Range<i64>,
        pane: &PaneOf<'_>,
        view: &View<'a>,
        each: &mut dyn FnMut(&'a [u8], &'a [u8]),
    ) -> Result<()> {
        parts(indices).into_iter().try_for_each(|(level, number)| self.collect_part(level, number, pane, view, each))
    }

    /// The blocks and panes that `indices` is put together from, each by key.
    pub fn sources<'a>(&'a self, indices: Range<i64>, pane: &PaneOf<'_>, view: &'a View<'_>, sources: &mut Vec<Source<'a>>) {
        for (level, number) in parts(indices) {
            self.sources_of_part(level, number, pane, view, sources);
        }
    }

    /// Whether some of what `indices` is put together from is on disk.
    pub fn has_cold(&self, indices: Range<i64>, pane: &PaneOf<'_>, view: &View<'_>) -> bool {
        parts(indices).into_iter().any(|(level, number)| self.is_cold_part(level, number, pane, view))
    }

    fn is_cold_part(&self, level: usize, number: i64, pane: &PaneOf<'_>, view: &View<'_>) -> bool {
        if level == 0 {
            return view.is_cold(pane(number));
        }
        match self.levels.get(level - 1).and_then(|l| l.get(&number)) {
            Some(Some(_)) => false,
            _ => (number * FAN..(number + 1) * FAN).any(|part| self.is_cold_part(level - 1, part, pane, view)),
        }
    }

    fn sources_of_part<'a>(
        &'a self,
        level: usize,
        number: i64,
        pane: &PaneOf<'_>,
        view: &'a View<'_>,
        sources: &mut Vec<Source<'a>>,
    ) {
        if level == 0 {
            return sources.push(view.sorted(pane(number)));
        }
        match self.levels.get(level - 1).and_then(|l| l.get(&number)) {
            Some(Some(block)) => {
                let mut entries: Vec<(&[u8], &[u8])> = block.iter().map(|(key, state)| (key.as_ref(), state.as_ref())).collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                sources.push(of_sorted(entries));
            }
            _ => (number * FAN..(number + 1) * FAN).for_each(|part| self.sources_of_part(level - 1, part, pane, view, sources)),
        }
    }

    fn make(
        &mut self,
        level: usize,
        number: i64,
        combine: &Combine<'_>,
        pane: &PaneOf<'_>,
        view: &View<'_>,
        policy: FaultPolicy,
    ) -> Result<()> {
        if level == 0 || self.levels.get(level - 1).is_some_and(|l| l.contains_key(&number)) {
            return Ok(());
        }
        for part in number * FAN..(number + 1) * FAN {
            self.make(level - 1, part, combine, pane, view, policy)?;
        }
        let mut by_key: HashMap<&[u8], Vec<&[u8]>, RandomState> = HashMap::default();
        let mut entries = 0;
        for part in number * FAN..(number + 1) * FAN {
            self.collect_part(level - 1, part, pane, view, &mut |key, state| {
                by_key.entry(key).or_default().push(state);
                entries += 1;
            })?;
        }
        let mut block = None;
        if by_key.len() * 2 <= entries {
            let (keys, groups): (Vec<&[u8]>, Vec<Vec<&[u8]>>) = by_key.into_iter().unzip();
            match combine(&groups) {
                Ok(states) => block = Some(keys.into_iter().map(Box::from).zip(states).collect::<Entries>()),
                Err(error) if policy == FaultPolicy::Fail => return Err(error),
                Err(_) => {}
            }
        }
        let bytes = block.as_ref().map_or(0, cost);
        if self.bytes_max.is_some_and(|max| self.bytes + bytes > max) {
            block = None;
        } else {
            self.bytes += bytes;
        }
        while self.levels.len() < level {
            self.levels.push(BTreeMap::new());
        }
        self.levels[level - 1].insert(number, block);
        Ok(())
    }

    fn collect_part<'a>(
        &'a self,
        level: usize,
        number: i64,
        pane: &PaneOf<'_>,
        view: &View<'a>,
        each: &mut dyn FnMut(&'a [u8], &'a [u8]),
    ) -> Result<()> {
        if level == 0 {
            view.entries(pane(number))?.for_each(|(key, state)| each(key, state));
            return Ok(());
        }
        match self.levels.get(level - 1).and_then(|l| l.get(&number)) {
            Some(Some(block)) => block.iter().for_each(|(key, state)| each(key, state)),
            _ => {
                return (number * FAN..(number + 1) * FAN)
                    .try_for_each(|part| self.collect_part(level - 1, part, pane, view, each));
            }
        }
        Ok(())
    }
}

/// The fewest blocks and panes that `indices` is put together from: level and number.
fn parts(indices: Range<i64>) -> Vec<(usize, i64)> {
    let mut parts = Vec::new();
    let mut at = indices.start;
    while at < indices.end {
        let (mut level, mut size) = (0, 1);
        while at.rem_euclid(size * FAN) == 0 && at + size * FAN <= indices.end {
            (level, size) = (level + 1, size * FAN);
        }
        parts.push((level, at.div_euclid(size)));
        at += size;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::store::{Store, Update};

    #[test]
    fn parts_cover_each_pane_once_and_are_few() {
        for (from, to) in [(0, 1), (-7, 9), (3, 86_403), (-86_400, 0), (5, 5)] {
            let mut at = from;
            let found = parts(from..to);
            for (level, number) in &found {
                let size = FAN.pow(*level as u32);
                assert_eq!(number * size, at);
                at += size;
            }
            assert_eq!(at, to);
            assert!(found.len() <= 54, "{} parts of {from}..{to}", found.len());
        }
    }

    /// Windows of 20 panes that slide by one, their states put together as bytes, against the panes one by one.
    #[test]
    fn a_window_is_the_merge_of_its_panes() {
        let pane = |index: i64| PaneId { start: index, from: index };
        let mut updates = Vec::new();
        for index in 0..60i64 {
            for key in 0..index % 4 {
                let (key, state) = (vec![key as u8].into_boxed_slice(), vec![index as u8].into_boxed_slice());
                updates.push(Update::new(pane(index), &key, &state));
            }
        }
        let store = Store::default();
        let view = View::new(&store, &updates);
        let combine = |groups: &[Vec<&[u8]>]| Ok(groups.iter().map(|g| g.concat().into()).collect());
        let mut blocks = Blocks::default();
        for start in 0..40 {
            blocks.forget_before(start);
            blocks.prepare(start..start + 20, &combine, &pane, &view, FaultPolicy::Fail).unwrap();
            let mut got: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
            blocks.collect(start..start + 20, &pane, &view, &mut |key, state| got.entry(key).or_default().extend(state)).unwrap();
            got.values_mut().for_each(|states| states.sort_unstable());
            let mut expected: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
            for index in start..start + 20 {
                view.entries(pane(index)).unwrap().for_each(|(key, state)| expected.entry(key).or_default().extend(state));
            }
            assert_eq!(got, expected);
        }
        assert!(blocks.entries() > 0 && blocks.entries() < updates.len());
    }
}
