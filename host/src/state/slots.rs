//! The slots of a pane that are in memory.
//!
//! Each is one allocation of key and state, in a list of chunks that never move; a hash table has their numbers. So a slot takes little beside
//! its bytes, growing moves no slot and looks at no key, and a state as long as the one before goes in its place.
//! **Invariant**: each number in the table is that of a slot in a chunk; the other places of the chunks are in `free`.

use super::store::allocated;
use hashbrown::HashTable;

/// Slots of a chunk, as a power of two. The first chunk grows to it.
const CHUNK_BITS: u32 = 10;
const CHUNK: usize = 1 << CHUNK_BITS;
/// Marks the key's length of a slot that the disk has an older state of. No key has so many bytes.
const ON_DISK: u32 = 1 << 31;
/// The key's length of a place without a slot.
const FREE: u32 = u32::MAX;

/// A slot in memory.
pub(super) struct InMemory {
    /// Key, then state.
    bytes: Box<[u8]>,
    /// Bytes of the key, and [`ON_DISK`].
    key: u32,
    /// The epoch, counted from the start of the table, that changed it last.
    pub(super) touched: u32,
}

impl InMemory {
    /// Of the bytes of key and state; the first `key` are the key's.
    pub(super) fn new(bytes: Box<[u8]>, key: u32, touched: u32, on_disk: bool) -> Self {
        Self { bytes, key: key & !ON_DISK | if on_disk { ON_DISK } else { 0 }, touched }
    }

    fn free() -> Self {
        Self { bytes: Box::default(), key: FREE, touched: 0 }
    }

    fn is_free(&self) -> bool {
        self.key == FREE
    }

    /// Key and state.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked((self.key & !ON_DISK) as usize).unwrap_or_default()
    }

    pub(super) fn key(&self) -> &[u8] {
        self.parts().0
    }

    pub(super) fn state(&self) -> &[u8] {
        self.parts().1
    }

    /// Reads a little of it.
    pub(super) fn touch(&self) -> Option<u8> {
        Some(self.bytes.first()? ^ self.bytes.last()?)
    }

    /// Bytes of key and state.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the disk has an older state of it.
    pub(super) fn on_disk(&self) -> bool {
        self.key & ON_DISK != 0
    }
}

/// Number of a slot, and its hash: growing needs no look at the key.
struct Found {
    hash: u32,
    number: u32,
}

/// Slots by key.
#[derive(Default)]
pub(super) struct Slots {
    index: HashTable<Found>,
    chunks: Vec<Vec<InMemory>>,
    free: Vec<u32>,
    /// Bytes of memory of keys and states.
    bytes: usize,
    /// Bytes of memory of what holds them.
    around: usize,
}

/// The table takes its groups from the low bits and the rest from the highest: both are of the 32 that are kept.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// The chunk of a slot, and its place in it.
fn at(number: u32) -> (usize, usize) {
    (number as usize >> CHUNK_BITS, number as usize & (CHUNK - 1))
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.bytes + self.around
    }

    /// A key's slot and its number, which is the slot's until it is removed, or others are taken out ([`Slots::extract`]).
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<(u32, &InMemory)> {
        let hash = hash as u32;
        let is_it = |found: &Found| found.hash == hash && self.place(found.number).key() == key;
        self.index.find(spread(hash), is_it).map(|found| (found.number, self.place(found.number)))
    }

    /// Reads a little of a slot with this hash, or of where it would be: see [`super::read::touch`].
    pub(super) fn touch(&self, hash: u64) -> Option<u8> {
        let hash = hash as u32;
        self.place(self.index.find(spread(hash), |found| found.hash == hash)?.number).touch()
    }

    /// What is where a slot was that [`Slots::find`] gave.
    pub(super) fn at(&self, number: u32) -> Option<&InMemory> {
        let (chunk, place) = at(number);
        self.chunks.get(chunk)?.get(place).filter(|slot| !slot.is_free())
    }

    fn place(&self, number: u32) -> &InMemory {
        let (chunk, place) = at(number);
        &self.chunks[chunk][place]
    }

    fn place_mut(&mut self, number: u32) -> &mut InMemory {
        let (chunk, place) = at(number);
        &mut self.chunks[chunk][place]
    }

    /// Sets the state of slot `number`, whose key `bytes` begins with.
    pub(super) fn replace(&mut self, number: u32, bytes: Box<[u8]>, touched: u32) {
        let slot = self.place_mut(number);
        slot.touched = touched;
        if slot.bytes.len() == bytes.len() {
            // Its own allocation stays; the new one is in the processor's cache, and is the next that is given out.
            let key = slot.key().len();
            slot.bytes[key..].copy_from_slice(&bytes[key..]);
            return;
        }
        let before = allocated(slot.len());
        slot.bytes = bytes;
        self.bytes = self.bytes + allocated(self.place(number).len()) - before;
    }

    /// Adds a slot whose key is not there.
    pub(super) fn insert(&mut self, hash: u64, slot: InMemory) {
        let hash = hash as u32;
        self.bytes += allocated(slot.len());
        let number = match self.free.pop() {
            Some(number) => {
                *self.place_mut(number) = slot;
                number
            }
            None => self.push(slot),
        };
        let capacity = self.index.capacity();
        self.index.insert_unique(spread(hash), Found { hash, number }, |found| spread(found.hash));
        if self.index.capacity() != capacity {
            self.count();
        }
    }

    /// Adds a slot behind all others; gives its number.
    fn push(&mut self, slot: InMemory) -> u32 {
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(if self.chunks.is_empty() { 1 } else { CHUNK }));
            self.count();
        }
        let chunk = self.chunks.len() - 1;
        let last = &mut self.chunks[chunk];
        let (number, capacity) = (chunk << CHUNK_BITS | last.len(), last.capacity());
        last.push(slot);
        if last.capacity() != capacity {
            self.count();
        }
        number as u32
    }

    /// Counts anew what holds the slots.
    fn count(&mut self) {
        let last = self.chunks.last().map_or(0, Vec::capacity);
        let places = self.chunks.len().saturating_sub(1) * CHUNK + last;
        self.around = self.index.allocation_size()
            + places * size_of::<InMemory>()
            + self.chunks.capacity() * size_of::<Vec<InMemory>>()
            + self.free.capacity() * size_of::<u32>();
    }

    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<InMemory> {
        let (number, _) = self.find(hash, key)?;
        self.index.find_entry(spread(hash as u32), |found| found.number == number).ok()?.remove();
        let gone = self.take(number);
        self.count();
        Some(gone)
    }

    /// Takes a slot out of its place.
    fn take(&mut self, number: u32) -> InMemory {
        let gone = std::mem::replace(self.place_mut(number), InMemory::free());
        self.bytes -= allocated(gone.len());
        self.free.push(number);
        gone
    }

    /// All slots, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &InMemory> {
        self.chunks.iter().flatten().filter(|slot| !slot.is_free())
    }

    /// Takes out those for which `goes` says so. Where few are left of many, the places of the others go too.
    pub(super) fn extract(&mut self, mut goes: impl FnMut(&InMemory) -> bool) -> Vec<InMemory> {
        let places = self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) << CHUNK_BITS | last.len());
        let mut gone = Vec::new();
        for number in 0..places as u32 {
            if !self.place(number).is_free() && goes(self.place(number)) {
                gone.push(self.take(number));
            }
        }
        let chunks = &self.chunks;
        self.index.retain(|found| {
            let (chunk, place) = at(found.number);
            !chunks[chunk][place].is_free()
        });
        if self.len() <= places / 2 {
            let mut left = Self::default();
            for found in std::mem::take(&mut self.index) {
                left.insert(u64::from(found.hash), self.take(found.number));
            }
            *self = left;
        }
        self.count();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Against a plain map, with hashes that are alike.
    #[test]
    fn it_is_a_map() {
        let (mut slots, mut plain, mut random) = (Slots::default(), BTreeMap::<Vec<u8>, (Vec<u8>, u32)>::new(), 1u64);
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        for round in 0..200_000u32 {
            // It grows past a few chunks, and shrinks.
            let keys = if round % 40_000 < 30_000 { 6_000 } else { 500 };
            let key = below(keys).to_string().into_bytes();
            let hash = key.iter().fold(0u64, |h, b| h.wrapping_mul(31) + u64::from(*b)) % 4_096;
            let number = slots.find(hash, &key).map(|(number, _)| number);
            assert_eq!(number.and_then(|n| slots.at(n)).map(|s| (s.state().to_vec(), s.touched)), plain.get(&key).cloned());
            if below(3) == 0 {
                assert_eq!(slots.remove(hash, &key).map(|s| s.state().to_vec()), plain.remove(&key).map(|(state, _)| state));
            } else {
                let state = vec![b's'; below(20) as usize];
                let bytes: Box<[u8]> = [key.as_slice(), &state].concat().into();
                match number {
                    Some(number) => slots.replace(number, bytes, round),
                    None => slots.insert(hash, InMemory::new(bytes, key.len() as u32, round, round % 2 == 0)),
                }
                plain.insert(key, (state, round));
            }
            if round % 40_000 == 39_999 {
                let gone = slots.extract(|slot| slot.touched % 8 != 0);
                assert!(gone.iter().all(|slot| plain.remove(slot.key()).is_some_and(|(state, _)| state == slot.state())));
                assert!(plain.values().all(|(_, touched)| touched % 8 == 0));
            }
        }
        let found: BTreeMap<Vec<u8>, (Vec<u8>, u32)> =
            slots.iter().map(|s| (s.key().to_vec(), (s.state().to_vec(), s.touched))).collect();
        assert_eq!((found, slots.len()), (plain, slots.iter().count()));
        assert_eq!(slots.bytes, slots.iter().map(|s| allocated(s.len())).sum::<usize>());
        assert!(slots.chunks.len() < 3, "its places went");
        slots.extract(|_| true);
        assert!(slots.is_empty() && slots.memory() < 200, "{} bytes are left", slots.memory());
    }
}
