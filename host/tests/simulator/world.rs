//! What all parts of a run share: the random numbers, the clock, the broker, the processes, the trace. One lock, one thread.

use crate::broker::Broker;
use crate::definition::Random;
use crate::mutants::Mutant;
use kindling::runtime::stepped::World;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines of the trace that a failure shows.
const TRACE_LINES: usize = 120;
/// Milliseconds since 1970 UTC at the start of a run.
const START_MS: i64 = 1_000_000;

/// What happens in a run, as text: the last lines, and a hash of all.
#[derive(Default)]
pub struct Trace {
    lines: VecDeque<String>,
    hash: u64,
    count: u64,
}

impl Trace {
    pub fn note(&mut self, line: String) {
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.count += 1;
        if self.lines.len() == TRACE_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The same for the same run.
    pub fn hash(&self) -> u64 {
        self.hash ^ self.count
    }

    pub fn text(&self) -> String {
        let before = self.count - self.lines.len() as u64;
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        format!("({before} lines before)\n{}", lines.join("\n"))
    }
}

/// How much goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    Calm,
    /// Crashes, failed commits, a broker that is away, a second process.
    Stormy,
}

/// A process of the job as the world sees it.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// It has crashed: nothing that it does has an effect.
    pub is_dead: bool,
    /// Its clock is off by this many milliseconds.
    pub skew_ms: i64,
    /// Something was done to it that may end it with an error.
    pub may_fail: bool,
}

/// Everything.
pub struct State {
    pub random: Random,
    pub weather: Weather,
    /// Milliseconds since the start.
    pub clock_ms: u64,
    pub broker: Broker,
    pub processes: Vec<Process>,
    /// Faults that may still happen, so that a run comes to an end.
    pub faults_left: u32,
    pub mutant: Option<Mutant>,
    pub trace: Trace,
    /// A version was swapped in that may fail on any row.
    pub fails_on_any: bool,
    /// The first thing that was found wrong while the run went on.
    pub wrong: Option<String>,
}

/// Why something that a process asked for did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The process has crashed.
    Dead,
    /// The broker is away.
    Away,
    /// Another process has the job.
    Fenced,
    /// It failed; whether it took effect the process can't know.
    Failed,
}

impl State {
    /// A fault that happens once in `n` times, while there are any left.
    pub fn fault(&mut self, n: u64) -> bool {
        let happens = self.weather == Weather::Stormy && self.faults_left > 0 && self.random.one_in(n);
        if happens {
            self.faults_left -= 1;
        }
        happens
    }

    /// Milliseconds since 1970 UTC, by the broker's clock.
    pub fn now_ms(&self) -> i64 {
        START_MS + self.clock_ms as i64
    }

    pub fn note(&mut self, process: usize, line: impl std::fmt::Display) {
        let at = self.clock_ms;
        self.trace.note(format!("{at:>6} ms  process {process}: {line}"));
    }

    /// A process does something that leaves it: the place where it may crash, find the broker away, or wait for it.
    pub fn io(&mut self, process: usize, what: &str) -> Result<(), Refusal> {
        if self.processes[process].is_dead {
            return Err(Refusal::Dead);
        }
        if self.fault(90) {
            self.crash(process, what);
            return Err(Refusal::Dead);
        }
        if self.fault(250) {
            let span = [5, 40, 700][self.random.below(3) as usize];
            self.broker.away_until = self.clock_ms + span;
            self.note(process, format!("{what}: the broker is away for {span} ms"));
        }
        if self.clock_ms < self.broker.away_until {
            self.processes[process].may_fail = true;
            // Who waits for it lets time go by.
            self.clock_ms += 1 + self.random.below(20);
            return Err(Refusal::Away);
        }
        if self.random.one_in(8) {
            self.clock_ms += 1;
        }
        Ok(())
    }

    pub fn crash(&mut self, process: usize, what: &str) {
        self.processes[process].is_dead = true;
        self.note(process, format!("crashes at: {what}"));
    }

    pub fn fail(&mut self, why: String) {
        self.wrong.get_or_insert(why);
    }
}

/// Shared by all parts of a run.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub fn new(random: Random, weather: Weather, broker: Broker, mutant: Option<Mutant>) -> Self {
        let faults_left = 2 + random.clone().below(12) as u32;
        Self(Arc::new(Mutex::new(State {
            random,
            weather,
            clock_ms: 0,
            broker,
            processes: Vec::new(),
            faults_left,
            mutant,
            trace: Trace::default(),
            fails_on_any: false,
            wrong: None,
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process's clock.
pub struct Clock {
    pub shared: Shared,
    pub process: usize,
    /// Only spans from here count.
    pub start: Instant,
}

impl World for Clock {
    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.shared.lock().clock_ms)
    }

    fn now_ms(&self) -> i64 {
        let state = self.shared.lock();
        state.now_ms() + state.processes[self.process].skew_ms
    }

    fn commits_at_once(&self) -> bool {
        self.shared.lock().random.one_in(2)
    }
}
