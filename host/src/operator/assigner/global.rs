//! The global window: one for all time, that closes when the input ends. Its results have no window columns.

use super::Aligned;

/// One window, one pane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global;

impl Aligned for Global {
    fn pane(&self, _time: i64) -> (i64, i64) {
        (0, i64::MAX)
    }

    fn first(&self, _pane: i64) -> i64 {
        0
    }

    fn last(&self, _pane: i64) -> i64 {
        0
    }

    fn next(&self, window: i64) -> i64 {
        window
    }

    fn first_open(&self, _pane: i64, _watermark: i64) -> i64 {
        0
    }

    fn bounds(&self, _window: i64) -> (i64, i64) {
        (i64::MIN, i64::MAX)
    }

    fn closes_at(&self, _window: i64) -> i64 {
        i64::MAX
    }

    /// None: a later run of the job counts anew, and no row of it is late.
    fn last_close(&self, _pane: i64) -> Option<i64> {
        None
    }
}
