//! A transactional producer: one transaction an epoch.
//!
//! Two settings make a commit take about 10 ms where librdkafka's defaults take 100 to 225 ms: `retry.backoff.ms` at 1 (the broker
//! answers "concurrent transactions" while it writes the markers of the epoch before), and delivery events served by short polls
//! before the commit (the client library's own flush polls in steps of 100 ms).
//!
//! Whether a producer was fenced is known for certain only after its transaction was aborted: a record that the broker refused for its
//! old epoch may also mean that the broker gave up a transaction that took too long. So every failure ends with
//! [`Transactions::abort`], and that says what it was.

use crate::messages::{Delivery, KeyValue, Queue, Told, Topic};
use crate::output::replay::Place;
use crate::output::{CommitError, topics};
use rdkafka::client::ClientContext;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one step of a transaction is tried before the epoch is given up.
const STEP_TIME: Duration = Duration::from_secs(60);
/// How long the broker may take to abort; what it does not do then is done by the next start.
const ABORT_TIME: Duration = Duration::from_secs(5);
/// Between two looks at the deliveries that are awaited.
const PAUSE: Duration = Duration::from_micros(250);

/// What was said of records since the transaction began.
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

impl Delivered {
    fn take(&mut self, delivery: &Delivery<'_>, watched: &str) {
        if let Some((code, bytes)) = delivery.failed {
            let what = format!("a record of {bytes} bytes for topic {} was not delivered", delivery.topic);
            self.failed.get_or_insert_with(|| classify(&what, &KafkaError::MessageProduction(code)));
        }
        if let Some((from, to)) = delivery.offsets.filter(|_| delivery.topic == watched) {
            let (partition, Written { first, last }) = (delivery.partition, &mut self.watched);
            first.entry(partition).and_modify(|o| *o = from.min(*o)).or_insert(from);
            last.offsets.entry(partition).and_modify(|o| *o = to.max(*o)).or_insert(to);
            last.time = last.time.max(delivery.time);
        }
    }
}

/// A producer with one transaction at a time.
pub struct Transactions {
    /// Those that records were sent to. Dropped before the producer.
    topics: RefCell<BTreeMap<String, Topic>>,
    /// What the producer is told; likewise.
    told: Queue,
    producer: BaseProducer,
    /// The topic whose offsets are remembered.
    watched: String,
    delivered: RefCell<Delivered>,
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
        let producer: BaseProducer = config.create().map_err(|e| CommitError::Config(format!("producer: {e}")))?;
        let told = Queue::of_client(producer.client())
            .ok_or_else(|| CommitError::Aborted("the producer's client has no queue of events".into()))?;
        let (topics, delivered) = (RefCell::default(), RefCell::default());
        let transactions = Self { topics, told, producer, watched: watched.to_owned(), delivered };
        transactions.step("init_transactions", |p| p.init_transactions(Duration::from_secs(10)))?;
        Ok(transactions)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn begin(&self) -> Result<(), CommitError> {
        self.delivered.take();
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

    /// Takes what was delivered in while a long epoch is queued.
    pub fn poll(&self) {
        self.told.take_told(|told| match told {
            Told::Delivery(delivery) => self.delivered.borrow_mut().take(&delivery, &self.watched),
            Told::Error(code, why) => self.producer.context().error(KafkaError::Global(code), &why),
        });
    }

    /// The same; lets a moment pass where nothing was delivered.
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
        while self.producer.in_flight_count() > 0 && self.delivered.borrow().failed.is_none() {
            self.wait();
            if started.elapsed() > STEP_TIME {
                return Err(CommitError::Aborted("records were not delivered within 60 s".into()));
            }
        }
        let failed = self.delivered.borrow_mut().failed.take();
        if let Some(why) = failed {
            return Err(why);
        }
        if let Some((offsets, group)) = offsets {
            self.step("send_offsets_to_transaction", |p| p.send_offsets_to_transaction(offsets, group, Duration::from_secs(10)))?;
        }
        self.step("commit_transaction", |p| p.commit_transaction(Duration::from_secs(10)))?;
        Ok(self.delivered.take().watched)
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
    fn step(&self, what: &str, call: impl Fn(&BaseProducer) -> Result<(), KafkaError>) -> Result<(), CommitError> {
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
