//! The local tree: a copy of a job's committed state on disk, so that a restart need not replay the whole log.
//!
//! It is written only after the epoch has committed (or, without Kafka, its batch is the commit), so it may be behind the log and
//! is never ahead of it. Where it does not read back it can be deleted: the log holds everything.
//!
//! Each entry and note ends with a checksum of itself with its key: what the disk gives back otherwise is told and never taken for state.
//! The store below has checksums of its blocks; these hold from the job's memory to the job's memory.
//!
//! State and notes are in files of their own, and a journal that was cut off leaves them at different batches: state that is newer than the
//! position beside it, or older. So both carry the number of the last batch that changed state, and a tree whose numbers differ is damaged.

use crate::output::Change;
use crate::state::bulk::BorrowedChange;
use crate::state::lists;
use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The layout on disk. Older ones are read and written as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Format {
    /// Before entries had checksums.
    One,
    /// Before batches had numbers.
    Two,
    /// Before the checksum was one that takes many bytes at once.
    Three,
    Four,
}

impl Format {
    const ALL: [Self; 4] = [Self::One, Self::Two, Self::Three, Self::Four];

    /// Magic and version.
    fn name(self) -> &'static [u8] {
        match self {
            Self::One => b"1",
            Self::Two => b"kindling-tree 2",
            Self::Three => b"kindling-tree 3",
            Self::Four => b"kindling-tree 4",
        }
    }

    /// Whether the number of the last batch is there.
    fn counts(self) -> bool {
        self >= Self::Three
    }

    /// Adds what stands for `value` under `key`.
    fn seal(self, key: &[u8], value: &[u8], sealed: &mut Vec<u8>) {
        sealed.extend_from_slice(value);
        sealed.extend(self.sum(key, value).into_iter().flatten());
    }

    /// The checksum behind a value.
    fn sum(self, key: &[u8], value: &[u8]) -> Option<[u8; CHECKSUM]> {
        match self {
            Self::One => None,
            Self::Two | Self::Three => Some(checksum_3(key, value)),
            Self::Four => Some(checksum(key, value)),
        }
    }

    /// The value of what is stored under `key`; none where it does not read back.
    fn open<'a>(self, key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
        if self == Self::One {
            return Some(stored);
        }
        let (value, sum) = stored.split_last_chunk::<CHECKSUM>()?;
        (self.sum(key, value) == Some(*sum)).then_some(value)
    }
}

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
/// Bytes of a block of state on disk: it is read from one end to the other.
const BLOCK_BYTES: u32 = 16 << 10;

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
    format: Format,
    /// Number of the last batch that changed state.
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
        let mut tree = Self {
            path: path.to_path_buf(),
            state,
            notes,
            database,
            format: Format::Four,
            batch: AtomicU64::new(0),
            unmarked: true,
        };
        let format = tree.notes.get(FORMAT_NOTE).map_err(|e| error(path, &e))?;
        match format.map(|f| f.to_vec()) {
            // A tree whose format is gone but not its state has lost more than that.
            None if tree.state.iter().next().is_some() => return Err(tree.damaged("it has state and no format".into())),
            None => tree.apply([], &[(FORMAT_NOTE, tree.format.name()), (UNMARKED_NOTE, b"")], true)?,
            Some(found) => {
                let format = Format::ALL.into_iter().find(|format| format.name() == found);
                tree.format = format.ok_or_else(|| TreeError::Format {
                    path: path.to_path_buf(),
                    found: String::from_utf8_lossy(&found).into_owned(),
                    expected: String::from_utf8_lossy(tree.format.name()).into_owned(),
                })?;
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

    /// State and notes must be of the same batch.
    fn check_batches(&self) -> Result<(), TreeError> {
        if !self.format.counts() {
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
        self.format.seal(key, value, &mut sealed);
        sealed
    }

    /// The value of what is stored under `key`.
    fn opened<'a>(&self, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], TreeError> {
        let other = || format!("the entry of {} bytes under a key of {} has another checksum", stored.len(), key.len());
        self.format.open(key, stored).ok_or_else(|| self.damaged(other()))
    }

    /// Applies changes and notes as one; durable at return where `sync`, else soon.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn apply<'a>(
        &self,
        changes: impl IntoIterator<Item = BorrowedChange<'a>>,
        notes: &[(&str, &[u8])],
        sync: bool,
    ) -> Result<(), TreeError> {
        let mut batch = self.database.batch().durability(Some(if sync { PersistMode::SyncAll } else { PersistMode::Buffer }));
        let mut changes = changes.into_iter().peekable();
        // Of notes alone the state has nothing: where many changes were ingested, a number would be one more file for the tree to merge.
        let counts = self.format.counts() && changes.peek().is_some();
        for (shard, name, value) in changes {
            let mut key = Vec::with_capacity(2 + name.len());
            key.extend_from_slice(&shard.to_be_bytes());
            key.extend_from_slice(name);
            match value {
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
        if counts {
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
                    self.format.seal(&full, value, &mut sealed);
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
        // One whose checksums are the same: after a crash the notes may be there with the state before.
        let format = if self.format == Format::Two { Format::Three } else { self.format };
        let mut kept = vec![(FORMAT_NOTE, format.name().to_vec())];
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
    // Bulks are large and their keys lie all over: each merge of the newest files rewrites all else, so more of them than fjall's 4 may lie
    // side by side before they are merged; at 30 fjall lets batches wait. Nothing is looked up by key but a note or two: no filters, large
    // blocks.
    let options = || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(memory)
            .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(28)))
            .filter_policy(FilterPolicy::disabled())
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
    };
    database.keyspace(name, options)
}

/// XXH3 of a key and a value, folded to 32 bits. It is there against a disk's mistakes, not against malice.
pub(super) fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM] {
    let h = xxh3_64_with_seed(value, xxh3_64_with_seed(key, key.len() as u64));
    ((h ^ (h >> 32)) as u32).to_le_bytes()
}

/// FNV-1a of a key's length, the key and the value, folded to 32 bits: byte by byte, which was some 4 % of a job's CPU.
fn checksum_3(key: &[u8], value: &[u8]) -> [u8; CHECKSUM] {
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
#[path = "tree_tests.rs"]
mod tests;
