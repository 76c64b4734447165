//! Calls of a keyed process: states, rows and timers of many keys in, checked changes out.

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::buffer::BooleanBuffer;

use super::abi::{BatchIn, ColumnIn, EffectOut, EffectResult, ProcessParams, RowsOut, TimersIn, TimersOut};
use super::load::Plugin;
use super::lower::{Argument, Prepared, bitmap};
use super::signature::ProcessOutput;
use super::{FunctionSignature, GuestError, lift};
use crate::limits::{PROCESS_OUTPUT_ROWS, PROCESS_TIMERS};

/// Timers by key: those of key i are `times[offsets[i]..offsets[i + 1]]`, milliseconds since 1970 UTC, rising.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// One more than there are keys; the first is 0.
    pub offsets: Vec<u32>,
    /// Times.
    pub times: Vec<i64>,
}

impl Timers {
    /// Of no keys.
    pub fn new() -> Self {
        Self { offsets: vec![0], times: Vec::new() }
    }

    /// Those of one more key.
    pub fn push(&mut self, times: impl IntoIterator<Item = i64>) {
        self.times.extend(times);
        self.offsets.push(self.times.len() as u32);
    }

    /// Those of key `key`.
    pub fn of(&self, key: usize) -> &[i64] {
        &self.times[self.offsets[key] as usize..self.offsets[key + 1] as usize]
    }

    fn lowered(&self) -> TimersIn<'_> {
        TimersIn { offsets: &self.offsets, times: &self.times }
    }
}

/// A call: keys numbered from 0, and the rows of each behind each other.
#[derive(Clone, Debug, Default)]
pub struct KeyBatch {
    /// Whether each key has a state.
    pub known: Vec<bool>,
    /// A column a state field, a place for each key; any value where a key has none.
    pub states: Vec<ArrayRef>,
    /// The rows of key i are `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<u32>,
    /// A column an argument.
    pub arguments: Vec<ArrayRef>,
    /// Event time of each row, milliseconds since 1970 UTC.
    pub times: Vec<i64>,
    /// The watermark before each row.
    pub watermarks: Vec<i64>,
    /// The watermark after the rows of each key.
    pub until: Vec<i64>,
    /// Processing time of the call.
    pub now: i64,
    /// Timers of event time.
    pub event: Timers,
    /// Timers of processing time.
    pub processing: Timers,
}

/// Rows of an output.
#[derive(Clone, Debug)]
pub struct OutputRows {
    /// Key of each row, rising.
    pub keys: Vec<u32>,
    /// Where the output passes rows on: which row of the call each is; else empty.
    pub rows: Vec<u32>,
    /// Its columns.
    pub columns: Vec<ArrayRef>,
}

/// What a call changes.
#[derive(Clone, Debug)]
pub struct Effect {
    /// Whether each key has a state from now on.
    pub known: BooleanArray,
    /// A column a state field, a place for each key.
    pub states: Vec<ArrayRef>,
    /// Timers of event time.
    pub event: Timers,
    /// Timers of processing time.
    pub processing: Timers,
    /// Rows by output.
    pub outputs: Vec<OutputRows>,
}

impl Plugin {
    /// Calls process number `function`.
    ///
    /// # Errors
    /// How the guest failed. The row of a refusal is one of this call.
    pub fn process(&self, function: usize, batch: &KeyBatch) -> Result<Effect, GuestError> {
        let signature = &self.functions[function];
        let (keys, rows) = (batch.known.len(), batch.times.len());
        let (states, arguments) = (columns(&batch.states), columns(&batch.arguments));
        let states = self.prepared(function, &states, &self.state_types(function), keys)?;
        let arguments = self.prepared(function, &arguments, &signature.arguments, rows)?;
        let states: Vec<ColumnIn<'_>> = states.iter().map(Prepared::column).collect();
        let arguments: Vec<ColumnIn<'_>> = arguments.iter().map(Prepared::column).collect();
        let known = BooleanBuffer::from(batch.known.as_slice());
        let known = bitmap(&known);
        let lowered = BatchIn {
            keys: keys as u32,
            known: &known,
            states: &states,
            offsets: &batch.offsets,
            arguments: &arguments,
            times: &batch.times,
            watermarks: &batch.watermarks,
            until: &batch.until,
            now: batch.now,
            eventtimers: batch.event.lowered(),
            processingtimers: batch.processing.lowered(),
        };
        self.run(
            function,
            rows,
            |i| i.process,
            |i, f| {
                let params: ProcessParams<'_> = (function as u32, lowered);
                i.call::<_, EffectResult>(f, params, self.limits()).map(|r| r.0)
            },
            |effect| lifted(effect, signature, keys, rows),
        )
    }
}

fn columns(arrays: &[ArrayRef]) -> Vec<Argument> {
    arrays.iter().cloned().map(Argument::Column).collect()
}

fn lifted(effect: EffectOut, signature: &FunctionSignature, keys: usize, rows: usize) -> Result<Effect, String> {
    let Some(process) = &signature.process else { return Err("is no process".into()) };
    if effect.outputs.len() != process.outputs.len() {
        return Err(format!("gave rows of {} outputs, but it has {}", effect.outputs.len(), process.outputs.len()));
    }
    let given: usize = effect.outputs.iter().map(|o| o.keys.len()).sum();
    if given > PROCESS_OUTPUT_ROWS {
        return Err(format!("gave {given} rows in one call, {PROCESS_OUTPUT_ROWS} are allowed"));
    }
    let outputs = effect.outputs.into_iter().zip(&process.outputs);
    let known = BooleanArray::new(lift::bitmap(effect.known, keys).map_err(|e| format!("known keys: {e}"))?, None);
    let timers = |timers, what| checked(timers, keys).map_err(|e| format!("{what} timers: {e}"));
    Ok(Effect {
        states: lift::states(effect.states, &signature.state, keys, "keys")?,
        event: timers(effect.eventtimers, "event")?,
        processing: timers(effect.processingtimers, "processing")?,
        outputs: outputs
            .map(|(rows_of, output)| {
                rows_of_output(rows_of, output, keys, rows).map_err(|e| format!("output `{}`: {e}", output.name))
            })
            .collect::<Result<_, _>>()?,
        known,
    })
}

fn checked(timers: TimersOut, keys: usize) -> Result<Timers, String> {
    let TimersOut { offsets, times } = timers;
    if offsets.len() != keys + 1 || offsets[0] != 0 || offsets[keys] as usize != times.len() {
        return Err(format!("{} offsets and {} times do not fit {keys} keys", offsets.len(), times.len()));
    }
    for (key, range) in offsets.windows(2).enumerate() {
        let of_key = times.get(range[0] as usize..range[1] as usize).ok_or_else(|| format!("the offsets of key {key} fall"))?;
        if of_key.len() > PROCESS_TIMERS {
            return Err(format!("a key has {}, {PROCESS_TIMERS} are allowed", of_key.len()));
        }
        if of_key.windows(2).any(|two| two[0] >= two[1]) {
            return Err(format!("those of key {key} do not rise"));
        }
    }
    Ok(Timers { offsets, times })
}

fn rows_of_output(given: RowsOut, output: &ProcessOutput, keys: usize, rows: usize) -> Result<OutputRows, String> {
    let count = given.keys.len();
    if given.keys.windows(2).any(|two| two[0] > two[1]) || given.keys.last().is_some_and(|key| *key as usize >= keys) {
        return Err(format!("the numbers of keys must rise and be less than {keys}"));
    }
    if given.rows.len() != if output.passes { count } else { 0 } {
        return Err(format!("{} numbers of rows for {count} rows", given.rows.len()));
    }
    if let Some(row) = given.rows.iter().find(|row| **row as usize >= rows) {
        return Err(format!("passes row {row} of {rows}, which is not there"));
    }
    let columns = lift::columns(given.columns, output.columns.iter().map(|a| (a.name.as_str(), a.data_type)), count)?;
    if let Some((_, a)) = columns.iter().zip(&output.columns).find(|(column, a)| column.null_count() > 0 && !a.nullable) {
        return Err(format!("column `{}` has nulls, which it says it has not", a.name));
    }
    Ok(OutputRows { keys: given.keys, rows: given.rows, columns })
}
