//! Commits of a job without Kafka: file sinks first, then one batch of the local tree, which is the commit.

use crate::config::spec::SinkSpec;
use crate::output::files::FileSinks;
use crate::output::{Change, CommitError, CommitSpec, Committer, EpochCommit, Meta};
use crate::state::tree::{Tree, TreeError};

/// Commits to the local tree.
pub struct LocalCommitter {
    spec: CommitSpec,
    tree: Option<Tree>,
    files: FileSinks,
}

impl From<TreeError> for CommitError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Io { .. } | TreeError::Locked { .. } => Self::Config(error.to_string()),
            TreeError::Format { .. } | TreeError::Damaged { .. } => Self::Corrupt(error.to_string()),
        }
    }
}

impl LocalCommitter {
    /// Nothing is opened before [`Committer::restore`].
    pub fn new(spec: CommitSpec) -> Self {
        Self { spec, tree: None, files: FileSinks::default() }
    }
}

/// What was stored with the state, from its JSON.
///
/// # Errors
/// [`CommitError::Corrupt`].
pub fn read_meta(bytes: &[u8]) -> Result<Meta, CommitError> {
    serde_json::from_slice(bytes).map_err(|e| CommitError::Corrupt(format!("the job's stored position does not read back: {e}")))
}

/// The sinks of a job by role.
pub fn roles(spec: &CommitSpec) -> Vec<(&'static str, &SinkSpec)> {
    let side = [("late", &spec.late), ("rejects", &spec.rejects)];
    let side = side.into_iter().filter_map(|(role, sink)| Some((role, sink.as_ref()?)));
    std::iter::once(("sink", &spec.sink)).chain(side).collect()
}

impl Committer for LocalCommitter {
    fn restore(&mut self, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, CommitError> {
        // The files' locks go before they are taken anew.
        self.files = FileSinks::default();
        let tree = match self.tree.take() {
            Some(tree) => tree,
            None => Tree::open(&self.spec.tree_path())?,
        };
        let meta = tree.note("meta")?.map(|bytes| read_meta(&bytes)).transpose()?;
        tree.entries(each)?;
        self.files = FileSinks::open(&roles(&self.spec), meta.as_ref().map(|m| &m.files), &tree)?;
        self.tree = Some(tree);
        Ok(meta)
    }

    fn commit(&mut self, commit: EpochCommit) -> Result<(), CommitError> {
        let tree = self.tree.as_ref().ok_or_else(|| CommitError::Aborted("nothing has been restored".into()))?;
        self.files.write("sink", &commit.outputs)?;
        self.files.write("late", &commit.late)?;
        self.files.write("rejects", &commit.rejects)?;
        let meta = Meta { files: self.files.lengths(), ..commit.meta };
        let meta = serde_json::to_vec(&meta).map_err(|e| CommitError::Corrupt(e.to_string()))?;
        Ok(tree.apply(&commit.changes, &[("meta", &meta)], true)?)
    }
}
