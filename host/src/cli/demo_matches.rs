//! The demo's matches: what came of the pipeline, and the same worked out from the events themselves.

use super::demo_events::{Events, is_typed};
use crate::output::OutRecord;
use crate::runtime::job::Committed;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How far out of order swipes may come: `watermark` of the pipeline.
const OUT_OF_ORDERNESS_MS: i64 = 3_000;
/// Matches shown, the last ones.
const SHOWN: usize = 5;
/// The version that is dropped in.
const NEW: &str = "match_detection@1.1.0";

/// Swiper, swipee, time.
pub type Match = (u64, u64, i64);

/// Matches that were committed.
#[derive(Default)]
pub struct Matches {
    found: BTreeSet<Match>,
    /// Given more than once.
    twice: u64,
    /// The last ones.
    pub last: VecDeque<Value>,
    /// What runs.
    pub version: String,
    /// Watermark up to which the old version was given swipes.
    old_until: i64,
    /// Matches of the new version whose first like the old one was given.
    pub carried: u64,
    /// The first of them, and how long after the new version was dropped in.
    pub first_carried: Option<(Duration, String)>,
}

impl Matches {
    /// An epoch was committed; the new version may lie in the folder since `dropped_at`.
    pub fn epoch(&mut self, epoch: &Committed<'_>, dropped_at: Option<Instant>) {
        self.version = epoch.plan.guests.first().map_or_else(String::new, |g| format!("{}@{}", g.plugin, g.version));
        for record in epoch.outputs {
            self.result(record, dropped_at);
        }
        if self.version != NEW {
            self.old_until = epoch.closed;
        }
    }

    fn result(&mut self, record: &OutRecord, dropped_at: Option<Instant>) {
        let Ok(row) = serde_json::from_slice::<Value>(&record.value) else { return };
        let user = |name: &str| row[name].as_str().and_then(|id| id.parse().ok()).unwrap_or(u64::MAX);
        let at = row["ts"].as_i64().unwrap_or(i64::MIN);
        self.twice += u64::from(!self.found.insert((user("swiper"), user("swipee"), at)));
        if row["waited_ms"].as_i64().is_some_and(|waited| at - waited < self.old_until) {
            self.carried += 1;
            let after = dropped_at.map(|at| at.elapsed()).unwrap_or_default();
            self.first_carried.get_or_insert_with(|| (after, String::from_utf8_lossy(&record.value).into_owned()));
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(row);
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// Whether they are those that are expected, each once.
    pub fn are(&self, expected: &BTreeSet<Match>) -> bool {
        self.twice == 0 && self.found == *expected
    }
}

/// A swipe in the order in which it counts: by time; where times are the same, by partition and offset.
type Swipe = (i64, usize, i64, u64, u64, bool);

/// The matches of the demo's events, by another JSON parser, without epochs or a plugin.
pub fn expected(events: &Events) -> BTreeSet<Match> {
    let mut watermarks: HashMap<usize, i64> = HashMap::new();
    let mut swipes: Vec<Swipe> = Vec::new();
    for (partition, event) in events.all() {
        let value: Option<Value> = event.value.as_deref().and_then(|v| serde_json::from_slice(v).ok());
        let Some(value) = value.filter(is_typed) else { continue };
        let Some(time) = value["st"].as_i64() else { continue };
        let watermark = watermarks.entry(partition).or_insert(i64::MIN);
        let is_late = time < *watermark;
        *watermark = (*watermark).max(time - OUT_OF_ORDERNESS_MS);
        let (user, other) = (value["userId"].as_u64(), value["properties"]["targetUserId"].as_u64());
        if let (Some(user), Some(other), "Swipe.like" | "Swipe.pass") = (user, other, value["name"].as_str().unwrap_or_default())
            && !is_late
            && user != other
        {
            swipes.push((time, partition, event.offset, user, other, value["name"] == "Swipe.like"));
        }
    }
    swipes.sort_unstable();
    matches(&swipes)
}

fn matches(swipes: &[Swipe]) -> BTreeSet<Match> {
    // What each has said of the other last, and when.
    let mut said: HashMap<(u64, u64), (i64, bool)> = HashMap::new();
    let mut matched: HashMap<(u64, u64), Match> = HashMap::new();
    for (time, .., user, other, likes) in swipes {
        match said.get(&(*user, *other)) {
            Some((last, _)) if time <= last => continue,
            _ => drop(said.insert((*user, *other), (*time, *likes))),
        }
        if *likes && said.get(&(*other, *user)).is_some_and(|(_, likes)| *likes) {
            matched.entry((*user.min(other), *user.max(other))).or_insert((*user, *other, *time));
        }
    }
    matched.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_matches_once_by_the_last_word_of_each() {
        let swipes = |all: &[(u64, u64, bool)]| -> Vec<Match> {
            let swipe = |(at, (user, other, likes)): (usize, &(u64, u64, bool))| (at as i64, 0, 0, *user, *other, *likes);
            matches(&all.iter().enumerate().map(swipe).collect::<Vec<_>>()).into_iter().collect()
        };
        assert_eq!(swipes(&[(2, 1, true), (1, 2, true), (2, 1, true), (1, 2, true)]), [(1, 2, 1)]);
        assert_eq!(swipes(&[(2, 1, true), (2, 1, false), (1, 2, true)]), []);
        assert_eq!(swipes(&[(2, 1, true), (2, 1, false), (1, 2, true), (2, 1, true)]), [(2, 1, 3)]);
    }
}
