//! How the event times of a partition's rows move its watermark, and which of them can't be true.
//!
//! In: rows in offset order. Out: the watermark after each, or the word that a row lies in the future.
//! **Invariant**: a pure function of the rows of the partition. No clock is asked, so a run again, a restart and a replay decide alike.
//!
//! The yardstick for "the future" is the timestamp of the row's own record, which stands beside it in Kafka for ever:
//!
//! - The clock of the machine would say "half a year ahead" today and "half a year ago" in a replay next year: the row would be rejected in
//!   one run and make half a year late in the other. The record's timestamp gives the same answer in both.
//! - A replay of a topic that is a year old has records that are a year old: nothing in it is ahead of its record but what was so then.
//! - A backfill, old events written today, has old event times in young records: nothing is ahead of them. (What lay in the future when
//!   the events were first written can't be known any more, unless their timestamps were written with them, as MirrorMaker does.)
//! - The producer's clock made it (`CreateTime`) or the broker's (`LogAppendTime`), not the phone's that made the event. A broker bounds the
//!   producer's in turn: `message.timestamp.after.max.ms`, an hour since Kafka 4.0.
//! - Files and standard input have no such timestamp: nothing of them is in the future.
//!
//! Nothing happens after it was written. So an event time between its record's timestamp and `maxFuture` after it (a clock that is fast, a
//! zone that is wrong) counts where it says, but moves the watermark no further than the record's timestamp: one phone can't make
//! the rows of all others late. One past `maxFuture` is rejected.

use crate::operator::assigner::EVENT_TIME_MAX;
use crate::plan::{ProcessPlan, WindowPlan};
use crate::time::{format_span, write_rfc3339};
use std::time::Duration;

/// Moves the watermark of a partition. Milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct EventClock {
    out_of_orderness: i64,
    max_future: i64,
}

/// A row whose event time lies too far after its record's timestamp. Milliseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFuture {
    time: i64,
    written: i64,
}

impl EventClock {
    /// The clock of a plan's window.
    pub fn new(window: &WindowPlan) -> Self {
        Self::with(window.out_of_orderness, window.max_future)
    }

    /// The clock of a keyed process.
    pub fn of_process(process: &ProcessPlan) -> Self {
        Self::with(process.out_of_orderness, process.max_future)
    }

    fn with(out_of_orderness: Duration, max_future: Duration) -> Self {
        Self { out_of_orderness: out_of_orderness.as_millis() as i64, max_future: max_future.as_millis() as i64 }
    }

    /// The watermark of a partition after a row of event time `time`; `written` gives the timestamp of its record.
    ///
    /// Only a row ahead of all before it is looked at: one that is not can't be further ahead than one that passed. Times that can't be
    /// leave the watermark where it is: one broken client would make all others late.
    ///
    /// # Errors
    /// The row lies in the future; the watermark stays.
    #[inline]
    pub fn advance(&self, watermark: i64, time: i64, written: impl FnOnce() -> Option<i64>) -> Result<i64, InFuture> {
        if time <= watermark.saturating_add(self.out_of_orderness) || !(-EVENT_TIME_MAX..=EVENT_TIME_MAX).contains(&time) {
            return Ok(watermark);
        }
        let bound = match written() {
            None => time,
            Some(written) if time > written.saturating_add(self.max_future) => return Err(InFuture { time, written }),
            Some(written) => time.min(written),
        };
        // A record's timestamp is whatever its producer says.
        Ok(watermark.max(bound.max(-EVENT_TIME_MAX) - self.out_of_orderness))
    }

    /// What is wrong with a row in the future, for people.
    pub fn reason(&self, row: InFuture) -> String {
        let mut text = String::from("the event time ");
        write_rfc3339(row.time, &mut text);
        let ahead = format_span(row.time.saturating_sub(row.written));
        text.push_str(&format!(" is {ahead} after its record's timestamp, "));
        write_rfc3339(row.written.clamp(-EVENT_TIME_MAX, EVENT_TIME_MAX), &mut text);
        text.push_str(&format!(": a clock was wrong (`maxFuture` is {})", format_span(self.max_future)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn clock() -> EventClock {
        EventClock { out_of_orderness: 2_000, max_future: DAY }
    }

    #[test]
    fn the_greatest_event_time_less_the_out_of_orderness() {
        let clock = clock();
        let mut watermark = i64::MIN;
        for (time, want) in [(10_000, 8_000), (9_999, 8_000), (3, 8_000), (10_001, 8_001), (10_001, 8_001), (11_000, 9_000)] {
            watermark = clock.advance(watermark, time, || None).unwrap();
            assert_eq!(watermark, want, "after {time}");
        }
    }

    #[test]
    fn a_time_ahead_of_its_record_moves_the_watermark_to_the_record_only() {
        let clock = clock();
        assert_eq!(clock.advance(0, 50_000, || Some(50_000)), Ok(48_000));
        assert_eq!(clock.advance(0, 50_000 + DAY, || Some(50_000)), Ok(48_000));
        // Never back, whatever the record says.
        assert_eq!(clock.advance(49_000, 60_000, || Some(1_000)), Ok(49_000));
        assert_eq!(clock.advance(i64::MIN, 5, || Some(i64::MIN)).unwrap_err().written, i64::MIN);
    }

    #[test]
    fn a_time_past_max_future_is_told_and_moves_nothing() {
        let clock = clock();
        let row = clock.advance(0, 50_001 + DAY, || Some(50_000)).unwrap_err();
        let text = clock.reason(row);
        assert_eq!(
            text,
            "the event time 1970-01-02T00:00:50.001Z is 1d after its record's timestamp, 1970-01-01T00:00:50.000Z: a clock was wrong \
             (`maxFuture` is 1d)"
        );
        // A row that is a year old beside a record that is a year old, and beside one of today.
        assert_eq!(clock.advance(0, DAY, || Some(DAY)), Ok(DAY - 2_000));
        assert_eq!(clock.advance(0, DAY, || Some(366 * DAY)), Ok(DAY - 2_000));
    }

    #[test]
    fn times_at_the_bounds_do_not_overflow() {
        let clock = EventClock { out_of_orderness: 3_155_760_000_000, max_future: 3_155_760_000_000 };
        for watermark in [i64::MIN, -EVENT_TIME_MAX, 0, EVENT_TIME_MAX] {
            for time in [i64::MIN, -EVENT_TIME_MAX, 0, EVENT_TIME_MAX, i64::MAX] {
                for written in [None, Some(i64::MIN), Some(0), Some(i64::MAX)] {
                    match clock.advance(watermark, time, || written) {
                        Ok(after) => assert!(after >= watermark),
                        Err(row) => assert!(!clock.reason(row).is_empty()),
                    }
                }
            }
        }
    }
}
