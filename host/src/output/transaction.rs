//! A transactional producer: one transaction an epoch.
//!
//! Two settings make a commit take about 10 ms where librdkafka's defaults take 100 to 225 ms: `retry.backoff.ms` at 1 (the broker
//! answers "concurrent transactions" while it writes the markers of the epoch before), and delivery events served by short polls
//! before the commit (the client library's own flush polls in steps of 100 ms).
//!
//! Whether a producer was fenced is known for certain only after its transaction was aborted: a record that the broker refused for its
//! old epoch may also mean that the broker gave up a transaction that took too long. So every failure ends with
//! [`Transactions::abort`], and that says what it was.

use crate::messages::{KeyValue, Topic};
use crate::output::replay::Place;
use crate::output::{CommitError, topics};
use rdkafka::client::ClientContext;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long one step of a transaction is tried before the epoch is given up.
const STEP_TIME: Duration = Duration::from_secs(60);
/// How long the broker may take to abort; what it does not do then is done by the next start.
const ABORT_TIME: Duration = Duration::from_secs(5);
/// Between two looks at the deliveries that are awaited.
const PAUSE: Duration = Duration::from_micros(250);

/// What delivery reports said since the transaction began.
#[derive(Default)]
struct Delivered {
    failed: Option<CommitError>,
    watched: Written,
}

/// Where the records of the watched topic went. A partition is missing where the broker did not tell: after a retry of what it already had.
#[derive(Default)]
pub struct Written {
    /// Offset of the first record of each partition.
    pub first: BTreeMap<i32, i64>,
    /// Of the last one.
    pub last: Place,
}

/// Collects delivery reports.
struct Reports {
    watched: String,
    delivered: Mutex<Delivered>,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Delivered> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut delivered = self.lock();
        match result {
            // A negative offset is librdkafka's "unknown"; taken for a position it would mean "the end".
            Ok(message) if message.topic() == self.watched && message.offset() >= 0 => {
                let (partition, offset) = (message.partition(), message.offset());
                let Written { first, last } = &mut delivered.watched;
                first.entry(partition).and_modify(|o| *o = offset.min(*o)).or_insert(offset);
                last.offsets.entry(partition).and_modify(|o| *o = offset.max(*o)).or_insert(offset);
                last.time = last.time.max(message.timestamp().to_millis());
            }
            Ok(_) => {}
            Err((error, message)) => {
                let what =
                    || format!("a record of {} bytes for topic {} was not delivered", message.payload_len(), message.topic());
                delivered.failed.get_or_insert_with(|| classify(&what(), error));
            }
        }
    }
}

/// A producer with one transaction at a time.
pub struct Transactions {
    /// Those that records were sent to. Dropped before the producer.
    topics: RefCell<BTreeMap<String, Topic>>,
    producer: BaseProducer<Reports>,
}

impl Transactions {
    /// Fences every other producer with this id and aborts its open transaction. Offsets of records to `watched` are remembered.
    ///
    /// # Errors
    /// [`CommitError::Config`] for a setting that is refused; [`CommitError::Aborted`] when the broker is away.
    pub fn open(properties: &BTreeMap<String, String>, id: &str, watched: &str) -> Result<Self, CommitError> {
        let mut config = topics::client(properties);
        let settings = [
            ("transactional.id", id),
            ("enable.idempotence", "true"),
            ("linger.ms", "1"),
            ("compression.type", "lz4"),
            ("retry.backoff.ms", "1"),
            ("retry.backoff.max.ms", "5"),
            // The default of 10 s is how long a broker that is back would go unnoticed.
            ("reconnect.backoff.max.ms", "1000"),
            ("queue.buffering.max.messages", "1000000"),
            ("queue.buffering.max.kbytes", "262144"),
            ("batch.size", "262144"),
            // The partitioner of the Java clients: a topic that they also write to, or join with, is partitioned alike.
            ("partitioner", "murmur2_random"),
        ];
        for (name, value) in settings {
            if !properties.contains_key(name) || name == "transactional.id" {
                config.set(name, value);
            }
        }
        let reports = Reports { watched: watched.to_owned(), delivered: Mutex::default() };
        let producer: BaseProducer<Reports> =
            config.create_with_context(reports).map_err(|e| CommitError::Config(format!("producer: {e}")))?;
        let transactions = Self { topics: RefCell::default(), producer };
        transactions.step("init_transactions", |p| p.init_transactions(Duration::from_secs(10)))?;
        Ok(transactions)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn begin(&self) -> Result<(), CommitError> {
        *self.producer.context().lock() = Delivered::default();
        self.producer.begin_transaction().map_err(|e| classify("begin", &e))
    }

    /// Queues a record.
    ///
    /// # Errors
    /// [`CommitError::Aborted`] when the queue stays full or the record is refused.
    pub fn send(&self, topic: &str, partition: Option<i32>, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), CommitError> {
        self.send_all(topic, partition, &[(key, value)])
    }

    /// Queues records to a partition, or to where their keys belong.
    ///
    /// # Errors
    /// As [`Transactions::send`].
    pub fn send_all(&self, topic: &str, partition: Option<i32>, records: &[KeyValue<'_>]) -> Result<(), CommitError> {
        let mut topics = self.topics.borrow_mut();
        if !topics.contains_key(topic) {
            let refused = || CommitError::Config(format!("the topic's name {topic:?} is refused"));
            topics.insert(topic.to_owned(), Topic::of_producer(&self.producer, topic).ok_or_else(refused)?);
        }
        let Some(to) = topics.get(topic) else { return Ok(()) };
        let mut refused = to.produce(partition, records);
        let started = Instant::now();
        while !refused.is_empty() {
            let is_final = |code: &RDKafkaErrorCode| *code != RDKafkaErrorCode::QueueFull || started.elapsed() > STEP_TIME;
            if let Some(code) = refused.iter().map(|(_, code)| *code).find(is_final) {
                return Err(classify(topic, &KafkaError::MessageProduction(code)));
            }
            self.wait();
            // A full queue takes none of those that follow either: they are in order.
            refused = to.produce(partition, &refused.iter().map(|(record, _)| *record).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Serves delivery reports while a long epoch is queued.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Serves delivery reports, or lets a moment pass where there is none. Not by a poll with a timeout: rdkafka's spins through its last
    /// millisecond.
    fn wait(&self) {
        let before = self.producer.in_flight_count();
        self.poll();
        if self.producer.in_flight_count() == before {
            std::thread::sleep(PAUSE);
        }
    }

    /// Commits; says where the records of the watched topic went.
    ///
    /// # Errors
    /// [`CommitError`]; call [`Transactions::abort`] then.
    pub fn commit(&self, offsets: Option<(&TopicPartitionList, &ConsumerGroupMetadata)>) -> Result<Written, CommitError> {
        let started = Instant::now();
        while self.producer.in_flight_count() > 0 && self.producer.context().lock().failed.is_none() {
            self.wait();
            if started.elapsed() > STEP_TIME {
                return Err(CommitError::Aborted("records were not delivered within 60 s".into()));
            }
        }
        if let Some(why) = self.producer.context().lock().failed.take() {
            return Err(why);
        }
        if let Some((offsets, group)) = offsets {
            self.step("send_offsets_to_transaction", |p| p.send_offsets_to_transaction(offsets, group, Duration::from_secs(10)))?;
        }
        self.step("commit_transaction", |p| p.commit_transaction(Duration::from_secs(10)))?;
        Ok(std::mem::take(&mut self.producer.context().lock().watched))
    }

    /// Aborts what is open, after `why`, and gives the failure that it really was: [`CommitError::Fenced`] where another producer has
    /// the id, else `why`. That the abort fails is only logged, since the next start aborts what is open in any case.
    pub fn abort(&self, why: CommitError) -> CommitError {
        if let Err(error) = self.producer.abort_transaction(ABORT_TIME) {
            tracing::debug!("the transaction could not be aborted: {error}");
        }
        match self.producer.client().fatal_error() {
            Some((code, text)) if is_fence(code) => fenced(&text),
            _ => why,
        }
    }

    /// Tries a step until it is done, fails for good, or the time is over.
    fn step(&self, what: &str, call: impl Fn(&BaseProducer<Reports>) -> Result<(), KafkaError>) -> Result<(), CommitError> {
        let started = Instant::now();
        loop {
            match call(&self.producer) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(e)) if e.is_retriable() && started.elapsed() < STEP_TIME => {
                    self.wait();
                }
                Err(error) => return Err(classify(what, &error)),
            }
        }
    }
}

fn is_fence(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::ProducerFenced | Code::InvalidProducerEpoch | Code::Fenced)
}

fn fenced(why: &dyn std::fmt::Display) -> CommitError {
    CommitError::Fenced(format!(
        "another process runs this job now, or this one stood still for longer than `transaction.timeout.ms`, so it ends: {why}"
    ))
}

/// The failure as far as `error` alone tells it; see [`Transactions::abort`].
fn classify(what: &str, error: &KafkaError) -> CommitError {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::ProducerFenced | Code::Fenced) => fenced(error),
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed,
        ) => CommitError::Config(format!("{what}: {error}; give the job's user the right to do this")),
        Some(Code::MessageSizeTooLarge) => CommitError::Config(format!(
            "{what}: {error}; raise `message.max.bytes` of the sink's connection and `max.message.bytes` of the topic"
        )),
        _ => CommitError::Aborted(format!("{what}: {error}")),
    }
}
