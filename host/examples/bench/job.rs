//! What is run: workloads, the engines that run them, and what must come out.

use crate::swipes;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// `key|key|window start` to count; of matches `swiper|swipee` to event time.
pub type Counts = BTreeMap<String, i64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Experiment assignments by experiment and variant, windows of a minute: one row in five.
    Counts,
    /// All events by name, windows of a minute.
    Types,
    /// As `Types`, of rows that a filter keeps: one in three.
    Filter,
    /// As `Counts`, windows of 5 minutes each 10 seconds.
    Hopping,
    /// All events by user, windows of a minute: about a result for four rows.
    Users,
    /// Swipes to matches, by pair: a keyed process.
    Matches,
}

impl Workload {
    pub const ALL: [Self; 6] = [Self::Counts, Self::Types, Self::Filter, Self::Hopping, Self::Users, Self::Matches];

    pub fn name(self) -> &'static str {
        match self {
            Self::Counts => "counts",
            Self::Types => "types",
            Self::Filter => "filter",
            Self::Hopping => "hopping",
            Self::Users => "users",
            Self::Matches => "matches",
        }
    }

    pub fn named(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|w| w.name() == name).ok_or_else(|| format!("no workload `{name}`"))
    }

    /// Duration and slide, milliseconds.
    pub fn window(self) -> (i64, i64) {
        if self == Self::Hopping { (300_000, 10_000) } else { (60_000, 60_000) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    Loop,
    /// Matches, the pairs that changed and offsets in transactions.
    LoopExactlyOnce,
    Kindling,
    KindlingGuest,
    /// The pipeline without guests, or that of matches, with so much memory for its state.
    KindlingWithin(String),
    FlinkDataStream,
    FlinkDataStreamExactlyOnce,
    /// The same with its state in RocksDB.
    FlinkRocksDb,
    FlinkSql,
    FlinkSqlExactlyOnce,
    Streams,
    StreamsExactlyOnce,
}

impl Engine {
    pub fn title(&self) -> String {
        let title = match self {
            Self::KindlingWithin(budget) => return format!("Kindling, state within {budget}"),
            Self::Loop => "hand-written loop",
            Self::LoopExactlyOnce => "hand-written loop, exactly-once",
            Self::Kindling => "Kindling, built-in",
            Self::KindlingGuest => "Kindling, guest",
            Self::FlinkDataStream => "Flink DataStream",
            Self::FlinkDataStreamExactlyOnce => "Flink DataStream, exactly-once",
            Self::FlinkRocksDb => "Flink DataStream, exactly-once, RocksDB",
            Self::FlinkSql => "Flink SQL",
            Self::FlinkSqlExactlyOnce => "Flink SQL, exactly-once",
            Self::Streams => "Kafka Streams",
            Self::StreamsExactlyOnce => "Kafka Streams, exactly-once",
        };
        title.to_owned()
    }

    /// Those that run `workload`; without the JVM's where `peers` is false.
    pub fn of(workload: Workload, peers: bool) -> Vec<Self> {
        let own: &[Self] = match workload {
            Workload::Users => &[Self::Loop, Self::Kindling],
            Workload::Matches => &[Self::Loop, Self::LoopExactlyOnce, Self::KindlingGuest],
            _ => &[Self::Loop, Self::Kindling, Self::KindlingGuest],
        };
        let theirs: &[Self] = match workload {
            Workload::Counts => &[
                Self::FlinkDataStream,
                Self::FlinkDataStreamExactlyOnce,
                Self::FlinkSql,
                Self::FlinkSqlExactlyOnce,
                Self::Streams,
                Self::StreamsExactlyOnce,
            ],
            Workload::Matches => &[Self::FlinkDataStreamExactlyOnce, Self::FlinkRocksDb],
            _ => &[Self::FlinkDataStreamExactlyOnce, Self::StreamsExactlyOnce],
        };
        own.iter().chain(if peers { theirs } else { &[] }).cloned().collect()
    }
}

/// Where everything is.
pub struct Place {
    pub brokers: String,
    pub topic: String,
    pub rows: u64,
    /// Of the repository.
    pub root: PathBuf,
    /// The `kindling` binary.
    pub kindling: PathBuf,
    /// The hand-written loop's binary.
    pub hand_loop: PathBuf,
    /// The peers' jars.
    pub peers: PathBuf,
    pub scratch: PathBuf,
}

impl Place {
    /// The command that runs `workload` on `engine` and writes results to topic `out`.
    pub fn command(&self, workload: Workload, engine: &Engine, out: &str) -> Command {
        match engine {
            Engine::Loop => {
                let mut command = Command::new(&self.hand_loop);
                command.args([&self.brokers, &self.topic, workload.name()]);
                command.arg(self.scratch.join(out));
                command
            }
            Engine::LoopExactlyOnce => {
                let mut command = Command::new(&self.hand_loop);
                command.args([&self.brokers, &self.topic, "matches-exactly-once", out]);
                command
            }
            Engine::Kindling | Engine::KindlingGuest => self.kindling(workload, *engine == Engine::KindlingGuest, out),
            Engine::KindlingWithin(budget) => {
                let mut command = self.kindling(workload, false, out);
                command.arg("--set").arg(format!("state.memory={budget}"));
                command
            }
            Engine::FlinkDataStream => self.flink("datastream", workload, out, false),
            Engine::FlinkDataStreamExactlyOnce => self.flink("datastream", workload, out, true),
            Engine::FlinkRocksDb => self.flink("rocksdb", workload, out, true),
            Engine::FlinkSql => self.flink("sql", workload, out, false),
            Engine::FlinkSqlExactlyOnce => self.flink("sql", workload, out, true),
            Engine::Streams => self.streams(workload, out, "at_least_once"),
            Engine::StreamsExactlyOnce => self.streams(workload, out, "exactly_once_v2"),
        }
    }

    fn kindling(&self, workload: Workload, guest: bool, out: &str) -> Command {
        // Matches are found by nothing but a guest.
        let kind = if guest && workload != Workload::Matches { "-guest" } else { "" };
        let mut command = self.live(&format!("{}{kind}", workload.name()), &self.topic, out, &self.root.join("plugins"));
        command.arg("--until-end");
        command
    }

    /// A job that goes on until it is stopped: `pipelines/PIPELINE.yaml` from `topic` to `out`.
    pub fn live(&self, pipeline: &str, topic: &str, out: &str, plugins: &Path) -> Command {
        let mut command = Command::new(&self.kindling);
        command.arg("run").arg(self.root.join(format!("tests/bench/pipelines/{pipeline}.yaml")));
        command.arg("--plugins").arg(plugins).arg("--data-dir").arg(self.scratch.join("kindling"));
        let sets = [
            ("name", out),
            ("source.parameters.brokers", &self.brokers),
            ("source.parameters.topic", topic),
            ("sink.parameters.brokers", &self.brokers),
            ("sink.parameters.topic", out),
        ];
        for (path, value) in sets {
            command.arg("--set").arg(format!("{path}={value}"));
        }
        command
    }

    fn java(&self, project: &str, main: &str, workload: Workload) -> Command {
        let mut command = Command::new("java");
        for package in ["java.util", "java.lang", "java.time"] {
            command.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
        }
        // Five million pairs on the heap, and the copy of them that a checkpoint writes.
        let heap = if workload == Workload::Matches { "-Xmx6g" } else { "-Xmx2g" };
        command.args([
            "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
            heap,
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        ]);
        let jars = self.peers.join(project);
        command.arg("-cp").arg(format!("{0}/target/{project}-1.jar:{0}/lib/*", jars.display())).arg(main);
        command
    }

    fn flink(&self, api: &str, workload: Workload, out: &str, exactly_once: bool) -> Command {
        let mut command = self.java("flink", "FlinkJob", workload);
        command.args([api, workload.name(), &self.brokers, &self.topic, out, if exactly_once { "1000" } else { "0" }]);
        command.arg(self.scratch.join(format!("flink-{out}")));
        command
    }

    fn streams(&self, workload: Workload, out: &str, guarantee: &str) -> Command {
        let mut command = self.java("streams", "StreamsJob", workload);
        command.args([workload.name(), &self.brokers, &self.topic, out, guarantee]);
        command.arg(self.scratch.join(format!("streams-{out}")));
        command
    }

    /// What came out.
    pub fn results(&self, workload: Workload, engine: &Engine, out: &str) -> Result<Counts, Box<dyn Error>> {
        let mut results = Counts::new();
        match engine {
            Engine::Loop => return read_file(&self.scratch.join(out)),
            _ if workload == Workload::Matches => read_topic(&self.brokers, out, |row| Ok(swipes::add(&mut results, row)?))?,
            _ => read_topic(&self.brokers, out, |row| add_count(&mut results, row))?,
        }
        Ok(results)
    }
}

/// Lines of key, space, count.
fn read_file(path: &Path) -> Result<Counts, Box<dyn Error>> {
    let mut counts = Counts::new();
    for line in BufReader::new(std::fs::File::open(path)?).lines() {
        let line = line?;
        let (key, count) = line.rsplit_once(' ').ok_or("a line has no count")?;
        counts.insert(key.to_owned(), count.parse()?);
    }
    Ok(counts)
}

/// A result of any workload.
#[derive(serde::Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    experiment: Option<Cow<'a, str>>,
    #[serde(borrow)]
    variant: Option<Cow<'a, str>>,
    #[serde(rename = "userId")]
    user: Option<i64>,
    window_start: i64,
    count: i64,
}

/// The last count of each key and window: Kafka Streams writes a window more than once.
fn add_count(counts: &mut Counts, payload: &[u8]) -> Result<(), Box<dyn Error>> {
    let Row { name, experiment, variant, user, window_start, count } = serde_json::from_slice(payload)?;
    let user = user.map(|u| Cow::from(u.to_string()));
    let (a, b) = (experiment.or(name).or(user).unwrap_or_default(), variant.unwrap_or_default());
    counts.insert(format!("{a}|{b}|{window_start}"), count);
    Ok(())
}

/// All committed records.
fn read_topic(
    brokers: &str,
    topic: &str,
    mut add: impl FnMut(&[u8]) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let consumer: BaseConsumer = committed(brokers)?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let mut open = metadata.topics().first().map_or(0, |t| t.partitions().len());
    let mut list = TopicPartitionList::new();
    for partition in 0..open {
        list.add_partition_offset(topic, partition as i32, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let started = Instant::now();
    while open > 0 {
        if started.elapsed() > Duration::from_secs(600) {
            return Err(format!("{topic} has no end").into());
        }
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => add(message.payload().unwrap_or_default())?,
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            _ => {}
        }
    }
    Ok(())
}

/// A consumer of committed records that tells where a partition ends.
pub fn committed(brokers: &str) -> Result<BaseConsumer, KafkaError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "bench-reader").set("isolation.level", "read_committed");
    config.set("enable.partition.eof", "true").set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
    config.set("fetch.wait.max.ms", "5").create()
}
