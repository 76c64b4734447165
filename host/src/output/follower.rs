//! The local tree behind the changelog, on a thread of its own.
//!
//! A batched write of the tree costs more than the transaction that it follows, and the next epoch mostly changes the same keys. So
//! changes of committed epochs are gathered, the last of a key counting, and written now and then beside the commits. A process that is
//! killed leaves a tree that is behind by what was gathered; a restart replays that from the changelog.

use crate::output::CommitError;
use crate::output::replay::{self, Place};
use crate::state::bulk::Bulk;
use crate::state::tree::Tree;
use crossbeam_channel::{Sender, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A tree this far behind is written to when its thread is free.
const GATHER_TIME: Duration = Duration::from_secs(5);
/// So is one that lacks this many keys: the more at once, the less the tree merges.
const GATHER_KEYS: usize = 200_000;
/// At this many changes the commit waits for the thread.
const GATHER_MAX: usize = 400_000;

/// What the tree is to have next, as one.
struct Step {
    gathered: Bulk,
    stored: Vec<u8>,
    place: Place,
}

/// Writes committed epochs to a tree.
pub struct Follower {
    tree: Arc<Tree>,
    steps: Sender<Step>,
    thread: JoinHandle<Result<(), CommitError>>,
    gathered: Bulk,
    /// Changes that make [`GATHER_KEYS`], going by how often keys changed in what was written last.
    due_at: Arc<AtomicUsize>,
    /// The last epoch that is gathered.
    last: Option<(Vec<u8>, Place)>,
    since: Instant,
}

impl Follower {
    /// Follows with `tree`, which is at the end of the changelog.
    ///
    /// # Errors
    /// [`CommitError::Config`] when the system has no thread for it.
    pub fn new(tree: Tree) -> Result<Self, CommitError> {
        let tree = Arc::new(tree);
        // One step may wait while one is written.
        let (steps, received) = bounded::<Step>(1);
        let due_at = Arc::new(AtomicUsize::new(GATHER_KEYS));
        let (writer, due) = (Arc::clone(&tree), Arc::clone(&due_at));
        let thread = std::thread::Builder::new()
            .name("local-tree".into())
            .spawn(move || {
                received.iter().try_for_each(|step| {
                    let keys = write(&writer, &step)?.max(1);
                    let often = step.gathered.len() / keys;
                    due.store((GATHER_KEYS * often).min(GATHER_MAX), Ordering::Relaxed);
                    Ok(())
                })
            })
            .map_err(|e| CommitError::Config(format!("no thread for the local tree: {e}")))?;
        Ok(Self { tree, steps, thread, gathered: Bulk::default(), due_at, last: None, since: Instant::now() })
    }

    /// Takes in a committed epoch. False when the tree can't be written to any more: end it with [`Follower::finish`].
    pub fn follow(&mut self, changes: Bulk, stored: Vec<u8>, place: Place) -> bool {
        self.gathered.append(changes);
        self.last = Some((stored, place));
        let due = self.gathered.len() >= self.due_at.load(Ordering::Relaxed) || self.since.elapsed() >= GATHER_TIME;
        let must = self.gathered.len() >= GATHER_MAX;
        // This thread is the only sender: a channel that is not full stays so until the send.
        if must || (due && !self.steps.is_full()) {
            return self.step().is_none_or(|step| self.steps.send(step).is_ok());
        }
        true
    }

    /// Writes what is gathered, and gives the tree back.
    ///
    /// # Errors
    /// [`CommitError`] when the tree could not be written to; it is behind then, and not wrong.
    pub fn finish(mut self) -> Result<Tree, CommitError> {
        let rest = self.step();
        drop(self.steps);
        match self.thread.join() {
            Ok(outcome) => outcome?,
            Err(_) => return Err(CommitError::Corrupt("the local tree could not be written to".into())),
        }
        if let Some(step) = rest {
            write(&self.tree, &step)?;
        }
        Arc::try_unwrap(self.tree).map_err(|_| CommitError::Aborted("the local tree is still in use".into()))
    }

    fn step(&mut self) -> Option<Step> {
        self.since = Instant::now();
        let (stored, place) = self.last.take()?;
        Some(Step { gathered: std::mem::take(&mut self.gathered), stored, place })
    }
}

/// Gives the number of keys.
fn write(tree: &Tree, step: &Step) -> Result<usize, CommitError> {
    replay::write(tree, &step.gathered, Some((&step.stored, &step.place)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Change;

    fn change(key: u32, value: Option<u8>) -> Change {
        Change { shard: (key % 4) as u16, key: key.to_be_bytes().to_vec(), value: value.map(|v| vec![v]) }
    }

    fn count(tree: &Tree) -> usize {
        let mut n = 0;
        tree.entries(&mut |_| n += 1).unwrap();
        n
    }

    #[test]
    fn the_tree_has_the_last_of_each_key_and_the_notes_of_the_last_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let mut follower = Follower::new(Tree::open(dir.path()).unwrap()).unwrap();
        for epoch in 0..10u8 {
            let place = Place { offsets: [(0, i64::from(epoch))].into(), time: Some(1) };
            let changes = vec![change(1, Some(epoch)), change(2, (epoch % 2 == 0).then_some(epoch))];
            assert!(follower.follow(changes.into_iter().collect(), vec![epoch], place));
        }
        let tree = follower.finish().unwrap();
        let mut entries = Vec::new();
        tree.entries(&mut |e| entries.push(e)).unwrap();
        assert_eq!(entries, [change(1, Some(9))]);
        assert_eq!(tree.note("stored").unwrap(), Some(vec![9]));
        let place: Place = serde_json::from_slice(&tree.note("place").unwrap().unwrap()).unwrap();
        assert_eq!(place.offsets[&0], 9);
    }

    #[test]
    fn much_is_written_before_the_end_and_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut follower = Follower::new(Tree::open(dir.path()).unwrap()).unwrap();
        let tree = Arc::clone(&follower.tree);
        let (keys, epochs) = (50_000u32, 6u8);
        for epoch in 0..epochs {
            let from = u32::from(epoch) * keys;
            assert!(follower.follow(
                (from..from + keys).map(|k| change(k, Some(epoch))).collect(),
                vec![epoch],
                Place::default()
            ));
        }
        let started = Instant::now();
        let written = loop {
            // The note of an epoch is there with all its keys, or not at all.
            if let Some(stored) = tree.note("stored").unwrap() {
                break stored[0];
            }
            assert!(started.elapsed() < Duration::from_secs(30), "nothing is written without the end");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(count(&tree) >= (usize::from(written) + 1) * keys as usize);
        drop(tree);
        assert_eq!(count(&follower.finish().unwrap()), usize::from(epochs) * keys as usize);
    }
}
