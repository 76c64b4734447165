//! Count windows: each `slide` rows of a key a result over its last `every` rows, as Flink's `countWindow(size, slide)`.
//!
//! A task does not know how many rows a key has had, so it gives each row a pane of its own: [`PaneId::start`] is the row's number among the
//! key's rows of this epoch and partition, [`PaneId::from`] the partition. The close of the epoch knows, and gives them the panes that
//! count: runs of a key's row numbers, from 0, as long as the greatest common divisor of `every` and `slide`.
//!
//! Rows of a key are in the order of their partition. Between partitions the order is that of epochs, which a replay need not repeat: keep
//! a key in one partition.

use super::{floor, gcd};
use crate::state::store::PaneId;

/// The pane of a key's number of rows so far; its state is 64 bits, little-endian.
pub const TOTAL: PaneId = PaneId { start: i64::MIN, from: i64::MIN };

/// Windows by row number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    every: i64,
    slide: i64,
    pane: i64,
}

impl Count {
    /// Windows of `every` rows, one each `slide`.
    pub fn new(every: i64, slide: i64) -> Self {
        let (every, slide) = (every.max(1), slide.clamp(1, every.max(1)));
        Self { every, slide, pane: gcd(every, slide) }
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

    /// Whether a key with `total` rows may as well begin anew.
    pub fn begins_anew(&self, total: i64) -> bool {
        self.every == self.slide && total % self.every == 0
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
            let count = Count::new(every, slide);
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
