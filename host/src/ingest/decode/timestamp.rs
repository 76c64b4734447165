//! Timestamps written as text: RFC 3339, and the same with a space, without an offset, or as a date alone.

/// 0000-01-01T00:00:00.000Z to 9999-12-31T23:59:59.999Z in milliseconds since 1970 UTC: what RFC 3339 can say. A number outside
/// is in the wrong unit, and as an event time it would carry the watermark with it.
pub(super) const RANGE_MS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// Milliseconds since 1970 UTC of `YYYY-MM-DD`, `YYYY-MM-DD[T ]hh:mm[:ss[.fff...]]`, each with `Z`, `+hh:mm`, `+hhmm`, `+hh` or nothing
/// (UTC) after the time; digits past the milliseconds are dropped (rounded down), and second 60 (a leap second) is the next minute's 0.
pub(in crate::ingest) fn parse(text: &str) -> Option<i64> {
    let b = text.trim_ascii().as_bytes();
    let (year, month, day) = (digits(b, 0, 4)?, digits(b, 5, 2)?, digits(b, 8, 2)?);
    if b[4] != b'-' || b[7] != b'-' || !(1..=12).contains(&month) || day < 1 || day > days_of_month(year, month) {
        return None;
    }
    let midnight = days_since_1970(year, month, day) * 86_400_000;
    let Some(separator) = b.get(10) else { return Some(midnight) };
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    let (hour, minute) = (digits(b, 11, 2)?, digits(b, 14, 2)?);
    if b[13] != b':' || hour > 23 || minute > 59 {
        return None;
    }
    let (mut second, mut millis, mut at) = (0, 0, 16);
    if b.get(16) == Some(&b':') {
        second = digits(b, 17, 2).filter(|s| *s <= 60)?;
        at = 19;
        if matches!(b.get(19), Some(b'.' | b',')) {
            let fraction = b[20..].iter().take_while(|d| d.is_ascii_digit()).count();
            if fraction == 0 {
                return None;
            }
            millis = (0..3).fold(0, |ms, i| ms * 10 + if i < fraction { i64::from(b[20 + i] - b'0') } else { 0 });
            at = 20 + fraction;
        }
    }
    let offset_minutes = offset(&b[at..])?;
    let ms = midnight + (hour * 60 + minute - offset_minutes) * 60_000 + second * 1_000 + millis;
    RANGE_MS.contains(&ms).then_some(ms)
}

/// Minutes east of UTC.
fn offset(b: &[u8]) -> Option<i64> {
    let sign = match b.first() {
        None => return Some(0),
        Some(b'Z' | b'z') if b.len() == 1 => return Some(0),
        Some(b'+') => 1,
        Some(b'-') => -1,
        Some(_) => return None,
    };
    let hours = digits(b, 1, 2)?;
    let minutes = match (b.len(), b.get(3)) {
        (3, _) => 0,
        (5, _) => digits(b, 3, 2)?,
        (6, Some(b':')) => digits(b, 4, 2)?,
        _ => return None,
    };
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

/// The number that `n` digits at `from` make.
fn digits(b: &[u8], from: usize, n: usize) -> Option<i64> {
    let part = b.get(from..from + n)?;
    part.iter().try_fold(0, |v, d| d.is_ascii_digit().then(|| v * 10 + i64::from(d - b'0')))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Howard Hinnant, "chrono-compatible low-level date algorithms": `days_from_civil`.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_timestamps() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01", 0),
            ("1969-12-31T23:59:59.9999Z", -1),
            ("2024-02-29 12:34:56.789", 1_709_210_096_789),
            ("2024-02-29T14:34:56.789123+02:00", 1_709_210_096_789),
            ("2024-02-29t07:04:56.7-0530", 1_709_210_096_700),
            ("2024-02-29T13:34+01", 1_709_210_040_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000),
            ("9999-12-31T23:59:59.999Z", *RANGE_MS.end()),
            ("0000-01-01T00:00:00Z", *RANGE_MS.start()),
        ] {
            assert_eq!(parse(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn texts_that_are_not() {
        for text in [
            "",
            "now",
            "2024",
            "2024-13-01",
            "2023-02-29",
            "2024-02-30",
            "2024-00-10",
            "2024-01-01T",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+1",
            "2024-01-01T00:00:00+99:00",
            "2024-01-01T00:00:00Zx",
            "2024/01/01",
            "0000-01-01T00:00:00+00:01",
            "1709210096789",
            "2024-1-1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut expected = days_since_1970(1800, 1, 1);
        for year in 1800..2200 {
            for month in 1..=12 {
                for day in 1..=days_of_month(year, month) {
                    assert_eq!(days_since_1970(year, month, day), expected);
                    expected += 1;
                }
            }
        }
    }
}
