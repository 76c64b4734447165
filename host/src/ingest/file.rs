//! JSON lines of files: a file is a partition, a line is a record's value, the input ends with the files.
//!
//! The offset of a record is the byte where its line starts. A position `p` stands for the first line that starts at byte `p` or
//! after it, so both "the byte after the line" and "the record's offset + 1" go on with the next line.

use super::lines::{Line, Lines, read_line};
use super::start::{self, StartFrom};
use super::{IngestError, Polled, Reader, Source};
use crate::element::{PartitionName, RawBatch, Records};
use crate::limits::SOURCE_FILES;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::time::Duration;

const READ_AHEAD_BYTES: usize = 256 << 10;

/// Files by path, in the order of their paths.
pub struct FileSource {
    partitions: Vec<PartitionName>,
}

impl FileSource {
    /// The files that `path`, a path or a glob, names now.
    ///
    /// # Errors
    /// [`IngestError::Config`] when there is none, or more than [`SOURCE_FILES`].
    pub fn open(path: &str) -> Result<Self, IngestError> {
        let mut paths = if std::path::Path::new(path).is_file() { vec![path.to_owned()] } else { matching(path)? };
        paths.sort();
        if paths.len() > SOURCE_FILES {
            let n = paths.len();
            return Err(IngestError::Config(format!(
                "`{path}` names {n} files; a source takes {SOURCE_FILES} at most: put lines of several files into one"
            )));
        }
        let name = |p: String| PartitionName { topic: p.into(), partition: 0 };
        Ok(Self { partitions: paths.into_iter().map(name).collect() })
    }
}

fn matching(path: &str) -> Result<Vec<String>, IngestError> {
    let names = glob::glob(path).map_err(|e| IngestError::Config(format!("`{path}` is not a path or glob: {e}")))?;
    let mut paths = Vec::new();
    for name in names {
        let name = name.map_err(|e| IngestError::Config(format!("{}: {}", e.path().display(), e.error())))?;
        if name.is_file() {
            let text = name.to_str().ok_or_else(|| IngestError::Config(format!("{}: the path is not UTF-8", name.display())))?;
            paths.push(text.to_owned());
        }
    }
    if paths.is_empty() {
        let what =
            if std::path::Path::new(path).is_dir() { "is a folder: write a glob like `folder/*.jsonl`" } else { "names no file" };
        return Err(IngestError::Config(format!("source `path: {path}` {what}")));
    }
    Ok(paths)
}

impl Source for FileSource {
    fn partitions(&self) -> &[PartitionName] {
        &self.partitions
    }

    fn start_positions(&mut self) -> Result<Vec<i64>, IngestError> {
        Ok(vec![0; self.partitions.len()])
    }

    fn positions_at(&mut self, from: &StartFrom) -> Result<Vec<Option<i64>>, IngestError> {
        let ends = self.end_positions();
        match from {
            StartFrom::Earliest => Ok(vec![Some(0); ends.len()]),
            StartFrom::Latest => Ok(ends.into_iter().map(Some).collect()),
            StartFrom::Offsets(offsets) => start::named(offsets, &self.partitions, |i| Ok((0, ends[i]))),
            StartFrom::Time(_) => Err(IngestError::Config(
                "--from: lines of a file have no time of their own: write earliest, latest, or file/0:byte".into(),
            )),
        }
    }

    fn readers(&mut self, positions: &[i64], readers: usize) -> Result<Vec<Box<dyn Reader>>, IngestError> {
        let mut shares: Vec<Vec<OpenFile>> = (0..readers).map(|_| Vec::new()).collect();
        for (partition, (name, &position)) in self.partitions.iter().zip(positions).enumerate() {
            shares[partition % readers].push(OpenFile::open(&name.topic, partition, position)?);
        }
        let reader = |files| Box::new(FileReader { files, next: 0, line: Vec::new(), held: Vec::new() }) as Box<dyn Reader>;
        Ok(shares.into_iter().map(reader).collect())
    }

    fn end_positions(&mut self) -> Vec<i64> {
        let length = |p: &PartitionName| std::fs::metadata(&*p.topic).map_or(0, |m| i64::try_from(m.len()).unwrap_or(i64::MAX));
        self.partitions.iter().map(length).collect()
    }
}

struct OpenFile {
    path: String,
    partition: usize,
    input: BufReader<File>,
    /// Byte where the next line starts.
    at: i64,
}

impl OpenFile {
    fn open(path: &str, partition: usize, position: i64) -> Result<Self, IngestError> {
        let failed = |e: io::Error| IngestError::Config(format!("{path}: {e}"));
        let file = File::open(path).map_err(failed)?;
        let length = i64::try_from(file.metadata().map_err(failed)?.len()).unwrap_or(i64::MAX);
        if position > length {
            return Err(IngestError::DataLoss(format!(
                "{path} has {length} bytes, and the job had read {position}: the file was cut or replaced. Put the old file back, or \
                 start the job anew under another name"
            )));
        }
        let mut input = BufReader::with_capacity(READ_AHEAD_BYTES, file);
        let mut at = position.max(0);
        if at > 0 {
            // The byte before tells whether a line starts here; if not, the rest of the line has been read already.
            input.seek(SeekFrom::Start(at as u64 - 1)).map_err(failed)?;
            let mut before = [0];
            input.read_exact(&mut before).map_err(failed)?;
            if before[0] != b'\n' {
                at += skip_line(&mut input).map_err(failed)?;
            }
        }
        Ok(Self { path: path.to_owned(), partition, input, at })
    }

    /// Up to `rows` lines; whether the file has ended.
    fn read(&mut self, rows: usize, lines: &mut Lines, line: &mut Vec<u8>) -> Result<bool, IngestError> {
        while lines.len() < rows {
            match read_line(&mut self.input, line) {
                Ok(Line::Read) => {
                    lines.push(self.at, line);
                    self.at += line.len() as i64;
                }
                Ok(Line::End) => return Ok(true),
                Ok(Line::TooLong) => {
                    let (path, number) = (&self.path, self.line_number());
                    return Err(IngestError::Config(format!(
                        "{path}:{number}: the line is longer than 16 MiB: a source of JSON lines takes one document a line"
                    )));
                }
                Err(e) => return Err(IngestError::External(format!("{}: {e}", self.path))),
            }
        }
        Ok(false)
    }

    /// The number of the next line, from 1; 0 when the file can't be read. Reads the file up to there: for error messages.
    fn line_number(&self) -> usize {
        let before = |file: File| {
            let mut input = BufReader::new(file.take(self.at as u64));
            let (mut lines, mut n) = (1, 1);
            while n > 0 {
                let chunk = input.fill_buf()?;
                n = chunk.len();
                lines += chunk.iter().filter(|b| **b == b'\n').count();
                input.consume(n);
            }
            Ok(lines)
        };
        File::open(&self.path).and_then(before).unwrap_or(0)
    }
}

/// Skips to after the next `\n`; how many bytes that were.
fn skip_line(input: &mut impl BufRead) -> io::Result<i64> {
    let mut skipped = 0;
    loop {
        let chunk = input.fill_buf()?;
        let end = chunk.iter().position(|b| *b == b'\n');
        let n = end.map_or(chunk.len(), |at| at + 1);
        input.consume(n);
        skipped += n as i64;
        if end.is_some() || n == 0 {
            return Ok(skipped);
        }
    }
}

struct FileReader {
    /// Files that have not ended.
    files: Vec<OpenFile>,
    /// The file that is read next: all are read in turn, so that their event times stay near each other.
    next: usize,
    line: Vec<u8>,
    held: Vec<bool>,
}

impl Reader for FileReader {
    fn poll(&mut self, rows: usize, wait: Duration) -> Result<Polled, IngestError> {
        let mut polled = Polled::default();
        let count = self.files.len();
        let held = |i: &usize| self.held.get(self.files[*i].partition) == Some(&true);
        let Some(next) = (self.next..self.next + count).map(|i| i % count).find(|i| !held(i)) else {
            std::thread::sleep(wait);
            return Ok(polled);
        };
        self.next = next;
        let mut lines = Lines::default();
        let file = &mut self.files[self.next];
        let partition = file.partition;
        let ended = file.read(rows, &mut lines, &mut self.line)?;
        if !lines.is_empty() {
            polled.batches.push(RawBatch { partition, records: Box::new(lines) });
        }
        if ended {
            self.files.remove(self.next);
            polled.finished.push(partition);
        } else {
            self.next += 1;
        }
        Ok(polled)
    }

    fn hold(&mut self, held: &[bool]) {
        self.held = held.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(source: &mut FileSource, positions: &[i64], rows: usize) -> Vec<(usize, i64, String)> {
        let mut got = Vec::new();
        for mut reader in source.readers(positions, 2).unwrap() {
            let (mut open, mut polls) = (usize::MAX, 0);
            while open > 0 && polls < 100 {
                let polled = reader.poll(rows, Duration::ZERO).unwrap();
                open = open.min(positions.len()) - polled.finished.len();
                polls += 1;
                for b in &polled.batches {
                    assert!(b.records.len() <= rows);
                    let text = |i| {
                        (
                            b.partition,
                            b.records.record(i).offset,
                            String::from_utf8_lossy(b.records.record(i).value.unwrap()).into_owned(),
                        )
                    };
                    got.extend((0..b.records.len()).map(text));
                }
            }
        }
        got
    }

    #[test]
    fn files_of_a_glob_are_partitions_by_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.jsonl"), "b1\r\n\nb2").unwrap();
        std::fs::write(dir.path().join("a.jsonl"), "a1\na2\na3\n").unwrap();
        std::fs::write(dir.path().join("c.txt"), "no").unwrap();
        std::fs::create_dir(dir.path().join("d.jsonl")).unwrap();
        let mut source = FileSource::open(dir.path().join("*.jsonl").to_str().unwrap()).unwrap();
        assert!(source.partitions()[0].topic.ends_with("a.jsonl") && source.partitions()[1].topic.ends_with("b.jsonl"));
        assert_eq!(source.end_positions(), [9, 7]);
        for rows in [1, 2, 100] {
            let got = read_all(&mut source, &[0, 0], rows);
            let expected = [(0, 0, "a1"), (0, 3, "a2"), (0, 6, "a3"), (1, 0, "b1"), (1, 5, "b2")];
            assert_eq!(got, expected.map(|(p, o, t)| (p, o, t.to_owned())), "{rows} rows a poll");
        }
        // Any position within a line goes on with the next one, whichever way the job counts.
        for (position, first) in [(1, "a2"), (2, "a2"), (3, "a2"), (4, "a3"), (6, "a3"), (7, "b1"), (9, "b1")] {
            assert_eq!(read_all(&mut source, &[position, 0], 10)[0].2, first, "from {position}");
        }
        assert_eq!(read_all(&mut source, &[9, 6], 10), []);
        assert!(matches!(source.readers(&[10, 0], 1), Err(IngestError::DataLoss(_))));
    }

    #[test]
    fn a_held_file_waits_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.jsonl"), "a1\n").unwrap();
        std::fs::write(dir.path().join("b.jsonl"), "b1\nb2\n").unwrap();
        let mut source = FileSource::open(dir.path().join("*.jsonl").to_str().unwrap()).unwrap();
        let mut reader = source.readers(&[0, 0], 1).unwrap().remove(0);
        let mut read = |held: &[bool], polls: usize| {
            reader.hold(held);
            let polled: Vec<Polled> = (0..polls).map(|_| reader.poll(1, Duration::ZERO).unwrap()).collect();
            polled.iter().flat_map(|p| p.batches.iter().map(|b| b.partition)).collect::<Vec<_>>()
        };
        assert_eq!(read(&[true, false], 3), [1, 1]);
        assert!(read(&[true, true], 2).is_empty());
        assert_eq!(read(&[], 2), [0]);
    }

    #[test]
    fn what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let text = |path: &str| FileSource::open(dir.path().join(path).to_str().unwrap()).err().unwrap().to_string();
        assert!(text("nothing*.jsonl").ends_with("names no file"));
        assert!(text("").contains("is a folder"));
        assert!(text("[").contains("is not a path or glob"));
    }

    #[test]
    fn a_line_that_is_too_long_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, ["1\n\n3\n".as_bytes(), &vec![b'x'; crate::limits::LINE_BYTES + 1]].concat()).unwrap();
        let mut source = FileSource::open(path.to_str().unwrap()).unwrap();
        let mut reader = source.readers(&[0], 1).unwrap().remove(0);
        let error = reader.poll(10, Duration::ZERO).err().unwrap().to_string();
        assert!(error.contains("x.jsonl:4: the line is longer than 16 MiB"), "{error}");
    }
}
