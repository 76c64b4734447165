//! Event time to panes and windows.
//!
//! Windows are `[start, start + duration)` with starts at `offset + n * slide`. A pane is a slice as long as the greatest common
//! divisor of duration and slide, so that each window is a whole number of panes and a row is folded once however many windows
//! overlap it (Li et al., "No Pane, No Gain", SIGMOD Record 2005).

use crate::state::store::PaneId;

/// Greatest distance of an event time from 1970: 100 million days, as in ECMAScript. Sums of it with any duration cannot overflow.
pub const EVENT_TIME_MAX: i64 = 8_640_000_000_000_000;

/// Tumbling and hopping windows over event time. All fields are milliseconds; durations are greater than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigner {
    duration: i64,
    slide: i64,
    offset: i64,
    lateness: i64,
    pane: i64,
}

impl Assigner {
    /// Windows of `duration`, one each `slide`, aligned to `offset`, that close `lateness` after their end.
    pub fn new(duration: i64, slide: i64, offset: i64, lateness: i64) -> Self {
        let (duration, slide) = (duration.max(1), slide.clamp(1, duration.max(1)));
        Self { duration, slide, offset, lateness: lateness.max(0), pane: gcd(duration, slide) }
    }

    /// Length of a pane.
    pub fn pane_length(&self) -> i64 {
        self.pane
    }

    /// Length of a window.
    pub fn duration(&self) -> i64 {
        self.duration
    }

    /// Start of the pane that `time` falls into.
    pub fn pane_start(&self, time: i64) -> i64 {
        floor(time - self.offset, self.pane) + self.offset
    }

    /// Start of the first window over the pane that starts at `pane`.
    pub fn first_window(&self, pane: i64) -> i64 {
        floor(pane - self.offset - self.duration, self.slide) + self.slide + self.offset
    }

    /// Start of the last window over the pane that starts at `pane`.
    pub fn last_window(&self, pane: i64) -> i64 {
        floor(pane - self.offset, self.slide) + self.offset
    }

    /// The watermark that closes the window that starts at `window`.
    pub fn closes_at(&self, window: i64) -> i64 {
        window + self.duration + self.lateness
    }

    /// The pane of a row: none when all windows of its time have closed at `watermark`; with a later `from` when some have.
    pub fn assign(&self, time: i64, watermark: i64) -> Option<PaneId> {
        self.open_part(self.pane_start(time), watermark)
    }

    /// The part of the pane at `start` that counts in windows which `watermark` has not closed.
    pub fn open_part(&self, start: i64, watermark: i64) -> Option<PaneId> {
        let (first, last) = (self.first_window(start), self.last_window(start));
        if self.closes_at(first) > watermark {
            return Some(PaneId { start, from: first });
        }
        // Told first, so that below a watermark at the end of time can't overflow.
        if self.closes_at(last) <= watermark {
            return None;
        }
        // The first window w = first + n * slide with closes_at(w) > watermark.
        let behind = watermark - self.closes_at(first);
        Some(PaneId { start, from: first + (behind / self.slide + 1) * self.slide })
    }

    /// Starts of the windows that the rows of `pane` count in.
    pub fn windows(&self, pane: PaneId) -> impl Iterator<Item = i64> + use<> {
        let (slide, last) = (self.slide, self.last_window(pane.start));
        (0..).map(move |n| pane.from + n * slide).take_while(move |w| *w <= last)
    }

    /// Whether all windows of a pane have closed at `watermark`.
    pub fn is_done(&self, pane: PaneId, watermark: i64) -> bool {
        self.closes_at(self.last_window(pane.start)) <= watermark
    }
}

/// The greatest multiple of `n` that is not above `t`.
fn floor(t: i64, n: i64) -> i64 {
    t.div_euclid(n) * n
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, window by window, against the arithmetic above.
    #[test]
    fn a_row_counts_in_the_windows_that_contain_it_and_are_open() {
        for (duration, slide, offset, lateness) in
            [(10, 10, 0, 0), (10, 5, 0, 0), (10, 4, 3, 0), (7, 3, -2, 5), (60, 10, 15, 20), (1, 1, 0, 0)]
        {
            let a = Assigner::new(duration, slide, offset, lateness);
            for time in -70..70 {
                for watermark in [i64::MIN, -100, -20, -1, 0, 1, 9, 10, 33, 200] {
                    let expected: Vec<i64> = (-400..400)
                        .map(|n| n * slide + offset)
                        .filter(|w| *w <= time && time < w + duration && w + duration + lateness > watermark)
                        .collect();
                    let got: Vec<i64> = a.assign(time, watermark).map(|p| a.windows(p).collect()).unwrap_or_default();
                    assert_eq!(got, expected, "{a:?} time {time} watermark {watermark}");
                }
            }
        }
    }

    #[test]
    fn times_at_the_bounds_do_not_overflow() {
        let century = 3_155_760_000_000;
        for a in [Assigner::new(century, 1, century, century), Assigner::new(1, 1, 0, 0), Assigner::new(century, century, 0, 0)] {
            for t in [-EVENT_TIME_MAX, 0, EVENT_TIME_MAX] {
                assert!(a.assign(t, i64::MIN).is_some());
                assert!(a.assign(t, i64::MAX).is_none());
            }
        }
    }
}
