//! Session windows: runs of a key's rows that are at most `gap` apart, `[first row, last row + gap)`.
//!
//! A pane is a slice of time as long as the gap: rows of a key in one slice are always of the same session, so they are folded together as
//! in any other window, and a session is a chain of slices (the slicing of Traub et al., "Efficient Window Aggregation with General Stream
//! Slicing", EDBT 2019). Rows exactly `gap` apart are of the same session, as in Flink's `TimeWindow.intersects` and Kafka Streams.
//!
//! Which session a row joins must not depend on how batches, epochs and partitions are cut. So it is as if rows came in the order of their
//! watermarks: a row joins the sessions that the watermark which it came at has not closed. That can only matter for a row that is behind its
//! watermark; it goes to a slice of its own, [`PaneId::from`] that watermark. All other rows touch no session that could have closed.
//! A row is late when the session of it alone would have closed.

use super::{Assigned, floor};
use crate::state::store::PaneId;

/// Of rows that are not behind their watermark.
pub const PLAIN: i64 = i64::MIN;

/// All fields are milliseconds; `gap` is greater than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    gap: i64,
    lateness: i64,
}

/// A slice of a key: its pane, and the times of its first and last row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Pane.
    pub pane: PaneId,
    /// Least event time.
    pub min: i64,
    /// Greatest event time.
    pub max: i64,
}

/// A session of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Time of the first row.
    pub min: i64,
    /// Time of the last row.
    pub max: i64,
    /// Its slices, by their index in what [`Session::chains`] was given.
    pub slices: Vec<usize>,
}

impl Session {
    /// Sessions that end `gap` after their last row and close `lateness` after their end.
    pub fn new(gap: i64, lateness: i64) -> Self {
        Self { gap: gap.max(1), lateness: lateness.max(0) }
    }

    /// Length of a slice, which is the gap.
    pub fn gap(&self) -> i64 {
        self.gap
    }

    /// A slice that starts at 0 holds no row whose session closes before this watermark.
    pub fn lag(&self) -> i64 {
        self.gap + self.lateness
    }

    /// The watermark that closes a session whose last row is at `max`.
    pub fn closes_at(&self, max: i64) -> i64 {
        max + self.gap + self.lateness
    }

    /// The slice of a row.
    pub fn assign(&self, time: i64, watermark: i64) -> Option<Assigned> {
        if self.closes_at(time) <= watermark {
            return None;
        }
        let start = floor(time, self.gap);
        let (from, until) = match time.saturating_add(self.lateness) > watermark {
            true => (PLAIN, start + self.lateness),
            false => (watermark, i64::MIN),
        };
        Some(Assigned { pane: PaneId { start, from }, start, end: start + self.gap, until })
    }

    /// The watermark from which on a row of `time` is late.
    pub fn late_from(&self, time: i64) -> i64 {
        self.closes_at(time)
    }

    /// Whether rows from `min` on could have joined a session that `closed` has closed, and `from` does not say so.
    pub fn is_stale(&self, pane: PaneId, min: i64, closed: i64) -> bool {
        pane.from < closed && min.saturating_add(self.lateness) <= closed
    }

    /// The sessions of one key's slices, those that have closed among them, by time.
    pub fn chains(&self, slices: &[Slice]) -> Vec<Chain> {
        let mut order: Vec<usize> = (0..slices.len()).collect();
        order.sort_unstable_by_key(|i| (slices[*i].pane.from, slices[*i].pane.start));
        let mut chains: Vec<Chain> = Vec::new();
        for i in order {
            let Slice { pane, min, max } = slices[i];
            let mut joined = Chain { min, max, slices: vec![i] };
            // Open ones do not touch each other, so what a slice joins is decided by the slice alone.
            chains.retain_mut(|c| {
                let joins = self.closes_at(c.max) > pane.from && c.min <= max + self.gap && min <= c.max + self.gap;
                if joins {
                    (joined.min, joined.max) = (joined.min.min(c.min), joined.max.max(c.max));
                    joined.slices.append(&mut c.slices);
                }
                !joins
            });
            chains.push(joined);
        }
        chains.sort_unstable_by_key(|c| (c.min, c.max));
        chains.iter_mut().for_each(|c| c.slices.sort_unstable());
        chains
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Rows one by one in the order of their watermarks, as the definition has it: sessions by (first, last, rows).
    fn one_by_one(gap: i64, lateness: i64, rows: &[(i64, i64)]) -> Vec<(i64, i64, usize)> {
        let mut rows = rows.to_vec();
        rows.sort_unstable_by_key(|(_, watermark)| *watermark);
        let mut sessions: Vec<(i64, i64, usize)> = Vec::new();
        for (time, watermark) in rows {
            let mut own = (time, time, 1);
            sessions.retain(|s| {
                let joins = s.1 + gap + lateness > watermark && s.0 <= time + gap && time <= s.1 + gap;
                if joins {
                    own = (own.0.min(s.0), own.1.max(s.1), own.2 + s.2);
                }
                !joins
            });
            sessions.push(own);
        }
        sessions.sort_unstable();
        sessions
    }

    #[test]
    fn slices_give_the_sessions_that_rows_one_by_one_give() {
        // A small generator with a fixed seed: times near each other, watermarks that rise, two partitions.
        let mut seed = 7u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..20_000 {
            let (gap, lateness) = (1 + next(8) as i64, next(4) as i64 * 2);
            let session = Session::new(gap, lateness);
            let mut rows = Vec::new();
            for _ in 0..2 {
                let mut watermark = i64::MIN;
                let out_of_order = next(6) as i64;
                for _ in 0..next(9) {
                    let time = next(50) as i64;
                    if session.assign(time, watermark).is_some() {
                        rows.push((time, watermark));
                    }
                    watermark = watermark.max(time - out_of_order);
                }
            }
            let mut slices: BTreeMap<PaneId, (Slice, usize)> = BTreeMap::new();
            for (time, watermark) in &rows {
                let pane = session.assign(*time, *watermark).unwrap().pane;
                let (slice, count) = slices.entry(pane).or_insert((Slice { pane, min: *time, max: *time }, 0));
                (slice.min, slice.max, *count) = (slice.min.min(*time), slice.max.max(*time), *count + 1);
            }
            let (slices, counts): (Vec<Slice>, Vec<usize>) = slices.into_values().unzip();
            let chains = session.chains(&slices);
            let mut got: Vec<_> =
                chains.iter().map(|c| (c.min, c.max, c.slices.iter().map(|i| counts[*i]).sum::<usize>())).collect();
            got.sort_unstable();
            assert_eq!(got, one_by_one(gap, lateness, &rows), "gap {gap} lateness {lateness} rows {rows:?}");
        }
    }

    #[test]
    fn a_slice_covers_only_rows_that_have_it() {
        let session = Session::new(10, 3);
        for first in -30..30 {
            for watermark in (-40..40).chain([i64::MIN]) {
                let Some(assigned) = session.assign(first, watermark) else { continue };
                for time in -30..30 {
                    for later in (-40..40).chain([i64::MIN]).filter(|w| assigned.covers(time, *w)) {
                        assert_eq!(session.assign(time, later).map(|a| a.pane), Some(assigned.pane));
                    }
                }
            }
        }
    }
}
