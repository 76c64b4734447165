//! Asks Kafka Streams, Flink and Kindling for the windows of the same random disordered topics, and compares; `tests/oracles/run` calls this.
//!
//!     oracles --brokers B --kindling BINARY --jars DIR --seeds 1,2 [--cases a,b] [--record DIR]
//!
//! Compared: the last count of each key and window, and which rows are late for all their windows. With `--record` the answers are written
//! for `host/tests/oracles.rs`, which needs neither broker nor JVM.

#[path = "../../tests/support/oracle.rs"]
mod oracle;

use oracle::{Answer, CASES, Case, Kind, Oracle, Recorded, Row};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Asked {
    brokers: String,
    kindling: PathBuf,
    jars: PathBuf,
    scratch: PathBuf,
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let given = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
    let needed =
        |name: &str| given(name).ok_or_else(|| format!("{name} is missing: see the head of host/examples/oracles/main.rs"));
    let scratch = std::env::temp_dir().join(format!("kindling-oracles-{}", std::process::id()));
    let asked =
        Asked { brokers: needed("--brokers")?, kindling: needed("--kindling")?.into(), jars: needed("--jars")?.into(), scratch };
    let cases = given("--cases").unwrap_or_default();
    let mut failed = 0;
    for seed in needed("--seeds")?.split(',') {
        for case in CASES.into_iter().filter(|c| cases.is_empty() || cases.split(',').any(|name| name == c.name)) {
            let recorded = asked.ask(case, seed.parse()?, &mut failed)?;
            if let Some(folder) = given("--record") {
                std::fs::write(Path::new(&folder).join(format!("{}-{seed}.jsonl", case.name)), recorded.to_lines())?;
            }
        }
    }
    std::fs::remove_dir_all(&asked.scratch)?;
    if failed > 0 { Err(format!("{failed} answers differ").into()) } else { Ok(()) }
}

impl Asked {
    /// One topic, all engines.
    fn ask(&self, case: Case, seed: u64, failed: &mut usize) -> Outcome<Recorded> {
        let topic = format!("oracle-{}-{seed}-{}", case.name, std::process::id());
        let rows = case.input(seed);
        create(&self.brokers, &topic, case.partitions)?;
        produce(&self.brokers, &topic, &rows)?;
        let own = self.kindling(&case, &topic)?;
        let mut recorded = Recorded { case, seed, versions: BTreeMap::new(), rows, answers: BTreeMap::new() };
        for oracle in case.oracles {
            let (version, answer) = self.engine(*oracle, &case, &topic, &recorded.rows)?;
            let differences = own.differences(&answer);
            let (windows, late) = (answer.windows.len(), answer.late.len());
            println!(
                "{}, seed {seed}, {} {version}: {windows} windows, {late} late rows{}",
                case.name,
                oracle.name(),
                if differences.is_empty() { ", as Kindling has them" } else { ": KINDLING DIFFERS" }
            );
            differences.iter().for_each(|d| println!("  {d}"));
            *failed += usize::from(!differences.is_empty());
            recorded.versions.insert(oracle.name().to_owned(), version);
            recorded.answers.insert(*oracle, answer);
        }
        Ok(recorded)
    }

    fn kindling(&self, case: &Case, topic: &str) -> Outcome<Answer> {
        let folder = self.scratch.join(topic);
        std::fs::create_dir_all(folder.join("plugins"))?;
        let kafka = |topic: &str| format!("{{ name: kafka, parameters: {{ brokers: '{}', topic: {topic} }} }}", self.brokers);
        let (out, late) = (format!("{topic}-out"), format!("{topic}-late"));
        for topic in [&out, &late] {
            create(&self.brokers, topic, 1)?;
        }
        std::fs::write(folder.join("pipeline.yaml"), case.pipeline(topic, &kafka(topic), &kafka(&out), &kafka(&late)))?;
        let args = ["run", "pipeline.yaml", "--until-end", "--data-dir", "data", "--plugins", "plugins"];
        said(Command::new(&self.kindling).current_dir(&folder).args(args))?;
        let mut answer = Answer::default();
        for row in read(&self.brokers, &out)? {
            let number = |name: &str| row[name].as_i64().ok_or_else(|| format!("no {name} in {row}"));
            let key = (row["k"].as_str().unwrap_or_default().to_owned(), number("window_start")?, number("window_end")?);
            if answer.windows.insert(key, number("count")?).is_some() {
                return Err(format!("{row} came twice").into());
            }
        }
        for row in read(&self.brokers, &late)? {
            let raw: Value = serde_json::from_str(row["value"].as_str().unwrap_or_default())?;
            answer.late.insert(raw["id"].as_u64().ok_or("a late row has no id")?);
        }
        Ok(answer)
    }

    /// The version of an engine, and its answer.
    fn engine(&self, oracle: Oracle, case: &Case, topic: &str, rows: &[Row]) -> Outcome<(String, Answer)> {
        let kind = match case.kind {
            Kind::Tumbling => "tumbling",
            Kind::Hopping => "hopping",
            Kind::Session => "session",
        };
        let (project, class) = match oracle {
            Oracle::Flink => ("flink", "FlinkOracle"),
            Oracle::Streams => ("streams", "StreamsOracle"),
        };
        let mut command = Command::new("java");
        for package in ["java.util", "java.lang", "java.time"] {
            command.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
        }
        command.args(["-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]);
        let jars = self.jars.join(project);
        command.arg("-cp").arg(format!("{0}/target/{project}-1.jar:{0}/lib/*", jars.display())).arg(class);
        command.args([&self.brokers, topic, kind, &case.size.to_string(), &case.slide.to_string()]);
        match oracle {
            Oracle::Flink => command.args([case.bound, case.lateness, case.partitions as i64].map(|n| n.to_string())),
            // Its watermark is the greatest time so far: the bound is a part of the grace.
            Oracle::Streams => {
                command.arg((case.bound + case.lateness).to_string()).arg(self.scratch.join(format!("streams-{topic}")))
            }
        };
        let (mut version, mut answer) = (None, Answer::default());
        let mut skipped: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        for line in said(&mut command)?.lines().filter(|l| l.starts_with('{')) {
            let row: Value = serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))?;
            let number = |row: &Value, name: &str| row[name].as_i64().ok_or_else(|| format!("no {name} in {line}"));
            if let Some(text) = row["version"].as_str() {
                version = Some(text.to_owned());
            } else if row["late"].is_u64() {
                answer.late.insert(number(&row, "late")? as u64);
            } else if row["skipped"].is_object() {
                *skipped.entry((number(&row["skipped"], "partition")?, number(&row["skipped"], "offset")?)).or_default() += 1;
            } else {
                let key = row["k"].as_str().unwrap_or_default().to_owned();
                answer.windows.insert((key, number(&row, "start")?, number(&row, "end")?), number(&row, "count")?);
            }
        }
        // A row that was skipped for some of its windows is not late: it counts in the others.
        for row in rows {
            let times = skipped.get(&(row.partition as i64, row.offset)).copied().unwrap_or(0);
            let all = if case.kind == Kind::Session { 1 } else { case.windows_of(row.time) };
            if times >= all {
                answer.late.insert(row.id);
            }
        }
        Ok((version.ok_or("the engine did not say its version")?, answer))
    }
}

/// What a program writes to standard output.
fn said(command: &mut Command) -> Outcome<String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn create(brokers: &str, topic: &str, partitions: usize) -> Outcome<()> {
    let properties: BTreeMap<String, String> = [("bootstrap.servers".to_owned(), brokers.to_owned())].into();
    kindling::output::topics::create(&properties, topic, Some(partitions)).map_err(|e| format!("topic {topic}: {e}").into())
}

fn produce(brokers: &str, topic: &str, rows: &[Row]) -> Outcome<()> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("enable.idempotence", "true").create()?;
    for row in rows {
        let value = row.value();
        let record = BaseRecord::to(topic).partition(row.partition as i32).key(&row.key).payload(&value);
        producer.send(record).map_err(|(e, _)| e)?;
    }
    Ok(producer.flush(Duration::from_secs(30))?)
}

/// All committed records of a topic of one partition.
fn read(brokers: &str, topic: &str) -> Outcome<Vec<Value>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "oracles").set("isolation.level", "read_committed");
    config.set("enable.partition.eof", "true").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&list)?;
    let (mut values, started) = (Vec::new(), Instant::now());
    while started.elapsed() < Duration::from_secs(60) {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => values.push(serde_json::from_slice(message.payload().unwrap_or_default())?),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(values),
            _ => {}
        }
    }
    Err(format!("{topic} has no end").into())
}
