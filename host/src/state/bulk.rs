//! Many changes in a few blocks of memory, on their way to the log and the tree: none of them has an allocation of its own.
//!
//! In: changes in the order in which they were made. Out: the same, or the last of each key in the tree's order.

use crate::output::Change;
use crate::state::read::{AT_ONCE, touch};
use ahash::RandomState;
use std::collections::HashMap;

/// Bytes at the front of a key that many keys share: shard and pane.
const HEAD: usize = 18;
/// The value's length of a removal.
const REMOVED: u32 = u32::MAX;
/// Bytes of a block: the first, and those of many. A block does not grow, since its bytes would have to move.
const BLOCK: usize = 4 << 10;
const BLOCK_MAX: usize = 1 << 20;

/// A change, borrowed: shard, key, value; none removes the key.
pub type BorrowedChange<'a> = (u16, &'a [u8], Option<&'a [u8]>);

/// Changes.
#[derive(Clone, Debug, Default)]
pub struct Bulk {
    /// Of each change the shard, the key, and the value.
    blocks: Vec<Vec<u8>>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    block: u32,
    at: u32,
    /// Bytes of shard and key.
    key: u32,
    /// Bytes of the value.
    value: u32,
}

impl Bulk {
    /// Adds a change.
    pub fn push(&mut self, shard: u16, key: &[u8], value: Option<&[u8]>) {
        self.push_parts(shard, [key, &[]], value);
    }

    /// Adds a change whose key is in two parts.
    pub fn push_parts(&mut self, shard: u16, key: [&[u8]; 2], value: Option<&[u8]>) {
        let (key_bytes, value_bytes) = (2 + key[0].len() + key[1].len(), value.map_or(0, <[u8]>::len));
        let number = self.block_of(key_bytes + value_bytes);
        let block = &mut self.blocks[number];
        // A record of Kafka is far below 4 GiB.
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(REMOVED);
        let at = length(block.len());
        block.extend_from_slice(&shard.to_be_bytes());
        key.iter().for_each(|part| block.extend_from_slice(part));
        block.extend_from_slice(value.unwrap_or_default());
        let value = value.map_or(REMOVED, |v| length(v.len()));
        self.entries.push(Entry { block: number as u32, at, key: length(key_bytes), value });
    }

    /// The number of a block that has room for so many bytes.
    fn block_of(&mut self, bytes: usize) -> usize {
        if self.blocks.last().is_none_or(|last| last.capacity() - last.len() < bytes) {
            let size = self.blocks.last().map_or(BLOCK, |last| (2 * last.capacity()).clamp(BLOCK, BLOCK_MAX));
            self.blocks.push(Vec::with_capacity(size.max(bytes)));
        }
        self.blocks.len() - 1
    }

    /// Adds later changes.
    pub fn append(&mut self, later: Self) {
        if self.is_empty() {
            *self = later;
            return;
        }
        if later.bytes() < BLOCK_MAX {
            // Small epochs together: else each has a block that is not full.
            later.iter().for_each(|(shard, key, value)| self.push(shard, key, value));
            return;
        }
        let before = self.blocks.len() as u32;
        self.blocks.extend(later.blocks);
        self.entries.extend(later.entries.iter().map(|entry| Entry { block: before + entry.block, ..*entry }));
    }

    /// All changes, in the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = BorrowedChange<'_>> {
        (0..self.entries.len() as u32).map(|number| self.change(number))
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(Vec::capacity).sum::<usize>() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Shard and key of a change.
    fn key(&self, number: u32) -> &[u8] {
        let entry = self.entries[number as usize];
        &self.blocks[entry.block as usize][entry.at as usize..][..entry.key as usize]
    }

    /// Change `number`.
    fn change(&self, number: u32) -> BorrowedChange<'_> {
        let (entry, key) = (self.entries[number as usize], self.key(number));
        let value = || &self.blocks[entry.block as usize][(entry.at + entry.key) as usize..][..entry.value as usize];
        let value = (entry.value != REMOVED).then(value);
        let (shard, key) = key.split_first_chunk::<2>().unwrap_or((&[0; 2], key));
        (u16::from_be_bytes(*shard), key, value)
    }

    /// The last change of each key, by shard and key.
    pub fn sorted(&self) -> impl ExactSizeIterator<Item = BorrowedChange<'_>> {
        let order = self.order();
        (0..order.len()).map(move |i| {
            if i % AT_ONCE == 0 {
                self.touch(&order[i..(i + AT_ONCE).min(order.len())]);
            }
            self.change(order[i])
        })
    }

    /// Reads a little of changes, which lie all over.
    fn touch(&self, numbers: &[u32]) {
        let of = |number: &u32| -> Option<u8> {
            let entry = self.entries[*number as usize];
            let change = self.blocks[entry.block as usize].get(entry.at as usize..)?;
            let value = if entry.value == REMOVED { 0 } else { entry.value as usize };
            Some(change.first()? ^ change.get((entry.key as usize + value).checked_sub(1)?)?)
        };
        touch(numbers.iter().map(of));
    }

    /// Numbers of the last change of each key, by shard and key.
    ///
    /// A comparison of keys in memory at random costs more than all else, so keys are put together by what many of them begin with, and
    /// compared by the 16 bytes that follow what is common to the rest of them.
    fn order(&self) -> Vec<u32> {
        let mut order = Vec::with_capacity(self.entries.len());
        let mut sorting: Vec<(u128, u32)> = Vec::new();
        for (_, numbers) in self.groups() {
            let rest = |number: u32| self.key(number).get(HEAD..).unwrap_or_default();
            let first = rest(numbers[0]);
            let common = numbers.iter().fold(first.len(), |common, n| {
                let rest = rest(*n);
                if rest.get(..common) == Some(&first[..common]) {
                    common
                } else {
                    first[..common].iter().zip(rest).take_while(|(a, b)| a == b).count()
                }
            });
            sorting.clear();
            sorting.extend(numbers.iter().map(|n| (head(&rest(*n)[common..]), *n)));
            sorting.sort_unstable_by(|(a, m), (b, n)| a.cmp(b).then_with(|| rest(*m).cmp(rest(*n))).then(m.cmp(n)));
            for (i, (head, number)) in sorting.iter().enumerate() {
                let same = |(h, n): &(u128, u32)| h == head && rest(*n) == rest(*number);
                if !sorting.get(i + 1).is_some_and(same) {
                    order.push(*number);
                }
            }
        }
        order
    }

    /// Numbers of the changes by the first [`HEAD`] bytes of their keys, rising.
    fn groups(&self) -> Vec<(&[u8], Vec<u32>)> {
        let mut groups: Vec<(&[u8], Vec<u32>)> = Vec::new();
        let mut by_head: HashMap<&[u8], usize, RandomState> = HashMap::default();
        for number in 0..self.entries.len() as u32 {
            let key = self.key(number);
            let head = &key[..key.len().min(HEAD)];
            let group = *by_head.entry(head).or_insert_with(|| {
                groups.push((head, Vec::new()));
                groups.len() - 1
            });
            groups[group].1.push(number);
        }
        groups.sort_unstable_by_key(|(head, _)| *head);
        groups
    }
}

impl FromIterator<Change> for Bulk {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        let mut bulk = Self::default();
        changes.into_iter().for_each(|c| bulk.push(c.shard, &c.key, c.value.as_deref()));
        bulk
    }
}

impl From<BorrowedChange<'_>> for Change {
    fn from((shard, key, value): BorrowedChange<'_>) -> Self {
        Self { shard, key: key.to_vec(), value: value.map(<[u8]>::to_vec) }
    }
}

/// The first 16 bytes as a number that compares as they do, but that an end counts as zeroes.
fn head(bytes: &[u8]) -> u128 {
    let mut head = [0; 16];
    let length = bytes.len().min(16);
    head[..length].copy_from_slice(&bytes[..length]);
    u128::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_last_of_each_key_comes_in_the_order_of_the_keys() {
        // Keys that begin alike, end early, or differ only by zeroes or far behind.
        let ends: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"a", b"a\0", b"ab", b"b-far-behind-the-head-1", b"b-far-behind-the-head-2"];
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for start in ["", "1", "1234567890123456", "12345678901234567", "1234567890123456-common-"] {
            keys.extend(ends.iter().map(|end| [start.as_bytes(), end].concat()));
        }
        let (mut bulk, mut expected, mut random) = (Bulk::default(), BTreeMap::new(), 1u64);
        for n in 0..5_000u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = &keys[(random >> 33) as usize % keys.len()];
            let (shard, value) = ((random >> 60) as u16 % 2, (n % 7 != 0).then(|| n.to_be_bytes().to_vec()));
            bulk.push(shard, key, value.as_deref());
            expected.insert((shard, key.clone()), value);
        }
        assert_eq!(bulk.len(), 5_000);
        let sorted: Vec<_> = bulk.sorted().map(|(s, k, v)| ((s, k.to_vec()), v.map(<[u8]>::to_vec))).collect();
        let mut twice = Bulk::default();
        twice.append(bulk.clone());
        twice.append(bulk.clone());
        assert_eq!((twice.len(), twice.iter().nth(5_007)), (10_000, bulk.iter().nth(7)));
        assert!(twice.sorted().eq(bulk.sorted()));
        // Large ones are taken over as they are.
        let mut large = Bulk::default();
        large.push(7, b"large", Some(&vec![1; 3 * BLOCK_MAX]));
        large.append(twice.clone());
        twice.append(large.clone());
        assert_eq!((large.len(), twice.len(), large.iter().nth(5_008)), (10_001, 20_001, bulk.iter().nth(7)));
        assert!(twice.iter().eq(large.iter().skip(1).chain(large.iter())));
        assert_eq!(sorted, expected.into_iter().collect::<Vec<_>>());
        assert!(Bulk::default().is_empty() && Bulk::default().sorted().next().is_none());
    }
}
