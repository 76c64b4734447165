//! Where a job is told to begin (`--from`): words to a place, and a place to offsets of partitions.

use crate::element::PartitionName;
use crate::ingest::IngestError;
use crate::ingest::decode::timestamp;
use std::collections::BTreeMap;

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// At the oldest record that is still there.
    Earliest,
    /// At records that come from now on.
    Latest,
    /// At the first record of each partition whose own timestamp is this or later: milliseconds since 1970 UTC.
    Time(i64),
    /// At these offsets; partitions that are not named stay where they are.
    Offsets(BTreeMap<PartitionName, i64>),
}

impl std::str::FromStr for StartFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if text.contains('/') {
            return offsets(text).map(Self::Offsets);
        }
        let Some(ms) = timestamp::parse(text) else {
            return Err(format!(
                "`{text}` is no place to begin: write earliest, latest, a time like 2026-11-01T00:00Z, or offsets like topic/0:1500,topic/1:900"
            ));
        };
        let clock = text.split_once(['T', 't', ' ']).map(|(_, clock)| clock);
        match clock {
            Some(clock) if clock.contains(['Z', 'z', '+', '-']) => Ok(Self::Time(ms)),
            Some(_) => Err(format!("`{text}` has no time zone: write `{text}Z` for UTC, or `{text}+01:00`")),
            None => Err(format!("`{text}` has no time of day and no time zone: write for example `{text}T00:00Z`")),
        }
    }
}

fn offsets(text: &str) -> Result<BTreeMap<PartitionName, i64>, String> {
    let mut all = BTreeMap::new();
    for part in text.split(',').map(str::trim) {
        let read = part.rsplit_once(':').and_then(|(name, offset)| {
            let (topic, partition) = name.rsplit_once('/')?;
            let partition = partition.parse().ok().filter(|p| *p >= 0)?;
            Some((PartitionName { topic: topic.into(), partition }, offset.parse::<i64>().ok().filter(|o| *o >= 0)?))
        });
        let Some((name, offset)) = read.filter(|(name, _)| !name.topic.is_empty()) else {
            return Err(format!("`{part}` is not topic/partition:offset, for example clicks/0:1500"));
        };
        if let Some(other) = all.insert(name.clone(), offset) {
            return Err(format!("{name} is named twice, at {other} and at {offset}"));
        }
    }
    Ok(all)
}

/// Offsets by partition of a source, index as in [`super::Source::partitions`]; none where nothing was said of it. `range` gives the first
/// and the end offset of a partition.
///
/// # Errors
/// For a partition that the source has not, or an offset outside of what is there.
pub fn named(
    offsets: &BTreeMap<PartitionName, i64>,
    partitions: &[PartitionName],
    mut range: impl FnMut(usize) -> Result<(i64, i64), IngestError>,
) -> Result<Vec<Option<i64>>, IngestError> {
    if let Some(unknown) = offsets.keys().find(|p| !partitions.contains(p)) {
        let first = partitions.first().map_or_else(String::new, ToString::to_string);
        let all = match partitions.last() {
            Some(last) if partitions.len() > 1 => format!("{first} to {last}"),
            _ => first,
        };
        return Err(IngestError::Config(format!("--from: the source has no partition {unknown}; it has {all}")));
    }
    let mut positions = Vec::with_capacity(partitions.len());
    for (i, name) in partitions.iter().enumerate() {
        let position = offsets.get(name).copied();
        if let Some(offset) = position {
            let (first, end) = range(i)?;
            if !(first..=end).contains(&offset) {
                return Err(IngestError::Config(format!(
                    "--from: offset {offset} of {name} is outside of what is there: {first} is the first record, {end} the end"
                )));
            }
        }
        positions.push(position);
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(topic: &str, partition: i32) -> PartitionName {
        PartitionName { topic: topic.into(), partition }
    }

    #[test]
    fn places_as_people_write_them() {
        let read = |text: &str| text.parse::<StartFrom>();
        assert_eq!(read("earliest"), Ok(StartFrom::Earliest));
        assert_eq!(read("latest"), Ok(StartFrom::Latest));
        assert_eq!(read("1970-01-02T00:00Z"), Ok(StartFrom::Time(86_400_000)));
        assert_eq!(read("1970-01-02T01:00:00.5+01:00"), Ok(StartFrom::Time(86_400_500)));
        let offsets = [(name("a.b", 0), 15), (name("a.b", 12), 0)].into();
        assert_eq!(read("a.b/0:15, a.b/12:0"), Ok(StartFrom::Offsets(offsets)));
        assert_eq!(read("/tmp/a:b.jsonl/0:7"), Ok(StartFrom::Offsets([(name("/tmp/a:b.jsonl", 0), 7)].into())));
    }

    #[test]
    fn what_has_two_meanings_or_none_is_refused_with_what_to_write() {
        for (text, says) in [
            ("2026-11-01T00:00", "write `2026-11-01T00:00Z` for UTC"),
            ("2026-11-01", "no time of day"),
            ("yesterday", "earliest, latest, a time"),
            ("", "earliest, latest, a time"),
            ("1500", "earliest, latest, a time"),
            ("topic/0", "is not topic/partition:offset"),
            ("topic/x:1", "is not topic/partition:offset"),
            ("topic/0:-1", "is not topic/partition:offset"),
            ("/0:1", "is not topic/partition:offset"),
            ("topic/0:1,topic/0:2", "named twice, at 1 and at 2"),
        ] {
            let error = text.parse::<StartFrom>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn offsets_are_checked_against_what_is_there() {
        let partitions = [name("t", 0), name("t", 1)];
        let all = |offsets: &[(i32, i64)]| {
            let offsets = offsets.iter().map(|(p, o)| (name("t", *p), *o)).collect();
            named(&offsets, &partitions, |i| Ok((10 * i as i64, 20))).map_err(|e| e.to_string())
        };
        assert_eq!(all(&[(1, 10)]), Ok(vec![None, Some(10)]));
        assert_eq!(all(&[(0, 0), (1, 20)]), Ok(vec![Some(0), Some(20)]));
        assert!(all(&[(2, 1)]).unwrap_err().contains("no partition t/2; it has t/0 to t/1"));
        assert!(
            all(&[(1, 9)])
                .unwrap_err()
                .contains("offset 9 of t/1 is outside of what is there: 10 is the first record, 20 the end")
        );
        assert!(all(&[(0, 21)]).is_err());
    }
}
