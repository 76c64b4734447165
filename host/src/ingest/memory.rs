//! Records in memory as a source: a log with partitions and offsets, for scenario tests and the demo.

use super::{IngestError, Polled, Reader, Source};
use crate::element::{OwnedRecord, PartitionName, RawBatch, Record, Records};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A log in memory. Clones are the same log, so that a test can append while a job reads, or start the job again.
#[derive(Clone, Default)]
pub struct MemoryLog {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// Records of each partition by rising offset.
    partitions: Vec<Vec<Arc<OwnedRecord>>>,
    closed: bool,
}

impl MemoryLog {
    /// A log of these partitions, each by rising offset; offsets may have gaps. It stays open until [`MemoryLog::close`].
    pub fn new(partitions: Vec<Vec<OwnedRecord>>) -> Self {
        let partitions = partitions.into_iter().map(|p| p.into_iter().map(Arc::new).collect()).collect();
        Self { shared: Arc::new(Mutex::new(Shared { partitions, closed: false })) }
    }

    /// Appends a record; its offset must be greater than those before it. An unknown partition is ignored.
    pub fn append(&self, partition: usize, record: OwnedRecord) {
        if let Some(records) = self.lock().partitions.get_mut(partition) {
            records.push(Arc::new(record));
        }
    }

    /// No record comes any more: readers at the end are finished.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// A source over this log; `topic` is its name.
    pub fn source(&self, topic: &str) -> MemorySource {
        let name = |partition| PartitionName { topic: topic.into(), partition: partition as i32 };
        MemorySource { partitions: (0..self.lock().partitions.len()).map(name).collect(), log: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`MemoryLog`] as a source.
pub struct MemorySource {
    partitions: Vec<PartitionName>,
    log: MemoryLog,
}

impl MemorySource {
    /// These partitions of topic `memory`, each by rising offset, and nothing after them.
    pub fn ended(partitions: Vec<Vec<OwnedRecord>>) -> Self {
        let log = MemoryLog::new(partitions);
        log.close();
        log.source("memory")
    }
}

impl Source for MemorySource {
    fn partitions(&self) -> &[PartitionName] {
        &self.partitions
    }

    fn start_positions(&mut self) -> Result<Vec<i64>, IngestError> {
        Ok(self.log.lock().partitions.iter().map(|p| p.first().map_or(0, |r| r.offset)).collect())
    }

    fn readers(&mut self, positions: &[i64], readers: usize) -> Result<Vec<Box<dyn Reader>>, IngestError> {
        let mut shares: Vec<Vec<Place>> = (0..readers).map(|_| Vec::new()).collect();
        for (partition, &position) in positions.iter().enumerate() {
            shares[partition % readers].push(Place { partition, position, end_told: false, finished: false });
        }
        let reader =
            |places| Box::new(MemoryReader { log: self.log.clone(), places, next: 0, held: Vec::new() }) as Box<dyn Reader>;
        Ok(shares.into_iter().map(reader).collect())
    }

    fn end_positions(&mut self) -> Vec<i64> {
        self.log.lock().partitions.iter().map(|p| p.last().map_or(0, |r| r.offset + 1)).collect()
    }
}

struct Place {
    partition: usize,
    position: i64,
    end_told: bool,
    finished: bool,
}

struct MemoryReader {
    log: MemoryLog,
    places: Vec<Place>,
    /// Partition that is read first next time, so that none waits for another.
    next: usize,
    held: Vec<bool>,
}

impl MemoryReader {
    fn take(&mut self, rows: usize) -> Polled {
        let mut polled = Polled::default();
        let (shared, places) = (self.log.lock(), self.places.len());
        let mut left = rows;
        for i in 0..places {
            let place = &mut self.places[(self.next + i) % places];
            if self.held.get(place.partition) == Some(&true) {
                continue;
            }
            let log = &shared.partitions[place.partition];
            let start = log.partition_point(|r| r.offset < place.position);
            let share = left.div_ceil(places - i).min(log.len() - start);
            if share > 0 {
                let records = log[start..start + share].to_vec();
                place.position = records[share - 1].offset + 1;
                place.end_told = false;
                left -= share;
                polled.batches.push(RawBatch { partition: place.partition, records: Box::new(MemoryRecords(records)) });
            }
            if start + share == log.len() {
                if shared.closed && !std::mem::replace(&mut place.finished, true) {
                    polled.finished.push(place.partition);
                } else if !shared.closed && !std::mem::replace(&mut place.end_told, true) {
                    polled.at_end.push(place.partition);
                }
            }
        }
        self.next = (self.next + 1) % places.max(1);
        polled
    }
}

impl Reader for MemoryReader {
    fn poll(&mut self, rows: usize, wait: Duration) -> Result<Polled, IngestError> {
        let polled = self.take(rows);
        if !polled.batches.is_empty() || !polled.finished.is_empty() || !polled.at_end.is_empty() {
            return Ok(polled);
        }
        std::thread::sleep(wait);
        Ok(self.take(rows))
    }

    fn hold(&mut self, held: &[bool]) {
        self.held = held.to_vec();
    }
}

struct MemoryRecords(Vec<Arc<OwnedRecord>>);

impl Records for MemoryRecords {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn record(&self, i: usize) -> Record<'_> {
        let r = &self.0[i];
        Record { offset: r.offset, timestamp: r.timestamp, key: r.key.as_deref(), value: r.value.as_deref() }
    }
    fn headers(&self, i: usize) -> Vec<(String, Option<Vec<u8>>)> {
        self.0[i].headers.clone()
    }
    fn bytes(&self) -> usize {
        self.0.iter().map(|r| r.key.as_ref().map_or(0, Vec::len) + r.value.as_ref().map_or(0, Vec::len)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(offsets: &[i64]) -> Vec<OwnedRecord> {
        offsets.iter().map(|&offset| OwnedRecord { offset, ..Default::default() }).collect()
    }

    fn offsets(polled: &Polled) -> Vec<(usize, Vec<i64>)> {
        let of = |b: &RawBatch| (b.partition, (0..b.records.len()).map(|i| b.records.record(i).offset).collect());
        polled.batches.iter().map(of).collect()
    }

    #[test]
    fn an_open_log_tells_its_end_once_and_goes_on() {
        let log = MemoryLog::new(vec![records(&[5, 6, 9]), vec![]]);
        let mut source = log.source("t");
        assert_eq!((source.start_positions().unwrap(), source.end_positions()), (vec![5, 0], vec![10, 0]));
        let mut reader = source.readers(&[6, 0], 1).unwrap().remove(0);
        let polled = reader.poll(10, Duration::ZERO).unwrap();
        assert_eq!((offsets(&polled), polled.at_end), (vec![(0, vec![6, 9])], vec![0, 1]));
        let polled = reader.poll(10, Duration::ZERO).unwrap();
        assert!(polled.batches.is_empty() && polled.at_end.is_empty() && polled.finished.is_empty());
        log.append(1, OwnedRecord::default());
        let polled = reader.poll(10, Duration::ZERO).unwrap();
        assert_eq!((offsets(&polled), polled.at_end), (vec![(1, vec![0])], vec![1]));
        log.close();
        let mut finished = reader.poll(10, Duration::ZERO).unwrap().finished;
        finished.sort_unstable();
        assert_eq!(finished, [0, 1]);
    }

    #[test]
    fn a_held_partition_waits_and_goes_on() {
        let mut source = MemorySource::ended(vec![records(&[0, 1]), records(&[0, 1])]);
        let mut reader = source.readers(&[0, 0], 1).unwrap().remove(0);
        reader.hold(&[false, true]);
        assert_eq!(offsets(&reader.poll(10, Duration::ZERO).unwrap()), [(0, vec![0, 1])]);
        assert!(reader.poll(10, Duration::ZERO).unwrap().finished.is_empty());
        reader.hold(&[]);
        assert_eq!(offsets(&reader.poll(10, Duration::ZERO).unwrap()), [(1, vec![0, 1])]);
    }

    #[test]
    fn row_by_row_every_partition_has_its_turn() {
        let mut source = MemorySource::ended(vec![records(&[0, 1]), records(&[0, 1])]);
        let mut reader = source.readers(&[0, 0], 1).unwrap().remove(0);
        let got: Vec<_> =
            (0..4).flat_map(|_| offsets(&reader.poll(1, Duration::ZERO).unwrap())).map(|(p, o)| (p, o[0])).collect();
        assert_eq!(got, [(0, 0), (1, 0), (0, 1), (1, 1)]);
    }
}
