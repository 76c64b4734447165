//! The local tree: a copy of a job's committed state on disk, so that a restart need not replay the whole log.
//!
//! It is written only after the epoch has committed (or, without Kafka, its batch is the commit), so it may be behind the log and
//! is never ahead of it. Where it does not read back it can be deleted: the log holds everything.

use crate::output::Change;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Version of the layout on disk.
const FORMAT: &[u8] = b"1";
/// Bytes of journal that opening reads at most; the store allows no less.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Bytes of state in memory before they become a file. The journal is cut when both keyspaces have done that, so notes, which are
/// few, have a smaller bound.
const STATE_MEMORY_BYTES: u64 = 16 << 20;
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
        let tree = Self { path: path.to_path_buf(), state, notes, database };
        match tree.note("format")? {
            None => tree.apply(&[], &[("format", FORMAT)], true)?,
            Some(found) if found == FORMAT => {}
            Some(found) => {
                return Err(TreeError::Format {
                    path: path.to_path_buf(),
                    found: String::from_utf8_lossy(&found).into_owned(),
                    expected: String::from_utf8_lossy(FORMAT).into_owned(),
                });
            }
        }
        Ok(tree)
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
        self.notes.get(name).map(|v| v.map(|v| v.to_vec())).map_err(|e| error(&self.path, &e))
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
                Some(value) => batch.insert(&self.state, key, value.as_slice()),
                None => batch.remove(&self.state, key),
            }
        }
        for (name, value) in notes {
            batch.insert(&self.notes, *name, *value);
        }
        batch.commit().map_err(|e| error(&self.path, &e))
    }

    /// All entries of the state.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn entries(&self, each: &mut dyn FnMut(Change)) -> Result<(), TreeError> {
        for entry in self.state.iter() {
            let (key, value) = entry.into_inner().map_err(|e| error(&self.path, &e))?;
            let Some((shard, key)) = key.split_first_chunk::<2>() else { continue };
            each(Change { shard: u16::from_be_bytes(*shard), key: key.to_vec(), value: Some(value.to_vec()) });
        }
        Ok(())
    }

    /// Empties the tree but for the notes named in `keep`.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn clear(&self, keep: &[&str]) -> Result<(), TreeError> {
        let mut kept = vec![("format", FORMAT.to_vec())];
        for name in keep {
            kept.extend(self.note(name)?.map(|value| (*name, value)));
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

/// Who must act: what the file system refuses is one thing, what it gave back wrong is another.
fn error(path: &Path, error: &fjall::Error) -> TreeError {
    let (path, why) = (path.to_path_buf(), error.to_string());
    match error {
        fjall::Error::Locked => TreeError::Locked { path },
        fjall::Error::Poisoned => TreeError::Io { path, why },
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e))
            if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData) =>
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
}
