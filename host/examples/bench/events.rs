//! The bench's topic: 200-byte JSON events of a dating app in 4 partitions, one in five an experiment assignment.

use crate::swipes::Random;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::time::Duration;

pub const PARTITIONS: usize = 4;
/// Event time of the first event: the start of an hour.
const START_MS: u64 = 1_760_000_400_000;
/// Events in a second of event time.
const EVENTS_PER_SECOND: u64 = 5_000;
const NAMES: [&str; 10] = [
    "Experiment.assign",
    "Swipe.like",
    "Swipe.pass",
    "Match.create",
    "Message.send",
    "Message.read",
    "Profile.view",
    "Photo.upload",
    "Session.start",
    "Session.end",
];

/// Writes event `n` with event time `time` into `out`; gives its user.
fn write_event(out: &mut Vec<u8>, random: &mut Random, time: u64) -> std::io::Result<u64> {
    // Zipf with exponent 1 over a million users: the n-th most active has a share of 1/n.
    let user = (1_000_000f64.ln() * (random.next() >> 11) as f64 / (1u64 << 53) as f64).exp() as u64;
    let name = if random.below(5) == 0 { NAMES[0] } else { NAMES[1 + random.below(9) as usize] };
    let (experiment, variant) = (random.below(50), ["A", "B", "C"][random.below(3) as usize]);
    let platform = ["ios", "android", "web"][random.below(3) as usize];
    let screen = ["deck", "chat", "profile", "matches", "settings"][random.below(5) as usize];
    write!(
        out,
        r#"{{"eventId":"{:016x}","name":"{name}","userId":{user},"experiment":"exp-{experiment}","variant":"{variant}","st":{time},"platform":"{platform}","properties":{{"screen":"{screen}","build":{},"premium":{}}}}}"#,
        random.next(),
        4_000 + random.below(300),
        random.below(5) == 0,
    )?;
    Ok(user)
}

pub fn producer(brokers: &str) -> Result<BaseProducer, Box<dyn Error>> {
    let mut config = ClientConfig::new();
    // Idempotent: a batch that is sent again must come neither twice nor behind later ones.
    config
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "50");
    config.set("batch.size", "262144").set("batch.num.messages", "100000").set("queue.buffering.max.kbytes", "262144");
    Ok(config.set("queue.buffering.max.messages", "500000").create()?)
}

pub fn send(producer: &BaseProducer, topic: &str, partition: usize, key: &str, value: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut record = BaseRecord::to(topic).partition(partition as i32).key(key).payload(value);
    while let Err((error, back)) = producer.send(record) {
        if error.rdkafka_error_code() != Some(rdkafka::types::RDKafkaErrorCode::QueueFull) {
            return Err(error.into());
        }
        producer.poll(Duration::from_millis(5));
        record = back;
    }
    Ok(())
}

pub fn create(brokers: &str, topic: &str, partitions: usize) -> Result<(), Box<dyn Error>> {
    let properties: BTreeMap<String, String> = [("bootstrap.servers".to_owned(), brokers.to_owned())].into();
    kindling::output::topics::create(&properties, topic, Some(partitions)).map_err(|e| format!("topic {topic}: {e}").into())
}

/// Fills `topic` with `rows` events, some up to 4 s out of order, in `partitions` partitions; their event times span `seconds`, or as many as
/// 5,000 events a second make.
pub fn fill(brokers: &str, topic: &str, rows: u64, partitions: usize, seconds: Option<u64>) -> Result<(), Box<dyn Error>> {
    create(brokers, topic, partitions)?;
    let span_ms = seconds.map_or(rows * 1_000 / EVENTS_PER_SECOND, |s| s * 1_000);
    let producer = producer(brokers)?;
    let (mut random, mut value) = (Random(42), Vec::with_capacity(512));
    for n in 0..rows {
        let delay = if random.below(10) == 0 { random.below(4_000) } else { random.below(300) };
        let since = n * span_ms / rows;
        value.clear();
        let user = write_event(&mut value, &mut random, START_MS + since - delay.min(since))?;
        send(&producer, topic, (user as usize).wrapping_mul(0x9E37_79B9) % partitions, &user.to_string(), &value)?;
        if n % 1_024 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(120))?;
    Ok(())
}

/// Sends `rows` events at a steady pace; the event time is the time of the append.
pub fn steady(brokers: &str, topic: &str, rows: u64, per_second: u64) -> Result<(), Box<dyn Error>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("compression.type", "lz4").set("linger.ms", "2");
    let producer: BaseProducer = config.set("queue.buffering.max.messages", "500000").create()?;
    let (mut random, mut value, started) = (Random(7), Vec::with_capacity(512), std::time::Instant::now());
    for n in 0..rows {
        while n > (started.elapsed().as_secs_f64() * per_second as f64) as u64 {
            // `poll` with less than 2 ms spins.
            std::thread::sleep(Duration::from_millis(1));
            producer.poll(Duration::ZERO);
        }
        value.clear();
        let user = write_event(&mut value, &mut random, kindling::time::now_ms() as u64)?;
        send(&producer, topic, n as usize % PARTITIONS, &user.to_string(), &value)?;
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(())
}
