//! One librdkafka consumer with a manual assignment: questions to the broker, its events, its log.

use super::properties;
use crate::ingest::IngestError;
use crate::limits::{KAFKA_ASK, KAFKA_LOG_EVERY, KAFKA_UNKNOWN_TOPIC};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one try of a question may take.
const TRY: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// Events (errors, log lines) are served this often, so many at a time.
const SERVE_EVERY: Duration = Duration::from_millis(100);
const SERVE_EVENTS: usize = 32;
/// Between two looks whether a silent topic still exists, and once it seemed gone.
const CHECK_EVERY: Duration = Duration::from_secs(10);
const CHECK_AGAIN: Duration = Duration::from_millis(500);

/// A consumer of one topic. Lives as long as anything that came out of it.
pub(super) struct Client {
    consumer: BaseConsumer<Context>,
    topic: String,
    served: Mutex<Option<Instant>>,
    existence: Mutex<Existence>,
}

/// Whether the topic is still there.
struct Existence {
    checked: Instant,
    unknown_since: Option<Instant>,
}

impl Client {
    pub(super) fn new(config: &ClientConfig, topic: &str) -> Result<Self, IngestError> {
        let consumer = config.create_with_context(Context::default()).map_err(properties::refused)?;
        let existence = Mutex::new(Existence { checked: Instant::now(), unknown_since: None });
        Ok(Self { consumer, topic: topic.into(), served: Mutex::new(None), existence })
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn native(&self) -> *mut rdkafka_sys::rd_kafka_t {
        self.consumer.client().native_ptr()
    }

    /// Asks until there is an answer, an error that waiting does not mend, or [`KAFKA_ASK`] is over.
    fn ask<T>(&self, what: &str, mut question: impl FnMut() -> KafkaResult<T>) -> Result<T, IngestError> {
        let start = Instant::now();
        loop {
            let error = match question() {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let failed = |why: &str| format!("topic `{}`: {what}: {why}", self.topic);
            if error.rdkafka_error_code().is_some_and(lasting) {
                return Err(IngestError::Config(failed(&error.to_string())));
            }
            self.serve()?;
            if start.elapsed() >= KAFKA_ASK {
                return Err(match self.consumer.context().last_error() {
                    Some((code, text)) if lasting(code) => IngestError::Config(failed(&text)),
                    Some((_, text)) => IngestError::External(failed(&format!("{error} ({text})"))),
                    None => IngestError::External(failed(&error.to_string())),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Numbers of the topic's partitions, rising.
    pub(super) fn partitions(&self) -> Result<Vec<i32>, IngestError> {
        let mut unknown: Option<Instant> = None;
        let numbers = self.ask("its partitions", || {
            let metadata = self.consumer.fetch_metadata(Some(&self.topic), TRY)?;
            let Some(topic) = metadata.topics().iter().find(|t| t.name() == self.topic) else {
                return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopic));
            };
            match topic.error() {
                None => Ok(Some(topic.partitions().iter().map(|p| p.id()).collect::<Vec<_>>())),
                Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
                    if unknown.get_or_insert_with(Instant::now).elapsed() >= KAFKA_UNKNOWN_TOPIC =>
                {
                    Ok(None)
                }
                Some(error) => Err(KafkaError::MetadataFetch(error.into())),
            }
        })?;
        let Some(mut numbers) = numbers else { return Err(self.no_such_topic()) };
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn no_such_topic(&self) -> IngestError {
        let names =
            self.consumer.fetch_metadata(None, TRY).map(|m| m.topics().iter().map(|t| t.name().to_owned()).collect::<Vec<_>>());
        let names = names.unwrap_or_default();
        let nearest = names
            .iter()
            .filter(|n| !n.starts_with("__"))
            .map(|n| (strsim::normalized_damerau_levenshtein(n, &self.topic), n))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match nearest {
            Some((likeness, name)) if likeness > 0.5 => format!("did you mean `{name}`?"),
            _ => "create it, or check `topic` and `bootstrap.servers`".into(),
        };
        IngestError::Config(format!("there is no topic `{}` on this Kafka cluster: {hint}", self.topic))
    }

    /// First and end offset of a partition; the end is that of committed records where only those are read.
    pub(super) fn watermarks(&self, partition: i32) -> Result<(i64, i64), IngestError> {
        self.ask(&format!("offsets of partition {partition}"), || self.consumer.fetch_watermarks(&self.topic, partition, TRY))
    }

    /// The same, asked once; none when the broker does not answer now.
    pub(super) fn watermarks_now(&self, partition: i32) -> Option<(i64, i64)> {
        self.consumer.fetch_watermarks(&self.topic, partition, TRY).ok()
    }

    /// The end offset of a partition, asked of its leader within `wait`; none when there is no answer.
    pub(super) fn end_within(&self, partition: i32, wait: Duration) -> Option<i64> {
        self.consumer.fetch_watermarks(&self.topic, partition, wait).ok().map(|(_, end)| end)
    }

    /// How many partitions the topic has now, asked once; none when there is no answer within `wait`, or one of them has no leader yet.
    pub(super) fn partition_count_within(&self, wait: Duration) -> Option<usize> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), wait).ok()?;
        let topic = metadata.topics().iter().find(|t| t.name() == self.topic && t.error().is_none())?;
        topic.partitions().iter().all(|p| p.leader() >= 0).then(|| topic.partitions().len())
    }

    /// Looks, now and then, whether the topic still exists: librdkafka itself is silent about one that was deleted. To be called when
    /// nothing comes.
    ///
    /// # Errors
    /// When the brokers have not known the topic for [`KAFKA_UNKNOWN_TOPIC`].
    pub(super) fn check_topic(&self) -> Result<(), IngestError> {
        let Ok(mut existence) = self.existence.try_lock() else { return Ok(()) };
        let every = if existence.unknown_since.is_some() { CHECK_AGAIN } else { CHECK_EVERY };
        if existence.checked.elapsed() < every {
            return Ok(());
        }
        existence.checked = Instant::now();
        let gone = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
        // A broker that is away says nothing either way.
        let Ok(metadata) = self.consumer.fetch_metadata(Some(&self.topic), CHECK_AGAIN) else { return Ok(()) };
        if metadata.topics().iter().any(|t| t.name() == self.topic && t.error() == Some(gone)) {
            let since = *existence.unknown_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= KAFKA_UNKNOWN_TOPIC {
                return Err(IngestError::Config(format!(
                    "topic `{}` is gone: was it deleted while the job ran? State and results are those of the last epoch; once there is a \
                     topic of that name again, start the job with --from earliest and --keep-state or --drop-state",
                    self.topic
                )));
            }
        } else {
            existence.unknown_since = None;
        }
        Ok(())
    }

    /// The group's committed offset of each of `partitions`.
    pub(super) fn committed(&self, partitions: &[i32]) -> Result<Vec<Option<i64>>, IngestError> {
        self.ask("committed offsets of the consumer group", || {
            let mut list = TopicPartitionList::new();
            for partition in partitions {
                list.add_partition(&self.topic, *partition);
            }
            let list = self.consumer.committed_offsets(list, TRY)?;
            let offset = |p: &i32| {
                let Some(found) = list.find_partition(&self.topic, *p) else { return Ok(None) };
                found.error()?;
                Ok(if let Offset::Offset(o) = found.offset() { Some(o) } else { None })
            };
            partitions.iter().map(offset).collect()
        })
    }

    /// The first offset of each of `partitions` whose record's timestamp is `time` (milliseconds since 1970 UTC) or later; none where all
    /// are older.
    pub(super) fn offsets_at(&self, time: i64, partitions: &[i32]) -> Result<Vec<Option<i64>>, IngestError> {
        self.ask("offsets for a time", || {
            let mut list = TopicPartitionList::new();
            for partition in partitions {
                // The question carries the time where an offset would be.
                list.add_partition_offset(&self.topic, *partition, Offset::Offset(time))?;
            }
            let list = self.consumer.offsets_for_times(list, TRY)?;
            let offset = |p: &i32| {
                let Some(found) = list.find_partition(&self.topic, *p) else { return Ok(None) };
                found.error()?;
                Ok(if let Offset::Offset(o) = found.offset() { Some(o) } else { None })
            };
            partitions.iter().map(offset).collect()
        })
    }

    /// Starts to fetch `partitions`, each from its offset.
    pub(super) fn assign(&self, partitions: &[(i32, i64)]) -> Result<(), IngestError> {
        self.list(partitions).and_then(|list| self.consumer.assign(&list)).map_err(|e| self.internal("assign", &e))
    }

    /// Fetches a partition anew from `offset`; what was fetched before does not come any more.
    pub(super) fn restart(&self, partition: i32, offset: i64) -> Result<(), IngestError> {
        let list = self.list(&[(partition, offset)]);
        list.and_then(|list| self.consumer.incremental_unassign(&list).and_then(|()| self.consumer.incremental_assign(&list)))
            .map_err(|e| self.internal("assign again", &e))
    }

    /// Fetches no more of a partition.
    pub(super) fn stop(&self, partition: i32) -> Result<(), IngestError> {
        let list = self.list(&[(partition, 0)]);
        list.and_then(|list| self.consumer.incremental_unassign(&list)).map_err(|e| self.internal("unassign", &e))
    }

    fn list(&self, partitions: &[(i32, i64)]) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))?;
        }
        Ok(list)
    }

    fn internal(&self, what: &str, error: &KafkaError) -> IngestError {
        IngestError::External(format!("topic `{}`: librdkafka could not {what} partitions: {error}", self.topic))
    }

    /// Serves events, at most every [`SERVE_EVERY`], whoever calls.
    ///
    /// # Errors
    /// When librdkafka says that this client can't go on.
    pub(super) fn serve(&self) -> Result<(), IngestError> {
        let Ok(mut served) = self.served.try_lock() else { return Ok(()) };
        if served.is_some_and(|at| at.elapsed() < SERVE_EVERY) {
            return Ok(());
        }
        *served = Some(Instant::now());
        for _ in 0..SERVE_EVENTS {
            // Errors reach the context too, which logs them. Records never come this way: see `queue`.
            if let Some(Ok(_)) = self.consumer.poll(Duration::ZERO) {
                return Err(IngestError::External(format!(
                    "topic `{}`: a record came outside its partition's queue",
                    self.topic
                )));
            }
        }
        match self.consumer.client().fatal_error() {
            Some((code, text)) => {
                Err(IngestError::External(format!("topic `{}`: fatal error of librdkafka: {code}: {text}", self.topic)))
            }
            None => Ok(()),
        }
    }

    /// Logs a trouble that librdkafka mends by itself.
    pub(super) fn trouble(&self, text: &str) {
        self.consumer.context().warn(text);
    }
}

/// Errors that no waiting mends.
pub(super) fn lasting(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(
        code,
        E::TopicAuthorizationFailed
            | E::GroupAuthorizationFailed
            | E::ClusterAuthorizationFailed
            | E::InvalidTopic
            | E::InvalidGroupId
            | E::Authentication
            | E::SaslAuthenticationFailed
            | E::UnsupportedSASLMechanism
            | E::SSL
            | E::UnsupportedFeature
    )
}

/// Takes librdkafka's log and errors: warnings at most once in [`KAFKA_LOG_EVERY`], the rest for debugging.
#[derive(Default)]
struct Context {
    state: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    last_error: Option<(RDKafkaErrorCode, String)>,
    at: Option<Instant>,
    untold: usize,
}

impl Context {
    fn last_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last_error.clone()
    }

    fn warn(&self, text: &str) {
        let mut told = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if told.at.is_some_and(|at| at.elapsed() < KAFKA_LOG_EVERY) {
            told.untold += 1;
            tracing::debug!(target: "kafka", "{text}");
            return;
        }
        told.at = Some(Instant::now());
        match std::mem::take(&mut told.untold) {
            0 => tracing::warn!(target: "kafka", "{text}"),
            n => tracing::warn!(target: "kafka", "{text} (and {n} more since the last line)"),
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level {
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug | RDKafkaLogLevel::Notice => {
                tracing::debug!(target: "kafka", "{facility}: {text}")
            }
            _ => self.warn(&format!("{facility}: {text}")),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // "All brokers are down" follows what says why.
        if let Some(code) = error.rdkafka_error_code().filter(|c| *c != RDKafkaErrorCode::AllBrokersDown) {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).last_error = Some((code, reason.to_owned()));
        }
        self.warn(reason);
    }
}

impl ConsumerContext for Context {}
