//! What an epoch writes: results through the steps after the aggregation, late rows, rejects.

use super::JobCore;
use crate::config::spec::OutputMode;
use crate::element::{RawBatch, Record};
use crate::operator::close::Closed;
use crate::operator::columns::{display, row_text};
use crate::operator::epoch::{RejectedRow, RowError, TaskEpoch};
use crate::operator::isolate::{Budget, isolate};
use crate::operator::{FaultPolicy, steps};
use crate::output::encode::Encoder;
use crate::output::side::{From, LateRow, Reject};
use crate::output::{EpochCommit, OutRecord};
use crate::plan::Step;
use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute::take_record_batch;
use datafusion_common::{DataFusionError, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// JSON of rows, by batch and row.
type Texts = HashMap<(usize, usize), Vec<u8>>;

impl JobCore {
    /// Result rows through the steps after the aggregation, to records.
    pub(super) fn write_results(
        &mut self,
        closed: &Closed,
        tasks: &[TaskEpoch],
        policy: FaultPolicy,
        budget: &mut Budget,
        commit: &mut EpochCommit,
    ) -> Result<()> {
        for batch in tasks.iter().flat_map(|t| &t.outputs) {
            commit.outputs.extend(self.encode(batch)?);
        }
        for batch in &closed.retracted {
            commit.outputs.extend(self.tombstones(batch)?);
        }
        for batch in &closed.results {
            match steps::apply_in_parts(&self.plan.post, batch) {
                Ok(parts) => self.write_parts(&parts, commit)?,
                Err(error) if policy == FaultPolicy::Fail => return Err(error),
                Err(error) => {
                    let post = Arc::clone(&self.plan);
                    let run = |r: std::ops::Range<usize>| steps::apply_in_parts(&post.post, &batch.slice(r.start, r.len()));
                    let mut good = 0;
                    for fault in isolate(batch.num_rows(), error, budget, &mut |r| run(r).map(drop)) {
                        self.write_parts(&run(good..fault.items.start)?, commit)?;
                        good = fault.items.end;
                        let error = RowError::of(&fault.error);
                        for i in fault.items {
                            self.reject_result(&row_text(batch, i), &[], &error, commit);
                        }
                    }
                    self.write_parts(&run(good..batch.num_rows())?, commit)?;
                }
            }
        }
        Ok(())
    }

    fn write_parts(&mut self, parts: &[RecordBatch], commit: &mut EpochCommit) -> Result<()> {
        for part in parts {
            commit.outputs.extend(self.encode(part)?);
        }
        Ok(())
    }

    /// Records that take results back: their keys as the steps after the aggregation make them, whatever a filter there would say.
    fn tombstones(&mut self, batch: &RecordBatch) -> Result<Vec<OutRecord>> {
        if self.plan.window.as_ref().is_none_or(|w| w.output == OutputMode::Append) {
            return Ok(Vec::new());
        }
        let projects: Vec<Step> = self.plan.post.iter().filter(|s| matches!(s, Step::Project(..))).cloned().collect();
        let rows = steps::apply(&projects, batch)?;
        self.encoder.tombstones(&rows).map_err(|e| DataFusionError::External(e.into()))
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<OutRecord>> {
        self.encoder.encode(batch).map_err(|e| DataFusionError::External(e.into()))
    }

    /// Sets rows of a task aside.
    pub(super) fn reject<'a>(
        &self,
        task: &TaskEpoch,
        rejects: impl Iterator<Item = &'a RejectedRow> + Clone,
        commit: &mut EpochCommit,
    ) -> Result<()> {
        let texts = self.texts(task, rejects.clone().map(|r| (r.batch, r.row)))?;
        for reject in rejects {
            let raw = &task.input[reject.batch];
            let row = Reject {
                from: self.from(raw),
                record: Some(record(raw, reject.row, texts.get(&(reject.batch, reject.row)))),
                reason: &reject.error.reason,
                guest: reject.error.guest.as_ref(),
            };
            commit.reject(row.to_record(), row.guest);
        }
        Ok(())
    }

    fn from(&self, raw: &RawBatch) -> From<'_> {
        match raw.records.results() {
            Some(_) => From::Given(&self.plan.operator),
            None => From::Partition(&self.partitions[raw.partition]),
        }
    }

    /// The JSON of those of a task's rows (batch and row) that are results: made at once for all of a batch.
    fn texts(&self, task: &TaskEpoch, rows: impl Iterator<Item = (usize, usize)>) -> Result<Texts> {
        let mut wanted: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (batch, row) in rows.filter(|(batch, _)| task.input[*batch].records.results().is_some()) {
            wanted.entry(batch).or_default().push(row);
        }
        let mut texts = Texts::new();
        for (batch, rows) in wanted {
            let Some(results) = task.input[batch].records.results() else { continue };
            let taken = take_record_batch(results, &rows.iter().map(|row| *row as u64).collect::<UInt64Array>())?;
            let mut encoder = Encoder::new(taken.schema(), Vec::new(), self.format.timestamps);
            let records = encoder.encode(&taken).map_err(|e| DataFusionError::External(e.into()))?;
            texts.extend(rows.into_iter().map(|row| (batch, row)).zip(records.into_iter().map(|record| record.value)));
        }
        Ok(texts)
    }

    pub(super) fn write_side_outputs(&self, closed: &Closed, tasks: &[TaskEpoch], commit: &mut EpochCommit) -> Result<()> {
        for task in tasks {
            let texts = self.texts(task, task.late.iter().map(|late| (late.batch, late.row)))?;
            for late in &task.late {
                let raw = &task.input[late.batch];
                let row = LateRow {
                    from: self.from(raw),
                    record: record(raw, late.row, texts.get(&(late.batch, late.row))),
                    event_time: late.event_time,
                    watermark: late.watermark,
                    late_by: late.late_by,
                };
                commit.late.push(row.to_record());
            }
            self.reject(task, task.rejects.iter(), commit)?;
        }
        let Some(closer) = &self.closer else { return Ok(()) };
        for bad in &closed.bad_results {
            let keys =
                closer.keys().decode(std::iter::once(bad.key.as_ref())).map_err(|e| DataFusionError::External(e.into()))?;
            let keys: Vec<String> = keys.iter().map(|k| display(k.as_ref(), 0)).collect();
            let what = format!("window {} of key ({})", bad.window, keys.join(", "));
            self.reject_result(&what, &bad.state, &bad.error, commit);
        }
        Ok(())
    }

    /// Sets a result aside that could not be made; there is no single record to blame.
    pub(super) fn reject_result(&self, what: &str, state: &[u8], error: &RowError, commit: &mut EpochCommit) {
        let from = if self.number == 0 { From::Nowhere } else { From::Given(&self.plan.operator) };
        let record = Record { offset: -1, timestamp: None, key: None, value: Some(state) };
        let reason = format!("{what}: {}", error.reason);
        let row = Reject { from, record: Some(record), reason: &reason, guest: error.guest.as_ref() };
        commit.reject(row.to_record(), row.guest);
    }
}

/// A row of a batch; of a result `text` is its JSON.
fn record<'a>(raw: &'a RawBatch, row: usize, text: Option<&'a Vec<u8>>) -> Record<'a> {
    let record = raw.records.record(row);
    Record { value: text.map(Vec::as_slice).or(record.value), ..record }
}
