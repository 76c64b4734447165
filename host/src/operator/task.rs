//! One task's share of one epoch: raw batches of some partitions to partial states, late rows and rejects.
//!
//! In: the plan, the watermarks and the closed time at the epoch's start, raw batches in offset order. Out: a [`TaskEpoch`](super::epoch::TaskEpoch).
//! **Invariant**: a pure function of these: pushing the same batches again gives the same result, whatever the sizes of the
//! columnar batches were. Lateness is decided row by row against the watermark that the rows of the same partition before it made.

use self::process::ProcessTask;
use crate::element::RawBatch;
use crate::ingest::decode::{Decoder, RowFault};
use crate::limits::JobLimits;
use crate::operator::assigner::{Assigned, Assigner};
use crate::operator::columns::{read_at, row_numbers, with_times};
use crate::operator::epoch::{EpochStart, LateRow, RejectedRow, RowError, TaskEpoch};
use crate::operator::fold::{Fold, Partial};
use crate::operator::isolate::{Budget, isolate};
use crate::operator::watermark::{EventClock, InFuture};
use crate::operator::window_lateness::{RowLateness, Tally};
use crate::operator::{FaultPolicy, steps};
use crate::plan::Plan;
use crate::state::codec::RowCodec;
use crate::state::store::PaneId;
use ahash::RandomState;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, TimestampMillisecondType};
use datafusion_common::{DataFusionError, Result};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

mod process;
mod results;
mod times;

/// A task at work.
pub struct EpochTask<'a> {
    plan: &'a Plan,
    window: Option<Arc<WindowTask>>,
    process: Option<Arc<ProcessTask>>,
    decoder: &'a mut Decoder,
    batch_rows: usize,
    fold: Option<Fold>,
    /// Rows at fault were found in this epoch: each batch is tried on a table of its own before it is folded in.
    careful: bool,
    /// The table failed on keys, not on rows: the close of the task finds them.
    broken: Option<DataFusionError>,
    budget: Budget,
    folded: Vec<FoldedBatch>,
    /// Rows so far by partition and key, where windows count them.
    numbers: HashMap<usize, HashMap<Box<[u8]>, i64, RandomState>>,
    out: TaskEpoch,
    /// Rows that the steps before the aggregation, or all, have given.
    made: usize,
    faults: Vec<RowFault>,
    /// Rows of the batch at hand that lie in the future, rising.
    future: Vec<(u32, InFuture)>,
    /// Rows are results of another operation: its watermark counts, and they move none.
    is_behind: bool,
}

/// Rows that were folded in, kept so that the table can be made anew.
struct FoldedBatch {
    rows: RecordBatch,
    panes: Vec<PaneId>,
    /// Index into [`TaskEpoch::input`].
    batch: usize,
}

/// What folding needs to know of the plan.
struct WindowTask {
    plan: Arc<crate::plan::WindowPlan>,
    assigner: Assigner,
    clock: EventClock,
    schema: Arc<Schema>,
    key_codec: RowCodec,
}

impl<'a> EpochTask<'a> {
    /// A task that starts from `start`.
    ///
    /// # Errors
    /// When the plan's aggregates can't be made ready.
    pub fn new(plan: &'a Plan, decoder: &'a mut Decoder, start: EpochStart, limits: &JobLimits) -> Result<Self> {
        let window = plan.window.as_ref().map(|w| {
            let schema = Arc::clone(plan.input());
            let types = w.keys.iter().map(|k| schema.field(*k).data_type().clone()).collect();
            Arc::new(WindowTask {
                plan: Arc::new(w.clone()),
                assigner: w.assigner(),
                clock: EventClock::new(w),
                key_codec: RowCodec::new("key", types),
                schema,
            })
        });
        let fold = window.as_ref().map(|w| Fold::new(&w.plan, &w.schema)).transpose()?;
        let out = TaskEpoch {
            input: Vec::new(),
            partial: Partial::default(),
            keyed: Vec::new(),
            outputs: Vec::new(),
            late: Vec::new(),
            lateness: RowLateness::default(),
            rejects: Vec::new(),
            watermarks: start.watermarks.clone(),
            positions: HashMap::new(),
            rows: 0,
            bytes: 0,
            start,
        };
        let budget = Budget::for_rows(limits.isolated_rows);
        let batch_rows = limits.batch_rows.max(1);
        Ok(Self {
            plan,
            window,
            process: plan.process.as_ref().map(|p| Arc::new(ProcessTask::new(p))),
            decoder,
            batch_rows,
            fold,
            careful: false,
            broken: None,
            budget,
            folded: Vec::new(),
            numbers: HashMap::new(),
            out,
            made: 0,
            faults: Vec::new(),
            future: Vec::new(),
            is_behind: false,
        })
    }

    /// Records read so far, or the rows that were made of them where those are more: what an epoch's bound counts.
    pub fn rows(&self) -> usize {
        self.out.rows.max(self.made)
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> usize {
        self.out.bytes
    }

    /// Takes in the next records of a partition.
    ///
    /// # Errors
    /// Under [`FaultPolicy::Fail`] the first error of an expression or guest; otherwise only what is not one row's fault.
    pub fn push(&mut self, raw: RawBatch) -> Result<()> {
        let records = raw.records.len();
        if records == 0 {
            return Ok(());
        }
        let number = self.out.input.len();
        self.out.rows += records;
        self.out.bytes += raw.records.bytes();
        self.out.positions.insert(raw.partition, raw.records.record(records - 1).offset + 1);
        let mut result = Ok(());
        for start in (0..records).step_by(self.batch_rows) {
            result = self.push_rows(&raw, number, start..(start + self.batch_rows).min(records));
            if result.is_err() {
                break;
            }
        }
        // Kept also after an error: the caller runs the epoch again from it.
        self.out.input.push(raw);
        result
    }

    fn push_rows(&mut self, raw: &RawBatch, number: usize, rows: Range<usize>) -> Result<()> {
        self.faults.clear();
        let decoded =
            self.decoder.decode(raw, rows.clone(), &mut self.faults).map_err(|e| DataFusionError::External(e.into()))?;
        for fault in self.faults.drain(..) {
            let error = Arc::new(RowError { reason: fault.reason, guest: None });
            self.out.rejects.push(RejectedRow { batch: number, row: fault.row as usize, error });
        }
        let before = self.clock().and_then(|clock| self.watermarks_before(clock, raw, &rows)).map(|b| (rows.start, b));
        self.push_decoded(raw, number, decoded, before.as_ref())
    }

    fn push_decoded(
        &mut self,
        raw: &RawBatch,
        number: usize,
        decoded: RecordBatch,
        before: Option<&(usize, Vec<i64>)>,
    ) -> Result<()> {
        for batch in self.stepped(decoded, number)? {
            self.made += batch.num_rows();
            match (self.window.clone(), self.process.clone()) {
                (Some(window), _) => self.assign(&window, batch, number, raw, before)?,
                (None, Some(process)) => self.keep(&process, batch, number, raw, before)?,
                (None, None) => {
                    // The hidden row column is last; what follows the steps is the output row.
                    let batch = batch.project(&(0..batch.num_columns() - 1).collect::<Vec<_>>())?;
                    if batch.num_rows() > 0 {
                        self.out.outputs.push(batch);
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs the steps before the aggregation; rows at fault are set aside.
    fn stepped(&mut self, decoded: RecordBatch, number: usize) -> Result<Vec<RecordBatch>> {
        let plan = self.plan;
        let error = match steps::apply_in_parts(&plan.pre, &decoded) {
            Ok(batches) => return Ok(batches),
            Err(error) => error,
        };
        let rest = self.set_aside(&decoded, number, error, &mut |range| {
            steps::apply_in_parts(&plan.pre, &decoded.slice(range.start, range.len())).map(drop)
        })?;
        steps::apply_in_parts(&plan.pre, &filter_record_batch(&decoded, &rest)?)
    }

    /// Finds the rows of `batch` at fault, rejects them, and says which rows remain.
    fn set_aside(
        &mut self,
        batch: &RecordBatch,
        number: usize,
        error: DataFusionError,
        call: &mut dyn FnMut(Range<usize>) -> Result<()>,
    ) -> Result<BooleanArray> {
        if self.out.start.policy == FaultPolicy::Fail {
            return Err(error);
        }
        let numbers = row_numbers(batch).clone();
        let mut keep = vec![true; batch.num_rows()];
        for fault in isolate(batch.num_rows(), error, &mut self.budget, call) {
            let error = Arc::new(RowError::of(&fault.error));
            for i in fault.items {
                keep[i] = false;
                self.out.rejects.push(RejectedRow { batch: number, row: numbers[i] as usize, error: Arc::clone(&error) });
            }
        }
        Ok(BooleanArray::from(keep))
    }

    /// Gives each row its pane; late rows and rows without a possible event time are set aside; the rest is folded in.
    fn assign(
        &mut self,
        window: &WindowTask,
        batch: RecordBatch,
        number: usize,
        raw: &RawBatch,
        before: Option<&(usize, Vec<i64>)>,
    ) -> Result<()> {
        let batch =
            if window.plan.processing_time { read_at(&batch, window.plan.event_time, self.out.start.now)? } else { batch };
        let rows = batch.num_rows();
        let (partition, clock) = (raw.partition, window.clock);
        let times = batch.column(window.plan.event_time).as_primitive::<TimestampMillisecondType>();
        let numbers = row_numbers(&batch);
        let moves = before.is_none() && !window.plan.processing_time && !self.is_behind;
        // Of the row before: rows next to each other mostly share a pane, and telling so costs less than the arithmetic.
        let mut last: Option<Assigned> = None;
        let mut panes = Vec::with_capacity(rows);
        let mut passed = Vec::new();
        let mut keep = vec![true; rows];
        let mut kept = rows;
        let mut lateness = std::mem::take(&mut self.out.lateness);
        let mut tally = Tally::new(&window.assigner, window.plan.processing_time, &mut lateness);
        for i in 0..rows {
            let row = numbers[i] as usize;
            let time = times.value(i);
            let judged = (!times.is_null(i)).then_some(time);
            let mut watermark = match self.watermark_before(clock, raw, row, judged, before, moves) {
                Ok(watermark) => watermark,
                Err(reason) => {
                    let error = Arc::new(RowError { reason, guest: None });
                    self.out.rejects.push(RejectedRow { batch: number, row, error });
                    (keep[i], kept) = (false, kept - 1);
                    continue;
                }
            };
            watermark = watermark.max(self.out.start.closed);
            tally.row(time, watermark);
            let mut judged = watermark;
            if window.plan.passed.is_some() {
                // The watermark that the row makes: before the next one, or after the last. Results make none, so each stands for its own time:
                // with the watermark of their epoch it would depend on cuts what a key has forgotten.
                let next = before.and_then(|(start, b)| b.get(row - start + 1)).copied();
                let own = next.unwrap_or(self.out.watermarks[partition]);
                let is_own = window.plan.processing_time || self.is_behind;
                judged = if is_own { time } else { own }.max(self.out.start.closed);
                passed.push(judged);
            }
            match &last {
                Some(assigned) if assigned.covers(time, judged) => panes.push(assigned.pane),
                _ => match window.assigner.assign(time, judged) {
                    Some(assigned) => {
                        panes.push(assigned.pane);
                        last = Some(assigned);
                    }
                    None => {
                        passed.pop();
                        let late_by = watermark.saturating_sub(window.assigner.late_from(time));
                        // Of the rows that a flat map made of a record, one takes it to the late rows.
                        if self.out.late.last().is_none_or(|l| (l.batch, l.row) != (number, row)) {
                            self.out.late.push(LateRow { batch: number, row, event_time: time, watermark, late_by });
                        }
                        (keep[i], kept) = (false, kept - 1);
                    }
                },
            }
        }
        tally.end();
        self.out.lateness = lateness;
        let batch = if kept == rows { batch } else { filter_record_batch(&batch, &BooleanArray::from(keep))? };
        let batch = match window.plan.passed {
            Some(column) => with_times(&batch, column, passed.into())?,
            None => batch,
        };
        let (batch, mut panes) = self.without_excluded(window, batch, panes, number)?;
        if let Assigner::Count(_) = window.assigner {
            self.number(window, &batch, partition, &mut panes)?;
        }
        self.fold_in(window, batch, panes, number)
    }

    /// Gives each row a pane of its own: its number among its key's rows of this partition.
    fn number(&mut self, window: &WindowTask, batch: &RecordBatch, partition: usize, panes: &mut [PaneId]) -> Result<()> {
        let keys: Vec<ArrayRef> = window.plan.keys.iter().map(|k| Arc::clone(batch.column(*k))).collect();
        let numbers = self.numbers.entry(partition).or_default();
        let each = |i: usize, key: &[u8]| {
            let number = numbers.entry(key.into()).or_insert(0);
            panes[i] = PaneId { start: *number, from: partition as i64 };
            *number += 1;
        };
        window.key_codec.encode(&keys, batch.num_rows(), each).map_err(|e| DataFusionError::External(e.into()))
    }

    /// Rejects the rows of keys that the epoch must leave out.
    fn without_excluded(
        &mut self,
        window: &WindowTask,
        batch: RecordBatch,
        panes: Vec<PaneId>,
        number: usize,
    ) -> Result<(RecordBatch, Vec<PaneId>)> {
        let excluded = Arc::clone(&self.out.start.excluded);
        if excluded.is_empty() {
            return Ok((batch, panes));
        }
        let keys: Vec<ArrayRef> = window.plan.keys.iter().map(|k| Arc::clone(batch.column(*k))).collect();
        let numbers = row_numbers(&batch).clone();
        let mut keep = vec![true; batch.num_rows()];
        let rejects = &mut self.out.rejects;
        window
            .key_codec
            .encode(&keys, batch.num_rows(), |i, key| {
                if let Some(error) = excluded.get(&(panes[i], key.into())) {
                    keep[i] = false;
                    rejects.push(RejectedRow { batch: number, row: numbers[i] as usize, error: Arc::clone(error) });
                }
            })
            .map_err(|e| DataFusionError::External(e.into()))?;
        let panes = panes.iter().zip(&keep).filter(|(_, k)| **k).map(|(p, _)| *p).collect();
        Ok((filter_record_batch(&batch, &BooleanArray::from(keep))?, panes))
    }

    fn fold_in(&mut self, window: &WindowTask, batch: RecordBatch, panes: Vec<PaneId>, number: usize) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let (batch, panes) = if self.careful { self.tried(window, batch, panes, number)? } else { (batch, panes) };
        if self.broken.is_none() {
            let fold = self.fold.as_mut().expect("a plan with a window has a table");
            match fold.add(&batch, &panes) {
                Ok(()) => {}
                Err(error) if self.out.start.policy == FaultPolicy::Fail => return Err(error),
                // Each batch alone went well, so it is the merge of some keys that fails.
                Err(error) if self.careful => self.broken = Some(error),
                Err(_) => {
                    self.careful = true;
                    self.refold(window)?;
                    return self.fold_in(window, batch, panes, number);
                }
            }
        }
        self.folded.push(FoldedBatch { rows: batch, panes, batch: number });
        Ok(())
    }

    /// Makes the table anew from the batches that went well: some accumulators had the failing one, some had not.
    fn refold(&mut self, window: &WindowTask) -> Result<()> {
        let mut fold = Fold::new(&window.plan, &window.schema)?;
        for batch in &self.folded {
            if let Err(error) = fold.add(&batch.rows, &batch.panes) {
                self.broken = Some(error);
                break;
            }
        }
        self.fold = Some(fold);
        Ok(())
    }

    /// Tries a batch on a table of its own; rows at fault are set aside.
    fn tried(
        &mut self,
        window: &WindowTask,
        batch: RecordBatch,
        panes: Vec<PaneId>,
        number: usize,
    ) -> Result<(RecordBatch, Vec<PaneId>)> {
        let mut call = |range: Range<usize>| {
            let mut fold = Fold::new(&window.plan, &window.schema)?;
            fold.add(&batch.slice(range.start, range.len()), &panes[range])?;
            fold.finish().map(drop)
        };
        let Err(error) = call(0..batch.num_rows()) else { return Ok((batch, panes)) };
        let keep = self.set_aside(&batch, number, error, &mut call)?;
        let panes = panes.iter().zip(keep.values().iter()).filter(|(_, k)| *k).map(|(p, _)| *p).collect();
        Ok((filter_record_batch(&batch, &keep)?, panes))
    }

    /// The epoch's share, done.
    ///
    /// # Errors
    /// As [`Self::push`], with the raw batches so that the epoch can be run again.
    pub fn finish(mut self) -> std::result::Result<TaskEpoch, (DataFusionError, Vec<RawBatch>)> {
        let partial = match (self.fold.take(), self.broken.take()) {
            (None, _) => Ok(Partial::default()),
            (Some(_), Some(error)) => self.finish_by_key(error),
            (Some(fold), None) => fold.finish().or_else(|error| self.finish_by_key(error)),
        };
        match partial {
            Ok(partial) => self.out.partial = partial,
            Err(error) => return Err((error, self.out.input)),
        }
        self.sort_rejects();
        Ok(self.out)
    }

    /// The partial states without the keys on which merging fails; their rows are rejected.
    fn finish_by_key(&mut self, error: DataFusionError) -> Result<Partial> {
        let Some(window) = self.window.clone().filter(|_| self.out.start.policy == FaultPolicy::Isolate) else {
            return Err(error);
        };
        let folded = std::mem::take(&mut self.folded);
        let mut numbers: HashMap<(PaneId, Box<[u8]>), usize, RandomState> = HashMap::default();
        let mut keys_of: Vec<Vec<usize>> = Vec::with_capacity(folded.len());
        for batch in &folded {
            let keys: Vec<ArrayRef> = window.plan.keys.iter().map(|k| Arc::clone(batch.rows.column(*k))).collect();
            let mut of_batch = Vec::with_capacity(batch.panes.len());
            let encoded = window.key_codec.encode(&keys, batch.rows.num_rows(), |i, key| {
                let next = numbers.len();
                of_batch.push(*numbers.entry((batch.panes[i], key.into())).or_insert(next));
            });
            encoded.map_err(|e| DataFusionError::External(e.into()))?;
            keys_of.push(of_batch);
        }
        let fold_keys = |wanted: &dyn Fn(usize) -> bool| {
            let mut fold = Fold::new(&window.plan, &window.schema)?;
            for (batch, keys) in folded.iter().zip(&keys_of) {
                let keep: Vec<bool> = keys.iter().map(|k| wanted(*k)).collect();
                let panes: Vec<PaneId> = batch.panes.iter().zip(&keep).filter(|(_, k)| **k).map(|(p, _)| *p).collect();
                fold.add(&filter_record_batch(&batch.rows, &BooleanArray::from(keep))?, &panes)?;
            }
            fold.finish()
        };
        let mut bad = vec![None; numbers.len()];
        for fault in isolate(numbers.len(), error, &mut self.budget, &mut |r| fold_keys(&|k| r.contains(&k)).map(drop)) {
            let error = Arc::new(RowError::of(&fault.error));
            bad[fault.items].fill(Some(error));
        }
        for (batch, keys) in folded.iter().zip(&keys_of) {
            let rows = row_numbers(&batch.rows);
            for (row, key) in rows.iter().zip(keys) {
                if let Some(error) = &bad[*key] {
                    self.out.rejects.push(RejectedRow { batch: batch.batch, row: *row as usize, error: Arc::clone(error) });
                }
            }
        }
        fold_keys(&|k| bad[k].is_none())
    }

    /// The raw batches taken in so far.
    pub fn into_input(self) -> Vec<RawBatch> {
        self.out.input
    }

    /// Rejects in the order of the input, once each: the order must not depend on how they were found.
    fn sort_rejects(&mut self) {
        let mut seen = HashSet::new();
        self.out.rejects.retain(|r| seen.insert((r.batch, r.row)));
        self.out.rejects.sort_by_key(|r| (r.batch, r.row));
    }
}
