//! A transactional producer: one transaction an epoch.
//!
//! Two settings make a commit take about 10 ms where librdkafka's defaults take 100 to 225 ms: `retry.backoff.ms` at 1 (the broker
//! answers "concurrent transactions" while it writes the markers of the epoch before), and delivery events served by short polls
//! before the commit (the client library's own flush polls in steps of 100 ms).

use crate::output::{CommitError, topics};
use rdkafka::client::ClientContext;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long one step of a transaction is tried before the epoch is given up.
const STEP_TIME: Duration = Duration::from_secs(60);
/// One poll while deliveries are awaited.
const POLL: Duration = Duration::from_millis(1);

/// What delivery reports said since the transaction began.
#[derive(Default)]
struct Delivered {
    failed: Option<String>,
    /// Greatest offset of the topic that is watched, by partition.
    ends: HashMap<i32, i64>,
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
            Ok(message) if message.topic() == self.watched => {
                let end = delivered.ends.entry(message.partition()).or_insert(-1);
                *end = (*end).max(message.offset());
            }
            Ok(_) => {}
            Err((error, message)) => {
                delivered.failed.get_or_insert_with(|| format!("a record for {} was not delivered: {error}", message.topic()));
            }
        }
    }
}

/// A producer with one transaction at a time.
pub struct Transactions {
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
            ("queue.buffering.max.messages", "1000000"),
            ("queue.buffering.max.kbytes", "262144"),
            ("batch.size", "262144"),
        ];
        for (name, value) in settings {
            if !properties.contains_key(name) || name == "transactional.id" {
                config.set(name, value);
            }
        }
        let reports = Reports { watched: watched.to_owned(), delivered: Mutex::default() };
        let producer: BaseProducer<Reports> = config.create_with_context(reports).map_err(|e| CommitError::Config(format!("producer: {e}")))?;
        let transactions = Self { producer };
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
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
        record.partition = partition;
        record.key = key;
        record.payload = value;
        let started = Instant::now();
        while let Err((error, back)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) || started.elapsed() > STEP_TIME {
                return Err(classify(topic, &error));
            }
            self.producer.poll(POLL);
            record = back;
        }
        Ok(())
    }

    /// Serves delivery reports while a long epoch is queued.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Commits; gives the greatest offsets of the watched topic by partition.
    ///
    /// # Errors
    /// [`CommitError`]; the transaction has been aborted then, as far as the broker could be told.
    pub fn commit(&self, offsets: Option<(&TopicPartitionList, &ConsumerGroupMetadata)>) -> Result<HashMap<i32, i64>, CommitError> {
        let started = Instant::now();
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(POLL);
            if started.elapsed() > STEP_TIME {
                return Err(CommitError::Aborted("records were not delivered within 60 s".into()));
            }
        }
        if let Some(why) = self.producer.context().lock().failed.take() {
            return Err(CommitError::Aborted(why));
        }
        if let Some((offsets, group)) = offsets {
            self.step("send_offsets_to_transaction", |p| p.send_offsets_to_transaction(offsets, group, Duration::from_secs(10)))?;
        }
        self.step("commit_transaction", |p| p.commit_transaction(Duration::from_secs(10)))?;
        Ok(std::mem::take(&mut self.producer.context().lock().ends))
    }

    /// Aborts what is open; an error is only logged, since the next start fences and aborts it in any case.
    pub fn abort(&self) {
        if let Err(error) = self.producer.abort_transaction(Duration::from_secs(5)) {
            tracing::debug!("the transaction could not be aborted: {error}");
        }
    }

    /// Tries a step until it is done, fails for good, or the time is over.
    fn step(&self, what: &str, call: impl Fn(&BaseProducer<Reports>) -> Result<(), KafkaError>) -> Result<(), CommitError> {
        let started = Instant::now();
        loop {
            match call(&self.producer) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(e)) if e.is_retriable() && started.elapsed() < STEP_TIME => {
                    self.producer.poll(POLL);
                }
                Err(error) => return Err(classify(what, &error)),
            }
        }
    }
}

fn classify(what: &str, error: &KafkaError) -> CommitError {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    match code {
        Some(Code::ProducerFenced | Code::InvalidProducerEpoch | Code::Fenced) => {
            CommitError::Fenced(format!("another process runs this job now, so this one ends ({what}: {error})"))
        }
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::MessageSizeTooLarge,
        ) => CommitError::Config(format!("{what}: {error}")),
        _ => CommitError::Aborted(format!("{what}: {error}")),
    }
}
