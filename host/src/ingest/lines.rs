//! Lines of text as records: many lines in one buffer.
//!
//! A line ends with `\n` or `\r\n` or with the input; empty lines are no records; a byte order mark at the start of the input is not
//! part of its first line.

use crate::element::{Record, Records};
use crate::limits::LINE_BYTES;
use std::io::{self, BufRead, Read};

/// Lines and their offsets.
#[derive(Default)]
pub(super) struct Lines {
    data: Vec<u8>,
    /// Offset, and the end in `data`, of each line.
    lines: Vec<(i64, usize)>,
}

impl Lines {
    /// Adds a line with its end (`\n`, `\r\n` or none); whether it was a record.
    pub(super) fn push(&mut self, offset: i64, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = if offset == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        if line.is_empty() {
            return false;
        }
        self.data.extend_from_slice(line);
        self.lines.push((offset, self.data.len()));
        true
    }

    /// Takes off all lines after the first `n`.
    pub(super) fn split_off(&mut self, n: usize) -> Self {
        let mut lines = self.lines.split_off(n);
        let start = self.lines.last().map_or(0, |l| l.1);
        for line in &mut lines {
            line.1 -= start;
        }
        Self { data: self.data.split_off(start), lines }
    }
}

impl Records for Lines {
    fn len(&self) -> usize {
        self.lines.len()
    }
    fn record(&self, i: usize) -> Record<'_> {
        let start = if i == 0 { 0 } else { self.lines[i - 1].1 };
        let (offset, end) = self.lines[i];
        Record { offset, timestamp: None, key: None, value: Some(&self.data[start..end]) }
    }
    fn headers(&self, _: usize) -> Vec<(String, Option<Vec<u8>>)> {
        Vec::new()
    }
    fn bytes(&self) -> usize {
        self.data.len()
    }
}

/// What [`read_line`] saw.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line is in the buffer, its end included.
    Read,
    /// The line is longer than [`LINE_BYTES`].
    TooLong,
    /// The input has ended.
    End,
}

/// Reads the next line into `buffer` (cleared first).
///
/// # Errors
/// What the reader says.
pub(super) fn read_line(input: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<Line> {
    buffer.clear();
    // Two bytes more than a line may have: its end is not counted.
    let n = input.by_ref().take(LINE_BYTES as u64 + 2).read_until(b'\n', buffer)?;
    Ok(match n {
        0 => Line::End,
        n if n > LINE_BYTES && buffer.trim_ascii_end().len() > LINE_BYTES => Line::TooLong,
        _ => Line::Read,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_ends() {
        let mut input = &b"\xef\xbb\xbfone\r\n\n\r\ntwo\nthree"[..];
        let (mut lines, mut buffer, mut offset) = (Lines::default(), Vec::new(), 0);
        while read_line(&mut input, &mut buffer).unwrap() == Line::Read {
            lines.push(offset, &buffer);
            offset += buffer.len() as i64;
        }
        let got: Vec<_> = (0..lines.len()).map(|i| lines.record(i)).map(|r| (r.offset, r.value.unwrap())).collect();
        assert_eq!(got, [(0, &b"one"[..]), (11, b"two"), (15, b"three")]);
        assert_eq!(lines.bytes(), 11);
    }

    #[test]
    fn a_line_of_the_limit_is_read_and_one_over_it_is_not() {
        let mut text = vec![b'x'; LINE_BYTES];
        text.extend(b"\r\n");
        assert_eq!(read_line(&mut &text[..], &mut Vec::new()).unwrap(), Line::Read);
        text.insert(0, b'x');
        assert_eq!(read_line(&mut &text[..], &mut Vec::new()).unwrap(), Line::TooLong);
    }
}
