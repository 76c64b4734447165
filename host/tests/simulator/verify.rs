//! What was committed against what the input and the definition say: nothing lost, nothing doubled, every row in one place.

use crate::broker::{Broker, Committed};
use crate::case::{Case, ENDLESS, Guests, Item, Nature, Shape};
use crate::chain::{Given, goes_on_behind};
use crate::definition::{Fate, Kind, Row, Window, expected, reached};
use crate::process::Sum;
use crate::world::State;
use serde_json::Value;
use std::collections::BTreeMap;

/// A row's place: partition and offset.
pub type At = (usize, i64);
type Key = Option<String>;

/// Everything that a reader of the committed output has in the end; the same for all runs of a case whose partitions never idle.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Final {
    /// Windows with the guest's count of their rows.
    pub windows: Vec<(Window<Key>, Option<i64>)>,
    /// Values of rows that are results themselves.
    pub rows: Vec<i64>,
    /// What a process gave, with the name of its output.
    pub given: Vec<String>,
    /// Late rows with how late they were.
    pub late: BTreeMap<At, i64>,
    /// Rejected rows with their reason; whether a guest did it.
    pub rejects: BTreeMap<At, (String, bool)>,
    /// Rows that an operation behind another one has rejected.
    pub refused: usize,
}

/// What is wrong, if anything.
///
/// # Errors
/// What differs.
pub fn verify(case: &Case, state: &State) -> Result<Final, String> {
    let broker = &state.broker;
    let got = outputs(case, broker)?;
    let rows = rows(case, broker)?;
    let first = match case.shape {
        Shape::Process(process) => crate::process::first(case, process, state.fails_on_any, &rows, &got)?,
        _ => first(case, state, &rows, &got)?,
    };
    let Given { values, windows, said, lives, .. } = case.given_behind(first);
    same("rows", &sorted(values), &got.rows)?;
    let found: Vec<Window<Key>> = got.windows.iter().map(|(w, _)| w.clone()).collect();
    same("windows", &sorted(windows), &found)?;
    if let Some((window, guest)) = got.windows.iter().find(|(w, g)| g.is_some_and(|g| g != w.rows)) {
        return Err(format!("{window:?}: the guest has counted {guest:?}"));
    }
    if said.refused != got.refused {
        return Err(format!("{} rows of later operations are rejected, and {} were to be", got.refused, said.refused));
    }
    same("rows of a process", &sorted(said.sums.iter().map(Sum::json).chain(said.quiet).collect()), &got.given)?;
    let left = broker.table().len();
    let least = lives.iter().filter(|(end, later)| end > later).count();
    if (least..=lives.len()).contains(&left) {
        return Ok(got);
    }
    Err(format!("{left} slots are left, of {least} to {} keys of processes that live", lives.len()))
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort();
    all
}

/// What rows or windows give that are first in their pipeline.
fn first(case: &Case, state: &State, rows: &[(At, Epoch, Item)], got: &Final) -> Result<Given, String> {
    let mut kept: Vec<(At, Row<Key>)> = Vec::new();
    let (mut poisoned, mut values) = (Vec::new(), Vec::new());
    for (at, epoch, item) in rows {
        let rejected = got.rejects.get(at);
        let is_bad = match item.nature {
            Nature::Broken | Nature::Tombstone => true,
            Nature::Timeless => !matches!(case.shape, Shape::Rows | Shape::Windows { processing: true, .. }),
            Nature::Good | Nature::Poison => false,
        };
        let dropped = case.filtered && item.value % 3 == 0;
        if is_bad {
            match rejected {
                Some((_, false)) => {}
                None if dropped && item.nature == Nature::Timeless => {}
                other => return Err(format!("{item:?} at {at:?} must be rejected, not {other:?}")),
            }
            continue;
        }
        if item.nature == Nature::Poison && !dropped {
            poisoned.push(*at);
        }
        values.extend((!dropped).then_some(item.value));
        let by_guest = rejected.is_some_and(|(_, guest)| *guest);
        kept.push((*at, row(case, *at, epoch, item, !dropped && !by_guest)));
    }
    let Shape::Windows { kind, .. } = case.shape else { return Ok(Given { values, ..Given::default() }) };
    let of: Vec<Row<Key>> = kept.iter().map(|(_, row)| row.clone()).collect();
    let (windows, fates) = expected(kind, case.window_bounds(), &of);
    let may_fail = state.fails_on_any || case.guests == Guests::Hostile(ENDLESS);
    let mut late = BTreeMap::new();
    for ((at, row), fate) in kept.iter().zip(&fates) {
        let rejected = got.rejects.get(at);
        let is_dropped = case.filtered && row.value % 3 == 0;
        match (fate, rejected) {
            (Fate::Future, Some((_, false))) => {}
            (Fate::Future, None) if is_dropped => {}
            (Fate::Late(by), None) => late.extend((!is_dropped).then_some((*at, *by))),
            (Fate::Counted, None) => {}
            (Fate::Counted, Some((_, true))) if may_fail || poisoned.contains(at) => {}
            (fate, rejected) => return Err(format!("{row:?} at {at:?} is {fate:?}, and {rejected:?}")),
        }
        let must = matches!(case.guests, Guests::Hostile(_)) && poisoned.contains(at) && *fate == Fate::Counted;
        if must && rejected.is_none() {
            return Err(format!("poisoned {row:?} at {at:?} is not rejected"));
        }
    }
    let by_late = |late: &BTreeMap<At, i64>| -> Vec<(At, i64)> {
        // What has been closed by idle partitions is known to the epoch that comes after, or the one after that.
        late.iter().map(|(at, by)| (*at, if case.idles { 0 } else { *by })).collect()
    };
    same("late rows", &by_late(&late), &by_late(&got.late))?;
    if let Shape::Windows { processing: true, .. } = case.shape {
        // A run after the end may come days later.
        let reached = state.broker.committed.last().map_or(i64::MIN, |last| last.meta.now);
        return Ok(Given { windows, reached, reached_later: reached.saturating_add(1_000_000_000), ..Given::default() });
    }
    let reached = reached(case.window_bounds(), &of);
    let reached_later = reached.max(goes_on_behind(kind, case.bounds.lateness, &windows));
    Ok(Given { windows, reached, reached_later, ..Given::default() })
}

pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, want: &[T], got: &[T]) -> Result<(), String> {
    if want == got {
        return Ok(());
    }
    let missing: Vec<&T> = want.iter().filter(|w| !got.contains(w)).take(8).collect();
    let extra: Vec<&T> = got.iter().filter(|g| !want.contains(g)).take(8).collect();
    Err(format!("{what}: {} expected, {} there; missing {missing:#?}, too many {extra:#?}", want.len(), got.len()))
}

impl Case {
    fn window_bounds(&self) -> crate::definition::Bounds {
        match self.shape {
            // Nothing is late, and nothing lies in the future.
            Shape::Windows { processing: true, .. } => {
                crate::definition::Bounds { disorder: i64::MAX / 4, lateness: 0, max_future: i64::MAX / 4, ttl: None }
            }
            _ => self.bounds,
        }
    }
}

fn row(case: &Case, (partition, _): At, epoch: &Epoch, item: &Item, counts: bool) -> Row<Key> {
    let Shape::Windows { processing, .. } = case.shape else {
        return Row { partition, key: None, time: 0, written: None, value: item.value, counts, floor: i64::MIN };
    };
    // Bounds of the future are those of windows of time.
    let is_timed = case.is_timed();
    let has_closed = processing || case.idles && is_timed;
    Row {
        partition,
        key: item.key.clone().filter(|_| case.keyed),
        time: if processing { epoch.now } else { item.time },
        written: item.written.filter(|_| is_timed),
        value: item.value,
        counts,
        // Epochs of one moment: what the first has closed is closed to the next.
        floor: if has_closed { epoch.closed_before } else { i64::MIN },
    }
}

/// The epoch that a row was read in.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    now: i64,
    pub closed_before: i64,
}

/// The rows of the input in the order of epochs, each once: the ranges of the committed epochs have neither gaps nor overlaps.
fn rows(case: &Case, broker: &Broker) -> Result<Vec<(At, Epoch, Item)>, String> {
    let mut rows = Vec::new();
    let log = case.log();
    let mut at = vec![0; case.partitions];
    let mut closed_before = i64::MIN;
    for Committed { offsets, meta, .. } in &broker.committed {
        let epoch = Epoch { now: meta.now, closed_before };
        for (partition, (from, to)) in at.iter().zip(offsets).enumerate() {
            for offset in *from..*to {
                if let Some(item) = log[partition].get(&offset) {
                    rows.push(((partition, offset), epoch, (*item).clone()));
                }
            }
        }
        at.clone_from(offsets);
        closed_before = meta.closed;
    }
    for (partition, at) in at.iter().enumerate() {
        let left = log[partition].range(at..).count();
        if left > 0 {
            return Err(format!("partition {partition} has {left} rows from {at} on, which no epoch has read"));
        }
    }
    Ok(rows)
}

fn outputs(case: &Case, broker: &Broker) -> Result<Final, String> {
    let mut table: BTreeMap<(Option<Vec<u8>>, usize), Value> = BTreeMap::new();
    let mut got = Final::default();
    let all = broker.committed.iter().flat_map(|c| &c.produced);
    for (i, produced) in all.enumerate() {
        let parsed = produced.value.as_deref().map(serde_json::from_slice::<Value>).transpose().map_err(|e| e.to_string())?;
        let is_said = produced.topic == "quiet" || produced.topic == "sink" && matches!(case.last(), Shape::Process(_));
        if let (true, Some(mut value)) = (is_said, parsed.clone()) {
            // Of a later version.
            if value.as_object_mut().and_then(|row| row.remove("again")).is_some_and(|again| again != value["total"]) {
                return Err(format!(
                    "another total again: {}",
                    String::from_utf8_lossy(produced.value.as_deref().unwrap_or_default())
                ));
            }
            got.given.push(format!("{} {value}", produced.topic));
            continue;
        }
        if produced.topic == "sink" {
            let key = (produced.key.clone(), if case.upserts() { 0 } else { i });
            let Some(value) = parsed else {
                table.remove(&key);
                continue;
            };
            let text = value.to_string();
            let old = table.insert(key, value);
            if old.is_some_and(|o| o["isFinal"] != false) {
                return Err(format!("a result after the final one: {text}"));
            }
            continue;
        }
        let value = parsed.ok_or("a side output without a value")?;
        let number = |name: &str| value[name].as_i64().ok_or_else(|| format!("no {name} in {value}"));
        if produced.topic == "rejects" && value["operator"].is_string() {
            got.refused += 1;
            continue;
        }
        let at = (number("partition")? as usize, number("offset")?);
        let doubled = match produced.topic {
            "late" => got.late.insert(at, number("lateByMs")?).is_some(),
            _ => {
                let (reason, by_guest) = (value["reason"].as_str().unwrap_or_default(), !value["plugin"].is_null());
                // A row that has waited is told with what it says, since its record is not kept.
                let waited = by_guest && value["value"].is_null();
                let reason = if waited { reason.split_once(": ").map_or(reason, |(_, reason)| reason) } else { reason };
                got.rejects.insert(at, (reason.to_owned(), by_guest)).is_some()
            }
        };
        if doubled {
            return Err(format!("row {at:?} is twice in {}", produced.topic));
        }
    }
    for value in table.values() {
        match case.last() {
            Shape::Rows => got.rows.push(value["v"].as_i64().ok_or_else(|| format!("no value in {value}"))?),
            Shape::Windows { .. } => got.windows.push(window(case, value)?),
            Shape::Process(_) => return Err(format!("not a row: {value}")),
        }
    }
    got.rows.sort_unstable();
    got.windows.sort();
    got.given.sort();
    Ok(got)
}

fn window(case: &Case, value: &Value) -> Result<(Window<Key>, Option<i64>), String> {
    // A key that is forgotten gives no last result.
    if case.upserts() && value["isFinal"] != true && case.last_ttl().is_none() {
        return Err(format!("not final in the end: {value}"));
    }
    let number = |name: &str| value[name].as_i64().ok_or_else(|| format!("no {name} in {value}"));
    let is_global = matches!(case.last(), Shape::Windows { kind: Kind::Global, .. });
    let (start, end) = if is_global { (i64::MIN, i64::MAX) } else { (number("window_start")?, number("window_end")?) };
    let key = value["k"].as_str().map(str::to_owned);
    Ok((Window { key, start, end, rows: number("count")?, sum: number("sum")? }, value["guest"].as_i64()))
}
