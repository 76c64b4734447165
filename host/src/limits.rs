//! Every bound in one place: its unit, its default, and what happens at it.

use std::time::Duration;

/// Columns that Kindling adds for itself start with this; a pipeline may not use it.
pub const HIDDEN_PREFIX: &str = "__";
/// The column that says which raw record of its batch a row comes from (UInt32). It goes through every filter and project.
pub const ROW_COLUMN: &str = "__row";

/// Shards of a job's keyed state; a power of two, fixed for the job's life (also the partitions of its changelog topic).
pub const STATE_SHARDS: u16 = 4;

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
    /// Epochs that a new plugin version must commit before the old one is let go.
    pub probation_epochs: u32,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self {
            epoch_time: Duration::from_millis(100),
            epoch_rows: 262_144,
            epoch_bytes: 64 << 20,
            batch_rows: 8_192,
            isolated_rows: 256,
            idle_after: Duration::from_secs(5),
            probation_epochs: 3,
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
