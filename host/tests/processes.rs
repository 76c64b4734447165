//! Keyed processes on a real broker: outputs of several names in one transaction, whatever happens to the process meanwhile; and what
//! `kindling state` says of a key.
//!
//! Needs KINDLING_BROKERS=host:port and KINDLING_TEST_GUESTS (`tests/run` sets them).

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "support/definition.rs"]
mod definition;
mod support;

use definition::Random;
use rdkafka::producer::Producer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::*;

const PARTITIONS: usize = 4;
/// As in the guest: an account is quiet when nothing was added for so long.
const QUIET_MS: i64 = 10_000;

/// What becomes of an account.
#[derive(Clone, Debug)]
struct Act {
    id: String,
    what: &'static str,
    amount: i64,
    time: i64,
}

impl Act {
    fn record(&self) -> Value {
        json!({ "id": self.id, "what": self.what, "n": self.amount, "t": self.time })
    }
}

/// Acts by partition, up to two seconds out of order.
fn acts(count: usize) -> Vec<Vec<Act>> {
    let random = &mut Random::of_seed(6);
    let act = |n: usize, random: &mut Random| Act {
        id: format!("account-{}", random.below(400)),
        what: ["add", "add", "say", "nonsense"][if random.one_in(50) { 3 } else { random.below(3) as usize }],
        amount: random.below(100) as i64,
        time: 1_760_000_000_000 + n as i64 * 4 - random.below(2_000) as i64,
    };
    let mut partitions = vec![Vec::new(); PARTITIONS];
    for n in 0..count {
        partitions[n % PARTITIONS].push(act(n, random));
    }
    partitions
}

/// Rows of `results` and of `quiet`, worked out key by key: by time, then partition, then offset.
fn expected(partitions: &[Vec<Act>]) -> (Vec<Value>, Vec<Value>, usize) {
    let mut by_key: BTreeMap<&str, Vec<(i64, usize, usize, &Act)>> = BTreeMap::new();
    let mut refused = 0;
    for (partition, acts) in partitions.iter().enumerate() {
        for (offset, act) in acts.iter().enumerate() {
            match act.what {
                "nonsense" => refused += 1,
                _ => by_key.entry(&act.id).or_default().push((act.time, partition, offset, act)),
            }
        }
    }
    let (mut sums, mut quiet) = (Vec::new(), Vec::new());
    for (id, mut acts) in by_key {
        acts.sort_by_key(|(time, partition, offset, _)| (*time, *partition, *offset));
        let (mut total, mut last) = (0, None::<i64>);
        let mut falls_quiet = |last: &mut Option<i64>, total: i64, now: i64| {
            if let Some(since) = last.take_if(|since| *since + QUIET_MS <= now) {
                quiet.push(json!({ "id": id, "since": since, "total": total }));
            }
        };
        for (time, _, _, act) in acts {
            falls_quiet(&mut last, total, time);
            match act.what {
                "add" => (total, last) = (total + act.amount, Some(time)),
                _ => sums.push(json!({ "id": id, "total": total, "at": time })),
            }
        }
        falls_quiet(&mut last, total, i64::MAX);
    }
    (sorted(sums), sorted(quiet), refused)
}

fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.sort_by_key(Value::to_string);
    rows
}

fn committed(topic: &str) -> Vec<Value> {
    sorted(read_committed(topic).iter().map(|row| serde_json::from_str(row).unwrap()).collect())
}

fn test_guest(name: &str) -> PathBuf {
    let guests = std::env::var("KINDLING_TEST_GUESTS").expect("KINDLING_TEST_GUESTS is not set: run tests/run");
    PathBuf::from(guests).join("evil").join(name)
}

fn accounts_pipeline(topic: &str) -> String {
    let brokers = brokers();
    let sink = |role: &str| format!("{{ name: kafka, parameters: {{ brokers: '{brokers}', topic: {topic}-{role} }} }}");
    format!(
        "
name: {topic}
source: {{ name: kafka, parameters: {{ brokers: '{brokers}', topic: {topic} }} }}
pipeline:
  - operation: parse
    parse:
      parameters:
        - {{ jsonPath: id, outputType: string, outputCol: id }}
        - {{ jsonPath: what, outputType: string, outputCol: did }}
        - {{ jsonPath: n, outputType: long, outputCol: amount }}
        - {{ jsonPath: t, outputType: milliToTimestamp, outputCol: t }}
  - operation: project
    columns: {{ id: id, what: \"did || ' ' || id\", amount: amount, t: t }}
  - operation: process
    plugin: account
    keyBy: [id]
    timestampColumn: t
    watermark: 2.seconds
    ttl: 1.day
    order: eventTime
    outputs:
      quiet: {}
timestampFormat: millis
sink: {}
sideOutputs:
  late: {}
  rejects: {}
",
        sink("quiet"),
        sink("out"),
        sink("late"),
        sink("rejects")
    )
}

fn produce_acts(topic: &str, partitions: &[Vec<Act>], range: std::ops::Range<usize>) {
    let producer = producer();
    for (partition, acts) in partitions.iter().enumerate() {
        for act in &acts[range.clone()] {
            send(&producer, topic, partition, act.record().to_string().as_bytes());
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

#[test]
fn outputs_of_several_names_are_committed_together_and_once() {
    let _alone = alone();
    let topic = unique("accounts");
    create_topic(&topic, PARTITIONS);
    let (count, kills) = (40_000, 8);
    let partitions = acts(count);
    let job = Job::new(&accounts_pipeline(&topic));
    job.drop_in(&test_guest("accounts.wasm"), "accounts.wasm");
    let part = count / PARTITIONS / kills;
    let random = &mut Random::of_seed(7);
    for kill in 0..kills {
        produce_acts(&topic, &partitions, kill * part..(kill + 1) * part);
        // Small epochs: many boundaries to be killed at.
        let mut child = job.start(&["--epoch-rows", "500", "--epoch", "5ms", "--idle-after", "1h"]);
        job.wait_for("restored", kill + 1);
        std::thread::sleep(Duration::from_millis(random.below(400)));
        child.kill().unwrap();
        child.wait().unwrap();
        if kill % 3 == 2 {
            // Now and then the local tree is lost too: the changelog has everything.
            std::fs::remove_dir_all(job.dir.path().join("data")).unwrap();
        }
    }
    job.run_to_end();
    let (sums, quiet, refused) = expected(&partitions);
    assert!(sums.len() > 5_000 && quiet.len() > 500, "{} {}", sums.len(), quiet.len());
    assert_eq!(committed(&format!("{topic}-out")), sums);
    assert_eq!(committed(&format!("{topic}-quiet")), quiet);
    assert_eq!(committed(&format!("{topic}-late")), Vec::<Value>::new());
    assert_eq!(committed(&format!("{topic}-rejects")).len(), refused);
    // Nothing more to do: a second run commits nothing again.
    job.run_to_end();
    assert_eq!((committed(&format!("{topic}-out")), committed(&format!("{topic}-quiet"))), (sums, quiet));
}

/// What `kindling` says in the job's folder, where it ends well.
fn said(job: &Job, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kindling")).current_dir(job.dir.path()).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn said_json(job: &Job, args: &[&str]) -> Value {
    serde_json::from_str(&said(job, &[args, &["--json"]].concat())).unwrap()
}

#[test]
fn a_half_made_match_is_shown_from_a_running_job_and_from_a_stopped_one() {
    let _alone = alone();
    let topic = unique("swipes");
    create_topic(&topic, 1);
    let job = Job::new(&swipes::pipeline(&brokers(), &topic, ""));
    job.drop_in(&artefact("match_detection.wasm"), "match_detection.wasm");
    let producer = producer();
    let swipe = |user: &str, other: &str, like: bool, ts: i64| {
        let swipe = json!({ "userId": user, "otherId": other, "like": like, "ts": ts });
        send(&producer, &topic, 0, swipe.to_string().as_bytes());
    };
    const START: i64 = 1_764_352_800_000;
    swipe("ann", "bob", false, START);
    swipe("cid", "ann", true, START + 1_000);
    swipe("bob", "ann", true, START + 2_000);
    producer.flush(Duration::from_secs(10)).unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let child = job.start(&["--metrics", &address]);
    job.wait_for("restored", 1);
    let of_pair = ["state", "get", "pipeline.yaml", "--key", "ann,bob"];
    let half = json!([{
        "least(userId, otherId)": "ann", "greatest(userId, otherId)": "bob",
        "low_at": "2025-11-28T18:00:00.000Z", "high_at": "2025-11-28T18:00:02.000Z", "low_likes": false, "high_likes": true,
        "is_match": false, "last_event_time": "2025-11-28T18:00:02.000Z", "event_timers": [], "processing_timers": [],
        "forgotten_at": "2025-12-05T18:00:02.000Z",
    }]);
    let from_job = ["--from", &address];
    // It serves, and has committed the swipes.
    eventually("the job has the swipes", || {
        let args = [&of_pair[..], &["--json"], &from_job].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_kindling")).current_dir(job.dir.path()).args(args).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).is_ok_and(|shown| shown == half)
    });
    assert_eq!(said_json(&job, &["state", "get", "pipeline.yaml", "--key", "bob,ann", "--from", &address]), json!([]));
    job.stop(child);
    for from in [&["--data-dir", "data"][..], &["--data-dir", "data", "--from-changelog"], &["--data-dir", "elsewhere"]] {
        assert_eq!(said_json(&job, &[&of_pair, from].concat()), half, "{from:?}");
    }
    let data = ["--data-dir", "data"];
    let shown = said(&job, &[&of_pair[..], &data].concat());
    assert!(shown.contains("high_likes") && shown.contains("2025-12-05T18:00:02.000Z"), "{shown}");
    let nobody = said(&job, &[&["state", "get", "pipeline.yaml", "--key", "bob,ann"][..], &data].concat());
    assert!(nobody.starts_with("nothing is kept of the key bob,ann"), "{nobody}");
    let exported = said(&job, &[&["state", "export", "pipeline.yaml"][..], &data].concat());
    let exported: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(exported.len(), 2);
    assert!(exported.contains(&half[0]), "{exported:?}");
    let listed = said_json(&job, &[&["state", "ls", "pipeline.yaml"][..], &data].concat());
    assert_eq!(listed["operators"][0]["keys"], 2);
    assert!(said(&job, &[&["state", "ls", "pipeline.yaml"][..], &data].concat()).contains("process: 2 keys"));
}
