//! The hand-written loop: drains the topic, parses with sonic-rs, and counts in a hash map, in one thread. No watermarks, no state that
//! outlives it, no output to Kafka: what a careful programmer writes in an afternoon.
//!
//!     bench-loop BROKERS TOPIC counts|types|filter|hopping|users|matches|drain OUT_FILE
//!     bench-loop BROKERS TOPIC matches-exactly-once OUT_TOPIC

mod matches;
mod transactions;

use ahash::AHashMap;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rdkafka_sys as sys;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ptr;
use std::time::Duration;

/// Messages taken from librdkafka's queue at once.
const BATCH: usize = 10_000;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `key|key|window start` to count.
type Counts = BTreeMap<String, i64>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Workload {
    Drain,
    Counts,
    Types,
    Filter,
    Hopping,
    Users,
}

impl Workload {
    fn named(name: &str) -> Result<Self, String> {
        Ok(match name {
            "drain" => Self::Drain,
            "counts" => Self::Counts,
            "types" => Self::Types,
            "filter" => Self::Filter,
            "hopping" => Self::Hopping,
            "users" => Self::Users,
            other => return Err(format!("no workload `{other}`")),
        })
    }

    /// Duration and slide, milliseconds.
    fn window(self) -> (i64, i64) {
        if self == Self::Hopping { (300_000, 10_000) } else { (60_000, 60_000) }
    }
}

/// What each workload needs of an event, and no more.
#[derive(serde::Deserialize)]
struct Assignment<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    experiment: Cow<'a, str>,
    #[serde(borrow)]
    variant: Cow<'a, str>,
    st: i64,
}

#[derive(serde::Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    st: i64,
}

#[derive(serde::Deserialize)]
struct Device<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    platform: Cow<'a, str>,
    st: i64,
}

#[derive(serde::Deserialize)]
struct Active {
    #[serde(rename = "userId")]
    user: i64,
    st: i64,
}

/// What is done with the rows.
trait Job {
    /// Takes in the row at `offset` of `partition`.
    fn row(&mut self, partition: i32, offset: i64, bytes: &[u8]) -> Result<(), Box<dyn Error>>;

    /// Called between two batches.
    fn between(&mut self, _consumer: &BaseConsumer) -> Result<(), Box<dyn Error>> {
        Ok(())
    }
}

/// Counts by key and window start.
struct Tally {
    workload: Workload,
    by_key: AHashMap<(String, String, i64), i64>,
    by_user: AHashMap<(i64, i64), i64>,
}

impl Job for Tally {
    fn row(&mut self, _: i32, _: i64, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        let (_, slide) = self.workload.window();
        // Windows are whole numbers of slides.
        let pane = |st: i64| st.div_euclid(slide) * slide;
        let key = match self.workload {
            Workload::Drain => return Ok(()),
            Workload::Users => {
                let event: Active = sonic_rs::from_slice(bytes)?;
                *self.by_user.entry((event.user, pane(event.st))).or_default() += 1;
                return Ok(());
            }
            Workload::Types => {
                let event: Named<'_> = sonic_rs::from_slice(bytes)?;
                (event.name.into_owned(), String::new(), pane(event.st))
            }
            Workload::Filter => {
                let event: Device<'_> = sonic_rs::from_slice(bytes)?;
                if event.platform != "ios" {
                    return Ok(());
                }
                (event.name.into_owned(), String::new(), pane(event.st))
            }
            Workload::Counts | Workload::Hopping => {
                let event: Assignment<'_> = sonic_rs::from_slice(bytes)?;
                if event.name != "Experiment.assign" {
                    return Ok(());
                }
                (event.experiment.into_owned(), event.variant.into_owned(), pane(event.st))
            }
        };
        *self.by_key.entry(key).or_default() += 1;
        Ok(())
    }
}

impl Tally {
    /// Panes to windows: lines of key, space, count.
    fn write(self, path: &str) -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        for ((user, window), n) in &self.by_user {
            writeln!(out, "{user}||{window} {n}")?;
        }
        for (key, n) in self.finish() {
            writeln!(out, "{key} {n}")?;
        }
        out.flush()
    }

    fn finish(self) -> Counts {
        let (duration, slide) = self.workload.window();
        let mut counts = Counts::new();
        for ((a, b, pane), n) in self.by_key {
            for window in (0..duration / slide).map(|i| pane - i * slide) {
                *counts.entry(format!("{a}|{b}|{window}")).or_default() += n;
            }
        }
        counts
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, workload, out] = args.as_slice() else { return Err("see the head of the source".into()) };
    match workload.as_str() {
        "matches" => {
            let mut pairs = matches::Pairs::default();
            drain(brokers, topic, &mut pairs)?;
            Ok(pairs.write(out)?)
        }
        "matches-exactly-once" => {
            let mut job = transactions::Transactions::new(brokers, topic, out)?;
            let consumer = drain(brokers, topic, &mut job)?;
            job.commit(&consumer)
        }
        counts => {
            let workload = Workload::named(counts)?;
            let mut tally = Tally { workload, by_key: AHashMap::new(), by_user: AHashMap::new() };
            drain(brokers, topic, &mut tally)?;
            Ok(tally.write(out)?)
        }
    }
}

/// Reads the topic to what is its end now.
fn drain(brokers: &str, topic: &str, job: &mut impl Job) -> Result<BaseConsumer, Box<dyn Error>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "hand-loop").set("enable.auto.commit", "false");
    config.set("fetch.queue.backoff.ms", "10").set("queued.min.messages", "100000").set("check.crcs", "false");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let (mut list, mut total) = (TopicPartitionList::new(), 0u64);
    for partition in 0..metadata.topics().first().map_or(0, |t| t.partitions().len()) as i32 {
        let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10))?;
        total += (high - low) as u64;
        list.add_partition_offset(topic, partition, Offset::Offset(low))?;
    }
    consumer.assign(&list)?;
    let mut rows = 0u64;
    let mut messages: Vec<*mut sys::rd_kafka_message_t> = vec![ptr::null_mut(); BATCH];
    // SAFETY: the queue is this consumer's; librdkafka fills the first `n` places with messages that are read, then destroyed once.
    unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        while rows < total {
            let n = sys::rd_kafka_consume_batch_queue(queue, 100, messages.as_mut_ptr(), BATCH);
            for message in &messages[..usize::try_from(n)?] {
                let raw = &**message;
                if raw.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    rows += 1;
                    job.row(raw.partition, raw.offset, std::slice::from_raw_parts(raw.payload.cast(), raw.len))?;
                }
                sys::rd_kafka_message_destroy(*message);
            }
            job.between(&consumer)?;
        }
        sys::rd_kafka_queue_destroy(queue);
    }
    Ok(consumer)
}
