//! The local tree: a copy of a job's committed state on disk, so that a restart need not replay the whole log.
//!
//! It is written only after the epoch has committed (or, without Kafka, its batch is the commit), so it may be behind the log and
//! is never ahead of it. Where it does not read back it can be deleted: the log holds everything.

use crate::output::Change;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::{Path, PathBuf};

/// Version of the layout on disk.
const FORMAT: &[u8] = b"1";

/// Why the tree failed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The disk, or another process that has it open.
    #[error("the local tree {path} can't be used: {why}; is another process running this job with the same --data-dir?")]
    Io {
        /// Folder.
        path: PathBuf,
        /// What the store said.
        why: String,
    },
    /// It was written by another version.
    #[error("the local tree {path} has format {found}, this program writes {expected}: delete the folder, the log holds everything")]
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
        let io = |why: String| TreeError::Io { path: path.to_path_buf(), why };
        std::fs::create_dir_all(path).map_err(|e| io(e.to_string()))?;
        // One background thread and a small cache: the table in memory is the hot path, this is its backup.
        let database = Database::builder(path).worker_threads(1).cache_size(8 << 20).open().map_err(|e| io(e.to_string()))?;
        let open = |name: &str| database.keyspace(name, KeyspaceCreateOptions::default).map_err(|e| io(e.to_string()));
        let tree = Self { path: path.to_path_buf(), state: open("state")?, notes: open("notes")?, database };
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

    fn io(&self, error: &fjall::Error) -> TreeError {
        TreeError::Io { path: self.path.clone(), why: error.to_string() }
    }

    /// A value beside the state.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, TreeError> {
        self.notes.get(name).map(|v| v.map(|v| v.to_vec())).map_err(|e| self.io(&e))
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
        batch.commit().map_err(|e| self.io(&e))
    }

    /// All entries of the state.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn entries(&self, each: &mut dyn FnMut(Change)) -> Result<(), TreeError> {
        for entry in self.state.iter() {
            let (key, value) = entry.into_inner().map_err(|e| self.io(&e))?;
            let Some((shard, key)) = key.split_first_chunk::<2>() else { continue };
            each(Change { shard: u16::from_be_bytes(*shard), key: key.to_vec(), value: Some(value.to_vec()) });
        }
        Ok(())
    }

    /// Empties the tree: it belongs to another log.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn clear(&self) -> Result<(), TreeError> {
        self.state.clear().and_then(|()| self.notes.clear()).map_err(|e| self.io(&e))?;
        self.apply(&[], &[("format", FORMAT)], true)
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
        tree.clear().unwrap();
        tree.entries(&mut |e| panic!("{e:?}")).unwrap();
    }
}
