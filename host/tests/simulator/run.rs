//! One run: the world decides step by step who does what, until the input has ended and a process has come to its end.

use crate::broker::{Broker, Committed, Fate, Produced};
use crate::case::{Case, ENDLESS, Feed, Guests, Shape};
use crate::committer::SimCommitter;
use crate::definition::Random;
use crate::disk::{Disk, harm};
use crate::guests::{Swap, loaded};
use crate::mutants::Mutant;
use crate::source::SimSource;
use crate::world::{Clock, Process, Shared, State, Weather};
use crossbeam_channel::unbounded;
use kindling::config::spec::Pipeline;
use kindling::element::PartitionName;
use kindling::error::Kind;
use kindling::limits::STATE_SHARDS;
use kindling::plan::{self, Plan};
use kindling::plugin::{PluginEvent, PluginSet};
use kindling::runtime::begin::Begin;
use kindling::runtime::job::{Control, End, JobSpec};
use kindling::runtime::metrics::Metrics;
use kindling::runtime::stepped::{Stepped, SteppedJob};
use kindling::runtime::swap::Swapper;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A run that takes more steps does not come to an end.
const STEPS_MAX: u32 = 20_000;

/// A process at work.
struct Live {
    number: usize,
    job: SteppedJob,
    control: Control,
    swapper: Arc<Swapper>,
    /// It pauses until then: milliseconds since the start.
    resumes_at: u64,
    /// The machine that it runs on.
    machine: usize,
}

struct Runner<'a> {
    case: &'a Case,
    pipeline: Pipeline,
    plugins: PluginSet,
    plan: Arc<Plan>,
    names: Vec<PartitionName>,
    shared: Shared,
    start: Instant,
    live: Vec<Live>,
    fed: usize,
    /// A process has come to the end of the input.
    finished: bool,
    /// A folder for each machine's tree, where the case has disks.
    disks: Option<tempfile::TempDir>,
}

impl State {
    /// After each commit: nothing of it may go back.
    pub fn committed(&mut self, process: usize) {
        let all = &self.broker.committed;
        let Some((last, before)) = all.split_last() else { return };
        let wrong = before.last().and_then(|before| went_back(before, last)).or_else(|| {
            let positions: Vec<i64> = last.meta.positions.values().copied().collect();
            (positions != last.offsets).then(|| format!("offsets {:?} beside positions {positions:?}", last.offsets))
        });
        let line = format!(
            "commits epoch {} up to {:?}, closed {}, {} results ({:08x})",
            last.meta.epoch,
            last.offsets,
            last.meta.closed,
            last.produced.len(),
            fingerprint(&last.produced)
        );
        self.note(process, line);
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
    }
}

/// Of records in their order: the same for the same run, however the hash tables of the process are seeded.
fn fingerprint(produced: &[Produced]) -> u32 {
    let bytes = produced.iter().flat_map(|p| p.key.iter().chain(&p.value).flatten().chain(p.topic.as_bytes()));
    bytes.fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

fn went_back(before: &Committed, after: &Committed) -> Option<String> {
    let (a, b) = (&before.meta, &after.meta);
    let none = i64::MIN;
    let watermark = |m: &kindling::output::Meta, name: &String| m.watermarks.get(name).copied().unwrap_or(none);
    let moved = a.watermarks.keys().find(|name| watermark(b, name) < watermark(a, name));
    if let Some(name) = moved {
        return Some(format!("the watermark of {name} goes back from {} to {}", watermark(a, name), watermark(b, name)));
    }
    let back = |what: &str, a: i64, b: i64| (b < a).then(|| format!("{what} goes back from {a} to {b}"));
    let of_behind = || {
        a.behind.iter().zip(&b.behind).find_map(|(a, b)| {
            back(&format!("the watermark of {}", a.operator), a.watermark, b.watermark)
                .or_else(|| back(&format!("what {} has closed", a.operator), a.closed, b.closed))
                .or_else(|| back(&format!("the rows of {}", a.operator), a.rows, b.rows))
        })
    };
    back("what has been closed", a.closed, b.closed)
        .or_else(of_behind)
        .or_else(|| back("processing time", a.now, b.now))
        .or_else(|| back("the epoch's number", a.epoch as i64 + 1, b.epoch as i64))
        .or_else(|| a.positions.iter().find_map(|(name, p)| back(name, *p, b.positions.get(name).copied().unwrap_or(none))))
}

/// What a run left behind.
pub struct Run {
    pub shared: Shared,
}

impl Run {
    pub fn state<T>(&self, of: impl FnOnce(&State) -> T) -> T {
        of(&self.shared.lock())
    }
}

/// Runs a case.
///
/// # Errors
/// What went wrong, and the trace up to there.
pub fn run(case: &Case, random: Random, weather: Weather, mutant: Option<Mutant>) -> (Run, Result<(), String>) {
    let mut broker = Broker::new(case.partitions, usize::from(STATE_SHARDS));
    broker.is_closed = case.feeds.is_empty();
    broker.shows_aborted = mutant == Some(Mutant::AbortedRead);
    let shared = Shared::new(random, weather, broker, mutant);
    let pipeline = case.pipeline();
    let plugins = match case.guests {
        Guests::None | Guests::Accounts => PluginSet::empty(),
        Guests::Hostile(ENDLESS) => loaded().endless.clone(),
        Guests::Hostile(_) => loaded().hostile.clone(),
        Guests::Swapped => loaded().victim.clone(),
    };
    let ledger = case.has_process().then(|| &loaded().ledger);
    let hostile = (case.has_hostile_behind() && !matches!(case.guests, Guests::Hostile(_))).then(|| &loaded().hostile_plugin);
    let more = ledger.into_iter().chain(hostile);
    let plugins = more.fold(plugins, |all, plugin| all.with(Arc::clone(plugin)).expect("plugins of other names"));
    let plan = plan::build(&pipeline, &plugins).unwrap_or_else(|e| panic!("{e}\n{}", case.about()));
    let names = (0..case.partitions).map(|p| PartitionName { topic: "input".into(), partition: p as i32 }).collect();
    let mut runner = Runner {
        case,
        pipeline,
        plugins,
        plan: Arc::new(plan),
        names,
        shared: shared.clone(),
        start: Instant::now(),
        live: Vec::new(),
        fed: 0,
        finished: false,
        disks: (case.with_disks || case.with_spill).then(folder),
    };
    let outcome = runner.run();
    drop(runner);
    (Run { shared }, outcome)
}

/// In memory where there is such a file system: a run is not about how long a disk takes to be in sync.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

impl Runner<'_> {
    fn run(&mut self) -> Result<(), String> {
        self.run_until_end()?;
        // A job that is started again after the end of its input adds nothing.
        let before = self.shared.lock().broker.committed.len();
        self.finished = false;
        self.run_until_end()?;
        let state = self.shared.lock();
        let more = &state.broker.committed[before..];
        match more.iter().find(|c| !c.produced.is_empty()) {
            Some(more) => Err(format!("a restart after the end gives {:?}", more.produced)),
            None => Ok(()),
        }
    }

    fn run_until_end(&mut self) -> Result<(), String> {
        for _ in 0..STEPS_MAX {
            if self.finished && self.live.is_empty() {
                return Ok(());
            }
            self.step()?;
            if let Some(wrong) = &self.shared.lock().wrong {
                return Err(wrong.clone());
            }
        }
        Err(format!("no end after {STEPS_MAX} steps"))
    }

    fn step(&mut self) -> Result<(), String> {
        let (feeds, starts, swaps) = {
            let mut state = self.shared.lock();
            let starts = self.live.is_empty() || (self.live.len() < 2 && state.fault(60));
            (state.random.one_in(3), starts, state.random.one_in(12))
        };
        if feeds && self.fed < self.case.feeds.len() {
            self.feed();
        } else if starts {
            self.start_process()?;
        } else if swaps && (self.case.guests == Guests::Swapped || self.case.swaps_process) {
            self.swap();
        } else {
            let at = self.shared.lock().random.below(self.live.len() as u64) as usize;
            self.step_process(at)?;
        }
        Ok(())
    }

    /// Some more of the input.
    fn feed(&mut self) {
        let mut state = self.shared.lock();
        let upto = (self.fed + 1 + state.random.below(8) as usize).min(self.case.feeds.len());
        for feed in &self.case.feeds[self.fed..upto] {
            match feed {
                Feed::Row { partition, item, transaction } => state.broker.append(*partition, item.record(), *transaction),
                Feed::End { transaction, commits } => {
                    state.broker.end(*transaction, if *commits { Fate::Committed } else { Fate::Aborted });
                }
            }
        }
        self.fed = upto;
        state.broker.is_closed = upto == self.case.feeds.len();
        let at = state.clock_ms;
        state.trace.note(format!("{at:>6} ms  the input has {upto} of {} feeds", self.case.feeds.len()));
    }

    fn start_process(&mut self) -> Result<(), String> {
        let machine = (0..).find(|m| self.live.iter().all(|l| l.machine != *m)).unwrap_or_default();
        let folder = self.disks.as_ref().filter(|_| self.case.with_disks).map(|d| d.path().join(machine.to_string()));
        let number = {
            let mut state = self.shared.lock();
            if self.live.is_empty() && state.fault(12) {
                let hours = [13, 26][state.random.below(2) as usize];
                state.clock_ms += hours * 3_600_000;
                state.trace.note(format!("nobody runs the job for {hours} hours"));
            }
            let skew_ms = if state.random.one_in(3) { state.random.below(200) as i64 - 100 } else { 0 };
            state.processes.push(Process { skew_ms, ..Process::default() });
            let number = state.processes.len() - 1;
            state.note(number, format!("starts on machine {machine}, its clock off by {skew_ms} ms"));
            if let Some(folder) = folder.as_ref().filter(|_| state.weather == Weather::Stormy) {
                let happened = harm(folder, &mut state.random);
                state.note(number, happened);
            }
            number
        };
        let swapper = Swapper::new(self.pipeline.clone(), Arc::clone(&self.plan), self.plugins.clone());
        let mut limits = self.case.limits.clone();
        let scratch = self.disks.as_ref().filter(|_| self.case.with_spill);
        limits.state.spill = scratch.map(|d| d.path().join(format!("scratch-{number}")));
        let spec = JobSpec {
            pipeline: self.pipeline.clone(),
            plan: Arc::clone(&self.plan),
            swapper: Arc::clone(&swapper),
            source: Box::new(SimSource { shared: self.shared.clone(), process: number, names: self.names.clone() }),
            committer: Box::new(SimCommitter {
                shared: self.shared.clone(),
                process: number,
                epoch: None,
                disk: folder.map(Disk::new),
            }),
            limits,
            workers: self.case.workers,
            metrics: Arc::new(Metrics::new("default", "sim").map_err(|e| e.to_string())?),
            observe_outputs: false,
            begin: Begin::default(),
            desk: Arc::default(),
        };
        let clock = Clock { shared: self.shared.clone(), process: number, start: self.start };
        let job = SteppedJob::new(spec, Rc::new(clock));
        self.live.push(Live { number, job, control: Control::default(), swapper, resumes_at: 0, machine });
        Ok(())
    }

    fn step_process(&mut self, at: usize) -> Result<(), String> {
        let alone = self.live.len() == 1 && self.fed == self.case.feeds.len();
        let live = &mut self.live[at];
        {
            let mut state = self.shared.lock();
            if state.clock_ms < live.resumes_at {
                state.clock_ms = if alone { live.resumes_at } else { state.clock_ms + 10 };
                return Ok(());
            }
            if state.fault(200) {
                state.note(live.number, "is asked to stop");
                live.control.stop();
            }
        }
        let stepped = live.job.step(&live.control, &mut |_| {});
        let number = live.number;
        let mut state = self.shared.lock();
        let process = state.processes[number].clone();
        let ended = match stepped {
            _ if process.is_dead => true,
            Stepped::Goes => false,
            Stepped::Pauses(pause) => {
                live.resumes_at = state.clock_ms + pause.as_millis() as u64;
                state.note(number, format!("goes back to the last committed epoch, in {pause:?}"));
                false
            }
            Stepped::Ended(Ok((end, counts))) => {
                let all = self.case.log().iter().map(|p| p.len() as u64).sum::<u64>();
                if state.weather == Weather::Calm && ![0, all].contains(&counts.rows) {
                    return Err(format!("{} rows counted, of {all}", counts.rows));
                }
                state.note(number, format!("ends: {end:?}, {counts:?}"));
                self.finished |= end == End::Finished;
                true
            }
            Stepped::Ended(Err(error)) if process.may_fail && error.kind == Kind::External => {
                state.note(number, format!("ends: {error}"));
                true
            }
            Stepped::Ended(Err(error)) => return Err(format!("process {number} ends with {:?}: {error}", error.kind)),
        };
        drop(state);
        if ended {
            self.live.swap_remove(at);
        }
        Ok(())
    }

    /// Another version of the plugin is dropped in.
    fn swap(&mut self) {
        let Case { shape, guests, swaps_process, .. } = self.case;
        let one_pane = matches!(shape, Shape::Windows { kind, emit: crate::case::Emit::Final, .. } if is_tumbling(*kind));
        // Which rows of a later operation are rejected is not known by their place.
        let is_first = matches!(shape, Shape::Process(_));
        let victims = loaded().swaps.iter().filter(|s| *guests == Guests::Swapped && (one_pane || !s.fails_in_merge));
        let ledgers = loaded().ledger_swaps.iter().filter(|s| *swaps_process && (is_first || !s.fails_on_any));
        let fits: Vec<&Swap> = victims.chain(ledgers).collect();
        let (swap, live) = {
            let mut state = self.shared.lock();
            let swap = fits[state.random.below(fits.len() as u64) as usize];
            let live = &self.live[state.random.below(self.live.len() as u64) as usize];
            state.fails_on_any |= swap.fails_on_any;
            state.note(live.number, format!("version {} of its plugin is dropped in", swap.plugin.version));
            (swap, live)
        };
        let (events, received) = unbounded();
        let _ = events.send(PluginEvent::Loaded(Arc::clone(&swap.plugin)));
        drop(events);
        live.swapper.run(&received);
    }
}

fn is_tumbling(kind: crate::definition::Kind) -> bool {
    matches!(kind, crate::definition::Kind::Hopping { duration, slide, .. } if duration == slide)
}
