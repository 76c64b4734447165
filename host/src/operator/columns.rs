//! Columns of a batch that Kindling fills: times, and which raw row each row is.

use arrow::array::{AsArray, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::UInt32Type;
use datafusion::error::Result;
use std::sync::Arc;

/// The batch with `time` as the event time of all rows.
pub(super) fn read_at(batch: &RecordBatch, column: usize, time: i64) -> Result<RecordBatch> {
    with_times(batch, column, TimestampMillisecondArray::from_value(time, batch.num_rows()))
}

/// The batch with `times` in a column.
pub(super) fn with_times(batch: &RecordBatch, column: usize, times: TimestampMillisecondArray) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    columns[column] = Arc::new(times);
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// The raw row of each row: the hidden column, which is last.
pub(super) fn row_numbers(batch: &RecordBatch) -> &arrow::buffer::ScalarBuffer<u32> {
    batch.column(batch.num_columns() - 1).as_primitive::<UInt32Type>().values()
}
