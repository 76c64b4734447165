//! A task whose rows are results of the operation before: columns already, and behind the watermark of that.

use super::EpochTask;
use crate::element::{RawBatch, ResultRows};
use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion_common::Result;
use std::sync::Arc;

/// The partition that results are of.
pub const RESULTS: usize = 0;

impl EpochTask<'_> {
    /// The rows are results: they move no watermark.
    #[must_use]
    pub fn behind(self) -> Self {
        Self { is_behind: true, ..self }
    }

    /// Takes in the next results, of which `first` came before; those of their columns that are [`crate::plan::Plan::decoded`].
    ///
    /// # Errors
    /// As [`EpochTask::push`].
    pub fn push_results(&mut self, rows: RecordBatch, columns: &[usize], first: i64) -> Result<()> {
        let count = rows.num_rows();
        if count == 0 {
            return Ok(());
        }
        let number = self.out.input.len();
        self.out.rows += count;
        self.out.positions.insert(RESULTS, first + count as i64);
        let read = rows.project(columns)?;
        let raw = RawBatch { partition: RESULTS, records: Box::new(ResultRows { rows, first }) };
        let mut result = Ok(());
        for start in (0..count).step_by(self.batch_rows) {
            let part = read.slice(start, self.batch_rows.min(count - start));
            result = self.push_part(&raw, number, &part, start);
            if result.is_err() {
                break;
            }
        }
        self.out.input.push(raw);
        result
    }

    fn push_part(&mut self, raw: &RawBatch, number: usize, part: &RecordBatch, start: usize) -> Result<()> {
        let numbers = UInt32Array::from_iter_values((start..start + part.num_rows()).map(|row| row as u32));
        let mut columns = part.columns().to_vec();
        columns.push(Arc::new(numbers) as ArrayRef);
        let decoded = RecordBatch::try_new(Arc::clone(&self.plan.decoded), columns)?;
        self.push_decoded(raw, number, decoded, None)
    }
}
