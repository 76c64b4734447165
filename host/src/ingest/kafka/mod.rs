//! A Kafka topic as a source, over librdkafka: one consumer for the job with a manual assignment, a queue a partition.
//!
//! Nothing is rebalanced: one process runs a job, and the transactional producer of its commits fences others. Offsets are
//! committed by that producer; here they are only looked up where the job has no position of its own. Partitions that the topic is given
//! later are found by [`EndQuery::added`]; the job then takes them in between two epochs ([`Source::refresh`]). A run to the end of the
//! topic has those that are there at its start.

mod client;
mod properties;
mod queue;
mod reader;
mod start;

use super::start::StartFrom;
use super::{EndQuery, IngestError, OpenOptions, Reader, Source};
use crate::config::spec::{KafkaSourceSpec, StartingOffsets};
use crate::element::PartitionName;
use crate::limits::KAFKA_ASK;
use crate::release::Later;
use client::Client;
use queue::{PartitionQueue, Waker};
use reader::{KafkaReader, Place};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The consumer group of a job; its transactions commit offsets to it.
pub fn group(team: &str, name: &str) -> String {
    format!("kindling-{team}-{name}")
}

/// A topic.
pub struct KafkaSource {
    spec: KafkaSourceSpec,
    group: String,
    state_memory: usize,
    partitions: Vec<PartitionName>,
    client: Arc<Client>,
    until_end: bool,
    /// Offsets where a bounded run ends, once readers were asked for.
    bounds: Option<Vec<i64>>,
    /// Last known end of each partition.
    ends: Vec<i64>,
}

impl KafkaSource {
    /// Finds the topic and its partitions.
    ///
    /// # Errors
    /// When librdkafka refuses a property, the broker does not answer, or there is no such topic.
    pub fn open(spec: &KafkaSourceSpec, options: &OpenOptions) -> Result<Self, IngestError> {
        let client = Client::new(&properties::config(&spec.properties, &options.group, 1, options.state_memory)?, &spec.topic)?;
        let topic: Arc<str> = spec.topic.as_str().into();
        let name = |partition| PartitionName { topic: Arc::clone(&topic), partition };
        let partitions: Vec<_> = client.partitions()?.into_iter().map(name).collect();
        Ok(Self {
            spec: spec.clone(),
            group: options.group.clone(),
            state_memory: options.state_memory,
            ends: vec![0; partitions.len()],
            partitions,
            client: Arc::new(client),
            until_end: options.until_end,
            bounds: None,
        })
    }

    /// First and end offset of each partition. A position past the end may be one among records whose transaction is still open, so
    /// it is waited for, within reason.
    fn watermarks(&mut self, positions: &[i64]) -> Result<Vec<(i64, i64)>, IngestError> {
        let start = Instant::now();
        let mut all = Vec::with_capacity(self.partitions.len());
        for (i, name) in self.partitions.iter().enumerate() {
            let mut found = self.client.watermarks(name.partition)?;
            while positions.get(i).is_some_and(|p| *p > found.1) && start.elapsed() < KAFKA_ASK {
                std::thread::sleep(Duration::from_millis(200));
                found = self.client.watermarks(name.partition)?;
            }
            self.ends[i] = found.1;
            all.push(found);
        }
        Ok(all)
    }
}

impl Source for KafkaSource {
    fn partitions(&self) -> &[PartitionName] {
        &self.partitions
    }

    /// The group's committed offset where there is one, else as the spec says. A committed offset that is gone is given all the same:
    /// [`Source::readers`] then acts as `failOnDataLoss` says.
    fn start_positions(&mut self) -> Result<Vec<i64>, IngestError> {
        let numbers: Vec<i32> = self.partitions.iter().map(|p| p.partition).collect();
        let committed = self.client.committed(&numbers)?;
        if let Some(all) = committed.iter().copied().collect() {
            return Ok(all);
        }
        let watermarks = self.watermarks(&[])?;
        let start = |(first, end)| match self.spec.starting_offsets {
            StartingOffsets::Earliest => first,
            StartingOffsets::Latest => end,
        };
        Ok(committed.into_iter().zip(watermarks).map(|(committed, w)| committed.unwrap_or_else(|| start(w))).collect())
    }

    fn positions_at(&mut self, from: &StartFrom) -> Result<Vec<Option<i64>>, IngestError> {
        start::positions(self, from)
    }

    fn readers(&mut self, positions: &[i64], readers: usize) -> Result<Vec<Box<dyn Reader>>, IngestError> {
        // A client of its own each time: nothing that an earlier one fetched can come through.
        let config = properties::config(&self.spec.properties, &self.group, self.partitions.len(), self.state_memory)?;
        drop(Later::new(std::mem::replace(&mut self.client, Arc::new(Client::new(&config, &self.spec.topic)?))));
        let watermarks = self.watermarks(positions)?;
        if self.until_end && self.bounds.is_none() {
            self.bounds = Some(watermarks.iter().map(|w| w.1).collect());
        }
        let mut shares: Vec<(Vec<Place>, Arc<Waker>)> = (0..readers).map(|_| Default::default()).collect();
        let mut assigned = Vec::new();
        for (index, (name, &position)) in self.partitions.iter().zip(positions).enumerate() {
            let fail = self.spec.fail_on_data_loss;
            let (position, skipped) = reader::in_range(&name.topic, name.partition, position, watermarks[index], fail)?;
            let bound = self.bounds.as_ref().map(|b| b[index]);
            let mut place = Place::new(index, name.partition, position, bound, skipped);
            let (places, waker) = &mut shares[index % readers];
            if bound.is_none_or(|b| position < b) {
                place.queue = Some(PartitionQueue::new(&self.client, name.partition, waker)?);
                assigned.push((name.partition, position));
            }
            places.push(place);
        }
        if !assigned.is_empty() {
            self.client.assign(&assigned)?;
        }
        let reader = |(places, waker)| {
            Box::new(KafkaReader::new(places, waker, Arc::clone(&self.client), self.spec.fail_on_data_loss)) as Box<dyn Reader>
        };
        Ok(shares.into_iter().map(reader).collect())
    }

    fn refresh(&mut self) -> Result<(), IngestError> {
        let topic: Arc<str> = self.spec.topic.as_str().into();
        for partition in self.client.partitions()? {
            if self.partitions.iter().all(|p| p.partition != partition) {
                self.partitions.push(PartitionName { topic: Arc::clone(&topic), partition });
            }
        }
        self.ends.resize(self.partitions.len(), 0);
        Ok(())
    }

    fn end_positions(&mut self) -> Vec<i64> {
        for (end, name) in self.ends.iter_mut().zip(&self.partitions) {
            *end = queue::cached_end(&self.client, name.partition).unwrap_or(*end);
        }
        self.ends.clone()
    }

    fn end_query(&mut self) -> Option<Box<dyn EndQuery>> {
        let numbers = self.partitions.iter().map(|p| p.partition).collect();
        Some(Box::new(KafkaEnds { client: Arc::clone(&self.client), numbers, bounded: self.until_end }))
    }
}

/// How long the leader of a partition may take to say where it ends.
const END_WAIT: Duration = Duration::from_secs(1);

/// Asks the leaders of partitions where they end.
struct KafkaEnds {
    client: Arc<Client>,
    /// Number of each partition within the topic.
    numbers: Vec<i32>,
    /// The run ends where the topic ended at its start.
    bounded: bool,
}

impl EndQuery for KafkaEnds {
    fn end(&mut self, partition: usize) -> Option<i64> {
        let number = *self.numbers.get(partition)?;
        // The answer is the end of what may be read: where only committed records are, those of a transaction that is still open lie behind
        // it. The last fetch told the end with them; that the leader answers says that fetches come through.
        let stable = self.client.end_within(number, END_WAIT)?;
        Some(queue::cached_end(&self.client, number).map_or(stable, |end| end.max(stable)))
    }

    fn added(&mut self) -> usize {
        let count = if self.bounded { None } else { self.client.partition_count_within(END_WAIT) };
        count.unwrap_or(0).saturating_sub(self.numbers.len())
    }
}
