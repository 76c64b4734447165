//! Windows behind windows on random disordered input: what the later one gives is what a plain recomputation makes of the results of the first
//! one, run by itself; none of them is late, whatever the windows are, where epochs are cut, which partitions are idle, and where the job is
//! restored from what it had committed.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use kindling::config::{LoadOptions, load_str};
use kindling::element::{OwnedRecord, OwnedRecords, PartitionName, RawBatch};
use kindling::ingest::decode::Decoder;
use kindling::limits::JobLimits;
use kindling::operator::FaultPolicy;
use kindling::operator::window_lateness::{RowLateness, WINDOWS_KEPT};
use kindling::output::{Change, Meta};
use kindling::plan::{self, Plan};
use kindling::plugin::PluginSet;
use kindling::runtime::core::{JobCore, Outcome, OutputFormat, Progress};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const PARTITIONS: usize = 3;
const OUTER_MS: i64 = 60_000;

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// One epoch: rows by partition, and which partitions are idle after it.
struct Epoch {
    rows: Vec<(usize, String)>,
    idle: Vec<bool>,
}

fn pipeline(inner: &str, outer: &str) -> Arc<Plan> {
    let text = format!(
        "source: {{ name: stdin }}\ntimestampFormat: millis\npipeline:\n  - operation: parse\n    parse:\n      parameters:\n        \
         - {{ jsonPath: t, outputType: milliToTimestamp, outputCol: t }}\n        - {{ jsonPath: k, outputType: string, outputCol: k }}\n  \
         - operation: window_aggregate\n    name: inner\n    {inner}\n    groupByKeys: [k]\n    \
         aggregations: [{{ reducer: count, outputColumn: n }}]\n{outer}"
    );
    let pipeline = load_str(&text, "p.yaml", &LoadOptions::default()).unwrap();
    Arc::new(plan::build(&pipeline, &PluginSet::empty()).unwrap())
}

/// What a job has committed.
#[derive(Default)]
struct Log {
    entries: BTreeMap<Vec<u8>, Change>,
    meta: Option<Meta>,
    outputs: Vec<Value>,
    late: Vec<Value>,
    /// By operator.
    lateness: Vec<RowLateness>,
    /// Outputs so far, and the watermark, before each epoch.
    before: Vec<(usize, i64)>,
}

impl Log {
    fn restored(&self, plan: &Arc<Plan>) -> JobCore {
        let partitions = (0..PARTITIONS).map(|p| PartitionName { topic: "in".into(), partition: p as i32 }).collect();
        let format = OutputFormat { timestamps: kindling::config::spec::TimestampFormat::Millis };
        let mut core = JobCore::new(Arc::clone(plan), partitions, format, JobLimits::default()).unwrap();
        self.entries.values().for_each(|entry| core.load(entry.clone()).unwrap());
        self.meta.iter().for_each(|meta| core.restore(meta).unwrap());
        core
    }
}

/// Runs the epochs, with the input's end after them or without.
fn run(plan: &Arc<Plan>, epochs: &[Epoch], ends: bool, random: &mut Random) -> Log {
    let mut log = Log::default();
    let mut core = log.restored(plan);
    let mut offsets = [0; PARTITIONS];
    for (number, epoch) in epochs.iter().enumerate() {
        if random.below(4) == 0 {
            core = log.restored(plan);
        }
        let mut batches: Vec<OwnedRecords> = (0..PARTITIONS).map(|_| OwnedRecords::default()).collect();
        for (partition, value) in &epoch.rows {
            let value = Some(value.clone().into_bytes());
            batches[*partition].rows.push(OwnedRecord { offset: offsets[*partition], value, ..OwnedRecord::default() });
            offsets[*partition] += 1;
        }
        let batches: Vec<_> = batches.into_iter().enumerate().filter(|(_, b)| !b.rows.is_empty()).collect();
        let batches = batches.into_iter().map(|(partition, b)| RawBatch { partition, records: Box::new(b) }).collect();
        let mut decoder = Decoder::of_plan(plan, &[]);
        let start = core.start(FaultPolicy::Isolate);
        let task = JobCore::run_task(plan, &mut decoder, batches, start, &JobLimits::default()).map_err(|e| e.0).unwrap();
        let progress = Progress { idle: epoch.idle.clone(), finished: vec![ends && number + 1 == epochs.len(); PARTITIONS] };
        let Outcome::Commit(commit) = core.close(&[task], &progress, FaultPolicy::Isolate).unwrap() else { panic!("run again") };
        for change in commit.changes.iter().map(Change::from) {
            match change.value {
                Some(_) => drop(log.entries.insert(change.key.clone(), change)),
                None => drop(log.entries.remove(&change.key)),
            }
        }
        assert!(commit.rejects.is_empty());
        log.before.push((log.outputs.len(), log.meta.as_ref().map_or(i64::MIN, |meta| meta.closed)));
        log.lateness.resize_with(core.lateness().len(), RowLateness::default);
        log.lateness.iter_mut().zip(&core.lateness()).for_each(|(all, new)| all.add(new));
        let json = |value: &[u8]| serde_json::from_slice::<Value>(value).unwrap();
        log.meta = Some(commit.meta);
        log.outputs.extend(commit.outputs.iter().map(|r| json(&r.value)));
        log.late.extend(commit.late.iter().map(|r| json(&r.value)));
    }
    log
}

fn epochs(random: &mut Random) -> Vec<Epoch> {
    let mut now = [0_i64; PARTITIONS];
    let mut epoch = |random: &mut Random| {
        let mut rows = Vec::new();
        for _ in 0..random.below(12) {
            let partition = random.below(PARTITIONS as u64) as usize;
            now[partition] += random.below(9_000) as i64 * if random.below(12) == 0 { 10 } else { 1 };
            let most = if random.below(6) == 0 { 60_000 } else { 4_000 };
            let behind = random.below(most) as i64;
            let key = ["a", "b", "c"][random.below(3) as usize];
            rows.push((partition, json!({ "t": now[partition] - behind, "k": key }).to_string()));
        }
        let idle = (0..PARTITIONS).map(|_| random.below(5) == 0).collect();
        Epoch { rows, idle }
    };
    (0..40).map(|_| epoch(random)).collect()
}

/// Number and sum by window and key, of results counted by one of their columns.
fn counted(results: &[Value], time: &str) -> BTreeMap<(i64, String), (i64, i64)> {
    let mut windows = BTreeMap::new();
    for row in results {
        let at = row[time].as_i64().unwrap() - i64::from(time == "window_end");
        let key = row["k"].as_str().unwrap().to_owned();
        let (results, sum) = windows.entry((at.div_euclid(OUTER_MS) * OUTER_MS, key)).or_insert((0, 0));
        *results += 1;
        *sum += row["n"].as_i64().unwrap();
    }
    windows
}

#[test]
fn no_result_is_late_for_the_window_behind() {
    let inner = |fields: &str| format!("window: {{ timestampColumn: t, {fields} }}");
    let kinds = [
        "duration: 10s, watermark: 4s",
        "duration: 10s, watermark: 1s, allowedLateness: 7s",
        "duration: 30s, slideDuration: 10s, watermark: 2s",
        "duration: 25s, slideDuration: 10s, watermark: 2s, allowedLateness: 40s, offset: 3s",
        "type: cumulative, size: 40s, step: 10s, watermark: 2s",
        "duration: 1.day, timezone: Europe/Berlin, watermark: 2s",
        "type: session, gap: 8s, watermark: 2s",
        "type: session, gap: 8s, watermark: 2s, allowedLateness: 9s",
    ];
    let mut given = 0;
    for seed in 1..=60_u64 {
        let kind = kinds[seed as usize % kinds.len()];
        let times: &[&str] = if kind.contains("session") { &["window_end"] } else { &["window_end", "window_start"] };
        for time in times {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let epochs = epochs(&mut random);
            let alone = run(&pipeline(&inner(kind), ""), &epochs, true, &mut random);
            let outer = format!(
                "  - operation: window_aggregate\n    name: outer\n    window: {{ timestampColumn: {time}, duration: 1m, watermark: 0s }}\n    \
                 groupByKeys: [k]\n    aggregations: [{{ reducer: count, outputColumn: results }}, \
                 {{ reducer: sum, inputColumns: [n], outputColumn: sum }}]\n"
            );
            let both = run(&pipeline(&inner(kind), &outer), &epochs, true, &mut random);
            let mut got = BTreeMap::new();
            for row in &both.outputs {
                let window = (row["window_start"].as_i64().unwrap(), row["k"].as_str().unwrap().to_owned());
                let values = (row["results"].as_i64().unwrap(), row["sum"].as_i64().unwrap());
                assert!(got.insert(window, values).is_none(), "seed {seed}, {kind}, {time}: a window is given twice: {row}");
            }
            assert_eq!(got, counted(&alone.outputs, time), "seed {seed}, {kind}, {time}");
            assert_eq!(both.late, alone.late, "seed {seed}, {kind}, {time}");
            assert!(both.entries.is_empty(), "seed {seed}, {kind}, {time}: state is left at the end");
            given += got.len();
        }
    }
    assert!(given > 1_000, "{given}");
}

/// Rows of a window, those after its end, and the longest after it, milliseconds.
type LateRows = BTreeMap<i64, (u64, u64, i64)>;

/// By start of the outer window: each result is judged by the watermark that the epochs before have reached.
fn lateness_of(log: &Log) -> LateRows {
    let mut windows = LateRows::new();
    for (row, result) in log.outputs.iter().enumerate() {
        let epoch = log.before.partition_point(|(outputs, _)| *outputs <= row) - 1;
        let watermark = log.before[epoch].1;
        let start = result["window_end"].as_i64().unwrap().div_euclid(OUTER_MS) * OUTER_MS;
        let (rows, after, most) = windows.entry(start).or_default();
        *rows += 1;
        if start + OUTER_MS <= watermark {
            *after += 1;
            *most = (*most).max(watermark - (start + OUTER_MS) + 1);
        }
    }
    windows
}

#[test]
fn how_late_results_come_is_told_by_window() {
    // Results of count windows have an order only by their number: they may be older than the watermark.
    let inner = "window: { type: count, timestampColumn: t, every: 3, watermark: 1s }\n    ttl: 7.days";
    let outer = "  - operation: window_aggregate\n    name: outer\n    window: { timestampColumn: window_end, duration: 1m, watermark: 0s }\n    \
                 groupByKeys: [k]\n    aggregations: [{ reducer: count, outputColumn: n }]\n";
    let (mut behind, mut late) = (0, 0);
    for seed in 1..=40_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let epochs = epochs(&mut random);
        let alone = run(&pipeline(inner, ""), &epochs, true, &mut random);
        let both = run(&pipeline(inner, outer), &epochs, true, &mut random);
        let [first, second] = both.lateness.as_slice() else { panic!("two operators") };
        assert_eq!(Some(first), alone.lateness.first(), "seed {seed}");
        let mut wanted = lateness_of(&alone);
        let rows: u64 = wanted.values().map(|w| w.0).sum();
        assert_eq!((second.behind.rows(), second.late), (rows, both.late.len() as u64), "seed {seed}");
        assert_eq!(rows, alone.outputs.len() as u64, "seed {seed}");
        while wanted.len() > WINDOWS_KEPT {
            wanted.pop_first();
        }
        let got: LateRows =
            second.windows.recent().iter().map(|(w, l)| (w.start, (l.rows(), l.rows_behind(), l.max_ms()))).collect();
        assert_eq!(got, wanted, "seed {seed}");
        behind += second.behind.rows_behind();
        late += second.late;
    }
    assert!(behind > 100 && late > 100, "{behind} {late}");
}

#[test]
fn an_operator_that_moved_is_refused() {
    let outer = "  - operation: window_aggregate\n    name: outer\n    window: { timestampColumn: window_end, duration: 1m, watermark: 0s }\n    \
                 groupByKeys: [k]\n    aggregations: [{ reducer: count, outputColumn: n }]\n";
    let window = "window: { timestampColumn: t, duration: 10s, watermark: 0s }";
    let plan = pipeline(window, outer);
    let mut random = Random(5);
    let log = run(&plan, &epochs(&mut random), false, &mut random);
    let alone = pipeline(&window.replace("10s", "1m"), "").as_ref().clone();
    let alone = Arc::new(Plan { operator: "outer".to_owned(), ..alone });
    let partitions: Vec<PartitionName> =
        (0..PARTITIONS).map(|p| PartitionName { topic: "in".into(), partition: p as i32 }).collect();
    let mut core = JobCore::new(alone, partitions, OutputFormat::default(), JobLimits::default()).unwrap();
    log.entries.values().for_each(|entry| core.load(entry.clone()).unwrap());
    let refused = core.restore(log.meta.as_ref().unwrap()).unwrap_err();
    assert!(refused.contains("operator `outer`:\n  stored:   operator 2 with state"), "{refused}");
    assert!(refused.contains("operator `inner`:\n  the pipeline has no operator of this name"), "{refused}");
}

#[test]
fn the_state_of_each_operator_is_shown_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    file(
        "matches.yaml",
        "source: { name: file, parameters: { path: in.jsonl } }\npipeline:\n  - operation: parse\n    parse:\n      parameters:\n        \
         - { jsonPath: userId, outputType: string, outputCol: userId }\n        \
         - { jsonPath: otherId, outputType: string, outputCol: otherId }\n        - { jsonPath: like, outputType: boolean, outputCol: like }\n        \
         - { jsonPath: ts, outputType: milliToTimestamp, outputCol: ts }\n  - operation: process\n    name: matches\n    \
         plugin: match_detection\n    keyBy: [\"least(userId, otherId)\", \"greatest(userId, otherId)\"]\n    timestampColumn: ts\n    \
         ttl: 7.days\n  - operation: window_aggregate\n    name: totals\n    window: { type: global, timestampColumn: ts }\n    ttl: 30.days\n    \
         emit: onUpdate\n    groupByKeys: [swiper]\n    aggregations: [{ reducer: count, outputColumn: n }]\n",
    );
    file(
        "in.jsonl",
        "{\"userId\":\"a\",\"otherId\":\"b\",\"like\":true,\"ts\":1000}\n{\"userId\":\"b\",\"otherId\":\"a\",\"like\":true,\"ts\":2000}\n\
         {\"userId\":\"a\",\"otherId\":\"c\",\"like\":true,\"ts\":3000}\n",
    );
    let plugins = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
    let kindling = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kindling"));
        command.current_dir(dir.path()).args(arguments).arg("--plugins").arg(&plugins);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    let (well, text) = kindling(&["run", "matches.yaml", "--until-end"]);
    assert!(well && text.contains("{\"swiper\":\"b\",\"isFinal\":true,\"n\":1}"), "{text}");
    let (well, text) = kindling(&["state", "ls", "matches.yaml"]);
    assert!(!well && text.contains("add --operator matches or --operator totals"), "{text}");
    let (well, text) = kindling(&["state", "get", "matches.yaml", "--operator", "matches", "--key", "a,c", "--json"]);
    assert!(well && text.contains("\"low_likes\": true") && text.contains("\"is_match\": false"), "{text}");
    let (well, text) = kindling(&["state", "ls", "matches.yaml", "--operator", "matches"]);
    assert!(well && text.contains("matches: 2 keys"), "{text}");
    let (well, text) = kindling(&["state", "ls", "matches.yaml", "--operator", "total"]);
    assert!(!well && text.contains("did you mean `totals`?"), "{text}");
    let (well, text) = kindling(&["savepoint", "matches.yaml", "--to", "s", "--operator", "totals"]);
    assert!(!well && text.contains("a savepoint has the state of all"), "{text}");
}
