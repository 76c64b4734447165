//! Columns of a batch that Kindling fills: times, and which raw row each row is.

use crate::limits::ROW_COLUMN;
use arrow::array::{Array, AsArray, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::UInt32Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion_common::Result;
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

/// A row for people: `name=value, ...`, without the hidden column.
pub fn row_text(batch: &RecordBatch, row: usize) -> String {
    let schema = batch.schema();
    let columns = batch.columns().iter().zip(schema.fields()).filter(|(_, f)| f.name() != ROW_COLUMN);
    columns.map(|(c, f)| format!("{}={}", f.name(), display(c.as_ref(), row))).collect::<Vec<_>>().join(", ")
}

/// A value for people.
pub fn display(array: &dyn Array, row: usize) -> String {
    ArrayFormatter::try_new(array, &FormatOptions::default()).map_or_else(|e| e.to_string(), |f| f.value(row).to_string())
}
