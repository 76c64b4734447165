//! `kindling run`: a pipeline file to a running job.

use super::endpoint::Endpoint;
use super::parse_set;
use crate::config::{self, LoadOptions};
use crate::error::{Error, Kind};
use crate::ingest::start::StartFrom;
use crate::limits::{GuestLimits, IDLE_AFTER, JobLimits, STATE_MEMORY_BYTES_MIN, epoch_rows};
use crate::runtime::begin::Begin;
use crate::runtime::core::Counts;
use crate::runtime::job::{self, Control, End, Observer};
use crate::runtime::setup::{Setup, SetupOptions, set_up};
use crate::size::{format_size, parse_size};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `kindling run`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  kindling run pipeline.yaml
  kindling run pipeline.yaml --plugins plugins --data-dir /var/lib/kindling --metrics 0.0.0.0:9400
  kindling run pipeline.yaml --until-end --set source.parameters.topic=events-2026-01
  kindling run pipeline.yaml --restore counts.savepoint
  kindling run changed.yaml --restore counts.savepoint --drop-state window_aggregate
  kindling run pipeline.yaml --from 2026-11-01T00:00Z --drop-state window_aggregate
  kindling run pipeline.yaml --from clicks/0:1500,clicks/1:900 --keep-state
  cat events.jsonl | kindling run pipeline.yaml --set source.name=stdin --set sink.name=stdout")]
pub struct RunArgs {
    /// The pipeline file.
    pub file: PathBuf,
    /// Folder of plugins; watched while the job runs.
    #[arg(long, default_value = "plugins")]
    pub plugins: PathBuf,
    /// Folder for the local tree and compiled plugins.
    #[arg(long, default_value = ".kindling")]
    pub data_dir: PathBuf,
    /// File of connections [default: kindling.yaml beside the pipeline].
    #[arg(long)]
    pub connections: Option<PathBuf>,
    /// Override a field, for example source.parameters.topic=other; may be repeated.
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = parse_set)]
    pub sets: Vec<(String, String)>,
    /// Run to what is the end of the input at the start, close all windows, and leave.
    #[arg(long)]
    pub until_end: bool,
    /// Serve Prometheus metrics, /plugins and /why here; `kindling why` and `kindling plugins --from` ask there.
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
    /// Worker threads [default: one a core].
    #[arg(long)]
    pub workers: Option<usize>,
    /// Length of an epoch: the commit unit, and so the latency.
    #[arg(long, default_value = "100ms", value_parser = crate::time::parse_duration)]
    pub epoch: Duration,
    /// Rows that close an epoch before its time [default: 65536; fewer with less than 256MiB of state's memory, 16384 at the least].
    #[arg(long)]
    pub epoch_rows: Option<usize>,
    /// A partition is idle, and holds the watermark back no longer, after it stood at its end this long [default: the source's idleAfter,
    /// else 5s].
    #[arg(long, value_parser = crate::time::parse_duration)]
    pub idle_after: Option<Duration>,
    /// Memory that keyed state may take, for example 256MiB or unlimited; past it the slots that were not changed for longest go to the data
    /// folder's disk [default: the pipeline's state.memory, else 1GiB].
    #[arg(long, value_name = "SIZE", value_parser = state_memory)]
    pub state_memory: Option<usize>,
    /// Begin with the state, offsets and watermarks of a savepoint (`kindling savepoint`). Done once: a restart goes on.
    #[arg(long, value_name = "FILE")]
    pub restore: Option<PathBuf>,
    /// Let --restore replace the state that the job has.
    #[arg(long, requires = "restore")]
    pub replace: bool,
    /// Read from another place: earliest, latest, a time (2026-11-01T00:00Z), or topic/partition:offset,... Done once: a restart goes on.
    #[arg(long, value_name = "WHERE", value_parser = start_from)]
    pub from: Option<(StartFrom, String)>,
    /// Drop the state of an operator (`name` in the pipeline, else window_aggregate); may be repeated. Done once.
    #[arg(long, value_name = "OPERATOR")]
    pub drop_state: Vec<String>,
    /// Keep state although --from reads from another place.
    #[arg(long, requires = "from", conflicts_with = "drop_state")]
    pub keep_state: bool,
    /// Do what --restore, --from and --drop-state say once more, although the job has been begun so before.
    #[arg(long)]
    pub again: bool,
    /// Time limit of one guest call.
    #[arg(long, default_value = "500ms", value_parser = crate::time::parse_duration)]
    pub guest_time: Duration,
}

/// `--from`, with its words.
fn start_from(text: &str) -> Result<(StartFrom, String), String> {
    Ok((text.parse()?, text.trim().to_owned()))
}

/// `--state-memory`.
fn state_memory(text: &str) -> Result<usize, String> {
    match parse_size(text)? {
        bytes if bytes < STATE_MEMORY_BYTES_MIN => Err(format!("it must be at least {}", format_size(STATE_MEMORY_BYTES_MIN))),
        bytes => Ok(bytes),
    }
}

impl RunArgs {
    fn begin(&self) -> Begin {
        Begin {
            restore: self.restore.clone(),
            replace: self.replace,
            from: self.from.clone(),
            drop: self.drop_state.clone(),
            keep: self.keep_state,
            again: self.again,
        }
    }
}

/// Worker threads where nothing is said: one a core.
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs a job that is set up, with its metrics served; `on_address` is told where.
///
/// # Errors
/// What ended the job.
pub fn run_job(
    setup: Setup,
    control: &Control,
    address: Option<SocketAddr>,
    on_address: impl FnOnce(SocketAddr),
    observer: Observer<'_>,
) -> Result<(End, Counts), Error> {
    let Setup { spec, watcher, swapper, metrics, desk } = setup;
    if let Some(address) = address {
        on_address(crate::server::serve(address, metrics, swapper, desk)?);
    }
    let outcome = job::run(spec, control, observer);
    drop(watcher);
    outcome
}

/// `kindling run`.
///
/// # Errors
/// What ended the job.
pub fn run(args: &RunArgs) -> Result<(), Error> {
    let started = std::time::Instant::now();
    let options = LoadOptions { connections: args.connections.clone(), sets: args.sets.clone(), ..LoadOptions::default() };
    let mut pipeline = config::load(&args.file, &options).map_err(|e| Error::new(Kind::Config, e.to_string()))?;
    pipeline.state.memory = args.state_memory.or(pipeline.state.memory);
    let idle_after = args.idle_after.or(pipeline.pace.idle_after).unwrap_or(IDLE_AFTER);
    let mut limits = JobLimits { epoch_time: args.epoch, idle_after, ..JobLimits::default() };
    let rows = epoch_rows(pipeline.state.memory.unwrap_or(limits.state.memory_bytes));
    (limits.epoch_rows, limits.close_results) = (args.epoch_rows.unwrap_or(rows).max(1), rows);
    let options = SetupOptions {
        plugins: &args.plugins,
        data_dir: &args.data_dir,
        until_end: args.until_end,
        limits,
        guest_limits: GuestLimits { call_time: args.guest_time, ..GuestLimits::default() },
        workers: args.workers.unwrap_or_else(default_workers),
        observe_outputs: false,
    };
    let label = format!("{}/{}", pipeline.team, pipeline.name);
    let endpoint = Endpoint::new(&args.data_dir, &pipeline.team, &pipeline.name);
    let mut setup = set_up(pipeline, &options)?;
    setup.spec.begin = args.begin();
    endpoint.write(None);
    let control = Arc::new(Control::default());
    super::stop_on_signal(&control)?;
    tracing::info!(job = label, workers = options.workers, "running");
    let (end, counts) = run_job(setup, &control, args.metrics, |address| endpoint.write(Some(address)), &mut |_| {})?;
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(
        rows = counts.rows,
        outputs = counts.outputs,
        late = counts.late,
        rejects = counts.rejects,
        epochs = counts.epochs,
        seconds,
        rows_per_second = (counts.rows as f64 / seconds) as u64,
        cpu_seconds_per_million_rows = crate::time::cpu_seconds() / counts.rows.max(1) as f64 * 1e6,
        "{}",
        if end == End::Finished { "the input has ended" } else { "stopped" }
    );
    Ok(())
}
