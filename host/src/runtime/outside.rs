//! What stands around a [`driver`](super::driver): workers, a committer, the source, a clock.
//!
//! A running job has threads ([`Threads`]); a simulation has all of it in one thread, and a clock of its own
//! ([`stepped`](super::stepped)). The driver's decisions are the same code in both.

use super::worker::{Ran, Run};
use crate::ingest::Source;
use crate::output::{CommitError, EpochCommit};
use crossbeam_channel::{Receiver, Sender};
use std::time::{Duration, Instant};

/// How a commit ended, and how long it took.
pub(super) type Ack = (Result<(), CommitError>, Duration);

/// What a driver asks for.
pub(super) trait Outside {
    /// Workers, each with a share of the partitions.
    fn workers(&self) -> usize;
    /// Starts a worker that has nothing to do on an epoch. One that is gone is noticed where its result is missing.
    fn run(&mut self, worker: usize, run: Run);
    /// Waits for a worker that was started, whichever is done first; none where one is gone.
    fn ran(&mut self) -> Option<Ran>;
    /// Hands an epoch to the committer, which has none; false where it is gone.
    fn commit(&mut self, commit: EpochCommit) -> bool;
    /// Waits for the epoch that was handed over; none where the committer is gone.
    fn committed(&mut self) -> Option<Ack>;
    /// As [`Source::end_positions`].
    fn end_positions(&mut self) -> Vec<i64>;
    /// For spans of time.
    fn now(&self) -> Instant;
    /// Milliseconds since 1970 UTC.
    fn now_ms(&self) -> i64;
}

/// A thread a worker, one for the committer, and the machine's clock.
pub(super) struct Threads<'a> {
    pub(super) source: &'a mut dyn Source,
    pub(super) commands: Vec<Sender<Run>>,
    pub(super) results: Receiver<Ran>,
    pub(super) commits: Sender<EpochCommit>,
    pub(super) acks: Receiver<Ack>,
}

impl Outside for Threads<'_> {
    fn workers(&self) -> usize {
        self.commands.len()
    }

    fn run(&mut self, worker: usize, run: Run) {
        let _ = self.commands[worker].send(run);
    }

    fn ran(&mut self) -> Option<Ran> {
        self.results.recv().ok()
    }

    fn commit(&mut self, commit: EpochCommit) -> bool {
        self.commits.send(commit).is_ok()
    }

    fn committed(&mut self) -> Option<Ack> {
        self.acks.recv().ok()
    }

    fn end_positions(&mut self) -> Vec<i64> {
        self.source.end_positions()
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn now_ms(&self) -> i64 {
        crate::time::now_ms()
    }
}
