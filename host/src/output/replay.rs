//! The changelog back into the local tree, at a restart.
//!
//! The tree remembers the offset of the last [`Meta`] record that it has seen; reading starts there, so that the first meta record read
//! says whether the tree and the topic have the same history (`lineage`). Where they have not, the tree is emptied and everything read.
//!
//! So it is where the tree is behind and old: a compacted topic forgets removals after `delete.retention.ms`, and a tree that has not
//! seen them would bring removed keys back.

use crate::limits::STATE_SHARDS;
use crate::output::files::CLAIMS;
use crate::output::local::read_meta;
use crate::output::{Change, CommitError, Meta, RestoreProgress, RestoreStep, topics};
use crate::release::Later;
use crate::state::tree::Tree;
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Key of the meta record; keys of state are longer.
pub const META_KEY: &[u8] = b"meta";
/// Changes that go to the tree at once.
const BATCH: usize = 50_000;
/// How long the broker may be silent during a replay.
const SILENCE: Duration = Duration::from_secs(60);

/// Removals stay in the changelog for this long (`delete.retention.ms`), milliseconds.
pub const REMOVALS_KEPT_MS: i64 = 86_400_000;
/// A tree that last saw the changelog this long ago must have nothing to catch up with; half, so that no clock need be exact.
const TREE_AGE_MS_MAX: i64 = REMOVALS_KEPT_MS / 2;

/// How far a reader, or a writer, of the changelog has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// Offset of a record of each partition that is known, with all before it.
    pub offsets: BTreeMap<i32, i64>,
    /// Greatest time stamp of a known record: milliseconds since 1970 UTC.
    pub time: Option<i64>,
}

impl Place {
    /// Takes in what is known of a later epoch. Where a partition's offset is not told the older one stays: more is read again then.
    pub fn advance(&mut self, later: Place) {
        self.offsets.extend(later.offsets);
        self.time = self.time.max(later.time);
    }
}

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
    /// Where the changelog ends.
    pub place: Place,
    /// Records that were read, of an attempt with what the tree had among them.
    pub records: u64,
}

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// How long the broker may take to say where a partition ends.
const ASK: Duration = Duration::from_secs(10);

/// What is wrong with continuing from a tree.
enum Verdict {
    Good,
    /// The topic tells another history.
    Foreign,
    /// Removals may be gone that the tree has not seen.
    Old,
}

/// A name for a new history.
pub fn new_lineage() -> String {
    format!("{:016x}{:08x}", RandomState::new().hash_one(std::process::id()), std::process::id())
}

/// Writes changes to the tree, and which of the changelog it has with them.
///
/// # Errors
/// [`CommitError`] when the disk refuses.
pub fn note(tree: &Tree, changes: &[Change], stored: &[u8], place: &Place) -> Result<(), CommitError> {
    let place = serde_json::to_vec(place).map_err(|e| CommitError::Corrupt(e.to_string()))?;
    // Not synced: what a crash of the machine takes from it is replayed.
    Ok(tree.apply(changes, &[("stored", stored), ("place", &place)], false)?)
}

/// Brings the tree to the end of the changelog; `now` is in milliseconds since 1970 UTC. Tells `watch` how far it is.
///
/// # Errors
/// [`CommitError::Aborted`] when the broker is away, [`CommitError::Corrupt`] when records don't read back.
pub fn replay(
    properties: &BTreeMap<String, String>,
    changelog: &str,
    tree: &Tree,
    now: i64,
    watch: &mut dyn FnMut(&RestoreProgress),
) -> Result<Replayed, CommitError> {
    let known: Option<Stored> = tree.note("stored")?.and_then(|b| serde_json::from_slice(&b).ok());
    let place: Option<Place> = tree.note("place")?.and_then(|b| serde_json::from_slice(&b).ok());
    let mut keep = &CLAIMS[..];
    let mut records = 0;
    if let (Some(known), Some(place)) = (known, place) {
        let old = place.time.is_none_or(|time| now - time > TREE_AGE_MS_MAX);
        let mut reader = Reader::new(properties, changelog, tree, place)?;
        let verdict = reader.run(Some(Known { lineage: &known.lineage, old }), watch)?;
        records = reader.read;
        match verdict {
            Verdict::Good => return Ok(reader.done()),
            Verdict::Old => tracing::info!("the local tree is too far behind {changelog}: reading all of it"),
            Verdict::Foreign => {
                tracing::info!("the local tree has another history than {changelog}: reading all of it");
                keep = &[];
            }
        }
    }
    tree.clear(keep)?;
    let mut reader = Reader::new(properties, changelog, tree, Place::default())?;
    reader.run(None, watch)?;
    reader.read += records;
    Ok(reader.done())
}

/// What a tree says of itself.
#[derive(Clone, Copy)]
struct Known<'a> {
    lineage: &'a str,
    old: bool,
}

/// The end of a partition is what a replay waits for; the client's default is to log it as an error.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        if !matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PartitionEOF)) {
            tracing::warn!("changelog: {error}: {reason}");
        }
    }
}

impl ConsumerContext for Quiet {}

struct Reader<'a> {
    consumer: Later<BaseConsumer<Quiet>>,
    tree: &'a Tree,
    changelog: &'a str,
    changes: Vec<Change>,
    stored: Option<Stored>,
    /// Where the tree stood.
    from: Place,
    place: Place,
    open: BTreeSet<i32>,
    /// First offset that is read, and the end, of each partition; empty where the broker did not say.
    ranges: BTreeMap<i32, (i64, i64)>,
    read: u64,
}

/// Where each partition of the changelog begins and ends for readers of committed records.
fn ranges(consumer: &BaseConsumer<Quiet>, changelog: &str) -> Result<BTreeMap<i32, (i64, i64)>, KafkaError> {
    (0..i32::from(STATE_SHARDS)).map(|p| Ok((p, consumer.fetch_watermarks(changelog, p, ASK)?))).collect()
}

fn config(properties: &BTreeMap<String, String>, changelog: &str) -> rdkafka::ClientConfig {
    let mut config = topics::client(properties);
    config
        .set("group.id", format!("{changelog}-replay"))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed");
    config.set("enable.partition.eof", "true").set("auto.offset.reset", "earliest").set("fetch.queue.backoff.ms", "10");
    // The end of a partition is told by an empty answer, which the broker holds back this long: 500 ms by default.
    config.set("fetch.wait.max.ms", "5");
    config
}

/// End of each partition of the changelog, committed records only. The same before and after a replay: no epoch came between.
///
/// # Errors
/// [`CommitError`].
pub fn ends(properties: &BTreeMap<String, String>, changelog: &str) -> Result<Vec<i64>, CommitError> {
    let consumer: BaseConsumer<Quiet> =
        config(properties, changelog).create_with_context(Quiet).map_err(|e| CommitError::Config(format!("{changelog}: {e}")))?;
    let found = ranges(&consumer, changelog).map_err(|e| topics::unreachable(properties, &format!("topic {changelog}"), &e))?;
    Ok(found.into_values().map(|(_, end)| end).collect())
}

impl<'a> Reader<'a> {
    /// A reader that starts at the last record that the tree has seen of each partition.
    fn new(properties: &BTreeMap<String, String>, changelog: &'a str, tree: &'a Tree, from: Place) -> Result<Self, CommitError> {
        let bad = |e: KafkaError| CommitError::Aborted(format!("{changelog}: {e}"));
        let consumer: BaseConsumer<Quiet> = config(properties, changelog)
            .create_with_context(Quiet)
            .map_err(|e| CommitError::Config(format!("{changelog}: {e}")))?;
        let mut ranges = ranges(&consumer, changelog).unwrap_or_default();
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::from(STATE_SHARDS) {
            // A number where there is one: librdkafka looks "the beginning" up itself, and half a second later where it does not know the
            // partition's leader yet.
            let first = from.offsets.get(&partition).or(ranges.get(&partition).map(|(first, _)| first));
            let offset = first.map_or(Offset::Beginning, |o| Offset::Offset(*o));
            list.add_partition_offset(changelog, partition, offset).map_err(bad)?;
        }
        consumer.assign(&list).map_err(bad)?;
        let open = (0..i32::from(STATE_SHARDS)).collect();
        for (partition, (first, _)) in &mut ranges {
            *first = from.offsets.get(partition).copied().unwrap_or(0).max(*first);
        }
        let (place, consumer) = (from.clone(), Later::new(consumer));
        Ok(Self { consumer, tree, changelog, changes: Vec::new(), stored: None, place, from, open, ranges, read: 0 })
    }

    /// Reads to the end; gives up where that shows that what is known can't be built upon.
    fn run(&mut self, known: Option<Known<'_>>, watch: &mut dyn FnMut(&RestoreProgress)) -> Result<Verdict, CommitError> {
        let started = Instant::now();
        let (mut heard, mut told) = (started, started);
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
                    let (partition, offset) = (message.partition(), message.offset());
                    if known.is_some_and(|k| k.old) && self.from.offsets.get(&partition).is_none_or(|o| offset > *o) {
                        return Ok(Verdict::Old);
                    }
                    let time = message.timestamp().to_millis();
                    let (key, value) = (message.key().unwrap_or_default().to_vec(), message.payload().map(<[u8]>::to_vec));
                    drop(message);
                    if key == META_KEY {
                        let stored = read_stored(value.as_deref().unwrap_or_default())?;
                        if self.stored.is_none() && known.is_some_and(|k| k.lineage != stored.lineage) {
                            return Ok(Verdict::Foreign);
                        }
                        self.stored = Some(stored);
                    } else {
                        self.changes.push(Change { shard: u16::try_from(partition).unwrap_or(0), key, value });
                    }
                    self.place.advance(Place { offsets: [(partition, offset)].into(), time });
                    self.read += 1;
                    if self.changes.len() >= BATCH && (known.is_none() || self.stored.is_some()) {
                        self.flush()?;
                    }
                }
            }
            heard = Instant::now();
            if heard.duration_since(told) > TELL_EVERY {
                told = heard;
                watch(&self.progress(started, false));
            }
        }
        if known.is_some() && self.stored.is_none() {
            return Ok(Verdict::Foreign);
        }
        self.flush()?;
        watch(&self.progress(started, true));
        Ok(Verdict::Good)
    }

    fn progress(&self, started: Instant, done: bool) -> RestoreProgress {
        let all: i64 = self.ranges.values().map(|(first, end)| (end - first).max(0)).sum();
        let come = |(partition, (first, end)): (&i32, &(i64, i64))| match self.place.offsets.get(partition) {
            _ if !self.open.contains(partition) => (end - first).max(0),
            Some(at) => (at + 1 - first).clamp(0, (end - first).max(0)),
            None => 0,
        };
        let come: i64 = self.ranges.iter().map(come).sum();
        let share = (!self.ranges.is_empty()).then(|| if done || all == 0 { 1.0 } else { come as f64 / all as f64 });
        RestoreProgress { step: RestoreStep::Changelog, records: self.read, share, elapsed: started.elapsed(), done }
    }

    fn flush(&mut self) -> Result<(), CommitError> {
        let mut changes = std::mem::take(&mut self.changes);
        // In the tree's order an insert costs less than half. Of several changes of a key the last counts: the order is a stable one.
        changes.sort_by(|a, b| (a.shard, &a.key).cmp(&(b.shard, &b.key)));
        changes.dedup_by(|later, kept| {
            let same = (later.shard, &later.key) == (kept.shard, &kept.key);
            if same {
                kept.value = later.value.take();
            }
            same
        });
        match &self.stored {
            Some(stored) => {
                let stored = serde_json::to_vec(stored).map_err(|e| CommitError::Corrupt(e.to_string()))?;
                note(self.tree, &changes, &stored, &self.place)
            }
            None => Ok(self.tree.apply(&changes, &[], false)?),
        }
    }

    fn done(self) -> Replayed {
        Replayed { stored: self.stored, place: self.place, records: self.read }
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
