//! The changelog back into the local tree, at a restart.
//!
//! The tree remembers the offset of the last [`Meta`] record that it has seen; reading starts there, so that the first meta record read
//! says whether the tree and the topic have the same history (`lineage`). Where they have not, the tree is emptied and everything read.

use crate::limits::STATE_SHARDS;
use crate::output::local::read_meta;
use crate::output::{Change, CommitError, Meta, topics};
use crate::state::tree::Tree;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Key of the meta record; keys of state are longer.
pub const META_KEY: &[u8] = b"meta";
/// Changes that go to the tree at once.
const BATCH: usize = 10_000;
/// How long the broker may be silent during a replay.
const SILENCE: Duration = Duration::from_secs(60);

/// The value of a meta record.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Stored {
    /// Names the history that this changelog tells; another one after the topic was made anew.
    pub lineage: String,
    /// The job's position.
    pub meta: Meta,
}

/// What a replay ended with.
pub struct Replayed {
    /// The last meta record.
    pub stored: Option<Stored>,
    /// Offset of the last record seen, by partition.
    pub offsets: BTreeMap<i32, i64>,
}

/// A name for a new history.
pub fn new_lineage() -> String {
    format!("{:016x}{:08x}", RandomState::new().hash_one(std::process::id()), std::process::id())
}

/// Writes an epoch's changes and where the changelog stands to the tree.
///
/// # Errors
/// [`CommitError`] when the disk refuses.
pub fn note(tree: &Tree, changes: &[Change], stored: &[u8], offsets: &BTreeMap<i32, i64>) -> Result<(), CommitError> {
    let offsets = serde_json::to_vec(offsets).map_err(|e| CommitError::Corrupt(e.to_string()))?;
    // Not synced: what a crash of the machine takes from it is replayed.
    Ok(tree.apply(changes, &[("stored", stored), ("offsets", &offsets)], false)?)
}

/// Brings the tree to the end of the changelog.
///
/// # Errors
/// [`CommitError::Aborted`] when the broker is away, [`CommitError::Corrupt`] when records don't read back.
pub fn replay(properties: &BTreeMap<String, String>, changelog: &str, tree: &Tree) -> Result<Replayed, CommitError> {
    let known: Option<Stored> = tree.note("stored")?.and_then(|b| serde_json::from_slice(&b).ok());
    let offsets: BTreeMap<i32, i64> = tree.note("offsets")?.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    if let Some(known) = known {
        let mut reader = Reader::new(properties, changelog, tree, &offsets)?;
        if reader.run(Some(&known.lineage))? {
            return Ok(reader.done(Some(known)));
        }
        tracing::info!("the local tree has another history than {changelog}: reading all of it");
    }
    tree.clear()?;
    let mut reader = Reader::new(properties, changelog, tree, &BTreeMap::new())?;
    reader.run(None)?;
    Ok(reader.done(None))
}

struct Reader<'a> {
    consumer: BaseConsumer,
    tree: &'a Tree,
    changelog: &'a str,
    changes: Vec<Change>,
    stored: Option<Stored>,
    offsets: BTreeMap<i32, i64>,
    open: BTreeSet<i32>,
}

impl<'a> Reader<'a> {
    /// A reader that starts at the last record that the tree has seen of each partition.
    fn new(
        properties: &BTreeMap<String, String>,
        changelog: &'a str,
        tree: &'a Tree,
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<Self, CommitError> {
        let bad = |e: KafkaError| CommitError::Aborted(format!("{changelog}: {e}"));
        let mut config = topics::client(properties);
        config.set("group.id", format!("{changelog}-replay")).set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true").set("auto.offset.reset", "earliest").set("fetch.queue.backoff.ms", "10");
        let consumer: BaseConsumer = config.create().map_err(|e| CommitError::Config(format!("{changelog}: {e}")))?;
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::from(STATE_SHARDS) {
            let from = offsets.get(&partition).map_or(Offset::Beginning, |o| Offset::Offset(*o));
            list.add_partition_offset(changelog, partition, from).map_err(bad)?;
        }
        consumer.assign(&list).map_err(bad)?;
        let open = (0..i32::from(STATE_SHARDS)).collect();
        Ok(Self { consumer, tree, changelog, changes: Vec::new(), stored: None, offsets: offsets.clone(), open })
    }

    /// Reads to the end; false when the first meta record is not of `lineage`, or none is there.
    fn run(&mut self, lineage: Option<&str>) -> Result<bool, CommitError> {
        let mut heard = Instant::now();
        let (mut read, mut told) = (0u64, Instant::now());
        while !self.open.is_empty() {
            match self.consumer.poll(Duration::from_millis(100)) {
                None if heard.elapsed() > SILENCE => {
                    return Err(CommitError::Aborted(format!("{}: no answer for 60 s while it was replayed", self.changelog)));
                }
                None => continue,
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(self.open.remove(&partition)),
                Some(Err(error)) if is_passing(&error) => continue,
                Some(Err(error)) => return Err(CommitError::Aborted(format!("{}: {error}", self.changelog))),
                Some(Ok(message)) => {
                    let (key, value) = (message.key().unwrap_or_default().to_vec(), message.payload().map(<[u8]>::to_vec));
                    let (partition, offset) = (message.partition(), message.offset());
                    drop(message);
                    if key == META_KEY {
                        let stored = read_stored(value.as_deref().unwrap_or_default())?;
                        if self.stored.is_none() && lineage.is_some_and(|l| l != stored.lineage) {
                            return Ok(false);
                        }
                        self.stored = Some(stored);
                    } else {
                        self.changes.push(Change { shard: u16::try_from(partition).unwrap_or(0), key, value });
                    }
                    self.offsets.insert(partition, offset);
                    read += 1;
                    if self.changes.len() >= BATCH && (lineage.is_none() || self.stored.is_some()) {
                        self.flush()?;
                    }
                }
            }
            heard = Instant::now();
            if told.elapsed() > Duration::from_secs(2) {
                told = heard;
                tracing::info!(records = read, "replaying {}", self.changelog);
            }
        }
        if lineage.is_some() && self.stored.is_none() {
            return Ok(false);
        }
        self.flush()?;
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), CommitError> {
        let changes = std::mem::take(&mut self.changes);
        match &self.stored {
            Some(stored) => {
                let stored = serde_json::to_vec(stored).map_err(|e| CommitError::Corrupt(e.to_string()))?;
                note(self.tree, &changes, &stored, &self.offsets)
            }
            None => Ok(self.tree.apply(&changes, &[], false)?),
        }
    }

    fn done(self, known: Option<Stored>) -> Replayed {
        Replayed { stored: self.stored.or(known), offsets: self.offsets }
    }
}

fn read_stored(bytes: &[u8]) -> Result<Stored, CommitError> {
    serde_json::from_slice(bytes).or_else(|_| {
        let meta = read_meta(bytes)?;
        Ok(Stored { lineage: String::new(), meta })
    })
}

/// Errors that the client mends by itself.
fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let passing = [
        Code::BrokerTransportFailure,
        Code::AllBrokersDown,
        Code::Resolve,
        Code::NotLeaderForPartition,
        Code::LeaderNotAvailable,
        Code::UnknownTopicOrPartition,
        Code::RequestTimedOut,
        Code::OperationTimedOut,
    ];
    error.rdkafka_error_code().is_some_and(|code| passing.contains(&code))
}
