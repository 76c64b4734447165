//! Sequences of events by key: "a like, then a message within a day, and no unmatch between".
//!
//! A sequence is a list of steps. A row that fits the first step begins a match; each step takes the first later row that fits it, and rows
//! that fit nothing are passed over ("relaxed contiguity" in Flink's CEP, `followedBy`). A row that a step is declared to be `without` ends the
//! match while it waits for that step. What has been seen so far is the key's state.

use crate::keyed::{Outputs, Row};
use crate::process::{Context, Process, Refusal};
use crate::read::Timestamp;
use crate::state::{FieldReader, State};
use crate::types::{Column, Datatype, Field};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

/// Matches of a key that may have begun and not ended; a row that begins one more is refused.
pub const BEGUN_MAX: usize = 1_024;

/// Whether an event fits, given those of the steps before.
pub type Condition<E> = fn(event: &E, seen: &[E]) -> bool;

/// A step of a sequence.
pub struct Step<E: 'static> {
    fits: Condition<E>,
    without: Option<Condition<E>>,
}

/// A step that takes the first event that fits.
pub const fn step<E>(fits: Condition<E>) -> Step<E> {
    Step { fits, without: None }
}

impl<E> Step<E> {
    /// The match ends where such an event comes before one that fits this step.
    #[must_use]
    pub const fn without(self, condition: Condition<E>) -> Self {
        Self { without: Some(condition), ..self }
    }
}

/// Where the search goes on after a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Behind the last event of the match: no event is in two matches.
    PastLast,
    /// At the event after the first of the match: matches may overlap.
    ToNext,
}

/// A sequence to be found, by key; [`Matcher`] is the process that finds it.
///
/// ```
/// use kindling_guest::pattern::{Matcher, Sequence, Step, step};
/// use kindling_guest::{Timestamp, output, plugin, row};
///
/// row! { struct Click<'a> { page: &'a str } }
/// output! { struct Bought { minutes: i64 } }
/// struct CartThenPaid;
///
/// impl Sequence for CartThenPaid {
///     type Row<'a> = Click<'a>;
///     type Event = String;
///     type Output = Bought;
///     const NAME: &'static str = "cart_then_paid";
///     const WITHIN_MS: i64 = 3_600_000;
///     const STEPS: &'static [Step<String>] =
///         &[step(|page, _| page == "/cart"), step(|page: &String, _| page == "/paid").without(|page, _| page == "/cancelled")];
///     fn event(row: Click<'_>, _: Timestamp) -> Option<String> {
///         Some(row.page.to_owned())
///     }
///     fn found(events: &[(Timestamp, String)]) -> Bought {
///         Bought { minutes: (events[1].0.0 - events[0].0.0) / 60_000 }
///     }
/// }
///
/// plugin! { name: "cart", version: "1.0.0", processes: [cart_then_paid: Matcher<CartThenPaid>] }
/// # fn main() {}
/// ```
pub trait Sequence: Sized + 'static {
    /// The rows it is given.
    type Row<'a>: Row<'a>;
    /// What is kept of a row, as MessagePack.
    type Event: Serialize + DeserializeOwned + 'static;
    /// The rows it gives.
    type Output: Outputs;
    /// Name of the layout of the state.
    const NAME: &'static str;
    /// Version of the layout: change it when `Event` changes so that old bytes don't read back as what they were.
    const VERSION: u32 = 1;
    /// The steps; at least one.
    const STEPS: &'static [Step<Self::Event>];
    /// From the first event of a match to its last at most, milliseconds of event time.
    const WITHIN_MS: i64;
    /// Where the search goes on after a match.
    const SKIP: Skip = Skip::PastLast;
    /// What is kept of a row; None passes it over.
    fn event(row: Self::Row<'_>, time: Timestamp) -> Option<Self::Event>;
    /// What is given for a match: its events, one a step, with their times.
    fn found(events: &[(Timestamp, Self::Event)]) -> Self::Output;
}

/// A match that has begun: an event for each step so far.
#[derive(Serialize, Deserialize)]
#[serde(bound = "E: Serialize + DeserializeOwned")]
struct Begun<E> {
    times: Vec<i64>,
    events: Vec<E>,
}

impl<E> Begun<E> {
    fn is_over(&self, time: i64, within: i64) -> bool {
        time.saturating_sub(self.times[0]) > within
    }

    /// Takes the event if it fits the next step; false when the match can't be completed any more.
    fn take(&mut self, steps: &[Step<E>], time: i64, event: &E) -> bool
    where
        E: Clone,
    {
        let Some(step) = steps.get(self.events.len()) else { return true };
        if step.without.is_some_and(|without| without(event, &self.events)) {
            return false;
        }
        if (step.fits)(event, &self.events) {
            self.times.push(time);
            self.events.push(event.clone());
        }
        true
    }
}

/// The process that finds a sequence.
pub struct Matcher<S>(PhantomData<S>);

/// Its state: the matches that have begun, in the order of their first events.
pub struct Matches<S: Sequence> {
    begun: Vec<Begun<S::Event>>,
}

impl<S: Sequence> Default for Matches<S> {
    fn default() -> Self {
        Self { begun: Vec::new() }
    }
}

impl<S: Sequence> State for Matches<S> {
    type Rows<'a> = FieldReader<'a, Vec<u8>>;

    fn fields() -> Vec<Field> {
        let layout = format!("msgpack:sequence {}:{}", S::NAME, S::VERSION);
        vec![Field { name: "begun".into(), type_: Datatype::Binary, layout }]
    }

    fn nullable() -> Vec<bool> {
        vec![false]
    }

    fn open(columns: &[Column], rows: usize) -> Result<Self::Rows<'_>, String> {
        match columns {
            [column] => crate::state::open_field::<Vec<u8>>("begun", column, rows),
            _ => Err(format!("{} columns of state instead of 1", columns.len())),
        }
    }

    fn get(rows: &Self::Rows<'_>, row: usize) -> Result<Self, String> {
        let begun: Vec<Begun<S::Event>> = crate::state::from_msgpack(crate::read::Read::get::<true>(rows, row))?;
        if begun.iter().any(|b| b.events.is_empty() || b.events.len() != b.times.len()) {
            return Err("the state does not read back: a match without events".into());
        }
        Ok(Self { begun })
    }

    fn write(states: Vec<Self>) -> Result<Vec<Column>, String> {
        let begun: Vec<_> = states.into_iter().map(|state| state.begun).collect();
        crate::state::to_msgpack(&begun)
    }
}

impl<S: Sequence> Matches<S>
where
    S::Event: Clone,
{
    fn advance(&mut self, time: i64, event: &S::Event) -> Result<Vec<Begun<S::Event>>, Refusal> {
        let mut complete = Vec::new();
        let mut at = 0;
        while at < self.begun.len() {
            let begun = &mut self.begun[at];
            if begun.is_over(time, S::WITHIN_MS) || !begun.take(S::STEPS, time, event) {
                self.begun.remove(at);
            } else if begun.events.len() == S::STEPS.len() {
                complete.push(self.begun.remove(at));
                if S::SKIP == Skip::PastLast {
                    self.begun.clear();
                    return Ok(complete);
                }
            } else {
                at += 1;
            }
        }
        if S::STEPS.first().is_some_and(|first| (first.fits)(event, &[])) {
            let begun = Begun { times: vec![time], events: vec![event.clone()] };
            if S::STEPS.len() == 1 {
                complete.push(begun);
            } else if self.begun.len() < BEGUN_MAX {
                self.begun.push(begun);
            } else {
                return Err(format!("more than {BEGUN_MAX} matches of a key have begun").into());
            }
        }
        Ok(complete)
    }
}

impl<S: Sequence> Process for Matcher<S>
where
    S::Event: Clone,
{
    type State = Matches<S>;
    type Row<'a> = S::Row<'a>;
    type Output = S::Output;

    fn on_row(state: &mut Matches<S>, row: S::Row<'_>, context: &mut Context<S::Output>) -> Result<(), Refusal> {
        let time = context.time();
        if let Some(event) = S::event(row, time) {
            for begun in state.advance(time.0, &event)? {
                let events: Vec<_> = begun.times.into_iter().map(Timestamp).zip(begun.events).collect();
                context.emit(S::found(&events));
            }
        }
        state.wait(context);
        Ok(())
    }

    fn on_timer(state: &mut Matches<S>, context: &mut Context<S::Output>) -> Result<(), Refusal> {
        let time = context.time().0;
        state.begun.retain(|begun| !begun.is_over(time, S::WITHIN_MS));
        state.wait(context);
        Ok(())
    }
}

impl<S: Sequence> Matches<S> {
    /// Sets one timer: for when the first of the matches that have begun can't be completed any more. Without any the key is forgotten.
    fn wait(&self, context: &mut Context<S::Output>) {
        context.clear_timers();
        match self.begun.iter().map(|b| b.times[0]).min() {
            Some(first) => context.set_timer(Timestamp(first.saturating_add(S::WITHIN_MS).saturating_add(1))),
            None => context.clear(),
        }
    }
}
