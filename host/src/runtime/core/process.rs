//! The part of a job's state machine that a keyed process has: its close, and what its outputs and faults become.

use super::records::result_reject;
use super::{JobCore, OutputFormat, Progress};
use crate::operator::FaultPolicy;
use crate::operator::close::Closed;
use crate::operator::epoch::TaskEpoch;
use crate::operator::isolate::Budget;
use crate::operator::process::{ProcessCloser, ProcessClosing, Processed};
use crate::output::encode::Encoder;
use crate::output::side::Reject;
use crate::output::{EpochCommit, output_role};
use crate::plan::Plan;
use datafusion::error::{DataFusionError, Result};
use std::sync::Arc;

/// A keyed process, and the encoders of its outputs that have sinks of their own.
pub(super) struct ProcessStage {
    pub(super) closer: ProcessCloser,
    /// By output; that of `results` is not used.
    encoders: Vec<Encoder>,
}

impl ProcessStage {
    /// Of a plan; none where it has no process.
    pub(super) fn new(plan: &Plan, format: OutputFormat) -> Option<Self> {
        let closer = ProcessCloser::new(plan)?;
        let outputs = closer.plan().outputs.iter();
        let encoders = outputs.map(|o| Encoder::new(Arc::clone(&o.schema), Vec::new(), format.timestamps)).collect();
        Some(Self { closer, encoders })
    }
}

impl JobCore {
    /// Closes the epoch of a process: what the table and the results need goes to `closed`. `times`: watermark, watermark reached, processing time.
    pub(super) fn close_process(
        &self,
        tasks: &[TaskEpoch],
        progress: &Progress,
        times: (i64, i64, i64),
        policy: FaultPolicy,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<Option<Processed>> {
        let Some(stage) = &self.process else { return Ok(None) };
        let (now, reached, time) = times;
        let closing = ProcessClosing {
            store: &self.store,
            tasks,
            others: &others(&self.watermarks, progress),
            before: self.closed,
            now,
            reached,
            time,
            policy,
        };
        let mut out = stage.closer.close(&closing, budget)?;
        closed.updates = std::mem::take(&mut out.updates);
        closed.removed = std::mem::take(&mut out.removed);
        closed.removed_slots = std::mem::take(&mut out.removed_slots);
        closed.rearmed = std::mem::take(&mut out.rearmed);
        closed.rearmed_processing = std::mem::take(&mut out.rearmed_processing);
        closed.expired = out.expired;
        let plans = stage.closer.plan().outputs.iter();
        for (rows, _) in out.outputs.iter_mut().zip(plans).filter(|(_, plan)| plan.sink.is_none()) {
            closed.results.append(rows);
        }
        Ok(Some(out))
    }

    /// Rows of outputs with sinks of their own, and what was at fault.
    pub(super) fn write_process(&mut self, processed: Processed, tasks: &[TaskEpoch], commit: &mut EpochCommit) -> Result<()> {
        let Some(stage) = &mut self.process else { return Ok(()) };
        let plans = stage.closer.plan().outputs.iter();
        for ((rows, plan), encoder) in processed.outputs.iter().zip(plans).zip(&mut stage.encoders) {
            if plan.sink.is_none() {
                continue;
            }
            let mut records = Vec::new();
            for batch in rows {
                records.extend(encoder.encode(batch).map_err(|e| DataFusionError::External(e.into()))?);
            }
            commit.named.push((output_role(&plan.name), records));
        }
        let mut rejects = processed.rejects;
        rejects.sort_by_key(|(task, reject)| (*task, reject.batch, reject.row));
        for (task, reject) in &rejects {
            let raw = &tasks[*task].input[reject.batch];
            let row = Reject {
                partition: Some(&self.partitions[raw.partition]),
                record: Some(raw.records.record(reject.row)),
                reason: &reject.error.reason,
                guest: reject.error.guest.as_ref(),
            };
            commit.rejects.push(row.to_record());
        }
        let set_aside = processed.set_aside.into_iter();
        commit.rejects.extend(set_aside.map(|aside| result_reject(aside.what, Vec::new(), &aside.error).to_record()));
        Ok(())
    }
}

/// For each partition the least watermark of the others that hold it back; [`i64::MAX`] where none does.
fn others(watermarks: &[i64], progress: &Progress) -> Vec<i64> {
    let is = |flags: &[bool], i: usize| flags.get(i).copied().unwrap_or(false);
    let holds: Vec<usize> = (0..watermarks.len()).filter(|i| !is(&progress.idle, *i) && !is(&progress.finished, *i)).collect();
    let least = holds.iter().copied().min_by_key(|i| watermarks[*i]);
    let second = holds.iter().copied().filter(|i| Some(*i) != least).map(|i| watermarks[i]).min();
    let of = |i: usize| if least == Some(i) { second } else { least.map(|l| watermarks[l]) };
    (0..watermarks.len()).map(|i| of(i).unwrap_or(i64::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_the_others() {
        let none = Progress::default();
        assert_eq!(others(&[5, 3, 9], &none), [3, 5, 3]);
        assert_eq!(others(&[5], &none), [i64::MAX]);
        let progress = Progress { idle: vec![false, true, false], finished: vec![false, false, true] };
        assert_eq!(others(&[5, 3, 9], &progress), [i64::MAX, 5, 5]);
        assert_eq!(others(&[], &none), Vec::<i64>::new());
    }
}
