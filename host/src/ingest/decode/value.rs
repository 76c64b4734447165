//! A found JSON value to the value of a column, exactly, or why not.

use super::json::{Found, Slot};
use super::{timestamp, unescape};
use crate::plan::OutputType;
use std::ops::Range;

/// The value of one column in one row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    Long(i64),
    Double(f64),
    Boolean(bool),
    /// Bytes of the document.
    Text(Range<usize>),
    /// Bytes of the scratch text of this row.
    Scratch(Range<usize>),
}

/// Why a value does not fit its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// Another JSON type.
    Type,
    /// A number with a fraction where an integer is wanted.
    Fraction,
    /// Outside what the column can hold.
    Range,
    /// Not a timestamp as text, or one outside the years 0 to 9999.
    Timestamp,
    /// Half a surrogate pair: not text.
    Surrogate,
}

/// The value of `slot` in `document` as `output`. Text with escapes goes to the end of `scratch`.
#[inline]
pub(super) fn cell(output: OutputType, slot: Slot, document: &str, scratch: &mut String) -> Result<Cell, Misfit> {
    let range = slot.start as usize..slot.end as usize;
    if matches!(slot.found, Found::Missing | Found::Null) {
        return Ok(Cell::Null);
    }
    let number = matches!(slot.found, Found::Integer | Found::Decimal);
    Ok(match output {
        OutputType::String => match slot.found {
            Found::Text | Found::Integer | Found::Decimal | Found::True | Found::False => Cell::Text(range),
            Found::EscapedText => {
                let start = scratch.len();
                unescape::append(&document[range], scratch).map_err(|_| Misfit::Surrogate)?;
                Cell::Scratch(start..scratch.len())
            }
            _ => return Err(Misfit::Type),
        },
        OutputType::Json => match slot.found {
            Found::Text | Found::EscapedText => Cell::Text(range.start - 1..range.end + 1),
            _ => Cell::Text(range),
        },
        OutputType::Boolean => match slot.found {
            Found::True => Cell::Boolean(true),
            Found::False => Cell::Boolean(false),
            _ => return Err(Misfit::Type),
        },
        OutputType::Timestamp => match slot.found {
            Found::Text => Cell::Long(timestamp::parse(&document[range]).ok_or(Misfit::Timestamp)?),
            Found::EscapedText => {
                let start = scratch.len();
                unescape::append(&document[range], scratch).map_err(|_| Misfit::Surrogate)?;
                Cell::Long(timestamp::parse(&scratch[start..]).ok_or(Misfit::Timestamp)?)
            }
            _ => return Err(Misfit::Type),
        },
        _ if !number => return Err(Misfit::Type),
        OutputType::Long => Cell::Long(match integer(&document[range.clone()]) {
            Some(v) => v,
            None => scaled(&document[range], 0, Rounding::Refuse)?,
        }),
        OutputType::Double => {
            let v: f64 = document[range].parse().map_err(|_| Misfit::Range)?;
            if v.is_infinite() {
                return Err(Misfit::Range);
            }
            Cell::Double(v)
        }
        OutputType::MilliToTimestamp => Cell::Long(in_years(match integer(&document[range.clone()]) {
            Some(v) => v,
            None => scaled(&document[range], 0, Rounding::Down)?,
        })?),
        OutputType::SecondToTimestamp => Cell::Long(in_years(scaled(&document[range], 3, Rounding::Down)?)?),
        OutputType::MicroToTimestamp => Cell::Long(in_years(match integer(&document[range.clone()]) {
            Some(v) => v.div_euclid(1_000),
            None => scaled(&document[range], -3, Rounding::Down)?,
        })?),
    })
}

fn in_years(ms: i64) -> Result<i64, Misfit> {
    if timestamp::RANGE_MS.contains(&ms) { Ok(ms) } else { Err(Misfit::Range) }
}

/// A JSON number of at most 18 digits and nothing else: it fits without a check.
#[inline]
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() > 18 {
        return None;
    }
    let mut v = 0i64;
    for d in digits {
        let d = d.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        v = v * 10 + i64::from(d);
    }
    Some(if negative { -v } else { v })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    /// Towards negative infinity.
    Down,
    /// A fraction is an error.
    Refuse,
}

/// A JSON number times 10^`shift` as an integer, exactly: no binary fraction comes in between, so `1.001` seconds are 1001 ms.
fn scaled(text: &str, shift: i64, rounding: Rounding) -> Result<i64, Misfit> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (digits, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], exponent(&unsigned[at + 1..])),
        None => (unsigned, 0),
    };
    // The number is `mantissa` x 10^`power`; zeros wait until a digit follows, so that `1.000...` stays short.
    let (mut mantissa, mut power, mut zeros, mut after_point) = (0i128, exponent.saturating_add(shift), 0i64, false);
    for d in digits.bytes() {
        match d {
            b'.' => {
                after_point = true;
                continue;
            }
            b'0' => zeros += 1,
            _ => {
                for _ in 0..zeros + 1 {
                    mantissa = mantissa.checked_mul(10).ok_or(Misfit::Range)?;
                }
                // One digit more than i128 takes is far outside of 64 bits unless a negative exponent follows; both are refused.
                mantissa = mantissa.checked_add(i128::from(d - b'0')).ok_or(Misfit::Range)?;
                zeros = 0;
            }
        }
        if after_point {
            power = power.saturating_sub(1);
        }
    }
    power = power.saturating_add(zeros);
    let mut fraction = false;
    while power > 0 && mantissa != 0 {
        mantissa = mantissa.checked_mul(10).ok_or(Misfit::Range)?;
        power -= 1;
    }
    while power < 0 && mantissa != 0 {
        fraction |= mantissa % 10 != 0;
        mantissa /= 10;
        power += 1;
    }
    if fraction && rounding == Rounding::Refuse {
        return Err(Misfit::Fraction);
    }
    let value = match (negative, fraction) {
        (false, _) => mantissa,
        (true, false) => -mantissa,
        (true, true) => -mantissa - 1,
    };
    i64::try_from(value).map_err(|_| Misfit::Range)
}

/// The value of an exponent; past a few thousand every number is zero or out of range anyway.
fn exponent(text: &str) -> i64 {
    const ENOUGH: i64 = 1 << 40;
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let v = digits.iter().fold(0i64, |v, d| (v * 10 + i64::from(d - b'0')).min(ENOUGH));
    if negative { -v } else { v }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_scaled_exactly() {
        for (text, shift, down) in [
            ("0", 0, 0),
            ("-0.0", 0, 0),
            ("1.001", 3, 1001),
            ("1760000040.123456", 3, 1_760_000_040_123),
            ("-0.0001", 3, -1),
            ("-1.5", 0, -2),
            ("1e3", 0, 1000),
            ("12.50e1", 0, 125),
            ("9007199254740993.0", 0, 9_007_199_254_740_993),
            ("-9223372036854775808", 0, i64::MIN),
            ("9223372036854775807", 0, i64::MAX),
            ("1500", -3, 1),
            ("-1500", -3, -2),
            ("0.00000000000000000000000000000000000000000000000001e50", 0, 1),
            ("1e-999999999999999999999", 0, 0),
            ("0e999999999999999999999", 0, 0),
            ("100000000000000000000000000000000000000000000000000e-50", 0, 1),
        ] {
            assert_eq!(scaled(text, shift, Rounding::Down), Ok(down), "{text} x 10^{shift}");
        }
        for text in ["9223372036854775808", "-9223372036854775809", "1e19", "1e999999999999999999999", "9223372036854775807.5e3"]
        {
            assert_eq!(scaled(text, 0, Rounding::Down), Err(Misfit::Range), "{text}");
        }
        assert_eq!(scaled("1.5", 0, Rounding::Refuse), Err(Misfit::Fraction));
        assert_eq!(scaled("15e-1", 0, Rounding::Refuse), Err(Misfit::Fraction));
        assert_eq!(scaled("150e-1", 0, Rounding::Refuse), Ok(15));
    }

    #[test]
    fn eighteen_digits_are_read_quickly() {
        assert_eq!(integer("-999999999999999999"), Some(-999_999_999_999_999_999));
        assert_eq!(integer("1000000000000000000"), None);
        assert_eq!(integer("1.0"), None);
    }
}
