//! A worker: a thread that owns a reader and runs its partitions' share of each epoch.
//!
//! In: [`Run`] commands. Out: one [`Ran`] a command. Between two commands it holds nothing but its decoder, so an epoch can be run
//! again anywhere from the raw batches.

use crate::element::RawBatch;
use crate::ingest::decode::Decoder;
use crate::ingest::{IngestError, Polled, Reader};
use crate::limits::JobLimits;
use crate::operator::epoch::{EpochStart, TaskEpoch};
use crate::operator::task::EpochTask;
use crate::plan::Plan;
use crossbeam_channel::{Receiver, Sender};
use datafusion_common::DataFusionError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait in one poll: a partition's end and a stop are seen this soon.
const POLL_WAIT: Duration = Duration::from_millis(20);

/// Run an epoch.
pub struct Run {
    /// With this plan.
    pub plan: Arc<Plan>,
    /// From here.
    pub start: EpochStart,
    /// Until then, or until the bounds in rows and bytes.
    pub deadline: Instant,
    /// Partitions that are not to be read: see [`Reader::hold`].
    pub held: Arc<[bool]>,
    /// All partitions of this worker are held or finished: it does not wait for the deadline.
    pub rest: bool,
}

/// An epoch that ran.
pub struct Ran {
    /// Which worker.
    pub worker: usize,
    /// The plan it ran with.
    pub plan: Arc<Plan>,
    /// What came of it: an error gives the raw batches back.
    pub task: Result<TaskEpoch, (DataFusionError, Vec<RawBatch>)>,
    /// Partitions that stand at their end.
    pub at_end: BTreeSet<usize>,
    /// The offset of the end, of those for which the source told it.
    pub end_offsets: BTreeMap<usize, i64>,
    /// Partitions that had records.
    pub active: BTreeSet<usize>,
    /// Partitions that are finished.
    pub finished: Vec<usize>,
    /// Offsets that were gone and skipped.
    pub skipped: u64,
    /// Reading failed: what was read before counts, then the job ends.
    pub failed: Option<IngestError>,
}

/// The loop of a worker's thread; ends when `commands` closes.
pub fn work(
    worker: usize,
    mut reader: Box<dyn Reader>,
    mut decoder: Decoder,
    limits: &JobLimits,
    commands: &Receiver<Run>,
    results: &Sender<Ran>,
) {
    while let Ok(run) = commands.recv() {
        let ran = run_epoch(worker, reader.as_mut(), &mut decoder, limits, run, &Instant::now);
        if results.send(ran).is_err() {
            return;
        }
    }
}

/// A worker's share of an epoch; `now` is the clock that its deadline is of.
pub(super) fn run_epoch(
    worker: usize,
    reader: &mut dyn Reader,
    decoder: &mut Decoder,
    limits: &JobLimits,
    run: Run,
    now: &dyn Fn() -> Instant,
) -> Ran {
    let plan = Arc::clone(&run.plan);
    let mut ran = Ran {
        worker,
        plan: run.plan,
        task: Err((DataFusionError::Internal("the epoch has not run".into()), Vec::new())),
        at_end: BTreeSet::new(),
        end_offsets: BTreeMap::new(),
        active: BTreeSet::new(),
        finished: Vec::new(),
        skipped: 0,
        failed: None,
    };
    let mut task = match EpochTask::new(&plan, decoder, run.start, limits) {
        Ok(task) => task,
        Err(error) => {
            ran.task = Err((error, Vec::new()));
            return ran;
        }
    };
    reader.hold(&run.held);
    loop {
        let left = run.deadline.saturating_duration_since(now());
        if run.rest || left.is_zero() || task.rows() >= limits.epoch_rows || task.bytes() >= limits.epoch_bytes {
            break;
        }
        let rows = limits.batch_rows.min(limits.epoch_rows - task.rows());
        match reader.poll(rows, left.min(POLL_WAIT)) {
            Ok(polled) => {
                if let Err((error, rest)) = take_in(&mut task, polled, &mut ran) {
                    let mut input = task.into_input();
                    input.extend(rest);
                    ran.task = Err((error, input));
                    return ran;
                }
            }
            Err(error) => {
                ran.failed = Some(error);
                break;
            }
        }
        if !ran.finished.is_empty() && task.rows() == 0 {
            break;
        }
    }
    ran.task = task.finish();
    ran
}

fn take_in(task: &mut EpochTask<'_>, polled: Polled, ran: &mut Ran) -> Result<(), (DataFusionError, Vec<RawBatch>)> {
    ran.skipped += polled.skipped_offsets;
    for batch in &polled.batches {
        ran.at_end.remove(&batch.partition);
        ran.active.insert(batch.partition);
    }
    ran.at_end.extend(polled.at_end);
    ran.end_offsets.extend(polled.end_offsets);
    ran.finished.extend(polled.finished);
    let mut batches = polled.batches.into_iter();
    while let Some(batch) = batches.next() {
        task.push(batch).map_err(|error| (error, batches.by_ref().collect()))?;
    }
    Ok(())
}
