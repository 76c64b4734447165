//! Durations as people write them, and the one place that reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 UTC, now. Only `runtime` and `cli` call this; everything below takes time as an argument.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
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
    }
}
