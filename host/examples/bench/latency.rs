//! From append to committed output, and what it costs: a job that passes one row in five on, at a steady rate, read by a `read_committed`
//! consumer.

use crate::events;
use crate::job::{Place, committed};
use crate::measure::cpu_of;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use std::error::Error;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Rows of the first seconds are left out: a broker that has just been started compiles its own code for some 15 s, and stalls up to a second.
const WARM_UP: Duration = Duration::from_secs(20);
/// So long nothing came: all has come.
const QUIET: Duration = Duration::from_secs(5);

/// Prints p50, p99 and p99.9 in milliseconds, and the CPU seconds of the job and of `broker` (producer and reader among its clients).
///
/// # Errors
/// What could not be run.
pub fn measure(place: &Place, rate: u64, epoch: &str, broker: u32) -> Result<(), Box<dyn Error>> {
    let topic = format!("bench-latency-{}-{epoch}", std::process::id());
    let out = format!("{topic}-out");
    events::create(&place.brokers, &topic, events::PARTITIONS)?;
    events::create(&place.brokers, &out, events::PARTITIONS)?;
    let mut command = place.live("pass", &topic, &out, &place.root.join("plugins"));
    let mut job = command.args(["--epoch", epoch]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let broker_before = cpu_of(broker);
    let reader = place.brokers.clone();
    let reading = std::thread::spawn(move || read(&reader, &out).map_err(|e| e.to_string()));
    events::steady(&place.brokers, &topic, place.rows, rate)?;
    let mut delays = reading.join().map_err(|_| "the reader panicked")??;
    let (own, brokers) = (cpu_of(job.id()), cpu_of(broker) - broker_before);
    job.kill()?;
    job.wait()?;
    delays.sort_unstable();
    let at = |share: f64| delays.get((delays.len() as f64 * share) as usize).copied().unwrap_or(-1);
    println!(
        "{} rows at {rate} a second, epochs of {epoch}: append to committed output, ms: p50 {}, p99 {}, p99.9 {}, most {} ({} outputs); CPU s per million rows: job {:.2}, broker {:.2}",
        place.rows,
        at(0.5),
        at(0.99),
        at(0.999),
        delays.last().copied().unwrap_or(-1),
        delays.len(),
        own / (place.rows as f64 / 1e6),
        brokers / (place.rows as f64 / 1e6)
    );
    Ok(())
}

/// Milliseconds between each row's event time, which is when it was appended, and its arrival here.
fn read(brokers: &str, topic: &str) -> Result<Vec<i64>, Box<dyn Error>> {
    let consumer: BaseConsumer = committed(brokers)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..events::PARTITIONS as i32 {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut delays, mut first, mut last) = (Vec::new(), None, Instant::now());
    while first.is_none() || last.elapsed() < QUIET {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        last = Instant::now();
        if first.get_or_insert(last).elapsed() < WARM_UP {
            continue;
        }
        let row: serde_json::Value = serde_json::from_slice(message.payload().unwrap_or_default())?;
        delays.push(kindling::time::now_ms() - row["st"].as_i64().ok_or("st is no number")?);
    }
    Ok(delays)
}
