//! What `kindling state get` shows: a key's open windows, of every kind of window whose bounds follow from its rows, and what processes keep.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use arrow::array::RecordBatch;
use kindling::config::spec::TimestampFormat;
use kindling::config::{LoadOptions, load_str};
use kindling::element::{OwnedRecord, OwnedRecords, PartitionName, RawBatch};
use kindling::ingest::decode::Decoder;
use kindling::limits::{GuestLimits, JobLimits};
use kindling::operator::FaultPolicy;
use kindling::output::Change;
use kindling::output::encode::Encoder;
use kindling::plan::{self, Plan};
use kindling::plugin::{GuestEngine, PluginSet};
use kindling::runtime::core::{JobCore, Outcome, OutputFormat, Progress};
use kindling::runtime::view::View;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn planned(pipeline: &str) -> Arc<Plan> {
    let engine = GuestEngine::new(GuestLimits::default(), None).unwrap();
    let (plugins, problems) = PluginSet::open_dir(&engine, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins"));
    assert!(problems.is_empty(), "{problems:?}");
    Arc::new(plan::build(&load_str(pipeline, "p.yaml", &LoadOptions::default()).unwrap(), &plugins).unwrap())
}

/// What is stored after these records, each an epoch, and the watermark.
fn stored(plan: &Arc<Plan>, values: impl Iterator<Item = Value>) -> (Vec<Change>, i64) {
    let partitions = vec![PartitionName { topic: "in".into(), partition: 0 }];
    let limits = JobLimits::default();
    let mut core = JobCore::new(Arc::clone(plan), partitions.clone(), OutputFormat::default(), limits.clone()).unwrap();
    let mut decoder = Decoder::of_plan(plan, &partitions);
    let mut entries: BTreeMap<Vec<u8>, Change> = BTreeMap::new();
    for (offset, value) in values.enumerate() {
        let value = Some(value.to_string().into_bytes());
        let records = OwnedRecords { rows: vec![OwnedRecord { offset: offset as i64, value, ..OwnedRecord::default() }] };
        let batch = RawBatch { partition: 0, records: Box::new(records) };
        let start = core.start(FaultPolicy::Fail);
        let task = JobCore::run_task(plan, &mut decoder, vec![batch], start, &limits).map_err(|e| e.0).unwrap();
        let progress = Progress { idle: vec![false], finished: vec![false] };
        let Outcome::Commit(commit) = core.close(&[task], &progress, FaultPolicy::Fail).unwrap() else { panic!("run again") };
        for change in commit.changes.iter().map(Change::from) {
            match change.value {
                Some(_) => drop(entries.insert(change.key.clone(), change)),
                None => drop(entries.remove(&change.key)),
            }
        }
    }
    (entries.into_values().collect(), core.closed())
}

/// Rows as JSON, times as milliseconds.
fn shown(batch: &RecordBatch) -> Vec<Value> {
    let mut encoder = Encoder::new(batch.schema(), Vec::new(), TimestampFormat::Millis);
    encoder.encode(batch).unwrap().iter().map(|r| serde_json::from_slice(&r.value).unwrap()).collect()
}

/// The columns `window_start`, `window_end`, `n` and `most` of the open windows of key `a`, after rows of (event time, key, number) in epochs
/// of one row; and how many rows an export has.
fn open(window: &str, rows: &[(i64, &str, i64)]) -> (Vec<Value>, usize) {
    let pipeline = format!(
        "source: {{ name: stdin }}\npipeline:\n  - operation: parse\n    parse:\n      parameters:\n        \
         - {{ jsonPath: t, outputType: milliToTimestamp, outputCol: t }}\n        - {{ jsonPath: k, outputType: string, outputCol: k }}\n        \
         - {{ jsonPath: v, outputType: long, outputCol: v }}\n  - operation: window_aggregate\n    {window}\n    groupByKeys: [k]\n    \
         aggregations: [{{ reducer: count, outputColumn: n }}, {{ reducer: max, inputColumns: [v], outputColumn: most }}]\n"
    );
    let plan = planned(&pipeline);
    let values = rows.iter().map(|(t, k, v)| json!({ "t": t, "k": k, "v": v }));
    let (all, closed) = stored(&plan, values);
    let view = View::new(&plan).unwrap().unwrap();
    let exported = view.slots(&all, true).unwrap().num_rows();
    let key = view.encode_key(&[Some("a".to_owned())]).unwrap();
    let of_key: Vec<Change> = all.into_iter().filter(|e| e.key[16..] == key).collect();
    let row = |row: Value| {
        assert_eq!(row["k"], "a");
        json!([row["window_start"], row["window_end"], row["n"], row["most"]])
    };
    (shown(&view.of_key(&of_key, closed).unwrap()).into_iter().map(row).collect(), exported)
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

#[test]
fn msgpack_of_a_guests_aggregate_is_shown_and_other_bytes_as_they_are() {
    let plan = planned(
        "source: { name: stdin }\npipeline:\n  - operation: parse\n    parse:\n      parameters:\n        \
         - { jsonPath: t, outputType: milliToTimestamp, outputCol: t }\n        - { jsonPath: v, outputType: string, outputCol: v }\n  \
         - operation: window_aggregate\n    window: { timestampColumn: t, duration: 10s, slideDuration: 5s, watermark: 1.minute }\n    \
         groupByKeys: [v]\n    aggregations:\n      - { reducer: top_k, inputColumns: [v], arguments: [2], outputColumn: top }\n      \
         - { reducer: hll_distinct, inputColumns: [v], outputColumn: distinct }\n",
    );
    let (all, closed) = stored(&plan, [1_000, 2_000, 6_000].into_iter().map(|t| json!({ "t": t, "v": "a" })));
    let view = View::new(&plan).unwrap().unwrap();
    let states = |rows: Vec<Value>| -> Vec<Value> { rows.iter().map(|r| json!([r["top[state]"], r["top"]])).collect() };
    let top = |n: u32| format!(r#"[{{"value":"a","count":{n}}}]"#);
    let both = |n: u32| json!([format!(r#"[2,{{"a":{n}}}]"#), top(n)]);
    let of_key = shown(&view.of_key(&all, closed).unwrap());
    assert_eq!(states(of_key), [both(2), both(3), both(1)], "the windows from -5, 0 and 5 s");
    let slots = shown(&view.slots(&all, true).unwrap());
    assert_eq!(slots[0]["distinct[registers]"].as_str().map(|hex| hex.len()), Some(6), "no MessagePack: {:?}", slots[0]);
    assert_eq!(states(slots), [both(2), both(1)], "the panes");
    // A byte that MessagePack has not, where the state begins.
    let mut broken = all;
    let value = broken[0].value.as_mut().unwrap();
    let at = value.windows(2).position(|bytes| bytes == [0x92, 0x02]).unwrap();
    value[at] = 0xc1;
    let slots = shown(&view.slots(&broken, false).unwrap());
    assert_eq!(states(slots), [json!(["c10281a16102", null]), json!([r#"[2,{"a":1}]"#, null])]);
}

/// A parse of these columns, and a process over them.
fn process(columns: &[(&str, &str)], process: &str) -> Arc<Plan> {
    let mut text = "source: { name: stdin }\npipeline:\n  - operation: parse\n    parse:\n      parameters:\n".to_owned();
    for (name, kind) in columns {
        text += &format!("        - {{ jsonPath: {name}, outputType: {kind}, outputCol: {name} }}\n");
    }
    planned(&(text + "  - operation: process\n" + process))
}

/// What is shown of one key, and of all slots.
fn kept(plan: &Arc<Plan>, rows: &[Value], key: [&str; 2]) -> (Vec<Value>, Vec<Value>) {
    let (all, closed) = stored(plan, rows.iter().cloned());
    let view = View::new(plan).unwrap().unwrap();
    let key = view.encode_key(&key.map(|k| Some(k.to_owned()))).unwrap();
    let of_key: Vec<Change> = all.iter().filter(|e| e.key[16..] == key).cloned().collect();
    (shown(&view.of_key(&of_key, closed).unwrap()), shown(&view.slots(&all, true).unwrap()))
}

#[test]
fn a_half_made_match_is_shown() {
    let columns = [("userId", "string"), ("otherId", "string"), ("like", "boolean"), ("ts", "milliToTimestamp")];
    let plan = process(
        &columns,
        "    plugin: match_detection\n    keyBy: ['least(userId, otherId)', 'greatest(userId, otherId)']\n    \
         timestampColumn: ts\n    ttl: 10s\n",
    );
    let swipe =
        |user: &str, other: &str, like: bool, ts: i64| json!({ "userId": user, "otherId": other, "like": like, "ts": ts });
    let rows = [swipe("bob", "ann", true, 2_000), swipe("cid", "ann", false, 3_000), swipe("bob", "ann", true, 1_500)];
    let half = json!({
        "least(userId, otherId)": "ann", "greatest(userId, otherId)": "bob",
        "low_at": null, "high_at": 2_000, "low_likes": false, "high_likes": true, "is_match": false,
        "last_event_time": 2_000, "event_timers": [], "processing_timers": [], "forgotten_at": 12_000,
    });
    let (of_key, all) = kept(&plan, &rows, ["ann", "bob"]);
    assert_eq!(of_key.first(), Some(&half));
    assert_eq!(all.len(), 2);
    assert!(all.contains(&half), "{all:?}");
    assert_eq!(kept(&plan, &rows, ["bob", "ann"]).0, Vec::<Value>::new());
    // Forgotten.
    let later = [&rows[..], &[swipe("cid", "dan", true, 12_000)]].concat();
    assert_eq!(kept(&plan, &later, ["ann", "bob"]).0, Vec::<Value>::new());
}

#[test]
fn msgpack_timers_and_rows_that_wait_are_shown() {
    let columns = [("kind", "string"), ("fromId", "string"), ("toId", "string"), ("at", "milliToTimestamp")];
    let plan = process(
        &columns,
        "    plugin: like_then_message\n    keyBy: ['least(fromId, toId)', 'greatest(fromId, toId)']\n    timestampColumn: at\n    \
         watermark: 1s\n    ttl: 2d\n    order: eventTime\n",
    );
    let act = |kind: &str, from: &str, to: &str, at: i64| json!({ "kind": kind, "fromId": from, "toId": to, "at": at });
    let rows = [
        act("like", "a", "b", 1_000),
        act("unmatch", "c", "d", 3_000),
        act("like", "b", "a", 2_500),
        act("like", "b", "a", 2_500),
        act("like", "b", "a", 2_700),
    ];
    let (of_key, all) = kept(&plan, &rows, ["a", "b"]);
    let whole = json!({
        "least(fromId, toId)": "a", "greatest(fromId, toId)": "b", "begun": r#"[[[1000],[["like","a"]]]]"#,
        "last_event_time": 1_000, "event_timers": [86_401_001], "processing_timers": [], "forgotten_at": 172_801_000,
        "waiting_from": 2_500, "waiting_rows": 3,
    });
    assert_eq!(of_key, [whole]);
    let nothing = |key: [&str; 2], from: i64, rows: i64| {
        json!({
            "least(fromId, toId)": key[0], "greatest(fromId, toId)": key[1], "begun": null, "last_event_time": null, "event_timers": null,
            "processing_timers": null, "forgotten_at": null, "waiting_from": from, "waiting_rows": rows,
        })
    };
    // By pane; the key's own slot is last.
    assert_eq!(all[..3], [nothing(["a", "b"], 2_500, 2), nothing(["a", "b"], 2_700, 1), nothing(["c", "d"], 3_000, 1)]);
    assert_eq!(kept(&plan, &rows, ["c", "d"]).0, [nothing(["c", "d"], 3_000, 1)]);
}
