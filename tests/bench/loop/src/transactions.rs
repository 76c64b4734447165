//! The matches as somebody writes them by hand who needs them exactly once: a transaction each 100 ms with the matches, the pairs that changed
//! (for who goes on after a crash: not written here) and the offsets.

use crate::Job;
use crate::matches::{Match, Pair, Pairs};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Transactions {
    pairs: Pairs,
    producer: BaseProducer,
    topic: String,
    out: String,
    changelog: String,
    /// Next offset by partition.
    next: BTreeMap<i32, i64>,
    value: Vec<u8>,
    begun: Instant,
}

impl Transactions {
    pub fn new(brokers: &str, topic: &str, out: &str) -> Result<Self, Box<dyn Error>> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("transactional.id", out)
            .set("compression.type", "lz4")
            .set("linger.ms", "20");
        config.set("queue.buffering.max.messages", "1000000").set("batch.num.messages", "100000");
        // The broker answers "concurrent transactions" while it writes the last one's markers; by default the client then waits for 100 ms.
        config.set("retry.backoff.ms", "1").set("retry.backoff.max.ms", "5");
        let producer: BaseProducer = config.create()?;
        producer.init_transactions(PATIENCE)?;
        producer.begin_transaction()?;
        Ok(Self {
            pairs: Pairs::default(),
            producer,
            topic: topic.to_owned(),
            out: out.to_owned(),
            changelog: format!("{out}-pairs"),
            next: BTreeMap::new(),
            value: Vec::new(),
            begun: Instant::now(),
        })
    }

    /// Matches, offsets, and the transaction's end.
    pub fn commit(&mut self, consumer: &BaseConsumer) -> Result<(), Box<dyn Error>> {
        for Match { swiper, swipee, ts } in self.pairs.matches.drain(..) {
            let value = format!(r#"{{"swiper":"{swiper}","swipee":"{swipee}","ts":{ts}}}"#);
            send(&self.producer, &self.out, swiper.as_bytes(), value.as_bytes())?;
        }
        // The client's own flush waits in steps of 100 ms.
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::from_millis(1));
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in &self.next {
            offsets.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))?;
        }
        let group = consumer.group_metadata().ok_or("no group")?;
        self.producer.send_offsets_to_transaction(&offsets, &group, PATIENCE)?;
        self.producer.commit_transaction(PATIENCE)?;
        self.producer.begin_transaction()?;
        self.begun = Instant::now();
        Ok(())
    }
}

impl Job for Transactions {
    fn row(&mut self, partition: i32, offset: i64, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        let (key, Pair { low_at, high_at, low_likes, high_likes, is_match }) = self.pairs.swipe(bytes)?;
        self.value.clear();
        self.value.extend_from_slice(&low_at.to_be_bytes());
        self.value.extend_from_slice(&high_at.to_be_bytes());
        self.value.push(u8::from(low_likes) | u8::from(high_likes) << 1 | u8::from(is_match) << 2);
        send(&self.producer, &self.changelog, key, &self.value)?;
        self.next.insert(partition, offset + 1);
        Ok(())
    }

    fn between(&mut self, consumer: &BaseConsumer) -> Result<(), Box<dyn Error>> {
        self.producer.poll(Duration::ZERO);
        if self.begun.elapsed() < EVERY { Ok(()) } else { self.commit(consumer) }
    }
}

fn send(producer: &BaseProducer, topic: &str, key: &[u8], value: &[u8]) -> Result<(), KafkaError> {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
    while let Err((error, back)) = producer.send(record) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
            return Err(error);
        }
        producer.poll(Duration::from_millis(5));
        record = back;
    }
    Ok(())
}
