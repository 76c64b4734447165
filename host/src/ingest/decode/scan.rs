//! Where strings of JSON end, many bytes at a time.
//!
//! `unsafe` because Rust asks for it around SSE2 instructions; they work on values here, never on memory.
#![allow(unsafe_code)]

/// Notes in `quotes`, a bit a byte, where the quotes of `document` stand, with a word of zeros behind. False, and nothing noted, when a
/// string may end elsewhere than at the next quote: where there are backslashes, or bytes that no string has.
#[cfg(target_arch = "x86_64")]
pub(super) fn mark_quotes(document: &[u8], quotes: &mut Vec<u8>) -> bool {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8, _mm_setzero_si128,
    };
    #[inline(always)]
    fn quotes_of(chunk: &[u8; LANES], others: &mut __m128i) -> [u8; 2] {
        let v = load(chunk);
        // SAFETY: x86-64 always has SSE2, and none of these touches memory.
        unsafe {
            let control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
            let backslash = _mm_cmpeq_epi8(v, _mm_set1_epi8(b'\\' as i8));
            *others = _mm_or_si128(*others, _mm_or_si128(control, backslash));
            (_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_set1_epi8(b'"' as i8))) as u16).to_le_bytes()
        }
    }
    let (chunks, rest) = document.as_chunks::<LANES>();
    quotes.resize(2 * chunks.len() + 2 + size_of::<u64>(), 0);
    // SAFETY: as above.
    let mut others = unsafe { _mm_setzero_si128() };
    let (marks, end) = quotes.split_at_mut(2 * chunks.len());
    for (chunk, marks) in chunks.iter().zip(marks.as_chunks_mut::<2>().0) {
        *marks = quotes_of(chunk, &mut others);
    }
    let mut last = [b' '; LANES];
    last[..rest.len()].copy_from_slice(rest);
    end.fill(0);
    end[..2].copy_from_slice(&quotes_of(&last, &mut others));
    // SAFETY: as above.
    unsafe { _mm_movemask_epi8(others) == 0 }
}

/// Only where it is quicker than reading on.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn mark_quotes(_: &[u8], _: &mut Vec<u8>) -> bool {
    false
}

/// The first quote at `from` or behind it.
#[inline(always)]
pub(super) fn next_quote(quotes: &[u8], from: usize) -> Option<usize> {
    let word = u64::from_le_bytes(*quotes.get(from / 8..)?.first_chunk::<8>()?) >> (from % 8);
    if word != 0 { Some(from + word.trailing_zeros() as usize) } else { far_quote(quotes, from / 8 + 8) }
}

/// The first quote of byte `from` of the marks or behind it. The 64 places before hold none.
#[cold]
fn far_quote(quotes: &[u8], from: usize) -> Option<usize> {
    let at = from + quotes.get(from..)?.iter().position(|m| *m != 0)?;
    Some(at * 8 + quotes[at].trailing_zeros() as usize)
}

/// How many bytes come before the first quote, backslash or control character.
#[inline(always)]
pub(super) fn plain_bytes(bytes: &[u8]) -> usize {
    let mut n = 0;
    while let Some(chunk) = bytes[n..].first_chunk::<LANES>() {
        match first_special(chunk) {
            LANES => n += LANES,
            at => return n + at,
        }
    }
    n + bytes[n..].iter().take_while(|&&b| b != b'"' && b != b'\\' && b >= 0x20).count()
}

#[cfg(target_arch = "x86_64")]
const LANES: usize = 16;

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn load(chunk: &[u8; LANES]) -> std::arch::x86_64::__m128i {
    let wide = u128::from_le_bytes(*chunk);
    // SAFETY: x86-64 always has SSE2, and this touches no memory.
    unsafe { std::arch::x86_64::_mm_set_epi64x((wide >> 64) as i64, wide as i64) }
}

/// Index of the first quote, backslash or control character, or `LANES`. SSE2, which every x86-64 has.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn first_special(chunk: &[u8; LANES]) -> usize {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8};
    let v = load(chunk);
    // SAFETY: x86-64 always has SSE2, and none of these touches memory.
    let marks = unsafe {
        let control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
        let quote = _mm_cmpeq_epi8(v, _mm_set1_epi8(b'"' as i8));
        let backslash = _mm_cmpeq_epi8(v, _mm_set1_epi8(b'\\' as i8));
        _mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(quote, backslash)))
    };
    (marks | 1 << LANES).trailing_zeros() as usize
}

#[cfg(not(target_arch = "x86_64"))]
const LANES: usize = 8;

/// Index of the first quote, backslash or control character, or `LANES`: by the usual trick that `x - 1` borrows into the top bit of a
/// byte that was zero ("Bit Twiddling Hacks": determine if a word has a zero byte). Only the lowest mark is exact, and only the
/// lowest is used.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn first_special(chunk: &[u8; LANES]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    let word = u64::from_le_bytes(*chunk);
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let marks = ((quote.wrapping_sub(ONES) & !quote)
        | (backslash.wrapping_sub(ONES) & !backslash)
        | (word.wrapping_sub(ONES * 0x20) & !word))
        & TOPS;
    (marks.trailing_zeros() / 8) as usize
}

/// How many of eight bytes, the first in the lowest place, are digits before the first that is none.
#[inline(always)]
pub(super) fn leading_digits(word: u64) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // Digits become 0 to 9, all else more: adding 0x76 takes that to the top bit. What carries on comes after the first mark.
    let value = word ^ (ONES * b'0' as u64);
    let marks = (value.wrapping_add(ONES * 0x76) | value) & (ONES * 0x80);
    (marks.trailing_zeros() / 8) as usize
}

#[cfg(test)]
mod tests {
    use super::{leading_digits, plain_bytes};

    #[test]
    fn digits_before_every_byte_at_every_place() {
        for byte in 0..=255u8 {
            for at in 0..8 {
                for after in [b'0', b'9', 0, 0xff] {
                    let mut text = [after; 8];
                    text[..at].fill(b'9');
                    text[at] = byte;
                    let expected = text.iter().take_while(|b| b.is_ascii_digit()).count();
                    assert_eq!(leading_digits(u64::from_le_bytes(text)), expected, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..=255u8 {
            for at in 0..70 {
                let mut text = vec![b'x'; 70];
                text[at] = byte;
                text[69] = b'"';
                let special = byte < 0x20 || byte == b'"' || byte == b'\\';
                assert_eq!(plain_bytes(&text), if special { at } else { 69 }, "{byte} at {at}");
            }
        }
        assert_eq!(plain_bytes(&[0xff; 33]), 33);
        assert_eq!(plain_bytes(b""), 0);
    }
}
