//! A running job: readers, workers and a committer around a [`driver`](super::driver), and recovery.
//!
//! Epoch n + 1 is read and computed while n commits. A commit that fails drops everything since the last committed epoch and starts
//! again from it.

use crate::config::spec::Pipeline;
use crate::element::PartitionName;
use crate::error::{Error, Kind};
use crate::ingest::decode::Decoder;
use crate::ingest::start::StartFrom;
use crate::ingest::{IngestError, Reader, Source};
use crate::limits::JobLimits;
use crate::output::{Change, CommitError, Committer, EpochCommit, Meta, OutRecord};
use crate::plan::Plan;
use crate::runtime::begin::{Around, Begin, Begun};
use crate::runtime::core::{Counts, JobCore, OutputFormat};
use crate::runtime::desk::Desk;
use crate::runtime::driver::{Driver, Frame};
use crate::runtime::metrics::Metrics;
use crate::runtime::outside::{Ack, Threads};
use crate::runtime::progress::{self, PartitionClock};
use crate::runtime::status::Phase;
use crate::runtime::swap::Swapper;
use crate::runtime::worker::{Ran, Run, work};
use crate::state::spill::SpillError;
use crate::state::store::{LoadError, Sizes};
use crossbeam_channel::{Receiver, Sender, bounded};
use datafusion_common::DataFusionError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Attempts to get back to work after failed commits, without a commit in between, before the job gives up.
const ATTEMPTS: u32 = 20;
/// Longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What a job needs to run.
pub struct JobSpec {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// The plan that it starts with.
    pub plan: Arc<Plan>,
    /// Where new plans come from.
    pub swapper: Arc<Swapper>,
    /// Its source.
    pub source: Box<dyn Source>,
    /// Its committer.
    pub committer: Box<dyn Committer>,
    /// Bounds.
    pub limits: JobLimits,
    /// Worker threads.
    pub workers: usize,
    /// Counters that a server shows.
    pub metrics: Arc<Metrics>,
    /// Whether the observer is given the result rows (a copy of each).
    pub observe_outputs: bool,
    /// How the job is told to begin.
    pub begin: Begin,
    /// Where a copy of its state is asked for.
    pub desk: Arc<Desk>,
}

/// Ends a job from outside.
#[derive(Default)]
pub struct Control {
    stop: AtomicBool,
}

impl Control {
    /// Asks the job to finish its epoch, commit and leave.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// An epoch that has been committed.
pub struct Committed<'a> {
    /// Its number.
    pub epoch: u64,
    /// Its result rows, where the job was asked for them.
    pub outputs: &'a [OutRecord],
    /// Counts since the start of the process.
    pub counts: Counts,
    /// Watermark that windows have been closed up to.
    pub closed: i64,
    /// How large keyed state is.
    pub sizes: Sizes,
    /// The same of each operator that has some, in order.
    pub operator_sizes: &'a [Sizes],
    /// Time of the commit.
    pub commit_time: Duration,
    /// The plan that closed it.
    pub plan: &'a Plan,
}

/// Told of each committed epoch, on the job's thread.
pub type Observer<'a> = &'a mut dyn FnMut(&Committed<'_>);

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The input ended, and all windows have closed.
    Finished,
    /// It was asked to stop.
    Stopped,
}

/// Why one attempt ended.
pub(super) enum Break {
    Retry(String),
    Fatal(Error),
    /// Nothing has failed: the source has so many partitions more.
    Added(usize),
}

impl From<Error> for Break {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

/// What follows an attempt that did not end for good.
pub(super) enum Next {
    /// The job has ended.
    End(End),
    /// After this pause, back to the last committed epoch; why.
    Again(Duration, String),
    /// At once, with so many partitions more: see [`refresh`].
    Refresh(usize),
}

/// Attempts to get back to work, and the pauses between them.
#[derive(Default)]
pub(super) struct Attempts {
    /// In a row, the last one among them; 1 where that one committed something.
    failures: u32,
}

impl Attempts {
    /// After an attempt with this outcome; `committed`: at least one epoch of it was.
    ///
    /// # Errors
    /// What ends the job.
    pub(super) fn after(&mut self, outcome: Result<End, Break>, committed: bool) -> Result<Next, Error> {
        self.failures = if committed { 1 } else { self.failures + 1 };
        match outcome {
            Ok(end) => Ok(Next::End(end)),
            Err(Break::Fatal(error)) => Err(error),
            Err(Break::Added(count)) => Ok(Next::Refresh(count)),
            Err(Break::Retry(why)) if self.failures >= ATTEMPTS => {
                Err(Error::new(Kind::External, format!("gave up after {} attempts to go on: {why}", self.failures)))
            }
            Err(Break::Retry(why)) => {
                let pause = Duration::from_millis(100u64 << self.failures.min(7)).min(BACKOFF_MAX);
                tracing::warn!(attempt = self.failures, "going back to the last committed epoch: {why}");
                Ok(Next::Again(pause, why))
            }
        }
    }
}

/// Runs a job until its input ends, it is stopped, or it can't go on.
///
/// # Errors
/// What ended it, and who must act.
pub fn run(mut spec: JobSpec, control: &Control, observer: Observer<'_>) -> Result<(End, Counts), Error> {
    let mut total = Counts::default();
    let mut attempts = Attempts::default();
    loop {
        let before = total.epochs;
        let outcome = attempt(&mut spec, control, observer, &mut total);
        match attempts.after(outcome, total.epochs > before)? {
            Next::End(end) => return Ok((end, total)),
            Next::Refresh(count) => refresh(&mut spec, count),
            Next::Again(pause, why) => {
                spec.metrics.recoveries.inc();
                spec.metrics.status.phase(Phase::BackingOff(why));
                if control.is_stopped() {
                    return Ok((End::Stopped, total));
                }
                std::thread::sleep(pause);
            }
        }
    }
}

pub(super) fn ingest_break(error: IngestError) -> Break {
    match error {
        IngestError::Config(text) => Break::Fatal(Error::new(Kind::Config, text)),
        IngestError::DataLoss(text) => Break::Fatal(Error::new(Kind::Data, text)),
        IngestError::External(text) => Break::Retry(text),
    }
}

pub(super) fn commit_break(error: CommitError) -> Break {
    match error {
        CommitError::Aborted(text) => Break::Retry(text),
        CommitError::Fenced(text) => Break::Fatal(Error::new(Kind::External, text)),
        CommitError::Config(text) => Break::Fatal(Error::new(Kind::Config, text)),
        CommitError::Corrupt(text) | CommitError::Lost(text) => Break::Fatal(Error::new(Kind::Data, text)),
    }
}

/// What the disk failed at, where that is why.
pub(super) fn spill_error(error: &DataFusionError) -> Option<&SpillError> {
    match error.find_root() {
        DataFusionError::External(inner) => inner.downcast_ref(),
        _ => None,
    }
}

/// The state is made anew from its log, on an empty disk.
pub(super) fn spill_break(error: &SpillError) -> Break {
    Break::Retry(error.to_string())
}

pub(super) fn defect(error: &DataFusionError) -> Break {
    if let Some(error) = spill_error(error) {
        return spill_break(error);
    }
    Break::Fatal(Error::new(Kind::Internal, format!("an epoch could not be closed: {error}")))
}

/// A job whose state is back, and who reads on from there.
pub(super) struct Ready {
    pub(super) core: JobCore,
    /// One a worker.
    pub(super) readers: Vec<Box<dyn Reader>>,
    /// What the limits say of an epoch holds over all workers; these are of one.
    pub(super) limits: JobLimits,
}

/// From the last committed state.
pub(super) fn get_ready(spec: &mut JobSpec) -> Result<Ready, Break> {
    let partitions = spec.source.partitions().to_vec();
    let format = OutputFormat { timestamps: spec.pipeline.timestamp_format };
    spec.metrics.status.phase(Phase::Restoring);
    let mut core =
        JobCore::new(Arc::clone(&spec.plan), partitions.clone(), format, spec.limits.clone()).map_err(|e| defect(&e))?;
    let meta = restore(spec, &mut core)?;
    if let Some(meta) = &meta {
        core.restore(meta).map_err(|text| Error::new(Kind::Config, text))?;
    }
    let sizes = core.sizes();
    if spec.begin.is_empty() {
        complete(sizes.slots, meta.as_ref(), spec)?;
    }
    // The local tree is open, so no other process has the folder.
    core.tidy().map_err(|e| spill_break(&e))?;
    tracing::info!(
        epoch = meta.as_ref().map_or(0, |m| m.epoch),
        slots = sizes.slots,
        slots_on_disk = sizes.disk_slots,
        memory_bytes = sizes.memory_bytes,
        "restored"
    );
    let workers = spec.workers.clamp(1, partitions.len().max(1));
    let readers = spec.source.readers(core.positions(), workers).map_err(ingest_break)?;
    let mut limits = spec.limits.clone();
    limits.epoch_rows = (limits.epoch_rows / workers).max(1);
    limits.epoch_bytes = (limits.epoch_bytes / workers).max(1);
    Ok(Ready { core, readers, limits })
}

/// Takes in `count` partitions that the source has been given.
pub(super) fn refresh(spec: &mut JobSpec, count: usize) {
    let known = spec.source.partitions().len();
    // Where the broker is away the attempt goes on with what is known, and finds them again.
    match spec.source.refresh() {
        Ok(()) => tracing::info!("the source has {count} more partitions than {known}: all are read from here on"),
        Err(error) => tracing::warn!("the source has {count} more partitions than {known}, not read yet: {error}"),
    }
    spec.committer.partitions(spec.source.partitions());
    spec.metrics.status.describe(&spec.plan, spec.source.partitions(), &spec.limits);
}

/// From the last committed state until something breaks or the job ends.
fn attempt(spec: &mut JobSpec, control: &Control, observer: Observer<'_>, total: &mut Counts) -> Result<End, Break> {
    let Ready { core, readers, limits } = get_ready(spec)?;
    let frame = Frame::of(spec, *total);
    let partitions = frame.partitions.clone();
    let query = spec.source.end_query();
    let (result_in, results) = bounded::<Ran>(readers.len());
    let (commit_in, commits) = bounded::<EpochCommit>(1);
    let (ack_in, acks) = bounded::<Ack>(1);
    let (asking, answering) = progress::channels();
    let clock = PartitionClock::new(core.watermarks(), &limits, query.is_some().then_some(asking), Instant::now());
    let JobSpec { plan, source, committer, .. } = spec;
    std::thread::scope(|scope| {
        let mut commands = Vec::new();
        for (worker, reader) in readers.into_iter().enumerate() {
            let (command, inbox) = bounded::<Run>(1);
            commands.push(command);
            let decoder = Decoder::of_plan(plan, &partitions);
            let (limits, results) = (&limits, result_in.clone());
            scope.spawn(move || work(worker, reader, decoder, limits, &inbox, &results));
        }
        drop(result_in);
        if let Some(mut query) = query {
            scope.spawn(move || progress::answer(query.as_mut(), &answering));
        }
        scope.spawn(move || commit_loop(committer.as_mut(), &commits, &ack_in));
        let outside = Threads { source: source.as_mut(), commands, results, commits: commit_in, acks };
        let mut driver = Driver::new(frame, core, limits.clone(), clock, outside);
        let end = driver.drive(control, observer, total);
        *plan = Arc::clone(&driver.current);
        end
        // The driver's channels close here, and the threads end.
    })
}

/// The committed state into `core`, as the job was told to begin.
fn restore(spec: &mut JobSpec, core: &mut JobCore) -> Result<Option<Meta>, Break> {
    // Where the job was told to begin otherwise, its state is looked at first.
    let mut aside = Vec::new();
    let mut bad = None;
    let plain = spec.begin.is_empty();
    if may_lose(spec) {
        spec.committer.accept_loss();
    }
    let mut load = |entry: Change| {
        if let Err(e) = core.load(entry) {
            bad.get_or_insert(e);
        }
    };
    let meta = if plain { spec.committer.restore_log(&mut load) } else { spec.committer.restore(&mut |entry| aside.push(entry)) };
    let meta = meta.map_err(|error| match error {
        CommitError::Lost(text) => lost(&text, &spec.plan),
        other => commit_break(other),
    })?;
    // After the committer has fenced an earlier process off: until then offsets that it was about to commit are in the balance, and the
    // broker gives none.
    let mut starts = spec.source.start_positions().map_err(ingest_break)?;
    if let Some(meta) = &meta {
        added_since(spec.source.as_mut(), meta, &mut starts)?;
    }
    let begun = if plain {
        Begun { entries: aside, meta, how: None }
    } else {
        complete(aside.len(), meta.as_ref(), spec)?;
        let (source, committer) = (spec.source.as_mut(), spec.committer.as_mut());
        spec.begin.apply(aside, meta, Around { plan: &spec.plan, source, committer, starts: &starts })?
    };
    // Not twice in one process, whatever makes it come here again.
    spec.begin.again = false;
    begun.entries.into_iter().for_each(load);
    if let Some(LoadError::Spill(error)) = &bad {
        return Err(spill_break(error));
    }
    if let Some(error) = bad {
        return Err(Error::new(Kind::Data, format!("{error}; the job's changelog holds something else than its state")).into());
    }
    core.start_at(starts);
    core.begun(begun.how);
    Ok(begun.meta)
}

/// Whether the job is told what becomes of state that is lost, or has none.
fn may_lose(spec: &JobSpec) -> bool {
    spec.begin.replaces_state(&spec.plan) || spec.plan.operators().is_empty()
}

/// The log must give back as many entries as were committed.
fn complete(given: usize, meta: Option<&Meta>, spec: &JobSpec) -> Result<(), Break> {
    let Some(committed) = meta.and_then(|m| m.entries).filter(|c| *c != given as u64) else { return Ok(()) };
    let Pipeline { team, name, .. } = &spec.pipeline;
    let text = format!(
        "job {team}/{name}: {committed} entries of state were committed, and its log has {given}: was the topic or folder cut, or made anew while \
         the job ran"
    );
    if may_lose(spec) {
        tracing::warn!("{text}? The job begins as it was told");
        return Ok(());
    }
    Err(lost(&text, &spec.plan))
}

/// State is lost: what can be done.
fn lost(what: &str, plan: &Plan) -> Break {
    let drop: Vec<String> = plan.operators().into_keys().map(|name| format!("--drop-state {name}")).collect();
    let drop = drop.join(" ");
    let text = format!(
        "{what}. What you can do:\n  \
         start the job where its local tree (--data-dir) has all that was committed: the changelog is written anew from it\n  \
         --restore SAVEPOINT --replace: back to a savepoint; results since then come again. A local tree that is behind is one, too: \
         kindling savepoint PIPELINE --from-tree --to SAVEPOINT\n  \
         --from TIME {drop}: counts anew from there; results of windows that it touches come again\n  \
         {drop}: goes on at the committed offsets; windows that were open count only what comes from now on"
    );
    Break::Fatal(Error::new(Kind::Data, text))
}

/// Partitions that a topic was given since the job last ran are read from their beginning, whatever the source says of a job that is new.
fn added_since(source: &mut dyn Source, meta: &Meta, starts: &mut [i64]) -> Result<(), Break> {
    let known = |topic: &str| meta.positions.keys().any(|name| name.rsplit_once('/').is_some_and(|(t, _)| t == topic));
    let new = |name: &PartitionName| !meta.positions.contains_key(&name.to_string()) && known(&name.topic);
    let partitions = source.partitions().to_vec();
    if !partitions.iter().any(new) {
        return Ok(());
    }
    let first = source.positions_at(&StartFrom::Earliest).map_err(ingest_break)?;
    for ((name, start), first) in partitions.iter().zip(starts).zip(first) {
        if let Some(first) = first.filter(|_| new(name)) {
            tracing::info!("{name} is new since the job last ran: it is read from offset {first}");
            *start = first;
        }
    }
    Ok(())
}

fn commit_loop(committer: &mut dyn Committer, commits: &Receiver<EpochCommit>, acks: &Sender<Ack>) {
    while let Ok(commit) = commits.recv() {
        let started = Instant::now();
        let outcome = committer.commit(commit);
        if acks.send((outcome, started.elapsed())).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_disk_is_a_return_and_no_defect() {
        let error = SpillError::Damaged { path: "/data/t/j/spill".into(), why: "a checksum".into() };
        let wrapped = DataFusionError::Context("closing".into(), Box::new(DataFusionError::External(error.into())));
        assert!(
            matches!(defect(&wrapped), Break::Retry(text) if text.contains("/data/t/j/spill") && text.contains("a checksum"))
        );
        let other = DataFusionError::Internal("a defect".into());
        assert!(matches!(defect(&other), Break::Fatal(e) if e.to_string().contains("a defect")));
    }
}
