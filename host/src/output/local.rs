//! Commits of a job without Kafka: file sinks first, then one batch of the local tree, which is the commit.

use crate::config::spec::SinkSpec;
use crate::output::files::FileSinks;
use crate::output::{Change, CommitError, CommitSpec, Committer, EpochCommit, Meta, output_role};
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
pub fn roles(spec: &CommitSpec) -> Vec<(String, &SinkSpec)> {
    let side = [("late", &spec.late), ("rejects", &spec.rejects)];
    let side = side.into_iter().filter_map(|(role, sink)| Some((role.to_owned(), sink.as_ref()?)));
    let named = spec.outputs.iter().map(|(name, sink)| (output_role(name), sink));
    std::iter::once(("sink".to_owned(), &spec.sink)).chain(side).chain(named).collect()
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
        commit.named.iter().try_for_each(|(role, records)| self.files.write(role, records))?;
        self.files.write("late", &commit.late)?;
        self.files.write("rejects", &commit.rejects)?;
        let meta = Meta { files: self.files.lengths(), ..commit.meta };
        let meta = serde_json::to_vec(&meta).map_err(|e| CommitError::Corrupt(e.to_string()))?;
        Ok(tree.apply(commit.changes.iter(), &[("meta", &meta)], true)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::SourceSpec;
    use crate::output::OutRecord;
    use std::path::Path;

    fn spec(dir: &Path) -> CommitSpec {
        CommitSpec {
            team: "t".into(),
            name: "n".into(),
            source: SourceSpec::Stdin,
            partitions: vec![],
            sink: SinkSpec::File { path: dir.join("out.jsonl").display().to_string() },
            outputs: Vec::new(),
            late: None,
            rejects: Some(SinkSpec::Discard),
            data_dir: dir.join("data"),
            state_memory: crate::limits::STATE_MEMORY_BYTES,
        }
    }

    fn epoch(epoch: u64, changes: &[(&str, Option<&str>)]) -> EpochCommit {
        let change = |(key, value): &(&str, Option<&str>)| Change { shard: 1, key: (*key).into(), value: value.map(Into::into) };
        EpochCommit {
            epoch,
            outputs: vec![OutRecord { key: None, value: epoch.to_string().into(), ..OutRecord::default() }],
            late: vec![OutRecord::default()],
            rejects: vec![OutRecord::default()],
            changes: changes.iter().map(change).collect(),
            meta: Meta { epoch, ..Meta::default() },
            ..EpochCommit::default()
        }
    }

    fn restore(committer: &mut LocalCommitter) -> Result<(Vec<String>, Option<u64>), CommitError> {
        let mut keys = Vec::new();
        let meta = committer.restore(&mut |c| keys.push(String::from_utf8(c.key).unwrap()))?;
        Ok((keys, meta.map(|m| m.epoch)))
    }

    #[test]
    fn every_epoch_is_there_once_whenever_the_process_died() {
        let dir = tempfile::tempdir().unwrap();
        let out = || std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap();
        for next in 1..=4u64 {
            let mut committer = LocalCommitter::new(spec(dir.path()));
            let (_, last) = restore(&mut committer).unwrap();
            assert_eq!(last, (next > 1).then(|| next - 1));
            // Death in the middle of a commit: after the file was synced, before the tree was.
            committer.files.write("sink", &[OutRecord { key: None, value: b"never".to_vec(), ..OutRecord::default() }]).unwrap();
            assert!(out().ends_with("never\n"));
            drop(committer);
            let mut committer = LocalCommitter::new(spec(dir.path()));
            restore(&mut committer).unwrap();
            committer.commit(epoch(next, &[(&format!("k{next}"), Some("v")), ("k1", (next < 3).then_some("v"))])).unwrap();
        }
        assert_eq!(out(), "1\n2\n3\n4\n");
        let (keys, _) = restore(&mut LocalCommitter::new(spec(dir.path()))).unwrap();
        assert_eq!(keys, ["k2", "k3", "k4"]);
    }

    #[test]
    fn a_damaged_tree_is_told_and_not_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let mut committer = LocalCommitter::new(spec(dir.path()));
        restore(&mut committer).unwrap();
        committer.commit(epoch(1, &[("k", Some("v"))])).unwrap();
        let busy = restore(&mut LocalCommitter::new(spec(dir.path()))).unwrap_err();
        assert!(matches!(busy, CommitError::Config(_)), "{busy:?}");
        drop(committer);
        let tree = spec(dir.path()).tree_path();
        std::fs::write(tree.join("version"), "").unwrap();
        let damaged = restore(&mut LocalCommitter::new(spec(dir.path()))).unwrap_err();
        assert!(matches!(&damaged, CommitError::Corrupt(text) if text.contains("delete the folder")), "{damaged:?}");
        assert!(tree.join("version").exists());
    }

    #[test]
    fn a_commit_before_a_restore_does_not_happen() {
        let dir = tempfile::tempdir().unwrap();
        assert!(LocalCommitter::new(spec(dir.path())).commit(epoch(1, &[])).is_err());
        assert!(!dir.path().join("out.jsonl").exists());
    }
}
