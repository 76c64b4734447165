//! Upserts and tombstones on a topic that the broker really compacts: read back as a table they are what a plain computation gives.

use crate::support::own_broker::OwnBroker;
use crate::support::*;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const START: i64 = 1_760_000_000_000;
const GAP: i64 = 30_000;
const DISORDER: i64 = 60_000;
const USERS: u64 = 50;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// User, event time, number: out of order by up to [`DISORDER`].
fn rows(count: i64) -> Vec<(u64, i64, i64)> {
    let mut random = Random(11);
    let time = |n: i64, random: &mut Random| START + n * 100 - random.below(DISORDER as u64) as i64;
    (0..count).map(|n| (random.below(USERS), time(n, &mut random), n)).collect()
}

/// The sessions of all users: by user and start, what is known of each.
fn sessions(rows: &[(u64, i64, i64)]) -> BTreeMap<String, Value> {
    let mut by_user: BTreeMap<u64, Vec<(i64, i64)>> = BTreeMap::new();
    rows.iter().for_each(|(user, time, n)| by_user.entry(*user).or_default().push((*time, *n)));
    let mut table = BTreeMap::new();
    for (user, mut rows) in by_user {
        rows.sort_unstable();
        for session in rows.chunk_by(|a, b| b.0 - a.0 <= GAP) {
            let (first, last) = (session[0].0, session[session.len() - 1].0);
            let sum: i64 = session.iter().map(|(_, n)| n).sum();
            let row = json!({"user": format!("u{user}"), "window_start": first, "window_end": last + GAP, "isFinal": true,
                "count": session.len(), "sum": sum});
            table.insert(format!("u{user} {first}"), row);
        }
    }
    table
}

fn pipeline(topic: &str) -> String {
    let connection = format!("brokers: '{}'", brokers());
    format!(
        "
name: {topic}
source: {{ name: kafka, parameters: {{ {connection}, topic: {topic} }} }}
pipeline:
  - operation: parse
    parse:
      inputCol: value
      parameters:
        - {{ jsonPath: st, outputType: milliToTimestamp, outputCol: st }}
        - {{ jsonPath: user, outputType: string, outputCol: user }}
        - {{ jsonPath: n, outputType: long, outputCol: n }}
  - operation: window_aggregate
    window: {{ type: session, gap: 30.seconds, timestampColumn: st, watermark: 60.seconds }}
    emit: onUpdate
    groupByKeys: [user]
    aggregations:
      - {{ reducer: count, outputColumn: count }}
      - {{ reducer: sum, inputColumns: [n], outputColumn: sum }}
timestampFormat: millis
sink: {{ name: kafka, parameters: {{ {connection}, topic: {topic}-out }} }}
sideOutputs:
  late: {{ name: kafka, parameters: {{ {connection}, topic: {topic}-late }} }}
"
    )
}

fn table(topic: &str) -> BTreeMap<String, Value> {
    let name = |row: &Value| Some(format!("{} {}", row["user"].as_str()?, row["window_start"]));
    read_table(topic).into_values().filter_map(|row| Some((name(&row)?, row))).collect()
}

#[test]
fn sessions_that_merge_and_are_taken_back_are_a_table_on_a_topic_that_is_compacted() {
    let _alone = alone();
    // A cleaner that does not wait, so that the test need not.
    let _broker = OwnBroker::start(&[
        "log.cleaner.backoff.ms=200",
        "log.cleaner.min.cleanable.ratio=0.01",
        "log.roll.ms=500",
        "log.initial.task.delay.ms=100",
    ]);
    let topic = unique("table");
    create_topic(&topic, 4);
    let rows = rows(30_000);
    let producer = producer();
    for (user, time, n) in &rows {
        let event = format!(r#"{{"st":{time},"user":"u{user}","n":{n}}}"#);
        send(&producer, &topic, (*user % 4) as usize, event.as_bytes());
    }
    producer.flush(Duration::from_secs(60)).expect("delivered");
    let job = Job::new(&pipeline(&topic));
    for kill in 1..=3 {
        let mut child = job.start(&["--epoch-rows", "200", "--epoch", "5ms"]);
        job.wait_for("restored", kill);
        std::thread::sleep(Duration::from_millis(300));
        child.kill().expect("killed");
        child.wait().expect("gone");
    }
    let child = job.start(&["--epoch-rows", "200", "--epoch", "5ms", "--until-end"]);
    assert_eq!(job.exit_code(child), Some(0), "{}", job.log_text());
    assert_eq!(read_committed(&format!("{topic}-late")).len(), 0);
    let out = format!("{topic}-out");
    let want = sessions(&rows);
    let (found, found_records) = (table(&out), read_records(&out));
    let taken_back = found_records.iter().filter(|(_, value)| value.is_none()).count();
    assert!(taken_back > 10, "{taken_back} of {} records take back", found_records.len());
    assert!(found == want, "{} rows, {} expected", found.len(), want.len());
    // The open segment is never compacted: one more upsert, of nobody, in each partition closes what is there.
    std::thread::sleep(Duration::from_millis(600));
    for partition in 0..4 {
        let nobody = BaseRecord::to(&out).key("nobody").payload("{}").partition(partition);
        assert!(producer.send(nobody).is_ok());
    }
    producer.flush(Duration::from_secs(30)).expect("delivered");
    let written = written(&out);
    assert!(written > 10 * want.len(), "{written} records for {} sessions", want.len());
    eventually("the broker compacts the topic", || read_records(&out).len() < want.len() + taken_back + written / 10);
    let compacted = table(&out);
    assert!(compacted == want, "{} rows, {} expected", compacted.len(), want.len());
}

/// How many records the topic was given, those among them that it has no more.
fn written(topic: &str) -> usize {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers()).create().expect("a consumer");
    let end = |p| consumer.fetch_watermarks(topic, p, Duration::from_secs(10)).expect("offsets").1;
    (0..4).map(end).sum::<i64>() as usize
}
