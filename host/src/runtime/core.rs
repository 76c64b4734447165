//! The state machine of a job: closes epochs over the state table and says what each commits. No threads, no I/O, no clock.
//!
//! In: the tasks' shares of an epoch, which partitions are idle or finished. Out: an [`EpochCommit`], or the word that the epoch must be
//! run again. **Invariant**: what an epoch commits is a function of the state before, its rows, and the plan.

use crate::element::{PartitionName, RawBatch};
use crate::ingest::decode::Decoder;
use crate::limits::JobLimits;
use crate::operator::close::{Closed, Closer};
use crate::operator::epoch::{EpochStart, ExcludedKeys, RowError, TaskEpoch};
use crate::operator::isolate::{Budget, isolate};
use crate::operator::task::{EpochTask, input_schema};
use crate::operator::{FaultPolicy, steps};
use crate::output::encode::Encoder;
use crate::output::side::{LateRow, Reject};
use crate::output::{Change, EpochCommit, Meta, OutRecord};
use crate::plan::Plan;
use crate::state::codec::CodecError;
use crate::state::store::Store;
use arrow::array::{Array, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::{DataFusionError, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of [`Meta`].
const META_FORMAT: u32 = 1;

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

/// Counts of a job since its start; rows are of committed or about-to-be-committed epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub rows: u64,
    /// Bytes of keys and values read.
    pub bytes: u64,
    /// Result rows.
    pub outputs: u64,
    /// Rows late for all their windows.
    pub late: u64,
    /// Rows set aside.
    pub rejects: u64,
    /// Epochs.
    pub epochs: u64,
    /// Epochs that were run again.
    pub reruns: u64,
}

impl Counts {
    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            bytes: self.bytes + other.bytes,
            outputs: self.outputs + other.outputs,
            late: self.late + other.late,
            rejects: self.rejects + other.rejects,
            epochs: self.epochs + other.epochs,
            reruns: self.reruns + other.reruns,
        }
    }
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
    encoder: Encoder,
    format: OutputFormat,
    partitions: Vec<PartitionName>,
    limits: JobLimits,
    store: Store,
    positions: Vec<i64>,
    watermarks: Vec<i64>,
    closed: i64,
    epoch: u64,
    counts: Counts,
}

impl JobCore {
    /// A job without history, at the first offset of each partition.
    ///
    /// # Errors
    /// When the plan's aggregates can't be made ready.
    pub fn new(plan: Arc<Plan>, partitions: Vec<PartitionName>, format: OutputFormat, limits: JobLimits) -> Result<Self> {
        let (closer, encoder) = prepare(&plan, format)?;
        Ok(Self {
            closer,
            encoder,
            format,
            plan,
            watermarks: vec![i64::MIN; partitions.len()],
            positions: vec![0; partitions.len()],
            partitions,
            limits,
            store: Store::default(),
            closed: i64::MIN,
            epoch: 0,
            counts: Counts::default(),
        })
    }

    /// Takes back one entry of the committed state.
    ///
    /// # Errors
    /// When it does not read back.
    pub fn load(&mut self, entry: Change) -> std::result::Result<(), CodecError> {
        self.store.load(entry)
    }

    /// Begins at `positions`, one a partition.
    pub fn start_at(&mut self, positions: Vec<i64>) {
        self.positions = positions;
    }

    /// Takes back what was stored with the state; partitions that it does not know keep their position.
    ///
    /// # Errors
    /// When the state was made by a pipeline whose state is another.
    pub fn restore(&mut self, meta: &Meta) -> std::result::Result<(), String> {
        if meta.format > META_FORMAT {
            return Err(format!(
                "the stored state has format {}, this program reads up to {META_FORMAT}: use a newer one",
                meta.format
            ));
        }
        if meta.layout != self.plan.layout && self.store.slots() > 0 {
            return Err(format!(
                "the stored state was made by another pipeline: it keeps `{}`, this one keeps `{}`; give the job another name, or let the old one \
                 close its windows first (`--until-end`)",
                meta.layout, self.plan.layout
            ));
        }
        for (i, name) in self.partitions.iter().enumerate() {
            let name = name.to_string();
            self.positions[i] = meta.positions.get(&name).copied().unwrap_or(self.positions[i]);
            self.watermarks[i] = meta.watermarks.get(&name).copied().unwrap_or(i64::MIN);
        }
        self.closed = meta.closed;
        self.epoch = meta.epoch;
        Ok(())
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
        (self.plan, self.closer, self.encoder) = (plan, closer, encoder);
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

    /// Counts since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Slots and bytes of keyed state.
    pub fn state_size(&self) -> (usize, usize) {
        (self.store.slots(), self.store.bytes())
    }

    /// What is open: panes and their keys, the oldest event that waits, the watermark that closes the next window. None without a window.
    /// Goes over all panes.
    pub fn open_windows(&self) -> Option<OpenWindows> {
        let assigner = self.plan.window.as_ref()?.assigner();
        let oldest = self.store.panes().next();
        let next_close =
            oldest.and_then(|pane| assigner.windows(pane).map(|w| assigner.closes_at(w)).find(|at| *at > self.closed));
        Some(OpenWindows { panes: self.store.panes().count(), oldest: oldest.map(|pane| pane.start), next_close })
    }

    /// What the next epoch starts from.
    pub fn start(&self, policy: FaultPolicy) -> EpochStart {
        EpochStart { watermarks: self.watermarks.clone(), closed: self.closed, policy, excluded: Arc::default() }
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

    /// Closes an epoch. On [`Outcome::Rerun`] and on an error nothing has changed.
    ///
    /// # Errors
    /// Under [`FaultPolicy::Fail`] the first error of an aggregate or guest.
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
        let now = job_watermark(&watermarks, progress).max(self.closed);
        let mut budget = Budget::for_rows(self.limits.isolated_rows);
        let closed = match &self.closer {
            None => Closed::default(),
            Some(closer) => {
                let partials: Vec<&crate::operator::fold::Partial> = tasks.iter().map(|t| &t.partial).collect();
                closer.close(&self.store, &partials, self.closed, now, policy, &mut budget)?
            }
        };
        if !closed.excluded.is_empty() {
            self.counts.reruns += 1;
            return Ok(Outcome::Rerun(self.starts_without(tasks, closed.excluded)));
        }
        let mut commit = EpochCommit { epoch: self.epoch + 1, ..EpochCommit::default() };
        self.write_results(&closed, tasks, policy, &mut budget, &mut commit)?;
        self.write_side_outputs(&closed, tasks, &mut commit)?;
        self.accept(tasks, watermarks, now, closed, &mut commit);
        Ok(Outcome::Commit(Box::new(commit)))
    }

    /// Starts of the epoch's tasks, when they did not start from where the epoch before ended.
    fn must_rerun(&self, tasks: &[TaskEpoch]) -> Option<Vec<EpochStart>> {
        let moved = |t: &TaskEpoch| {
            t.positions.keys().any(|p| t.start.watermarks[*p] != self.watermarks[*p])
                || self.closer.as_ref().is_some_and(|c| c.is_stale(&t.partial, self.closed) && t.start.closed < self.closed)
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

    /// Result rows through the steps after the aggregation, to records.
    fn write_results(
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
        for batch in &closed.results {
            match steps::apply(&self.plan.post, batch) {
                Ok(rows) => commit.outputs.extend(self.encode(&rows)?),
                Err(error) if policy == FaultPolicy::Fail => return Err(error),
                Err(error) => {
                    let post = Arc::clone(&self.plan);
                    let run = |r: std::ops::Range<usize>| steps::apply(&post.post, &batch.slice(r.start, r.len()));
                    let mut good = 0;
                    for fault in isolate(batch.num_rows(), error, budget, &mut |r| run(r).map(drop)) {
                        commit.outputs.extend(self.encode(&run(good..fault.items.start)?)?);
                        good = fault.items.end;
                        let error = RowError::of(&fault.error);
                        for i in fault.items {
                            commit.rejects.push(result_reject(row_text(batch, i), Vec::new(), &error).to_record());
                        }
                    }
                    commit.outputs.extend(self.encode(&run(good..batch.num_rows())?)?);
                }
            }
        }
        Ok(())
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<OutRecord>> {
        self.encoder.encode(batch).map_err(|e| DataFusionError::External(e.into()))
    }

    fn write_side_outputs(&self, closed: &Closed, tasks: &[TaskEpoch], commit: &mut EpochCommit) -> Result<()> {
        for task in tasks {
            for late in &task.late {
                let raw = &task.input[late.batch];
                let record = raw.records.record(late.row);
                let row = LateRow {
                    partition: &self.partitions[raw.partition],
                    record,
                    event_time: late.event_time,
                    watermark: late.watermark,
                };
                commit.late.push(row.to_record());
            }
            for reject in &task.rejects {
                let raw = &task.input[reject.batch];
                let row = Reject {
                    partition: Some(&self.partitions[raw.partition]),
                    record: Some(raw.records.record(reject.row)),
                    reason: &reject.error.reason,
                    guest: reject.error.guest.as_ref(),
                };
                commit.rejects.push(row.to_record());
            }
        }
        let Some(closer) = &self.closer else { return Ok(()) };
        for bad in &closed.bad_results {
            let keys =
                closer.keys().decode(std::iter::once(bad.key.as_ref())).map_err(|e| DataFusionError::External(e.into()))?;
            let keys: Vec<String> = keys.iter().map(|k| display(k.as_ref(), 0)).collect();
            let what = format!("window {} of key ({})", bad.window, keys.join(", "));
            commit.rejects.push(result_reject(what, bad.state.clone(), &bad.error).to_record());
        }
        Ok(())
    }

    /// The epoch went well: the table, positions and watermarks move on.
    fn accept(&mut self, tasks: &[TaskEpoch], watermarks: Vec<i64>, now: i64, closed: Closed, commit: &mut EpochCommit) {
        // An input that has ended closes all windows there are; a later run of the job goes on behind the last of them.
        let ends = match &self.closer {
            Some(closer) if now == i64::MAX => {
                closer.last_close(&self.store, tasks.iter().map(|t| &t.partial)).unwrap_or(self.closed)
            }
            Some(_) => now,
            None => self.closed,
        };
        self.closed = self.closed.max(ends);
        self.watermarks = watermarks;
        for (partition, next) in tasks.iter().flat_map(|t| &t.positions) {
            self.positions[*partition] = *next;
        }
        commit.changes = self.store.apply(closed.updates, &closed.removed);
        self.epoch += 1;
        let counts = &mut self.counts;
        counts.epochs += 1;
        counts.rows += tasks.iter().map(|t| t.rows as u64).sum::<u64>();
        counts.bytes += tasks.iter().map(|t| t.bytes as u64).sum::<u64>();
        counts.outputs += commit.outputs.len() as u64;
        counts.late += commit.late.len() as u64;
        counts.rejects += commit.rejects.len() as u64;
        commit.positions.clone_from(&self.positions);
        commit.meta = self.meta();
    }

    fn meta(&self) -> Meta {
        let named = |values: &[i64], known: fn(i64) -> bool| -> BTreeMap<String, i64> {
            self.partitions.iter().zip(values).filter(|(_, v)| known(**v)).map(|(n, v)| (n.to_string(), *v)).collect()
        };
        Meta {
            format: META_FORMAT,
            epoch: self.epoch,
            positions: named(&self.positions, |_| true),
            watermarks: named(&self.watermarks, |w| w != i64::MIN),
            closed: self.closed,
            layout: self.plan.layout.clone(),
            files: BTreeMap::new(),
        }
    }
}

fn prepare(plan: &Plan, format: OutputFormat) -> Result<(Option<Closer>, Encoder)> {
    let closer = plan.window.as_ref().map(|w| Closer::new(w, &input_schema(plan))).transpose()?;
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

fn result_reject(what: String, state: Vec<u8>, error: &RowError) -> OwnedReject {
    OwnedReject { reason: format!("{what}: {}", error.reason), state, guest: error.guest.clone() }
}

/// A result that could not be made; there is no single record to blame.
struct OwnedReject {
    reason: String,
    state: Vec<u8>,
    guest: Option<crate::plugin::GuestError>,
}

impl OwnedReject {
    fn to_record(&self) -> OutRecord {
        let record = crate::element::Record { offset: -1, timestamp: None, key: None, value: Some(&self.state) };
        Reject { partition: None, record: Some(record), reason: &self.reason, guest: self.guest.as_ref() }.to_record()
    }
}

fn row_text(batch: &RecordBatch, row: usize) -> String {
    let schema = batch.schema();
    let columns = batch.columns().iter().zip(schema.fields());
    columns.map(|(c, f)| format!("{}={}", f.name(), display(c.as_ref(), row))).collect::<Vec<_>>().join(", ")
}

fn display(array: &dyn Array, row: usize) -> String {
    ArrayFormatter::try_new(array, &FormatOptions::default()).map_or_else(|e| e.to_string(), |f| f.value(row).to_string())
}
