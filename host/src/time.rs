//! Durations as people write them, and the one place that reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 UTC, now. Only `runtime` and `cli` call this; everything below takes time as an argument.
pub fn now_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// CPU seconds (user and system) of this process so far.
pub fn cpu_seconds() -> f64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return f64::NAN };
    // Fields 14 and 15, counted behind the command's name, in ticks of 1/100 s (USER_HZ, fixed on Linux).
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// A duration as people write it: `5.minutes`, `1.minute`, `10.seconds`, `250.milliseconds`, `2.hours`, `1.day`, and the short
/// forms `5m`, `10s`, `250ms`, `2h`, `1d` (with or without a space or an underscore between number and unit).
///
/// # Errors
/// What is wrong with the text, with an example.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let t = text.trim();
    let digits = t.bytes().take_while(u8::is_ascii_digit).count();
    let bad = || format!("`{text}` is not a duration: write for example `5.minutes`, `30.seconds` or `100ms`");
    let n: u64 = t[..digits].parse().map_err(|_| bad())?;
    let unit = t[digits..].trim_start_matches(['.', ' ', '_']).to_ascii_lowercase();
    let ms: u64 = match unit.as_str() {
        "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        "w" | "week" | "weeks" => 604_800_000,
        _ => return Err(bad()),
    };
    // Event time is signed 64-bit milliseconds; a century is beyond any window and far from overflow.
    match n.checked_mul(ms) {
        Some(v) if v <= 3_155_760_000_000 => Ok(Duration::from_millis(v)),
        _ => Err(format!("`{text}` is longer than a century")),
    }
}

/// Appends `time` (milliseconds since 1970) as RFC 3339 UTC with milliseconds. Years outside 0 to 9999 have a sign.
///
/// Days to a date as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
pub fn write_rfc3339(time: i64, out: &mut String) {
    let (days, ms) = (time.div_euclid(86_400_000), time.rem_euclid(86_400_000));
    // Eras of 400 years that begin on a 1st of March, so that leap days come last.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    if !(0..=9_999).contains(&year) {
        out.push(if year < 0 { '-' } else { '+' });
    }
    let year = year.unsigned_abs();
    if year > 9_999 {
        out.push_str(&(year / 10_000).to_string());
    }
    let mut digits = |value: u64, width: u32, after: char| {
        (0..width).rev().for_each(|place| out.push(char::from(b'0' + (value / 10u64.pow(place) % 10) as u8)));
        out.push(after);
    };
    digits(year, 4, '-');
    digits(month as u64, 2, '-');
    digits((day_of_year - (153 * from_march + 2) / 5 + 1) as u64, 2, 'T');
    digits((ms / 3_600_000) as u64, 2, ':');
    digits((ms / 60_000 % 60) as u64, 2, ':');
    digits((ms / 1_000 % 60) as u64, 2, '.');
    digits((ms % 1_000) as u64, 3, 'Z');
}

/// `5m`, `1h30m`, `250ms`: the shortest form that reads back as the same duration.
pub fn format_duration(d: Duration) -> String {
    let mut ms = d.as_millis();
    if ms == 0 {
        return "0ms".into();
    }
    let mut out = String::new();
    for (unit, n) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if ms / n > 0 {
            out.push_str(&format!("{}{unit}", ms / n));
            ms %= n;
        }
    }
    out
}

/// A span of time for people: the two greatest units of it, `3d4h`, `2m5s`, `12s`; milliseconds only below ten seconds.
pub fn format_span(ms: i64) -> String {
    let ms = ms.unsigned_abs();
    let unit = match ms {
        0..10_000 => 1,
        10_000..3_600_000 => 1_000,
        3_600_000..86_400_000 => 60_000,
        _ => 3_600_000,
    };
    format_duration(Duration::from_millis(ms / unit * unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, ms) in
            [("5.minutes", 300_000), ("1.minute", 60_000), ("250ms", 250), ("2 hours", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "minutes", "-1s", "5.fortnights", "99999999999999999999s", "9999999999w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(format_duration(Duration::from_millis(5_400_000)), "1h30m");
        let spans = [0, 1_234, 61_999, 5_461_000, 90_000_000, 31_536_000_001].map(format_span);
        assert_eq!(spans, ["0ms", "1s234ms", "1m1s", "1h31m", "1d1h", "365d"]);
    }
}
