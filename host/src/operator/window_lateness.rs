//! How long after the ends of their windows rows come: a histogram a window, of so many windows at most.
//!
//! In: each row with an event time, and the watermark that lateness is decided by. Out: for the windows that end last a
//! [`Lateness`] each, and one of all before them together.
//!
//! A row is counted once, by the first of the windows that it belongs to: what `allowedLateness` must be longer than for the row to count
//! in all of them. Sessions are a key's own, so they are told of by slices as long as the gap: a row counts by the session of it alone.
//! Where a row has no window that the watermark closes (count, global, processing time) there is nothing to tell.

use crate::operator::assigner::Assigner;
use crate::operator::lateness::Lateness;

/// Windows that have a histogram of their own; those that end before them share one.
pub const WINDOWS_KEPT: usize = 32;

/// A window or, of sessions, a slice. Milliseconds since 1970 UTC; by end, then by start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bounds {
    /// After its last row.
    pub end: i64,
    /// First time.
    pub start: i64,
}

/// Rows by window and by how long after its end they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowLateness {
    /// Ascending, at most [`WINDOWS_KEPT`].
    recent: Vec<(Bounds, Lateness)>,
    older: Lateness,
}

impl WindowLateness {
    /// The windows that end last, ascending.
    pub fn recent(&self) -> &[(Bounds, Lateness)] {
        &self.recent
    }

    /// All windows before those.
    pub fn older(&self) -> &Lateness {
        &self.older
    }

    /// Takes another's windows in.
    pub fn add(&mut self, other: &Self) {
        self.older.add(&other.older);
        other.recent.iter().for_each(|(bounds, rows)| self.of(*bounds).add(rows));
    }

    /// The histogram that a window's rows go to.
    fn of(&mut self, bounds: Bounds) -> &mut Lateness {
        let at = match self.recent.binary_search_by_key(&bounds, |(bounds, _)| *bounds) {
            Ok(at) => return &mut self.recent[at].1,
            Err(0) if self.recent.len() == WINDOWS_KEPT => return &mut self.older,
            Err(at) if self.recent.len() == WINDOWS_KEPT => {
                let (_, oldest) = self.recent.remove(0);
                self.older.add(&oldest);
                at - 1
            }
            Err(at) => at,
        };
        self.recent.insert(at, (bounds, Lateness::default()));
        &mut self.recent[at].1
    }
}

/// How late the rows of an operator came, of an epoch or since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowLateness {
    /// Behind the watermark.
    pub behind: Lateness,
    /// After the ends of their windows.
    pub windows: WindowLateness,
    /// Rows that were set aside as late.
    pub late: u64,
}

impl RowLateness {
    /// Takes another's rows in.
    pub fn add(&mut self, other: &Self) {
        self.behind.add(&other.behind);
        self.windows.add(&other.windows);
        self.late += other.late;
    }
}

/// Counts the rows of a batch. Rows next to each other mostly share a window, so that is looked up once.
pub struct Tally<'a> {
    assigner: &'a Assigner,
    /// None where no window closes by the watermark.
    windows: Option<&'a mut WindowLateness>,
    behind: &'a mut Lateness,
    rows: usize,
    /// The times that the run at hand spans, its window, and how many rows it has.
    run: (i64, i64, Bounds, usize),
}

impl<'a> Tally<'a> {
    /// Of rows whose windows `assigner` knows, into `lateness`.
    pub fn new(assigner: &'a Assigner, processing_time: bool, lateness: &'a mut RowLateness) -> Self {
        let told = !processing_time && assigner.first_window(0).is_some();
        let run = (0, 0, Bounds { end: 0, start: 0 }, 0);
        Self { assigner, windows: told.then_some(&mut lateness.windows), behind: &mut lateness.behind, rows: 0, run }
    }

    /// A row of `time` came at `watermark`.
    #[inline]
    pub fn row(&mut self, time: i64, watermark: i64) {
        self.rows += 1;
        if time < watermark {
            self.behind.behind(watermark - time);
        }
        if self.windows.is_some() {
            if !(self.run.0 <= time && time < self.run.1) {
                self.turn(time);
            }
            self.run.3 += 1;
            if self.run.2.end <= watermark {
                self.after_end(time, watermark);
            }
        }
    }

    /// Begins the run of another window.
    fn turn(&mut self, time: i64) {
        self.flush();
        if let Some((from, until, bounds)) = self.assigner.first_window(time) {
            self.run = (from, until, bounds, 0);
        }
    }

    #[cold]
    fn after_end(&mut self, time: i64, watermark: i64) {
        // A window at whose end the watermark stands is closed: it takes a millisecond of lateness to keep it open.
        let end = self.assigner.first_end(time).unwrap_or(self.run.2.end);
        if let (true, Some(windows)) = (end <= watermark, self.windows.as_mut()) {
            windows.of(self.run.2).behind(watermark.saturating_sub(end).saturating_add(1));
        }
    }

    fn flush(&mut self) {
        if let (1.., Some(windows)) = (self.run.3, self.windows.as_mut()) {
            windows.of(self.run.2).saw(self.run.3);
        }
        self.run.3 = 0;
    }

    /// All rows of the batch have come.
    pub fn end(mut self) {
        self.flush();
        self.behind.saw(self.rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::WindowKind;
    use std::time::Duration;

    /// Rows as (time, watermark), by windows that allow an hour of lateness.
    fn told(kind: &WindowKind, rows: &[(i64, i64)]) -> RowLateness {
        let assigner = Assigner::new(kind, Duration::ZERO, Duration::from_secs(3_600), None);
        let mut lateness = RowLateness::default();
        let mut tally = Tally::new(&assigner, false, &mut lateness);
        rows.iter().for_each(|(time, watermark)| tally.row(*time, *watermark));
        tally.end();
        lateness
    }

    fn hopping(duration: u64, slide: u64) -> WindowKind {
        WindowKind::Hopping { duration: Duration::from_millis(duration), slide: Duration::from_millis(slide) }
    }

    /// Windows as (start, end, rows, rows after the end, longest after it).
    fn windows(lateness: &RowLateness) -> Vec<(i64, i64, u64, u64, i64)> {
        let each = |(w, l): &(Bounds, Lateness)| (w.start, w.end, l.rows(), l.rows_behind(), l.max_ms());
        lateness.windows.recent().iter().map(each).collect()
    }

    #[test]
    fn rows_count_in_the_first_of_their_windows() {
        let rows = [(5, i64::MIN), (15, 5), (6, 10), (7, 9), (3, 12), (15, 12)];
        let tumbling = told(&hopping(10, 10), &rows);
        // A watermark of 10 closes [0, 10) unless lateness is more than 0.
        assert_eq!(windows(&tumbling), [(0, 10, 4, 2, 3), (10, 20, 2, 0, 0)]);
        assert_eq!((tumbling.behind.rows(), tumbling.behind.rows_behind()), (6, 3));
        assert_eq!(tumbling.windows.recent()[0].1.keeping(750), Some(1));
        // [-10, 10) is the first window of [0, 10): the second one may still be whole.
        assert_eq!(windows(&told(&hopping(20, 10), &rows)), [(-10, 10, 4, 2, 3), (0, 20, 2, 0, 0)]);
        let cumulative = WindowKind::Cumulative { size: Duration::from_millis(20), step: Duration::from_millis(10) };
        assert_eq!(windows(&told(&cumulative, &rows)), [(0, 10, 4, 2, 3), (0, 20, 2, 0, 0)]);
        // The session of a row at 3 ends at 13, of one at 6 at 16.
        let session = WindowKind::Session { gap: Duration::from_millis(10) };
        assert_eq!(windows(&told(&session, &[(6, 15), (6, 16), (3, 20)])), [(0, 10, 3, 2, 8)]);
    }

    #[test]
    fn windows_that_never_close_have_none() {
        let rows = [(1, 5), (2, 9)];
        let count = WindowKind::Count { every: 2, slide: 2 };
        for kind in [WindowKind::Global, count] {
            let lateness = told(&kind, &rows);
            assert_eq!((windows(&lateness).len(), lateness.behind.rows_behind()), (0, 2));
        }
    }

    #[test]
    fn of_many_windows_the_last_are_kept_and_the_others_folded() {
        let rows: Vec<(i64, i64)> = (0..1_000).map(|n| ((n * 387 % 1_000) * 10, 5_000)).collect();
        let whole = told(&hopping(10, 10), &rows);
        let starts: Vec<i64> = whole.windows.recent().iter().map(|(w, _)| w.start).collect();
        assert_eq!(starts, (1_000 - WINDOWS_KEPT as i64..1_000).map(|n| n * 10).collect::<Vec<_>>());
        assert_eq!(whole.windows.older().rows(), 1_000 - WINDOWS_KEPT as u64);
        // Windows up to [4990, 5000) have ended at 5000.
        assert_eq!((whole.windows.older().rows_behind(), whole.windows.older().max_ms()), (500, 4_991));
        // And it is the same in parts.
        let mut parts = RowLateness::default();
        rows.chunks(7).for_each(|rows| parts.add(&told(&hopping(10, 10), rows)));
        assert_eq!(parts, whole);
    }
}
