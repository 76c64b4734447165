//! A job's own thread: epochs one after the other, one commit in flight, swaps at the boundaries.
//!
//! In: shares of an epoch from the workers, acknowledgements from the committer. Out: runs for the workers, commits for the committer, a
//! word to the observer for each epoch that is committed. Both are behind [`Outside`]: the driver itself has neither threads nor a clock.

use super::core::{Counts, JobCore, Outcome};
use super::desk::Desk;
use super::job::{
    Break, Committed, Control, End, JobSpec, Observer, commit_break, defect, ingest_break, spill_break, spill_error,
};
use super::metrics::Metrics;
use super::outside::Outside;
use super::progress::PartitionClock;
use super::status::{Phase, Seen};
use super::swap::{Candidate, Swapper};
use super::worker::{Ran, Run};
use crate::element::{PartitionName, RawBatch};
use crate::error::{Error, Kind};
use crate::ingest::IngestError;
use crate::ingest::decode::Decoder;
use crate::limits::{JobLimits, STATE_COPY_BYTES};
use crate::operator::FaultPolicy;
use crate::operator::epoch::{EpochStart, TaskEpoch};
use crate::operator::window_lateness::RowLateness;
use crate::output::{EpochCommit, OutRecord};
use crate::plan::Plan;
use crate::plugin::{FailureKind, PluginSet, guest_error};
use crate::state::savepoint::Header;
use crate::state::store::Sizes;
use datafusion_common::DataFusionError;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Times that one epoch may be run again before its failure counts as ours.
const RERUNS: u32 = 64;
/// How often lag is asked for.
const LAG_EVERY: Duration = Duration::from_secs(1);

/// A plan whose new plugin version must prove itself.
struct Probation {
    old: Arc<Plan>,
    old_plugins: PluginSet,
    candidate: Candidate,
    epochs_left: u32,
}

/// The shares of an epoch.
struct Collected {
    /// One a worker.
    tasks: Vec<TaskEpoch>,
    /// The plan that all of them ran with.
    plan: Arc<Plan>,
    /// Reading failed: this is the last epoch.
    failed: Option<IngestError>,
}

/// An epoch on its way through the committer.
struct InCommit {
    epoch: u64,
    outputs: Vec<OutRecord>,
    counts: Counts,
    /// By operator.
    lateness: Vec<RowLateness>,
    closed: i64,
    sizes: Vec<Sizes>,
    plan: Arc<Plan>,
}

/// The job's own thread.
pub(super) struct Driver<O> {
    core: JobCore,
    /// The plan of the next epoch.
    pub(super) current: Arc<Plan>,
    probation: Option<Probation>,
    /// For epochs that are run again here.
    decoder: Decoder,
    /// Bounds; of an epoch those of one worker.
    limits: JobLimits,
    swapper: Arc<Swapper>,
    metrics: Arc<Metrics>,
    progress: PartitionClock,
    partitions: Vec<PartitionName>,
    /// Workers, committer, clock.
    outside: O,
    in_commit: Option<InCommit>,
    /// Positions and closed time of the last epoch that was handed to the committer.
    handed_over: Option<(Vec<i64>, i64)>,
    /// Whether the observer reads result rows.
    observe_outputs: bool,
    /// Counts of earlier attempts of this process.
    base: Counts,
    desk: Arc<Desk>,
    /// Team and name.
    label: (String, String),
    /// Processing time of the epoch that the workers run: the same for all of them.
    now: i64,
    /// When lag was last asked for.
    looked: Option<Instant>,
}

/// What a driver takes from its job's spec.
pub(super) struct Frame {
    plan: Arc<Plan>,
    swapper: Arc<Swapper>,
    metrics: Arc<Metrics>,
    desk: Arc<Desk>,
    pub(super) partitions: Vec<PartitionName>,
    observe_outputs: bool,
    label: (String, String),
    base: Counts,
}

impl Frame {
    /// Of a job with these counts from earlier attempts of the process.
    pub(super) fn of(spec: &JobSpec, base: Counts) -> Self {
        Self {
            plan: Arc::clone(&spec.plan),
            swapper: Arc::clone(&spec.swapper),
            metrics: Arc::clone(&spec.metrics),
            desk: Arc::clone(&spec.desk),
            partitions: spec.source.partitions().to_vec(),
            observe_outputs: spec.observe_outputs,
            label: (spec.pipeline.team.clone(), spec.pipeline.name.clone()),
            base,
        }
    }
}

impl<O: Outside> Driver<O> {
    /// A driver of a job whose state is back in `core`; `limits` are those of one worker.
    pub(super) fn new(frame: Frame, core: JobCore, limits: JobLimits, progress: PartitionClock, outside: O) -> Self {
        let Frame { plan, swapper, metrics, desk, partitions, observe_outputs, label, base } = frame;
        Self {
            decoder: Decoder::of_plan(&plan, &partitions),
            current: plan,
            probation: None,
            core,
            limits,
            swapper,
            metrics,
            progress,
            partitions,
            outside,
            in_commit: None,
            handed_over: None,
            observe_outputs,
            base,
            desk,
            label,
            now: i64::MIN,
            looked: None,
        }
    }

    pub(super) fn drive(&mut self, control: &Control, observer: Observer<'_>, total: &mut Counts) -> Result<End, Break> {
        self.begin();
        loop {
            if let Some(end) = self.turn(control, observer, total)? {
                return Ok(end);
            }
        }
    }

    /// Starts the workers on the first epoch.
    pub(super) fn begin(&mut self) {
        self.read_clock();
        self.metrics.status.phase(Phase::Running);
        self.start_next(&[]);
    }

    /// One epoch: what the workers made of it, and their start on the next. Gives the end, where it was the last.
    pub(super) fn turn(&mut self, control: &Control, observer: Observer<'_>, total: &mut Counts) -> Result<Option<End>, Break> {
        let Collected { tasks, plan, failed } = self.collect()?;
        let ended = self.progress.all_finished();
        let added = self.progress.added();
        let stop = control.is_stopped() || failed.is_some() || ended || added > 0;
        if !stop {
            self.take_candidate();
            self.read_clock();
            self.start_next(&tasks);
        }
        self.close(tasks, &plan, observer, total)?;
        while ended && self.core.owes() {
            self.close(Vec::new(), &plan, observer, total)?;
        }
        self.answer(observer, total)?;
        let now = self.outside.now();
        let look = stop || self.looked.is_none_or(|at| now.duration_since(at) >= LAG_EVERY);
        if look {
            self.looked = Some(now);
        }
        self.tell(look);
        if !stop {
            return Ok(None);
        }
        self.wait_for_commit(observer, total)?;
        match failed {
            Some(error) => Err(ingest_break(error)),
            None if ended => Ok(Some(End::Finished)),
            None if added > 0 && !control.is_stopped() => Err(Break::Added(added)),
            None => Ok(Some(End::Stopped)),
        }
    }

    /// Copies the state for whoever waits for it, once its last epoch has committed.
    fn answer(&mut self, observer: Observer<'_>, total: &mut Counts) -> Result<(), Break> {
        let Some(ask) = self.desk.waiting() else { return Ok(()) };
        self.wait_for_commit(observer, total)?;
        let mut bytes = Vec::new();
        let header = |meta| Header::new(&self.label.0, &self.label.1, ask.now_ms, meta);
        let copied = self.core.copy(header, ask.key.as_deref(), STATE_COPY_BYTES, &mut bytes);
        ask.answer(copied.map_err(|e| spill_break(&e))?.map(|entries| (bytes, entries)));
        Ok(())
    }

    /// The next epoch's processing time: it never goes back, also when the clock does.
    fn read_clock(&mut self) {
        self.now = self.now.max(self.core.now()).max(self.outside.now_ms());
    }

    fn start(&self) -> EpochStart {
        EpochStart { now: self.now, ..self.core.start(self.policy()) }
    }

    /// Tells people where the job stands; `look`: also what takes time to find out.
    fn tell(&mut self, look: bool) {
        let now = self.outside.now();
        self.progress.moved(self.core.watermarks(), now);
        let ends = if look { self.outside.end_positions() } else { Vec::new() };
        if look {
            self.metrics.lag(&self.partitions, self.core.positions(), &ends, self.core.watermarks());
            self.metrics.waiting(&self.partitions, &self.progress, now);
        }
        let windows = look.then(|| self.core.open_windows()).flatten();
        let seen = Seen { core: &self.core, clock: &self.progress, ends, windows, looked: look, now };
        self.metrics.status.saw(&seen);
    }

    fn policy(&self) -> FaultPolicy {
        if self.probation.is_some() { FaultPolicy::Fail } else { FaultPolicy::Isolate }
    }

    /// Waits for all workers; shares that failed are run again here.
    fn collect(&mut self) -> Result<Collected, Break> {
        let workers = self.outside.workers();
        let mut ran: Vec<Ran> = Vec::with_capacity(workers);
        for _ in 0..workers {
            ran.push(self.outside.ran().ok_or_else(|| Error::new(Kind::Internal, "a worker ended without a word"))?);
        }
        ran.sort_by_key(|r| r.worker);
        let now = self.outside.now();
        let mut failed = None;
        let mut shares = Vec::with_capacity(ran.len());
        for mut one in ran {
            self.progress.see(&one, now);
            self.metrics.skipped_offsets.inc_by(one.skipped);
            failed = failed.or(one.failed.take());
            let task = match one.task {
                Ok(task) if Arc::ptr_eq(&one.plan, &self.current) => task,
                Ok(task) => self.run_again(task.start.clone(), task.input)?,
                Err((error, input)) => {
                    self.fault(&error);
                    self.run_again(self.start(), input)?
                }
            };
            shares.push((task, Arc::clone(&self.current)));
        }
        // A version that failed in the share of one worker has no part in those of the others.
        let mut tasks = Vec::with_capacity(shares.len());
        for (task, plan) in shares {
            let same = Arc::ptr_eq(&plan, &self.current);
            tasks.push(if same { task } else { self.run_again(task.start.clone(), task.input)? });
        }
        self.progress.ask(now);
        Ok(Collected { tasks, plan: Arc::clone(&self.current), failed })
    }

    /// Runs a share of an epoch here, with the current plan; a new version that fails is rolled back.
    fn run_again(&mut self, mut start: EpochStart, mut input: Vec<RawBatch>) -> Result<TaskEpoch, Break> {
        for _ in 0..RERUNS {
            start.policy = self.policy();
            let plan = Arc::clone(&self.current);
            match JobCore::run_task(&plan, &mut self.decoder, input, start.clone(), &self.limits) {
                Ok(task) => return Ok(task),
                Err((error, rest)) => {
                    if !self.fault(&error) {
                        return Err(defect(&error));
                    }
                    input = rest;
                }
            }
        }
        Err(Error::new(Kind::Internal, format!("an epoch was run {RERUNS} times and failed each time")).into())
    }

    /// Deals with an error while a new version is on probation: rolls back where it is that version's failure, else ends the
    /// probation's strictness for the epoch. False where there is no probation: then it is not ours to mend.
    fn fault(&mut self, error: &DataFusionError) -> bool {
        let Some(probation) = self.probation.take() else { return false };
        let Probation { old, old_plugins, candidate, .. } = probation;
        let guest = guest_error(error);
        let refused = guest.is_some_and(|g| matches!(g.kind, FailureKind::Refused(_)));
        if guest.is_some_and(|g| *g.plugin == candidate.new.0) && !refused {
            self.swapper.rolled_back(Arc::clone(&old), old_plugins, &candidate.new, &error.find_root().to_string());
            self.metrics.rollbacks.inc();
            self.current = old;
        }
        true
    }

    /// Takes the plan that waits, from the next epoch on.
    fn take_candidate(&mut self) {
        if self.probation.is_some() {
            return;
        }
        if let Some(candidate) = self.swapper.take() {
            let old = std::mem::replace(&mut self.current, Arc::clone(&candidate.plan));
            let old_plugins = self.swapper.replaced(&candidate);
            self.metrics.swaps.inc();
            self.probation = Some(Probation { old, old_plugins, candidate, epochs_left: self.limits.probation_epochs });
        }
    }

    /// Starts all workers, each from what its task of the epoch before left; without tasks from what the job left.
    fn start_next(&mut self, tasks: &[TaskEpoch]) {
        let latest = latest_watermarks(self.core.watermarks(), tasks);
        let now = self.outside.now();
        let held = self.progress.hold(&latest, now);
        let workers = self.outside.workers();
        for worker in 0..workers {
            let mut start = self.start();
            start.watermarks.clone_from(tasks.get(worker).map_or(&latest, |t| &t.watermarks));
            let deadline = now + self.limits.epoch_time;
            let rest = self.progress.rests(worker, workers);
            self.outside.run(worker, Run { plan: Arc::clone(&self.current), start, deadline, held: Arc::clone(&held), rest });
        }
    }

    /// Closes an epoch and hands it to the committer, when the one before is done.
    fn close(
        &mut self,
        mut tasks: Vec<TaskEpoch>,
        plan: &Arc<Plan>,
        observer: Observer<'_>,
        total: &mut Counts,
    ) -> Result<(), Break> {
        let mut plan = Arc::clone(plan);
        let progress = self.progress.progress(self.outside.now());
        for _ in 0..RERUNS {
            if !Arc::ptr_eq(self.core.plan(), &plan) {
                self.core.set_plan(Arc::clone(&plan)).map_err(|e| defect(&e))?;
            }
            let policy = if self.on_probation(&plan) { FaultPolicy::Fail } else { FaultPolicy::Isolate };
            match self.core.close(&tasks, &progress, policy) {
                Ok(Outcome::Commit(commit)) => {
                    self.note_rejects(&commit);
                    return self.hand_over(*commit, &plan, observer, total);
                }
                Ok(Outcome::Rerun(starts)) => {
                    tasks = self.again(tasks, starts, &plan)?;
                }
                Err(error) => {
                    // A disk that fails is no plugin's fault, and leaves nothing to run the epoch again on.
                    let judged = self.on_probation(&plan) && spill_error(&error).is_none();
                    if !judged || !self.fault(&error) {
                        return Err(defect(&error));
                    }
                    // The old version where it was rolled back, else the same one with faults isolated.
                    plan = Arc::clone(&self.current);
                    let starts = tasks.iter().map(|t| t.start.clone()).collect();
                    tasks = self.again(tasks, starts, &plan)?;
                }
            }
        }
        Err(Error::new(Kind::Internal, format!("an epoch was run {RERUNS} times and failed each time")).into())
    }

    fn on_probation(&self, plan: &Arc<Plan>) -> bool {
        self.probation.as_ref().is_some_and(|p| Arc::ptr_eq(&p.candidate.plan, plan))
    }

    fn again(&mut self, tasks: Vec<TaskEpoch>, starts: Vec<EpochStart>, plan: &Arc<Plan>) -> Result<Vec<TaskEpoch>, Break> {
        self.metrics.reruns.inc();
        let mut fresh = Vec::with_capacity(tasks.len());
        for (task, mut start) in tasks.into_iter().zip(starts) {
            start.policy = FaultPolicy::Isolate;
            let ran = JobCore::run_task(plan, &mut self.decoder, task.input, start, &self.limits);
            fresh.push(ran.map_err(|(error, _)| defect(&error))?);
        }
        Ok(fresh)
    }

    fn note_rejects(&self, commit: &EpochCommit) {
        for blamed in &commit.blamed {
            let (plugin, version) = blamed.as_ref().map_or(("", ""), |(plugin, version)| (plugin, version));
            self.metrics.rejected_by(plugin, version);
        }
    }

    fn hand_over(
        &mut self,
        commit: EpochCommit,
        plan: &Arc<Plan>,
        observer: Observer<'_>,
        total: &mut Counts,
    ) -> Result<(), Break> {
        let counts = self.base.plus(&self.core.counts());
        self.wait_for_commit(observer, total)?;
        // A watermark that moved because partitions are idle is stored too: it must not go back with a restart.
        if commit.is_empty() && self.handed_over.as_ref().is_some_and(|(p, c)| *p == commit.positions && *c == commit.meta.closed)
        {
            return Ok(());
        }
        let outputs = if self.observe_outputs { commit.outputs.clone() } else { Vec::new() };
        self.in_commit = Some(InCommit {
            epoch: commit.epoch,
            outputs,
            counts,
            lateness: self.core.lateness(),
            closed: self.core.closed(),
            sizes: self.core.operator_sizes(),
            plan: Arc::clone(plan),
        });
        self.handed_over = Some((commit.positions.clone(), commit.meta.closed));
        if !self.outside.commit(commit) {
            return Err(Error::new(Kind::Internal, "the committer ended without a word").into());
        }
        Ok(())
    }

    fn wait_for_commit(&mut self, observer: Observer<'_>, total: &mut Counts) -> Result<(), Break> {
        let Some(waiting) = self.in_commit.take() else { return Ok(()) };
        self.metrics.status.phase(Phase::Committing);
        let (outcome, commit_time) =
            self.outside.committed().ok_or_else(|| Error::new(Kind::Internal, "the committer ended without a word"))?;
        outcome.map_err(commit_break)?;
        self.metrics.status.phase(Phase::Running);
        self.metrics.status.committed(&waiting.lateness);
        *total = waiting.counts;
        if let Some(probation) = &mut self.probation
            && Arc::ptr_eq(&probation.candidate.plan, &waiting.plan)
        {
            if probation.epochs_left == self.limits.probation_epochs {
                let (name, version) = &probation.candidate.new;
                self.swapper.note(name, format!("version {version} has taken over"), false);
            }
            probation.epochs_left = probation.epochs_left.saturating_sub(1);
            if probation.epochs_left == 0 {
                self.probation = None;
            }
        }
        let committed = Committed {
            epoch: waiting.epoch,
            outputs: &waiting.outputs,
            counts: waiting.counts,
            closed: waiting.closed,
            sizes: waiting.sizes.iter().copied().sum(),
            operator_sizes: &waiting.sizes,
            commit_time,
            plan: &waiting.plan,
        };
        self.metrics.committed(&committed);
        observer(&committed);
        Ok(())
    }
}

/// The latest watermark of each partition: of the task that had it, where that is not closed yet.
fn latest_watermarks(before: &[i64], tasks: &[TaskEpoch]) -> Vec<i64> {
    let mut latest = before.to_vec();
    for task in tasks {
        latest.iter_mut().zip(&task.watermarks).for_each(|(mine, new)| *mine = (*mine).max(*new));
    }
    latest
}
