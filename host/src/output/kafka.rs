//! Commits of a job with Kafka: one transaction an epoch holds results, side outputs, changelog and source offsets.
//!
//! The changelog is a compacted topic with a partition for each shard; the job's [`Meta`] is a record of its partition 0, written last
//! in each epoch. The local tree follows after the transaction, and only then.

mod restore;

use crate::config::spec::{SinkSpec, SourceSpec};
use crate::element::PartitionName;
use crate::limits::{STATE_SHARDS, gather_bytes};
use crate::messages::KeyValue;
use crate::output::files::FileSinks;
use crate::output::follower::Follower;
use crate::output::local::roles;
use crate::output::loss::Mark;
use crate::output::replay::{self, Place, REMOVALS_KEPT_MS, Stored};
use crate::output::topics::Rule;
use crate::output::transaction::{Transactions, Written};
use crate::output::{Change, CommitError, CommitSpec, Committer, EpochCommit, Meta, OutRecord, RestoreWatch, side, topics};
use crate::state::tree::{Tree, TreeError};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;

/// librdkafka's default of `message.max.bytes`: key and value of a record, bytes.
const MESSAGE_MAX_BYTES: usize = 1_000_000;
/// Records queued at once, and between two looks at delivery reports.
const SERVE_EVERY: usize = 1_000;
/// What is committed of the witness: no place, and past the end, so that nobody who watches groups sees one that is behind.
const NO_PLACE: i64 = i64::MAX;
/// `segment.bytes` of the changelog: 64 MiB.
const SEGMENT_BYTES: &str = "67108864";

/// Commits through transactions.
pub struct KafkaCommitter {
    spec: CommitSpec,
    /// Connection that transaction, changelog and offsets go through.
    properties: BTreeMap<String, String>,
    id: String,
    changelog: String,
    /// The group's name on the broker.
    group: (BaseConsumer, ConsumerGroupMetadata),
    /// A partition of a sink that the group's offset is of where the source is elsewhere: for the [`Mark`] alone, in the same transaction. Not of the
    /// changelog: what a group has committed of a topic goes with the topic.
    witness: Option<PartitionName>,
    /// Topics of the roles that are topics.
    topics: BTreeMap<String, String>,
    transactions: Option<Transactions>,
    tree: Option<Follower>,
    /// The tree was thrown away once; what does not read back after that is not the tree's fault.
    rebuilt: bool,
    files: FileSinks,
    lineage: String,
    /// Where the changelog ends.
    place: Place,
    watch: RestoreWatch,
    /// The results are a table.
    is_table: bool,
    /// See [`Committer::accept_loss`].
    accepts_loss: bool,
    /// See [`crate::output::loss::Evidence::is_half`].
    is_half: bool,
}

/// A job's changelog: its topic, and the properties of the connection that it is on.
pub struct Changelog {
    /// librdkafka properties.
    pub properties: BTreeMap<String, String>,
    /// Topic.
    pub topic: String,
}

/// The changelog of a job; none where no Kafka is involved.
///
/// # Errors
/// [`CommitError::Config`] when the sinks are on several clusters.
pub fn changelog(spec: &CommitSpec) -> Result<Option<Changelog>, CommitError> {
    let mut properties: Option<&BTreeMap<String, String>> = None;
    for (role, sink) in roles(spec) {
        let SinkSpec::Kafka { properties: own, .. } = sink else { continue };
        if properties.is_some_and(|p| brokers(p) != brokers(own)) {
            return Err(CommitError::Config(format!(
                "{role}: all Kafka sinks of a job must be on one cluster: they share a transaction"
            )));
        }
        properties = Some(own);
    }
    let source = match &spec.source {
        SourceSpec::Kafka(kafka) => Some(&kafka.properties),
        _ => None,
    };
    let topic = format!("{}-changelog", id(spec));
    Ok(properties.or(source).map(|p| Changelog { properties: p.clone(), topic }))
}

/// Name of the job's transactions and consumer group.
fn id(spec: &CommitSpec) -> String {
    format!("kindling-{}-{}", spec.team, spec.name)
}

fn brokers(properties: &BTreeMap<String, String>) -> Option<&String> {
    properties.get("bootstrap.servers")
}

impl KafkaCommitter {
    /// Nothing is connected before [`Committer::restore`].
    ///
    /// # Errors
    /// [`CommitError::Config`] when the sinks are on several clusters.
    pub fn new(spec: CommitSpec) -> Result<Self, CommitError> {
        let Changelog { properties, topic: changelog } =
            changelog(&spec)?.ok_or_else(|| CommitError::Config("neither the source nor a sink is on Kafka".into()))?;
        let mut sinks = BTreeMap::new();
        for (role, sink) in roles(&spec) {
            if let SinkSpec::Kafka { topic, .. } = sink {
                sinks.insert(role, topic.clone());
            }
        }
        let source = match &spec.source {
            SourceSpec::Kafka(kafka) => Some(&kafka.properties),
            _ => None,
        };
        let id = id(&spec);
        let own = source.filter(|own| brokers(own) == brokers(&properties));
        let consumer: BaseConsumer = topics::client(own.unwrap_or(&properties))
            .set("group.id", &id)
            .create()
            .map_err(|e| CommitError::Config(format!("consumer: {e}")))?;
        let metadata = consumer.group_metadata().ok_or_else(|| CommitError::Config(format!("group {id} is refused")))?;
        let witness = sinks.get("sink").or_else(|| sinks.values().next()).filter(|_| own.is_none());
        Ok(Self {
            changelog,
            id,
            spec,
            properties,
            group: (consumer, metadata),
            witness: witness.map(|topic| PartitionName { topic: topic.as_str().into(), partition: 0 }),
            topics: sinks,
            transactions: None,
            tree: None,
            rebuilt: false,
            files: FileSinks::default(),
            lineage: String::new(),
            place: Place::default(),
            watch: Box::new(|_| {}),
            is_table: false,
            accepts_loss: false,
            is_half: false,
        })
    }

    fn send_all(&self, transactions: &Transactions, role: &str, records: &[OutRecord]) -> Result<(), CommitError> {
        let Some(topic) = self.topics.get(role) else { return Ok(()) };
        let largest = self.properties.get("message.max.bytes").and_then(|b| b.parse().ok()).unwrap_or(MESSAGE_MAX_BYTES);
        for records in records.chunks(SERVE_EVERY) {
            // A side output must not stop the job for a record that came in: it says where that is.
            let cut: Vec<_> = records.iter().map(|r| if role == "sink" { None } else { side::cut(r, largest) }).collect();
            let sent = records.iter().zip(&cut).map(|(record, cut)| cut.as_ref().unwrap_or(record));
            let sent = sent.map(|r| (r.key.as_deref(), (!r.is_tombstone).then_some(r.value.as_slice())));
            transactions.send_all(topic, None, &sent.collect::<Vec<_>>())?;
            transactions.poll();
        }
        Ok(())
    }

    fn transact(
        &self,
        transactions: &Transactions,
        commit: &EpochCommit,
        mark: &Mark,
        meta: &[u8],
    ) -> Result<Written, CommitError> {
        transactions.begin()?;
        self.send_all(transactions, "sink", &commit.outputs)?;
        commit.named.iter().try_for_each(|(role, records)| self.send_all(transactions, role, records))?;
        self.send_all(transactions, "late", &commit.late)?;
        self.send_all(transactions, "rejects", &commit.rejects)?;
        let mut shards: [Vec<KeyValue<'_>>; STATE_SHARDS as usize] = Default::default();
        for (shard, key, value) in commit.changes.iter() {
            let records = &mut shards[usize::from(shard % STATE_SHARDS)];
            records.push((Some(key), value));
            if records.len() == SERVE_EVERY {
                transactions.send_all(&self.changelog, Some(i32::from(shard)), records)?;
                transactions.poll();
                records.clear();
            }
        }
        for (shard, records) in (0..).zip(&shards).filter(|(_, records)| !records.is_empty()) {
            transactions.send_all(&self.changelog, Some(shard), records)?;
        }
        self.finish(transactions, commit.positions.iter().map(|p| Some(*p)), mark, meta)
    }

    /// Commits with the meta record and the group's offsets.
    fn finish(
        &self,
        transactions: &Transactions,
        positions: impl Iterator<Item = Option<i64>>,
        mark: &Mark,
        meta: &[u8],
    ) -> Result<Written, CommitError> {
        transactions.send(&self.changelog, Some(0), Some(replay::META_KEY), Some(meta))?;
        let offsets = match &self.witness {
            None => offsets(self.spec.partitions.iter().zip(positions), mark)?,
            Some(witness) => offsets(std::iter::once((witness, Some(NO_PLACE))), mark)?,
        };
        transactions.commit(Some((&offsets, &self.group.1)))
    }

    /// The tree of this job. One that does not read back is made anew: the changelog has everything.
    fn open_tree(&mut self) -> Result<Tree, CommitError> {
        match self.tree.take().map(Follower::finish) {
            Some(Ok(tree)) => return Ok(tree),
            Some(Err(error)) => tracing::warn!("{error}; the local tree is behind, and is brought up to date from the changelog"),
            None => {}
        }
        let path = self.spec.tree_path();
        match Tree::open(&path) {
            Err(error @ (TreeError::Damaged { .. } | TreeError::Format { .. })) => {
                tracing::warn!("{error}; it is made anew from the changelog");
                Tree::remove(&path)?;
                Ok(Tree::open(&path)?)
            }
            opened => Ok(opened?),
        }
    }

    fn make_topics(&self) -> Result<(), CommitError> {
        let shards = usize::from(STATE_SHARDS);
        let kept = REMOVALS_KEPT_MS.to_string();
        // The open segment is never compacted: at the broker's default of 1 GiB a restart would read that much of every shard.
        let mut settings =
            vec![("cleanup.policy", "compact"), ("delete.retention.ms", kept.as_str()), ("segment.bytes", SEGMENT_BYTES)];
        let mut rules = vec![
            Rule::is("cleanup.policy", "compact", "what it deletes by age or size is state that the job still has"),
            Rule::at_least(
                "delete.retention.ms",
                REMOVALS_KEPT_MS,
                "a local tree that was away for longer would bring keys back that were removed meanwhile",
            ),
        ];
        // Where the user lets records be larger, so must the topic that has the largest states.
        let large = self.properties.get("message.max.bytes");
        if let Some(large) = large {
            settings.push(("max.message.bytes", large));
        }
        if let Some(bytes) = large.and_then(|l| l.parse().ok()) {
            rules.push(Rule::at_least(
                "max.message.bytes",
                bytes,
                "the connection's `message.max.bytes` lets states be as large",
            ));
        }
        topics::create_with(&self.properties, &self.changelog, Some(shards), &settings)?;
        topics::check(&self.properties, &self.changelog, shards, &rules)?;
        self.make_sinks(large)
    }

    /// Topics of the sinks, where they are not there.
    fn make_sinks(&self, large: Option<&String>) -> Result<(), CommitError> {
        let large = large.map(|large| ("max.message.bytes", large.as_str()));
        for (role, topic) in &self.topics {
            let is_table = self.is_table && *role == "sink";
            let compact = is_table.then_some(("cleanup.policy", "compact"));
            let settings: Vec<_> = compact.into_iter().chain(large).collect();
            if topics::create_with(&self.properties, topic, None, &settings)? {
                tracing::info!("made topic {topic} for the job's {role}");
            } else if is_table
                && let Some(policy) = topics::setting(&self.properties, topic, "cleanup.policy")?
                && !policy.contains("compact")
            {
                tracing::warn!(
                    "topic {topic} has cleanup.policy={policy}: results are upserts, and what it deletes by age or size are rows that still \
                     hold. Set cleanup.policy=compact"
                );
            }
        }
        Ok(())
    }

    fn restore_as(&mut self, as_read: bool, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, CommitError> {
        self.files = FileSinks::default();
        self.transactions = None;
        // Before the fence: where another process of this job has the tree, this one ends and leaves that one alone.
        let mut tree = self.open_tree()?;
        self.make_topics()?;
        // The fence: behind it nothing can be added to the changelog that is read now.
        let transactions = Transactions::open(&self.properties, &self.id, &self.changelog)?;
        let meta = match self.load(&transactions, &mut tree, as_read, each) {
            Err(CommitError::Corrupt(why)) if !self.rebuilt => {
                drop(tree);
                Tree::remove(&self.spec.tree_path())?;
                self.rebuilt = true;
                return Err(CommitError::Aborted(format!("{why}; the local tree is made anew from the changelog")));
            }
            loaded => loaded?,
        };
        self.tree = Some(Follower::new(tree, gather_bytes(self.spec.state_memory))?);
        self.transactions = Some(transactions);
        Ok(meta)
    }
}

impl Drop for KafkaCommitter {
    /// A job that is stopped leaves a tree that is up to date.
    fn drop(&mut self) {
        if let Some(Err(error)) = self.tree.take().map(Follower::finish) {
            tracing::warn!("{error}; a restart reads the changelog");
        }
    }
}

impl Committer for KafkaCommitter {
    fn watch(&mut self, watch: RestoreWatch) {
        self.watch = watch;
    }

    fn partitions(&mut self, partitions: &[PartitionName]) {
        self.spec.partitions = partitions.to_vec();
    }

    fn results_are_a_table(&mut self) {
        self.is_table = true;
    }

    fn accept_loss(&mut self) {
        self.accepts_loss = true;
    }

    fn restore(&mut self, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, CommitError> {
        self.restore_as(false, each)
    }

    fn restore_log(&mut self, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, CommitError> {
        self.restore_as(true, each)
    }

    fn commit(&mut self, commit: EpochCommit) -> Result<(), CommitError> {
        let missing = || CommitError::Aborted("nothing has been restored".into());
        self.files.write("sink", &commit.outputs)?;
        commit.named.iter().try_for_each(|(role, records)| self.files.write(role, records))?;
        self.files.write("late", &commit.late)?;
        self.files.write("rejects", &commit.rejects)?;
        let transactions = self.transactions.as_ref().ok_or_else(missing)?;
        let meta = Meta { files: self.files.lengths(), ..commit.meta.clone() };
        let stored = Stored { lineage: self.lineage.clone(), meta };
        let mark = Mark::of(&stored);
        let stored = to_json(&stored)?;
        let written = match self.transact(transactions, &commit, &mark, &stored) {
            Ok(written) => written,
            Err(why) => {
                return Err(transactions.abort(why));
            }
        };
        self.is_half = written.first.iter().any(|(p, first)| self.place.offsets.get(p).is_some_and(|before| first <= before));
        // A place in the old topic shows the next start, too, that this one is short.
        if !self.is_half {
            self.place.advance(written.last);
        }
        // The epoch is committed: a tree that can't follow is not worth stopping for.
        if let Some(tree) = &mut self.tree
            && !tree.follow(commit.changes, stored, self.place.clone())
            && let Some(Err(error)) = self.tree.take().map(Follower::finish)
        {
            tracing::warn!("{error}; the job goes on without it, a restart reads the changelog");
        }
        if self.is_half {
            let text = format!("topic {} was made anew while the job ran: it has only what has changed since", self.changelog);
            return Err(CommitError::Aborted(text));
        }
        Ok(())
    }
}

/// Offsets to commit; the first of them has the mark.
fn offsets<'a>(
    positions: impl Iterator<Item = (&'a PartitionName, Option<i64>)>,
    mark: &Mark,
) -> Result<TopicPartitionList, CommitError> {
    let mut mark = Some(to_json(mark)?);
    let mut list = TopicPartitionList::new();
    for (name, position) in positions {
        let Some(position) = position else { continue };
        let bad = |e: KafkaError| CommitError::Corrupt(format!("{name} at {position}: {e}"));
        list.add_partition_offset(&name.topic, name.partition, Offset::Offset(position)).map_err(bad)?;
        if let (Some(mut added), Some(mark)) = (list.find_partition(&name.topic, name.partition), mark.take()) {
            added.set_metadata(String::from_utf8_lossy(&mark));
        }
    }
    Ok(list)
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, CommitError> {
    serde_json::to_vec(value).map_err(|e| CommitError::Corrupt(e.to_string()))
}
