//! Scenario files: a pipeline, timestamped input, expected output; run in several ways that must all give the same.
//!
//! A scenario is run as written, at batch size 1, in epochs of one row, over several partitions, with all state on disk after each epoch, and with
//! a crash and a restore at every epoch: once before the commit (the epoch never happened) and once after it.

mod compare;
mod file;
mod scratch;

pub use self::file::{Expect, Input, RecordInput, Scenario};

use self::compare::{in_order, matched, same, table, values};
use self::scratch::Scratch;
use crate::config::{self, LoadOptions};
use crate::element::{OwnedRecord, OwnedRecords, PartitionName, RawBatch};
use crate::ingest::decode::Decoder;
use crate::limits::{JobLimits, StateLimit};
use crate::operator::FaultPolicy;
use crate::operator::epoch::EpochStart;
use crate::output::{Change, Meta, OutRecord, output_role};
use crate::plan::{self, Plan};
use crate::plugin::{Plugin, PluginSet, compatible};
use crate::runtime::core::{JobCore, Outcome, OutputFormat, Progress};
use serde_json::Value;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Partitions in the run over several.
const SPREAD: usize = 3;

/// One way to run a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// What the way is called.
    pub name: &'static str,
    batch_rows: usize,
    epoch_rows: usize,
    spread: bool,
    crash: bool,
    /// A memory budget of nothing: each slot is on disk between two epochs; and results of closed windows come in parts.
    on_disk: bool,
}

/// All ways.
pub const MODES: [Mode; 7] = [
    Mode { name: "as written", batch_rows: 8_192, epoch_rows: usize::MAX, spread: false, crash: false, on_disk: false },
    Mode { name: "batch size 1", batch_rows: 1, epoch_rows: usize::MAX, spread: false, crash: false, on_disk: false },
    Mode { name: "epochs of one row", batch_rows: 8_192, epoch_rows: 1, spread: false, crash: false, on_disk: false },
    Mode { name: "all state on disk", batch_rows: 8_192, epoch_rows: 1, spread: false, crash: false, on_disk: true },
    Mode { name: "several partitions", batch_rows: 8_192, epoch_rows: 4, spread: true, crash: false, on_disk: false },
    Mode { name: "crash at every epoch", batch_rows: 8_192, epoch_rows: 2, spread: false, crash: true, on_disk: false },
    Mode {
        name: "crash at every epoch, several partitions",
        batch_rows: 1,
        epoch_rows: 3,
        spread: true,
        crash: true,
        on_disk: false,
    },
];

/// What a run committed.
#[derive(Default)]
struct Log {
    entries: HashMap<Vec<u8>, Change>,
    meta: Option<Meta>,
    outputs: Vec<OutRecord>,
    named: BTreeMap<String, Vec<OutRecord>>,
    late: Vec<OutRecord>,
    rejects: Vec<OutRecord>,
    refused: Option<String>,
}

impl Scenario {
    /// Reads a scenario and the input that it names.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn load(file: &Path) -> Result<Self, String> {
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let parsed = config::yaml::to_json(&read(file)?).and_then(|v| serde_json::from_value(v).map_err(|e| e.to_string()));
        let mut scenario: Self = parsed.map_err(|e| format!("{}: {e}", file.display()))?;
        let one = |name: &str, has: bool, names_file: bool| match has != names_file {
            true => Ok(()),
            false => Err(format!("{}: a scenario has either `{name}` or `{name}File`", file.display())),
        };
        one("pipeline", !scenario.pipeline.is_empty(), scenario.pipeline_file.is_some())?;
        one("input", !scenario.input.is_empty(), scenario.input_file.is_some())?;
        if let Some(path) = &scenario.input_file {
            scenario.input = read(&beside(file, path))?.lines().map(|line| Input::Value(line.to_owned())).collect();
        }
        Ok(scenario)
    }

    /// The ways in which this scenario is run.
    pub fn modes(&self) -> impl Iterator<Item = Mode> {
        let (spread, small) = (self.spread, self.small_epochs);
        MODES.into_iter().filter(move |m| (spread || !m.spread) && (small || m.epoch_rows == usize::MAX))
    }

    /// Runs the scenario in one way and compares what it committed.
    ///
    /// # Errors
    /// What differs, or what failed.
    pub fn run(
        &self,
        file: &Path,
        mode: Mode,
        plugins: &PluginSet,
        load: &dyn Fn(&str) -> Result<Arc<Plugin>, String>,
    ) -> Result<(), String> {
        let options = LoadOptions::default();
        let pipeline = match &self.pipeline_file {
            Some(path) => config::load(&beside(file, path), &options),
            None => config::load_str(&self.pipeline, &file.display().to_string(), &options),
        };
        let pipeline = pipeline.map_err(|e| e.to_string())?;
        let mut plugins = plugins.clone();
        for name in &self.plugins {
            plugins = plugins.with(load(name)?).map_err(|p| p.text)?;
        }
        let plan = Arc::new(plan::build(&pipeline, &plugins).map_err(|e| e.to_string())?);
        let mut run = Running {
            limits: JobLimits { batch_rows: mode.batch_rows, ..JobLimits::default() },
            format: OutputFormat { timestamps: pipeline.timestamp_format },
            plan,
            mode,
            log: Log::default(),
            partitions: Vec::new(),
            now: 0,
            scratch: Scratch::new(),
            cores: Cell::new(0),
        };
        let (segments, count) = self.segments(mode);
        run.partitions = (0..count).map(|p| PartitionName { topic: "scenario".into(), partition: p as i32 }).collect();
        let mut core = run.restored()?;
        for (i, segment) in segments.iter().enumerate() {
            if let Some(swap) = &segment.swap {
                let plugin = load(swap)?;
                match swapped(&pipeline, &plugins, &run.plan, plugin) {
                    Ok((next, plan)) => {
                        (plugins, run.plan) = (next, plan);
                        core.set_plan(Arc::clone(&run.plan)).map_err(|e| e.to_string())?;
                    }
                    Err(why) => run.log.refused = Some(why),
                }
            }
            if let Some(now) = segment.now {
                run.now = now;
                if segment.records.is_empty() && i + 1 < segments.len() {
                    let progress = run.progress(&[], false);
                    run.epoch(&mut core, &[], &progress, true)?;
                }
            }
            if !segment.idle.is_empty() {
                core = run.idle(core, &segment.idle)?;
            }
            core = run.segment(core, &segment.records, i + 1 == segments.len())?;
        }
        let upserts = run.plan.upserts();
        let revisions = self.expect.revisions.as_ref().filter(|_| mode.epoch_rows == 1 && !mode.on_disk);
        if let Some(revisions) = revisions {
            in_order(revisions, &values(&run.log.outputs)?, self.tolerance)?;
        }
        if upserts {
            run.log.outputs = table(std::mem::take(&mut run.log.outputs))?;
        }
        self.compare(&run.log)
    }

    /// Records between swaps, each with its partition.
    fn segments(&self, mode: Mode) -> (Vec<Segment>, usize) {
        let mut segments = vec![Segment::default()];
        let mut offsets: HashMap<usize, i64> = HashMap::new();
        let mut number = 0;
        for input in &self.input {
            let (partition, mut record) = match input {
                Input::Swap { swap } => {
                    segments.push(Segment { swap: Some(swap.clone()), ..Segment::default() });
                    continue;
                }
                Input::Now { now } => {
                    segments.push(Segment { now: Some(*now), ..Segment::default() });
                    continue;
                }
                Input::Idle { idle } => {
                    // An idle partition without a record is one all the same.
                    for partition in idle {
                        offsets.entry(*partition).or_default();
                    }
                    segments.push(Segment { idle: idle.clone(), ..Segment::default() });
                    continue;
                }
                Input::Value(value) => (0, OwnedRecord { value: Some(value.clone().into_bytes()), ..OwnedRecord::default() }),
                Input::Record(r) => (r.partition, r.to_owned_record()),
            };
            let partition = if mode.spread { number % SPREAD } else { partition };
            number += 1;
            let offset = offsets.entry(partition).or_default();
            record.offset = *offset;
            *offset += 1;
            if let Some(segment) = segments.last_mut() {
                segment.records.push((partition, record));
            }
        }
        (segments, offsets.keys().max().map_or(1, |m| m + 1))
    }

    fn compare(&self, log: &Log) -> Result<(), String> {
        let exact = |want: &Value, got: &Value| same(want, got, self.tolerance);
        let part = |want: &Value, got: &Value| match want {
            Value::Object(members) => members.iter().all(|(name, want)| match (name.as_str(), want, &got[name]) {
                ("reason", Value::String(part), Value::String(whole)) => whole.contains(part.as_str()),
                (_, want, got) => same(want, got, self.tolerance),
            }),
            _ => false,
        };
        matched("output", &self.expect.output, values(&log.outputs)?, exact)?;
        for name in self.expect.outputs.keys().map(|name| output_role(name)).chain(log.named.keys().cloned()) {
            let want = self.expect.outputs.iter().find(|(n, _)| output_role(n) == name).map_or(&[][..], |(_, rows)| rows);
            matched(&name, want, values(log.named.get(&name).map_or(&[][..], Vec::as_slice))?, exact)?;
        }
        matched("late", &self.expect.late, values(&log.late)?, part)?;
        matched("rejects", &self.expect.rejects, values(&log.rejects)?, part)?;
        if let Some(keys) = &self.expect.keys {
            let got = log.outputs.iter().map(|r| r.key.as_deref().map_or(Ok(Value::Null), serde_json::from_slice));
            matched("keys", keys, got.collect::<Result<_, _>>().map_err(|e| e.to_string())?, exact)?;
        }
        match (&self.expect.refused, &log.refused) {
            (None, None) => Ok(()),
            (Some(want), Some(got)) if got.contains(want.as_str()) => Ok(()),
            (want, got) => Err(format!("expected the swap to be refused with {want:?}, got {got:?}")),
        }
    }
}

/// `path` as it is named in `file`.
fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

impl RecordInput {
    fn to_owned_record(&self) -> OwnedRecord {
        let hex = |text: &str| -> Vec<u8> {
            text.as_bytes().chunks(2).filter_map(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 16).ok()).collect()
        };
        let mut headers: Vec<_> = self.headers.iter().map(|(k, v)| (k.clone(), Some(v.clone().into_bytes()))).collect();
        headers.sort();
        OwnedRecord {
            offset: 0,
            timestamp: self.timestamp,
            key: self.key.as_ref().map(|k| k.clone().into_bytes()),
            value: self.hex.as_deref().map(hex).or_else(|| self.value.as_ref().map(|v| v.clone().into_bytes())),
            headers,
        }
    }
}

#[derive(Default)]
struct Segment {
    swap: Option<String>,
    now: Option<i64>,
    /// Partitions that are idle before the records come.
    idle: Vec<usize>,
    records: Vec<(usize, OwnedRecord)>,
}

fn swapped(
    pipeline: &config::spec::Pipeline,
    plugins: &PluginSet,
    plan: &Plan,
    plugin: Arc<Plugin>,
) -> Result<(PluginSet, Arc<Plan>), String> {
    if let Some(old) = plugins.plugin(&plugin.name) {
        let used: Vec<String> = plan.guests.iter().filter(|g| g.plugin == *plugin.name).map(|g| g.function.clone()).collect();
        compatible(old, &plugin, &used)?;
    }
    let next = plugins.with(plugin).map_err(|p| p.text)?;
    let plan = plan::build(pipeline, &next).map_err(|e| e.to_string())?;
    Ok((next, Arc::new(plan)))
}

struct Running {
    limits: JobLimits,
    format: OutputFormat,
    plan: Arc<Plan>,
    mode: Mode,
    log: Log,
    partitions: Vec<PartitionName>,
    now: i64,
    scratch: Scratch,
    cores: Cell<u32>,
}

impl Running {
    /// The job as a process finds it that starts now: from what was committed.
    fn restored(&self) -> Result<JobCore, String> {
        let mut limits = self.limits.clone();
        if self.mode.on_disk {
            // The core that is to be replaced has its folder still.
            let folder = self.scratch.0.join(self.cores.replace(self.cores.get() + 1).to_string());
            limits.state = StateLimit { memory_bytes: 0, spill: Some(folder) };
            limits.close_results = 2;
        }
        let mut core =
            JobCore::new(Arc::clone(&self.plan), self.partitions.clone(), self.format, limits).map_err(|e| e.to_string())?;
        for entry in self.log.entries.values() {
            core.load(entry.clone()).map_err(|e| e.to_string())?;
        }
        if let Some(meta) = &self.log.meta {
            core.restore(meta)?;
        }
        Ok(core)
    }

    fn segment(&mut self, mut core: JobCore, records: &[(usize, OwnedRecord)], last: bool) -> Result<JobCore, String> {
        let size = self.mode.epoch_rows.min(records.len().max(1));
        let epochs: Vec<&[(usize, OwnedRecord)]> = records.chunks(size).collect();
        for (i, epoch) in epochs.iter().enumerate() {
            let finished = last && i + 1 == epochs.len();
            core = self.committed(core, epoch, &self.progress(&[], finished))?;
        }
        if epochs.is_empty() && last {
            core = self.committed(core, &[], &self.progress(&[], true))?;
        }
        Ok(core)
    }

    fn idle(&mut self, core: JobCore, idle: &[usize]) -> Result<JobCore, String> {
        self.committed(core, &[], &self.progress(idle, false))
    }

    fn progress(&self, idle: &[usize], finished: bool) -> Progress {
        let count = self.partitions.len();
        Progress { idle: (0..count).map(|p| idle.contains(&p)).collect(), finished: vec![finished; count] }
    }

    /// Runs an epoch and commits it; with crashes before and after the commit where the mode has them.
    fn committed(&mut self, mut core: JobCore, records: &[(usize, OwnedRecord)], progress: &Progress) -> Result<JobCore, String> {
        if self.mode.crash {
            // Computed, never committed: the process died before.
            self.epoch(&mut core, records, progress, false)?;
            core = self.restored()?;
        }
        let before = (core.closed(), core.watermarks().to_vec());
        self.epoch(&mut core, records, progress, true)?;
        while core.owes() {
            self.epoch(&mut core, &[], progress, true)?;
        }
        if self.mode.crash {
            core = self.restored()?;
        }
        let back = core.closed() < before.0 || core.watermarks().iter().zip(&before.1).any(|(now, then)| now < then);
        if back { Err("a watermark went back".into()) } else { Ok(core) }
    }

    fn epoch(
        &mut self,
        core: &mut JobCore,
        records: &[(usize, OwnedRecord)],
        progress: &Progress,
        commit: bool,
    ) -> Result<(), String> {
        let mut decoder = Decoder::of_plan(&self.plan, &self.partitions);
        let mut starts = vec![EpochStart { now: self.now, ..core.start(FaultPolicy::Isolate) }];
        for _ in 0..8 {
            let start = starts.remove(0);
            let task = JobCore::run_task(&self.plan, &mut decoder, batches(records), start, &self.limits)
                .map_err(|(e, _)| e.to_string())?;
            match core.close(&[task], progress, FaultPolicy::Isolate).map_err(|e| e.to_string())? {
                Outcome::Rerun(again) => starts = again,
                Outcome::Commit(epoch) => {
                    if commit {
                        self.log.commit(*epoch);
                    }
                    return Ok(());
                }
            }
        }
        Err("an epoch was run 8 times without an end".into())
    }
}

/// Records as a reader gives them: one batch a partition, in order.
fn batches(records: &[(usize, OwnedRecord)]) -> Vec<RawBatch> {
    let mut batches: Vec<(usize, OwnedRecords)> = Vec::new();
    for (partition, record) in records {
        match batches.iter_mut().find(|(p, _)| p == partition) {
            Some((_, batch)) => batch.rows.push(record.clone()),
            None => batches.push((*partition, OwnedRecords { rows: vec![record.clone()] })),
        }
    }
    batches.into_iter().map(|(partition, records)| RawBatch { partition, records: Box::new(records) }).collect()
}

impl Log {
    fn commit(&mut self, epoch: crate::output::EpochCommit) {
        for change in epoch.changes.iter().map(Change::from) {
            match change.value {
                Some(_) => self.entries.insert(change.key.clone(), change),
                None => self.entries.remove(&change.key),
            };
        }
        self.meta = Some(epoch.meta);
        self.outputs.extend(epoch.outputs);
        for (role, records) in epoch.named {
            self.named.entry(role).or_default().extend(records);
        }
        self.late.extend(epoch.late);
        self.rejects.extend(epoch.rejects);
    }
}
