//! A broker in memory: the input's partitions with transactions of others, and what the job commits: results, side outputs, changelog,
//! offsets, in transactions of one producer at a time.
//!
//! **Invariant**: what an open transaction wrote is seen by nobody; what an aborted one wrote, never. Marks at the end of transactions take
//! offsets, as Kafka's do, so offsets have gaps.

use kindling::element::OwnedRecord;
use kindling::output::Meta;
use kindling::output::replay::{REMOVALS_KEPT_MS, Stored};
use std::collections::BTreeMap;

/// Key of the record in partition 0 of the changelog that holds the job's position.
pub const META_KEY: &[u8] = b"meta";

/// A transaction of a producer of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open,
    Committed,
    Aborted,
}

/// A place in a partition of the input.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A record, and the transaction that it is of.
    Record(OwnedRecord, Option<usize>),
    /// The mark at the end of a transaction.
    Mark,
}

/// A record of the changelog.
#[derive(Clone, Debug)]
pub struct Logged {
    pub offset: i64,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970 UTC.
    pub time: i64,
}

/// A partition of the changelog: committed records by rising offset.
#[derive(Clone, Debug, Default)]
pub struct LogPartition {
    pub records: Vec<Logged>,
    pub next: i64,
}

/// A record of an output topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produced {
    pub topic: &'static str,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// What a transaction of the job holds.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub produced: Vec<Produced>,
    /// Partition of the changelog and record, its offset given already.
    pub logged: Vec<(usize, Logged)>,
    /// Next offset of each partition of the input.
    pub offsets: Option<Vec<i64>>,
}

/// A committed transaction.
#[derive(Clone, Debug)]
pub struct Committed {
    pub produced: Vec<Produced>,
    pub offsets: Vec<i64>,
    pub meta: Meta,
}

/// All topics.
#[derive(Default)]
pub struct Broker {
    pub input: Vec<Vec<Entry>>,
    pub fates: Vec<Fate>,
    /// Nothing is added to the input any more.
    pub is_closed: bool,
    pub changelog: Vec<LogPartition>,
    pub committed: Vec<Committed>,
    /// The consumer group's offsets.
    pub offsets: Vec<Option<i64>>,
    /// Of the job's producer.
    pub epoch: u64,
    pub open: Option<Transaction>,
    /// Nobody is answered before: milliseconds since the start.
    pub away_until: u64,
    /// A defect on purpose: readers see what was aborted.
    pub shows_aborted: bool,
}

impl Broker {
    pub fn new(partitions: usize, shards: usize) -> Self {
        Self {
            input: vec![Vec::new(); partitions],
            changelog: vec![LogPartition::default(); shards],
            offsets: vec![None; partitions],
            ..Self::default()
        }
    }

    /// Adds a record; its offset is given here.
    pub fn append(&mut self, partition: usize, record: OwnedRecord, transaction: Option<usize>) {
        if let Some(number) = transaction {
            self.fates.resize(self.fates.len().max(number + 1), Fate::Open);
        }
        let offset = self.input[partition].len() as i64;
        self.input[partition].push(Entry::Record(OwnedRecord { offset, ..record }, transaction));
    }

    /// Ends a transaction of the input's producers: a mark in each partition that it wrote to.
    pub fn end(&mut self, transaction: usize, fate: Fate) {
        let of = |e: &Entry| matches!(e, Entry::Record(_, Some(t)) if *t == transaction);
        for partition in &mut self.input {
            if partition.iter().any(of) {
                partition.push(Entry::Mark);
            }
        }
        if let Some(known) = self.fates.get_mut(transaction) {
            *known = fate;
        }
    }

    fn is_open(&self, entry: &Entry) -> bool {
        matches!(entry, Entry::Record(_, Some(t)) if self.fates[*t] == Fate::Open)
    }

    /// Where readers of committed records stop.
    pub fn stable_end(&self, partition: usize) -> i64 {
        let entries = &self.input[partition];
        entries.iter().position(|e| self.is_open(e)).unwrap_or(entries.len()) as i64
    }

    /// The end, records of open transactions among it.
    pub fn end_offset(&self, partition: usize) -> i64 {
        self.input[partition].len() as i64
    }

    /// Committed records of a partition from `position`, up to `rows`.
    pub fn read(&self, partition: usize, position: i64, rows: usize) -> Vec<OwnedRecord> {
        let from = (position.max(0) as usize).min(self.input[partition].len());
        let end = (self.stable_end(partition) as usize).max(from);
        let entries = &self.input[partition][from..end];
        let visible = entries.iter().filter_map(|e| match e {
            Entry::Record(record, transaction) => Some((record, transaction)),
            Entry::Mark => None,
        });
        let is_good = |t: &Option<usize>| self.shows_aborted || t.is_none_or(|t| self.fates[t] == Fate::Committed);
        let visible = visible.filter(|(_, t)| is_good(t)).map(|(record, _)| record);
        visible.take(rows).cloned().collect()
    }

    /// Fences every other producer, and aborts what is open.
    pub fn init_producer(&mut self) -> u64 {
        self.abort();
        self.epoch += 1;
        self.epoch
    }

    /// Writes a record of the changelog into the open transaction; gives its offset.
    pub fn log(&mut self, shard: usize, key: &[u8], value: Option<&[u8]>, time: i64) -> i64 {
        let partition = &mut self.changelog[shard];
        let offset = partition.next;
        partition.next += 1;
        let record = Logged { offset, key: key.to_vec(), value: value.map(<[u8]>::to_vec), time };
        self.open.get_or_insert_default().logged.push((shard, record));
        offset
    }

    fn marks(&mut self, transaction: &Transaction) {
        let mut shards: Vec<usize> = transaction.logged.iter().map(|(shard, _)| *shard).collect();
        shards.sort_unstable();
        shards.dedup();
        shards.into_iter().for_each(|shard| self.changelog[shard].next += 1);
    }

    /// Takes the open transaction back.
    pub fn abort(&mut self) {
        if let Some(transaction) = self.open.take() {
            self.marks(&transaction);
        }
    }

    /// Commits the open transaction. What is wrong with it is told.
    pub fn commit(&mut self) -> Result<(), String> {
        let transaction = self.open.take().unwrap_or_default();
        self.marks(&transaction);
        let meta = transaction.logged.iter().rev().find(|(shard, r)| *shard == 0 && r.key == META_KEY);
        let meta = meta.and_then(|(_, r)| r.value.as_deref()).ok_or("a transaction has no position of the job")?;
        let meta = position(meta)?;
        for (shard, record) in transaction.logged {
            self.changelog[shard].records.push(record);
        }
        if let Some(offsets) = transaction.offsets {
            self.offsets = offsets.into_iter().map(Some).collect();
        }
        let offsets = self.offsets.iter().map(|o| o.unwrap_or(0)).collect();
        self.committed.push(Committed { produced: transaction.produced, offsets, meta });
        Ok(())
    }

    /// Keeps the last record of each key of the changelog, and removals only for so long, as a log cleaner does it now and then.
    pub fn compact(&mut self, shard: usize, now: i64) {
        let records = &mut self.changelog[shard].records;
        let last: BTreeMap<Vec<u8>, i64> = records.iter().map(|r| (r.key.clone(), r.offset)).collect();
        records.retain(|r| last[&r.key] == r.offset && (r.value.is_some() || now - r.time < REMOVALS_KEPT_MS));
    }

    /// What the changelog says that the state is, by shard and key.
    pub fn table(&self) -> BTreeMap<(usize, Vec<u8>), Vec<u8>> {
        let mut table = BTreeMap::new();
        for (shard, partition) in self.changelog.iter().enumerate() {
            for record in partition.records.iter().filter(|r| r.key != META_KEY) {
                match &record.value {
                    Some(value) => table.insert((shard, record.key.clone()), value.clone()),
                    None => table.remove(&(shard, record.key.clone())),
                };
            }
        }
        table
    }
}

/// The job's position in a record of the changelog.
pub fn position(value: &[u8]) -> Result<Meta, String> {
    serde_json::from_slice::<Stored>(value).map(|s| s.meta).map_err(|e| format!("the stored position does not read back: {e}"))
}
