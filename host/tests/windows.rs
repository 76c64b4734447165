//! Every kind of window over random disordered rows of several partitions: however epochs, batches and crashes cut the input, and however little of
//! the state is in memory, the result is what the definition says, row by row.
//!
//! `KINDLING_SEED=n` runs one seed; a failure prints it.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

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

/// A generator with one number as its state (PCG's multiplier).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

/// A row: key and event time.
type Row = (u8, i64);
/// Key, start and end of a window, number of rows.
type Window = (u8, i64, i64, i64);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Hopping { duration: i64, slide: i64, offset: i64 },
    Cumulative { size: i64, step: i64 },
    Session { gap: i64 },
}

impl Kind {
    fn random(random: &mut Random) -> Self {
        match random.below(4) {
            0 => {
                let duration = 1 + random.below(30) as i64;
                Self::Hopping { duration, slide: duration, offset: random.below(9) as i64 }
            }
            1 => {
                let slide = 1 + random.below(6) as i64;
                Self::Hopping { duration: slide * (1 + random.below(14) as i64), slide, offset: random.below(9) as i64 }
            }
            2 => {
                let step = 1 + random.below(5) as i64;
                Self::Cumulative { size: step * (1 + random.below(14) as i64), step }
            }
            _ => Self::Session { gap: 1 + random.below(12) as i64 },
        }
    }

    fn yaml(self) -> String {
        match self {
            Self::Hopping { duration, slide, offset } => {
                format!("type: hopping, duration: {duration}ms, slideDuration: {slide}ms, offset: {offset}ms")
            }
            Self::Cumulative { size, step } => format!("type: cumulative, size: {size}ms, step: {step}ms"),
            Self::Session { gap } => format!("type: session, gap: {gap}ms"),
        }
    }

    /// Bounds of the windows that contain `time`, by looking at all of them.
    fn windows(self, time: i64) -> Vec<(i64, i64)> {
        let all: Vec<(i64, i64)> = match self {
            Self::Hopping { duration, slide, offset } => {
                (-200..400).map(|n| n * slide + offset).map(|s| (s, s + duration)).collect()
            }
            Self::Cumulative { size, step } => {
                (-200..400).flat_map(|n| (1..=size / step).map(move |m| (n * size, n * size + m * step))).collect()
            }
            Self::Session { .. } => Vec::new(),
        };
        all.into_iter().filter(|(start, end)| *start <= time && time < *end).collect()
    }
}

/// The definition: windows and how often rows were late, row by row.
fn expected(kind: Kind, partitions: &[Vec<Row>], disorder: i64, lateness: i64) -> (Vec<Window>, Vec<i64>) {
    let (mut windows, mut late) = (BTreeMap::<(u8, i64, i64), i64>::new(), Vec::new());
    let mut of_sessions = Vec::new();
    for rows in partitions {
        let mut watermark = i64::MIN;
        for (key, time) in rows {
            if let Kind::Session { gap } = kind {
                if time + gap + lateness <= watermark {
                    late.push(watermark - (time + gap + lateness));
                } else {
                    of_sessions.push((watermark, *key, *time));
                }
            } else {
                let all = kind.windows(*time);
                let open: Vec<_> = all.iter().filter(|(_, end)| end + lateness > watermark).collect();
                if open.is_empty() {
                    late.push(watermark - all.iter().map(|(_, end)| end + lateness).max().unwrap());
                }
                open.into_iter().for_each(|(start, end)| *windows.entry((*key, *start, *end)).or_default() += 1);
            }
            watermark = watermark.max(time - disorder);
        }
    }
    if let Kind::Session { gap } = kind {
        // In the order of watermarks, whichever partition they are of.
        of_sessions.sort_unstable();
        let mut sessions: Vec<(u8, i64, i64, i64)> = Vec::new();
        for (watermark, key, time) in of_sessions {
            let mut own = (key, time, time, 1);
            sessions.retain(|s| {
                let joins = s.0 == key && s.2 + gap + lateness > watermark && s.1 <= time + gap && time <= s.2 + gap;
                if joins {
                    own = (key, own.1.min(s.1), own.2.max(s.2), own.3 + s.3);
                }
                !joins
            });
            sessions.push(own);
        }
        for (key, first, last, rows) in sessions {
            *windows.entry((key, first, last + gap)).or_default() += rows;
        }
    }
    late.sort_unstable();
    (windows.into_iter().map(|((key, start, end), rows)| (key, start, end, rows)).collect(), late)
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
        for change in epoch.changes {
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
fn run(plan: &Arc<Plan>, partitions: &[Vec<Row>], random: &mut Random) -> Log {
    let names: Vec<_> = (0..partitions.len()).map(|p| PartitionName { topic: "t".into(), partition: p as i32 }).collect();
    let mut decoder = Decoder::of_plan(plan, &names);
    let mut log = Log::default();
    let bytes = [None, Some(0), Some(1_500)][random.below(3) as usize];
    let memory = Memory { folder: tempfile::tempdir().unwrap(), bytes, cores: Cell::default() };
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
        for commit in if random.below(3) == 0 { vec![false, true] } else { vec![true] } {
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
        if random.below(4) == 0 {
            core = restored(plan, &names, &log, &memory);
        }
    }
}

fn value(record: &OutRecord) -> Value {
    serde_json::from_slice(&record.value).unwrap()
}

/// The windows that a reader has in the end.
fn windows(log: &Log, upserts: bool) -> Vec<Window> {
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
        (v["k"].as_str().unwrap().parse().unwrap(), number("window_start"), number("window_end"), number("count"))
    };
    let mut windows: Vec<Window> = rows.values().map(window).collect();
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
    let partitions: Vec<Vec<Row>> = (0..1 + random.below(3))
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
    for _ in 0..3 {
        let log = run(&plan, &partitions, &mut random);
        let about = format!("seed {seed}: {kind:?} disorder {disorder} lateness {lateness} emit {emit}\nrows {partitions:?}");
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
        None => (0..SEEDS).for_each(check),
    }
}
