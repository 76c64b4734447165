//! Count windows: each `slide` rows of a key a result over its last `every` rows, as Flink's `countWindow(size, slide)`.
//!
//! A task does not know how many rows a key has had, so it gives each row a pane of its own: [`PaneId::start`] is the row's number among the
//! key's rows of this epoch and partition, [`PaneId::from`] the partition. The close of the epoch knows, and gives them the panes that
//! count: runs of a key's row numbers, from 0, as long as the greatest common divisor of `every` and `slide`.
//!
//! Rows of a key are in the order of their partition. Between partitions the order is that of epochs, which a replay need not repeat: keep
//! a key in one partition.
//!
//! With a TTL a key begins anew once it is idle. Its rows are numbered on from the next multiple of `slide`, its base, so that no pane of the
//! life before has a number that one of the new life has; a window has rows from the base on only.

use super::{Assigned, floor, gcd};
use crate::state::store::PaneId;

/// The pane of what is known of a key's rows so far ([`crate::operator::counts`]).
pub const TOTAL: PaneId = PaneId { start: i64::MIN, from: i64::MIN };

/// Windows by row number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    every: i64,
    slide: i64,
    pane: i64,
    ttl: Option<i64>,
}

impl Count {
    /// Windows of `every` rows, one each `slide`; keys begin anew `ttl` milliseconds after their last event.
    pub fn new(every: i64, slide: i64, ttl: Option<i64>) -> Self {
        let (every, slide) = (every.max(1), slide.clamp(1, every.max(1)));
        Self { every, slide, pane: gcd(every, slide), ttl: ttl.map(|ttl| ttl.max(1)) }
    }

    /// The watermark from which on a key whose last event was at `last` begins anew; [`i64::MAX`] where none does.
    pub fn ends_at(&self, last: i64) -> i64 {
        self.ttl.map_or(i64::MAX, |ttl| last.saturating_add(ttl))
    }

    /// Whether idle keys begin anew.
    pub fn forgets(&self) -> bool {
        self.ttl.is_some()
    }

    /// The pane of a row before it has a number; none where it is late: its key would have begun anew since.
    pub fn assign(&self, time: i64, passed: i64) -> Option<Assigned> {
        let until = if self.ttl.is_some() { i64::MIN } else { i64::MAX };
        let is_late = self.ttl.is_some() && self.ends_at(time) <= passed;
        (!is_late).then_some(Assigned { pane: TOTAL, start: i64::MIN, end: i64::MAX, until })
    }

    /// Rows of a pane.
    pub fn pane_rows(&self) -> i64 {
        self.pane
    }

    /// The number of the first row of a key that begins anew after `total` rows.
    pub fn base(&self, total: i64) -> i64 {
        floor(total + self.slide - 1, self.slide)
    }

    /// The pane of a key's row `number`, counted over all epochs.
    pub fn pane(&self, number: i64) -> PaneId {
        let start = floor(number, self.pane);
        PaneId { start, from: start }
    }

    /// The row numbers of the windows that get full as a key's rows go from `before` to `after`; where the input `ended`, of all that are left.
    pub fn full(&self, before: i64, after: i64, ended: bool) -> Vec<(i64, i64)> {
        let mut windows = Vec::new();
        let mut end = self.next_end(before);
        while if ended { end - self.every < after } else { end <= after } {
            windows.push((end - self.every, end));
            end += self.slide;
        }
        windows
    }

    /// The panes of the rows `start..end`.
    pub fn panes(&self, start: i64, end: i64) -> impl Iterator<Item = PaneId> + use<> {
        let (first, pane) = (floor(start.max(0), self.pane), self.pane);
        (0..).map(move |n| first + n * pane).take_while(move |start| *start < end).map(|start| PaneId { start, from: start })
    }

    /// The panes that no window needs any more as a key's rows go from `before` to `after`.
    pub fn done(&self, before: i64, after: i64) -> impl Iterator<Item = PaneId> + use<> {
        self.panes(self.next_end(before) - self.every, self.next_end(after) - self.every)
    }

    /// The panes that hold rows of windows which are not full at `total` rows of a key with this base.
    pub fn held(&self, base: i64, total: i64) -> impl Iterator<Item = PaneId> + use<> {
        self.panes((self.next_end(total) - self.every).max(base), total)
    }

    /// Whether a key with `total` rows may as well begin anew. With a TTL it does not: each beginning sets a timer.
    pub fn begins_anew(&self, total: i64) -> bool {
        self.ttl.is_none() && self.every == self.slide && total % self.every == 0
    }

    /// The end of the first window that is not full at `total` rows.
    fn next_end(&self, total: i64) -> i64 {
        floor(total, self.slide) + self.slide
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slide_gives_a_window_of_the_last_rows() {
        for (every, slide) in [(3, 3), (4, 2), (5, 3), (1, 1), (6, 4)] {
            let count = Count::new(every, slide, None);
            let window = |end: i64| (end - every, end);
            for before in 0..20 {
                for after in before..25 {
                    let expected: Vec<(i64, i64)> = (before + 1..=after).filter(|e| e % slide == 0).map(window).collect();
                    assert_eq!(count.full(before, after, false), expected, "{every} by {slide}: {before} to {after}");
                    let left: Vec<(i64, i64)> =
                        (before + 1..after + every).filter(|e| e % slide == 0).map(window).filter(|w| w.0 < after).collect();
                    assert_eq!(count.full(before, after, true), left);
                    let to_come = (after + 1..after + 50).filter(|e| e % slide == 0).map(window);
                    let needed: Vec<PaneId> = to_come.flat_map(|(start, end)| count.panes(start, end)).collect();
                    assert!(count.done(before, after).all(|pane| !needed.contains(&pane)));
                    let done: Vec<PaneId> = count.done(0, after).collect();
                    assert!(count.panes(0, after).all(|pane| needed.contains(&pane) || done.contains(&pane)));
                }
            }
        }
    }
}
