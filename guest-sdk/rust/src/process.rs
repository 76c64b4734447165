//! Keyed processes: what an author writes, and the loop over keys, rows and timers.

use crate::keyed::{Outputs, Row};
use crate::process_bindings::kindling::plugin::processing::{self as types, Batch, Effect, Timers};
use crate::read::{Bits, Timestamp};
use crate::rowwise::{at, whole};
use crate::state::State;
use crate::types::Failure;
use crate::write::BitmapBuilder;
use std::collections::BTreeSet;

/// Timers of one kind that a key can have.
pub const TIMERS_MAX: usize = 1_024;
/// Timers that may fire for a key in one call: a timer that sets the next one must come to an end.
const FIRED_MAX: usize = 16_384;

/// A process: for each key a state, which rows and timers change.
pub trait Process: Sized {
    /// What is kept of a key, by [`state!`](crate::state!) or [`msgpack_state!`](crate::msgpack_state!). `Default` is that of a key that has none.
    type State: State;
    /// The rows it is given, by [`row!`](crate::row!).
    type Row<'a>: Row<'a>;
    /// The rows it gives, by [`output!`](crate::output!), or [`Pass`](crate::Pass), or `()`.
    type Output: Outputs;

    /// A row of the key.
    ///
    /// # Errors
    /// The row is refused: it goes to the rejects, and it is as if it had never come.
    fn on_row(state: &mut Self::State, row: Self::Row<'_>, context: &mut Context<Self::Output>) -> Result<(), Refusal>;

    /// A timer of the key fell due; [`Context::time`] is when it was set for.
    ///
    /// # Errors
    /// The key's rows of this call are set aside.
    fn on_timer(state: &mut Self::State, context: &mut Context<Self::Output>) -> Result<(), Refusal> {
        let _ = (state, context);
        Ok(())
    }
}

/// Why a row is refused: any error that can be displayed becomes one by `?`.
#[derive(Debug)]
pub struct Refusal(String);

impl<E: std::fmt::Display> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Refusal {
    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// What a process can do besides changing its state.
pub struct Context<O: Outputs> {
    time: Timestamp,
    watermark: Timestamp,
    now: Timestamp,
    key: u32,
    row: Option<u32>,
    is_processing_timer: bool,
    event_timers: BTreeSet<i64>,
    processing_timers: BTreeSet<i64>,
    cleared: bool,
    gathered: O::Gathered,
    fault: Option<String>,
}

impl<O: Outputs> Context<O> {
    /// Event time of the row, or what the timer was set for.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// No row of the key with an event time before this is expected any more.
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// Processing time: the same for a whole call, and when the call is made again.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Whether the timer that fell due is one of processing time.
    pub fn is_processing_timer(&self) -> bool {
        self.is_processing_timer
    }

    /// Gives a row.
    pub fn emit(&mut self, row: impl Into<O>) {
        if let Err(fault) = row.into().gather(self.key, self.row, &mut self.gathered) {
            self.fault = Some(fault);
        }
    }

    /// Calls `on_timer` once the watermark has reached `time`. Setting a timer again for the same time changes nothing.
    pub fn set_timer(&mut self, time: Timestamp) {
        self.event_timers.insert(time.0);
    }

    /// Takes a timer back.
    pub fn clear_timer(&mut self, time: Timestamp) {
        self.event_timers.remove(&time.0);
    }

    /// Takes all timers of event time back.
    pub fn clear_timers(&mut self) {
        self.event_timers.clear();
    }

    /// Calls `on_timer` once processing time has reached `time`.
    pub fn set_processing_timer(&mut self, time: Timestamp) {
        self.processing_timers.insert(time.0);
    }

    /// Takes a timer of processing time back.
    pub fn clear_processing_timer(&mut self, time: Timestamp) {
        self.processing_timers.remove(&time.0);
    }

    /// Forgets the key: its state and its timers. Its next row starts anew.
    pub fn clear(&mut self) {
        self.cleared = true;
        self.event_timers.clear();
        self.processing_timers.clear();
    }

    fn checked(&mut self, outcome: Result<(), Refusal>) -> Result<(), String> {
        outcome.map_err(Refusal::into_text)?;
        if self.event_timers.len().max(self.processing_timers.len()) > TIMERS_MAX {
            return Err(format!("more than {TIMERS_MAX} timers of a key"));
        }
        self.fault.take().map_or(Ok(()), Err)
    }
}

/// A key while it is worked on.
struct Keyed<'c, P: Process> {
    state: P::State,
    known: bool,
    fired: usize,
    context: &'c mut Context<P::Output>,
}

impl<P: Process> Keyed<'_, P> {
    fn changed(&mut self) {
        self.known = true;
        if std::mem::take(&mut self.context.cleared) {
            self.state = P::State::default();
            self.known = false;
        }
    }

    fn row(&mut self, row: P::Row<'_>) -> Result<(), String> {
        let outcome = P::on_row(&mut self.state, row, self.context);
        self.context.checked(outcome)?;
        self.changed();
        Ok(())
    }

    fn timers(&mut self, until: i64, is_processing: bool) -> Result<(), String> {
        loop {
            let timers = if is_processing { &mut self.context.processing_timers } else { &mut self.context.event_timers };
            let Some(due) = timers.first().copied().filter(|t| *t <= until) else { return Ok(()) };
            timers.pop_first();
            self.fired += 1;
            if self.fired > FIRED_MAX {
                return Err(format!("more than {FIRED_MAX} timers of a key fell due in one call: does a timer set itself anew without end?"));
            }
            (self.context.time, self.context.row, self.context.is_processing_timer) = (Timestamp(due), None, is_processing);
            let outcome = P::on_timer(&mut self.state, self.context);
            self.context.checked(outcome)?;
            self.changed();
        }
    }
}

/// One call of the process `P`.
///
/// # Errors
/// The columns don't fit, or a row was refused.
pub fn run<P: Process>(batch: &Batch) -> Result<Effect, Failure> {
    let rows = batch.times.len();
    let keys = batch.keys as usize;
    if batch.watermarks.len() != rows || batch.until.len() != keys {
        let (given, until) = (batch.watermarks.len(), batch.until.len());
        return Err(whole(format!("{given} watermarks of {rows} rows, {until} of {keys} keys")));
    }
    let reader = P::Row::open(&batch.arguments, rows).map_err(whole)?;
    let states = P::State::open(&batch.states, keys).map_err(whole)?;
    let known = Bits::new(&batch.known, false);
    let mut context = Context::<P::Output> {
        time: Timestamp(0),
        watermark: Timestamp(i64::MIN),
        now: Timestamp(batch.now),
        key: 0,
        row: None,
        is_processing_timer: false,
        event_timers: BTreeSet::new(),
        processing_timers: BTreeSet::new(),
        cleared: false,
        gathered: Default::default(),
        fault: None,
    };
    let (mut left, mut left_known) = (Vec::with_capacity(keys), BitmapBuilder::with_capacity(keys));
    let (mut event, mut processing) = (TimersBuilder::new(keys), TimersBuilder::new(keys));
    for number in 0..keys {
        let is_known = known.at(number);
        let state = if is_known { P::State::get(&states, number).map_err(whole)? } else { P::State::default() };
        context.key = number as u32;
        let of_key = range(&batch.offsets, number, rows).map_err(whole)?;
        context.watermark = Timestamp(of_key.clone().next().map_or(batch.until[number], |first| batch.watermarks[first]));
        context.event_timers.extend(timers_of(&batch.eventtimers, number).map_err(whole)?);
        context.processing_timers.extend(timers_of(&batch.processingtimers, number).map_err(whole)?);
        let mut keyed = Keyed::<P> { state, known: is_known, fired: 0, context: &mut context };
        keyed.timers(batch.now, true).map_err(whole)?;
        for row in of_key {
            keyed.context.watermark = Timestamp(batch.watermarks[row]);
            keyed.timers(batch.watermarks[row], false).map_err(whole)?;
            (keyed.context.time, keyed.context.row) = (Timestamp(batch.times[row]), Some(row as u32));
            let values = P::Row::get(&reader, row).map_err(|message| at(row, message))?;
            keyed.row(values).map_err(|message| at(row, message))?;
        }
        keyed.context.watermark = Timestamp(batch.until[number]);
        keyed.timers(batch.until[number], false).map_err(whole)?;
        left_known.push(keyed.known);
        left.push(keyed.state);
        event.push(&mut context.event_timers);
        processing.push(&mut context.processing_timers);
    }
    Ok(Effect {
        known: left_known.finish(),
        states: P::State::write(left).map_err(whole)?,
        eventtimers: event.0,
        processingtimers: processing.0,
        outputs: P::Output::write(context.gathered).map_err(whole)?,
    })
}

/// What the process `P` is.
pub fn describe<P: Process>(name: &str, doc: &str) -> types::Process {
    types::Process {
        name: name.into(),
        doc: doc.trim().into(),
        arguments: P::Row::attributes(),
        state: P::State::fields(),
        outputs: P::Output::describe(),
    }
}

fn range(offsets: &[u32], number: usize, most: usize) -> Result<std::ops::Range<usize>, String> {
    match offsets.get(number..number + 2) {
        Some(&[from, to]) if from <= to && to as usize <= most => Ok(from as usize..to as usize),
        _ => Err(format!("the offsets of key {number} don't fit {most} places")),
    }
}

fn timers_of(timers: &Timers, number: usize) -> Result<impl Iterator<Item = i64> + '_, String> {
    let range = range(&timers.offsets, number, timers.times.len())?;
    Ok(timers.times[range].iter().copied())
}

struct TimersBuilder(Timers);

impl TimersBuilder {
    fn new(keys: usize) -> Self {
        let mut offsets = Vec::with_capacity(keys + 1);
        offsets.push(0);
        Self(Timers { offsets, times: Vec::new() })
    }

    fn push(&mut self, timers: &mut BTreeSet<i64>) {
        self.0.times.extend(timers.iter());
        timers.clear();
        self.0.offsets.push(self.0.times.len() as u32);
    }
}
