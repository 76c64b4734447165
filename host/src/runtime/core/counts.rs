//! What a job counts.

use super::JobCore;
use crate::operator::epoch::TaskEpoch;
use crate::operator::window_lateness::RowLateness;

/// Counts of a job since its start; rows are of committed or about-to-be-committed epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub rows: u64,
    /// Bytes of keys and values read.
    pub bytes: u64,
    /// Result rows.
    pub outputs: u64,
    /// Rows late for all their windows.
    pub late: u64,
    /// Rows set aside.
    pub rejects: u64,
    /// Keys whose state was cleared because nothing updated them for the TTL.
    pub expired: u64,
    /// Epochs.
    pub epochs: u64,
    /// Epochs that were run again.
    pub reruns: u64,
}

impl Counts {
    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            bytes: self.bytes + other.bytes,
            outputs: self.outputs + other.outputs,
            late: self.late + other.late,
            rejects: self.rejects + other.rejects,
            expired: self.expired + other.expired,
            epochs: self.epochs + other.epochs,
            reruns: self.reruns + other.reruns,
        }
    }
}

/// How late the rows of an operator's tasks came.
pub(super) fn lateness(tasks: &[TaskEpoch]) -> RowLateness {
    let mut all = RowLateness::default();
    for task in tasks {
        all.add(&task.lateness);
        all.late += task.late.len() as u64;
    }
    all
}

impl JobCore {
    /// How late the rows of the last epoch came, by operator; those of a later one are results of the one before.
    pub fn lateness(&self) -> Vec<RowLateness> {
        self.operators().map(|core| core.lateness.clone()).collect()
    }
}
