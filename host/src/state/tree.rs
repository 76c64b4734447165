//! The local tree: a copy of a job's committed state on disk, so that a restart need not replay the whole log.
//!
//! It is written only after the epoch has committed (or, without Kafka, its batch is the commit), so it may be behind the log and
//! is never ahead of it. Where it does not read back it can be deleted: the log holds everything.
//!
//! Each entry and note ends with a checksum of itself with its key: what the disk gives back otherwise is told and never taken for state.
//! The store below has checksums of its blocks; these hold from the job's memory to the job's memory.
//!
//! State and notes are in files of their own, and a journal that was cut off leaves them at different batches: state that is newer than the
//! position beside it, or older. So both carry the number of the last batch, and a tree whose numbers differ is damaged.

use crate::output::Change;
use crate::state::bulk::BorrowedChange;
use crate::state::lists;
use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Magic and version of the layout on disk.
const FORMAT: &[u8] = b"kindling-tree 3";
/// The layout before batches had numbers; it is read and written as it is.
const FORMAT_2: &[u8] = b"kindling-tree 2";
/// The layout before entries had checksums; it is read and written as it is.
const FORMAT_1: &[u8] = b"1";
/// Where the state has the number of the last batch: no shard has this number.
const BATCH_KEY: [u8; 2] = [0xff; 2];
/// The note that has it.
const BATCH_NOTE: &str = "batch";
/// The note that holds the format: without a checksum, so that any version reads it.
const FORMAT_NOTE: &str = "format";
/// The note of a tree whose journal has no mark that the state was cleared. fjall obeys such a mark at each start until it drops the journal,
/// and what was ingested since would be gone: it is not in the journal. Earlier programs cleared.
const UNMARKED_NOTE: &str = "unmarked";
/// Bytes of a checksum.
const CHECKSUM: usize = 4;
/// Bytes of journal that opening reads at most; the store allows no less.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Bytes of state in memory before they become a file; what they really take is some twice that. With more an update costs no less CPU
/// (`local_store`: 1.9 s a million with 4 MiB, 2.5 with 16), and a job that changes little fills it for hours. The journal is cut when both
/// keyspaces have done that, so notes, which are few, have a smaller bound.
const STATE_MEMORY_BYTES: u64 = 4 << 20;
const NOTES_MEMORY_BYTES: u64 = 64 << 10;

/// Why the tree failed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Another process has it open.
    #[error(
        "the local tree {path} is in use: another process runs this job with the same --data-dir; stop it, or give another folder"
    )]
    Locked {
        /// Folder.
        path: PathBuf,
    },
    /// The disk refuses.
    #[error("the local tree {path} can't be used: {why}; look at the disk's space and the folder's permissions")]
    Io {
        /// Folder.
        path: PathBuf,
        /// What the store said.
        why: String,
    },
    /// Its files don't read back.
    #[error(
        "the local tree {path} is damaged: {why}; without Kafka it is the job's only log: restore it from a copy, or delete the folder to start anew"
    )]
    Damaged {
        /// Folder.
        path: PathBuf,
        /// What the store said.
        why: String,
    },
    /// It was written by another version.
    #[error(
        "the local tree {path} has format {found}, this program writes {expected}: run the version that wrote it, or delete the folder to start anew"
    )]
    Format {
        /// Folder.
        path: PathBuf,
        /// Version found.
        found: String,
        /// Version expected.
        expected: String,
    },
}

/// The tree of one job.
pub struct Tree {
    path: PathBuf,
    database: Database,
    state: Keyspace,
    notes: Keyspace,
    format: &'static [u8],
    /// Number of the last batch.
    batch: AtomicU64,
    /// See [`UNMARKED_NOTE`].
    unmarked: bool,
}

impl Tree {
    /// Opens or makes the tree in `path`.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn open(path: &Path) -> Result<Self, TreeError> {
        std::fs::create_dir_all(path).map_err(|e| TreeError::Io { path: path.to_path_buf(), why: e.to_string() })?;
        remove_unfinished(path).map_err(|e| TreeError::Io { path: path.to_path_buf(), why: e.to_string() })?;
        lists::check(path).map_err(|why| TreeError::Damaged { path: path.to_path_buf(), why })?;
        // One background thread and a small cache: the table in memory is the hot path, this is its backup.
        let builder = Database::builder(path).worker_threads(1).cache_size(8 << 20).max_journaling_size(JOURNAL_BYTES);
        let database = builder.open().map_err(|e| error(path, &e))?;
        let open = |name: &str, memory: u64| keyspace(&database, name, memory).map_err(|e| error(path, &e));
        let (state, notes) = (open("state", STATE_MEMORY_BYTES)?, open("notes", NOTES_MEMORY_BYTES)?);
        let mut tree =
            Self { path: path.to_path_buf(), state, notes, database, format: FORMAT, batch: AtomicU64::new(0), unmarked: true };
        let format = tree.notes.get(FORMAT_NOTE).map_err(|e| error(path, &e))?;
        match format.map(|f| f.to_vec()) {
            // A tree whose format is gone but not its state has lost more than that.
            None if tree.state.iter().next().is_some() => return Err(tree.damaged("it has state and no format".into())),
            None => tree.apply(&[], &[(FORMAT_NOTE, FORMAT), (UNMARKED_NOTE, b"")], true)?,
            Some(found) if found == FORMAT => {}
            Some(found) if found == FORMAT_2 => tree.format = FORMAT_2,
            Some(found) if found == FORMAT_1 => tree.format = FORMAT_1,
            Some(found) => {
                return Err(TreeError::Format {
                    path: path.to_path_buf(),
                    found: String::from_utf8_lossy(&found).into_owned(),
                    expected: String::from_utf8_lossy(FORMAT).into_owned(),
                });
            }
        }
        tree.check_batches()?;
        tree.unmarked = tree.note(UNMARKED_NOTE)?.is_some();
        Ok(tree)
    }

    /// Whether [`Self::ingest`] can be used on this tree.
    pub fn can_ingest(&self) -> bool {
        self.unmarked
    }

    /// Whether entries and notes end with a checksum.
    fn is_checked(&self) -> bool {
        self.format != FORMAT_1
    }

    /// State and notes must be of the same batch.
    fn check_batches(&self) -> Result<(), TreeError> {
        if self.format != FORMAT {
            return Ok(());
        }
        let of_state = self.state.get(BATCH_KEY).map_err(|e| error(&self.path, &e))?;
        let of_state = of_state.map(|v| self.opened(&BATCH_KEY, &v).map(number)).transpose()?;
        let of_notes = self.note(BATCH_NOTE)?.map(|v| number(&v));
        if of_state != of_notes {
            let told = |number: Option<u64>| number.map_or_else(|| "none".to_owned(), |n| n.to_string());
            let why = format!("its state is of batch {}, what is noted beside it of batch {}", told(of_state), told(of_notes));
            return Err(self.damaged(why));
        }
        self.batch.store(of_state.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    /// Deletes the tree in `path`, which nobody has open.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn remove(path: &Path) -> Result<(), TreeError> {
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(TreeError::Io { path: path.to_path_buf(), why: e.to_string() }),
            _ => Ok(()),
        }
    }

    /// A value beside the state.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, TreeError> {
        match self.notes.get(name).map_err(|e| error(&self.path, &e))? {
            None => Ok(None),
            Some(value) => Ok(Some(self.opened(name.as_bytes(), &value)?.to_vec())),
        }
    }

    fn damaged(&self, why: String) -> TreeError {
        TreeError::Damaged { path: self.path.clone(), why }
    }

    /// A value as it is stored under `key`.
    fn sealed(&self, key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(value.len() + CHECKSUM);
        self.seal(key, value, &mut sealed);
        sealed
    }

    fn seal(&self, key: &[u8], value: &[u8], sealed: &mut Vec<u8>) {
        sealed.extend_from_slice(value);
        if self.is_checked() {
            sealed.extend_from_slice(&checksum(key, value));
        }
    }

    /// The value of what is stored under `key`.
    fn opened<'a>(&self, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], TreeError> {
        if !self.is_checked() {
            return Ok(stored);
        }
        match stored.split_last_chunk::<CHECKSUM>() {
            Some((value, sum)) if *sum == checksum(key, value) => Ok(value),
            _ => Err(self.damaged(format!(
                "the entry of {} bytes under a key of {} has another checksum",
                stored.len(),
                key.len()
            ))),
        }
    }

    /// Applies changes and notes as one; durable at return where `sync`, else soon.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn apply(&self, changes: &[Change], notes: &[(&str, &[u8])], sync: bool) -> Result<(), TreeError> {
        let mut batch = self.database.batch().durability(Some(if sync { PersistMode::SyncAll } else { PersistMode::Buffer }));
        for change in changes {
            let mut key = Vec::with_capacity(2 + change.key.len());
            key.extend_from_slice(&change.shard.to_be_bytes());
            key.extend_from_slice(&change.key);
            match &change.value {
                Some(value) => {
                    let value = self.sealed(&key, value);
                    batch.insert(&self.state, key, value);
                }
                None => batch.remove(&self.state, key),
            }
        }
        for (name, value) in notes {
            let value = if *name == FORMAT_NOTE { value.to_vec() } else { self.sealed(name.as_bytes(), value) };
            batch.insert(&self.notes, *name, value);
        }
        if self.format == FORMAT {
            let number = (self.batch.fetch_add(1, Ordering::Relaxed) + 1).to_be_bytes();
            batch.insert(&self.state, BATCH_KEY, self.sealed(&BATCH_KEY, &number));
            batch.insert(&self.notes, BATCH_NOTE, self.sealed(BATCH_NOTE.as_bytes(), &number));
        }
        batch.commit().map_err(|e| error(&self.path, &e))
    }

    /// Writes many changes, each key once, rising by shard and key. At return they are durable. They go straight into files of the tree,
    /// without its journal, for a fraction of what [`Self::apply`] costs a change; a few are better off there. What is to be true of them
    /// is noted afterwards: a crash between both leaves changes that are not noted, and the log has them once more. Only where
    /// [`Self::can_ingest`] says so.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    ///
    /// # Panics
    /// Where keys don't rise.
    pub fn ingest<'a>(&self, changes: impl Iterator<Item = BorrowedChange<'a>>) -> Result<(), TreeError> {
        let mut ingestion = self.state.start_ingestion().map_err(|e| error(&self.path, &e))?;
        let (mut full, mut sealed) = (Vec::new(), Vec::new());
        for (shard, key, value) in changes {
            full.clear();
            full.extend_from_slice(&shard.to_be_bytes());
            full.extend_from_slice(key);
            match value {
                Some(value) => {
                    sealed.clear();
                    self.seal(&full, value, &mut sealed);
                    ingestion.write(full.as_slice(), sealed.as_slice())
                }
                None => ingestion.write_tombstone(full.as_slice()),
            }
            .map_err(|e| error(&self.path, &e))?;
        }
        ingestion.finish().map_err(|e| error(&self.path, &e))
    }

    /// All entries of the state. What `each` was given counts only when this ends well.
    ///
    /// # Errors
    /// [`TreeError::Damaged`] where an entry does not read back, [`TreeError::Io`].
    pub fn entries(&self, each: &mut dyn FnMut(Change)) -> Result<(), TreeError> {
        for entry in self.state.iter() {
            let (key, value) = entry.into_inner().map_err(|e| error(&self.path, &e))?;
            let value = self.opened(&key, &value)?.to_vec();
            if key[..] == BATCH_KEY {
                continue;
            }
            let Some((shard, key)) = key.split_first_chunk::<2>() else {
                return Err(self.damaged(format!("a key has {} bytes", key.len())));
            };
            each(Change { shard: u16::from_be_bytes(*shard), key: key.to_vec(), value: Some(value) });
        }
        Ok(())
    }

    /// Empties the tree but for the notes named in `keep`.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn clear(&mut self, keep: &[&str]) -> Result<(), TreeError> {
        let format = if self.is_checked() { FORMAT } else { FORMAT_1 };
        let mut kept = vec![(FORMAT_NOTE, format.to_vec())];
        for name in keep.iter().chain(&[UNMARKED_NOTE]) {
            kept.extend(self.note(name)?.map(|value| (*name, self.sealed(name.as_bytes(), &value))));
        }
        // Notes first, and durably: notes without the state that they speak of would be believed after a crash.
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for entry in self.notes.iter() {
            batch.remove(&self.notes, entry.key().map_err(|e| error(&self.path, &e))?);
        }
        for (name, value) in &kept {
            batch.insert(&self.notes, *name, value.as_slice());
        }
        batch.commit().map_err(|e| error(&self.path, &e))?;
        // Not fjall's own `clear`: see `UNMARKED_NOTE`.
        let remade = self.database.delete_keyspace(self.state.clone());
        let remade = remade.and_then(|()| keyspace(&self.database, "state", STATE_MEMORY_BYTES));
        self.state = remade.map_err(|e| error(&self.path, &e))?;
        self.format = format;
        Ok(())
    }
}

/// The number of a batch; 0 is that of none.
fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

fn keyspace(database: &Database, name: &str, memory: u64) -> fjall::Result<Keyspace> {
    // Bulks are large: more of them than fjall's 4 files may lie side by side before they are merged.
    let strategy = Arc::new(Leveled::default().with_l0_threshold(8));
    database.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memory).compaction_strategy(strategy))
}

/// FNV-1a of a key's length, the key and the value, folded to 32 bits. It is there against a disk's mistakes, not against malice.
pub(super) fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM] {
    let add = |h: u64, bytes: &[u8]| bytes.iter().fold(h, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let h = add(0xcbf2_9ce4_8422_2325, &(key.len() as u64).to_le_bytes());
    let h = add(add(h, key), value);
    ((h ^ (h >> 32)) as u32).to_le_bytes()
}

/// Who must act: what the file system refuses is one thing, what it gave back wrong is another.
fn error(path: &Path, error: &fjall::Error) -> TreeError {
    let (path, why) = (path.to_path_buf(), error.to_string());
    match error {
        fjall::Error::Locked => TreeError::Locked { path },
        fjall::Error::Poisoned => TreeError::Io { path, why },
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e))
            if !matches!(
                e.kind(),
                // The last is a seek to before the start of a file that was cut off.
                ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput
            ) =>
        {
            TreeError::Io { path, why }
        }
        _ => TreeError::Damaged { path, why },
    }
}

/// Removes what is left where a process died, or had no room, while it made the tree: nothing was in it yet, and the store does not make one
/// over that. Its marker `version` comes last, and the folder of what it holds has entries as soon as it holds anything.
fn remove_unfinished(path: &Path) -> std::io::Result<()> {
    let journal = path.join("0.jnl");
    let holds = path.join("keyspaces").read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if holds || path.join("version").exists() || !journal.exists() {
        return Ok(());
    }
    // Not from under a process that makes the tree right now.
    let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"))?;
    if lock.try_lock().is_ok() && !path.join("version").exists() {
        std::fs::remove_file(journal)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::bulk::Bulk;

    #[test]
    fn what_was_applied_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let change = |key: &str, value: Option<&str>| Change { shard: 3, key: key.into(), value: value.map(Into::into) };
        {
            let tree = Tree::open(dir.path()).unwrap();
            tree.apply(&[change("a", Some("1")), change("b", Some("2"))], &[("meta", b"m")], true).unwrap();
            tree.apply(&[change("a", None)], &[], true).unwrap();
        }
        let mut tree = Tree::open(dir.path()).unwrap();
        let mut entries = Vec::new();
        tree.entries(&mut |e| entries.push(e)).unwrap();
        assert_eq!(entries, [change("b", Some("2"))]);
        assert_eq!(tree.note("meta").unwrap().as_deref(), Some(&b"m"[..]));
        tree.clear(&[]).unwrap();
        tree.entries(&mut |e| panic!("{e:?}")).unwrap();
        assert_eq!(tree.note("meta").unwrap(), None);
    }

    #[test]
    fn a_tree_whose_making_broke_off_is_made_and_one_that_was_made_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("keyspaces")).unwrap();
        std::fs::write(dir.path().join("0.jnl"), "").unwrap();
        std::fs::write(dir.path().join("lock"), "").unwrap();
        Tree::open(dir.path()).unwrap().apply(&[], &[("meta", b"m")], true).unwrap();
        std::fs::remove_file(dir.path().join("version")).unwrap();
        assert!(Tree::open(dir.path()).is_err());
        assert!(dir.path().join("0.jnl").metadata().unwrap().len() > 0, "what it holds is not removed with its marker gone");
    }

    #[test]
    fn what_is_kept_outlives_clearing() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(dir.path()).unwrap();
        tree.apply(&[], &[("stored", b"s"), ("file/sink", b"/a")], true).unwrap();
        tree.clear(&["file/sink", "file/late"]).unwrap();
        drop(tree);
        let tree = Tree::open(dir.path()).unwrap();
        assert_eq!(tree.note("stored").unwrap(), None);
        assert_eq!(tree.note("file/sink").unwrap().as_deref(), Some(&b"/a"[..]));
    }

    #[test]
    fn who_must_act_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        assert!(matches!(Tree::open(dir.path()), Err(TreeError::Locked { .. })));
        tree.apply(&[], &[("format", b"99")], true).unwrap();
        drop(tree);
        assert!(matches!(Tree::open(dir.path()), Err(TreeError::Format { found, .. }) if found == "99"));
        Tree::remove(dir.path()).unwrap();
        drop(Tree::open(dir.path()).unwrap());
        // A file of the store that was cut to nothing.
        std::fs::write(dir.path().join("version"), "").unwrap();
        let opened = Tree::open(dir.path()).err();
        assert!(matches!(opened, Some(TreeError::Damaged { .. })), "{opened:?}");
    }

    fn change(n: u32) -> Change {
        Change { shard: (n % 4) as u16, key: n.to_be_bytes().repeat(3), value: Some(format!("state of {n}").into_bytes()) }
    }

    /// Changes written in either way, cleared in between, and the tree opened again at any point.
    #[test]
    fn what_was_ingested_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let bulk = |keys: std::ops::Range<u32>, value: Option<u8>| {
            let mut bulk = Bulk::default();
            let value = value.map(|v| vec![v; 40]);
            keys.rev().for_each(|n| bulk.push((n % 3) as u16, &n.to_be_bytes(), value.as_deref()));
            bulk
        };
        let read = |tree: &Tree| {
            let mut entries = std::collections::BTreeMap::new();
            let take = |c: Change| {
                let key = u32::from_be_bytes(c.key.try_into().unwrap());
                assert_eq!(entries.insert(key, c.value.unwrap()[0]), None);
            };
            tree.entries(&mut { take }).unwrap();
            entries
        };
        let expected = |parts: &[(std::ops::Range<u32>, u8)]| -> std::collections::BTreeMap<u32, u8> {
            parts.iter().flat_map(|(keys, value)| keys.clone().map(|k| (k, *value))).collect()
        };
        let mut tree = Tree::open(dir.path()).unwrap();
        tree.ingest(bulk(0..2_000, Some(1)).sorted()).unwrap();
        // Over what was ingested in the usual way, over that by ingestion, with removals in both.
        let one = |n: u32, value: Option<u8>| Change {
            shard: (n % 3) as u16,
            key: n.to_be_bytes().to_vec(),
            value: value.map(|v| vec![v; 40]),
        };
        tree.apply(&(500..1_500).map(|n| one(n, (n >= 1_000).then_some(2))).collect::<Vec<_>>(), &[], false).unwrap();
        tree.ingest(bulk(1_400..1_600, None).sorted()).unwrap();
        tree.ingest(bulk(400..600, Some(3)).sorted()).unwrap();
        let before = expected(&[(0..400, 1), (400..600, 3), (1_000..1_400, 2), (1_600..2_000, 1)]);
        for _ in 0..3 {
            assert_eq!(read(&tree), before);
            drop(tree);
            tree = Tree::open(dir.path()).unwrap();
        }
        tree.clear(&[]).unwrap();
        tree.apply(&[one(1, Some(4))], &[], true).unwrap();
        tree.ingest(bulk(10..20, Some(5)).sorted()).unwrap();
        tree.apply(&[one(2, Some(6)), one(10, None)], &[], true).unwrap();
        for _ in 0..3 {
            assert_eq!(read(&tree), expected(&[(1..2, 4), (2..3, 6), (11..20, 5)]));
            drop(tree);
            tree = Tree::open(dir.path()).unwrap();
            assert!(tree.can_ingest());
        }
        // A tree that an earlier program may have cleared.
        tree.notes.remove(UNMARKED_NOTE).unwrap();
        drop(tree);
        assert!(!Tree::open(dir.path()).unwrap().can_ingest());
    }

    fn all(path: &Path) -> Result<Vec<Change>, TreeError> {
        let tree = Tree::open(path)?;
        let mut entries = Vec::new();
        tree.entries(&mut |e| entries.push(e))?;
        tree.note("meta")?;
        Ok(entries)
    }

    #[test]
    fn an_entry_that_is_another_than_was_written_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        tree.apply(&[change(1)], &[("meta", b"m")], true).unwrap();
        // As if memory or disk had changed a bit that the store below did not see.
        let key = [&1u16.to_be_bytes()[..], &change(1).key].concat();
        let stored = tree.state.get(&key).unwrap().unwrap().to_vec();
        for at in 0..stored.len() {
            let mut changed = stored.clone();
            changed[at] ^= 4;
            tree.state.insert(&key, changed).unwrap();
            assert!(matches!(tree.entries(&mut |_| {}), Err(TreeError::Damaged { .. })), "byte {at}");
        }
        // And a value under another's key.
        tree.state.insert(&key, &stored).unwrap();
        tree.entries(&mut |_| {}).unwrap();
        tree.state.insert([&1u16.to_be_bytes()[..], &change(2).key].concat(), &stored).unwrap();
        assert!(matches!(tree.entries(&mut |_| {}), Err(TreeError::Damaged { .. })));
        tree.notes.insert("meta", b"other").unwrap();
        assert!(matches!(tree.note("meta"), Err(TreeError::Damaged { .. })));
    }

    /// A tree as it was written before entries had checksums.
    #[test]
    fn a_tree_of_format_1_is_read_and_written() {
        let dir = tempfile::tempdir().unwrap();
        {
            let tree = Tree::open(dir.path()).unwrap();
            tree.notes.insert("format", b"1").unwrap();
            tree.notes.insert("meta", b"m").unwrap();
            tree.state.insert([0, 1, b'k'], b"v").unwrap();
            tree.notes.remove(BATCH_NOTE).unwrap();
            tree.state.remove(BATCH_KEY).unwrap();
            tree.database.persist(PersistMode::SyncAll).unwrap();
        }
        let tree = Tree::open(dir.path()).unwrap();
        assert_eq!(tree.note("meta").unwrap().as_deref(), Some(&b"m"[..]));
        tree.apply(&[change(1)], &[("meta", b"n")], true).unwrap();
        drop(tree);
        let old = Change { shard: 1, key: b"k".to_vec(), value: Some(b"v".to_vec()) };
        assert_eq!(all(dir.path()).unwrap(), [change(1), old]);
    }

    /// Files of the tree are changed at many places, one at a time: what comes back is right, or a word that it is damaged.
    #[test]
    fn a_file_that_was_changed_is_told_or_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("whole");
        let want: Vec<Change> = {
            let tree = Tree::open(&whole).unwrap();
            for step in 0..4 {
                let changes: Vec<Change> = (step * 500..step * 500 + 1_000).map(change).collect();
                tree.apply(&changes, &[("meta", b"m")], true).unwrap();
                if step == 1 {
                    tree.state.rotate_memtable_and_wait().unwrap();
                }
            }
            drop(tree);
            all(&whole).unwrap()
        };
        assert_eq!(want.len(), 2_500);
        let files = files_below(&whole);
        let (mut told, mut unharmed) = (0, 0);
        for file in &files {
            let bytes = std::fs::read(whole.join(file)).unwrap();
            let places = (0..24).map(|n| n * bytes.len() / 24).filter(|at| *at < bytes.len());
            for at in places {
                let copy = dir.path().join("copy");
                let _ = std::fs::remove_dir_all(&copy);
                for other in &files {
                    let to = copy.join(other);
                    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                    std::fs::copy(whole.join(other), to).unwrap();
                }
                let mut changed = bytes.clone();
                changed[at] ^= 0x10;
                std::fs::write(copy.join(file), changed).unwrap();
                // The store may panic on what it takes for its own: that ends the process with a word, and does no harm either.
                match std::panic::catch_unwind(|| all(&copy)) {
                    Ok(Ok(entries)) => {
                        // All of it, or what one of the batches before the last left: the end of a journal is cut off where it is torn.
                        let prefix = |steps: u32| (0..steps * 500 + 500).map(change).collect::<Vec<_>>();
                        let sorted = |mut e: Vec<Change>| {
                            e.sort_by(|a, b| (a.shard, &a.key).cmp(&(b.shard, &b.key)));
                            e
                        };
                        let right = (1..=4).any(|steps| sorted(prefix(steps)) == entries);
                        assert!(right, "{} byte {at}: {} entries", file.display(), entries.len());
                        unharmed += 1;
                    }
                    Ok(Err(TreeError::Damaged { .. } | TreeError::Format { .. })) => told += 1,
                    Ok(Err(error)) => panic!("{} byte {at}: {error}", file.display()),
                    Err(_) => panic!("{} byte {at}: the store panics", file.display()),
                }
            }
        }
        println!("{} files: {told} changes told, {unharmed} without harm", files.len());
        assert!(told > 0);
    }

    fn files_below(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path.strip_prefix(folder).unwrap().to_path_buf()) }
            }
        }
        found
    }
}
