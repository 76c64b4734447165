//! The next operation with state: a state machine of its own, whose one partition are the results of the one before.
//!
//! In: those of an epoch, and how far the one before has come. Out: what it adds to the same epoch's commit. **Invariant**: it is closed after all of the
//! one before that can fail but the disk, so where it fails nothing has changed.

use super::{JobCore, Outcome, OutputFormat, Progress};
use crate::element::PartitionName;
use crate::ingest::decode::Decoder;
use crate::limits::JobLimits;
use crate::operator::FaultPolicy;
use crate::operator::assigner::Assigner;
use crate::operator::close::Closed;
use crate::operator::epoch::{EpochStart, TaskEpoch};
use crate::operator::task::EpochTask;
use crate::output::EpochCommit;
use crate::plan::{Next, Plan, ResultBound};
use arrow::array::RecordBatch;
use datafusion_common::{DataFusionError, Result};
use std::sync::Arc;

/// Times that its share of an epoch may be run again before the failure counts as ours.
const RERUNS: u32 = 64;

/// The next operation with state.
pub(super) struct NextOperator {
    pub(super) core: JobCore,
    bound: ResultBound,
    /// Of results, those that it reads.
    columns: Vec<usize>,
    /// Decodes nothing.
    decoder: Decoder,
}

impl NextOperator {
    /// Behind the operation of this plan, which has this number; none where it is the last.
    pub(super) fn of(plan: &Plan, format: OutputFormat, limits: &JobLimits, number: u8) -> Result<Option<Box<Self>>> {
        let Some(Next { plan: next, columns, bound }) = &plan.next else { return Ok(None) };
        let Some(number) = number.checked_add(1) else {
            return Err(DataFusionError::Plan("a pipeline has at most 256 operations with state".to_owned()));
        };
        let mut limits = limits.clone();
        if let Some(folder) = &mut limits.state.spill {
            let name = folder.file_name().map_or_else(|| "spill".into(), |name| name.to_string_lossy().into_owned());
            *folder = folder.with_file_name(format!("{name}-next"));
        }
        let results = vec![PartitionName { topic: plan.operator.as_str().into(), partition: 0 }];
        let decoder = Decoder::of_plan(next, &results);
        let core = JobCore::of_operator(Arc::clone(next), results, format, limits, number)?;
        Ok(Some(Box::new(Self { core, bound: *bound, columns: columns.clone(), decoder })))
    }

    pub(super) fn set_plan(&mut self, next: &Next) -> Result<()> {
        self.core.set_plan(Arc::clone(&next.plan))?;
        self.bound = next.bound;
        self.columns.clone_from(&next.columns);
        self.decoder = Decoder::of_plan(&next.plan, &self.core.partitions);
        Ok(())
    }

    /// Closes its part of an epoch.
    fn close(
        &mut self,
        rows: &[RecordBatch],
        watermark: i64,
        has_ended: bool,
        time: i64,
        policy: FaultPolicy,
    ) -> Result<EpochCommit> {
        let progress = Progress { idle: vec![false], finished: vec![has_ended] };
        let mut start = EpochStart { now: time, ..self.core.start(policy) };
        for _ in 0..RERUNS {
            let task = self.run(rows, start, watermark)?;
            match self.core.close(&[task], &progress, policy)? {
                Outcome::Commit(commit) => return Ok(*commit),
                Outcome::Rerun(starts) => start = starts.into_iter().next().unwrap_or_else(|| self.core.start(policy)),
            }
        }
        let text = format!("the epoch of `{}` was run {RERUNS} times and failed each time", self.core.plan.operator);
        Err(DataFusionError::Internal(text))
    }

    fn run(&mut self, rows: &[RecordBatch], start: EpochStart, watermark: i64) -> Result<TaskEpoch> {
        let mut first = self.core.positions.first().copied().unwrap_or(0);
        let plan = Arc::clone(&self.core.plan);
        let mut task = EpochTask::new(&plan, &mut self.decoder, start, &self.core.limits)?.behind();
        for batch in rows {
            task.push_results(batch.clone(), &self.columns, first)?;
            first += batch.num_rows() as i64;
        }
        let mut done = task.finish().map_err(|(error, _)| error)?;
        done.watermarks.iter_mut().for_each(|w| *w = (*w).max(watermark));
        Ok(done)
    }

    /// How far out of order its rows may come beyond what the operation before makes of them.
    fn out_of_orderness(&self) -> i64 {
        let plan = &self.core.plan;
        let of = plan.window.as_ref().map(|w| w.out_of_orderness).or(plan.process.as_ref().map(|p| p.out_of_orderness));
        // A result at the watermark itself joins a session that ends there, if that has not closed: whether it has must not depend on epochs.
        let touching = plan.window.as_ref().is_some_and(|w| matches!(w.assigner(), Assigner::Session(_)));
        of.map_or(0, |d| d.as_millis() as i64) + i64::from(touching)
    }
}

impl JobCore {
    /// Gives the epoch's results to the next operation, if there is one, and takes its part of the commit in. `times`: watermark, watermark reached,
    /// processing time.
    pub(super) fn close_next(
        &mut self,
        closed: &Closed,
        times: (i64, i64, i64),
        policy: FaultPolicy,
        commit: &mut EpochCommit,
    ) -> Result<()> {
        let Some(next) = &self.next else { return Ok(()) };
        let (now, reached, time) = times;
        // Results that are still owed are not late; and nothing is, over processing time.
        let waits = closed.owes || next.core.plan.window.as_ref().is_some_and(|w| w.processing_time);
        let watermark = if waits { i64::MIN } else { self.results_from(next.bound, reached) };
        let watermark = if watermark == i64::MIN { watermark } else { watermark.saturating_sub(next.out_of_orderness()) };
        let has_ended = now == i64::MAX && !closed.owes;
        if let Some(next) = &mut self.next {
            commit.absorb(next.close(&closed.results, watermark, has_ended, time, policy)?);
        }
        Ok(())
    }

    /// No result after this watermark is before this time.
    fn results_from(&self, bound: ResultBound, watermark: i64) -> i64 {
        match (bound, self.plan.window.as_ref()) {
            _ if watermark == i64::MIN => watermark,
            (ResultBound::Behind(by), _) => watermark.saturating_sub(by.as_millis() as i64),
            (ResultBound::OpenWindow, None) => watermark,
            (ResultBound::OpenWindow, Some(window)) => window.assigner().open_from(watermark, window.allowed_lateness),
        }
    }
}
