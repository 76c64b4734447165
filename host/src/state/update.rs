//! A slot's new value, on its way from the close of an epoch to the table.

use super::store::PaneId;

/// One slot's new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Pane.
    pub pane: PaneId,
    /// Encoded key, then encoded partial state: as a slot keeps them.
    pub(super) bytes: Box<[u8]>,
    pub(super) key: u32,
    pub(super) place: Option<Place>,
}

/// Where a slot is, from [`Store::find`](super::store::Store::find) to [`Update::at`]: it need not be looked for again. Where it is out of date, it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory, under this number.
    Number(u32),
    /// Not there: under its key's hash, as far as the table takes it.
    Hash(u32),
}

impl Place {
    /// That of a slot which is not in memory, by its key's hash ([`Store::hash`](super::store::Store::hash)).
    pub fn of_hash(hash: u64) -> Self {
        Self::Hash(hash as u32)
    }
}

impl Update {
    /// Of a slot's encoded key and partial state.
    pub fn new(pane: PaneId, key: &[u8], state: &[u8]) -> Self {
        // No record of Kafka has 2 GiB.
        Self { pane, bytes: [key, state].concat().into(), key: key.len() as u32, place: None }
    }

    /// The same, of a slot that was found there.
    #[must_use]
    pub fn at(self, place: Option<Place>) -> Self {
        Self { place, ..self }
    }

    /// Encoded key.
    pub fn key(&self) -> &[u8] {
        &self.bytes[..self.key as usize]
    }

    /// Encoded partial state.
    pub fn state(&self) -> &[u8] {
        &self.bytes[self.key as usize..]
    }
}
