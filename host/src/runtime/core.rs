//! The state machine of a job: closes epochs over the state table and says what each commits. No threads, no I/O, no clock.
//!
//! In: the tasks' shares of an epoch, which partitions are idle or finished. Out: an [`EpochCommit`], or the word that the epoch must be
//! run again. **Invariant**: what an epoch commits is a function of the state before, its rows, and the plan.

mod counts;
mod next;
mod process;
mod records;
mod stored;

pub use self::counts::Counts;
pub use self::stored::operator_of;

use self::next::NextOperator;
use self::process::ProcessStage;
use crate::config::spec::Emit;
use crate::element::{PartitionName, RawBatch};
use crate::ingest::decode::Decoder;
use crate::limits::JobLimits;
use crate::operator::FaultPolicy;
use crate::operator::blocks::Blocks;
use crate::operator::close::{Closed, Closer, Closing};
use crate::operator::emission::Emission;
use crate::operator::epoch::{EpochStart, ExcludedKeys, TaskEpoch};
use crate::operator::fold::Partial;
use crate::operator::isolate::Budget;
use crate::operator::process::{ProcessCloser, Processed};
use crate::operator::task::EpochTask;
use crate::operator::window_lateness::RowLateness;
use crate::output::EpochCommit;
use crate::output::encode::Encoder;
use crate::plan::Plan;
use crate::state::bulk::Bulk;
use crate::state::spill::SpillError;
use crate::state::store::{Sizes, Store};
use datafusion_common::{DataFusionError, Result};
use std::sync::Arc;

/// Merged panes take at most this part of the state's budget; slots have the rest.
const BLOCKS_SHARE: usize = 2;

/// Which partitions hold the watermark back no longer; index as in the source.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Stood at the end of the partition for `idle_after`.
    pub idle: Vec<bool>,
    /// Will never have more records.
    pub finished: Vec<bool>,
}

/// What is open in the state; times in milliseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenWindows {
    /// Panes with state.
    pub panes: usize,
    /// Start of the oldest.
    pub oldest: Option<i64>,
    /// The watermark that closes the next window over it.
    pub next_close: Option<i64>,
}

/// What became of an epoch.
pub enum Outcome {
    /// To be committed.
    Commit(Box<EpochCommit>),
    /// To be run again from these starts, one a task.
    Rerun(Vec<EpochStart>),
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputFormat {
    /// Timestamps in JSON.
    pub timestamps: crate::config::spec::TimestampFormat,
}

/// A job's state machine.
pub struct JobCore {
    plan: Arc<Plan>,
    closer: Option<Closer>,
    process: Option<ProcessStage>,
    encoder: Encoder,
    format: OutputFormat,
    partitions: Vec<PartitionName>,
    limits: JobLimits,
    store: Store,
    /// Merged panes of long windows: only a cache, dropped wherever an epoch is run again.
    blocks: Blocks,
    emission: Emission,
    positions: Vec<i64>,
    watermarks: Vec<i64>,
    closed: i64,
    /// Processing time of the last epoch.
    now: i64,
    epoch: u64,
    counts: Counts,
    /// Of the rows of the last epoch.
    lateness: RowLateness,
    /// The last epoch left results of closed windows for the next ones.
    owes: bool,
    /// Stored with the state: see [`Meta::begun`].
    begun: Option<String>,
    /// Number of the operation among those with state.
    number: u8,
    next: Option<Box<NextOperator>>,
    /// There are stored entries of an operator that the plan has not.
    has_foreign: bool,
}

impl JobCore {
    /// A job without history, at the first offset of each partition.
    ///
    /// # Errors
    /// When the plan's aggregates can't be made ready.
    pub fn new(plan: Arc<Plan>, partitions: Vec<PartitionName>, format: OutputFormat, mut limits: JobLimits) -> Result<Self> {
        limits.state.memory_bytes /= plan.chain().count();
        Self::of_operator(plan, partitions, format, limits, 0)
    }

    /// The state machine of an operation, by its number among those with state, and of those behind it.
    fn of_operator(
        plan: Arc<Plan>,
        partitions: Vec<PartitionName>,
        format: OutputFormat,
        limits: JobLimits,
        number: u8,
    ) -> Result<Self> {
        let (closer, encoder) = prepare(&plan, format)?;
        let process = ProcessStage::new(&plan, format);
        let store = match &process {
            Some(_) => Store::new(Some(ProcessCloser::first_timer())).waking(ProcessCloser::first_processing_timer()),
            None => Store::new(closer.as_ref().and_then(Closer::first_timer)),
        };
        let mut blocks = Blocks::default();
        if limits.state.spill.is_some() {
            blocks.set_bytes_max(limits.state.memory_bytes / BLOCKS_SHARE);
        }
        Ok(Self {
            next: NextOperator::of(&plan, format, &limits, number)?,
            number,
            has_foreign: false,
            store: store.within(limits.state.clone()),
            process,
            blocks,
            emission: Emission::default(),
            closer,
            encoder,
            format,
            plan,
            watermarks: vec![i64::MIN; partitions.len()],
            positions: vec![0; partitions.len()],
            partitions,
            limits,
            closed: i64::MIN,
            now: i64::MIN,
            epoch: 0,
            counts: Counts::default(),
            lateness: RowLateness::default(),
            owes: false,
            begun: None,
        })
    }

    /// The plan that epochs are closed with.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Goes on with another plan of the same layout, from the next epoch that is closed.
    ///
    /// # Errors
    /// When its aggregates can't be made ready; the old plan stays.
    pub fn set_plan(&mut self, plan: Arc<Plan>) -> Result<()> {
        let (closer, encoder) = prepare(&plan, self.format)?;
        if let Some((mine, next)) = self.next.as_mut().zip(plan.next.as_ref()) {
            mine.set_plan(next)?;
        }
        self.process = ProcessStage::new(&plan, self.format);
        (self.plan, self.closer, self.encoder) = (plan, closer, encoder);
        self.blocks.clear();
        Ok(())
    }

    /// Next offset of each partition.
    pub fn positions(&self) -> &[i64] {
        &self.positions
    }

    /// Watermark of each partition.
    pub fn watermarks(&self) -> &[i64] {
        &self.watermarks
    }

    /// Watermark that windows have been closed up to.
    pub fn closed(&self) -> i64 {
        self.closed
    }

    /// Processing time of the last epoch, milliseconds since 1970 UTC: that of the next is not before it.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// Whether results of windows that have closed are left for the next epochs: an input that has ended needs some more, without rows.
    pub fn owes(&self) -> bool {
        self.owes || self.next.as_ref().is_some_and(|next| next.core.owes())
    }

    /// Counts since the start.
    pub fn counts(&self) -> Counts {
        let expired = self.next.as_ref().map_or(0, |next| next.core.counts().expired);
        Counts { expired: self.counts.expired + expired, ..self.counts }
    }

    /// Removes what a process that was killed left of state on disk; no other may use the folder.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn tidy(&self) -> std::result::Result<(), SpillError> {
        self.operators().try_for_each(|core| core.store.tidy())
    }

    /// How large the keyed state is, in memory and on disk.
    pub fn sizes(&self) -> Sizes {
        self.operator_sizes().into_iter().sum()
    }

    /// The same of each operator, in order.
    pub fn operator_sizes(&self) -> Vec<Sizes> {
        self.operators().map(|core| core.store.sizes()).collect()
    }

    /// The state machines of the operators: this one, and those behind it.
    fn operators(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |core| core.next.as_ref().map(|next| &next.core))
    }

    /// What is open: panes, the oldest event that waits, the watermark that closes the next window. None without a window. Goes over all panes.
    pub fn open_windows(&self) -> Option<OpenWindows> {
        let assigner = self.plan.window.as_ref()?.assigner();
        let oldest = self.store.panes().next();
        let next_close = oldest.and_then(|pane| assigner.next_close(pane, self.closed));
        Some(OpenWindows {
            panes: self.store.panes().count(),
            oldest: oldest.map(|pane| pane.start).filter(|start| *start > i64::MIN),
            next_close,
        })
    }

    /// The state machines of the operators with state behind this one, in order.
    pub fn behind(&self) -> impl Iterator<Item = &Self> {
        self.operators().skip(1)
    }

    /// What the next epoch starts from.
    pub fn start(&self, policy: FaultPolicy) -> EpochStart {
        EpochStart { watermarks: self.watermarks.clone(), closed: self.closed, now: self.now, policy, excluded: Arc::default() }
    }

    /// Runs a task's share of an epoch from its raw batches.
    ///
    /// # Errors
    /// As [`EpochTask::push`], with the raw batches.
    pub fn run_task(
        plan: &Plan,
        decoder: &mut Decoder,
        input: Vec<RawBatch>,
        start: EpochStart,
        limits: &JobLimits,
    ) -> std::result::Result<TaskEpoch, (DataFusionError, Vec<RawBatch>)> {
        let mut task = match EpochTask::new(plan, decoder, start, limits) {
            Ok(task) => task,
            Err(error) => return Err((error, input)),
        };
        let mut failed = None;
        let mut rest = Vec::new();
        for raw in input {
            match failed {
                None => failed = task.push(raw).err(),
                Some(_) => rest.push(raw),
            }
        }
        match failed {
            None => task.finish(),
            Some(error) => {
                let mut input = task.into_input();
                input.extend(rest);
                Err((error, input))
            }
        }
    }

    /// Closes an epoch. On [`Outcome::Rerun`] and on an error nothing has changed, but for a [`SpillError`]: then the state must be restored.
    ///
    /// # Errors
    /// Under [`FaultPolicy::Fail`] the first error of an aggregate or guest; a [`SpillError`].
    pub fn close(&mut self, tasks: &[TaskEpoch], progress: &Progress, policy: FaultPolicy) -> Result<Outcome> {
        if let Some(starts) = self.must_rerun(tasks) {
            self.counts.reruns += 1;
            return Ok(Outcome::Rerun(starts));
        }
        let mut watermarks = self.watermarks.clone();
        for task in tasks {
            for (mine, new) in watermarks.iter_mut().zip(&task.watermarks) {
                *mine = (*mine).max(*new);
            }
        }
        let time = tasks.iter().map(|t| t.start.now).fold(self.now, i64::max);
        let ended = !progress.finished.is_empty() && progress.finished.iter().all(|f| *f);
        let now = match &self.plan.window {
            Some(window) if window.processing_time => {
                if ended {
                    i64::MAX
                } else {
                    time
                }
            }
            _ => job_watermark(&watermarks, progress),
        };
        let now = now.max(self.closed);
        let reached = match &self.plan.window {
            Some(window) if now == i64::MAX && window.processing_time => time,
            _ if now == i64::MAX => watermarks.iter().copied().fold(self.closed, i64::max),
            _ => now,
        };
        let mut budget = Budget::for_rows(self.limits.isolated_rows);
        let partials: Vec<&Partial> = tasks.iter().map(|t| &t.partial).collect();
        let mut processed = None;
        let closed = match &self.closer {
            None => {
                processed = self.close_process(tasks, progress, (now, reached, time), policy, &mut budget)?;
                processed.as_mut().map_or_else(Closed::default, |p| std::mem::take(&mut p.closed))
            }
            Some(closer) => {
                let closing = Closing {
                    store: &self.store,
                    partials: &partials,
                    before: self.closed,
                    now,
                    reached,
                    emission: &self.emission,
                    is_firing: self.is_firing(time),
                    policy,
                    results_max: self.limits.close_results.max(1),
                };
                closer.close(&closing, &mut self.blocks, &mut budget).inspect_err(|_| self.blocks.clear())?
            }
        };
        if !closed.excluded.is_empty() {
            self.blocks.clear();
            self.counts.reruns += 1;
            return Ok(Outcome::Rerun(self.starts_without(tasks, closed.excluded)));
        }
        let mut commit = EpochCommit { epoch: self.epoch + 1, ..EpochCommit::default() };
        let written = self.write(&closed, processed, tasks, policy, &mut budget, &mut commit);
        written
            .and_then(|()| self.close_next(&closed, (now, reached, time), policy, &mut commit))
            .inspect_err(|_| self.blocks.clear())?;
        self.now = time;
        self.accept(tasks, watermarks, (now, reached), closed, &mut commit).map_err(|e| DataFusionError::External(e.into()))?;
        Ok(Outcome::Commit(Box::new(commit)))
    }

    /// What the epoch gives, but for results that go on to the next operation.
    fn write(
        &mut self,
        closed: &Closed,
        processed: Option<Processed>,
        tasks: &[TaskEpoch],
        policy: FaultPolicy,
        budget: &mut Budget,
        commit: &mut EpochCommit,
    ) -> Result<()> {
        if self.next.is_none() {
            self.write_results(closed, tasks, policy, budget, commit)?;
        }
        self.write_side_outputs(closed, tasks, commit)?;
        processed.map_or(Ok(()), |processed| self.write_process(processed, tasks, commit))
    }

    /// Whether early results are given in an epoch at processing time `now`: once in each interval of it.
    fn is_firing(&self, now: i64) -> bool {
        let Some(Emit::Early(every)) = self.plan.window.as_ref().map(|w| w.emit) else { return false };
        let every = (every.as_millis() as i64).max(1);
        self.now != i64::MIN && now.div_euclid(every) > self.now.div_euclid(every)
    }

    /// Starts of the epoch's tasks, when they did not start from where the epoch before ended.
    fn must_rerun(&self, tasks: &[TaskEpoch]) -> Option<Vec<EpochStart>> {
        let moved = |t: &TaskEpoch| {
            t.positions.keys().any(|p| t.start.watermarks[*p] != self.watermarks[*p])
                || self.closer.as_ref().is_some_and(|c| c.is_stale(&t.partial, self.closed) && t.start.closed < self.closed)
                || self.process.as_ref().is_some_and(|p| t.start.closed < self.closed && p.closer.is_stale(&t.keyed, self.closed))
        };
        tasks.iter().any(moved).then(|| {
            let fresh =
                |t: &TaskEpoch| EpochStart { watermarks: self.watermarks.clone(), closed: self.closed, ..t.start.clone() };
            tasks.iter().map(fresh).collect()
        })
    }

    fn starts_without(&self, tasks: &[TaskEpoch], excluded: ExcludedKeys) -> Vec<EpochStart> {
        let mut all = excluded;
        for task in tasks {
            all.extend(task.start.excluded.iter().map(|(k, v)| (k.clone(), Arc::clone(v))));
        }
        let all = Arc::new(all);
        tasks
            .iter()
            .map(|t| EpochStart {
                closed: self.closed,
                excluded: Arc::clone(&all),
                policy: FaultPolicy::Isolate,
                ..t.start.clone()
            })
            .collect()
    }

    /// The epoch went well: the table, positions and watermarks move on.
    fn accept(
        &mut self,
        tasks: &[TaskEpoch],
        watermarks: Vec<i64>,
        (now, reached): (i64, i64),
        closed: Closed,
        commit: &mut EpochCommit,
    ) -> std::result::Result<(), SpillError> {
        // An input that has ended closes all windows there are; a later run of the job goes on behind the last of them. Over processing
        // time it goes on with what is left of its window.
        let ends = match &self.closer {
            Some(closer) if now == i64::MAX && closer.window().processing_time => self.now,
            Some(closer) if now == i64::MAX => {
                closer.last_close(&self.store, tasks.iter().map(|t| &t.partial)).unwrap_or(self.closed)
            }
            Some(_) => now,
            None if self.process.is_some() && now == i64::MAX => reached,
            None if self.process.is_some() => now,
            None => self.closed,
        };
        self.closed = self.closed.max(ends);
        self.watermarks = watermarks;
        for (partition, next) in tasks.iter().flat_map(|t| &t.positions) {
            self.positions[*partition] = *next;
        }
        self.emission.apply(closed.emission);
        self.store.set_beside(self.blocks.bytes() + self.emission.bytes());
        // At the end of the input the keys of a process live on: see `ProcessCloser::close`.
        self.store.rearm(if self.process.is_some() { reached } else { now }, closed.rearmed)?;
        self.store.rearm_processing(self.now, closed.rearmed_processing)?;
        // Those of a later operator are marked; those of the first, of most jobs all, go straight where they are to be.
        let mut own = Bulk::default();
        let changes = if self.number == 0 { &mut commit.changes } else { &mut own };
        self.store.remove(&closed.removed_slots, changes)?;
        closed.taken.into_iter().for_each(|(pane, key)| self.store.taken(pane, key));
        self.owes = closed.owes;
        self.store.apply(closed.updates, &closed.removed, changes)?;
        let mark = self.prefix();
        own.iter().for_each(|(shard, key, value)| commit.changes.push_parts(shard, [&mark, key], value));
        self.epoch += 1;
        self.lateness = counts::lateness(tasks);
        let counts = &mut self.counts;
        counts.expired += closed.expired;
        counts.epochs += 1;
        counts.rows += tasks.iter().map(|t| t.rows as u64).sum::<u64>();
        counts.bytes += tasks.iter().map(|t| t.bytes as u64).sum::<u64>();
        counts.outputs += commit.outputs.len() as u64;
        counts.late += commit.late.len() as u64;
        counts.rejects += commit.rejects.len() as u64;
        commit.positions.clone_from(&self.positions);
        commit.meta = self.meta();
        Ok(())
    }
}

fn prepare(plan: &Plan, format: OutputFormat) -> Result<(Option<Closer>, Encoder)> {
    let closer = plan.window.as_ref().map(|w| Closer::new(w, plan.input())).transpose()?;
    Ok((closer, Encoder::new(Arc::clone(&plan.output), plan.output_keys.clone(), format.timestamps)))
}

/// The watermark of a job: the least over its partitions that are neither idle nor finished. Where none is left, the input has ended
/// when all are finished; else the greatest of the idle ones counts, as in Flink's StatusWatermarkValve.
fn job_watermark(watermarks: &[i64], progress: &Progress) -> i64 {
    let is = |flags: &[bool], i: usize| flags.get(i).copied().unwrap_or(false);
    let open = || (0..watermarks.len()).filter(|i| !is(&progress.finished, *i));
    let active = open().filter(|i| !is(&progress.idle, *i)).map(|i| watermarks[i]).min();
    active.unwrap_or_else(|| open().map(|i| watermarks[i]).max().unwrap_or(i64::MAX))
}
