//! A process run natively as Kindling runs it: over columns, with its states and timers taken apart after each call.

use crate::keyed::{Outputs, Row};
use crate::process::{Process, run};
use crate::process_bindings::kindling::plugin::processing::{Batch, Effect, Timers};
use crate::state::State;
use crate::types::{Column, Failure};
use crate::write::BitmapBuilder;
use std::collections::BTreeMap;

/// A job of the process `P`: what it has kept of each key, the watermark and processing time.
pub struct Job<P: Process> {
    keys: BTreeMap<String, Kept>,
    watermark: i64,
    now: i64,
    process: std::marker::PhantomData<fn() -> P>,
}

#[derive(Clone, Default)]
struct Kept {
    /// One state; none while the key has none.
    state: Option<Vec<Column>>,
    event: Vec<i64>,
    processing: Vec<i64>,
}

/// What came out of a call.
pub struct Given {
    keys: Vec<String>,
    names: Vec<String>,
    effect: Effect,
}

impl Given {
    /// The rows of the output `name`, with their keys.
    ///
    /// # Panics
    /// There is no such output, or it is of another type.
    pub fn rows<T: State>(&self, name: &str) -> Vec<(String, T)> {
        let at = self.names.iter().position(|n| n == name).unwrap_or_else(|| panic!("no output `{name}`"));
        let rows = &self.effect.outputs[at];
        let reader = T::open(&rows.columns, rows.keys.len()).expect("the output has the type that the test names");
        let row = |i: usize| (self.keys[rows.keys[i] as usize].clone(), T::get(&reader, i).expect("a row reads back"));
        (0..rows.keys.len()).map(row).collect()
    }

    /// Which rows of the call were passed on, by their place among the rows that went in, rising.
    pub fn passed(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = self.effect.outputs.iter().flat_map(|o| &o.rows).map(|r| *r as usize).collect();
        rows.sort_unstable();
        rows
    }
}

impl<P: Process> Default for Job<P> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), watermark: i64::MIN, now: 0, process: std::marker::PhantomData }
    }
}

impl<P: Process> Job<P> {
    /// Keys that have a state.
    pub fn known(&self) -> Vec<&str> {
        self.keys.iter().filter(|(_, kept)| kept.state.is_some()).map(|(key, _)| key.as_str()).collect()
    }

    /// A call with these rows: key, event time in milliseconds since 1970 UTC, values. Rows of a key keep their order.
    ///
    /// # Errors
    /// What the process refused: nothing has changed then.
    pub fn rows<'r>(&mut self, rows: &[(&str, i64, P::Row<'r>)]) -> Result<Given, Failure> {
        let (watermark, now) = (self.watermark, self.now);
        self.call(rows, watermark, now)
    }

    /// The watermark moves: timers up to it fire.
    ///
    /// # Errors
    /// What the process refused.
    pub fn watermark(&mut self, watermark: i64) -> Result<Given, Failure> {
        let now = self.now;
        let none: &[(&str, i64, P::Row<'static>)] = &[];
        self.call(none, watermark, now)
    }

    /// Processing time moves: timers up to it fire.
    ///
    /// # Errors
    /// What the process refused.
    pub fn now(&mut self, now: i64) -> Result<Given, Failure> {
        let watermark = self.watermark;
        let none: &[(&str, i64, P::Row<'static>)] = &[];
        self.call(none, watermark, now)
    }

    fn call<'r>(&mut self, rows: &[(&str, i64, P::Row<'r>)], watermark: i64, now: i64) -> Result<Given, Failure> {
        let mut by_key: BTreeMap<String, Vec<(usize, i64, P::Row<'r>)>> = BTreeMap::new();
        for key in self.keys.keys() {
            by_key.insert(key.clone(), Vec::new());
        }
        for (at, (key, time, row)) in rows.iter().enumerate() {
            by_key.entry((*key).into()).or_default().push((at, *time, *row));
        }
        let kept: Vec<Kept> = by_key.keys().map(|key| self.keys.get(key).cloned().unwrap_or_default()).collect();
        let mut known = BitmapBuilder::default();
        kept.iter().for_each(|kept| known.push(kept.state.is_some()));
        let none = P::State::write(vec![P::State::default()]).expect("the state of no rows can be written");
        let states: Vec<Vec<Column>> = kept.iter().map(|kept| kept.state.clone().unwrap_or_else(|| none.clone())).collect();
        let in_order: Vec<&(usize, i64, P::Row<'r>)> = by_key.values().flatten().collect();
        let values: Vec<P::Row<'r>> = in_order.iter().map(|(_, _, row)| *row).collect();
        let batch = Batch {
            keys: kept.len() as u32,
            known: known.finish(),
            states: if states.is_empty() { P::State::write(Vec::new()).unwrap_or_default() } else { super::concat(&states) },
            offsets: offsets(by_key.values().map(Vec::len)),
            arguments: P::Row::write(&values),
            times: in_order.iter().map(|(_, time, _)| *time).collect(),
            watermarks: vec![self.watermark; in_order.len()],
            until: vec![watermark; kept.len()],
            now,
            eventtimers: timers(kept.iter().map(|kept| &kept.event)),
            processingtimers: timers(kept.iter().map(|kept| &kept.processing)),
        };
        let mut effect = run::<P>(&batch)?;
        (self.watermark, self.now) = (watermark, now);
        for (number, key) in by_key.keys().enumerate() {
            let of = |timers: &Timers| timers.times[timers.offsets[number] as usize..timers.offsets[number + 1] as usize].to_vec();
            let is_known = effect.known[number / 8] >> (number % 8) & 1 == 1;
            let state = is_known.then(|| effect.states.iter().map(|column| super::take(column, &[number])).collect());
            let kept = Kept { state, event: of(&effect.eventtimers), processing: of(&effect.processingtimers) };
            let is_empty = kept.state.is_none() && kept.event.is_empty() && kept.processing.is_empty();
            if is_empty { self.keys.remove(key) } else { self.keys.insert(key.clone(), kept) };
        }
        // Rows that were passed on, by their place in what went in.
        effect.outputs.iter_mut().flat_map(|o| &mut o.rows).for_each(|row| *row = in_order[*row as usize].0 as u32);
        let names = P::Output::describe().into_iter().map(|output| output.name).collect();
        Ok(Given { keys: by_key.into_keys().collect(), names, effect })
    }
}

fn offsets(lengths: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut offsets = vec![0];
    lengths.for_each(|length| offsets.push(offsets[offsets.len() - 1] + length as u32));
    offsets
}

fn timers<'t>(of_keys: impl Iterator<Item = &'t Vec<i64>> + Clone) -> Timers {
    Timers { offsets: offsets(of_keys.clone().map(Vec::len)), times: of_keys.flatten().copied().collect() }
}
