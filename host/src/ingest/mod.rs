//! Where records come from, and their decoding into columns.

pub mod decode;
pub mod file;
pub mod generate;
pub mod kafka;
mod lines;
pub mod memory;
pub mod start;
pub mod stdin;

use crate::config::spec::SourceSpec;
use crate::element::{PartitionName, RawBatch};
use crate::limits::STATE_MEMORY_BYTES;
use std::time::Duration;

/// What a reader saw in one poll.
#[derive(Default)]
pub struct Polled {
    /// Records, one partition a batch, in offset order within a partition.
    pub batches: Vec<RawBatch>,
    /// Partitions (indices) that stand at the end of their input now, as far as the source knows; new records end that.
    pub at_end: Vec<usize>,
    /// Of those, the offset that is the end, where the source has such; it can be behind the last record by marks of transactions.
    pub end_offsets: Vec<(usize, i64)>,
    /// Partitions that will never have more records: the end of a file, or the bound of a bounded run.
    pub finished: Vec<usize>,
    /// Offsets that were asked for and are gone, and were skipped because the pipeline says `failOnDataLoss: false`.
    pub skipped_offsets: u64,
}

/// Why reading failed.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The user must act: no such topic, no such file, a property that librdkafka refuses.
    #[error("{0}")]
    Config(String),
    /// A retry may help: the broker is away.
    #[error("{0}")]
    External(String),
    /// Records that were to be read are gone, and `failOnDataLoss` is true.
    #[error("{0}")]
    DataLoss(String),
}

impl IngestError {
    /// Who must act.
    pub fn kind(&self) -> crate::error::Kind {
        match self {
            Self::Config(_) => crate::error::Kind::Config,
            Self::External(_) => crate::error::Kind::External,
            Self::DataLoss(_) => crate::error::Kind::Data,
        }
    }
}

/// A source of one job: its partitions, and readers over them.
pub trait Source: Send {
    /// All partitions, in a fixed order; their index is what everything else calls them by.
    fn partitions(&self) -> &[PartitionName];
    /// The offset to start each partition at when the job has no committed position (by the source's own settings).
    ///
    /// # Errors
    /// When the source can't be asked.
    fn start_positions(&mut self) -> Result<Vec<i64>, IngestError>;
    /// The offset of each partition for a place that the user names; none for partitions of which it says nothing.
    ///
    /// # Errors
    /// When the source has no such place, or can't be asked.
    fn positions_at(&mut self, from: &start::StartFrom) -> Result<Vec<Option<i64>>, IngestError> {
        let _ = from;
        Err(IngestError::Config(
            "--from: only a source that keeps its records, Kafka or files, can be read from another place".into(),
        ))
    }
    /// Readers that read from `positions` (next offset of each partition); reader `r` of `readers` has the partitions with index
    /// `i % readers == r`. Called again after a failed commit, when all earlier readers are gone.
    ///
    /// # Errors
    /// When a partition can't be read from there.
    fn readers(&mut self, positions: &[i64], readers: usize) -> Result<Vec<Box<dyn Reader>>, IngestError>;
    /// Looks again which partitions there are. Those that were keep their index, and new ones come after them; none goes.
    ///
    /// # Errors
    /// When the source can't be asked.
    fn refresh(&mut self) -> Result<(), IngestError> {
        Ok(())
    }
    /// The end offset of each partition as last known, for lag (empty when the source has no such thing).
    fn end_positions(&mut self) -> Vec<i64> {
        Vec::new()
    }
    /// Who knows where partitions end now, for a thread of its own. None where a reader's word for it ([`Polled::at_end`]) is always
    /// true: there is no broker in between that may be away.
    fn end_query(&mut self) -> Option<Box<dyn EndQuery>> {
        None
    }
}

/// Asks where partitions end, and how many there are.
pub trait EndQuery: Send {
    /// The end offset of a partition now, records of open transactions among it; none when there is no answer within a second.
    fn end(&mut self, partition: usize) -> Option<i64>;
    /// How many partitions there are that the source does not know: it was given more after it was opened. 0 where that can't be, or there
    /// is no answer within a second.
    fn added(&mut self) -> usize {
        0
    }
}

/// Reads some partitions of a source; owned by one worker.
pub trait Reader: Send {
    /// Up to `rows` records; waits at most `wait` for them, and returns early when it has them.
    ///
    /// # Errors
    /// When the source fails in a way that waiting does not mend.
    fn poll(&mut self, rows: usize, wait: Duration) -> Result<Polled, IngestError>;
    /// From now on partitions `p` with `held[p]` give no records (none is held where `held` is shorter); what was read ahead of them waits, as
    /// much as the bounds on reading ahead allow. A source whose partitions can't be far apart may ignore it.
    fn hold(&mut self, held: &[bool]) {
        let _ = held;
    }
}

/// What a job knows beside its source's spec.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// A Kafka topic is read up to the offsets that are its end at the first call of [`Source::readers`].
    pub until_end: bool,
    /// Kafka's consumer group: where committed offsets are looked up. See [`kafka::group`].
    pub group: String,
    /// The time now, milliseconds since 1970 UTC: where generated events start when their spec does not say.
    pub now_ms: i64,
    /// Memory budget of the job's state, bytes: where it is small, less is read ahead.
    pub state_memory: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { until_end: false, group: String::new(), now_ms: 0, state_memory: STATE_MEMORY_BYTES }
    }
}

/// Opens a source.
///
/// # Errors
/// When there is no such topic or file, or it can't be reached.
pub fn open(spec: &SourceSpec, options: &OpenOptions) -> Result<Box<dyn Source>, IngestError> {
    Ok(match spec {
        SourceSpec::Kafka(spec) => Box::new(kafka::KafkaSource::open(spec, options)?),
        SourceSpec::File { path } => Box::new(file::FileSource::open(path)?),
        SourceSpec::Stdin => Box::new(stdin::StdinSource::new()),
        SourceSpec::Generate(spec) => Box::new(generate::GenerateSource::new(spec, options.now_ms)),
    })
}
