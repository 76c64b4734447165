//! Calendar windows: days, weeks (from Monday) and months as a time zone has them, so a day is 23, 24 or 25 hours long where clocks change.
//!
//! A window is one pane; its id is its start. Where a date has no midnight (clocks go forward at 0:00), it begins with its first instant;
//! where it has two, with the first.

use super::Aligned;
use crate::config::spec::CalendarUnit;
use chrono::{DateTime, Datelike, Days, MappedLocalTime, Months, NaiveDate, NaiveDateTime, TimeDelta, TimeZone};
use chrono_tz::Tz;

/// A day of the calendar from which days are counted: 1970-01-01. It is a Thursday.
const EPOCH: NaiveDate = NaiveDate::from_ymd_opt(1970, 1, 1).expect("it is a date");
/// The first Monday before [`EPOCH`], in days.
const MONDAY: i64 = -3;
/// Shifts of a clock are at most this far apart: within it a local time that is skipped is found again.
const SKIPPED_HOURS_MAX: i64 = 25;

/// Windows of `count` units in a time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    unit: CalendarUnit,
    count: i64,
    zone: Tz,
    offset: i64,
    lateness: i64,
}

impl Calendar {
    /// Windows of `count` units in `zone` that start `offset` ms after midnight by its clocks and close `lateness` ms after their end.
    pub fn new(unit: CalendarUnit, count: u32, zone: Tz, offset: i64, lateness: i64) -> Self {
        Self { unit, count: i64::from(count.max(1)), zone, offset, lateness: lateness.max(0) }
    }

    /// Number of the window that holds a date and time by the zone's clocks.
    fn number(&self, local: NaiveDateTime) -> i64 {
        let date = local.checked_sub_signed(TimeDelta::milliseconds(self.offset)).unwrap_or(local).date();
        let days = date.signed_duration_since(EPOCH).num_days();
        let units = match self.unit {
            CalendarUnit::Day => days,
            CalendarUnit::Week => (days - MONDAY).div_euclid(7),
            CalendarUnit::Month => (i64::from(date.year()) - 1970) * 12 + i64::from(date.month0()),
        };
        units.div_euclid(self.count)
    }

    /// Start of window `number`, milliseconds since 1970 UTC.
    fn start(&self, number: i64) -> i64 {
        let units = number * self.count;
        let from = |date: NaiveDate, days: i64| match u64::try_from(days) {
            Ok(days) => date.checked_add_days(Days::new(days)),
            Err(_) => date.checked_sub_days(Days::new(days.unsigned_abs())),
        };
        let date = match self.unit {
            CalendarUnit::Day => from(EPOCH, units),
            CalendarUnit::Week => from(EPOCH, units * 7 + MONDAY),
            CalendarUnit::Month => {
                let months = Months::new(u32::try_from(units.unsigned_abs()).unwrap_or(u32::MAX));
                if units < 0 { EPOCH.checked_sub_months(months) } else { EPOCH.checked_add_months(months) }
            }
        };
        let edge = if number < 0 { NaiveDateTime::MIN } else { NaiveDateTime::MAX };
        let local = date.and_then(|d| d.and_hms_opt(0, 0, 0)).unwrap_or(edge);
        self.instant(local.checked_add_signed(TimeDelta::milliseconds(self.offset)).unwrap_or(local))
    }

    /// The first instant at which the zone's clocks show `local` or, where they skip it, a later time.
    fn instant(&self, local: NaiveDateTime) -> i64 {
        match self.zone.from_local_datetime(&local) {
            MappedLocalTime::Single(t) | MappedLocalTime::Ambiguous(t, _) => t.timestamp_millis(),
            MappedLocalTime::None => self.after_gap(local),
        }
    }

    /// The instant at which the zone's clocks jump over `local`, by bisection to the millisecond.
    fn after_gap(&self, local: NaiveDateTime) -> i64 {
        let middle = local.and_utc().timestamp_millis();
        let reach = SKIPPED_HOURS_MAX * 3_600_000;
        let (mut before, mut after) = (middle - reach, middle + reach);
        while after - before > 1 {
            let at = before + (after - before) / 2;
            if self.local(at) < local { before = at } else { after = at }
        }
        after
    }

    /// What the zone's clocks show at `time`.
    fn local(&self, time: i64) -> NaiveDateTime {
        let edge = if time < 0 { DateTime::<chrono::Utc>::MIN_UTC } else { DateTime::<chrono::Utc>::MAX_UTC };
        let utc = DateTime::from_timestamp_millis(time).unwrap_or(edge).naive_utc();
        // At the ends of chrono's years a shift into the zone would not fit.
        let inner = TimeDelta::days(2);
        let utc = utc.clamp(NaiveDateTime::MIN + inner, NaiveDateTime::MAX - inner);
        self.zone.from_utc_datetime(&utc).naive_local()
    }
}

impl Aligned for Calendar {
    fn pane(&self, time: i64) -> (i64, i64) {
        let number = self.number(self.local(time));
        let (start, end) = (self.start(number), self.start(number + 1));
        // A clock that goes back over midnight shows a date twice: what comes after the next date has begun belongs to that.
        if time >= end { (end, self.start(number + 2)) } else { (start, end) }
    }

    fn first(&self, pane: i64) -> i64 {
        pane
    }

    fn last(&self, pane: i64) -> i64 {
        pane
    }

    fn next(&self, window: i64) -> i64 {
        self.bounds(window).1
    }

    fn bounds(&self, window: i64) -> (i64, i64) {
        (window, self.pane(window).1)
    }

    fn closes_at(&self, window: i64) -> i64 {
        self.bounds(window).1.saturating_add(self.lateness)
    }
}

#[cfg(test)]
mod tests {
    use super::super::EVENT_TIME_MAX;
    use super::*;

    fn text(time: i64) -> String {
        let mut out = String::new();
        crate::time::write_rfc3339(time, &mut out);
        out.replace(":00.000Z", "")
    }

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    #[test]
    fn days_weeks_and_months_by_the_clocks_of_a_zone() {
        use CalendarUnit::{Day, Month, Week};
        for (unit, count, zone, time, start, end) in [
            (Day, 1, Tz::Europe__Berlin, "2026-03-29T12:00:00Z", "2026-03-28T23:00", "2026-03-29T22:00"),
            (Day, 1, Tz::Europe__Berlin, "2026-10-25T12:00:00Z", "2026-10-24T22:00", "2026-10-25T23:00"),
            (Day, 1, Tz::UTC, "1969-12-31T23:59:59Z", "1969-12-31T00:00", "1970-01-01T00:00"),
            (Day, 1, Tz::Asia__Kolkata, "2026-01-01T18:30:00Z", "2026-01-01T18:30", "2026-01-02T18:30"),
            // Clocks go from 0:00 to 1:00: the day begins at 1:00.
            (Day, 1, Tz::America__Sao_Paulo, "2018-11-04T12:00:00Z", "2018-11-04T03:00", "2018-11-05T02:00"),
            // Clocks go from 24:00 back to 23:00: the evening is longer, midnight is the second one.
            (Day, 1, Tz::America__Sao_Paulo, "2018-02-18T02:30:00Z", "2018-02-17T02:00", "2018-02-18T03:00"),
            (Week, 1, Tz::Europe__Berlin, "2026-01-01T00:00:00Z", "2025-12-28T23:00", "2026-01-04T23:00"),
            (Month, 1, Tz::America__New_York, "2026-03-31T23:00:00Z", "2026-03-01T05:00", "2026-04-01T04:00"),
            (Month, 3, Tz::UTC, "2026-05-05T00:00:00Z", "2026-04-01T00:00", "2026-07-01T00:00"),
        ] {
            let a = Calendar::new(unit, count, zone, 0, 0);
            let (got_start, got_end) = a.pane(at(time));
            assert_eq!((text(got_start).as_str(), text(got_end).as_str()), (start, end), "{a:?} {time}");
            assert_eq!(a.bounds(got_start), (got_start, got_end));
        }
    }

    #[test]
    fn windows_follow_each_other_without_a_gap() {
        for zone in [Tz::Europe__Berlin, Tz::America__Sao_Paulo, Tz::Pacific__Apia, Tz::Africa__Cairo, Tz::Asia__Gaza] {
            let a = Calendar::new(CalendarUnit::Day, 1, zone, 0, 0);
            let mut window = a.pane(at("2005-01-01T00:00:00Z")).0;
            while window < at("2026-01-01T00:00:00Z") {
                let (start, end) = a.bounds(window);
                assert!(start < end, "{zone} {}", text(window));
                for time in [start, start + 1, (start + end) / 2, end - 1] {
                    assert_eq!(a.pane(time), (start, end), "{zone} {} of {}", text(time), text(window));
                }
                window = a.next(window);
            }
        }
    }

    #[test]
    fn times_at_the_bounds_do_not_overflow() {
        for unit in [CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month] {
            let a = Calendar::new(unit, 1, Tz::Europe__Berlin, 3_600_000, 1);
            for t in [-EVENT_TIME_MAX, EVENT_TIME_MAX] {
                let (start, end) = a.pane(t);
                assert!(start <= end && a.closes_at(start) > i64::MIN);
            }
        }
    }
}
