//! JSON lines from standard input: one partition, which ends with the input.
//!
//! The offset of a record is its line's number, from 0 (empty lines count). Standard input can't go back: a job that starts again reads
//! the same input once more from its first line and leaves out those before its position; a job that must go back while it runs fails.

use super::lines::{Line, Lines, read_line};
use super::{IngestError, Polled, Reader, Source};
use crate::element::{PartitionName, RawBatch, Records};
use crate::limits::{STDIN_CHUNK_BYTES, STDIN_CHUNKS};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use std::io::{BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one chunk at most.
const CHUNK_LINES: usize = 1_024;
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Standard input, or what stands for it in a test.
pub struct StdinSource {
    partitions: [PartitionName; 1],
    input: Option<Box<dyn Read + Send>>,
    shared: Arc<Mutex<Shared>>,
}

/// What outlives a reader.
#[derive(Default)]
struct Shared {
    chunks: Option<Receiver<Result<Lines, IngestError>>>,
    /// Lines of a chunk that were more than a poll asked for.
    rest: Option<Lines>,
    /// Line after the last one that was given out.
    position: i64,
    /// The input has ended, and all of it was given out.
    ended: bool,
}

impl StdinSource {
    /// Reads this process's standard input.
    pub fn new() -> Self {
        Self::over(Box::new(std::io::stdin()))
    }

    fn over(input: Box<dyn Read + Send>) -> Self {
        let partitions = [PartitionName { topic: "stdin".into(), partition: 0 }];
        Self { partitions, input: Some(input), shared: Arc::default() }
    }
}

impl Default for StdinSource {
    fn default() -> Self {
        Self::new()
    }
}

impl Source for StdinSource {
    fn partitions(&self) -> &[PartitionName] {
        &self.partitions
    }

    fn start_positions(&mut self) -> Result<Vec<i64>, IngestError> {
        Ok(vec![0])
    }

    fn readers(&mut self, positions: &[i64], readers: usize) -> Result<Vec<Box<dyn Reader>>, IngestError> {
        let position = positions.first().copied().unwrap_or(0);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(input) = self.input.take() {
            let (sender, receiver) = bounded(STDIN_CHUNKS);
            let read = move || {
                // Ends with the input, with an error, or when nobody listens any more.
                let mut input = BufReader::with_capacity(READ_AHEAD_BYTES, input);
                let mut next = 0;
                while let Some(chunk) = read_chunk(&mut input, &mut next, position) {
                    let last = chunk.is_err();
                    if sender.send(chunk).is_err() || last {
                        return;
                    }
                }
            };
            std::thread::Builder::new()
                .name("stdin".into())
                .spawn(read)
                .map_err(|e| IngestError::External(format!("no thread to read standard input: {e}")))?;
            *shared = Shared { chunks: Some(receiver), position, ..Shared::default() };
        } else if position < shared.position {
            return Err(IngestError::DataLoss(format!(
                "standard input stands at line {} and can't go back to line {position}: run the job again with the same input",
                shared.position
            )));
        }
        drop(shared);
        let reader =
            |r| Box::new(StdinReader { shared: (r == 0).then(|| Arc::clone(&self.shared)), told_end: false }) as Box<dyn Reader>;
        Ok((0..readers).map(reader).collect())
    }
}

/// The next lines from `position` on, or none at the end. `next` is the number of the next line.
fn read_chunk(input: &mut BufReader<impl Read>, next: &mut i64, position: i64) -> Option<Result<Lines, IngestError>> {
    let (mut lines, mut line) = (Lines::default(), Vec::new());
    while lines.len() < CHUNK_LINES && lines.bytes() < STDIN_CHUNK_BYTES {
        match read_line(input, &mut line) {
            Ok(Line::Read) if *next < position => *next += 1,
            Ok(Line::Read) => {
                lines.push(*next, &line);
                *next += 1;
            }
            Ok(Line::End) => return (!lines.is_empty()).then_some(Ok(lines)),
            Ok(Line::TooLong) => {
                let n = *next + 1;
                return Some(Err(IngestError::Config(format!(
                    "standard input, line {n}: longer than 16 MiB: one document a line is expected"
                ))));
            }
            Err(e) => return Some(Err(IngestError::External(format!("standard input, after line {next}: {e}")))),
        }
        // Somebody may be typing: what is there is handed on.
        if !lines.is_empty() && !input.buffer().contains(&b'\n') {
            break;
        }
    }
    Some(Ok(lines))
}

struct StdinReader {
    /// None for readers without a partition.
    shared: Option<Arc<Mutex<Shared>>>,
    told_end: bool,
}

impl Reader for StdinReader {
    fn poll(&mut self, rows: usize, wait: Duration) -> Result<Polled, IngestError> {
        let mut polled = Polled::default();
        let Some(shared) = self.shared.as_ref().filter(|_| !self.told_end) else {
            std::thread::sleep(wait);
            return Ok(polled);
        };
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (deadline, mut left) = (Instant::now() + wait, rows);
        while left > 0 && !shared.ended {
            let wait = if left == rows { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            let Some(mut lines) = shared.next_lines(wait)? else { break };
            if lines.len() > left {
                shared.rest = Some(lines.split_off(left));
            }
            left -= lines.len();
            shared.position = lines.record(lines.len() - 1).offset + 1;
            polled.batches.push(RawBatch { partition: 0, records: Box::new(lines) });
        }
        if shared.ended {
            self.told_end = true;
            polled.finished.push(0);
        }
        Ok(polled)
    }
}

impl Shared {
    /// Lines that are there within `wait`; sets `ended` at the end.
    fn next_lines(&mut self, wait: Duration) -> Result<Option<Lines>, IngestError> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        let Some(chunks) = &self.chunks else { return Ok(None) };
        match chunks.recv_timeout(wait) {
            Ok(Ok(lines)) => Ok((!lines.is_empty()).then_some(lines)),
            Ok(Err(e)) => Err(e),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(source: &mut StdinSource, position: i64, rows: usize) -> Result<Vec<(i64, String)>, IngestError> {
        let mut readers = source.readers(&[position], 2)?;
        assert!(readers[1].poll(1, Duration::ZERO)?.batches.is_empty());
        let mut got = Vec::new();
        loop {
            let polled = readers[0].poll(rows, Duration::from_millis(100))?;
            assert!(polled.batches.iter().map(|b| b.records.len()).sum::<usize>() <= rows);
            for b in &polled.batches {
                let text =
                    |i| (b.records.record(i).offset, String::from_utf8_lossy(b.records.record(i).value.unwrap()).into_owned());
                got.extend((0..b.records.len()).map(text));
            }
            if polled.finished == [0] {
                assert!(readers[0].poll(rows, Duration::ZERO)?.finished.is_empty());
                return Ok(got);
            }
        }
    }

    #[test]
    fn lines_till_the_end_from_any_position() {
        let text = (0..3_000).map(|i| if i == 5 { "\n".into() } else { format!("line {i}\n") }).collect::<String>();
        for (position, rows) in [(0, 1), (0, 1_000), (0, 100_000), (2_990, 7), (2_999, 1), (3_000, 1)] {
            let mut source = StdinSource::over(Box::new(std::io::Cursor::new(text.clone())));
            let got = read_all(&mut source, position, rows).unwrap();
            let expected: Vec<_> = (position..3_000).filter(|i| *i != 5).map(|i| (i, format!("line {i}"))).collect();
            assert_eq!(got, expected, "from {position}, {rows} rows a poll");
            // Nothing was lost, so going on from the end is fine; going back is not.
            assert_eq!(read_all(&mut source, 3_000, 10).unwrap(), []);
            let back = read_all(&mut source, position - 1, 10);
            assert!(matches!(back, Err(IngestError::DataLoss(_))));
        }
    }

    #[test]
    fn a_poll_does_not_wait_for_a_slow_input() {
        struct Slow(u8);
        impl Read for Slow {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                if self.0 > 0 {
                    std::thread::sleep(Duration::from_secs(1));
                }
                self.0 += 1;
                buffer[..2].copy_from_slice(b"x\n");
                Ok(if self.0 == 2 { 0 } else { 2 })
            }
        }
        let mut source = StdinSource::over(Box::new(Slow(0)));
        let mut reader = source.readers(&[0], 1).unwrap().remove(0);
        let start = Instant::now();
        assert_eq!(reader.poll(10, Duration::from_millis(500)).unwrap().batches.len(), 1);
        assert!(reader.poll(10, Duration::from_millis(50)).unwrap().batches.is_empty());
        assert!(start.elapsed() < Duration::from_millis(900));
        assert_eq!(reader.poll(10, Duration::from_secs(5)).unwrap().finished, [0]);
    }
}
