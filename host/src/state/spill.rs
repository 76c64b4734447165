//! State that is over the memory budget: a scratch store on local disk, by pane and key.
//!
//! **Invariant**: nothing in it outlives its process. The truth is the log; the folder is emptied when it is opened and removed with it.
//! Each entry ends with a checksum of itself with its key, so what the disk gives back otherwise is told and never taken for state.

use crate::state::store::{PANE_BYTES, PaneId};
use crate::state::tree::checksum;
use fjall::config::{BlockSizePolicy, CompressionPolicy, PartitioningPolicy};
use fjall::{AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions};
use std::cell::Cell;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of a checksum.
const CHECKSUM: usize = 4;
/// Keys longer than this stay in memory: the store below takes keys of 64 KiB at most.
pub const KEY_BYTES_MAX: usize = 60_000;
/// Bytes of small batches in memory before they become a file.
const MEMORY_BYTES: u64 = 4 << 20;
/// Bytes of journal; the store allows no less.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Batches of at least so many entries become files of their own: half the work of going through journal and memory.
const BULK: usize = 4_096;
/// Files that a lookup may have to go through; past it a batch waits for the thread that merges them, for a while.
const FILES_MAX: usize = 20;
/// How often and how long it is waited for.
const WAITS: (usize, Duration) = (2_000, Duration::from_millis(5));

/// Why state on disk can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// The disk refuses.
    #[error(
        "state over the memory budget can't be kept in {path}: {why}; make room on that disk and look at the folder's permissions, or give the job \
         more memory (`state: {{memory: ...}}`, --state-memory)"
    )]
    Io {
        /// Folder.
        path: PathBuf,
        /// What the store said.
        why: String,
    },
    /// What it gives is not what was written.
    #[error(
        "state over the memory budget does not read back from {path}: {why}; the folder is scratch: the job takes its state back from its log. \
         Where this comes again, look at that disk, or move --data-dir to another"
    )]
    Damaged {
        /// Folder.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// A change of an entry: pane, key, and the new state; none removes it.
pub type Entry<'a> = (PaneId, &'a [u8], Option<&'a [u8]>);

/// Key and state.
pub type Owned = (Box<[u8]>, Box<[u8]>);

/// The store.
pub struct Spill {
    path: PathBuf,
    slots: Keyspace,
    /// Made with the first timer.
    timers: Option<Keyspace>,
    /// Closed after the two.
    database: Option<Database>,
    reads: Cell<u64>,
    writes: u64,
}

impl Spill {
    /// An empty one in `path`, whatever was there, that keeps so many bytes of blocks in memory.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, SpillError> {
        Self::remove(path)?;
        std::fs::create_dir_all(path).map_err(|e| SpillError::Io { path: path.to_path_buf(), why: e.to_string() })?;
        let builder = Database::builder(path)
            .worker_threads(1)
            .cache_size(cache_bytes as u64)
            .max_journaling_size(JOURNAL_BYTES)
            .manual_journal_persist(true);
        let database = builder.open().map_err(|e| error(path, &e))?;
        let slots = database.keyspace("slots", options).map_err(|e| error(path, &e))?;
        Ok(Self { path: path.to_path_buf(), slots, timers: None, database: Some(database), reads: Cell::new(0), writes: 0 })
    }

    /// Removes what a process that was killed may have left in `path`.
    ///
    /// # Errors
    /// [`SpillError::Io`].
    pub fn remove(path: &Path) -> Result<(), SpillError> {
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(SpillError::Io { path: path.to_path_buf(), why: e.to_string() }),
            _ => Ok(()),
        }
    }

    /// Entries read, and entries written, since it was opened.
    pub fn counts(&self) -> (u64, u64) {
        (self.reads.get(), self.writes)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state of a key in a pane.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn get(&self, pane: PaneId, key: &[u8]) -> Result<Option<Box<[u8]>>, SpillError> {
        self.reads.set(self.reads.get() + 1);
        let full = encode(pane, key);
        match self.slots.get(&full).map_err(|e| error(&self.path, &e))? {
            None => Ok(None),
            Some(stored) => Ok(Some(self.opened(&full, &stored)?.into())),
        }
    }

    /// The entries of a pane, by key, from `first` on.
    pub fn pane(&self, pane: PaneId, first: &[u8]) -> impl Iterator<Item = Result<Owned, SpillError>> + '_ {
        // The last pane of all has no successor, and what is behind it is its own.
        let next = match (pane.start, pane.from) {
            (i64::MAX, i64::MAX) => None,
            (start, i64::MAX) => Some(PaneId { start: start + 1, from: i64::MIN }),
            (start, from) => Some(PaneId { start, from: from + 1 }),
        };
        let until = next.map_or(Bound::Unbounded, |next| Bound::Excluded(encode(next, &[])));
        self.slots.range((Bound::Included(encode(pane, first)), until)).map(|entry| {
            self.reads.set(self.reads.get() + 1);
            let (full, stored) = entry.into_inner().map_err(|e| error(&self.path, &e))?;
            let state = self.opened(&full, &stored)?.into();
            Ok((full.get(PANE_BYTES..).unwrap_or_default().into(), state))
        })
    }

    /// Changes entries, which come in the order of panes and keys, each once; there are `count`.
    ///
    /// # Errors
    /// [`SpillError`]; some of them may have been changed then.
    pub fn write<'a>(&mut self, count: usize, entries: impl Iterator<Item = Entry<'a>>) -> Result<(), SpillError> {
        self.writes += count as u64;
        let sealed = entries.map(|(pane, key, state)| {
            let full = encode(pane, key);
            let state = state.map(|s| [s, &checksum(&full, s)].concat());
            (full, state)
        });
        self.put(&self.slots, count, sealed)
    }

    /// Keeps timers: due time, pane, key, in this order.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn keep_timers(&mut self, timers: &[(i64, PaneId, Box<[u8]>)]) -> Result<(), SpillError> {
        self.writes += timers.len() as u64;
        let entries = timers.iter().map(|(due, pane, key)| {
            let full = [&ordered(*due)[..], &encode(*pane, key)].concat();
            let sum = checksum(&full, &[]).to_vec();
            (full, Some(sum))
        });
        if let (None, Some(database)) = (&self.timers, &self.database) {
            self.timers = Some(database.keyspace("timers", options).map_err(|e| error(&self.path, &e))?);
        }
        self.timers.as_ref().map_or(Ok(()), |keyspace| self.put(keyspace, timers.len(), entries))
    }

    /// Timers that are due at `now`, in order.
    pub fn timers_until(&self, now: i64) -> impl Iterator<Item = Result<(i64, PaneId, Box<[u8]>), SpillError>> + '_ {
        let until = now.checked_add(1).map_or(Bound::Unbounded, |next| Bound::Excluded(ordered(next)));
        let timers = self.timers.iter().flat_map(move |t| t.range((Bound::Unbounded, until)));
        timers.map(|entry| {
            self.reads.set(self.reads.get() + 1);
            let (full, sum) = entry.into_inner().map_err(|e| error(&self.path, &e))?;
            self.opened(&full, &sum)?;
            let short = || self.damaged(format!("a timer has {} bytes", full.len()));
            let (due, rest) = full.split_first_chunk::<8>().ok_or_else(short)?;
            let (pane, key) = decode(rest).ok_or_else(short)?;
            Ok((unordered(*due), pane, key.into()))
        })
    }

    /// Removes timers, which come in order.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn remove_timers(&mut self, timers: &[(i64, PaneId, Box<[u8]>)]) -> Result<(), SpillError> {
        let entries = timers.iter().map(|(due, pane, key)| ([&ordered(*due)[..], &encode(*pane, key)].concat(), None));
        self.timers.as_ref().map_or(Ok(()), |keyspace| self.put(keyspace, timers.len(), entries))
    }

    fn put(
        &self,
        keyspace: &Keyspace,
        count: usize,
        entries: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
    ) -> Result<(), SpillError> {
        let Some(database) = &self.database else { return Ok(()) };
        let failed = |e: fjall::Error| error(&self.path, &e);
        if count < BULK {
            let mut batch = database.batch().durability(None);
            for (key, value) in entries {
                match value {
                    Some(value) => batch.insert(keyspace, key, value),
                    None => batch.remove(keyspace, key),
                }
            }
            return batch.commit().map_err(failed);
        }
        let mut bulk = keyspace.start_ingestion().map_err(failed)?;
        for (key, value) in entries {
            match value {
                Some(value) => bulk.write(key, value),
                None => bulk.write_tombstone(key),
            }
            .map_err(failed)?;
        }
        bulk.finish().map_err(failed)?;
        for _ in 0..WAITS.0 {
            if keyspace.tree.l0_run_count() < FILES_MAX {
                break;
            }
            std::thread::sleep(WAITS.1);
        }
        Ok(())
    }

    /// That there is something else than there should be.
    pub fn damaged(&self, why: String) -> SpillError {
        SpillError::Damaged { path: self.path.clone(), why }
    }

    fn opened<'a>(&self, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], SpillError> {
        match stored.split_last_chunk::<CHECKSUM>() {
            Some((state, sum)) if *sum == checksum(key, state) => Ok(state),
            _ => Err(self.damaged(format!("an entry of {} bytes has another checksum", stored.len()))),
        }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.database = None;
        // What is left is removed when the folder is used again.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Small blocks: a lookup reads one for one slot. Indices and filters in parts: only those that are in use take memory.
fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMORY_BYTES)
        .manual_journal_persist(true)
        .data_block_size_policy(BlockSizePolicy::all(4 << 10))
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
        .index_block_partitioning_policy(PartitioningPolicy::all(true))
        .filter_block_partitioning_policy(PartitioningPolicy::all(true))
}

/// As bytes that are in the order of the numbers.
fn ordered(n: i64) -> [u8; 8] {
    (n ^ i64::MIN).to_be_bytes()
}

fn unordered(bytes: [u8; 8]) -> i64 {
    i64::from_be_bytes(bytes) ^ i64::MIN
}

fn encode(pane: PaneId, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(PANE_BYTES + key.len());
    full.extend_from_slice(&ordered(pane.start));
    full.extend_from_slice(&ordered(pane.from));
    full.extend_from_slice(key);
    full
}

fn decode(full: &[u8]) -> Option<(PaneId, &[u8])> {
    let (start, rest) = full.split_first_chunk::<8>()?;
    let (from, key) = rest.split_first_chunk::<8>()?;
    Some((PaneId { start: unordered(*start), from: unordered(*from) }, key))
}

/// What the file system refuses is one thing, what it gave back wrong is another.
fn error(path: &Path, error: &fjall::Error) -> SpillError {
    let (path, why) = (path.to_path_buf(), error.to_string());
    match error {
        fjall::Error::Poisoned | fjall::Error::Locked => SpillError::Io { path, why },
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e))
            if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData) =>
        {
            SpillError::Io { path, why }
        }
        _ => SpillError::Damaged { path, why },
    }
}
