//! The watermark before each row of a task, and rows whose event time can't be one.

use super::EpochTask;
use crate::element::RawBatch;
use crate::operator::assigner::EVENT_TIME_MAX;
use crate::operator::watermark::EventClock;
use std::ops::Range;

impl EpochTask<'_> {
    /// The clock of the operation with state.
    pub(super) fn clock(&self) -> Option<EventClock> {
        self.window.as_ref().map(|w| w.clock).or_else(|| self.process.as_ref().map(|p| p.clock))
    }

    /// The watermark before each raw row, where the event time is a decoded column: rows that a filter will drop, or the decoder has
    /// dropped by it, count too.
    pub(super) fn watermarks_before(&mut self, clock: EventClock, raw: &RawBatch, rows: &Range<usize>) -> Option<Vec<i64>> {
        self.future.clear();
        self.plan.decoded_event_time()?;
        let mut watermark = self.out.watermarks[raw.partition];
        let mut before = Vec::with_capacity(rows.len());
        for (row, time) in rows.clone().zip(self.decoder.event_times()) {
            before.push(watermark);
            if let Some(time) = time {
                match clock.advance(watermark, *time, || raw.records.record(row).timestamp) {
                    Ok(after) => watermark = after,
                    Err(future) => self.future.push((row as u32, future)),
                }
            }
        }
        self.out.watermarks[raw.partition] = watermark;
        Some(before)
    }

    /// The watermark of the partition before a row; where rows move it only now, this one does. Or why its event time can't be one.
    #[inline]
    pub(super) fn watermark_before(
        &mut self,
        clock: EventClock,
        raw: &RawBatch,
        row: usize,
        time: Option<i64>,
        before: Option<&(usize, Vec<i64>)>,
        moves: bool,
    ) -> Result<i64, String> {
        let Some(time) = time else { return Err("the event time is null".to_owned()) };
        if !(-EVENT_TIME_MAX..=EVENT_TIME_MAX).contains(&time) {
            return Err("the event time is beyond 100 million days from 1970".to_owned());
        }
        let Some((start, before)) = before else {
            let watermark = self.out.watermarks[raw.partition];
            if moves {
                let after = clock.advance(watermark, time, || raw.records.record(row).timestamp);
                self.out.watermarks[raw.partition] = after.map_err(|future| clock.reason(future))?;
            }
            return Ok(watermark);
        };
        match self.future.binary_search_by_key(&row, |(row, _)| *row as usize) {
            Ok(at) => Err(clock.reason(self.future[at].1)),
            Err(_) => Ok(before[row - start]),
        }
    }
}
