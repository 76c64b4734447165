//! The topic of swipes.

use crate::events;
use crate::swipes::{Matches, Swipes, expected};
use rdkafka::producer::Producer;
use std::error::Error;
use std::time::Duration;

const SEED: u64 = 42;

/// Fills `topic` with `rows` swipes over `pairs` pairs, keyed by the pair.
pub fn fill(brokers: &str, topic: &str, rows: u64, partitions: usize, pairs: u64) -> Result<(), Box<dyn Error>> {
    events::create(brokers, topic, partitions)?;
    let producer = events::producer(brokers)?;
    let mut value = Vec::with_capacity(256);
    for (n, swipe) in Swipes::new(SEED, rows, pairs).enumerate() {
        value.clear();
        swipe.write(&mut value)?;
        let (low, high) = swipe.pair();
        events::send(&producer, topic, swipe.partition(partitions), &format!("{low:016x}|{high:016x}"), &value)?;
        if n % 1_024 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    Ok(producer.flush(Duration::from_secs(120))?)
}

/// What must come of such a topic.
pub fn matches(rows: u64, pairs: u64) -> Matches {
    expected(Swipes::new(SEED, rows, pairs))
}
