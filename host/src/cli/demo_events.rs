//! The events of the demo: from the generator inside the process, or produced into a topic of a real broker; and, counted apart from
//! the pipeline, what it must give.

use super::demo::DemoArgs;
use crate::config::spec::GenerateSpec;
use crate::element::OwnedRecord;
use crate::error::{Error, Kind};
use crate::ingest::generate;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the producer may wait for the broker at the end.
const FLUSH: Duration = Duration::from_secs(30);

/// The demo's events.
pub struct Events {
    spec: GenerateSpec,
    brokers: Option<String>,
    topic: String,
}

/// Rows that the pipeline must account for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Events in all.
    pub events: u64,
    /// Experiment assignments that are as they should be: counted, or late.
    pub assignments: u64,
    /// Events that must be rejected: not JSON, or a field of a wrong type.
    pub broken: u64,
}

/// Events on their way to a broker.
pub struct Producing(Option<JoinHandle<Result<(), String>>>);

impl Producing {
    /// Waits for the producer.
    ///
    /// # Errors
    /// When it could not write.
    pub fn finish(self) -> Result<(), Error> {
        let outcome = self.0.map_or(Ok(Ok(())), JoinHandle::join);
        let outcome = outcome.unwrap_or_else(|_| Err("the producer's thread ended".into()));
        outcome.map_err(|e| Error::new(Kind::External, format!("events could not be produced: {e}")))
    }
}

impl Events {
    /// The events that the arguments ask for.
    ///
    /// # Errors
    /// When they ask for nothing.
    pub fn new(args: &DemoArgs) -> Result<Self, Error> {
        let rows = (args.time.as_secs_f64() * args.rate as f64) as u64;
        if rows == 0 {
            return Err(Error::new(Kind::Config, "--for and --rate must be greater than 0"));
        }
        let start = crate::time::now_ms();
        let spec = GenerateSpec {
            rows_per_second: args.rate,
            rows: Some(rows),
            seed: args.seed,
            start_ms: Some(start),
            ..GenerateSpec::default()
        };
        Ok(Self { spec, brokers: args.brokers.clone(), topic: format!("kindling-demo-{start}") })
    }

    /// Settings of a pipeline over these events; through a broker `role` names its job and its topic of results.
    pub fn settings(&self, role: &str) -> Vec<(String, String)> {
        let set = |path: &str, value: String| (path.to_owned(), value);
        match &self.brokers {
            Some(brokers) => vec![
                set("name", format!("demo-{}-{role}", self.topic)),
                set("source.name", "kafka".into()),
                set("source.parameters.brokers", brokers.clone()),
                set("source.parameters.topic", self.topic.clone()),
                set("sink.name", "kafka".into()),
                set("sink.parameters.brokers", brokers.clone()),
                set("sink.parameters.topic", format!("{}-{role}", self.topic)),
            ],
            None => vec![
                set("source.parameters.rowsPerSecond", self.spec.rows_per_second.to_string()),
                set("source.parameters.rows", self.spec.rows.unwrap_or_default().to_string()),
                set("source.parameters.seed", self.spec.seed.to_string()),
                set("source.parameters.start", self.spec.start_ms.unwrap_or_default().to_string()),
            ],
        }
    }
}

impl Events {
    /// Starts to write the events to the broker's topic at their pace; nothing where the generator is the source.
    ///
    /// # Errors
    /// When the broker can't be reached.
    pub fn produce(&self, started: Instant) -> Result<Producing, Error> {
        let Some(brokers) = &self.brokers else { return Ok(Producing(None)) };
        let bad = |e: rdkafka::error::KafkaError| Error::new(Kind::External, format!("--brokers {brokers}: {e}"));
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("linger.ms", "20").set("compression.type", "lz4");
        let producer: BaseProducer = config.create().map_err(bad)?;
        let (spec, topic) = (self.spec.clone(), self.topic.clone());
        Ok(Producing(Some(std::thread::spawn(move || produce(&producer, &spec, &topic, started)))))
    }

    /// Makes the topic, with a partition for each of the generator's.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_topic(&self) -> Result<(), Error> {
        let Some(brokers) = &self.brokers else { return Ok(()) };
        let bad = |e: String| Error::new(Kind::External, format!("--brokers {brokers}: topic {} can't be made: {e}", self.topic));
        let properties = [("bootstrap.servers".to_owned(), brokers.clone())].into_iter().collect();
        crate::output::topics::create(&properties, &self.topic, Some(self.spec.partitions)).map_err(|e| bad(e.to_string()))
    }

    /// Events in all.
    pub fn count(&self) -> u64 {
        self.spec.rows.unwrap_or_default()
    }

    /// Whether they go through a broker.
    pub fn through_broker(&self) -> bool {
        self.brokers.is_some()
    }

    /// Each event in the order of its number, with its partition.
    pub fn all(&self) -> impl Iterator<Item = (usize, OwnedRecord)> {
        (0..self.count()).map(|n| {
            let (partition, offset) = place(&self.spec, n);
            (partition, generate::event(&self.spec, partition, offset))
        })
    }

    /// What the pipeline must account for, counted from the events themselves with another JSON parser and no windows.
    pub fn expected(&self) -> Expected {
        let mut expected = Expected { events: self.count(), ..Expected::default() };
        for (_, record) in self.all() {
            let value: Option<serde_json::Value> = record.value.as_deref().and_then(|v| serde_json::from_slice(v).ok());
            let Some(value) = value.filter(is_typed) else {
                expected.broken += 1;
                continue;
            };
            expected.assignments += u64::from(value["name"] == "Experiment.assign");
        }
        expected
    }
}

/// Whether the fields that the pipelines parse have their types.
pub fn is_typed(value: &serde_json::Value) -> bool {
    let scalar = |name: &str| !value[name].is_object() && !value[name].is_array();
    let texts = ["name", "experimentGroup", "experimentName", "experimentBucket"];
    value.is_object() && value["st"].is_i64() && texts.into_iter().all(scalar)
}

/// Partition and offset of the event with number `n`: the generator deals them out in turn.
fn place(spec: &GenerateSpec, n: u64) -> (usize, i64) {
    let partitions = spec.partitions.max(1) as u64;
    ((n % partitions) as usize, (n / partitions) as i64)
}

fn produce(producer: &BaseProducer, spec: &GenerateSpec, topic: &str, started: Instant) -> Result<(), String> {
    for n in 0..spec.rows.unwrap_or_default() {
        let due = started + Duration::from_secs_f64(n as f64 / spec.rows_per_second.max(1) as f64);
        let ahead = due.saturating_duration_since(Instant::now());
        if !ahead.is_zero() {
            producer.poll(Duration::ZERO);
            std::thread::sleep(ahead.min(Duration::from_millis(5)));
        }
        let (partition, offset) = place(spec, n);
        let event = generate::event(spec, partition, offset);
        let (key, value) = (event.key.unwrap_or_default(), event.value.unwrap_or_default());
        let mut record =
            BaseRecord::to(topic).partition(partition as i32).key(&key).payload(&value).timestamp(event.timestamp.unwrap_or(0));
        while let Err((error, back)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(rdkafka::types::RDKafkaErrorCode::QueueFull) {
                return Err(error.to_string());
            }
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
    producer.flush(FLUSH).map_err(|e| e.to_string())
}
