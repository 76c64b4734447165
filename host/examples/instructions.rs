//! What `tests/bench/instructions` counts the instructions of: each `measured_*` function here is one row, called once, warmed up.
//!
//! 8,192 rows of the reference workload: decoding four fields of JSON; a task's share of an epoch (decode, filter, panes, fold); a guest's
//! average over 16 groups; the close of an epoch with a built-in and a guest count (merge, finish, encode, apply).

use arrow::array::{ArrayRef, Float64Array};
use kindling::config::spec::TimestampFormat;
use kindling::config::{LoadOptions, load_str};
use kindling::element::{OwnedRecord, OwnedRecords, PartitionName, RawBatch};
use kindling::ingest::decode::Decoder;
use kindling::limits::{GuestLimits, JobLimits};
use kindling::operator::FaultPolicy;
use kindling::operator::epoch::TaskEpoch;
use kindling::plan::{self, Plan};
use kindling::plugin::{Argument, GuestEngine, Plugin, PluginSet};
use kindling::runtime::core::{JobCore, Outcome, OutputFormat, Progress};
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

mod rows;

const ROWS: usize = 8_192;
const PIPELINE: &str = "
source: { name: stdin }
pipeline:
  - operation: parse
    parse:
      parameters:
        - { jsonPath: ts, outputType: milliToTimestamp, outputCol: ts }
        - { jsonPath: name, outputType: string, outputCol: name }
        - { jsonPath: experiment, outputType: string, outputCol: experiment }
        - { jsonPath: variant, outputType: string, outputCol: variant }
  - operation: filter
    where: name = 'Experiment.assign'
  - operation: window_aggregate
    window: { timestampColumn: ts, duration: 1.seconds, watermark: 1.seconds }
    groupByKeys: [experiment, variant]
    aggregations:
      - { reducer: count, outputColumn: count }
      - { reducer: assignment_count, inputColumns: [experiment], outputColumn: guest }
";

/// Rows `from..from + ROWS`, as one batch of partition 0.
fn raw(from: usize) -> RawBatch {
    let record = |i: usize| OwnedRecord { offset: i as i64, value: Some(rows::row(i as u64)), ..OwnedRecord::default() };
    RawBatch { partition: 0, records: Box::new(OwnedRecords { rows: (from..from + ROWS).map(record).collect() }) }
}

#[inline(never)]
fn measured_decode(decoder: &mut Decoder, raw: &RawBatch) -> usize {
    decoder.decode(raw, 0..ROWS, &mut Vec::new()).map_or(0, |b| b.num_rows())
}

#[inline(never)]
fn measured_task(plan: &Plan, decoder: &mut Decoder, core: &JobCore, raw: RawBatch) -> Option<TaskEpoch> {
    JobCore::run_task(plan, decoder, vec![raw], core.start(FaultPolicy::Isolate), &JobLimits::default()).ok()
}

#[inline(never)]
fn measured_guest(plugin: &Plugin, function: usize, groups: &[u32], arguments: &[Argument]) -> usize {
    plugin.accumulate(function, groups, 16, arguments).map_or(0, |s| s.len())
}

#[inline(never)]
fn measured_close(core: &mut JobCore, task: TaskEpoch) -> usize {
    let progress = Progress { idle: vec![false], finished: vec![false] };
    match core.close(&[task], &progress, FaultPolicy::Isolate) {
        Ok(Outcome::Commit(commit)) => commit.outputs.len() + commit.changes.len(),
        _ => 0,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let engine = GuestEngine::new(GuestLimits::default(), None)?;
    let load = |name: &str| Plugin::load(&engine, &root.join("plugins").join(name));
    let set = PluginSet::empty().with(load("experiment_count.wasm")?).map_err(|p| p.to_string())?;
    let set = set.with(load("basics.wasm")?).map_err(|p| p.to_string())?;
    let pipeline = load_str(PIPELINE, "instructions.yaml", &LoadOptions::default())?;
    let plan = Arc::new(plan::build(&pipeline, &set)?);
    let names = vec![PartitionName { topic: "events".into(), partition: 0 }];
    // Without the plan's filter, so that all columns of all rows are decoded.
    let mut whole = Decoder::new(&plan.decode, &names);
    let mut decoder = Decoder::of_plan(&plan, &names);
    let format = OutputFormat { timestamps: TimestampFormat::default() };
    let mut core = JobCore::new(Arc::clone(&plan), names, format, JobLimits::default())?;
    let (average, number) = set.function("guest_avg").ok_or("no guest_avg")?;
    let groups: Vec<u32> = (0..ROWS as u32).map(|i| i * 7 % 16).collect();
    let values: ArrayRef = Arc::new(Float64Array::from_iter_values((0..ROWS).map(|i| i as f64)));
    // The last of these is what counts: by then every buffer has its size and every instance is in its pool.
    for epoch in 0..4 {
        assert_eq!(black_box(measured_decode(&mut whole, &raw(epoch * ROWS))), ROWS);
        let task = measured_task(&plan, &mut decoder, &core, raw(epoch * ROWS)).ok_or("the task failed")?;
        assert!(black_box(measured_guest(&average, number, &groups, &[Argument::Column(Arc::clone(&values))])) > 0);
        assert!(black_box(measured_close(&mut core, task)) > 0);
    }
    Ok(())
}
