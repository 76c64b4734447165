//! What was read or committed goes to the local tree, and which of the changelog it has with that.

use super::Place;
use crate::output::CommitError;
use crate::state::bulk::{BorrowedChange, Bulk};
use crate::state::tree::Tree;

/// So many changes become a file of the tree; fewer go through its journal.
const INGEST_FROM: usize = 20_000;

/// Writes changes to the tree, and which of the changelog it has with them.
///
/// # Errors
/// [`CommitError`] when the disk refuses.
pub fn note<'a>(
    tree: &Tree,
    changes: impl IntoIterator<Item = BorrowedChange<'a>>,
    stored: &[u8],
    place: &Place,
) -> Result<(), CommitError> {
    let place = serde_json::to_vec(place).map_err(|e| CommitError::Corrupt(e.to_string()))?;
    // Not synced: what a crash of the machine takes from it is replayed.
    Ok(tree.apply(changes, &[("stored", stored), ("place", &place)], false)?)
}

/// What the tree is to have next.
pub(super) struct Step {
    pub(super) bulk: Bulk,
    /// What is true of the tree then: see [`note`].
    pub(super) notes: Option<(Vec<u8>, Place)>,
}

impl Step {
    pub(super) fn write(self, tree: &Tree) -> Result<(), CommitError> {
        write(tree, &self.bulk, self.notes.as_ref().map(|(stored, place)| (stored.as_slice(), place)))
    }
}

/// Writes many changes to the tree, and then which of the changelog it has with them. Between both the tree is ahead of what is noted, which does
/// no harm: what is noted is where the changelog is read from, and its values are absolute.
///
/// # Errors
/// [`CommitError`] when the disk refuses.
pub fn write(tree: &Tree, bulk: &Bulk, notes: Option<(&[u8], &Place)>) -> Result<(), CommitError> {
    let sorted = bulk.sorted();
    let mut few = None;
    if bulk.len() >= INGEST_FROM && tree.can_ingest() {
        tree.ingest(sorted)?;
    } else {
        few = Some(sorted);
    }
    let few = few.into_iter().flatten();
    match notes {
        Some((stored, place)) => note(tree, few, stored, place),
        None => Ok(tree.apply(few, &[], false)?),
    }
}
