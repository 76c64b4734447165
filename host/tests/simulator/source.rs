//! The input of a process: reads what is committed, stops before open transactions, tells ends as Kafka's client does.

use crate::world::{Refusal, Shared, State};
use kindling::element::{OwnedRecords, PartitionName, RawBatch};
use kindling::ingest::{EndQuery, IngestError, Polled, Reader, Source};
use std::time::Duration;

/// The source of one process.
pub struct SimSource {
    pub shared: Shared,
    pub process: usize,
    pub names: Vec<PartitionName>,
}

fn external(what: &str, refusal: Refusal) -> IngestError {
    IngestError::External(format!("{what}: {refusal:?}"))
}

impl Source for SimSource {
    fn partitions(&self) -> &[PartitionName] {
        &self.names
    }

    fn start_positions(&mut self) -> Result<Vec<i64>, IngestError> {
        let mut state = self.shared.lock();
        state.io(self.process, "committed offsets").map_err(|r| external("committed offsets", r))?;
        Ok(state.broker.offsets.iter().map(|o| o.unwrap_or(0)).collect())
    }

    fn readers(&mut self, positions: &[i64], readers: usize) -> Result<Vec<Box<dyn Reader>>, IngestError> {
        self.shared.lock().io(self.process, "readers").map_err(|r| external("readers", r))?;
        let place = |partition: usize| Place { partition, position: positions[partition], told: None, is_finished: false };
        let reader = |r: usize| {
            let places = (r..positions.len()).step_by(readers).map(place).collect();
            Box::new(SimReader { shared: self.shared.clone(), process: self.process, places, held: Vec::new() })
                as Box<dyn Reader>
        };
        Ok((0..readers).map(reader).collect())
    }

    fn end_positions(&mut self) -> Vec<i64> {
        let state = self.shared.lock();
        (0..self.names.len()).map(|p| state.broker.stable_end(p)).collect()
    }

    fn end_query(&mut self) -> Option<Box<dyn EndQuery>> {
        Some(Box::new(Ends { shared: self.shared.clone(), process: self.process }))
    }
}

struct Ends {
    shared: Shared,
    process: usize,
}

impl EndQuery for Ends {
    fn end(&mut self, partition: usize) -> Option<i64> {
        let mut state = self.shared.lock();
        state.io(self.process, "end of a partition").ok()?;
        Some(state.broker.end_offset(partition))
    }
}

struct Place {
    partition: usize,
    position: i64,
    /// The end that was told last.
    told: Option<i64>,
    is_finished: bool,
}

struct SimReader {
    shared: Shared,
    process: usize,
    places: Vec<Place>,
    held: Vec<bool>,
}

impl Reader for SimReader {
    fn poll(&mut self, rows: usize, wait: Duration) -> Result<Polled, IngestError> {
        let mut state = self.shared.lock();
        match state.io(self.process, "poll") {
            Ok(()) => {}
            // The client mends most of it by itself, and gives nothing meanwhile.
            Err(Refusal::Away) if !state.random.one_in(6) => return Ok(Polled::default()),
            Err(refusal) => return Err(external("poll", refusal)),
        }
        let mut polled = Polled::default();
        let mut left = rows;
        let first = state.random.below(self.places.len().max(1) as u64) as usize;
        for i in 0..self.places.len() {
            let at = (first + i) % self.places.len();
            let place = &mut self.places[at];
            if self.held.get(place.partition) != Some(&true) {
                take(&mut state, place, &mut left, &mut polled);
            }
        }
        let got: Vec<(usize, usize)> = polled.batches.iter().map(|b| (b.partition, b.records.len())).collect();
        if got.is_empty() {
            state.clock_ms += (wait.as_millis() as u64).max(1);
        } else {
            state.clock_ms += state.random.below(4);
        }
        if !got.is_empty() || !polled.at_end.is_empty() || !polled.finished.is_empty() {
            let text = format!("polls {got:?} ends {:?} finished {:?}", polled.end_offsets, polled.finished);
            state.note(self.process, text);
        }
        Ok(polled)
    }

    fn hold(&mut self, held: &[bool]) {
        self.held = held.to_vec();
    }
}

fn take(state: &mut State, place: &mut Place, left: &mut usize, polled: &mut Polled) {
    let want = (*left).min(state.random.below(6) as usize);
    let rows = state.broker.read(place.partition, place.position, want);
    if let Some(last) = rows.last() {
        *left -= rows.len();
        (place.position, place.told) = (last.offset + 1, None);
        polled.batches.push(RawBatch { partition: place.partition, records: Box::new(OwnedRecords { rows }) });
    }
    let end = state.broker.stable_end(place.partition);
    if !state.broker.read(place.partition, place.position, 1).is_empty() {
        return;
    }
    // Marks and what was aborted are passed over.
    place.position = place.position.max(end);
    if state.broker.is_closed && end == state.broker.end_offset(place.partition) {
        if !std::mem::replace(&mut place.is_finished, true) {
            polled.finished.push(place.partition);
        }
    } else if place.told.replace(end) != Some(end) {
        polled.at_end.push(place.partition);
        polled.end_offsets.push((place.partition, end));
    }
}
