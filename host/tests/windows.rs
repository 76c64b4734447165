//! Every kind of window over random disordered rows of several partitions: however epochs, batches and crashes cut the input, and however little of
//! the state is in memory, the result is what the definition says, row by row.
//!
//! `KINDLING_SEED=n` runs one seed; a failure prints it.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "support/definition.rs"]
mod definition;

use definition::{Bounds, Fate, Kind, Random, Row, Window};
use kindling::config::spec::TimestampFormat;
use kindling::config::{LoadOptions, load_str};
use kindling::element::{OwnedRecord, OwnedRecords, PartitionName, RawBatch};
use kindling::ingest::decode::Decoder;
use kindling::limits::{JobLimits, StateLimit};
use kindling::operator::FaultPolicy;
use kindling::operator::epoch::EpochStart;
use kindling::output::{Change, EpochCommit, Meta, OutRecord};
use kindling::plan::{self, Plan};
use kindling::plugin::PluginSet;
use kindling::runtime::core::{JobCore, Outcome, OutputFormat, Progress};
use serde_json::Value;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const SEEDS: u64 = 300;

/// A row: key and event time.
type KeyTime = (u8, i64);

/// The definition: windows and how often rows were late.
fn expected(kind: Kind, partitions: &[Vec<KeyTime>], disorder: i64, lateness: i64) -> (Vec<Window<u8>>, Vec<i64>) {
    let row = |(partition, (key, time)): (usize, &KeyTime)| Row {
        partition,
        key: *key,
        time: *time,
        written: None,
        value: 1,
        counts: true,
        floor: i64::MIN,
    };
    let rows: Vec<Row<u8>> =
        partitions.iter().enumerate().flat_map(|(p, rows)| rows.iter().map(move |r| (p, r))).map(row).collect();
    let (windows, fates) = definition::expected(kind, Bounds { disorder, lateness, max_future: 0, ttl: None }, &rows);
    let late = |fate: &Fate| if let Fate::Late(by) = fate { Some(*by) } else { None };
    let mut late: Vec<i64> = fates.iter().filter_map(late).collect();
    late.sort_unstable();
    (windows, late)
}

/// What was committed.
#[derive(Default)]
struct Log {
    entries: HashMap<Vec<u8>, Change>,
    meta: Option<Meta>,
    outputs: Vec<OutRecord>,
    late: Vec<OutRecord>,
}

impl Log {
    fn commit(&mut self, epoch: EpochCommit) {
        for change in epoch.changes.iter().map(Change::from) {
            match change.value {
                Some(_) => self.entries.insert(change.key.clone(), change),
                None => self.entries.remove(&change.key),
            };
        }
        self.meta = Some(epoch.meta);
        self.outputs.extend(epoch.outputs);
        self.late.extend(epoch.late);
    }
}

/// Memory of the state that it is run with: all of it, some, or none, in folders of its own.
struct Memory {
    folder: tempfile::TempDir,
    bytes: Option<usize>,
    cores: Cell<u32>,
}

impl Memory {
    fn limit(&self) -> StateLimit {
        let Some(memory_bytes) = self.bytes else { return StateLimit::default() };
        // The core that is to be replaced has its folder still.
        let core = self.cores.replace(self.cores.get() + 1);
        StateLimit { memory_bytes, spill: Some(self.folder.path().join(core.to_string())) }
    }
}

fn restored(plan: &Arc<Plan>, names: &[PartitionName], log: &Log, memory: &Memory) -> JobCore {
    let format = OutputFormat { timestamps: TimestampFormat::Millis };
    let close_results = if memory.bytes.is_some() { 2 } else { usize::MAX };
    let limits = JobLimits { state: memory.limit(), close_results, ..JobLimits::default() };
    let mut core = JobCore::new(Arc::clone(plan), names.to_vec(), format, limits).unwrap();
    log.entries.values().for_each(|entry| core.load(entry.clone()).unwrap());
    if let Some(meta) = &log.meta {
        core.restore(meta).unwrap();
    }
    core
}

/// Runs the rows in epochs of random size, with crashes.
fn run(plan: &Arc<Plan>, partitions: &[Vec<KeyTime>], random: &mut Random, bytes: Option<usize>) -> Log {
    let names: Vec<_> = (0..partitions.len()).map(|p| PartitionName { topic: "t".into(), partition: p as i32 }).collect();
    let mut decoder = Decoder::of_plan(plan, &names);
    let mut log = Log::default();
    let memory = Memory { folder: tempfile::tempdir().unwrap(), bytes, cores: Cell::default() };
    // A store on disk is made anew with each crash, which takes its time.
    let calm = if bytes.is_some() { 6 } else { 1 };
    let mut core = restored(plan, &names, &log, &memory);
    let mut at = vec![0; partitions.len()];
    let (mut now, limits) = (0, JobLimits { batch_rows: 1 + random.below(5) as usize, ..JobLimits::default() });
    loop {
        now += random.below(30) as i64;
        let ended = at.iter().zip(partitions).all(|(at, rows)| *at == rows.len());
        let ranges: Vec<_> =
            at.iter().zip(partitions).map(|(at, rows)| *at..rows.len().min(at + random.below(4) as usize)).collect();
        let batches = || -> Vec<RawBatch> {
            let record = |p: usize, i: usize| {
                let (key, time) = partitions[p][i];
                let value = format!("{{\"st\":{time},\"k\":\"{key}\"}}").into_bytes();
                OwnedRecord { offset: i as i64, value: Some(value), ..OwnedRecord::default() }
            };
            let batch = |(p, r): (usize, &std::ops::Range<usize>)| RawBatch {
                partition: p,
                records: Box::new(OwnedRecords { rows: r.clone().map(|i| record(p, i)).collect() }),
            };
            ranges.iter().enumerate().filter(|(_, r)| !r.is_empty()).map(batch).collect()
        };
        let progress = Progress { idle: Vec::new(), finished: vec![ended; partitions.len()] };
        for commit in if random.below(3 * calm) == 0 { vec![false, true] } else { vec![true] } {
            let start = EpochStart { now, ..core.start(FaultPolicy::Fail) };
            let task = JobCore::run_task(plan, &mut decoder, batches(), start, &limits).map_err(|e| e.0).unwrap();
            match core.close(&[task], &progress, FaultPolicy::Fail).unwrap() {
                Outcome::Commit(epoch) if commit => log.commit(*epoch),
                Outcome::Commit(_) => core = restored(plan, &names, &log, &memory),
                Outcome::Rerun(_) => panic!("an epoch that starts from the state before need not be run again"),
            }
        }
        if ended && !core.owes() {
            return log;
        }
        at = ranges.iter().map(|r| r.end).collect();
        if random.below(4 * calm) == 0 {
            core = restored(plan, &names, &log, &memory);
        }
    }
}

fn value(record: &OutRecord) -> Value {
    serde_json::from_slice(&record.value).unwrap()
}

/// The windows that a reader has in the end.
fn windows(log: &Log, upserts: bool) -> Vec<Window<u8>> {
    let mut rows: BTreeMap<(Vec<u8>, usize), Value> = BTreeMap::new();
    for (i, record) in log.outputs.iter().enumerate() {
        let key = (record.key.clone().unwrap(), if upserts { 0 } else { i });
        match record.is_tombstone {
            true => drop(rows.remove(&key)),
            false => {
                let old = rows.insert(key, value(record));
                assert!(old.is_none_or(|o| o["isFinal"] == false), "a result after the final one: {}", value(record));
            }
        }
    }
    let window = |v: &Value| {
        assert!(!upserts || v["isFinal"] == true, "not final in the end: {v}");
        let number = |name: &str| v[name].as_i64().unwrap();
        let (key, rows) = (v["k"].as_str().unwrap().parse().unwrap(), number("count"));
        Window { key, start: number("window_start"), end: number("window_end"), rows, sum: rows }
    };
    let mut windows: Vec<Window<u8>> = rows.values().map(window).collect();
    windows.sort_unstable();
    windows
}

fn check(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let kind = Kind::random(&mut random);
    let (disorder, lateness) = (random.below(8) as i64, random.below(3) as i64 * random.below(12) as i64);
    let emit = ["final", "onUpdate", "{ early: 40ms }"][random.below(3) as usize];
    let pipeline = format!(
        "source: {{ name: stdin }}
pipeline:
  - operation: parse
    parse:
      parameters:
        - {{ jsonPath: st, outputType: milliToTimestamp, outputCol: st }}
        - {{ jsonPath: k, outputType: string, outputCol: k }}
  - operation: window_aggregate
    window: {{ {}, timestampColumn: st, watermark: {disorder}ms, allowedLateness: {lateness}ms }}
    emit: {emit}
    groupByKeys: [k]
    aggregations: [{{ reducer: count, outputColumn: count }}]
",
        kind.yaml()
    );
    let pipeline = load_str(&pipeline, "windows.yaml", &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let plan = plan::build(&pipeline, &PluginSet::empty()).unwrap_or_else(|e| panic!("{e}"));
    let plan = Arc::new(plan);
    let partitions: Vec<Vec<KeyTime>> = (0..1 + random.below(3))
        .map(|_| {
            let mut base = random.below(20) as i64;
            let mut row = || {
                base += random.below(5) as i64;
                (random.below(3) as u8, base - random.below(3) as i64 * random.below(9) as i64)
            };
            (0..40).map(|_| row()).collect()
        })
        .collect();
    let (want, want_late) = expected(kind, &partitions, disorder, lateness);
    let little = seed.is_multiple_of(4).then(|| Some(random.below(2) as usize * 1_500));
    for bytes in [None, None, None].into_iter().chain(little) {
        let log = run(&plan, &partitions, &mut random, bytes);
        let about = format!(
            "seed {seed}, memory {bytes:?}: {kind:?} disorder {disorder} lateness {lateness} emit {emit}\nrows {partitions:?}"
        );
        assert_eq!(windows(&log, emit != "final"), want, "{about}");
        let mut late: Vec<i64> = log.late.iter().map(|r| value(r)["lateByMs"].as_i64().unwrap()).collect();
        late.sort_unstable();
        assert_eq!(late, want_late, "{about}");
        assert!(log.entries.is_empty(), "{about}\nwhat has closed is still stored");
    }
}

#[test]
fn windows_are_what_the_definition_says_however_the_input_is_cut() {
    match std::env::var("KINDLING_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => check(seed),
        None => (0..SEEDS).for_each(|seed| {
            println!("KINDLING_SEED={seed}");
            check(seed);
        }),
    }
}
