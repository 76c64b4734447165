//! The Kafka source against a real broker, `KINDLING_BROKERS=host:port` (tests/run starts one).
#![allow(clippy::unwrap_used)] // A test's helpers may panic too.

use kindling::config::spec::{KafkaSourceSpec, StartingOffsets};
use kindling::element::{OwnedRecord, RawBatch};
use kindling::ingest::kafka::{KafkaSource, group};
use kindling::ingest::{IngestError, OpenOptions, Polled, Reader, Source};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn brokers() -> String {
    std::env::var("KINDLING_BROKERS")
        .expect("set KINDLING_BROKERS=host:port to a Kafka broker, or run tests/run, which starts one")
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A name that no other run has.
fn unique(name: &str) -> String {
    let nanos = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    format!("ingest-{name}-{nanos:x}")
}

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap()
}

fn create(topic: &str, partitions: i32) {
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for result in wait(admin().create_topics(&[new], &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
}

fn topic(name: &str, partitions: i32) -> String {
    let topic = unique(name);
    create(&topic, partitions);
    topic
}

fn producer(transactional_id: Option<&str>) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("linger.ms", "1").set("batch.num.messages", "100");
    if let Some(id) = transactional_id {
        config.set("transactional.id", id);
    }
    let producer: BaseProducer = config.create().unwrap();
    if transactional_id.is_some() {
        producer.init_transactions(PATIENCE).unwrap();
    }
    producer
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, values: std::ops::Range<usize>) {
    for i in values {
        let value = format!("p{partition}-{i}");
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(value.as_bytes());
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
    producer.flush(PATIENCE).unwrap();
}

fn delete_before(topic: &str, partition: i32, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    wait(admin().delete_records(&list, &AdminOptions::new())).unwrap();
}

fn spec(topic: &str) -> KafkaSourceSpec {
    KafkaSourceSpec {
        properties: BTreeMap::from([("bootstrap.servers".into(), brokers())]),
        topic: topic.into(),
        fail_on_data_loss: true,
        starting_offsets: StartingOffsets::Earliest,
    }
}

fn options(until_end: bool) -> OpenOptions {
    OpenOptions { until_end, group: group("tests", &unique("group")), ..OpenOptions::default() }
}

fn open(topic: &str, until_end: bool) -> KafkaSource {
    KafkaSource::open(&spec(topic), &options(until_end)).unwrap()
}

/// What came out of readers so far.
#[derive(Default)]
struct Seen {
    records: BTreeMap<usize, Vec<OwnedRecord>>,
    at_end: Vec<usize>,
    finished: Vec<usize>,
    skipped: u64,
}

impl Seen {
    fn add(&mut self, polled: Polled) {
        for b in &polled.batches {
            let of = self.records.entry(b.partition).or_default();
            of.extend((0..b.records.len()).map(|i| owned(b, i)));
            assert!(of.windows(2).all(|w| w[0].offset < w[1].offset), "offsets of partition {} do not rise", b.partition);
            self.at_end.retain(|p| *p != b.partition);
        }
        self.at_end.extend(polled.at_end);
        self.finished.extend(polled.finished);
        self.skipped += polled.skipped_offsets;
    }

    fn poll(&mut self, readers: &mut [Box<dyn Reader>], enough: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !enough(self) {
            assert!(start.elapsed() < PATIENCE, "after {PATIENCE:?}: {} records, at end {:?}", self.len(), self.at_end);
            for r in readers.iter_mut() {
                self.add(r.poll(500, Duration::from_millis(50)).unwrap());
            }
        }
    }

    fn len(&self) -> usize {
        self.records.values().map(Vec::len).sum()
    }

    fn values(&self, partition: usize) -> Vec<String> {
        let text = |r: &OwnedRecord| String::from_utf8(r.value.clone().unwrap()).unwrap();
        self.records.get(&partition).map(|of| of.iter().map(text).collect()).unwrap_or_default()
    }
}

fn owned(batch: &RawBatch, i: usize) -> OwnedRecord {
    let r = batch.records.record(i);
    OwnedRecord {
        offset: r.offset,
        timestamp: r.timestamp,
        key: r.key.map(<[u8]>::to_vec),
        value: r.value.map(<[u8]>::to_vec),
        headers: batch.records.headers(i),
    }
}

fn expected(partition: i32, values: std::ops::Range<usize>) -> Vec<String> {
    values.map(|i| format!("p{partition}-{i}")).collect()
}

/// The first error of these readers.
fn error_of(readers: &mut [Box<dyn Reader>]) -> IngestError {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "no error came");
        for r in readers.iter_mut() {
            if let Err(e) = r.poll(500, Duration::from_millis(50)) {
                return e;
            }
        }
    }
}

#[test]
fn every_record_of_every_partition_with_any_number_of_readers() {
    let topic = topic("all", 5);
    let producer = producer(None);
    (0..5).for_each(|p| send(&producer, &topic, p, 0..(p as usize * 1_000)));
    for readers in [1, 2, 7] {
        let mut source = open(&topic, false);
        assert_eq!(source.partitions()[4].to_string(), format!("{topic}/4"));
        let positions = source.start_positions().unwrap();
        assert_eq!(positions, [0; 5]);
        let mut readers = source.readers(&positions, readers).unwrap();
        let mut seen = Seen::default();
        seen.poll(&mut readers, |s| s.len() == 10_000 && s.at_end.len() == 5);
        (0..5).for_each(|p| assert_eq!(seen.values(p), expected(p as i32, 0..(p * 1_000))));
        assert_eq!(source.end_positions(), [0, 1_000, 2_000, 3_000, 4_000]);
        assert!(seen.finished.is_empty() && seen.skipped == 0);
    }
}

#[test]
fn all_parts_of_a_record() {
    let topic = topic("parts", 1);
    let producer = producer(None);
    let headers =
        OwnedHeaders::new().insert(Header { key: "a", value: Some("1") }).insert(Header { key: "b", value: None::<&str> });
    producer.send(BaseRecord::to(&topic).key("k").payload("v").timestamp(1_234_567).headers(headers)).unwrap();
    producer.send(BaseRecord::<str, str>::to(&topic).key("gone")).unwrap();
    producer.send(BaseRecord::<str, str>::to(&topic).payload("")).unwrap();
    producer.flush(PATIENCE).unwrap();
    let mut source = open(&topic, false);
    let mut seen = Seen::default();
    seen.poll(&mut source.readers(&[0], 1).unwrap(), |s| s.len() == 3);
    let of = &seen.records[&0];
    assert_eq!(
        (of[0].key.as_deref(), of[0].value.as_deref(), of[0].timestamp),
        (Some(&b"k"[..]), Some(&b"v"[..]), Some(1_234_567))
    );
    assert_eq!(of[0].headers, [("a".to_owned(), Some(b"1".to_vec())), ("b".to_owned(), None)]);
    assert_eq!((of[1].key.as_deref(), of[1].value.as_deref()), (Some(&b"gone"[..]), None));
    assert_eq!((of[2].key.as_deref(), of[2].value.as_deref()), (None, Some(&b""[..])));
}

#[test]
fn records_outlive_reader_and_source() {
    let topic = topic("outlive", 1);
    send(&producer(None), &topic, 0, 0..100);
    let mut source = open(&topic, false);
    let mut reader = source.readers(&[0], 1).unwrap().remove(0);
    let mut polled = Polled::default();
    let start = Instant::now();
    while polled.batches.is_empty() && start.elapsed() < PATIENCE {
        polled = reader.poll(1_000, Duration::from_millis(100)).unwrap();
    }
    drop(reader);
    drop(source);
    let batch = polled.batches.remove(0);
    let text =
        std::thread::spawn(move || String::from_utf8_lossy(batch.records.record(0).value.unwrap()).into_owned()).join().unwrap();
    assert_eq!(text, "p0-0");
}

#[test]
fn where_a_job_without_a_position_starts() {
    let topic = topic("start", 2);
    let producer = producer(None);
    send(&producer, &topic, 0, 0..10);
    send(&producer, &topic, 1, 0..20);
    let latest = KafkaSourceSpec { starting_offsets: StartingOffsets::Latest, ..spec(&topic) };
    let options = options(false);
    assert_eq!(KafkaSource::open(&latest, &options).unwrap().start_positions().unwrap(), [10, 20]);
    let mut config = ClientConfig::new();
    let consumer: BaseConsumer = config.set("bootstrap.servers", brokers()).set("group.id", &options.group).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 1, Offset::Offset(7)).unwrap();
    consumer.commit(&list, CommitMode::Sync).unwrap();
    assert_eq!(KafkaSource::open(&latest, &options).unwrap().start_positions().unwrap(), [10, 7]);
    assert_eq!(KafkaSource::open(&spec(&topic), &options).unwrap().start_positions().unwrap(), [0, 7]);
}

#[test]
fn what_a_user_gets_wrong_is_said() {
    let right = topic("nearest-name", 1);
    let text = |spec: KafkaSourceSpec| match KafkaSource::open(&spec, &options(false)) {
        Err(IngestError::Config(text)) => text,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    };
    let missing = text(spec(&right.replace("nearest", "nearst")));
    assert!(missing.contains("there is no topic") && missing.contains(&format!("did you mean `{right}`?")), "{missing}");
    let mut odd = spec(&right);
    odd.properties.insert("fetch.wait.max.ms".into(), "soon".into());
    assert!(text(odd).contains("`fetch.wait.max.ms: soon`"));
    let mut away = spec(&right);
    away.properties.insert("bootstrap.servers".into(), "127.0.0.1:1".into());
    let error = KafkaSource::open(&away, &options(false)).err().unwrap();
    assert!(matches!(&error, IngestError::External(text) if text.contains("127.0.0.1:1")), "{error:?}");
}

#[test]
fn a_topic_that_was_made_a_moment_ago_is_waited_for() {
    let name = unique("soon");
    let later = name.clone();
    let making = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        create(&later, 1);
    });
    assert_eq!(open(&name, false).partitions().len(), 1);
    making.join().unwrap();
}

#[test]
fn aborted_records_are_not_seen_unless_asked_for() {
    let topic = topic("aborted", 1);
    let producer = producer(Some(&unique("txn")));
    for (round, commit) in [(0, true), (1, false), (2, true), (3, false)] {
        producer.begin_transaction().unwrap();
        send(&producer, &topic, 0, round * 10..round * 10 + 10);
        if commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) }.unwrap();
    }
    let mut seen = Seen::default();
    seen.poll(&mut open(&topic, false).readers(&[0], 1).unwrap(), |s| s.at_end == [0]);
    assert_eq!(seen.values(0), [expected(0, 0..10), expected(0, 20..30)].concat());
    // A run to the end ends, though aborted records and marks of transactions are the last there.
    let mut source = open(&topic, true);
    let mut seen = Seen::default();
    seen.poll(&mut source.readers(&[0], 1).unwrap(), |s| s.finished == [0]);
    assert_eq!(seen.len(), 20);
    // Also where all that is left is such.
    let mut seen = Seen::default();
    seen.poll(&mut source.readers(&[33], 1).unwrap(), |s| s.finished == [0]);
    assert_eq!(seen.len(), 0);
    let mut all = spec(&topic);
    all.properties.insert("isolation.level".into(), "read_uncommitted".into());
    let mut seen = Seen::default();
    let mut source = KafkaSource::open(&all, &options(false)).unwrap();
    seen.poll(&mut source.readers(&[0], 1).unwrap(), |s| s.at_end == [0]);
    assert_eq!(seen.values(0), expected(0, 0..40));
}

#[test]
fn a_bounded_run_stops_at_the_end_it_saw() {
    let topic = topic("bounded", 3);
    let producer = producer(None);
    send(&producer, &topic, 0, 0..1_000);
    send(&producer, &topic, 1, 0..10);
    let mut source = open(&topic, true);
    let mut readers = source.readers(&[0, 10, 0], 2).unwrap();
    (0..3).for_each(|p| send(&producer, &topic, p, 1_000..6_000));
    let mut seen = Seen::default();
    seen.poll(&mut readers, |s| s.finished.len() == 3);
    assert_eq!(seen.values(0), expected(0, 0..1_000));
    assert_eq!(seen.len(), 1_000);
    for r in &mut readers {
        let polled = r.poll(1_000, Duration::from_millis(200)).unwrap();
        assert!(polled.batches.is_empty() && polled.finished.is_empty());
    }
    // Readers that start again, after a commit that failed, keep the bound.
    drop(readers);
    let mut seen = Seen::default();
    seen.poll(&mut source.readers(&[995, 0, 0], 1).unwrap(), |s| s.finished.len() == 3);
    assert_eq!((seen.values(0), seen.values(1)), (expected(0, 995..1_000), expected(1, 0..10)));
}

#[test]
fn readers_that_start_again_read_from_their_positions_only() {
    let topic = topic("again", 2);
    let producer = producer(None);
    (0..2).for_each(|p| send(&producer, &topic, p, 0..20_000));
    let mut source = open(&topic, false);
    for (a, b) in [(0, 0), (5_000, 12_345), (1, 19_999), (19_000, 0), (0, 20_000)] {
        let mut readers = source.readers(&[a, b], 2).unwrap();
        let mut seen = Seen::default();
        seen.poll(&mut readers, |s| (0..2).all(|p| s.at_end.contains(&p) || s.records.get(&p).is_some_and(|r| r.len() > 3_000)));
        assert_eq!(seen.values(0).first(), expected(0, a as usize..20_000).first());
        assert_eq!(seen.values(1).first(), expected(1, b as usize..20_000).first());
    }
}

#[test]
fn gone_records_stop_the_job_or_are_counted() {
    let topic = topic("gone", 1);
    let producer = producer(None);
    send(&producer, &topic, 0, 0..100);
    delete_before(&topic, 0, 40);
    let error = open(&topic, false).readers(&[10], 1).err().unwrap();
    let said = format!("{topic}/0: offset 10 is gone, 30 records with it; the partition now holds offsets 40 to 100");
    assert!(matches!(&error, IngestError::DataLoss(text) if text.contains(&said)), "{error}");
    // A position past the end: the topic was made anew.
    let error = open(&topic, false).readers(&[101], 1).err().unwrap();
    assert!(matches!(&error, IngestError::DataLoss(text) if text.contains("past the end")), "{error}");
    let lenient = KafkaSourceSpec { fail_on_data_loss: false, ..spec(&topic) };
    let mut source = KafkaSource::open(&lenient, &options(false)).unwrap();
    let mut seen = Seen::default();
    seen.poll(&mut source.readers(&[10], 1).unwrap(), |s| s.at_end == [0]);
    assert_eq!((seen.values(0), seen.skipped), (expected(0, 40..100), 30));
}

#[test]
fn records_that_go_while_the_job_reads() {
    for fail_on_data_loss in [true, false] {
        let topic = topic("going", 1);
        let producer = producer(None);
        let mut spec = KafkaSourceSpec { fail_on_data_loss, ..spec(&topic) };
        // Little is fetched ahead, so that there is something left to lose.
        for (name, value) in
            [("queued.min.messages", "1"), ("queued.max.messages.kbytes", "1"), ("fetch.message.max.bytes", "1000")]
        {
            spec.properties.insert(name.into(), value.into());
        }
        send(&producer, &topic, 0, 0..10_000);
        let mut source = KafkaSource::open(&spec, &options(false)).unwrap();
        let mut readers = source.readers(&[0], 1).unwrap();
        let mut seen = Seen::default();
        let start = Instant::now();
        while seen.len() < 50 {
            assert!(start.elapsed() < PATIENCE);
            seen.add(readers[0].poll(50, Duration::from_millis(50)).unwrap());
        }
        delete_before(&topic, 0, 9_000);
        if fail_on_data_loss {
            let error = error_of(&mut readers);
            assert!(matches!(&error, IngestError::DataLoss(text) if text.contains("9000 to 10000")), "{error}");
        } else {
            seen.poll(&mut readers, |s| s.at_end == [0]);
            let before = seen.values(0).iter().position(|v| v == "p0-9000").unwrap();
            assert_eq!(seen.values(0), [expected(0, 0..before), expected(0, 9_000..10_000)].concat());
            assert_eq!(seen.skipped as usize, 9_000 - before);
            assert!(before < 9_000, "all was fetched before it was deleted");
        }
    }
}

#[test]
fn a_topic_that_is_deleted_is_an_error() {
    let topic = topic("deleted", 1);
    send(&producer(None), &topic, 0, 0..10);
    let mut source = open(&topic, false);
    let mut readers = source.readers(&[0], 1).unwrap();
    let mut seen = Seen::default();
    seen.poll(&mut readers, |s| s.at_end == [0]);
    wait(admin().delete_topics(&[&topic], &AdminOptions::new())).unwrap();
    let error = error_of(&mut readers);
    assert!(matches!(&error, IngestError::Config(text) if text.contains("is gone")), "{error:?}");
}
