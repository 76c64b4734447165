//! `kindling demo`: generated events through the experiment-count pipeline, a plugin swapped half-way, and proof that no row was lost.
//!
//! The events come from the generator as four partitions, or, with `--brokers`, through topics of a real broker. Everything
//! behind the source is what `kindling run` uses.

use super::demo_view::View;
use super::run::{default_workers, run_job};
use crate::config::spec::Pipeline;
use crate::config::{self, LoadOptions};
use crate::error::{Error, Kind};
use crate::limits::{GuestLimits, JobLimits};
use crate::runtime::core::Counts;
use crate::runtime::job::{Committed, Control};
use crate::runtime::setup::{SetupOptions, set_up};
use clap::Args;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PIPELINE: &str = include_str!("demo.yaml");
const PLUGIN: &str = "experiment_count.wasm";
/// The demo's guests come with the binary, so that it runs from any folder.
const VERSION_1: &[u8] = include_bytes!("../../../plugins/experiment_count.wasm");
const VERSION_2: &[u8] = include_bytes!("../../../plugins/demo/experiment_count_v2.wasm");
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
    drop_in(&plugins, VERSION_1).map_err(io("the plugin can't be written"))?;
    let events = super::demo_events::Events::new(args)?;
    let options = LoadOptions { sets: events.settings(), ..LoadOptions::default() };
    let pipeline = config::load_str(PIPELINE, "demo.yaml", &options).map_err(|e| Error::new(Kind::Config, e.to_string()))?;
    events.create_topic()?;
    let started = Instant::now();
    let mut show =
        Show { view: View::new(args, started), plugins: &plugins, started, half: args.time / 2, swapped: false, dropped: Ok(()) };
    let mut setup = SetupOptions {
        plugins: &plugins,
        data_dir: &folder.0,
        until_end: !events.through_broker(),
        limits: JobLimits::default(),
        guest_limits: GuestLimits::default(),
        workers: default_workers(),
        observe_outputs: true,
    };
    let producing = events.produce(started)?;
    let control = Arc::new(Control::default());
    super::stop_on_signal(&control)?;
    let deadline = args.time + GRACE;
    let mut counts =
        show.run(pipeline.clone(), &setup, &control, |counts| counts.rows >= events.count() || started.elapsed() > deadline)?;
    producing.finish()?;
    if events.through_broker() {
        // The topic has ended now: a second run goes on where the first left, and closes the windows.
        setup.until_end = true;
        counts = counts.plus(&show.run(pipeline, &setup, &Arc::new(Control::default()), |_| false)?);
    }
    show.dropped.map_err(io("the plugin's second version can't be written"))?;
    show.view.finish(&counts, &events.expected(), args)
}

/// The demo while it runs.
struct Show<'a> {
    view: View,
    plugins: &'a Path,
    started: Instant,
    half: Duration,
    swapped: bool,
    dropped: std::io::Result<()>,
}

impl Show<'_> {
    /// Runs the job until it ends or `done`; drops the second version in half-way.
    fn run(
        &mut self,
        pipeline: Pipeline,
        options: &SetupOptions<'_>,
        control: &Arc<Control>,
        done: impl Fn(&Counts) -> bool,
    ) -> Result<Counts, Error> {
        let setup = set_up(pipeline, options)?;
        let swapper = Arc::clone(&setup.swapper);
        let mut observer = |epoch: &Committed<'_>| {
            self.view.epoch(epoch, &swapper);
            if !self.swapped && self.started.elapsed() >= self.half {
                self.swapped = true;
                self.dropped = drop_in(self.plugins, VERSION_2);
                self.view.dropped_in();
            }
            if done(&epoch.counts) {
                control.stop();
            }
        };
        Ok(run_job(setup, control, None, |_| {}, &mut observer)?.1)
    }
}

/// As a user would: written beside, then renamed, so that nobody sees half of it.
fn drop_in(plugins: &Path, artefact: &[u8]) -> std::io::Result<()> {
    let beside = plugins.join(".experiment_count.part");
    std::fs::write(&beside, artefact)?;
    std::fs::rename(beside, plugins.join(PLUGIN))
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
