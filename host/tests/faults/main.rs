//! Faults of the worst day, on a real broker: the `kindling` binary meets each, what it committed is compared with a computation of its own, and
//! what it says must name what, where and what to do.

#[path = "../support/mod.rs"]
mod support;

mod broker;
mod changelog;
mod disk;
mod records;
mod tables;
mod topics;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use support::*;

/// Changes topics.
fn admin() -> (AdminClient<DefaultClientContext>, AdminOptions) {
    let client = ClientConfig::new().set("bootstrap.servers", brokers()).create().expect("an admin client");
    (client, AdminOptions::new())
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// An event of one group, as [`counts_pipeline`] reads it.
fn event(time: i64, bucket: i64) -> String {
    format!(r#"{{"st":{time},"experimentGroup":"g","experimentName":"n","experimentBucket":"b{bucket}"}}"#)
}

/// What windows of ten seconds count of such events, none of them late.
fn counted(events: impl IntoIterator<Item = (i64, i64)>) -> Counts {
    let mut counts = Counts::new();
    for (time, bucket) in events {
        let start = time.div_euclid(10_000) * 10_000;
        *counts.entry((start.to_string(), "g".into(), "n".into(), format!("b{bucket}"))).or_default() += 1;
    }
    counts
}

/// Sends events to a partition.
fn send_events(topic: &str, partition: usize, events: &[(i64, i64)]) {
    use rdkafka::producer::Producer;
    let producer = producer();
    for (time, bucket) in events {
        send(&producer, topic, partition, event(*time, *bucket).as_bytes());
    }
    producer.flush(std::time::Duration::from_secs(30)).expect("delivered");
}

/// The log must have all of these.
fn says(job: &Job, parts: &[&str]) {
    let log = job.log_text();
    for part in parts {
        assert!(log.contains(part), "`{part}` is not said in\n{log}");
    }
}
