//! Offsets of a Kafka topic for a place to begin.

use super::KafkaSource;
use crate::ingest::IngestError;
use crate::ingest::start::{StartFrom, named};

/// The offset of each partition; none where `from` says nothing of it.
pub(super) fn positions(source: &mut KafkaSource, from: &StartFrom) -> Result<Vec<Option<i64>>, IngestError> {
    match from {
        StartFrom::Earliest => Ok(source.watermarks(&[])?.into_iter().map(|(first, _)| Some(first)).collect()),
        StartFrom::Latest => Ok(source.watermarks(&[])?.into_iter().map(|(_, end)| Some(end)).collect()),
        StartFrom::Time(ms) => {
            let numbers: Vec<i32> = source.partitions.iter().map(|p| p.partition).collect();
            let found = source.client.offsets_at(*ms, &numbers)?;
            // Where all records are older the next one to come is the first at that time.
            let watermarks = source.watermarks(&[])?;
            Ok(found.into_iter().zip(watermarks).map(|(at, (_, end))| Some(at.unwrap_or(end))).collect())
        }
        StartFrom::Offsets(offsets) => {
            let watermarks = source.watermarks(&[])?;
            named(offsets, &source.partitions, |i| Ok(watermarks[i]))
        }
    }
}
