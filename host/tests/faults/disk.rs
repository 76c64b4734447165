//! A full disk. The limit on a file's size stands for it: it needs no rights, can be set while a process runs, and the system refuses the same
//! writes with the same kind of error.

use crate::support::*;
use crate::{counted, says, send_events};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const START: i64 = 1_760_000_000_000;

/// Starts a job that the signal that comes with a refused write does not end: a full disk sends none.
fn start(job: &Job, args: &str) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(job.log()).expect("a log");
    let kindling = env!("CARGO_BIN_EXE_kindling");
    let command = format!("trap '' XFSZ; exec {kindling} run pipeline.yaml --data-dir data --plugins plugins {args}");
    let mut bash = Command::new("bash");
    bash.args(["-c", &command]).current_dir(job.dir.path()).env("RUST_LOG", "info").stdout(Stdio::null()).stderr(log);
    bash.spawn().expect("kindling starts")
}

/// From now on the process can't write behind so many bytes of any file.
fn limit(process: &Child, bytes: &str) {
    let args = ["--pid", &process.id().to_string(), &format!("--fsize={bytes}:")];
    assert!(Command::new("prlimit").args(args).status().expect("prlimit is there").success());
}

/// An event each millisecond of `seconds` seconds from `from`, in as many buckets as there are events in a second.
fn stretch(from: i64, seconds: i64) -> Vec<(i64, i64)> {
    (0..seconds * 1_000).map(|n| (START + from * 1_000 + n, n % 1_000)).collect()
}

#[test]
fn a_job_whose_truth_is_kafka_goes_on_without_its_local_tree() {
    let _alone = alone();
    let topic = unique("tree-full");
    create_topic(&topic, 1);
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    let child = start(&job, "");
    job.wait_for("restored", 1);
    send_events(&topic, 0, &stretch(0, 15));
    // The log goes on below the limit, the tree's journal does not.
    limit(&child, "100000");
    let mut second = 15;
    eventually("the tree is given up", || {
        send_events(&topic, 0, &stretch(second, 5));
        second += 5;
        std::thread::sleep(Duration::from_millis(500));
        job.log_text().contains("the job goes on without it, a restart reads the changelog")
    });
    says(&job, &["the local tree", "look at the disk's space"]);
    let results = || read_committed(&format!("{topic}-out")).len();
    let before = results();
    send_events(&topic, 0, &stretch(second, 30));
    eventually("results without the tree", || results() >= before + 2_000);
    job.stop(child);
    job.run_to_end();
    assert_same(&counts(&read_committed(&format!("{topic}-out"))), &counted(stretch(0, second + 30)));
}

/// Lines of a file, in an order of their own.
fn lines(job: &Job) -> Vec<String> {
    let text = std::fs::read_to_string(job.dir.path().join("out.jsonl")).expect("results");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_job_whose_truth_is_the_disk_stops_says_so_and_goes_on_when_there_is_room() {
    let _alone = alone();
    let pipeline = "
name: disk
source: { name: generate, parameters: { rows: 60000, rowsPerSecond: 10000, partitions: 2, start: '1760000000000', lateShare: 0 } }
pipeline:
  - operation: parse
    parse:
      inputCol: value
      parameters:
        - { jsonPath: st, outputType: milliToTimestamp, outputCol: st }
        - { jsonPath: userId, outputType: string, outputCol: userId }
  - operation: window_aggregate
    window: { timestampColumn: st, duration: 1.second, watermark: 3.seconds }
    groupByKeys: [userId]
    aggregations: [{ reducer: count, outputColumn: count }]
sink: { name: file, parameters: { path: out.jsonl } }
";
    let undisturbed = Job::new(pipeline);
    undisturbed.run_to_end();
    let job = Job::new(pipeline);
    let child = start(&job, "--until-end");
    job.wait_for("restored", 1);
    limit(&child, "100000");
    assert_eq!(job.exit_code(child), Some(2), "{}", job.log_text());
    says(&job, &["kindling: the local tree data/default/disk/tree can't be used", "File too large", "look at the disk's space"]);
    job.run_to_end();
    assert!(lines(&job) == lines(&undisturbed), "{} lines, {} expected", lines(&job).len(), lines(&undisturbed).len());
    assert!(lines(&job).len() > 2_000);
}

#[test]
fn a_tree_that_could_not_be_made_for_want_of_room_is_made_when_there_is_some() {
    let _alone = alone();
    let topic = unique("no-tree");
    create_topic(&topic, 1);
    send_events(&topic, 0, &stretch(0, 15));
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    let mut bash = Command::new("bash");
    let kindling = env!("CARGO_BIN_EXE_kindling");
    let command = format!("trap '' XFSZ; ulimit -f 64; exec {kindling} run pipeline.yaml --data-dir data --plugins plugins");
    let log = std::fs::File::create(job.log()).expect("a log");
    let child = bash.args(["-c", &command]).current_dir(job.dir.path()).stderr(log).spawn().expect("kindling starts");
    assert_eq!(job.exit_code(child), Some(2), "{}", job.log_text());
    says(&job, &["the local tree data/default/", "can't be used", "look at the disk's space"]);
    job.run_to_end();
    assert_same(&counts(&read_committed(&format!("{topic}-out"))), &counted(stretch(0, 15)));
}
