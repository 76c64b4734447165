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
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
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
}

impl Tree {
    /// Opens or makes the tree in `path`.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn open(path: &Path) -> Result<Self, TreeError> {
        std::fs::create_dir_all(path).map_err(|e| TreeError::Io { path: path.to_path_buf(), why: e.to_string() })?;
        // One background thread and a small cache: the table in memory is the hot path, this is its backup.
        let builder = Database::builder(path).worker_threads(1).cache_size(8 << 20).max_journaling_size(JOURNAL_BYTES);
        let database = builder.open().map_err(|e| error(path, &e))?;
        let open = |name: &str, memory: u64| {
            database.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memory)).map_err(|e| error(path, &e))
        };
        let (state, notes) = (open("state", STATE_MEMORY_BYTES)?, open("notes", NOTES_MEMORY_BYTES)?);
        let mut tree = Self { path: path.to_path_buf(), state, notes, database, format: FORMAT, batch: AtomicU64::new(0) };
        let format = tree.notes.get(FORMAT_NOTE).map_err(|e| error(path, &e))?;
        match format.map(|f| f.to_vec()) {
            // A tree whose format is gone but not its state has lost more than that.
            None if tree.state.iter().next().is_some() => return Err(tree.damaged("it has state and no format".into())),
            None => tree.apply(&[], &[(FORMAT_NOTE, FORMAT)], true)?,
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
        Ok(tree)
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
        sealed.extend_from_slice(value);
        if self.is_checked() {
            sealed.extend_from_slice(&checksum(key, value));
        }
        sealed
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
    pub fn clear(&self, keep: &[&str]) -> Result<(), TreeError> {
        let format = if self.is_checked() { FORMAT } else { FORMAT_1 };
        let mut kept = vec![(FORMAT_NOTE, format.to_vec())];
        for name in keep {
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
        batch.commit().and_then(|()| self.state.clear()).map_err(|e| error(&self.path, &e))
    }
}

/// The number of a batch; 0 is that of none.
fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

/// FNV-1a of a key's length, the key and the value, folded to 32 bits. It is there against a disk's mistakes, not against malice.
pub(super) fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM] {
    let length = (key.len() as u64).to_le_bytes();
    let bytes = length.iter().chain(key).chain(value);
    let h = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let change = |key: &str, value: Option<&str>| Change { shard: 3, key: key.into(), value: value.map(Into::into) };
        {
            let tree = Tree::open(dir.path()).unwrap();
            tree.apply(&[change("a", Some("1")), change("b", Some("2"))], &[("meta", b"m")], true).unwrap();
            tree.apply(&[change("a", None)], &[], true).unwrap();
        }
        let tree = Tree::open(dir.path()).unwrap();
        let mut entries = Vec::new();
        tree.entries(&mut |e| entries.push(e)).unwrap();
        assert_eq!(entries, [change("b", Some("2"))]);
        assert_eq!(tree.note("meta").unwrap().as_deref(), Some(&b"m"[..]));
        tree.clear(&[]).unwrap();
        tree.entries(&mut |e| panic!("{e:?}")).unwrap();
        assert_eq!(tree.note("meta").unwrap(), None);
    }

    #[test]
    fn what_is_kept_outlives_clearing() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
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
