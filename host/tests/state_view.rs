//! A key's open windows as `kindling state get` shows them, of every kind of window whose bounds follow from its rows.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use kindling::config::spec::TimestampFormat;
use kindling::config::{LoadOptions, load_str};
use kindling::element::{OwnedRecord, OwnedRecords, PartitionName, RawBatch};
use kindling::ingest::decode::Decoder;
use kindling::limits::JobLimits;
use kindling::operator::FaultPolicy;
use kindling::output::Change;
use kindling::output::encode::Encoder;
use kindling::plan;
use kindling::plugin::PluginSet;
use kindling::runtime::core::{JobCore, Outcome, OutputFormat, Progress};
use kindling::runtime::view::View;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The columns `window_start`, `window_end`, `n` and `most` of the open windows of key `a`, after rows of (event time, key, number) in epochs
/// of one row; and how many rows an export has.
fn open(window: &str, rows: &[(i64, &str, i64)]) -> (Vec<Value>, usize) {
    let pipeline = format!(
        "source: {{ name: stdin }}\npipeline:\n  - operation: parse\n    parse:\n      parameters:\n        \
         - {{ jsonPath: t, outputType: milliToTimestamp, outputCol: t }}\n        - {{ jsonPath: k, outputType: string, outputCol: k }}\n        \
         - {{ jsonPath: v, outputType: long, outputCol: v }}\n  - operation: window_aggregate\n    {window}\n    groupByKeys: [k]\n    \
         aggregations: [{{ reducer: count, outputColumn: n }}, {{ reducer: max, inputColumns: [v], outputColumn: most }}]\n"
    );
    let plan =
        Arc::new(plan::build(&load_str(&pipeline, "p.yaml", &LoadOptions::default()).unwrap(), &PluginSet::empty()).unwrap());
    let partitions = vec![PartitionName { topic: "in".into(), partition: 0 }];
    let limits = JobLimits::default();
    let mut core = JobCore::new(Arc::clone(&plan), partitions.clone(), OutputFormat::default(), limits.clone()).unwrap();
    let mut decoder = Decoder::of_plan(&plan, &partitions);
    let mut entries: BTreeMap<Vec<u8>, Change> = BTreeMap::new();
    for (offset, (t, k, v)) in rows.iter().enumerate() {
        let value = Some(json!({ "t": t, "k": k, "v": v }).to_string().into_bytes());
        let records = OwnedRecords { rows: vec![OwnedRecord { offset: offset as i64, value, ..OwnedRecord::default() }] };
        let batch = RawBatch { partition: 0, records: Box::new(records) };
        let start = core.start(FaultPolicy::Fail);
        let task = JobCore::run_task(&plan, &mut decoder, vec![batch], start, &limits).map_err(|e| e.0).unwrap();
        let progress = Progress { idle: vec![false], finished: vec![false] };
        let Outcome::Commit(commit) = core.close(&[task], &progress, FaultPolicy::Fail).unwrap() else { panic!("run again") };
        for change in commit.changes.iter().map(Change::from) {
            match change.value {
                Some(_) => drop(entries.insert(change.key.clone(), change)),
                None => drop(entries.remove(&change.key)),
            }
        }
    }
    let view = View::new(&plan).unwrap().unwrap();
    let all: Vec<Change> = entries.into_values().collect();
    let exported = view.slots(&all, true).unwrap().num_rows();
    let key = view.encode_key(&[Some("a".to_owned())]).unwrap();
    let of_key: Vec<Change> = all.into_iter().filter(|e| e.key[16..] == key).collect();
    let batch = view.windows(&of_key, core.closed()).unwrap();
    let mut encoder = Encoder::new(batch.schema(), Vec::new(), TimestampFormat::Millis);
    let shown = encoder.encode(&batch).unwrap();
    let row = |bytes: &Vec<u8>| {
        let row: Value = serde_json::from_slice(bytes).unwrap();
        assert_eq!(row["k"], "a");
        json!([row["window_start"], row["window_end"], row["n"], row["most"]])
    };
    (shown.iter().map(|r| row(&r.value)).collect(), exported)
}

#[test]
fn sessions_are_whole() {
    let window = "window: { type: session, gap: 10s, timestampColumn: t, watermark: 1.minute }";
    // One over three slices, one that a late row has not joined to it.
    let rows = [(1_000, "a", 1), (9_000, "a", 5), (15_000, "a", 2), (15_500, "b", 9), (24_000, "a", 3), (40_000, "a", 4)];
    let (shown, exported) = open(window, &rows);
    assert_eq!(shown, [json!([1_000, 34_000, 4, 5]), json!([40_000, 50_000, 1, 4])]);
    assert_eq!(exported, 5);
    let joined = [&rows[..], &[(31_000, "a", 7)]].concat();
    assert_eq!(open(window, &joined).0, [json!([1_000, 50_000, 6, 7])]);
}

#[test]
fn count_windows_show_their_rows_so_far() {
    let rows = [(1_000, "a", 1), (2_000, "a", 5), (3_000, "b", 9), (4_000, "a", 2), (5_000, "a", 3)];
    let (shown, exported) = open("window: { type: count, every: 3, timestampColumn: t }\n    ttl: 1d", &rows);
    assert_eq!((shown, exported), (vec![json!([5_000, 5_001, 1, 3])], 2));
    let (shown, _) = open("window: { type: count, every: 4, slide: 2, timestampColumn: t }\n    ttl: 1d", &rows);
    // Full with row 6, and with row 8.
    assert_eq!(shown, [json!([4_000, 5_001, 2, 3])]);
    // Nothing is left of a window that is full, and of a key that is idle.
    assert_eq!(open("window: { type: count, every: 4, timestampColumn: t }\n    ttl: 1d", &rows).0, Vec::<Value>::new());
    let idle = [&rows[..], &[(90_000, "b", 1)]].concat();
    assert_eq!(open("window: { type: count, every: 3, timestampColumn: t }\n    ttl: 10s", &idle), (Vec::new(), 1));
}

#[test]
fn a_global_window_shows_a_keys_life() {
    let window = "window: { type: global, timestampColumn: t }\n    ttl: 10s\n    emit: onUpdate";
    let rows = [(1_000, "a", 1), (2_000, "a", 5), (3_000, "b", 9), (13_000, "a", 2), (14_000, "a", 3)];
    assert_eq!(open(window, &rows), (vec![json!([null, null, 2, 3])], 1));
    assert_eq!(open(window, &rows[..3]), (vec![json!([null, null, 2, 5])], 2));
}
