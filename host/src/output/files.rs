//! File and stdout sinks: JSON lines.
//!
//! A file is written and synced before the epoch commits, and its length is part of the commit; at a restart what lies behind the
//! committed length is cut off. So a line is in the file exactly once. Lines on standard output can't be taken back: at least once.

use crate::config::spec::SinkSpec;
use crate::output::{CommitError, OutRecord};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};

/// The sinks of a job that are not Kafka topics, by role.
#[derive(Default)]
pub struct FileSinks {
    sinks: BTreeMap<&'static str, Sink>,
}

enum Sink {
    Stdout,
    File { path: String, file: File, length: u64 },
}

impl FileSinks {
    /// Opens the sinks and undoes what was written after the last commit.
    ///
    /// # Errors
    /// [`CommitError::Config`] when a file can't be used, or has lines that no commit of this job knows of.
    pub fn open(specs: &[(&'static str, &SinkSpec)], committed: Option<&BTreeMap<String, u64>>) -> Result<Self, CommitError> {
        let mut sinks = BTreeMap::new();
        for (role, spec) in specs {
            match spec {
                SinkSpec::Stdout => drop(sinks.insert(*role, Sink::Stdout)),
                SinkSpec::File { path } => {
                    let known = committed.and_then(|c| c.get(*role)).copied();
                    sinks.insert(*role, open(path, known)?);
                }
                SinkSpec::Kafka { .. } | SinkSpec::Discard => {}
            }
        }
        Ok(Self { sinks })
    }

    /// Appends the records of a role; nothing where the role is not a file or stdout.
    ///
    /// # Errors
    /// [`CommitError::Config`] when the disk refuses.
    pub fn write(&mut self, role: &str, records: &[OutRecord]) -> Result<(), CommitError> {
        let Some(sink) = self.sinks.get_mut(role) else { return Ok(()) };
        if records.is_empty() {
            return Ok(());
        }
        let mut text = Vec::with_capacity(records.iter().map(|r| r.value.len() + 1).sum());
        for record in records {
            text.extend_from_slice(&record.value);
            text.push(b'\n');
        }
        match sink {
            Sink::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(&text).and_then(|()| out.flush()).map_err(|e| CommitError::Config(format!("standard output: {e}")))
            }
            Sink::File { path, file, length } => {
                let written = file.write_all(&text).and_then(|()| file.sync_data());
                written.map_err(|e| CommitError::Config(format!("{path}: {e}")))?;
                *length += text.len() as u64;
                Ok(())
            }
        }
    }

    /// Lengths of the files, by role.
    pub fn lengths(&self) -> BTreeMap<String, u64> {
        let length = |sink: &Sink| match sink {
            Sink::File { length, .. } => Some(*length),
            Sink::Stdout => None,
        };
        self.sinks.iter().filter_map(|(role, sink)| Some(((*role).to_owned(), length(sink)?))).collect()
    }
}

fn open(path: &str, committed: Option<u64>) -> Result<Sink, CommitError> {
    let bad = |why: String| CommitError::Config(format!("{path}: {why}"));
    if let Some(folder) = std::path::Path::new(path).parent() {
        std::fs::create_dir_all(folder).map_err(|e| bad(e.to_string()))?;
    }
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(|e| bad(e.to_string()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(bad("another process writes to this file".into())),
        Err(TryLockError::Error(e)) => return Err(bad(e.to_string())),
    }
    let found = file.metadata().map_err(|e| bad(e.to_string()))?.len();
    let length = match committed {
        None if found == 0 => 0,
        None => return Err(bad("the file has lines that this job did not write: remove it, or name another".into())),
        Some(length) if found < length => {
            return Err(bad(format!("{length} bytes were committed and {found} are there: results have been removed; name another file and data folder")));
        }
        Some(length) => length,
    };
    let cut = file.set_len(length).and_then(|()| file.seek(SeekFrom::Start(length)));
    cut.map_err(|e| bad(e.to_string()))?;
    Ok(Sink::File { path: path.to_owned(), file, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> OutRecord {
        OutRecord { key: None, value: text.into() }
    }

    #[test]
    fn lines_that_no_commit_knows_of_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/out.jsonl").display().to_string();
        let spec = SinkSpec::File { path: path.clone() };
        let mut sinks = FileSinks::open(&[("sink", &spec)], None).unwrap();
        sinks.write("sink", &[line("1"), line("2")]).unwrap();
        let committed = sinks.lengths();
        sinks.write("sink", &[line("3")]).unwrap();
        assert!(matches!(FileSinks::open(&[("sink", &spec)], Some(&committed)), Err(CommitError::Config(e)) if e.contains("another process")));
        drop(sinks);
        assert!(matches!(FileSinks::open(&[("sink", &spec)], None), Err(CommitError::Config(e)) if e.contains("did not write")));
        let mut sinks = FileSinks::open(&[("sink", &spec)], Some(&committed)).unwrap();
        sinks.write("sink", &[line("4")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n4\n");
        drop(sinks);
        std::fs::write(&path, "1\n").unwrap();
        assert!(FileSinks::open(&[("sink", &spec)], Some(&committed)).is_err());
    }
}
