//! Keyed processes in the simulator: a pipeline over the guest `ledger`, and what it must give, worked out key by key without epochs.
//!
//! Event times are seconds, since the guest's timers are: an account is quiet ten seconds after something was added to it.

use crate::case::{Case, Feed, Guests, Item, Nature, Shape};
use crate::chain::Given;
use crate::definition::Random;
use crate::verify::{At, Epoch, Final, same};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const SECOND: i64 = 1_000;
/// As in the guest.
const QUIET_MS: i64 = 10_000;

/// How keys and rows are dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Seconds.
    pub ttl: i64,
    /// Rows come by event time; else as they arrive, and then from one partition only: between several there is no order.
    pub by_event_time: bool,
    /// What the guest does with some of the rows that it should not be given.
    pub fault: Option<Fault>,
}

/// How a guest does not take a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It says which row it is.
    Refuses,
    Traps,
}

impl Fault {
    fn what(self) -> &'static str {
        match self {
            Self::Refuses => "nonsense",
            Self::Traps => "trap",
        }
    }
}

impl Case {
    /// A case with a keyed process.
    pub fn random_process(random: &mut Random) -> Self {
        let mut case = Self::plain(random);
        case.become_process(random);
        case.vary_process(random);
        case
    }

    /// Guests that do not take some rows, and versions that are swapped in.
    pub fn vary_process(&mut self, random: &mut Random) {
        let fault = [None, Some(Fault::Refuses), Some(Fault::Traps)][random.below(3) as usize];
        self.swaps_process = self.has_process() && random.one_in(3);
        for shape in std::iter::once(&mut self.shape).chain(self.behind.iter_mut().map(|b| &mut b.shape)) {
            if let Shape::Process(process) = shape {
                process.fault = fault;
            }
        }
    }

    /// The rows go to a keyed process.
    pub fn become_process(&mut self, random: &mut Random) {
        let by_event_time = self.partitions > 1 || random.one_in(2);
        self.shape = Shape::Process(Process { ttl: 5 + random.below(60) as i64, by_event_time, fault: None });
        self.guests = Guests::Accounts;
        self.keyed = true;
        self.bounds.disorder *= SECOND;
        for feed in &mut self.feeds {
            if let Feed::Row { item, .. } = feed {
                item.time *= SECOND;
                // It would all lie in the future of its record.
                item.written = None;
            }
        }
    }
}

/// What a row does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is not taken, as if it had never come.
    Fault,
    Say,
    Forget,
    Add,
}

impl Process {
    /// The steps behind a parse and a filter.
    pub fn first_yaml(self, disorder: i64) -> String {
        // As rows arrive, those before a clear of the same epoch still count for the life that comes after it: its end depends on cuts.
        self.yaml("v", self.by_event_time, "st", disorder)
    }

    /// The operation over columns `k`, `v` and a time; what a row does follows from a number.
    pub fn yaml(self, number: &str, forgets: bool, time: &str, disorder: i64) -> String {
        let fault = self.fault.map_or_else(String::new, |f| format!("WHEN {number} % 11 = 0 THEN '{}' ", f.what()));
        let forget = if forgets { format!("WHEN {number} % 7 = 0 THEN 'forget' ") } else { String::new() };
        let what = format!("CASE {fault}WHEN {number} % 5 = 0 THEN 'say' {forget}ELSE 'add' END");
        let order = if self.by_event_time { "eventTime" } else { "arrival" };
        format!(
            "  - operation: project\n    columns: {{ k: k, what: \"({what}) || ' ' || coalesce(k, '-')\", amount: v, {time}: {time} }}\n  \
             - operation: process\n    plugin: ledger\n    keyBy: [k]\n    timestampColumn: {time}\n    watermark: {disorder}ms\n    \
             ttl: {}s\n    order: {order}\n    outputs: {{ quiet: {{ name: discard }} }}\n",
            self.ttl
        )
    }

    /// What a row of this number does.
    pub fn what(self, number: i64) -> What {
        match number {
            n if n % 11 == 0 && self.fault.is_some() => What::Fault,
            n if n % 5 == 0 => What::Say,
            n if n % 7 == 0 && self.by_event_time => What::Forget,
            _ => What::Add,
        }
    }
}

/// A row as the guest is given it.
pub struct Act {
    /// Before it; in the order of event time its own time.
    pub watermark: i64,
    pub time: i64,
    pub at: At,
    pub what: What,
    pub amount: i64,
}

/// A row of the guest's `results`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    pub id: String,
    pub total: i64,
    pub at: i64,
}

impl Sum {
    pub fn json(&self) -> String {
        format!("sink {}", json!({ "id": self.id, "total": self.total, "at": self.at }))
    }
}

/// What the guest gives.
#[derive(Default)]
pub struct Said {
    pub sums: Vec<Sum>,
    /// Rows of its other output.
    pub quiet: Vec<String>,
    /// Rows that an operation behind another one has not taken.
    pub refused: usize,
}

/// A life of a key.
struct Life {
    /// Greatest event time of its rows.
    touched: i64,
    total: i64,
    last: Option<i64>,
    timers: BTreeSet<i64>,
}

impl Life {
    /// Timers up to `until` fire.
    fn fire(&mut self, id: &str, until: i64, said: &mut Said) {
        while let Some(due) = self.timers.first().copied().filter(|due| *due <= until) {
            self.timers.remove(&due);
            said.quiet.push(format!("quiet {}", json!({ "id": id, "since": due - QUIET_MS, "total": self.total })));
        }
    }

    fn take(&mut self, id: &str, act: &Act, said: &mut Said) {
        if act.what == What::Say {
            said.sums.push(Sum { id: id.to_owned(), total: self.total, at: act.time });
            return;
        }
        self.total += act.amount;
        if let Some(last) = self.last.replace(act.time) {
            self.timers.remove(&(last + QUIET_MS));
        }
        self.timers.insert(act.time + QUIET_MS);
    }
}

/// What a process gives that is first in its pipeline; `rows` are in the order of epochs. After some swaps it
/// may fail on any row.
///
/// # Errors
/// What is late or rejected and should not be, or the other way round.
pub fn first(case: &Case, process: Process, may_fail: bool, rows: &[(At, Epoch, Item)], got: &Final) -> Result<Given, String> {
    let mut watermarks = vec![i64::MIN; case.partitions];
    let (mut keys, mut late): (BTreeMap<Option<&str>, Vec<Act>>, _) = (BTreeMap::new(), BTreeMap::new());
    for (at, epoch, item) in rows {
        let dropped = case.filtered && item.value % 3 == 0;
        match (item.nature, got.rejects.get(at)) {
            (Nature::Broken | Nature::Tombstone | Nature::Timeless, Some((_, false))) => continue,
            (Nature::Timeless, None) if dropped => continue,
            (Nature::Good | Nature::Poison, None | Some((_, true))) => {}
            (_, rejected) => return Err(format!("{item:?} at {at:?}: {rejected:?}")),
        }
        let (time, watermark) = (item.time, &mut watermarks[at.0]);
        let before = std::mem::replace(watermark, (*watermark).max(time - case.bounds.disorder));
        let rejected = got.rejects.contains_key(at);
        let what = process.what(item.value);
        let judged = if case.idles { before.max(epoch.closed_before) } else { before };
        let is_late = process.by_event_time && time < judged;
        let may = !dropped && !is_late && (may_fail || what == What::Fault);
        let must = may && what == What::Fault;
        if rejected && !may || !rejected && must {
            return Err(format!("{item:?} at {at:?}, which does {what:?}, is rejected: {rejected}"));
        }
        if dropped || rejected {
            continue;
        }
        if is_late {
            late.insert(*at, if case.idles { 0 } else { judged - time });
            continue;
        }
        let watermark = if process.by_event_time { time } else { before };
        let act = Act { watermark, time, at: *at, what, amount: item.value };
        keys.entry(item.key.as_deref()).or_default().push(act);
    }
    let reached = watermarks.into_iter().max().unwrap_or(i64::MIN);
    let mut given = Given { reached, reached_later: reached, ..Given::default() };
    for (key, mut acts) in keys {
        let end = of_key(process, key.unwrap_or("-"), &mut acts, reached, &mut given.said);
        given.lives.extend(end.map(|end| (end, reached)));
    }
    let got_late: BTreeMap<At, i64> = got.late.iter().map(|(at, by)| (*at, if case.idles { 0 } else { *by })).collect();
    let list = |late: BTreeMap<At, i64>| late.into_iter().collect::<Vec<_>>();
    same("late rows", &list(late), &list(got_late))?;
    Ok(given)
}

/// What comes of a key; where it lives in the end, the watermark that would end its life.
pub fn of_key(process: Process, id: &str, acts: &mut [Act], reached: i64, said: &mut Said) -> Option<i64> {
    if process.by_event_time {
        acts.sort_by_key(|act| (act.time, act.at));
    }
    let ttl = process.ttl * SECOND;
    let mut life: Option<Life> = None;
    for act in acts {
        if let Some(over) = life.take_if(|life| act.watermark >= life.touched + ttl).as_mut() {
            over.fire(id, over.touched + ttl, said);
        }
        if let Some(life) = &mut life {
            life.fire(id, act.watermark, said);
        }
        if act.what == What::Forget {
            life = None;
            continue;
        }
        let new = || Life { touched: act.time, total: 0, last: None, timers: BTreeSet::new() };
        let life = life.get_or_insert_with(new);
        life.touched = life.touched.max(act.time);
        life.take(id, act, said);
    }
    let mut life = life?;
    let end = life.touched + ttl;
    life.fire(id, if reached >= end { end } else { i64::MAX }, said);
    (reached < end).then_some(end)
}
