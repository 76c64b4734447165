//! A pipeline to a job that is ready to run: plugins, plan, source, committer, and the watch on the plugins' folder.

use super::begin::Begin;
use super::desk::Desk;
use super::job::JobSpec;
use super::metrics::Metrics;
use super::restoring;
use super::swap::Swapper;
use crate::config::spec::Pipeline;
use crate::error::{Error, Kind};
use crate::ingest::{self, OpenOptions};
use crate::limits::{GuestLimits, JobLimits};
use crate::output::{self, CommitSpec};
use crate::plan;
use crate::plugin::{GuestEngine, PluginSet, PluginWatcher};
use std::path::Path;
use std::sync::Arc;

/// Everything that stands around a job while it runs.
pub struct Setup {
    /// The job.
    pub spec: JobSpec,
    /// Keeps the watch on the plugins' folder.
    pub watcher: Option<PluginWatcher>,
    /// What prepares swaps.
    pub swapper: Arc<Swapper>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where a copy of the job's state is asked for.
    pub desk: Arc<Desk>,
}

/// How a job is set up.
pub struct SetupOptions<'a> {
    /// Folder of plugins.
    pub plugins: &'a Path,
    /// Folder of data.
    pub data_dir: &'a Path,
    /// Stop at what is the end now.
    pub until_end: bool,
    /// Bounds.
    pub limits: JobLimits,
    /// Bounds of guests.
    pub guest_limits: GuestLimits,
    /// Worker threads.
    pub workers: usize,
    /// Whether the observer reads result rows.
    pub observe_outputs: bool,
}

/// Opens plugins, plan, source and committer of a pipeline, and starts the watch on its plugins.
///
/// # Errors
/// What is wrong, and who must act.
pub fn set_up(pipeline: Pipeline, options: &SetupOptions<'_>) -> Result<Setup, Error> {
    let cache = options.data_dir.join("compiled");
    let engine = GuestEngine::new(options.guest_limits.clone(), Some(cache)).map_err(|e| Error::new(e.kind(), e.to_string()))?;
    let (plugins, problems) =
        if options.plugins.is_dir() { PluginSet::open_dir(&engine, options.plugins) } else { (PluginSet::empty(), Vec::new()) };
    for problem in &problems {
        tracing::warn!(file = %problem.path.display(), "{}", problem.text);
    }
    let plan = plan::build(&pipeline, &plugins).map_err(|e| Error::new(Kind::Config, e.to_string()))?;
    let plan = Arc::new(plan);
    let (team, name) = (pipeline.team.clone(), pipeline.name.clone());
    let mut limits = options.limits.clone();
    limits.max_drift = pipeline.pace.max_drift.or(limits.max_drift);
    limits.state.memory_bytes = pipeline.state.memory.unwrap_or(limits.state.memory_bytes);
    limits.state.spill = Some(options.data_dir.join(&team).join(&name).join("spill"));
    let open = OpenOptions {
        until_end: options.until_end,
        group: format!("kindling-{team}-{name}"),
        now_ms: crate::time::now_ms(),
        state_memory: limits.state.memory_bytes,
    };
    let source = ingest::open(&pipeline.source, &open).map_err(|e| Error::new(e.kind(), e.to_string()))?;
    let commit = CommitSpec {
        team: team.clone(),
        name: name.clone(),
        source: pipeline.source.clone(),
        partitions: source.partitions().to_vec(),
        sink: pipeline.sink.clone(),
        outputs: pipeline.outputs(),
        late: pipeline.late.clone(),
        rejects: pipeline.rejects.clone(),
        data_dir: options.data_dir.to_path_buf(),
        state_memory: limits.state.memory_bytes,
    };
    let mut committer = output::open(commit).map_err(|e| Error::new(e.kind(), e.to_string()))?;
    if plan.upserts() {
        committer.results_are_a_table();
    }
    let metrics = Arc::new(Metrics::new(&team, &name).map_err(|e| Error::new(Kind::Internal, e.to_string()))?);
    committer.watch(restoring::watch(format!("{team}/{name}"), Arc::clone(&metrics)));
    let desk = Arc::<Desk>::default();
    if plan.has_state() {
        let operators: Vec<&str> = plan.chain().map(|p| p.operator.as_str()).collect();
        metrics.state_limit(&operators, limits.state.memory_bytes);
    }
    metrics.status.describe(&plan, source.partitions(), &limits);
    let swapper = Swapper::new(pipeline.clone(), Arc::clone(&plan), plugins.clone());
    let watcher = if options.plugins.is_dir() {
        let (watcher, events) =
            PluginWatcher::start(engine, options.plugins, &plugins).map_err(|e| Error::new(e.kind(), e.to_string()))?;
        let swapper = Arc::clone(&swapper);
        std::thread::spawn(move || swapper.run(&events));
        Some(watcher)
    } else {
        None
    };
    let spec = JobSpec {
        pipeline,
        plan,
        swapper: Arc::clone(&swapper),
        source,
        committer,
        limits,
        workers: options.workers,
        metrics: Arc::clone(&metrics),
        observe_outputs: options.observe_outputs,
        begin: Begin::default(),
        desk: Arc::clone(&desk),
    };
    Ok(Setup { spec, watcher, swapper, metrics, desk })
}
