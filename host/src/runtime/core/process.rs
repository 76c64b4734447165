//! The part of a job's state machine that a keyed process has: its close, and what its outputs and faults become.

use super::{JobCore, OutputFormat, Progress};
use crate::element::Record;
use crate::operator::FaultPolicy;
use crate::operator::epoch::TaskEpoch;
use crate::operator::isolate::Budget;
use crate::operator::process::{ProcessCloser, ProcessClosing, Processed, SetAside};
use crate::output::encode::Encoder;
use crate::output::side::{From, Reject};
use crate::output::{EpochCommit, output_role};
use crate::plan::Plan;
use datafusion_common::{DataFusionError, Result};
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
    /// Closes the epoch of a process; none where the plan has none. `times`: watermark, watermark reached, processing time.
    pub(super) fn close_process(
        &self,
        tasks: &[TaskEpoch],
        progress: &Progress,
        (now, reached, time): (i64, i64, i64),
        policy: FaultPolicy,
        budget: &mut Budget,
    ) -> Result<Option<Processed>> {
        let Some(stage) = &self.process else { return Ok(None) };
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
        stage.closer.close(&closing, budget).map(Some)
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
        for of_task in rejects.chunk_by(|a, b| a.0 == b.0) {
            self.reject(&tasks[of_task[0].0], of_task.iter().map(|(_, reject)| reject), commit)?;
        }
        for SetAside { what, place, error } in &processed.set_aside {
            match place.and_then(|(partition, offset)| Some((self.partitions.get(usize::try_from(partition).ok()?)?, offset))) {
                Some((partition, offset)) if self.number == 0 => {
                    let record = Record { offset, timestamp: None, key: None, value: None };
                    let (reason, guest) = (&format!("{what}: {}", error.reason), error.guest.as_ref());
                    let row = Reject { from: From::Partition(partition), record: Some(record), reason, guest };
                    commit.reject(row.to_record(), guest);
                }
                _ => self.reject_result(what, &[], error, commit),
            }
        }
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
