//! Rows to records, and one atomic commit an epoch.

pub mod encode;
pub mod files;
pub mod follower;
pub mod kafka;
pub mod local;
pub mod loss;
pub mod replay;
pub mod side;
pub mod topics;
pub mod transaction;

use crate::config::spec::{SinkSpec, SourceSpec};
use crate::element::{EpochId, PartitionName};
use crate::error::Kind;
use crate::plugin::GuestError;
use crate::state::bulk::Bulk;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A record on its way out: to a Kafka topic, or as a line of a file (the value alone).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutRecord {
    /// Key bytes (JSON of the group keys), none where the pipeline has no group keys.
    pub key: Option<Vec<u8>>,
    /// Value bytes (JSON).
    pub value: Vec<u8>,
    /// The result of the key is no more: Kafka gets the key without a value, files get the value, which says so.
    pub is_tombstone: bool,
}

/// One change of keyed state: the slot's absolute value, or its removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Shard, less than [`crate::limits::STATE_SHARDS`].
    pub shard: u16,
    /// Encoded key: a stable format of `state`.
    pub key: Vec<u8>,
    /// Encoded value; none removes the key.
    pub value: Option<Vec<u8>>,
}

/// What must be known beside the keyed state to go on after a restart. Stored with the state, in the same commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Meta {
    /// Version of this format.
    pub format: u32,
    /// Last epoch committed.
    pub epoch: u64,
    /// Next offset of each partition, by `topic/partition`.
    pub positions: BTreeMap<String, i64>,
    /// Watermark of each partition, by `topic/partition`.
    pub watermarks: BTreeMap<String, i64>,
    /// Watermark that windows have been closed up to.
    pub closed: i64,
    /// Processing time of the epoch, milliseconds since 1970 UTC.
    #[serde(default = "never")]
    pub now: i64,
    /// Fingerprint of the state's layout: keys, panes, state fields.
    pub layout: String,
    /// The same by the name of the operator that has the state; empty in what was stored before operators had names.
    #[serde(default)]
    pub operators: BTreeMap<String, String>,
    /// Of the operators with state behind the first one, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<BehindMeta>,
    /// How the process that runs the job was told to begin (`--restore`, `--from`, `--drop-state`): it is done once, not at each restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<String>,
    /// Entries of the keyed state after this epoch: a log that gives back others has lost some. None in what earlier programs stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Length of each file sink in bytes after this epoch, by sink role (`sink`, `late`, `rejects`, `output/NAME`); set by the committer.
    #[serde(default)]
    pub files: BTreeMap<String, u64>,
}

/// What must be known of an operator with state behind another.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BehindMeta {
    /// Name.
    pub operator: String,
    /// Rows that it has been given.
    pub rows: i64,
    /// Watermark of those.
    pub watermark: i64,
    /// Watermark that its windows have been closed up to.
    pub closed: i64,
}

fn never() -> i64 {
    i64::MIN
}

/// All that one epoch does to the outside world.
#[derive(Clone, Debug, Default)]
pub struct EpochCommit {
    /// Number of the epoch.
    pub epoch: u64,
    /// Result rows.
    pub outputs: Vec<OutRecord>,
    /// Rows of a process's outputs that have sinks of their own, by role: see [`output_role`].
    pub named: Vec<(String, Vec<OutRecord>)>,
    /// Late rows, for the `late` side output (dropped by the committer when the pipeline has none; they were counted).
    pub late: Vec<OutRecord>,
    /// Rejected rows, for the `rejects` side output.
    pub rejects: Vec<OutRecord>,
    /// Plugin and version of the guest that each of them failed on, in their order; none where no guest did. For counters.
    pub blamed: Vec<Option<(Arc<str>, Arc<str>)>>,
    /// Dirty slots.
    pub changes: Bulk,
    /// Next offset of each partition, index as in [`crate::ingest::Source::partitions`].
    pub positions: Vec<i64>,
    /// Stored with the state.
    pub meta: Meta,
}

impl EpochCommit {
    /// Whether it writes nothing; its positions may still have moved.
    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty()
            && self.named.iter().all(|(_, rows)| rows.is_empty())
            && self.late.is_empty()
            && self.rejects.is_empty()
            && self.changes.is_empty()
    }

    /// Sets a row aside, which `guest` failed on if one did.
    pub fn reject(&mut self, row: OutRecord, guest: Option<&GuestError>) {
        self.rejects.push(row);
        self.blamed.push(guest.map(|guest| (Arc::clone(&guest.plugin), Arc::clone(&guest.version))));
    }

    /// Takes in what an operator behind the one of this commit does in the same epoch.
    pub fn absorb(&mut self, behind: Self) {
        self.outputs.extend(behind.outputs);
        self.named.extend(behind.named);
        self.late.extend(behind.late);
        self.rejects.extend(behind.rejects);
        self.blamed.extend(behind.blamed);
        self.changes.append(behind.changes);
    }

    /// The epoch's number as its newtype.
    pub fn id(&self) -> EpochId {
        EpochId(self.epoch)
    }
}

/// Why a commit failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The epoch did not happen; the job goes back to its last committed epoch and goes on.
    #[error("{0}")]
    Aborted(String),
    /// Another process runs this job now; this one must end.
    #[error("{0}")]
    Fenced(String),
    /// The user must act: no such topic, no permission, disk full.
    #[error("{0}")]
    Config(String),
    /// What is stored does not read back.
    #[error("{0}")]
    Corrupt(String),
    /// The log has less than was committed: what is lost. The user says what to begin with.
    #[error("{0}")]
    Lost(String),
}

/// What a restore reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStep {
    /// Records of the changelog topic.
    Changelog,
    /// Entries of the local tree.
    LocalTree,
}

/// How far a restore has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestoreProgress {
    /// What is read.
    pub step: RestoreStep,
    /// Records, or entries, read so far in this step.
    pub records: u64,
    /// Share of the step that is done, 0 to 1, by offsets; none where that is not known.
    pub share: Option<f64>,
    /// Since the step began.
    pub elapsed: Duration,
    /// The step has ended.
    pub done: bool,
}

/// Told of a restore's progress a few times a second, and once at the end of each step.
pub type RestoreWatch = Box<dyn FnMut(&RestoreProgress) + Send>;

/// Commits epochs, each whole or not at all, and gives back the last committed state.
pub trait Committer: Send {
    /// Fences other processes of this job, undoes what was not committed (open transactions, bytes in file sinks after the committed
    /// length), and gives the committed state: `each` gets every live key once per key at most in any order (removals are not
    /// passed on). Called at the start, and again after [`CommitError::Aborted`].
    ///
    /// # Errors
    /// [`CommitError`]; `Aborted` means that a retry may help.
    fn restore(&mut self, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, CommitError>;
    /// As [`Self::restore`], but `each` gets the log as it is read: a key may come more than once, the last counts, and removals are passed
    /// on. Quicker where all of a log is read, for whoever can take that.
    ///
    /// # Errors
    /// As [`Self::restore`]. What `each` was given counts for nothing then.
    fn restore_log(&mut self, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, CommitError> {
        self.restore(each)
    }
    /// The source's partitions, where they are other than in the [`CommitSpec`]; before a restore.
    fn partitions(&mut self, partitions: &[PartitionName]) {
        let _ = partitions;
    }
    /// What the log has lost is not missed: the job is told what to begin with, or has no state. What is left of it is given; before a restore.
    fn accept_loss(&mut self) {}
    /// Results are a table: the last record of a key counts. A topic that is made for them is compacted; before the first restore.
    fn results_are_a_table(&mut self) {}
    /// Tells `watch` how far each restore has come. A committer whose restores are short need not.
    fn watch(&mut self, watch: RestoreWatch) {
        drop(watch);
    }
    /// Commits one epoch. At return everything of it is durable and visible, or none of it is.
    ///
    /// # Errors
    /// [`CommitError`].
    fn commit(&mut self, commit: EpochCommit) -> Result<(), CommitError>;
}

impl CommitError {
    /// Who must act.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Aborted(_) | Self::Fenced(_) => Kind::External,
            Self::Config(_) => Kind::Config,
            Self::Corrupt(_) | Self::Lost(_) => Kind::Data,
        }
    }
}

/// What a committer needs to know of its job.
#[derive(Clone, Debug)]
pub struct CommitSpec {
    /// Team.
    pub team: String,
    /// Name.
    pub name: String,
    /// Source.
    pub source: SourceSpec,
    /// Its partitions.
    pub partitions: Vec<PartitionName>,
    /// Sink of the results.
    pub sink: SinkSpec,
    /// Sinks of a process's outputs, by name.
    pub outputs: Vec<(String, SinkSpec)>,
    /// Sink of late rows.
    pub late: Option<SinkSpec>,
    /// Sink of rejects.
    pub rejects: Option<SinkSpec>,
    /// Folder of data.
    pub data_dir: PathBuf,
    /// Memory budget of the job's state, bytes.
    pub state_memory: usize,
}

impl CommitSpec {
    /// Folder of the job's local tree.
    pub fn tree_path(&self) -> PathBuf {
        self.data_dir.join(&self.team).join(&self.name).join("tree")
    }
}

/// The role of the sink of a process's output.
pub fn output_role(name: &str) -> String {
    format!("output/{name}")
}

/// The committer of a job: transactions where its source or a sink is Kafka, else the local tree.
///
/// # Errors
/// [`CommitError::Config`] when the sinks can't be committed together.
pub fn open(spec: CommitSpec) -> Result<Box<dyn Committer>, CommitError> {
    let on_kafka = local::roles(&spec).iter().any(|(_, sink)| matches!(sink, SinkSpec::Kafka { .. }));
    let kafka = matches!(spec.source, SourceSpec::Kafka(_)) || on_kafka;
    if kafka { Ok(Box::new(kafka::KafkaCommitter::new(spec)?)) } else { Ok(Box::new(local::LocalCommitter::new(spec))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_before_processing_time_was_reads_back() {
        let stored =
            r#"{"format":1,"epoch":7,"positions":{"t/0":3},"watermarks":{"t/0":5},"closed":4,"layout":"stateless","files":{}}"#;
        let meta: Meta = serde_json::from_str(stored).unwrap();
        assert_eq!((meta.epoch, meta.closed, meta.now), (7, 4, i64::MIN));
    }
}
