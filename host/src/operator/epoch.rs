//! What goes into a task's share of an epoch and what comes out of it.

use crate::element::RawBatch;
use crate::operator::fold::Partial;
use crate::operator::window_lateness::RowLateness;
use crate::operator::{FaultPolicy, reason};
use crate::plugin::{GuestError, guest_error};
use crate::state::store::PaneId;
use ahash::RandomState;
use arrow::array::RecordBatch;
use datafusion_common::DataFusionError;
use std::collections::HashMap;
use std::sync::Arc;

/// Keys whose rows an epoch must leave out, with the error that the rows are rejected with.
pub type ExcludedKeys = HashMap<(PaneId, Box<[u8]>), Arc<RowError>, RandomState>;

/// Why a row is set aside.
#[derive(Clone, Debug)]
pub struct RowError {
    /// What is wrong, for people.
    pub reason: String,
    /// The guest that failed on it, if one did.
    pub guest: Option<GuestError>,
}

impl RowError {
    /// The error of an expression or guest.
    pub fn of(error: &DataFusionError) -> Self {
        Self { reason: reason(error), guest: guest_error(error).cloned() }
    }
}

/// A row that is set aside; `batch` and `row` say which raw record it is.
#[derive(Clone, Debug)]
pub struct RejectedRow {
    /// Index into [`TaskEpoch::input`].
    pub batch: usize,
    /// Record within the batch.
    pub row: usize,
    /// Why.
    pub error: Arc<RowError>,
}

/// A row that is late for all its windows.
#[derive(Clone, Copy, Debug)]
pub struct LateRow {
    /// Index into [`TaskEpoch::input`].
    pub batch: usize,
    /// Record within the batch.
    pub row: usize,
    /// Event time, milliseconds since 1970 UTC.
    pub event_time: i64,
    /// The watermark that it came after.
    pub watermark: i64,
    /// How long before that its last window had closed, milliseconds.
    pub late_by: i64,
}

/// What an epoch starts from.
#[derive(Clone, Debug)]
pub struct EpochStart {
    /// Watermark of each partition of the source.
    pub watermarks: Vec<i64>,
    /// Watermark that windows have been closed up to.
    pub closed: i64,
    /// Processing time of the epoch, milliseconds since 1970 UTC: the same for all its tasks, and when it is run again. Never goes back.
    pub now: i64,
    /// What to do with faults.
    pub policy: FaultPolicy,
    /// Keys to leave out.
    pub excluded: Arc<ExcludedKeys>,
}

/// Rows for a keyed process.
#[derive(Clone, Debug)]
pub struct KeyedRows {
    /// In the schema that reaches the process, with [`crate::limits::ROW_COLUMN`] last.
    pub rows: RecordBatch,
    /// The watermark of the partition before each of them.
    pub watermarks: Vec<i64>,
    /// Partition, index as in the source.
    pub partition: usize,
    /// Index into [`TaskEpoch::input`].
    pub batch: usize,
}

/// What a task made of its share of an epoch.
pub struct TaskEpoch {
    /// The raw batches, kept so that the epoch can be run again.
    pub input: Vec<RawBatch>,
    /// What the epoch started from.
    pub start: EpochStart,
    /// Partial states by (pane, key).
    pub partial: Partial,
    /// Rows for a keyed process.
    pub keyed: Vec<KeyedRows>,
    /// Output rows of a pipeline without state.
    pub outputs: Vec<RecordBatch>,
    /// Late rows.
    pub late: Vec<LateRow>,
    /// How far behind the watermark, and after the ends of their windows, rows came.
    pub lateness: RowLateness,
    /// Rows set aside.
    pub rejects: Vec<RejectedRow>,
    /// Watermark of each partition after the epoch; only those of this task's partitions moved.
    pub watermarks: Vec<i64>,
    /// Next offset of each partition that had records.
    pub positions: HashMap<usize, i64>,
    /// Records read.
    pub rows: usize,
    /// Bytes read.
    pub bytes: usize,
}
