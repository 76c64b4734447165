//! Tumbling and hopping windows: `[start, start + duration)` with starts at `offset + n * slide`.
//!
//! A pane is a slice as long as the greatest common divisor of duration and slide, so that each window is a whole number of panes and a
//! row is folded once however many windows overlap it (Li et al., "No Pane, No Gain", SIGMOD Record 2005). A window's id is its start.

use super::{Aligned, floor, gcd};

/// All fields are milliseconds; durations are greater than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hopping {
    duration: i64,
    slide: i64,
    offset: i64,
    lateness: i64,
    pane: i64,
}

impl Hopping {
    /// Windows of `duration`, one each `slide`, aligned to `offset`, that close `lateness` after their end.
    pub fn new(duration: i64, slide: i64, offset: i64, lateness: i64) -> Self {
        let (duration, slide) = (duration.max(1), slide.clamp(1, duration.max(1)));
        Self { duration, slide, offset, lateness: lateness.max(0), pane: gcd(duration, slide) }
    }
}

impl Aligned for Hopping {
    fn pane(&self, time: i64) -> (i64, i64) {
        let start = floor(time - self.offset, self.pane) + self.offset;
        (start, start + self.pane)
    }

    fn first(&self, pane: i64) -> i64 {
        floor(pane - self.offset - self.duration, self.slide) + self.slide + self.offset
    }

    fn last(&self, pane: i64) -> i64 {
        floor(pane - self.offset, self.slide) + self.offset
    }

    fn next(&self, window: i64) -> i64 {
        window + self.slide
    }

    fn bounds(&self, window: i64) -> (i64, i64) {
        (window, window + self.duration)
    }

    fn closes_at(&self, window: i64) -> i64 {
        window + self.duration + self.lateness
    }

    fn first_open(&self, pane: i64, watermark: i64) -> i64 {
        let first = self.first(pane);
        if self.closes_at(first) > watermark {
            return first;
        }
        // The first window w = first + n * slide with closes_at(w) > watermark.
        first + ((watermark - self.closes_at(first)) / self.slide + 1) * self.slide
    }

    fn grid(&self) -> Option<(i64, i64)> {
        (self.pane < self.duration).then_some((self.pane, self.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EVENT_TIME_MAX, bounds_of, open_part};
    use super::*;

    /// The definition, window by window, against the arithmetic above.
    #[test]
    fn a_row_counts_in_the_windows_that_contain_it_and_are_open() {
        for (duration, slide, offset, lateness) in
            [(10, 10, 0, 0), (10, 5, 0, 0), (10, 4, 3, 0), (7, 3, -2, 5), (60, 10, 15, 20), (1, 1, 0, 0)]
        {
            let a = Hopping::new(duration, slide, offset, lateness);
            for time in -70..70 {
                for watermark in [i64::MIN, -100, -20, -1, 0, 1, 9, 10, 33, 200] {
                    let expected: Vec<(i64, i64)> = (-400..400)
                        .map(|n| n * slide + offset)
                        .filter(|w| *w <= time && time < w + duration && w + duration + lateness > watermark)
                        .map(|w| (w, w + duration))
                        .collect();
                    assert_eq!(bounds_of(&a, time, watermark), expected, "{a:?} time {time} watermark {watermark}");
                }
            }
        }
    }

    #[test]
    fn times_at_the_bounds_do_not_overflow() {
        let century = 3_155_760_000_000;
        for a in [Hopping::new(century, 1, century, century), Hopping::new(1, 1, 0, 0), Hopping::new(century, century, 0, 0)] {
            for t in [-EVENT_TIME_MAX, 0, EVENT_TIME_MAX] {
                assert!(open_part(&a, a.pane(t).0, i64::MIN).is_some());
                assert!(open_part(&a, a.pane(t).0, i64::MAX).is_none());
            }
        }
    }
}
