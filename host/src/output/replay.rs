//! The changelog back into the local tree, at a restart.
//!
//! The tree remembers the offset of the last [`Meta`] record that it has seen; reading starts there, so that the first meta record read
//! says whether the tree and the topic have the same history (`lineage`). Where they have not, [`super::loss`] says which is believed; where it is
//! the topic, the tree is emptied and everything read.
//!
//! So it is where the tree is behind and old: a compacted topic forgets removals after `delete.retention.ms`, and a tree that has not
//! seen them would bring removed keys back.

mod write;

pub use write::{note, write};

use crate::element::Record;
use crate::limits::STATE_SHARDS;
use crate::messages::{Message, Queue};
use crate::output::local::read_meta;
use crate::output::{Change, CommitError, Meta, RestoreProgress, RestoreStep, topics};
use crate::release::Later;
use crate::state::bulk::Bulk;
use crate::state::tree::Tree;
use crossbeam_channel::{Sender, bounded};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};
use write::Step;

/// Key of the meta record; keys of state are longer.
pub const META_KEY: &[u8] = b"meta";
/// Bytes of changes that go to the tree at once: the fewer files it becomes, the less they are merged. Two of them are in memory.
const BULK_BYTES: usize = 48 << 20;
/// Records that are taken from the client at once.
const TURN: usize = 10_000;
/// How long to wait for a record where none is there.
const WAIT: Duration = Duration::from_millis(100);
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
    /// The whole state was given meanwhile; else the tree has it.
    pub given: bool,
}

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// How long the broker may take to say where a partition ends.
const ASK: Duration = Duration::from_secs(10);

/// How a tree and a changelog go together.
pub enum Followed {
    /// The tree is at the end of the changelog now.
    Whole(Box<Replayed>),
    /// Removals may be gone that the tree has not seen.
    Old,
    /// The topic tells another history, or nothing.
    Foreign,
    /// The topic ends before the tree's place in it.
    Short,
}

enum Verdict {
    Good,
    Foreign,
    Old,
}

/// A name for a new history.
pub fn new_lineage() -> String {
    format!("{:016x}{:08x}", RandomState::new().hash_one(std::process::id()), std::process::id())
}

/// Takes state in.
pub type Each<'a> = dyn FnMut(Change) + 'a;

/// What a tree says of itself.
pub struct Known {
    /// The last meta record that it has seen.
    pub stored: Stored,
    /// Its place in the changelog.
    pub place: Place,
}

impl Known {
    /// None where the tree is new.
    ///
    /// # Errors
    /// [`CommitError`] when it does not read back.
    pub fn of(tree: &Tree) -> Result<Option<Self>, CommitError> {
        let stored = tree.note("stored")?.and_then(|b| serde_json::from_slice(&b).ok());
        let place = tree.note("place")?.and_then(|b| serde_json::from_slice(&b).ok());
        Ok(stored.zip(place).map(|(stored, place)| Self { stored, place }))
    }
}

/// Brings the tree from what it knows to the end of the changelog; `now` is in milliseconds since 1970 UTC. Tells `watch` how far it is.
/// The tree is left as it is where it does not go with the changelog.
///
/// # Errors
/// [`CommitError::Aborted`] when the broker is away, [`CommitError::Corrupt`] when records don't read back.
pub fn catch_up(
    properties: &BTreeMap<String, String>,
    changelog: &str,
    tree: &Tree,
    known: &Known,
    now: i64,
    watch: &mut dyn FnMut(&RestoreProgress),
) -> Result<Followed, CommitError> {
    let Known { stored, place } = known;
    let old = place.time.is_none_or(|time| now - time > TREE_AGE_MS_MAX);
    let mut reader = Reader::new(properties, changelog, place.clone(), STATE_SHARDS)?;
    if reader.is_short() {
        return Ok(Followed::Short);
    }
    Ok(match reader.run(tree, Some(Expected { lineage: &stored.lineage, old }), watch, None)? {
        Verdict::Good => Followed::Whole(Box::new(reader.done(false))),
        Verdict::Old => Followed::Old,
        Verdict::Foreign => Followed::Foreign,
    })
}

/// All of the changelog into an empty tree. Where there is `each` it is given all of it meanwhile ([`Replayed::given`]): changes in an order in
/// which the last of a key counts.
///
/// # Errors
/// As [`catch_up`]. What `each` was given counts for nothing then.
pub fn read_all(
    properties: &BTreeMap<String, String>,
    changelog: &str,
    tree: &Tree,
    watch: &mut dyn FnMut(&RestoreProgress),
    each: Option<&mut Each<'_>>,
) -> Result<Replayed, CommitError> {
    let mut reader = Reader::new(properties, changelog, Place::default(), STATE_SHARDS)?;
    let given = each.is_some();
    reader.run(tree, None, watch, each)?;
    Ok(reader.done(given))
}

/// The last meta record of the changelog.
///
/// # Errors
/// As [`catch_up`].
pub fn last(properties: &BTreeMap<String, String>, changelog: &str) -> Result<Option<Stored>, CommitError> {
    let mut reader = Reader::new(properties, changelog, Place::default(), 1)?;
    reader.read(None, None, Instant::now(), &mut |_| {}, None)?;
    Ok(reader.stored)
}

/// What the first meta record must be of.
#[derive(Clone, Copy)]
struct Expected<'a> {
    lineage: &'a str,
    /// Nothing may follow it.
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

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level {
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug | RDKafkaLogLevel::Notice => {
                tracing::debug!("changelog: {facility}: {text}");
            }
            _ => tracing::warn!("changelog: {facility}: {text}"),
        }
    }
}

impl ConsumerContext for Quiet {}

struct Reader<'a> {
    /// Dropped in this order: messages, their queue, the client.
    messages: Vec<Message>,
    queue: Queue,
    _consumer: Later<BaseConsumer<Quiet>>,
    changelog: &'a str,
    bulk: Bulk,
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
    // Read ahead: a record waits with 400 bytes of librdkafka's own.
    config.set("queued.min.messages", "20000").set("queued.max.messages.kbytes", "32768");
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
    /// A reader of the first `shards` partitions that starts at the last record that the tree has seen of each.
    fn new(properties: &BTreeMap<String, String>, changelog: &'a str, from: Place, shards: u16) -> Result<Self, CommitError> {
        let bad = |e: KafkaError| CommitError::Aborted(format!("{changelog}: {e}"));
        let consumer: BaseConsumer<Quiet> = config(properties, changelog)
            .create_with_context(Quiet)
            .map_err(|e| CommitError::Config(format!("{changelog}: {e}")))?;
        let queue =
            Queue::of_consumer(&consumer).ok_or_else(|| CommitError::Aborted(format!("{changelog}: the client has no queue")))?;
        let mut ranges = ranges(&consumer, changelog).unwrap_or_default();
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::from(shards) {
            // A number where there is one: librdkafka looks "the beginning" up itself, and half a second later where it does not know the
            // partition's leader yet.
            let first = from.offsets.get(&partition).or(ranges.get(&partition).map(|(first, _)| first));
            let offset = first.map_or(Offset::Beginning, |o| Offset::Offset(*o));
            list.add_partition_offset(changelog, partition, offset).map_err(bad)?;
        }
        consumer.assign(&list).map_err(bad)?;
        let open = (0..i32::from(shards)).collect();
        for (partition, (first, _)) in &mut ranges {
            *first = from.offsets.get(partition).copied().unwrap_or(0).max(*first);
        }
        let (place, messages, bulk) = (from.clone(), Vec::new(), Bulk::default());
        let _consumer = Later::new(consumer);
        Ok(Self { messages, queue, _consumer, changelog, bulk, stored: None, place, from, open, ranges, read: 0 })
    }

    /// Whether the topic has less than the tree has seen.
    fn is_short(&self) -> bool {
        self.from.offsets.iter().any(|(partition, at)| self.ranges.get(partition).is_some_and(|(_, end)| at >= end))
    }

    /// Reads to the end; gives up where that shows that what is known can't be built upon. The tree is written beside the reading.
    fn run(
        &mut self,
        tree: &Tree,
        known: Option<Expected<'_>>,
        watch: &mut dyn FnMut(&RestoreProgress),
        each: Option<&mut Each<'_>>,
    ) -> Result<Verdict, CommitError> {
        let started = Instant::now();
        let verdict = std::thread::scope(|scope| {
            // One bulk is filled while one is written.
            let (steps, received) = bounded::<Step>(0);
            let writer = std::thread::Builder::new()
                .name("restore-tree".into())
                .spawn_scoped(scope, move || received.iter().try_for_each(|step| step.write(tree)))
                .map_err(|e| CommitError::Config(format!("no thread for the local tree: {e}")))?;
            let outcome = self.read(Some(&steps), known, started, watch, each);
            drop(steps);
            // Why the tree could not be written to comes before what the reader made of it.
            match writer.join() {
                Ok(written) => written.and(outcome),
                Err(_) => Err(CommitError::Corrupt("the local tree could not be written to".into())),
            }
        })?;
        if matches!(verdict, Verdict::Good) {
            watch(&self.progress(started, true));
        }
        Ok(verdict)
    }

    fn read(
        &mut self,
        steps: Option<&Sender<Step>>,
        known: Option<Expected<'_>>,
        started: Instant,
        watch: &mut dyn FnMut(&RestoreProgress),
        mut each: Option<&mut Each<'_>>,
    ) -> Result<Verdict, CommitError> {
        let (mut heard, mut told) = (started, started);
        while !self.open.is_empty() {
            let mut messages = std::mem::take(&mut self.messages);
            self.queue.take_or_wait(TURN, WAIT, &mut messages);
            let now = Instant::now();
            if !messages.is_empty() {
                heard = now;
            } else if heard.elapsed() > SILENCE {
                return Err(CommitError::Aborted(format!("{}: no answer for 60 s while it was replayed", self.changelog)));
            }
            for message in &messages {
                if let Some(verdict) = self.take(message, known, &mut each)? {
                    return Ok(verdict);
                }
            }
            messages.clear();
            self.messages = messages;
            if self.bulk.bytes() >= BULK_BYTES && (known.is_none() || self.stored.is_some()) {
                self.hand_over(steps)?;
            }
            if now.duration_since(told) > TELL_EVERY {
                told = now;
                watch(&self.progress(started, false));
            }
        }
        if known.is_some() && self.stored.is_none() {
            return Ok(Verdict::Foreign);
        }
        self.hand_over(steps)?;
        Ok(Verdict::Good)
    }

    /// Takes a record or an event in; a verdict where the tree is found not to be good.
    #[inline]
    fn take(
        &mut self,
        message: &Message,
        known: Option<Expected<'_>>,
        each: &mut Option<&mut Each<'_>>,
    ) -> Result<Option<Verdict>, CommitError> {
        let partition = message.partition();
        match message.event() {
            None => {}
            Some(RDKafkaErrorCode::PartitionEOF) => {
                self.open.remove(&partition);
                return Ok(None);
            }
            Some(code) if is_passing(code) => return Ok(None),
            Some(_) => return Err(CommitError::Aborted(format!("{}: {}", self.changelog, message.event_text()))),
        }
        let Record { offset, timestamp, key, value } = message.record();
        if known.is_some_and(|k| k.old) && self.from.offsets.get(&partition).is_none_or(|o| offset > *o) {
            return Ok(Some(Verdict::Old));
        }
        let key = key.unwrap_or_default();
        if key == META_KEY {
            let stored = read_stored(value.unwrap_or_default())?;
            if self.stored.is_none() && known.is_some_and(|k| k.lineage != stored.lineage) {
                return Ok(Some(Verdict::Foreign));
            }
            self.stored = Some(stored);
        } else {
            let shard = u16::try_from(partition).unwrap_or(0);
            self.bulk.push(shard, key, value);
            if let Some(each) = each {
                each(Change { shard, key: key.to_vec(), value: value.map(<[u8]>::to_vec) });
            }
        }
        self.place.offsets.insert(partition, offset);
        self.place.time = self.place.time.max(timestamp);
        self.read += 1;
        Ok(None)
    }

    /// What has been read so far goes to the tree.
    fn hand_over(&mut self, steps: Option<&Sender<Step>>) -> Result<(), CommitError> {
        let Some(steps) = steps else {
            self.bulk = Bulk::default();
            return Ok(());
        };
        let notes = match &self.stored {
            Some(stored) => {
                let stored = serde_json::to_vec(stored).map_err(|e| CommitError::Corrupt(e.to_string()))?;
                Some((stored, self.place.clone()))
            }
            None => None,
        };
        let step = Step { bulk: std::mem::take(&mut self.bulk), notes };
        steps.send(step).map_err(|_| CommitError::Aborted("the local tree takes no more".into()))
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

    fn done(self, given: bool) -> Replayed {
        Replayed { stored: self.stored, place: self.place, records: self.read, given }
    }
}

fn read_stored(bytes: &[u8]) -> Result<Stored, CommitError> {
    serde_json::from_slice(bytes).or_else(|_| {
        let meta = read_meta(bytes)?;
        Ok(Stored { lineage: String::new(), meta })
    })
}

/// Errors that the client mends by itself.
fn is_passing(code: RDKafkaErrorCode) -> bool {
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
    passing.contains(&code)
}
