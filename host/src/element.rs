//! What flows: records as a source gave them, and the newtypes of time and position that everything shares.

use arrow::array::RecordBatch;
use std::fmt;
use std::sync::Arc;

/// When an event happened: milliseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(pub i64);

/// "No event before this time is expected any more": milliseconds since 1970 UTC. Never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watermark(pub i64);

impl Watermark {
    /// Nothing seen yet.
    pub const NONE: Self = Self(i64::MIN);
    /// The input has ended: every window may close.
    pub const END: Self = Self(i64::MAX);
}

/// The number of an epoch of a job, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochId(pub u64);

/// A partition of the input by the names a user knows: topic and number, or a file's path and 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionName {
    /// Topic, or path of the file.
    pub topic: Arc<str>,
    /// Number within the topic.
    pub partition: i32,
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// One record of the input, borrowed from its [`RawBatch`].
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Position within the partition.
    pub offset: i64,
    /// The record's own timestamp (Kafka: create or append time), milliseconds since 1970 UTC.
    pub timestamp: Option<i64>,
    /// Key bytes.
    pub key: Option<&'a [u8]>,
    /// Value bytes; none for a tombstone.
    pub value: Option<&'a [u8]>,
}

/// The records of a [`RawBatch`], held as their source gave them.
pub trait Records: Send {
    /// Number of records.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Record `i`, `i < len()`.
    fn record(&self, i: usize) -> Record<'_>;
    /// Headers of record `i` in their order: name and value. Slow; read only when a pipeline uses them.
    fn headers(&self, i: usize) -> Vec<(String, Option<Vec<u8>>)>;
    /// Bytes of keys and values.
    fn bytes(&self) -> usize;
    /// The rows as columns, where they are no records of the input but results of an operation; those have neither key nor value.
    fn results(&self) -> Option<&RecordBatch> {
        None
    }
}

/// Results of an operation, which the next one is given as if they were records: their offsets count them since the job began.
pub struct ResultRows {
    /// The rows.
    pub rows: RecordBatch,
    /// Offset of the first.
    pub first: i64,
}

impl Records for ResultRows {
    fn len(&self) -> usize {
        self.rows.num_rows()
    }
    fn record(&self, i: usize) -> Record<'_> {
        Record { offset: self.first + i as i64, timestamp: None, key: None, value: None }
    }
    fn headers(&self, _: usize) -> Vec<(String, Option<Vec<u8>>)> {
        Vec::new()
    }
    fn bytes(&self) -> usize {
        0
    }
    fn results(&self) -> Option<&RecordBatch> {
        Some(&self.rows)
    }
}

/// Records of one partition in offset order, as a source gave them.
pub struct RawBatch {
    /// Index into [`crate::ingest::Source::partitions`].
    pub partition: usize,
    /// The records.
    pub records: Box<dyn Records>,
}

/// Records that are owned: files, stdin, the generator, tests.
#[derive(Default)]
pub struct OwnedRecords {
    /// Offset, timestamp, key, value of each record.
    pub rows: Vec<OwnedRecord>,
}

/// One owned record.
#[derive(Clone, Debug, Default)]
pub struct OwnedRecord {
    /// Position within the partition.
    pub offset: i64,
    /// Milliseconds since 1970 UTC.
    pub timestamp: Option<i64>,
    /// Key bytes.
    pub key: Option<Vec<u8>>,
    /// Value bytes.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Records for OwnedRecords {
    fn len(&self) -> usize {
        self.rows.len()
    }
    fn record(&self, i: usize) -> Record<'_> {
        let r = &self.rows[i];
        Record { offset: r.offset, timestamp: r.timestamp, key: r.key.as_deref(), value: r.value.as_deref() }
    }
    fn headers(&self, i: usize) -> Vec<(String, Option<Vec<u8>>)> {
        self.rows[i].headers.clone()
    }
    fn bytes(&self) -> usize {
        self.rows.iter().map(|r| r.key.as_ref().map_or(0, Vec::len) + r.value.as_ref().map_or(0, Vec::len)).sum()
    }
}
