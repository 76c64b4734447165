//! Bytes that can be added while others are borrowed, and go all at once.
//!
//! The close of an epoch holds references into the table; what it reads from disk meanwhile has to live as long. Chunks double in size and
//! never move, so adding takes a shared reference and no `unsafe`.

use std::cell::{Cell, OnceCell};

/// Chunk `n` has `2^n` places: more than any memory has.
const CHUNKS: usize = 48;

type Chunk = Box<[OnceCell<Box<[u8]>>]>;

/// The bytes.
pub struct Arena {
    chunks: [OnceCell<Chunk>; CHUNKS],
    length: Cell<usize>,
}

impl Default for Arena {
    fn default() -> Self {
        Self { chunks: [const { OnceCell::new() }; CHUNKS], length: Cell::new(0) }
    }
}

/// Chunk and place in it.
fn place(at: usize) -> (usize, usize) {
    let chunk = (at + 1).ilog2() as usize;
    (chunk, at + 1 - (1 << chunk))
}

impl Arena {
    /// Adds bytes; gives their number.
    pub fn push(&self, bytes: Box<[u8]>) -> usize {
        let at = self.length.get();
        let (chunk, place) = place(at);
        let places = self.chunks[chunk].get_or_init(|| (0..1usize << chunk).map(|_| OnceCell::new()).collect());
        // A place is taken once: `length` only goes forward.
        let _ = places[place].set(bytes);
        self.length.set(at + 1);
        at
    }

    /// The bytes of a number that [`Arena::push`] gave; empty for any other.
    pub fn get(&self, at: usize) -> &[u8] {
        let (chunk, place) = place(at);
        let places = self.chunks.get(chunk).and_then(OnceCell::get);
        places.and_then(|c| c.get(place)).and_then(OnceCell::get).map_or(&[], |b| b.as_ref())
    }

    /// Adds bytes and gives them back.
    pub fn keep(&self, bytes: Box<[u8]>) -> &[u8] {
        self.get(self.push(bytes))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.length.get()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stays_while_more_comes() {
        let arena = Arena::default();
        let kept: Vec<&[u8]> = (0..1_000u32).map(|n| arena.keep(n.to_le_bytes().into())).collect();
        for (n, bytes) in kept.iter().enumerate() {
            assert_eq!((*bytes, arena.get(n)), (&(n as u32).to_le_bytes()[..], *bytes));
        }
        assert_eq!((arena.len(), arena.get(1_000), arena.get(usize::MAX - 1)), (1_000, &[][..], &[][..]));
    }
}
