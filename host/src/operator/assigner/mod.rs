//! Event time to panes and windows: a file a kind of window.
//!
//! Kinds whose windows are the same for all keys are [`Aligned`]: a window is a run of panes, and windows that overlap share them.
//! Sessions are a key's own ([`session::Session`]): a pane is a slice of time, and what a window is follows from the key's slices. So are
//! count windows ([`count::Count`]), and global ones of keys that are forgotten when idle ([`idle::Idle`]).
//! **Invariant**: arithmetic only: no state, no clock.

pub mod calendar;
pub mod count;
pub mod cumulative;
pub mod global;
pub mod hopping;
pub mod idle;
pub mod session;

use crate::config::spec::WindowKind;
use crate::operator::window_lateness::Bounds;
use crate::state::store::PaneId;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// Greatest distance of an event time from 1970: 100 million days, as in ECMAScript. Sums of it with any duration cannot overflow.
pub const EVENT_TIME_MAX: i64 = 8_640_000_000_000_000;

/// A row's pane, and which other rows have the same: those of a time in `[start, end)` that come at a watermark below `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The pane.
    pub pane: PaneId,
    /// Least time.
    pub start: i64,
    /// Time after the last.
    pub end: i64,
    /// Watermark from which on the pane is another one.
    pub until: i64,
}

impl Assigned {
    /// Whether a row of `time` that comes at `watermark` has this pane.
    #[inline]
    pub fn covers(&self, time: i64, watermark: i64) -> bool {
        self.start <= time && time < self.end && watermark < self.until
    }
}

/// Windows that are the same for all keys. All times are milliseconds since 1970 UTC.
///
/// A window is known by a number, its id, that ascends with its end; [`Self::bounds`] says where it lies. Its panes are those that start
/// within its bounds. The windows over a pane are `first(pane)..=last(pane)` by [`Self::next`].
pub trait Aligned: Debug + Send + Sync {
    /// Start and end of the pane that `time` falls into.
    fn pane(&self, time: i64) -> (i64, i64);
    /// The first window over the pane that starts at `pane`.
    fn first(&self, pane: i64) -> i64;
    /// The last window over the pane that starts at `pane`.
    fn last(&self, pane: i64) -> i64;
    /// The window after `window`; the same where there is none.
    fn next(&self, window: i64) -> i64;
    /// Start and end of a window.
    fn bounds(&self, window: i64) -> (i64, i64);
    /// The watermark that closes a window: its end and the allowed lateness.
    fn closes_at(&self, window: i64) -> i64;
    /// The first window over the pane that `watermark` has not closed; there must be one.
    fn first_open(&self, pane: i64, watermark: i64) -> i64 {
        let mut window = self.first(pane);
        while self.closes_at(window) <= watermark {
            let next = self.next(window);
            if next <= window {
                break;
            }
            window = next;
        }
        window
    }
    /// Length of a pane and a time at which one starts, where all panes are as long and a window has several.
    fn grid(&self) -> Option<(i64, i64)> {
        None
    }
    /// The watermark up to which a finished input closes windows: behind it a later run of the job goes on.
    fn last_close(&self, pane: i64) -> Option<i64> {
        Some(self.closes_at(self.last(pane)))
    }
}

/// The part of the pane at `pane` that counts in windows which `watermark` has not closed.
pub fn open_part(windows: &dyn Aligned, pane: i64, watermark: i64) -> Option<PaneId> {
    let first = windows.first(pane);
    if windows.closes_at(first) > watermark {
        return Some(PaneId { start: pane, from: first });
    }
    if windows.closes_at(windows.last(pane)) <= watermark {
        return None;
    }
    Some(PaneId { start: pane, from: windows.first_open(pane, watermark) })
}

/// Windows that the rows of `pane` count in, ascending.
pub fn windows_of(windows: &dyn Aligned, pane: PaneId) -> impl Iterator<Item = i64> {
    let last = windows.last(pane.start);
    std::iter::successors(Some(pane.from), |w| Some(windows.next(*w)).filter(|next| next > w)).take_while(move |w| *w <= last)
}

/// Whether all windows of a pane have closed at `watermark`.
pub fn is_done(windows: &dyn Aligned, pane: PaneId, watermark: i64) -> bool {
    windows.closes_at(windows.last(pane.start)) <= watermark
}

/// The windows of a pipeline.
#[derive(Clone, Debug)]
pub enum Assigner {
    /// The same for all keys.
    Aligned(Arc<dyn Aligned>),
    /// A key's own.
    Session(session::Session),
    /// A key's own, by row number.
    Count(count::Count),
    /// A key's own, as long as the key is not idle.
    Idle(idle::Idle),
}

impl Assigner {
    /// The windows of a kind, aligned to `offset`, that close `lateness` after their end; those that never close forget a key that is idle
    /// for `ttl`.
    pub fn new(kind: &WindowKind, offset: Duration, lateness: Duration, ttl: Option<Duration>) -> Self {
        let ms = |d: &Duration| d.as_millis() as i64;
        let ttl = ttl.as_ref().map(ms);
        let (offset, lateness) = (ms(&offset), ms(&lateness));
        match kind {
            WindowKind::Hopping { duration, slide } => {
                Self::Aligned(Arc::new(hopping::Hopping::new(ms(duration), ms(slide), offset, lateness)))
            }
            WindowKind::Cumulative { size, step } => {
                Self::Aligned(Arc::new(cumulative::Cumulative::new(ms(size), ms(step), offset, lateness)))
            }
            WindowKind::Calendar { unit, count, zone } => {
                Self::Aligned(Arc::new(calendar::Calendar::new(*unit, *count, *zone, offset, lateness)))
            }
            WindowKind::Count { every, slide } => Self::Count(count::Count::new(*every as i64, *slide as i64, ttl)),
            WindowKind::Global => match ttl {
                None => Self::Aligned(Arc::new(global::Global)),
                Some(ttl) => Self::Idle(idle::Idle::new(ttl)),
            },
            WindowKind::Session { gap } => Self::Session(session::Session::new(ms(gap), lateness)),
        }
    }

    /// The pane of a row: none when `watermark` has closed all windows of its time. Where keys are forgotten, `watermark` is the one that
    /// the row itself makes.
    pub fn assign(&self, time: i64, watermark: i64) -> Option<Assigned> {
        match self {
            Self::Aligned(windows) => {
                let windows = windows.as_ref();
                let (start, end) = windows.pane(time);
                let pane = open_part(windows, start, watermark)?;
                let first = windows.first(start);
                let until = if pane.from == first { windows.closes_at(first) } else { i64::MIN };
                Some(Assigned { pane, start, end, until })
            }
            Self::Session(session) => session.assign(time, watermark),
            // The task numbers the rows.
            Self::Count(count) => count.assign(time, watermark),
            Self::Idle(idle) => idle.assign(time, watermark),
        }
    }

    /// Start and end of a pane; of row numbers where windows are counted.
    pub fn pane_bounds(&self, pane: PaneId) -> (i64, i64) {
        match self {
            Self::Aligned(windows) => windows.pane(pane.start),
            Self::Session(session) => (pane.start, pane.start.saturating_add(session.gap())),
            Self::Count(_) if pane == count::TOTAL => (i64::MIN, i64::MAX),
            Self::Count(count) => (pane.start, pane.start.saturating_add(count.pane_rows())),
            Self::Idle(_) => (i64::MIN, i64::MAX),
        }
    }

    /// Start and end of the windows over `pane` that `closed` has not closed, ascending; none where windows are a key's own.
    pub fn open_windows(&self, pane: PaneId, closed: i64) -> Vec<(i64, i64)> {
        let Self::Aligned(windows) = self else { return Vec::new() };
        let windows = windows.as_ref();
        windows_of(windows, pane).filter(|w| windows.closes_at(*w) > closed).map(|w| windows.bounds(w)).collect()
    }

    /// Start of the first window that `watermark` has not closed; where windows are a key's own, the watermark itself.
    pub fn open_from(&self, watermark: i64, allowed_lateness: Duration) -> i64 {
        let Self::Aligned(windows) = self else { return watermark };
        let (pane, _) = windows.pane(watermark.saturating_sub(allowed_lateness.as_millis() as i64));
        windows.bounds(windows.first_open(pane, watermark)).0
    }

    /// The watermark that closes the first window over `pane` that `closed` has not closed; none where windows are a key's own.
    pub fn next_close(&self, pane: PaneId, closed: i64) -> Option<i64> {
        let Self::Aligned(windows) = self else { return None };
        windows_of(windows.as_ref(), pane).map(|w| windows.closes_at(w)).find(|at| *at > closed)
    }

    /// The first of the windows that a row of `time` belongs to, and from when until when rows have the same; of sessions the slice. None
    /// where no watermark closes it.
    pub fn first_window(&self, time: i64) -> Option<(i64, i64, Bounds)> {
        let (from, until, start, end) = match self {
            Self::Aligned(windows) => {
                let (from, until) = windows.pane(time);
                let (start, end) = windows.bounds(windows.first(from));
                (from, until, start, end)
            }
            Self::Session(session) => {
                let start = floor(time, session.gap());
                (start, start + session.gap(), start, start + session.gap())
            }
            Self::Count(_) | Self::Idle(_) => return None,
        };
        (end != i64::MAX).then_some((from, until, Bounds { end, start }))
    }

    /// The end of that window, allowed lateness left aside; of sessions that of the row alone.
    pub fn first_end(&self, time: i64) -> Option<i64> {
        match self {
            Self::Session(session) => Some(time.saturating_add(session.gap())),
            _ => self.first_window(time).map(|(_, _, bounds)| bounds.end),
        }
    }

    /// The watermark from which on a row of `time` is late for all its windows.
    pub fn late_from(&self, time: i64) -> i64 {
        match self {
            Self::Aligned(windows) => windows.closes_at(windows.last(windows.pane(time).0)),
            Self::Session(session) => session.late_from(time),
            Self::Count(count) => count.ends_at(time),
            Self::Idle(idle) => idle.ends_at(time),
        }
    }
}

/// The greatest multiple of `n` that is not above `t`.
fn floor(t: i64, n: i64) -> i64 {
    t.div_euclid(n) * n
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The windows that a row counts in, by bounds: for tests of kinds against their definition.
#[cfg(test)]
fn bounds_of(windows: &dyn Aligned, time: i64, watermark: i64) -> Vec<(i64, i64)> {
    let pane = open_part(windows, windows.pane(time).0, watermark);
    pane.map(|p| windows_of(windows, p).map(|w| windows.bounds(w)).collect()).unwrap_or_default()
}
