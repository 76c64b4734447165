//! Many changes in one block of memory, on their way to the tree: none of them has an allocation of its own.
//!
//! In: changes in the order in which they were made. Out: the last of each key, in the tree's order.

use ahash::RandomState;
use std::collections::HashMap;

/// Bytes at the front of a key that many keys share: shard and pane.
const HEAD: usize = 18;
/// The value's length of a removal.
const REMOVED: u32 = u32::MAX;

/// A change, borrowed: shard, key, value; none removes the key.
pub type BorrowedChange<'a> = (u16, &'a [u8], Option<&'a [u8]>);

/// Changes.
#[derive(Default)]
pub struct Bulk {
    /// Of each change the shard, the key, and the value.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    at: usize,
    /// Bytes of shard and key.
    key: u32,
    /// Bytes of the value.
    value: u32,
}

impl Bulk {
    /// Adds a change.
    pub fn push(&mut self, shard: u16, key: &[u8], value: Option<&[u8]>) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&shard.to_be_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        // A record of Kafka is far below 4 GiB.
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(REMOVED);
        self.entries.push(Entry { at, key: length(key).saturating_add(2), value: value.map_or(REMOVED, length) });
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
        self.bytes.len() + self.entries.len() * size_of::<Entry>()
    }

    /// Shard and key of a change.
    fn key(&self, number: u32) -> &[u8] {
        let entry = self.entries[number as usize];
        &self.bytes[entry.at..entry.at + entry.key as usize]
    }

    /// Change `number`.
    fn change(&self, number: u32) -> BorrowedChange<'_> {
        let (entry, key) = (self.entries[number as usize], self.key(number));
        let value = entry.at + entry.key as usize;
        let value = (entry.value != REMOVED).then(|| &self.bytes[value..value + entry.value as usize]);
        let (shard, key) = key.split_first_chunk::<2>().unwrap_or((&[0; 2], key));
        (u16::from_be_bytes(*shard), key, value)
    }

    /// The last change of each key, by shard and key.
    pub fn sorted(&self) -> impl Iterator<Item = BorrowedChange<'_>> {
        self.order().into_iter().map(|number| self.change(number))
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
        assert_eq!(sorted, expected.into_iter().collect::<Vec<_>>());
        assert!(Bulk::default().is_empty() && Bulk::default().sorted().next().is_none());
    }
}
