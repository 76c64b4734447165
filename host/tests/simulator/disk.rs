//! A process's local tree, and what a disk does to it: it is behind, lost, damaged, of another job, full.
//!
//! The tree is the real one, and so are its notes. Which records of the changelog are read again follows `output/replay.rs`, whose reader needs a
//! broker. **Invariant**: whatever the disk did, what comes back is what the changelog holds; nothing else of a run depends on it, so that a
//! run is the same whatever the store below writes where.

use crate::broker::{Broker, META_KEY};
use crate::definition::Random;
use crate::files::files_below;
use kindling::output::replay::{Place, REMOVALS_KEPT_MS, Stored, note};
use kindling::output::{Change, CommitError};
use kindling::state::bulk::Bulk;
use kindling::state::tree::{Tree, TreeError};
use std::path::{Path, PathBuf};

/// A place of the changelog, so far behind that removals may be gone.
const OLD_MS: i64 = REMOVALS_KEPT_MS / 2;

/// A machine's folder with the tree, open or not.
pub struct Disk {
    path: PathBuf,
    tree: Option<Tree>,
    /// Changes of committed epochs that are not in the tree yet, and the notes that go with them.
    gathered: Bulk,
    stored: Vec<u8>,
    place: Place,
}

fn opened(path: &Path) -> Result<Tree, CommitError> {
    match Tree::open(path) {
        Err(TreeError::Damaged { .. } | TreeError::Format { .. }) => {
            Tree::remove(path)?;
            Ok(Tree::open(path)?)
        }
        opened => Ok(opened?),
    }
}

impl Disk {
    pub fn new(path: PathBuf) -> Self {
        Self { path, tree: None, gathered: Bulk::default(), stored: Vec::new(), place: Place::default() }
    }

    /// The state as the tree and the changelog behind it tell it.
    ///
    /// # Errors
    /// What the store below says, although its tree was made anew.
    pub fn restore(&mut self, broker: &Broker, now_ms: i64) -> Result<Vec<Change>, CommitError> {
        match self.restored(broker, now_ms) {
            Err(CommitError::Corrupt(_)) => {
                self.tree = None;
                Tree::remove(&self.path)?;
                self.restored(broker, now_ms)
            }
            restored => restored,
        }
    }

    fn restored(&mut self, broker: &Broker, now_ms: i64) -> Result<Vec<Change>, CommitError> {
        self.gathered = Bulk::default();
        let mut tree = match self.tree.take() {
            Some(tree) => tree,
            None => opened(&self.path)?,
        };
        let known: Option<Stored> = tree.note("stored")?.and_then(|b| serde_json::from_slice(&b).ok());
        let place: Option<Place> = tree.note("place")?.and_then(|b| serde_json::from_slice(&b).ok());
        let read = known.zip(place).and_then(|(known, place)| behind(broker, &known, place, now_ms));
        let (changes, stored, place) = match read {
            Some(read) => read,
            None => {
                tree.clear(&[])?;
                records(broker, &Place::default())
            }
        };
        match &stored {
            Some(stored) => note(&tree, changes.sorted(), stored, &place)?,
            None => tree.apply(changes.sorted(), &[], false)?,
        }
        (self.stored, self.place) = (stored.unwrap_or_default(), place);
        let mut entries = Vec::new();
        tree.entries(&mut |entry| entries.push(entry))?;
        self.tree = Some(tree);
        Ok(entries)
    }

    /// An epoch has been committed; the tree follows now and then.
    pub fn follow(&mut self, changes: Bulk, stored: Vec<u8>, place: Place, writes: bool) {
        self.gathered.append(changes);
        self.stored = stored;
        self.place.advance(place);
        if writes {
            self.write();
        }
    }

    fn write(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        let Some(tree) = &self.tree else { return };
        if !self.stored.is_empty() && note(tree, gathered.sorted(), &self.stored, &self.place).is_err() {
            self.tree = None;
        }
    }

    /// The disk is full: the tree stays behind from here on.
    pub fn fill(&mut self) {
        self.tree = None;
    }

    /// The process ends; one that is stopped leaves a tree that is up to date.
    pub fn close(&mut self, orderly: bool) {
        if orderly {
            self.write();
        }
        self.tree = None;
    }
}

/// Changes, the last position, and how far they go.
type Read = (Bulk, Option<Vec<u8>>, Place);

/// What the tree lacks; none where it can't be built upon.
fn behind(broker: &Broker, known: &Stored, place: Place, now_ms: i64) -> Option<Read> {
    let old = place.time.is_none_or(|time| now_ms - time > OLD_MS);
    let newer = |shard: usize, offset: i64| place.offsets.get(&(shard as i32)).is_none_or(|o| offset > *o);
    let has_newer = broker.changelog.iter().enumerate().any(|(s, p)| p.records.iter().any(|r| newer(s, r.offset)));
    if old && has_newer {
        return None;
    }
    let from = |r: &&crate::broker::Logged| place.offsets.get(&0).is_none_or(|o| r.offset >= *o) && r.key == META_KEY;
    let first = broker.changelog[0].records.iter().find(from)?;
    let first: Stored = serde_json::from_slice(first.value.as_deref()?).ok()?;
    (first.lineage == known.lineage).then(|| records(broker, &place))
}

fn records(broker: &Broker, from: &Place) -> Read {
    let (mut changes, mut stored, mut place) = (Bulk::default(), None, from.clone());
    for (shard, partition) in broker.changelog.iter().enumerate() {
        let first = from.offsets.get(&(shard as i32)).copied().unwrap_or(0);
        for record in partition.records.iter().filter(|r| r.offset >= first) {
            place.advance(Place { offsets: [(shard as i32, record.offset)].into(), time: Some(record.time) });
            if record.key == META_KEY {
                stored.clone_from(&record.value);
            } else {
                changes.push(shard as u16, &record.key, record.value.as_deref());
            }
        }
    }
    (changes, stored, place)
}

/// What happens to a folder that nobody has open.
pub fn harm(path: &Path, random: &mut Random) -> &'static str {
    match random.below(6) {
        0 => {
            let _ = std::fs::remove_dir_all(path);
            "its disk is lost"
        }
        1 | 2 => {
            let (at, bit) = (random.below(1_000), random.below(8));
            flip(path, at, bit as u8);
            "a bit of its disk is flipped"
        }
        3 => {
            let at = random.below(1_000);
            cut(path, at);
            "a file of its disk is cut"
        }
        _ => "its disk is as it was",
    }
}

/// One of the files, by thousandths of all bytes that are written, and the place within it.
fn place(path: &Path, at: u64) -> Option<(PathBuf, Vec<u8>, usize)> {
    let files: Vec<(PathBuf, Vec<u8>)> =
        files_below(path).into_iter().map(|p| path.join(p)).filter_map(|p| Some((p.clone(), std::fs::read(&p).ok()?))).collect();
    // The journal is made long at once, and is zeros behind its end.
    let written = |bytes: &[u8]| bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let all: usize = files.iter().map(|(_, bytes)| written(bytes)).sum();
    let mut at = (at as usize * all) / 1_000;
    for (path, bytes) in files {
        let long = written(&bytes);
        if at < long {
            return Some((path, bytes, at));
        }
        at -= long;
    }
    None
}

fn flip(path: &Path, at: u64, bit: u8) {
    if let Some((file, mut bytes, at)) = place(path, at) {
        bytes[at] ^= 1 << bit;
        let _ = std::fs::write(file, bytes);
    }
}

fn cut(path: &Path, at: u64) {
    if let Some((file, bytes, at)) = place(path, at) {
        let _ = std::fs::write(file, &bytes[..at]);
    }
}
