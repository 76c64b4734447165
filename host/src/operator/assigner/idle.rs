//! The global window of keys that are forgotten when they are idle: a key's own windows, its lives.
//!
//! A life of a key is all its rows until nothing has updated it for the TTL: until the watermark reaches its last event time + TTL. The next
//! row begins the next life. What a row finds must not depend on how batches, epochs and partitions are cut, so each row is judged by the
//! watermark that it makes itself (of its own partition, or what has been closed already where that is later), and it is as if rows
//! came in the order of those watermarks. A row that lies more than the TTL behind is late: the life of it alone would be over.
//!
//! Rows are folded by a pane of their own until the close of the epoch knows which life they are of: [`PaneId::start`] is the watermark
//! rounded down to a multiple of the TTL. Rows of a key in one pane are always of the same life: each row from that start on keeps it alive for
//! as long as the pane. Rows before it have a pane for each watermark, [`PaneId::from`].

use super::session::PLAIN;
use super::{Assigned, floor};
use crate::state::store::PaneId;
use std::ops::Range;

/// The pane of a key's life that the job's watermark is in.
pub const LIVE: PaneId = PaneId { start: i64::MIN, from: i64::MIN };

/// Milliseconds; greater than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    ttl: i64,
}

/// Rows of a key that are of one life: the least watermark that one of them made, and their greatest event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Least watermark.
    pub since: i64,
    /// Greatest event time.
    pub last: i64,
}

impl Idle {
    /// Keys are forgotten `ttl` after their last event.
    pub fn new(ttl: i64) -> Self {
        Self { ttl: ttl.max(1) }
    }

    /// The watermark that ends a life whose last event was at `last`.
    pub fn ends_at(&self, last: i64) -> i64 {
        last.saturating_add(self.ttl)
    }

    /// The pane of a row that makes the watermark `passed`.
    pub fn assign(&self, time: i64, passed: i64) -> Option<Assigned> {
        if self.ends_at(time) <= passed {
            return None;
        }
        let start = floor(passed, self.ttl);
        let (from, until) = if time >= start { (PLAIN, start + self.ttl) } else { (passed, i64::MIN) };
        Some(Assigned { pane: PaneId { start, from }, start, end: i64::MAX, until })
    }

    /// The pane of a life that begins ahead of the job's watermark.
    pub fn pending(&self, since: i64) -> PaneId {
        PaneId { start: floor(since, self.ttl), from: since }
    }

    /// The lives of one key: runs of its parts, which are in the order of [`Part::since`].
    pub fn lives(&self, parts: &[Part]) -> Vec<(Range<usize>, Part)> {
        let mut lives: Vec<(Range<usize>, Part)> = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            match lives.last_mut() {
                Some((range, life)) if self.ends_at(life.last) > part.since => {
                    range.end = i + 1;
                    life.last = life.last.max(part.last);
                }
                _ => lives.push((i..i + 1, *part)),
            }
        }
        lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Rows one by one in the order of their watermarks, as the definition has it: lives by (first watermark, last event, rows).
    fn one_by_one(ttl: i64, rows: &[(i64, i64)]) -> Vec<(i64, i64, usize)> {
        let mut rows = rows.to_vec();
        rows.sort_unstable_by_key(|(_, passed)| *passed);
        let mut lives: Vec<(i64, i64, usize)> = Vec::new();
        for (time, passed) in rows {
            match lives.last_mut().filter(|life| life.1 + ttl > passed) {
                Some(life) => (life.1, life.2) = (life.1.max(time), life.2 + 1),
                None => lives.push((passed, time, 1)),
            }
        }
        lives
    }

    #[test]
    fn panes_give_the_lives_that_rows_one_by_one_give() {
        // A small generator with a fixed seed: times that mostly rise, two partitions.
        let mut seed = 11u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let mut several = 0;
        for _ in 0..20_000 {
            let idle = Idle::new(1 + next(12) as i64);
            let mut rows = Vec::new();
            for _ in 0..2 {
                let (mut passed, mut at) = (i64::MIN, 0);
                let out_of_order = next(6) as i64;
                for _ in 0..next(9) {
                    at += next(8) as i64;
                    let time = at - next(14) as i64;
                    passed = passed.max(time - out_of_order);
                    if idle.assign(time, passed).is_some() {
                        rows.push((time, passed));
                    }
                }
            }
            let mut panes: BTreeMap<PaneId, (Part, usize)> = BTreeMap::new();
            for (time, passed) in &rows {
                let pane = idle.assign(*time, *passed).unwrap().pane;
                let (part, count) = panes.entry(pane).or_insert((Part { since: *passed, last: *time }, 0));
                (part.since, part.last, *count) = (part.since.min(*passed), part.last.max(*time), *count + 1);
            }
            let mut parts: Vec<(Part, usize)> = panes.into_values().collect();
            parts.sort_unstable_by_key(|(part, _)| part.since);
            let only: Vec<Part> = parts.iter().map(|(part, _)| *part).collect();
            let lives = idle.lives(&only);
            let got: Vec<_> = lives.iter().map(|(r, p)| (p.since, p.last, parts[r.clone()].iter().map(|p| p.1).sum())).collect();
            several += usize::from(got.len() > 1);
            assert_eq!(got, one_by_one(idle.ttl, &rows), "{idle:?} rows {rows:?}");
        }
        assert!(several > 1_000, "lives of more than one a key are rare: {several}");
    }

    #[test]
    fn a_pane_covers_only_rows_that_have_it() {
        let idle = Idle::new(10);
        for first in -30..30 {
            for passed in -40..40 {
                let Some(assigned) = idle.assign(first, passed) else { continue };
                for time in -30..30 {
                    for later in (passed..40).filter(|w| assigned.covers(time, *w)) {
                        assert_eq!(idle.assign(time, later).map(|a| a.pane), Some(assigned.pane));
                    }
                }
            }
        }
    }
}
