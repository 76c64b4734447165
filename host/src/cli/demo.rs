//! `kindling demo`: generated events through two jobs, experiment counts and matches, each with a plugin that is swapped half-way; and proof that
//! no row was lost, and no half-made match.
//!
//! The events come from the generator as four partitions, or, with `--brokers`, through topics of a real broker. Everything
//! behind the source is what `kindling run` uses.

use super::demo_events::Events;
use super::demo_matches;
use super::demo_view::View;
use super::run::{default_workers, run_job};
use crate::config::spec::Pipeline;
use crate::config::{self, LoadOptions};
use crate::error::{Error, Kind};
use crate::limits::{GuestLimits, JobLimits};
use crate::runtime::core::Counts;
use crate::runtime::job::{Committed, Control};
use crate::runtime::setup::{SetupOptions, set_up};
use crate::runtime::swap::Swapper;
use clap::Args;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const COUNTS: &str = include_str!("demo.yaml");
const MATCHES: &str = include_str!("demo_matches.yaml");
/// A plugin's artefacts. They come with the binary, so that the demo runs from any folder.
type Versions = (&'static str, &'static [u8]);
const VERSIONS_1: [Versions; 2] = [
    ("experiment_count", include_bytes!("../../../plugins/experiment_count.wasm")),
    ("match_detection", include_bytes!("../../../plugins/match_detection.wasm")),
];
const VERSIONS_2: [Versions; 2] = [
    ("experiment_count", include_bytes!("../../../plugins/demo/experiment_count_v2.wasm")),
    ("match_detection", include_bytes!("../../../plugins/demo/match_detection_v2.wasm")),
];
/// How long after its start the demo may still wait for its last epochs.
const GRACE: Duration = Duration::from_secs(10);

/// Arguments of `kindling demo`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  kindling demo
  kindling demo --for 10s --rate 100000
  kindling demo --brokers localhost:9092       the same through topics of a real broker")]
pub struct DemoArgs {
    /// How long events are generated.
    #[arg(long = "for", value_name = "DURATION", default_value = "30s", value_parser = crate::time::parse_duration)]
    pub time: Duration,
    /// Events a second.
    #[arg(long, default_value_t = 20_000)]
    pub rate: u64,
    /// Seed of the events; the same seed gives the same events.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Go through topics of this broker instead of the process's own memory.
    #[arg(long, value_name = "HOST:PORT")]
    pub brokers: Option<String>,
    /// The summary as JSON, and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// `kindling demo`.
///
/// # Errors
/// When the demo can't run, or lost a row.
pub fn demo(args: &DemoArgs) -> Result<(), Error> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |e: std::io::Error| Error::new(Kind::External, format!("{what}: {e}"))
    };
    let folder = Scratch::new().map_err(io("no folder for the demo's files"))?;
    let plugins = folder.0.join("plugins");
    std::fs::create_dir_all(&plugins).map_err(io("no folder for the demo's plugins"))?;
    drop_in(&plugins, &VERSIONS_1).map_err(io("the plugins can't be written"))?;
    let events = Events::new(args)?;
    events.create_topic()?;
    let started = Instant::now();
    let stage = Stage { events: &events, folder: &folder.0, plugins: &plugins, started, deadline: args.time + GRACE };
    let producing = events.produce(started)?;
    let view = Mutex::new(View::new(args, started));
    let counts = stage.pipeline("counts", COUNTS)?;
    let matches = stage.pipeline("matches", MATCHES)?;
    let mut swap = Swap { plugins: &plugins, at: started + args.time / 2, outcome: None };
    let outcomes = std::thread::scope(|scope| {
        let matching = scope.spawn(|| stage.run(matches, |epoch, _| lock(&view).matches(epoch)));
        let counted = stage.run(counts, |epoch, swapper| {
            if swap.is_due() {
                lock(&view).dropped_in();
            }
            lock(&view).epoch(epoch, swapper);
        });
        let matched = matching.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the matches' thread ended")));
        counted.and_then(|counted| Ok((counted, matched?)))
    });
    producing.finish()?;
    let (counts, matched) = outcomes?;
    swap.outcome.unwrap_or(Ok(())).map_err(io("the plugins' second versions can't be written"))?;
    let expected = events.expected();
    let view = lock(&view);
    view.finish(&counts, matched.rows, &expected, &demo_matches::expected(&events), args)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // A picture is drawn anew each time: half of one does no harm.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What both jobs share.
struct Stage<'a> {
    events: &'a Events,
    folder: &'a Path,
    plugins: &'a Path,
    started: Instant,
    deadline: Duration,
}

impl Stage<'_> {
    fn pipeline(&self, role: &str, text: &str) -> Result<Pipeline, Error> {
        let options = LoadOptions { sets: self.events.settings(role), ..LoadOptions::default() };
        config::load_str(text, &format!("{role}.yaml"), &options).map_err(|e| Error::new(Kind::Config, e.to_string()))
    }

    /// Runs a job over all events, telling `each` epoch.
    fn run(&self, pipeline: Pipeline, mut each: impl FnMut(&Committed<'_>, &Swapper)) -> Result<Counts, Error> {
        let control = Arc::new(Control::default());
        super::stop_on_signal(&control)?;
        let is_live = self.events.through_broker();
        let counts = self.run_once(pipeline.clone(), &control, !is_live, &mut each)?;
        if !is_live {
            return Ok(counts);
        }
        // The topic has ended now: a second run goes on where the first left, and closes the windows.
        Ok(counts.plus(&self.run_once(pipeline, &Arc::new(Control::default()), true, &mut each)?))
    }

    /// Until the end of the events, or where the topic has none until all of them are read.
    fn run_once(
        &self,
        pipeline: Pipeline,
        control: &Arc<Control>,
        until_end: bool,
        each: &mut dyn FnMut(&Committed<'_>, &Swapper),
    ) -> Result<Counts, Error> {
        let options = SetupOptions {
            plugins: self.plugins,
            data_dir: self.folder,
            until_end,
            limits: JobLimits::default(),
            guest_limits: GuestLimits::default(),
            workers: default_workers(),
            observe_outputs: true,
        };
        let setup = set_up(pipeline, &options)?;
        let swapper = Arc::clone(&setup.swapper);
        let mut observer = |epoch: &Committed<'_>| {
            each(epoch, &swapper);
            if !until_end && (epoch.counts.rows >= self.events.count() || self.started.elapsed() > self.deadline) {
                control.stop();
            }
        };
        Ok(run_job(setup, control, None, |_| {}, &mut observer)?.1)
    }
}

/// The second versions, which are dropped in half-way.
struct Swap<'a> {
    plugins: &'a Path,
    at: Instant,
    outcome: Option<std::io::Result<()>>,
}

impl Swap<'_> {
    /// Drops them in when it is time; true then.
    fn is_due(&mut self) -> bool {
        let is_due = self.outcome.is_none() && Instant::now() >= self.at;
        if is_due {
            self.outcome = Some(drop_in(self.plugins, &VERSIONS_2));
        }
        is_due
    }
}

/// As a user would: written beside, then renamed, so that nobody sees half of it.
fn drop_in(plugins: &Path, artefacts: &[Versions]) -> std::io::Result<()> {
    for (name, artefact) in artefacts {
        let beside = plugins.join(format!(".{name}.part"));
        std::fs::write(&beside, artefact)?;
        std::fs::rename(beside, plugins.join(format!("{name}.wasm")))?;
    }
    Ok(())
}

/// A folder that is removed at the end.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("kindling-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
