//! The local tree behind the changelog, on a thread of its own.
//!
//! A batched write of the tree costs more than the transaction that it follows, and the next epoch mostly changes the same keys. So
//! changes of committed epochs are gathered, the last of a key counting, and written now and then beside the commits. A process that is
//! killed leaves a tree that is behind by what was gathered; a restart replays that from the changelog.

use crate::output::CommitError;
use crate::output::replay::{self, Place};
use crate::state::bulk::Bulk;
use crate::state::tree::Tree;
use crossbeam_channel::{Sender, TrySendError, bounded};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A tree this far behind is written to when its thread is free.
const GATHER_TIME: Duration = Duration::from_secs(5);
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
    /// Bytes of changes that are written as one, the commit waiting for the thread where it must: the more at once, the less the tree merges.
    bytes_max: usize,
    /// The last epoch that is gathered.
    last: Option<(Vec<u8>, Place)>,
    since: Instant,
}

impl Follower {
    /// Follows with `tree`, which is at the end of the changelog. At most `bytes_max` of changes are gathered while as many are written.
    ///
    /// # Errors
    /// [`CommitError::Config`] when the system has no thread for it.
    pub fn new(tree: Tree, bytes_max: usize) -> Result<Self, CommitError> {
        let tree = Arc::new(tree);
        let (steps, received) = bounded::<Step>(0);
        let writer = Arc::clone(&tree);
        let thread = std::thread::Builder::new()
            .name("local-tree".into())
            .spawn(move || received.iter().try_for_each(|step| write(&writer, &step)))
            .map_err(|e| CommitError::Config(format!("no thread for the local tree: {e}")))?;
        Ok(Self { tree, steps, thread, gathered: Bulk::default(), bytes_max, last: None, since: Instant::now() })
    }

    /// Takes in a committed epoch. False when the tree can't be written to any more: end it with [`Follower::finish`].
    pub fn follow(&mut self, changes: Bulk, stored: Vec<u8>, place: Place) -> bool {
        self.gathered.append(changes);
        self.last = Some((stored, place));
        let must = self.gathered.bytes() >= self.bytes_max;
        if !must && self.since.elapsed() < GATHER_TIME {
            return true;
        }
        let Some(step) = self.step() else { return true };
        if must {
            return self.steps.send(step).is_ok();
        }
        match self.steps.try_send(step) {
            Err(TrySendError::Full(Step { gathered, stored, place })) => {
                (self.gathered, self.last) = (gathered, Some((stored, place)));
                true
            }
            sent => sent.is_ok(),
        }
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

fn write(tree: &Tree, step: &Step) -> Result<(), CommitError> {
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
        let mut follower = Follower::new(Tree::open(dir.path()).unwrap(), 4 << 20).unwrap();
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
        let mut follower = Follower::new(Tree::open(dir.path()).unwrap(), 4 << 20).unwrap();
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
