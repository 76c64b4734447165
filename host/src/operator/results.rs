//! Rows of results: keys, the window, finished aggregates.

use crate::config::spec::WindowKind;
use crate::operator::FaultPolicy;
use crate::operator::close::{BadResult, Closed, Closer};
use crate::operator::epoch::RowError;
use crate::operator::isolate::{Budget, isolate};
use crate::operator::merge::{Merger, external};
use arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, TimestampMillisecondArray, new_null_array,
};
use arrow::compute::cast;
use datafusion_common::Result;
use std::sync::Arc;

/// Keys of one batch of results.
pub(super) const RESULT_ROWS: usize = 16_384;

/// A key's result in a window, to be finished.
pub struct WindowRow<'a> {
    /// Encoded key.
    pub key: &'a [u8],
    /// Start of the window.
    pub start: i64,
    /// End of the window.
    pub end: i64,
    /// Encoded states that it is the merge of; at least one.
    pub states: Vec<&'a [u8]>,
}

impl Closer {
    /// Finishes `rows`; where that fails on some of them, their states are set aside.
    pub(super) fn finish(
        &self,
        rows: &[WindowRow<'_>],
        is_final: bool,
        policy: FaultPolicy,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        for chunk in rows.chunks(RESULT_ROWS) {
            match self.results(chunk, is_final) {
                Ok(batch) => closed.results.push(batch),
                Err(error) if policy == FaultPolicy::Fail => return Err(error),
                Err(error) => {
                    let mut good = 0;
                    for fault in isolate(chunk.len(), error, budget, &mut |r| self.results(&chunk[r], is_final).map(drop)) {
                        if good < fault.items.start {
                            closed.results.push(self.results(&chunk[good..fault.items.start], is_final)?);
                        }
                        good = fault.items.end;
                        // What fails early may well be right at the end: only a final result is missed.
                        if !is_final {
                            continue;
                        }
                        let error = Arc::new(RowError::of(&fault.error));
                        closed.bad_results.extend(chunk[fault.items].iter().map(|row| BadResult {
                            window: row.start,
                            key: row.key.into(),
                            state: row.states.concat(),
                            error: Arc::clone(&error),
                        }));
                    }
                    if good < chunk.len() {
                        closed.results.push(self.results(&chunk[good..], is_final)?);
                    }
                }
            }
        }
        Ok(())
    }

    fn results(&self, rows: &[WindowRow<'_>], is_final: bool) -> Result<RecordBatch> {
        let mut merger = Merger::new(&self.window, &self.layout.widths)?;
        self.layout.add(&mut merger, rows.iter().map(|r| r.states.as_slice()), rows.len())?;
        let visible = self.window.aggregates.len() - self.window.hidden;
        let aggregates = merger.results(visible)?;
        self.batch(rows.len(), rows.iter().map(|r| (r.key, r.start, r.end)), is_final, aggregates)
    }

    /// Rows that only say which results are no more: key, start and end of each window.
    pub(super) fn retraction(&self, windows: &[(&[u8], i64, i64)]) -> Result<RecordBatch> {
        let fields = self.window.result.fields();
        let versions = usize::from(self.window.plugin_versions.is_some());
        let visible = self.window.aggregates.len() - self.window.hidden;
        let columns = fields[fields.len() - versions - visible..fields.len() - versions].iter();
        let nulls = columns.map(|f| new_null_array(f.data_type(), windows.len())).collect();
        self.batch(windows.len(), windows.iter().copied(), false, nulls)
    }

    fn batch<'a>(
        &self,
        rows: usize,
        windows: impl Iterator<Item = (&'a [u8], i64, i64)> + Clone,
        is_final: bool,
        aggregates: Vec<ArrayRef>,
    ) -> Result<RecordBatch> {
        let mut columns = self.layout.keys.decode(windows.clone().map(|(key, ..)| key)).map_err(external)?;
        if self.window.kind != WindowKind::Global {
            columns.push(Arc::new(TimestampMillisecondArray::from_iter_values(windows.clone().map(|(_, start, _)| start))));
            columns.push(Arc::new(TimestampMillisecondArray::from_iter_values(windows.map(|(_, _, end)| end))));
        }
        if self.window.is_speculative() {
            columns.push(Arc::new(BooleanArray::from(vec![is_final; rows])));
        }
        columns.extend(aggregates);
        if let Some(versions) = &self.window.plugin_versions {
            columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(versions, rows))));
        }
        let schema = &self.window.result;
        let columns = columns
            .into_iter()
            .zip(schema.fields())
            .map(|(c, f)| if c.data_type() == f.data_type() { Ok(c) } else { Ok(cast(&c, f.data_type())?) })
            .collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))?)
    }
}
