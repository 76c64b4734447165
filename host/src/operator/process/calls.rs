//! Calls of the guest: the work of a close cut into calls of a bounded size, their effects taken in, and the rows and timers at fault set aside.
//!
//! A call that fails has changed nothing. Where the guest names the row that it refuses, the call is cut at that row's key; else it is halved until one
//! key is left; and that key's rows are given one by one.

use super::ProcessCloser;
use super::close::{ProcessClosing, Processed, SetAside};
use super::kept::{Kept, blank};
use super::rows::{Groups, Table};
use crate::limits::PROCESS_CALL_ROWS;
use crate::operator::FaultPolicy;
use crate::operator::columns::display;
use crate::operator::epoch::RowError;
use crate::operator::isolate::Budget;
use crate::operator::merge::external;
use crate::plugin::{Effect, FailureKind, GuestError, KeyBatch, OutputRows, Timers};
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt32Array};
use arrow::compute::{interleave, take};
use datafusion_common::{DataFusionError, Result};
use std::borrow::Cow;
use std::sync::Arc;

/// A key's guest state: which source, and which row of it.
pub(super) type Place = (usize, usize);

/// A key as it is now.
#[derive(Clone, Default)]
pub(super) struct Current {
    /// Its state; none while it has none.
    pub state: Option<Place>,
    pub kept: Kept,
}

/// A life of a key, or a piece of one, in one call.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Call<'t> {
    pub key: u32,
    pub rows: Cow<'t, [u32]>,
    /// The watermark after them.
    pub until: i64,
    /// It begins anew, whatever the key has.
    pub fresh: bool,
    /// Its state is forgotten after the call.
    pub ends: bool,
}

/// The guest's work in a close.
pub(super) struct Work<'t> {
    closer: &'t ProcessCloser,
    table: &'t Table,
    groups: &'t Groups,
    policy: FaultPolicy,
    now: i64,
    /// States that keys have come to: blank ones, those stored, then those that each call gave.
    sources: Vec<Vec<ArrayRef>>,
    /// Keys by number.
    pub current: Vec<Current>,
    /// Rows of the table that are at fault, and why.
    pub rejected: Vec<(u32, Arc<RowError>)>,
    pub out: Processed,
}

impl<'t> Work<'t> {
    /// Work on the keys of `groups`, which are as `current` says; their states are rows of `stored`.
    pub fn new(
        closer: &'t ProcessCloser,
        closing: &ProcessClosing<'_>,
        (table, groups): (&'t Table, &'t Groups),
        stored: Vec<ArrayRef>,
        current: Vec<Current>,
    ) -> Self {
        let sources = vec![blank(closer.plan.signature()), stored];
        let out = Processed { outputs: vec![Vec::new(); closer.plan.outputs.len()], ..Processed::default() };
        Self { closer, table, groups, policy: closing.policy, now: closing.time, sources, current, rejected: Vec::new(), out }
    }

    /// Makes all calls, in order.
    ///
    /// # Errors
    /// Under [`FaultPolicy::Fail`] the guest's first.
    pub fn run(&mut self, calls: Vec<Call<'t>>, budget: &mut Budget) -> Result<()> {
        let (mut chunk, mut size) = (Vec::new(), 0);
        for call in calls {
            let cost = call.rows.len() + 1;
            if size + cost > PROCESS_CALL_ROWS && !chunk.is_empty() {
                self.settle(std::mem::take(&mut chunk), budget)?;
                size = 0;
            }
            if cost > PROCESS_CALL_ROWS {
                self.pieces(&call, budget)?;
            } else {
                size += cost;
                chunk.push(call);
            }
        }
        self.settle(chunk, budget)
    }

    /// A key with more rows than a call carries: one call after the other.
    fn pieces(&mut self, call: &Call<'t>, budget: &mut Budget) -> Result<()> {
        let count = call.rows.len().div_ceil(PROCESS_CALL_ROWS);
        for (i, rows) in call.rows.chunks(PROCESS_CALL_ROWS).enumerate() {
            // Timers up to the watermark of the next row would fire before it anyway.
            let next = call.rows.get((i + 1) * PROCESS_CALL_ROWS).map(|row| self.table.watermarks[*row as usize]);
            let (fresh, ends) = (call.fresh && i == 0, call.ends && i + 1 == count);
            let piece = Call { key: call.key, rows: rows.to_vec().into(), until: next.unwrap_or(call.until), fresh, ends };
            self.settle(vec![piece], budget)?;
        }
        Ok(())
    }

    fn settle(&mut self, calls: Vec<Call<'t>>, budget: &mut Budget) -> Result<()> {
        // What is to be called, the first on top.
        let mut open = vec![calls];
        while let Some(calls) = open.pop() {
            if calls.is_empty() {
                continue;
            }
            let Err(error) = self.attempt(&calls)? else { continue };
            if self.policy == FaultPolicy::Fail {
                return Err(DataFusionError::External(error.into()));
            }
            budget.spend_on(Some(&error));
            if budget.is_spent() {
                self.give_up(&calls, &error);
                continue;
            }
            self.apart(calls, &error, &mut open, budget)?;
        }
        Ok(())
    }

    /// Cuts calls that failed together so that what is at fault is alone in the end.
    fn apart(
        &mut self,
        mut calls: Vec<Call<'t>>,
        error: &GuestError,
        open: &mut Vec<Vec<Call<'t>>>,
        budget: &mut Budget,
    ) -> Result<()> {
        if let FailureKind::Refused(Some(row)) = error.kind {
            let mut before = 0;
            let at = calls.iter().position(|call| {
                before += call.rows.len();
                row < before
            });
            if let Some(at) = at {
                let after = calls.split_off(at + 1);
                let mut rows = calls[at].rows.to_vec();
                let refused = rows.remove(row + rows.len() - before);
                calls[at].rows = rows.into();
                self.reject(refused, error);
                open.push(after);
                open.push(calls.split_off(at));
                open.push(calls);
                return Ok(());
            }
        }
        if calls.len() == 1 {
            return self.one_by_one(&calls[0], budget);
        }
        open.push(calls.split_off(calls.len() / 2));
        open.push(calls);
        Ok(())
    }

    /// Gives a key's rows, and the timers before each, in calls of their own.
    fn one_by_one(&mut self, call: &Call<'t>, budget: &mut Budget) -> Result<()> {
        let key = call.key;
        let current = &mut self.current[key as usize];
        if call.fresh {
            *current = Current::default();
            current.kept.touched = i64::MIN;
        }
        let step = |rows: Vec<u32>, until: i64| Call { key, rows: rows.into(), until, fresh: false, ends: false };
        for row in call.rows.iter() {
            self.fire(&step(Vec::new(), self.table.watermarks[*row as usize]), budget)?;
            if budget.is_spent() {
                let why = "set aside since too many rows of the epoch were at fault before it";
                let error = RowError { reason: why.to_owned(), guest: None };
                self.rejected.push((*row, Arc::new(error)));
                continue;
            }
            if let Err(error) = self.attempt(&[step(vec![*row], i64::MIN)])? {
                budget.spend_on(Some(&error));
                self.reject(*row, &error);
            }
        }
        self.fire(&step(Vec::new(), call.until), budget)?;
        if call.ends {
            self.end(key);
        }
        Ok(())
    }

    /// Ends a key's life.
    pub fn end(&mut self, key: u32) {
        self.current[key as usize].state = None;
        self.out.closed.expired += 1;
    }

    /// Lets the timers fire that are due; those that fail are dropped, and told.
    fn fire(&mut self, call: &Call<'t>, budget: &mut Budget) -> Result<()> {
        let now = self.now;
        if !self.current[call.key as usize].kept.is_due(call.until, now) {
            return Ok(());
        }
        let Err(error) = self.attempt(std::slice::from_ref(call))? else { return Ok(()) };
        budget.spend_on(Some(&error));
        let kept = &mut self.current[call.key as usize].kept;
        let (event, processing) = (kept.event.len(), kept.processing.len());
        kept.event.retain(|t| *t > call.until);
        kept.processing.retain(|t| *t > now);
        let dropped = event + processing - kept.event.len() - kept.processing.len();
        let what = format!("{dropped} timers of key ({}) that fell due are dropped", self.key_text(call.key)?);
        self.out.set_aside.push(SetAside { what, place: None, error: Arc::new(row_error(&error)) });
        Ok(())
    }

    /// The budget is spent: all rows are set aside; timers stay, and fall due with the next epoch.
    fn give_up(&mut self, calls: &[Call<'t>], error: &GuestError) {
        for row in calls.iter().flat_map(|call| call.rows.iter()) {
            self.reject(*row, error);
        }
    }

    fn reject(&mut self, row: u32, error: &GuestError) {
        self.rejected.push((row, Arc::new(row_error(error))));
    }

    fn key_text(&self, key: u32) -> Result<String> {
        let key = self.groups.key(key as usize);
        let columns = self.closer.keys.decode(std::iter::once(key)).map_err(external)?;
        Ok(columns.iter().map(|c| display(c.as_ref(), 0)).collect::<Vec<_>>().join(", "))
    }

    /// One call; its effect is taken in where it went well.
    fn attempt(&mut self, calls: &[Call<'t>]) -> Result<std::result::Result<(), GuestError>> {
        let batch = self.batch(calls)?;
        let plan = &self.closer.plan;
        match plan.plugin.process(plan.function, &batch) {
            Ok(effect) => self.accept(calls, effect).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    fn batch(&self, calls: &[Call<'t>]) -> Result<KeyBatch> {
        let mut batch =
            KeyBatch { offsets: vec![0], now: self.now, event: Timers::new(), processing: Timers::new(), ..KeyBatch::default() };
        let mut places: Vec<Place> = Vec::with_capacity(calls.len());
        let mut rows: Vec<u32> = Vec::new();
        for call in calls {
            let current = Some(&self.current[call.key as usize]).filter(|_| !call.fresh);
            let state = current.and_then(|c| c.state);
            batch.known.push(state.is_some());
            places.push(state.unwrap_or_default());
            rows.extend_from_slice(&call.rows);
            batch.offsets.push(rows.len() as u32);
            batch.until.push(call.until);
            batch.event.push(current.into_iter().flat_map(|c| c.kept.event.iter().copied()));
            batch.processing.push(current.into_iter().flat_map(|c| c.kept.processing.iter().copied()));
        }
        batch.times.extend(rows.iter().map(|row| self.table.times[*row as usize]));
        batch.watermarks.extend(rows.iter().map(|row| self.table.watermarks[*row as usize]));
        batch.states = self.gather(&places)?;
        let rows = UInt32Array::from(rows);
        let arguments = self.closer.plan.arguments.iter().map(|a| Ok(take(self.table.rows.column(*a), &rows, None)?));
        batch.arguments = arguments.collect::<Result<_>>()?;
        Ok(batch)
    }

    /// The states at some places.
    pub fn gather(&self, places: &[Place]) -> Result<Vec<ArrayRef>> {
        let fields = 0..self.sources[0].len();
        let gathered = fields.map(|field| {
            let sources: Vec<&dyn Array> = self.sources.iter().map(|s| s[field].as_ref()).collect();
            Ok(interleave(&sources, places)?)
        });
        gathered.collect()
    }

    fn accept(&mut self, calls: &[Call<'t>], effect: Effect) -> Result<()> {
        let source = self.sources.len();
        self.sources.push(effect.states);
        for (i, call) in calls.iter().enumerate() {
            let current = &mut self.current[call.key as usize];
            let known = effect.known.value(i) && !call.ends;
            self.out.closed.expired += u64::from(call.ends);
            let rows = call.rows.iter().map(|row| self.table.times[*row as usize]).max();
            let before = if call.fresh || current.state.is_none() { i64::MIN } else { current.kept.touched };
            current.kept.touched = rows.map_or(before, |time| time.max(before));
            current.state = known.then_some((source, i));
            let timers = |timers: &Timers| if known { timers.of(i).to_vec() } else { Vec::new() };
            current.kept.event = timers(&effect.event);
            current.kept.processing = timers(&effect.processing);
        }
        for (number, rows) in effect.outputs.into_iter().enumerate().filter(|(_, rows)| !rows.keys.is_empty()) {
            let batch = self.output(number, rows, calls)?;
            match self.closer.plan.outputs[number].sink {
                Some(_) => self.out.outputs[number].push(batch),
                None => self.out.closed.results.push(batch),
            }
        }
        Ok(())
    }

    /// The rows of an output: what they pass on, the guest's columns, the plugins' versions.
    fn output(&self, number: usize, given: OutputRows, calls: &[Call<'t>]) -> Result<RecordBatch> {
        let plan = &self.closer.plan;
        let output = &plan.outputs[number];
        let mut columns: Vec<ArrayRef> = Vec::new();
        let count = given.keys.len();
        if output.passes {
            let rows: Vec<u32> = calls.iter().flat_map(|call| call.rows.iter().copied()).collect();
            let rows = UInt32Array::from_iter_values(given.rows.iter().map(|row| rows[*row as usize]));
            for column in &plan.passed {
                columns.push(take(self.table.rows.column(*column), &rows, None)?);
            }
        }
        columns.extend(given.columns);
        if columns.len() < output.schema.fields().len()
            && let Some(versions) = &plan.plugin_versions
        {
            columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(versions, count))));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&output.schema), columns, &options)?)
    }
}

fn row_error(error: &GuestError) -> RowError {
    RowError { reason: error.message.clone(), guest: Some(error.clone()) }
}
