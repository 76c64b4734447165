//! Keyed processes in the simulator: a pipeline over the guest `account`, and what it must give, worked out key by key without epochs.
//!
//! Event times are seconds, since the guest's timers are: an account is quiet ten seconds after something was added to it.

use crate::case::{Case, Feed, Guests, Item, Nature, Shape};
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
}

impl Case {
    /// A case with a keyed process.
    pub fn random_process(random: &mut Random) -> Self {
        let mut case = Self::plain(random);
        let by_event_time = case.partitions > 1 || random.one_in(2);
        case.shape = Shape::Process(Process { ttl: 5 + random.below(60) as i64, by_event_time });
        case.guests = Guests::Accounts;
        case.keyed = true;
        for feed in &mut case.feeds {
            if let Feed::Row { item, .. } = feed {
                // Its seconds would all lie in the future of its record.
                item.written = None;
            }
        }
        case
    }
}

impl Process {
    /// The steps behind a parse and a filter.
    pub fn yaml(self, disorder: i64) -> String {
        // As rows arrive, those before a clear of the same epoch still count for the life that comes after it: its end depends on cuts.
        let forget = if self.by_event_time { "WHEN v % 7 = 0 THEN 'forget' " } else { "" };
        let what = format!("(CASE WHEN v % 5 = 0 THEN 'say' {forget}ELSE 'add' END) || ' ' || coalesce(k, '-')");
        let order = if self.by_event_time { "eventTime" } else { "arrival" };
        format!(
            "  - operation: project\n    columns: {{ k: k, what: \"{what}\", amount: v, st: st }}\n  - operation: process\n    plugin: account\n    \
             keyBy: [k]\n    timestampColumn: st\n    watermark: {disorder}s\n    ttl: {}s\n    order: {order}\n    \
             outputs: {{ quiet: {{ name: discard }} }}\n",
            self.ttl
        )
    }

    fn what(self, value: i64) -> &'static str {
        match value {
            v if v % 5 == 0 => "say",
            v if v % 7 == 0 && self.by_event_time => "forget",
            _ => "add",
        }
    }
}

/// A row as the guest is given it.
struct Act<'a> {
    /// Before it; in the order of event time its own time.
    watermark: i64,
    time: i64,
    at: At,
    item: &'a Item,
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
    fn fire(&mut self, id: &str, until: i64, given: &mut Vec<String>) {
        while let Some(due) = self.timers.first().copied().filter(|due| *due <= until) {
            self.timers.remove(&due);
            given.push(format!("quiet {}", json!({ "id": id, "since": due - QUIET_MS, "total": self.total })));
        }
    }

    fn take(&mut self, id: &str, act: &Act<'_>, what: &str, given: &mut Vec<String>) {
        if what == "say" {
            given.push(format!("sink {}", json!({ "id": id, "total": self.total, "at": act.time })));
            return;
        }
        self.total += act.item.value;
        if let Some(last) = self.last.replace(act.time) {
            self.timers.remove(&(last + QUIET_MS));
        }
        self.timers.insert(act.time + QUIET_MS);
    }
}

/// What is wrong with what was committed of a process, if anything; `rows` are in the order of epochs, and `left` slots were left in the end.
///
/// # Errors
/// What differs.
pub fn verify(case: &Case, process: Process, rows: &[(At, Epoch, Item)], got: Final, left: usize) -> Result<Final, String> {
    let mut watermarks = vec![i64::MIN; case.partitions];
    let (mut keys, mut late): (BTreeMap<Option<&str>, Vec<Act<'_>>>, _) = (BTreeMap::new(), BTreeMap::new());
    for (at, epoch, item) in rows {
        let dropped = case.filtered && item.value % 3 == 0;
        match (item.nature, got.rejects.get(at)) {
            (Nature::Broken | Nature::Tombstone | Nature::Timeless, Some((_, false))) => continue,
            (Nature::Timeless, None) if dropped => continue,
            (Nature::Good | Nature::Poison, None) => {}
            (_, rejected) => return Err(format!("{item:?} at {at:?}: {rejected:?}")),
        }
        let (time, watermark) = (item.time * SECOND, &mut watermarks[at.0]);
        let before = std::mem::replace(watermark, (*watermark).max(time - case.bounds.disorder * SECOND));
        if dropped {
            continue;
        }
        let judged = if case.idles { before.max(epoch.closed_before) } else { before };
        if process.by_event_time && time < judged {
            late.insert(*at, if case.idles { 0 } else { judged - time });
            continue;
        }
        let watermark = if process.by_event_time { time } else { before };
        keys.entry(item.key.as_deref()).or_default().push(Act { watermark, time, at: *at, item });
    }
    let reached = watermarks.into_iter().max().unwrap_or(i64::MIN);
    let (mut given, mut lives) = (Vec::new(), 0);
    for (key, mut acts) in keys {
        if process.by_event_time {
            acts.sort_by_key(|act| (act.time, act.at));
        }
        lives += usize::from(of_key(process, key.unwrap_or("-"), &acts, reached, &mut given));
    }
    given.sort();
    let got_late: BTreeMap<At, i64> = got.late.iter().map(|(at, by)| (*at, if case.idles { 0 } else { *by })).collect();
    let list = |late: BTreeMap<At, i64>| late.into_iter().collect::<Vec<_>>();
    same("late rows", &list(late), &list(got_late))?;
    same("rows", &given, &got.given)?;
    if lives == left { Ok(got) } else { Err(format!("{left} slots are left, of {lives} keys that live")) }
}

/// What comes of a key; whether it lives in the end.
fn of_key(process: Process, id: &str, acts: &[Act<'_>], reached: i64, given: &mut Vec<String>) -> bool {
    let ttl = process.ttl * SECOND;
    let mut life: Option<Life> = None;
    for act in acts {
        if let Some(over) = life.take_if(|life| act.watermark >= life.touched + ttl).as_mut() {
            over.fire(id, over.touched + ttl, given);
        }
        if let Some(life) = &mut life {
            life.fire(id, act.watermark, given);
        }
        let what = process.what(act.item.value);
        if what == "forget" {
            life = None;
            continue;
        }
        let new = || Life { touched: act.time, total: 0, last: None, timers: BTreeSet::new() };
        let life = life.get_or_insert_with(new);
        life.touched = life.touched.max(act.time);
        life.take(id, act, what, given);
    }
    let Some(mut life) = life else { return false };
    let end = life.touched + ttl;
    life.fire(id, if reached >= end { end } else { i64::MAX }, given);
    reached < end
}
