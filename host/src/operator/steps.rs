//! Filter and project over one batch.
//!
//! In: a batch with the hidden row column. Out: the batch after all steps; rows keep their order.

use crate::plan::Step;
use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{cast, filter_record_batch};
use datafusion::error::{DataFusionError, Result};
use std::sync::Arc;

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

fn filter(predicate: &dyn datafusion::physical_expr::PhysicalExpr, batch: &RecordBatch) -> Result<RecordBatch> {
    let keep = predicate.evaluate(batch)?.into_array(batch.num_rows())?;
    let keep = keep.as_boolean_opt().ok_or_else(|| DataFusionError::Internal(format!("a filter gave {}", keep.data_type())))?;
    if keep.null_count() == 0 && keep.true_count() == keep.len() {
        return Ok(batch.clone());
    }
    Ok(filter_record_batch(batch, keep)?)
}
