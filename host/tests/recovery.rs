//! What people do to a job's state from outside: look at it, take a savepoint, go on from it, begin somewhere else. On a real broker.
//!
//! Needs KINDLING_BROKERS=host:port (`tests/run` sets it).

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};
use support::*;

const WINDOW: i64 = 10_000;
const OUT_OF_ORDERNESS: i64 = 3_000;

/// Runs `kindling` in the job's folder.
fn kindling(job: &Job, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    command.current_dir(job.dir.path()).args(args).output().expect("kindling runs")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Its standard output, where it ended well.
fn said(job: &Job, args: &[&str]) -> String {
    let output = kindling(job, args);
    assert!(output.status.success(), "{args:?}: {}", told(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// What it says when it refuses, with its exit code.
fn refused(job: &Job, args: &[&str], code: i32) -> String {
    let output = kindling(job, args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", told(&output));
    told(&output)
}

fn stop(mut child: Child, job: &Job) {
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("signalled");
    assert!(child.wait().expect("it ends").success(), "{}", job.log_text());
}

/// Waits until the stored positions reach `rows` in all.
fn consumed(job: &Job, address: &str, rows: u64) {
    let started = Instant::now();
    loop {
        let output = kindling(job, &["state", "ls", "pipeline.yaml", "--from", address, "--json"]);
        if let Ok(state) = serde_json::from_slice::<Value>(&output.stdout) {
            let positions: i64 = state["positions"].as_object().unwrap().values().filter_map(Value::as_i64).sum();
            if positions as u64 >= rows {
                return;
            }
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{}\n{}", told(&output), job.log_text());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A free port, as `host:port`.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A job that has read `rows` events and stands, its folder, and the events.
fn standing(name: &str, rows: u64) -> (Job, String, kindling::config::spec::GenerateSpec) {
    let (topic, spec) = (unique(name), events(60_000, 1_000));
    create_topic(&topic, 4);
    produce(&spec, &topic, 0, rows);
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    let address = free_address();
    // Partitions at their end would be idle after this, and the watermark would go on without them.
    let child = job.start(&["--metrics", &address, "--idle-after", "1h"]);
    consumed(&job, &address, rows);
    stop(child, &job);
    (job, topic, spec)
}

fn lines(text: &str) -> Vec<Value> {
    let mut all: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    all.sort_by_key(Value::to_string);
    all
}

#[test]
fn state_is_the_same_from_a_running_job_its_tree_its_changelog_and_a_savepoint() {
    let _alone = alone();
    let (job, topic, _) = standing("state", 20_000);
    let from_tree = lines(&said(&job, &["state", "export", "pipeline.yaml", "--data-dir", "data"]));
    let from_changelog = lines(&said(&job, &["state", "export", "pipeline.yaml", "--data-dir", "data", "--from-changelog"]));
    assert!(!from_tree.is_empty());
    assert_eq!(from_tree, from_changelog);
    // Also where there is no tree.
    assert_eq!(lines(&said(&job, &["state", "export", "pipeline.yaml", "--data-dir", "elsewhere"])), from_tree);
    let left: Vec<PathBuf> = std::fs::read_dir(job.dir.path().join("elsewhere")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "nothing is left of the copy: {left:?}");
    said(&job, &["savepoint", "pipeline.yaml", "--to", "stopped.savepoint", "--data-dir", "data"]);
    let from_savepoint = lines(&said(&job, &["state", "export", "pipeline.yaml", "--from-savepoint", "stopped.savepoint"]));
    assert_eq!(from_tree, from_savepoint);
    let address = free_address();
    let child = job.start(&["--metrics", &address, "--idle-after", "1h"]);
    consumed(&job, &address, 20_000);
    assert_eq!(lines(&said(&job, &["state", "export", "pipeline.yaml", "--from", &address])), from_tree);
    said(&job, &["savepoint", "pipeline.yaml", "--to", "running.savepoint", "--from", &address]);
    assert_eq!(lines(&said(&job, &["state", "export", "pipeline.yaml", "--from-savepoint", "running.savepoint"])), from_tree);
    // The tree is in use, and says what to do.
    let text = refused(&job, &["state", "ls", "pipeline.yaml", "--data-dir", "data"], 2);
    assert!(text.contains("--from host:port"), "{text}");
    // One key: the count of its open windows, from the job and from the tree.
    let row = from_tree.iter().find(|r| r["experimentName"].is_string() && r["experimentBucket"].is_string()).unwrap();
    let text = |name: &str| row[name].clone();
    let key = Value::Array(vec![text("experimentGroup"), text("experimentName"), text("experimentBucket")]).to_string();
    let running: Vec<Value> =
        serde_json::from_str(&said(&job, &["state", "get", "pipeline.yaml", "--key", &key, "--from", &address, "--json"]))
            .unwrap();
    stop(child, &job);
    let stopped: Vec<Value> =
        serde_json::from_str(&said(&job, &["state", "get", "pipeline.yaml", "--key", &key, "--data-dir", "data", "--json"]))
            .unwrap();
    assert_eq!(running, stopped);
    assert!(running.contains(row), "{running:?} has not {row}");
    let shown = said(&job, &["state", "get", "pipeline.yaml", "--key", &key, "--data-dir", "data"]);
    assert!(shown.contains("window_start") && shown.contains("count[count]"), "{shown}");
    // CSV has a line of names and the same rows.
    let csv = said(&job, &["state", "export", "pipeline.yaml", "--data-dir", "data", "--format", "csv"]);
    assert_eq!(csv.lines().count(), from_tree.len() + 1);
    assert!(csv.starts_with("experimentGroup,experimentName,experimentBucket,window_start,window_end,count,"), "{csv}");
    let listed: Value =
        serde_json::from_str(&said(&job, &["state", "ls", "pipeline.yaml", "--data-dir", "data", "--json"])).unwrap();
    assert_eq!(listed["operators"][0]["keys"].as_u64(), Some(from_tree.len() as u64));
    assert!(said(&job, &["state", "ls", "pipeline.yaml", "--data-dir", "data"]).contains("window_aggregate: "));
    // Errors say what to do.
    let text = refused(&job, &["state", "get", "pipeline.yaml", "--key", "only-one", "--data-dir", "data"], 2);
    assert!(text.contains("the key has 3 columns, experimentGroup (Utf8)"), "{text}");
    let text = refused(&job, &["state", "ls", "default/job", "--data-dir", "data"], 2);
    assert!(text.contains("name the pipeline file"), "{text}");
    std::fs::write(job.dir.path().join("other.yaml"), counts_pipeline("never-run", &topic, "")).unwrap();
    assert!(refused(&job, &["state", "ls", "other.yaml", "--data-dir", "data"], 4).contains("has the job run with this name?"));
}

#[test]
fn a_job_goes_on_from_a_savepoint_as_if_it_had_never_stopped() {
    let _alone = alone();
    let (job, topic, spec) = standing("save", 30_000);
    said(&job, &["savepoint", "pipeline.yaml", "--to", "s.savepoint", "--data-dir", "data"]);
    let before = read_committed(&format!("{topic}-out"));
    assert!(!before.is_empty(), "some windows have closed");
    produce(&spec, &topic, 30_000, 60_000);
    // Another job, with another name and other topics, goes on with the state of the first.
    let other = unique("restored");
    let pipeline = counts_pipeline(&other, &topic, "").replace(&format!("{topic}-"), &format!("{other}-"));
    std::fs::write(job.dir.path().join("pipeline.yaml"), pipeline).unwrap();
    let status = job.start(&["--until-end", "--restore", "s.savepoint"]).wait().unwrap();
    assert!(status.success(), "{}", job.log_text());
    let (want, late, rejected) = expected(&spec, WINDOW, OUT_OF_ORDERNESS);
    let after = read_committed(&format!("{other}-out"));
    assert_same(&counts(&[before.as_slice(), &after].concat()), &want);
    let both =
        |role: &str| (read_committed(&format!("{topic}-{role}")).len() + read_committed(&format!("{other}-{role}")).len()) as u64;
    assert_eq!((both("late"), both("rejects")), (late, rejected));
    // Started once more with the same flags, as a supervisor would: it goes on, and nothing comes twice.
    let status = job.start(&["--until-end", "--restore", "s.savepoint"]).wait().unwrap();
    assert!(status.success() && job.log_text().contains("have been done before"), "{}", job.log_text());
    assert_eq!(read_committed(&format!("{other}-out")).len(), after.len());
    // Also when the file has been cleaned away meanwhile.
    let (path, aside) = (job.dir.path().join("s.savepoint"), job.dir.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    said(&job, &["run", "pipeline.yaml", "--data-dir", "data", "--until-end", "--restore", "s.savepoint"]);
    assert!(
        refused(&job, &["run", "pipeline.yaml", "--restore", "s.savepoint", "--again", "--data-dir", "data"], 2)
            .contains("s.savepoint")
    );
    std::fs::rename(&aside, &path).unwrap();
    // Without word the state that the job has by now is not replaced.
    let args = ["run", "pipeline.yaml", "--data-dir", "data", "--until-end", "--restore", "s.savepoint", "--from", "latest"];
    let text = refused(&job, &args, 2);
    assert!(text.contains("--replace"), "{text}");
}

#[test]
fn a_damaged_savepoint_is_refused_and_nothing_of_it_is_used() {
    let _alone = alone();
    let (job, topic, _) = standing("damaged", 5_000);
    said(&job, &["savepoint", "pipeline.yaml", "--to", "s.savepoint", "--data-dir", "data"]);
    assert!(refused(&job, &["savepoint", "pipeline.yaml", "--to", "s.savepoint", "--data-dir", "data"], 2).contains("--force"));
    let mut bytes = std::fs::read(job.dir.path().join("s.savepoint")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(job.dir.path().join("s.savepoint"), &bytes).unwrap();
    let other = unique("damaged-other");
    std::fs::write(job.dir.path().join("other.yaml"), counts_pipeline(&other, &topic, "")).unwrap();
    let run = ["run", "other.yaml", "--data-dir", "data", "--until-end", "--restore", "s.savepoint"];
    let text = refused(&job, &run, 5);
    assert!(text.contains("damaged: its checksum is another"), "{text}");
    bytes.truncate(middle);
    std::fs::write(job.dir.path().join("s.savepoint"), &bytes).unwrap();
    assert!(refused(&job, &run, 5).contains("cut off"));
    assert!(refused(&job, &["state", "ls", "other.yaml", "--data-dir", "data"], 2).contains("nothing has been committed"));
}

#[test]
fn a_changed_operator_is_refused_with_what_differs_or_dropped_by_its_name() {
    let _alone = alone();
    let (job, topic, spec) = standing("changed", 30_000);
    let unchanged = std::fs::read_to_string(job.dir.path().join("pipeline.yaml")).unwrap();
    let write = |text: &str| std::fs::write(job.dir.path().join("pipeline.yaml"), text).unwrap();
    // Renamed: its state is not found by its name any more.
    write(&unchanged.replace("  - operation: window_aggregate", "  - operation: window_aggregate\n    name: counts"));
    let run = ["run", "pipeline.yaml", "--data-dir", "data", "--until-end", "--plugins", "plugins"];
    let text = refused(&job, &run, 2);
    assert!(text.contains("operator `window_aggregate`") && text.contains("give it the old name back"), "{text}");
    // Another key column.
    write(&unchanged.replace("[experimentGroup, experimentName, experimentBucket]", "[experimentName]"));
    let text = refused(&job, &run, 2);
    assert!(text.contains("stored:   keys: experimentGroup Utf8 experimentName Utf8 experimentBucket Utf8"), "{text}");
    assert!(text.contains("pipeline: keys: experimentName Utf8"), "{text}");
    assert!(text.contains("--drop-state window_aggregate"), "{text}");
    let with = |more: &[&'static str]| run.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>();
    assert!(refused(&job, &with(&["--drop-state", "window_agregate"]), 2).contains("did you mean `window_aggregate`?"));
    // Nothing of that has changed the state: the old pipeline goes on.
    write(&unchanged);
    let kept = said(&job, &["state", "export", "pipeline.yaml", "--data-dir", "data", "--from-changelog"]);
    assert!(!kept.is_empty());
    // Dropped on request: the job goes on from its offsets, and counts what comes.
    write(&unchanged.replace("[experimentGroup, experimentName, experimentBucket]", "[experimentName]"));
    produce(&spec, &topic, 30_000, 60_000);
    let old = read_committed(&format!("{topic}-out")).len();
    said(&job, &with(&["--drop-state", "window_aggregate"]));
    let rows: Vec<Value> = read_committed(&format!("{topic}-out")).iter().map(|r| serde_json::from_str(r).unwrap()).collect();
    let counted: i64 = rows.iter().filter(|r| r.get("experimentGroup").is_none()).map(|r| r["count"].as_i64().unwrap()).sum();
    assert!(rows.len() > old);
    let side = (read_committed(&format!("{topic}-late")).len() + read_committed(&format!("{topic}-rejects")).len()) as i64;
    assert!(counted <= 30_000 && counted >= 30_000 - side, "{counted} of 30000 rows are counted, {side} are late or rejected");
    // Again with the same flags: done already. The state is that of the new pipeline.
    said(&job, &with(&["--drop-state", "window_aggregate"]));
    assert_eq!(read_committed(&format!("{topic}-out")).len(), rows.len());
}

#[test]
fn a_job_is_read_again_from_where_it_is_told() {
    let _alone = alone();
    let (job, topic, spec) = standing("from", 60_000);
    let run = |more: &[&str]| {
        let args = [&["run", "pipeline.yaml", "--data-dir", "data", "--until-end", "--plugins", "plugins"], more].concat();
        kindling(&job, &args)
    };
    let fails = |more: &[&str], says: &str| {
        let output = run(more);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {}", told(&output));
        assert!(told(&output).contains(says), "{more:?}: {}", told(&output));
    };
    fails(&["--from", "earliest"], "Say what becomes of it: --drop-state window_aggregate");
    fails(&["--from", "2026-11-01T00:00"], "write `2026-11-01T00:00Z` for UTC");
    fails(&["--from", "other/0:5", "--keep-state"], "the source has no partition other/0; it has");
    fails(
        &["--from", &format!("{topic}/0:99999999"), "--keep-state"],
        "is outside of what is there: 0 is the first record, 15000 the end",
    );
    fails(&["--keep-state"], "--from");
    fails(&["--from", "latest", "--keep-state", "--drop-state", "window_aggregate"], "cannot be used with");
    // From the start, without the state: all results come again, and they are right.
    let old = read_committed(&format!("{topic}-out")).len();
    let output = run(&["--from", "1970-01-01T00:00Z", "--drop-state", "window_aggregate"]);
    assert!(output.status.success(), "{}", told(&output));
    let (want, ..) = expected(&spec, WINDOW, OUT_OF_ORDERNESS);
    let rows = read_committed(&format!("{topic}-out"));
    let mut seen = BTreeMap::<String, usize>::new();
    rows.iter().for_each(|r| *seen.entry(r.clone()).or_default() += 1);
    // What had come before came once more; the rest came once.
    assert_eq!(rows.len(), old + want.len());
    assert_same(&counts(&seen.keys().cloned().collect::<Vec<_>>()), &want);
    assert_eq!(seen.values().filter(|n| **n == 2).count(), old);
    // The windows have closed: without state there is nothing to ask. A time after all records is the end.
    let output = run(&["--from", "2999-01-01T00:00Z"]);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(read_committed(&format!("{topic}-out")).len(), rows.len());
    // Offsets of one partition: only its rows come again.
    let output = run(&["--from", &format!("{topic}/2:0")]);
    assert!(output.status.success(), "{}", told(&output));
    let again: i64 = read_committed(&format!("{topic}-out"))
        .iter()
        .map(|r| serde_json::from_str::<Value>(r).unwrap()["count"].as_i64().unwrap())
        .sum::<i64>()
        - rows.iter().map(|r| serde_json::from_str::<Value>(r).unwrap()["count"].as_i64().unwrap()).sum::<i64>();
    assert!((14_000..=15_000).contains(&again), "{again} rows of partition 2 are counted again");
}

/// A pipeline without Kafka, whose windows stay open.
fn generated(name: &str) -> String {
    let pipeline = counts_pipeline(name, name, "").replace("10.seconds", "1000.days");
    let source =
        "source:\n  name: generate\n  parameters: { rowsPerSecond: 20000, partitions: 2, start: '2026-01-01T00:00:00Z' }\n";
    let start = pipeline.find("source:").unwrap();
    let end = pipeline.find("pipeline:").unwrap();
    let mut pipeline = format!("{}{source}{}", &pipeline[..start], &pipeline[end..]);
    pipeline.truncate(pipeline.find("sink:").unwrap());
    pipeline + "sink: { name: file, parameters: { path: out.jsonl } }\n"
}

#[test]
fn a_job_without_kafka_has_the_same_commands() {
    let _alone = alone();
    let job = Job::new(&generated("local"));
    let child = job.start(&[]);
    job.wait_for("restored", 1);
    std::thread::sleep(Duration::from_millis(800));
    stop(child, &job);
    let state = lines(&said(&job, &["state", "export", "pipeline.yaml", "--data-dir", "data"]));
    let sum = |rows: &[Value]| rows.iter().map(|r| r["count"].as_i64().unwrap()).sum::<i64>();
    let listed = |file: &str, from: &[&str]| -> Value {
        let args = [&["state", "ls", file, "--json"], from].concat();
        serde_json::from_str(&said(&job, &args)).unwrap()
    };
    let positions = |listed: &Value| listed["positions"].as_object().unwrap().values().filter_map(Value::as_i64).sum::<i64>();
    let ls = listed("pipeline.yaml", &["--data-dir", "data"]);
    // Broken rows (one in a thousand, and a few more) are in no window.
    assert!(sum(&state) > 1_000 && sum(&state) <= positions(&ls) && sum(&state) > positions(&ls) * 98 / 100, "{ls}");
    assert!(
        refused(&job, &["state", "ls", "pipeline.yaml", "--data-dir", "data", "--from-changelog"], 2)
            .contains("has no changelog")
    );
    said(&job, &["savepoint", "pipeline.yaml", "--to", "s.savepoint", "--data-dir", "data"]);
    // Another job goes on from it, and counts on.
    let other = generated("other").replace("out.jsonl", "other.jsonl");
    std::fs::write(job.dir.path().join("pipeline.yaml"), other).unwrap();
    let child = job.start(&["--restore", "s.savepoint"]);
    job.wait_for("restored", 2);
    std::thread::sleep(Duration::from_millis(500));
    stop(child, &job);
    let more = listed("pipeline.yaml", &["--data-dir", "data"]);
    assert!(positions(&more) > positions(&ls), "{more}");
    let counted = sum(&lines(&said(&job, &["state", "export", "pipeline.yaml", "--data-dir", "data"])));
    assert!(counted > sum(&state) && counted <= positions(&more), "{counted} of {more}");
    // Generated events are not kept: they can't be read from another place, and the state is left as it was.
    let run = ["run", "pipeline.yaml", "--data-dir", "data", "--from", "earliest", "--keep-state"];
    assert!(refused(&job, &run, 2).contains("only a source that keeps its records"));
    assert_eq!(listed("pipeline.yaml", &["--data-dir", "data"]), more);
    // A local tree that is damaged is told: it is the only log. Nothing is counted from half of it.
    let tree = job.dir.path().join("data/default/other/tree");
    let version = tree.join("version");
    std::fs::write(version, "").unwrap();
    assert!(refused(&job, &["run", "pipeline.yaml", "--data-dir", "data"], 5).contains("is damaged"));
    assert!(refused(&job, &["state", "ls", "pipeline.yaml", "--data-dir", "data"], 5).contains("is damaged"));
}

#[test]
fn a_job_that_is_asked_wrongly_says_so_and_goes_on() {
    let _alone = alone();
    let job = Job::new(&generated("asked"));
    let address = free_address();
    let child = job.start(&["--metrics", &address]);
    job.wait_for("restored", 1);
    let get = |path: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    for wrong in ["/savepoint?key=zz", "/savepoint?key=1", "/savepoint?other"] {
        assert!(get(wrong).starts_with("HTTP/1.0 400"), "{wrong}");
    }
    // Of a key that is not there: a savepoint without entries.
    assert!(get("/savepoint?key=00").contains("KNDLSAVE"));
    for _ in 0..5 {
        said(&job, &["state", "ls", "pipeline.yaml", "--from", &address]);
    }
    assert!(get("/metrics").contains("kindling_restored_records_total"));
    std::fs::write(job.dir.path().join("other.yaml"), generated("other")).unwrap();
    let text = refused(&job, &["state", "ls", "other.yaml", "--from", &address], 2);
    assert!(text.contains("runs the job default/asked, and the pipeline is default/other"), "{text}");
    stop(child, &job);
    let text = refused(&job, &["state", "ls", "pipeline.yaml", "--from", &address], 4);
    assert!(text.contains("is that the address given to `kindling run --metrics`?"), "{text}");
}
