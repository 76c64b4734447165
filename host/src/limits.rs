//! Every bound in one place: its unit, its default, and what happens at it.

use std::path::PathBuf;
use std::time::Duration;

/// How much later than its record's timestamp an event time may be where the pipeline does not say (`maxFuture`). Local times taken for
/// UTC are off by 14 hours at most and pass; wrong units, wrong years and timers that ran over do not. What passes can't make other rows late
/// (see [`crate::operator::watermark`]): it only opens a window early, so a day costs a day's windows at most.
pub const MAX_FUTURE: Duration = Duration::from_secs(86_400);

/// Columns that Kindling adds for itself start with this; a pipeline may not use it.
pub const HIDDEN_PREFIX: &str = "__";
/// The column that says which raw record of its batch a row comes from (UInt32). It goes through every filter and project.
pub const ROW_COLUMN: &str = "__row";

/// Shards of a job's keyed state; a power of two, fixed for the job's life (also the partitions of its changelog topic).
pub const STATE_SHARDS: u16 = 4;

/// Bytes of state that are copied from a running job at once; a larger state is taken from the changelog of the stopped job.
pub const STATE_COPY_BYTES: usize = 1 << 30;
/// A partition is idle after it stood at its end this long, where neither pipeline nor command line say.
pub const IDLE_AFTER: Duration = Duration::from_secs(5);
/// Partitions whose end is asked of the broker in one round, before they are idle; the rest waits for the next round.
pub const IDLE_QUESTIONS: usize = 64;

/// Memory that a job's keyed state takes where neither pipeline nor command line say; past it slots go to disk. The job as a whole takes about
/// 200 MiB more: rows and results of an epoch, plugins, the clients of Kafka, caches of the stores on disk.
pub const STATE_MEMORY_BYTES: usize = 1 << 30;

/// Least budget that a pipeline may have.
pub const STATE_MEMORY_BYTES_MIN: usize = 1 << 20;

/// Rows that close an epoch where the command line does not say, by the budget of the job's state: its records take memory beside that, so a
/// small budget makes smaller epochs.
pub fn epoch_rows(state_bytes: usize) -> usize {
    (state_bytes >> 12).clamp(16_384, 65_536)
}

/// Records of a partition that a Kafka source reads ahead, and bytes that it asks for at once, by the same. A record waits with 400 bytes of
/// librdkafka's own.
pub fn read_ahead(state_bytes: usize) -> (usize, usize) {
    ((state_bytes >> 14).clamp(2_048, 10_000), (state_bytes >> 8).clamp(256 << 10, 1 << 20))
}

/// Bytes of changes that are gathered for the local tree, by the same; as much is there once more while it is written.
pub fn gather_bytes(state_bytes: usize) -> usize {
    (state_bytes / 8).clamp(4 << 20, 48 << 20)
}

/// Bytes of cached blocks of state on disk, by the same: those of indices and filters most of all.
pub fn spill_cache_bytes(state_bytes: usize) -> usize {
    (state_bytes / 8).clamp(4 << 20, 32 << 20)
}

/// Bounds of the keyed state of a job.
#[derive(Clone, Debug)]
pub struct StateLimit {
    /// Bytes of memory; past it the slots that were not changed for longest go to disk.
    pub memory_bytes: usize,
    /// Folder for them, which is emptied; none: memory has no bound.
    pub spill: Option<PathBuf>,
}

impl Default for StateLimit {
    fn default() -> Self {
        Self { memory_bytes: STATE_MEMORY_BYTES, spill: None }
    }
}

/// Bounds of a running job.
#[derive(Clone, Debug)]
pub struct JobLimits {
    /// An epoch closes after this long.
    pub epoch_time: Duration,
    /// An epoch closes at this many rows over all workers; a burst makes more epochs, not larger ones.
    pub epoch_rows: usize,
    /// An epoch closes at this many bytes of keys and values over all workers.
    pub epoch_bytes: usize,
    /// Rows of one columnar batch.
    pub batch_rows: usize,
    /// Rows at fault that are isolated one by one in an epoch; past it the rest of the failing batch is rejected as a whole.
    pub isolated_rows: usize,
    /// A partition is idle when it stood at its end this long.
    pub idle_after: Duration,
    /// A partition whose watermark is more than this ahead of the least one is not read until the others come near: state holds the
    /// windows of this span, and of one epoch's rows, at most. None: partitions don't wait.
    pub max_drift: Option<Duration>,
    /// Epochs that a new plugin version must commit before the old one is let go.
    pub probation_epochs: u32,
    /// Memory of keyed state.
    pub state: StateLimit,
    /// Results that an epoch gives of windows that have closed, where each slice of time is in one window (tumbling, calendar) and event time
    /// counts; the rest follows in the next epochs. Other windows give all that is due.
    pub close_results: usize,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self {
            epoch_time: Duration::from_millis(100),
            epoch_rows: epoch_rows(STATE_MEMORY_BYTES),
            epoch_bytes: 64 << 20,
            batch_rows: 8_192,
            isolated_rows: 256,
            idle_after: IDLE_AFTER,
            max_drift: None,
            probation_epochs: 3,
            state: StateLimit::default(),
            close_results: 65_536,
        }
    }
}

/// Bounds of a guest.
#[derive(Clone, Debug)]
pub struct GuestLimits {
    /// Linear memory of one instance, bytes; growing past it traps.
    pub memory_bytes: usize,
    /// Time of one call; past it the call traps.
    pub call_time: Duration,
    /// Size of an artefact, bytes; a larger file is refused unread.
    pub artefact_bytes: u64,
    /// Stack of a guest, bytes.
    pub stack_bytes: usize,
    /// Bytes of the columns that one call may return.
    pub result_bytes: usize,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            call_time: Duration::from_secs(1),
            artefact_bytes: 32 << 20,
            stack_bytes: 512 << 10,
            result_bytes: 64 << 20,
        }
    }
}

/// Rows that a flat map gives of one batch at most. A batch that makes more is cut until its parts don't; a row that alone makes more goes
/// to the rejects.
pub const FLAT_MAP_ROWS: usize = 65_536;

/// Nesting of a JSON document; a deeper one is at fault. 128 is what serde_json takes too.
pub const JSON_DEPTH_MAX: u32 = 128;
/// Bytes of a fault's text; a longer one is cut.
pub const FAULT_TEXT_BYTES: usize = 300;
/// Bytes of text in one column of a decoded batch: Arrow's Utf8 counts in 32 bits. Past it decoding ends with an error.
pub const COLUMN_TEXT_BYTES: usize = i32::MAX as usize;
/// Bytes of one line of a file or of standard input; a longer one ends the job with an error that names its place.
pub const LINE_BYTES: usize = 16 << 20;
/// Files of one source; more are refused (each is held open).
pub const SOURCE_FILES: usize = 512;
/// Chunks of standard input that are read ahead; past it the reading thread waits.
pub const STDIN_CHUNKS: usize = 16;
/// Bytes after which a chunk of standard input is handed on even when it has few lines.
pub const STDIN_CHUNK_BYTES: usize = 256 << 10;

/// Bytes that a Kafka source reads ahead over all its partitions; past it librdkafka stops fetching.
pub const PREFETCH_BYTES: usize = 32 << 20;
/// Least and most bytes that are read ahead of one partition, whatever their number.
pub const PREFETCH_PARTITION_BYTES: (usize, usize) = (1 << 20, 32 << 20);
/// How long a question to a Kafka broker (partitions, offsets) is asked again before it is an error: a broker that has just started
/// answers "not leader" for about a second.
pub const KAFKA_ASK: Duration = Duration::from_secs(10);
/// How long a topic may be unknown before it is an error: one that was made a moment ago is not yet known everywhere.
pub const KAFKA_UNKNOWN_TOPIC: Duration = Duration::from_secs(3);
/// At most one line of log in this time about the same client's troubles.
pub const KAFKA_LOG_EVERY: Duration = Duration::from_secs(5);

/// Timers of one kind that a key of a process has at most.
pub const PROCESS_TIMERS: usize = 1_024;
/// Rows that one call of a process gives at most.
pub const PROCESS_OUTPUT_ROWS: usize = 1 << 20;
/// Rows, and keys without rows, that one call of a process carries at most. Rows of a key are cut into several calls too.
pub const PROCESS_CALL_ROWS: usize = 8_192;
