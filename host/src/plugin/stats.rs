//! What the calls of a plugin cost and how they ended, counted without locks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::FailureKind;

/// Counters of one plugin version in this process. Counts never go back.
#[derive(Debug, Default)]
pub struct PluginStats {
    calls: AtomicU64,
    rows: AtomicU64,
    nanos: AtomicU64,
    refused: AtomicU64,
    traps: AtomicU64,
    timeouts: AtomicU64,
    memory: AtomicU64,
    nonsense: AtomicU64,
}

/// [`PluginStats`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatsReading {
    /// Calls, failed ones among them.
    pub calls: u64,
    /// Rows of the calls (states, for merge and finish).
    pub rows: u64,
    /// Nanoseconds within calls, the copying of columns in and out among them.
    pub nanos: u64,
    /// Calls that the guest refused.
    pub refused: u64,
    /// Calls that trapped.
    pub traps: u64,
    /// Calls that took too long.
    pub timeouts: u64,
    /// Calls that wanted too much memory.
    pub memory: u64,
    /// Calls whose result was not what was agreed, or too large.
    pub nonsense: u64,
}

impl StatsReading {
    /// Calls that failed, of whatever kind.
    pub fn failures(&self) -> u64 {
        self.refused + self.traps + self.timeouts + self.memory + self.nonsense
    }
}

impl PluginStats {
    /// Counts a call of `rows` rows.
    pub(crate) fn called(&self, rows: usize, time: Duration, failure: Option<&FailureKind>) {
        self.calls.fetch_add(1, Relaxed);
        self.rows.fetch_add(rows as u64, Relaxed);
        self.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        let counter = match failure {
            None => return,
            Some(FailureKind::Refused(_)) => &self.refused,
            Some(FailureKind::Trap) => &self.traps,
            Some(FailureKind::Timeout) => &self.timeouts,
            Some(FailureKind::Memory) => &self.memory,
            Some(FailureKind::Nonsense | FailureKind::Excess) => &self.nonsense,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The counts now. Each is exact; they are not of the very same moment while calls run.
    pub fn read(&self) -> StatsReading {
        StatsReading {
            calls: self.calls.load(Relaxed),
            rows: self.rows.load(Relaxed),
            nanos: self.nanos.load(Relaxed),
            refused: self.refused.load(Relaxed),
            traps: self.traps.load(Relaxed),
            timeouts: self.timeouts.load(Relaxed),
            memory: self.memory.load(Relaxed),
            nonsense: self.nonsense.load(Relaxed),
        }
    }
}
