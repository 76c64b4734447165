//! What the tests with a real broker share: topics, producing, reading committed records, running the binary, and the answer worked
//! out a second time by other means.
// Each test file uses its part.
#![allow(dead_code)]

pub mod own_broker;
pub mod swipes;

use kindling::config::spec::GenerateSpec;
use kindling::ingest::generate;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rows by everything that makes a result row: window start, window end, group, experiment, bucket.
pub type Counts = BTreeMap<(String, String, String, String), i64>;

/// The broker under test: this thread's own where it has one (see [`own_broker`]), else the one that all tests share.
pub fn brokers() -> String {
    if let Some(own) = own_broker::address() {
        return own;
    }
    std::env::var("KINDLING_BROKERS")
        .expect("KINDLING_BROKERS is not set: run tests/run, or set it to host:port of a Kafka broker")
}

/// The tests here load the machine: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that no run before used.
pub fn unique(name: &str) -> String {
    format!("{name}-{}-{}", std::process::id(), kindling::time::now_ms())
}

pub fn create_topic(topic: &str, partitions: usize) {
    let properties = [("bootstrap.servers".to_owned(), brokers())].into_iter().collect();
    kindling::output::topics::create(&properties, topic, Some(partitions)).expect("the topic can be made");
}

pub fn producer() -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("linger.ms", "20").set("compression.type", "lz4");
    // A batch that a broker refuses while it starts must not come again behind later ones.
    config.set("enable.idempotence", "true");
    config.set("queue.buffering.max.messages", "500000").create().expect("a producer")
}

pub fn send(producer: &BaseProducer, topic: &str, partition: usize, value: &[u8]) {
    let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition as i32).payload(value);
    while let Err((error, back)) = producer.send(record) {
        assert_eq!(error.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::QueueFull), "{error}");
        producer.poll(Duration::from_millis(10));
        record = back;
    }
}

/// Events for tests: out of order, some late, some broken; event time from a fixed start.
pub fn events(rows: u64, rows_per_second: u64) -> GenerateSpec {
    GenerateSpec {
        rows_per_second,
        rows: Some(rows),
        seed: 7,
        partitions: 4,
        disorder: Duration::from_secs(3),
        late_share: 0.002,
        broken_share: 0.002,
        start_ms: Some(1_760_000_000_000),
    }
}

/// Writes events `from..to` to `topic`.
pub fn produce(spec: &GenerateSpec, topic: &str, from: u64, to: u64) {
    let producer = producer();
    let partitions = spec.partitions as u64;
    for n in from..to {
        let event = generate::event(spec, (n % partitions) as usize, (n / partitions) as i64);
        send(&producer, topic, (n % partitions) as usize, event.value.as_deref().unwrap_or_default());
    }
    producer.flush(Duration::from_secs(60)).expect("events are delivered");
}

/// What a pipeline of tumbling counts must give, by the definition: row by row, one partition after the other. Also late and rejected rows.
pub fn expected(spec: &GenerateSpec, window: i64, out_of_orderness: i64) -> (Counts, u64, u64) {
    let (mut counts, mut late, mut rejected) = (Counts::new(), 0, 0);
    let rows = spec.rows.expect("bounded");
    for partition in 0..spec.partitions as u64 {
        let mut watermark = i64::MIN;
        for n in (partition..rows).step_by(spec.partitions) {
            let event = generate::event(spec, partition as usize, (n / spec.partitions as u64) as i64);
            let value: Option<serde_json::Value> = serde_json::from_slice(event.value.as_deref().unwrap_or_default()).ok();
            let text = |v: &serde_json::Value, name: &str| v[name].as_str().map_or("null".to_owned(), str::to_owned);
            let wrong = |v: &serde_json::Value, name: &str| v[name].is_object() || v[name].is_array();
            let columns = ["experimentGroup", "experimentName", "experimentBucket"];
            let Some(value) = value.filter(|v| (v["st"].is_i64() || v["st"].is_null()) && !columns.iter().any(|c| wrong(v, c)))
            else {
                rejected += 1;
                continue;
            };
            let Some(time) = value["st"].as_i64() else {
                rejected += 1;
                continue;
            };
            let start = time.div_euclid(window) * window;
            if start + window <= watermark {
                late += 1;
            } else {
                let key = |name: &str| text(&value, name);
                *counts.entry((start.to_string(), key(columns[0]), key(columns[1]), key(columns[2]))).or_default() += 1;
            }
            watermark = watermark.max(time - out_of_orderness);
        }
    }
    (counts, late, rejected)
}

/// All committed records of a topic, as text.
pub fn read_committed(topic: &str) -> Vec<String> {
    read_records(topic).into_iter().map(|(_, value)| value.unwrap_or_default()).collect()
}

/// The table that upserts make: the last value of each key, without keys whose last record has none.
pub fn read_table(topic: &str) -> BTreeMap<String, serde_json::Value> {
    let mut table = BTreeMap::new();
    for (key, value) in read_records(topic) {
        let key = key.expect("upserts have keys");
        match value {
            Some(value) => drop(table.insert(key, serde_json::from_str(&value).expect("JSON"))),
            None => drop(table.remove(&key)),
        }
    }
    table
}

/// Keys and values of all committed records of a topic, in the order of each partition.
pub fn read_records(topic: &str) -> Vec<(Option<String>, Option<String>)> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("group.id", unique("reader")).set("isolation.level", "read_committed");
    config.set("enable.partition.eof", "true").set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).expect("metadata");
    let partitions = metadata.topics()[0].partitions().len();
    let mut list = TopicPartitionList::new();
    for p in 0..partitions {
        list.add_partition_offset(topic, p as i32, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&list).expect("assigned");
    let (mut values, mut open, started) = (Vec::new(), partitions, Instant::now());
    while open > 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "{topic} has no end");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(m)) => {
                let text = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
                values.push((text(m.key()), text(m.payload())));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            _ => {}
        }
    }
    values
}

/// Result rows of [`counts_pipeline`] as [`Counts`]; panics on a row that comes twice.
pub fn counts(rows: &[String]) -> Counts {
    let mut counts = Counts::new();
    for row in rows {
        let row: serde_json::Value = serde_json::from_str(row).expect("JSON");
        let text = |name: &str| row[name].as_str().unwrap_or("null").to_owned();
        let start = row["window_start"].as_i64().expect("millis").to_string();
        let key = (start, text("experimentGroup"), text("experimentName"), text("experimentBucket"));
        let count = row["count"].as_i64().expect("count");
        // The guest counts values, the built-in rows.
        if let (Some(guest), false) = (row.get("guestCount"), row["experimentBucket"].is_null()) {
            assert_eq!(guest.as_i64(), Some(count), "the guest counts as the built-in does: {row}");
        }
        assert!(counts.insert(key.clone(), count).is_none(), "{key:?} came twice");
    }
    counts
}

/// The pipeline of the README over `topic`, with ten-second windows; `extra` is added to its aggregations.
pub fn counts_pipeline(name: &str, topic: &str, extra: &str) -> String {
    counts_pipeline_over(&format!("brokers: '{}'", brokers()), name, topic, extra)
}

/// As [`counts_pipeline`], with other parameters of the connection.
pub fn counts_pipeline_over(connection: &str, name: &str, topic: &str, extra: &str) -> String {
    format!(
        "
name: {name}
source:
  name: kafka
  parameters: {{ {connection}, topic: {topic}, failOnDataLoss: false }}
pipeline:
  - operation: parse
    parse:
      inputCol: value
      parameters:
        - {{ jsonPath: st, outputType: milliToTimestamp, outputCol: st }}
        - {{ jsonPath: experimentGroup, outputType: string, outputCol: experimentGroup }}
        - {{ jsonPath: experimentName, outputType: string, outputCol: experimentName }}
        - {{ jsonPath: experimentBucket, outputType: string, outputCol: experimentBucket }}
  - operation: window_aggregate
    window: {{ timestampColumn: st, duration: 10.seconds, watermark: 3.seconds }}
    groupByKeys: [experimentGroup, experimentName, experimentBucket]
    aggregations:
      - {{ reducer: count, outputColumn: count }}
{extra}
timestampFormat: millis
sink: {{ name: kafka, parameters: {{ {connection}, topic: {topic}-out }} }}
sideOutputs:
  late: {{ name: kafka, parameters: {{ {connection}, topic: {topic}-late }} }}
  rejects: {{ name: kafka, parameters: {{ {connection}, topic: {topic}-rejects }} }}
"
    )
}

/// Waits until `done`, at most three minutes: machines that test do other things too.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(180), "not within three minutes: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sends a process a signal.
pub fn signal(process: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, process]).status().expect("kill is there").success(), "{signal} to {process}");
}

/// A job's files.
pub struct Job {
    pub dir: tempfile::TempDir,
}

impl Job {
    pub fn new(pipeline: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("pipeline.yaml"), pipeline).expect("written");
        std::fs::create_dir(dir.path().join("plugins")).expect("made");
        Self { dir }
    }

    pub fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    /// Drops an artefact in by an atomic rename.
    pub fn drop_in(&self, artefact: &Path, name: &str) {
        let beside = self.plugins().join(".part");
        std::fs::copy(artefact, &beside).expect("copied");
        std::fs::rename(beside, self.plugins().join(name)).expect("renamed");
    }

    /// Waits until the log has `text` so many times.
    pub fn wait_for(&self, text: &str, times: usize) {
        let started = Instant::now();
        while self.log_text().matches(text).count() < times {
            assert!(started.elapsed() < Duration::from_secs(60), "`{text}` did not come {times} times: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn start(&self, extra: &[&str]) -> Child {
        self.start_in("data", extra)
    }

    /// Starts a process with another folder of data, as another machine would.
    pub fn start_in(&self, data: &str, extra: &[&str]) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        Command::new(env!("CARGO_BIN_EXE_kindling"))
            .current_dir(self.dir.path())
            .args(["run", "pipeline.yaml", "--data-dir", data, "--plugins", "plugins"])
            .args(extra)
            .env("RUST_LOG", "info")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("kindling starts")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Waits for the end of a process; gives its exit code.
    pub fn exit_code(&self, mut child: Child) -> Option<i32> {
        let started = Instant::now();
        while child.try_wait().expect("a status").is_none() {
            assert!(started.elapsed() < Duration::from_secs(180), "the process must end: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(50));
        }
        child.wait().expect("it has ended").code()
    }

    /// Stops a process as an operator does.
    pub fn stop(&self, child: Child) {
        signal(&child.id().to_string(), "-TERM");
        assert_eq!(self.exit_code(child), Some(0), "{}", self.log_text());
    }

    /// Runs to the end of the topic.
    pub fn run_to_end(&self) {
        let status = self.start(&["--until-end"]).wait().expect("it ran");
        assert!(status.success(), "{status}: {}", self.log_text());
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

/// An artefact of this repository's plugins.
pub fn artefact(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(name)
}

/// Differences between two counts, some of them.
pub fn assert_same(got: &Counts, want: &Counts) {
    let differ: Vec<_> = want.iter().filter(|(k, v)| got.get(*k) != Some(v)).take(5).map(|(k, v)| (k, v, got.get(k))).collect();
    let extra: Vec<_> = got.iter().filter(|(k, _)| !want.contains_key(*k)).take(5).collect();
    assert!(
        differ.is_empty() && extra.is_empty(),
        "{} rows, {} expected; differ {differ:?}; not expected {extra:?}",
        got.len(),
        want.len()
    );
}
