//! A job in one thread, an epoch a step, by a clock that is given to it: for simulations.
//!
//! In: a [`JobSpec`], a [`World`]. Out: what each step came to. **Invariant**: all that the job decides, restores, runs again and gives up is
//! the code that runs it in production; only threads and the clock are others.

use super::core::Counts;
use super::driver::{Driver, Frame};
use super::job::{Attempts, Break, Control, End, JobSpec, Next, Observer, Ready, get_ready, refresh};
use super::outside::{Ack, Outside};
use super::progress::{self, Answering, PartitionClock};
use super::worker::{Ran, Run, run_epoch};
use crate::error::Error;
use crate::ingest::decode::Decoder;
use crate::ingest::{EndQuery, Reader};
use crate::limits::JobLimits;
use crate::output::EpochCommit;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a simulation decides.
pub trait World {
    /// For spans of time; never goes back.
    fn now(&self) -> Instant;
    /// Milliseconds since 1970 UTC.
    fn now_ms(&self) -> i64;
    /// Whether the committer commits an epoch as soon as it has it, or just before the job needs to know. (A thread of its own may do either.)
    fn commits_at_once(&self) -> bool;
}

/// What a step came to.
pub enum Stepped {
    /// The job goes on with the next step.
    Goes,
    /// The job goes on after this pause: it goes back to the last committed epoch.
    Pauses(Duration),
    /// It has ended.
    Ended(Result<(End, Counts), Error>),
}

/// A job that is driven from outside.
pub struct SteppedJob {
    spec: Rc<RefCell<JobSpec>>,
    world: Rc<dyn World>,
    driver: Option<Driver<Inline>>,
    attempts: Attempts,
    total: Counts,
    /// Epochs committed before this attempt.
    before: u64,
}

impl SteppedJob {
    /// A job that has not begun.
    pub fn new(spec: JobSpec, world: Rc<dyn World>) -> Self {
        let spec = Rc::new(RefCell::new(spec));
        Self { spec, world, driver: None, attempts: Attempts::default(), total: Counts::default(), before: 0 }
    }

    /// Restores, or runs the next epoch.
    pub fn step(&mut self, control: &Control, observer: Observer<'_>) -> Stepped {
        let outcome = match &mut self.driver {
            None => self.restore().map(|()| None),
            Some(driver) => driver.turn(control, observer, &mut self.total),
        };
        let outcome = match outcome {
            Ok(None) => return Stepped::Goes,
            Ok(Some(end)) => Ok(end),
            Err(why) => Err(why),
        };
        if let Some(driver) = self.driver.take() {
            self.spec.borrow_mut().plan = Arc::clone(&driver.current);
        }
        match self.attempts.after(outcome, self.total.epochs > self.before) {
            Ok(Next::End(end)) => Stepped::Ended(Ok((end, self.total))),
            Ok(Next::Refresh(count)) => {
                refresh(&mut self.spec.borrow_mut(), count);
                Stepped::Goes
            }
            Ok(Next::Again(..)) if control.is_stopped() => Stepped::Ended(Ok((End::Stopped, self.total))),
            Ok(Next::Again(pause, _)) => Stepped::Pauses(pause),
            Err(error) => Stepped::Ended(Err(error)),
        }
    }

    /// Begins an attempt.
    fn restore(&mut self) -> Result<(), Break> {
        self.before = self.total.epochs;
        let mut spec = self.spec.borrow_mut();
        let Ready { core, readers, limits } = get_ready(&mut spec)?;
        let frame = Frame::of(&spec, self.total);
        let query = spec.source.end_query();
        let (asking, answering) = progress::channels();
        let clock = PartitionClock::new(core.watermarks(), &limits, query.is_some().then_some(asking), self.world.now());
        let worker = |reader| Worker { reader, decoder: Decoder::of_plan(&spec.plan, &frame.partitions) };
        let outside = Inline {
            workers: readers.into_iter().map(worker).collect(),
            spec: Rc::clone(&self.spec),
            world: Rc::clone(&self.world),
            limits: limits.clone(),
            started: VecDeque::new(),
            asked: query.map(|query| (query, answering)),
            handed_over: None,
            ack: None,
        };
        drop(spec);
        self.driver.insert(Driver::new(frame, core, limits, clock, outside)).begin();
        Ok(())
    }
}

struct Worker {
    reader: Box<dyn Reader>,
    decoder: Decoder,
}

/// Workers that run when their result is wanted.
struct Inline {
    spec: Rc<RefCell<JobSpec>>,
    world: Rc<dyn World>,
    limits: JobLimits,
    workers: Vec<Worker>,
    started: VecDeque<(usize, Run)>,
    asked: Option<(Box<dyn EndQuery>, Answering)>,
    handed_over: Option<EpochCommit>,
    ack: Option<Ack>,
}

impl Inline {
    fn commit_now(&mut self, commit: EpochCommit) -> Ack {
        let started = self.world.now();
        let outcome = self.spec.borrow_mut().committer.commit(commit);
        (outcome, self.world.now().duration_since(started))
    }
}

impl Outside for Inline {
    fn workers(&self) -> usize {
        self.workers.len()
    }

    fn run(&mut self, worker: usize, run: Run) {
        self.started.push_back((worker, run));
    }

    fn ran(&mut self) -> Option<Ran> {
        let (number, run) = self.started.pop_front()?;
        if let Some((query, answering)) = &mut self.asked {
            progress::answer_waiting(query.as_mut(), answering, &|| self.world.now());
        }
        // One after the other they have the time that threads have at once.
        let run = Run { deadline: self.world.now() + self.limits.epoch_time, ..run };
        let Worker { reader, decoder } = self.workers.get_mut(number)?;
        Some(run_epoch(number, reader.as_mut(), decoder, &self.limits, run, &|| self.world.now()))
    }

    fn commit(&mut self, commit: EpochCommit) -> bool {
        if self.world.commits_at_once() {
            self.ack = Some(self.commit_now(commit));
        } else {
            self.handed_over = Some(commit);
        }
        true
    }

    fn committed(&mut self) -> Option<Ack> {
        match self.handed_over.take() {
            Some(commit) => Some(self.commit_now(commit)),
            None => self.ack.take(),
        }
    }

    fn end_positions(&mut self) -> Vec<i64> {
        self.spec.borrow_mut().source.end_positions()
    }

    fn now(&self) -> Instant {
        self.world.now()
    }

    fn now_ms(&self) -> i64 {
        self.world.now_ms()
    }
}
