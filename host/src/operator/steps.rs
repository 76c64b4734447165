//! Filter, project and flat map over one batch.
//!
//! In: a batch with the hidden row column. Out: the batch after all steps; rows keep their order, and those that
//! a flat map makes of one stand together.

use crate::limits::ROW_COLUMN;
use crate::plan::{FlatMapStep, Step};
use crate::plugin::{FailureKind, guest_error};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{cast, filter_record_batch, take};
use datafusion_common::{DataFusionError, Result};
use std::sync::Arc;

/// Runs `steps` over `batch`, in parts where a flat map makes too many rows of it at once.
///
/// # Errors
/// As [`apply`]; nothing has been changed then.
pub fn apply_in_parts(steps: &[Step], batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
    let (mut done, mut start) = (Vec::new(), 0);
    // Of batches alike the next part is likely to make as many rows as the one before.
    let mut size = batch.num_rows();
    loop {
        let part = batch.slice(start, size.min(batch.num_rows() - start));
        match apply(steps, &part) {
            Ok(rows) => {
                done.push(rows);
                start += part.num_rows();
            }
            Err(error) if part.num_rows() > 1 && is_too_much(steps, &error) => size = part.num_rows() / 2,
            Err(error) => return Err(error),
        }
        if start >= batch.num_rows() {
            return Ok(done);
        }
    }
}

/// Whether fewer rows may go well: a flat map made too many rows, or had no room for them.
fn is_too_much(steps: &[Step], error: &DataFusionError) -> bool {
    steps.iter().any(|s| matches!(s, Step::FlatMap(_)))
        && guest_error(error).is_some_and(|g| matches!(g.kind, FailureKind::Excess | FailureKind::Memory))
}

/// Runs `steps` over `batch`.
///
/// # Errors
/// What an expression or a guest in it says; nothing has been changed then.
pub fn apply(steps: &[Step], batch: &RecordBatch) -> Result<RecordBatch> {
    let mut batch = batch.clone();
    for step in steps {
        if batch.num_rows() == 0 && matches!(step, Step::Filter(_)) {
            continue;
        }
        batch = match step {
            Step::FlatMap(flat) => flat_map(flat, &batch)?,
            Step::Filter(predicate) => filter(predicate.as_ref(), &batch)?,
            Step::Project(columns, schema) => {
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let arrays = columns
                    .iter()
                    .zip(schema.fields())
                    .map(|(column, field)| {
                        let array = column.evaluate(&batch)?.into_array(batch.num_rows())?;
                        Ok(if array.data_type() == field.data_type() { array } else { cast(&array, field.data_type())? })
                    })
                    .collect::<Result<Vec<_>>>()?;
                RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?
            }
        };
    }
    Ok(batch)
}

fn filter(predicate: &dyn datafusion_physical_expr::PhysicalExpr, batch: &RecordBatch) -> Result<RecordBatch> {
    let keep = predicate.evaluate(batch)?.into_array(batch.num_rows())?;
    let keep = keep.as_boolean_opt().ok_or_else(|| DataFusionError::Internal(format!("a filter gave {}", keep.data_type())))?;
    if keep.null_count() == 0 && keep.true_count() == keep.len() {
        return Ok(batch.clone());
    }
    Ok(filter_record_batch(batch, keep)?)
}

/// The guest's columns beside the row that each comes from.
fn flat_map(flat: &FlatMapStep, batch: &RecordBatch) -> Result<RecordBatch> {
    let arguments = flat.arguments.iter().map(|a| a.evaluate(batch)).collect::<Result<Vec<_>>>()?;
    let given = flat.guest.call(&arguments, batch.num_rows())?;
    let from = UInt32Array::from(given.rows);
    let mut columns = Vec::with_capacity(flat.schema.fields().len());
    for (column, kept) in batch.columns().iter().zip(&flat.kept) {
        columns.push(if *kept { take(column, &from, None)? } else { new_null_array(column.data_type(), from.len()) });
    }
    let is_last_hidden = batch.schema().fields().last().is_some_and(|f| f.name() == ROW_COLUMN);
    let hidden: Option<ArrayRef> = if is_last_hidden { columns.pop() } else { None };
    columns.extend(given.columns.into_iter().chain(hidden));
    Ok(RecordBatch::try_new(Arc::clone(&flat.schema), columns)?)
}
