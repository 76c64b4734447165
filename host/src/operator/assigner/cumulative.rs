//! Cumulative windows: each `size` begins anew and gives a result each `step`: `[start, start + step)`, `[start, start + 2 * step)`, up
//! to `[start, start + size)`. Flink's `CUMULATE`.
//!
//! A pane is a step, shared by the windows that end with it or after it. A window's id is the start of its last pane.

use super::{Aligned, floor};

/// All fields are milliseconds; `size` is a multiple of `step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cumulative {
    size: i64,
    step: i64,
    offset: i64,
    lateness: i64,
}

impl Cumulative {
    /// Windows up to `size` with a result each `step`, aligned to `offset`, that close `lateness` after their end.
    pub fn new(size: i64, step: i64, offset: i64, lateness: i64) -> Self {
        let step = step.max(1);
        Self { size: (size / step).max(1) * step, step, offset, lateness: lateness.max(0) }
    }

    fn start(&self, time: i64) -> i64 {
        floor(time - self.offset, self.size) + self.offset
    }
}

impl Aligned for Cumulative {
    fn pane(&self, time: i64) -> (i64, i64) {
        let start = floor(time - self.offset, self.step) + self.offset;
        (start, start + self.step)
    }

    fn first(&self, pane: i64) -> i64 {
        pane
    }

    fn last(&self, pane: i64) -> i64 {
        self.start(pane) + self.size - self.step
    }

    fn next(&self, window: i64) -> i64 {
        window + self.step
    }

    fn bounds(&self, window: i64) -> (i64, i64) {
        (self.start(window), window + self.step)
    }

    fn closes_at(&self, window: i64) -> i64 {
        window + self.step + self.lateness
    }

    fn first_open(&self, pane: i64, watermark: i64) -> i64 {
        if self.closes_at(pane) > watermark {
            return pane;
        }
        pane + ((watermark - self.closes_at(pane)) / self.step + 1) * self.step
    }

    fn grid(&self) -> Option<(i64, i64)> {
        (self.step < self.size).then_some((self.step, self.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::super::bounds_of;
    use super::*;

    /// The definition, window by window, against the arithmetic above.
    #[test]
    fn a_row_counts_in_the_windows_that_contain_it_and_are_open() {
        for (size, step, offset, lateness) in [(10, 10, 0, 0), (10, 5, 0, 0), (12, 3, 2, 0), (20, 4, -3, 6)] {
            let a = Cumulative::new(size, step, offset, lateness);
            for time in -50..50 {
                for watermark in [i64::MIN, -40, -3, 0, 1, 7, 10, 33, 200] {
                    let mut expected = Vec::new();
                    for start in (-20..20).map(|n| n * size + offset) {
                        for end in (1..=size / step).map(|n| start + n * step) {
                            if start <= time && time < end && end + lateness > watermark {
                                expected.push((start, end));
                            }
                        }
                    }
                    assert_eq!(bounds_of(&a, time, watermark), expected, "{a:?} time {time} watermark {watermark}");
                }
            }
        }
    }
}
