//! File and stdout sinks: JSON lines.
//!
//! A file is written and synced before the epoch commits, and its length is part of the commit; at a restart what lies behind the
//! committed length is cut off. So a line is in the file exactly once. Lines on standard output can't be taken back: at least once.
//!
//! A file is claimed in the local tree before its first line: a job that died before its first commit finds its own lines in it and
//! may cut them off, while lines of somebody else are never touched. A claim names the path, so that the committed length of one
//! file is never taken for that of another after the pipeline was changed.

use crate::config::spec::SinkSpec;
use crate::output::{CommitError, OutRecord};
use crate::state::tree::Tree;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Notes of the local tree that claim a file, by role.
pub const CLAIMS: [&str; 3] = ["file/sink", "file/late", "file/rejects"];

/// The sinks of a job that are not Kafka topics, by role.
#[derive(Default)]
pub struct FileSinks {
    sinks: BTreeMap<String, Sink>,
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
    pub fn open(
        specs: &[(String, &SinkSpec)],
        committed: Option<&BTreeMap<String, u64>>,
        tree: &Tree,
    ) -> Result<Self, CommitError> {
        let mut sinks = BTreeMap::new();
        for (role, spec) in specs {
            match spec {
                SinkSpec::Stdout => drop(sinks.insert(role.clone(), Sink::Stdout)),
                SinkSpec::File { path } => {
                    let committed = committed.and_then(|c| c.get(role)).copied();
                    sinks.insert(role.clone(), claim(role, path, committed, tree)?);
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
                let failed = |e| {
                    format!(
                        "{path}: {e}; its epoch is not committed: make room, and start the job again, which goes on from there"
                    )
                };
                written.map_err(|e| CommitError::Config(failed(e)))?;
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

fn claim(role: &str, path: &str, committed: Option<u64>, tree: &Tree) -> Result<Sink, CommitError> {
    let absolute = std::path::absolute(path).map_err(|e| CommitError::Config(format!("{path}: {e}")))?;
    let name = format!("file/{role}");
    let claimed = tree.note(&name)?;
    let own = claimed.as_deref() == Some(absolute.as_os_str().as_encoded_bytes());
    // Without a claim the tree is new on this machine, and the length speaks of the file all the same.
    let committed = if claimed.is_some() && !own { None } else { committed };
    let sink = open(path, &absolute, committed, own)?;
    if !own {
        tree.apply([], &[(&name, absolute.as_os_str().as_encoded_bytes())], true)?;
    }
    Ok(sink)
}

fn open(path: &str, absolute: &Path, committed: Option<u64>, own: bool) -> Result<Sink, CommitError> {
    let bad = |why: String| CommitError::Config(format!("{path}: {why}"));
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(|e| bad(e.to_string()))?;
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(|e| bad(e.to_string()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(bad("another process writes to this file".into())),
        Err(TryLockError::Error(e)) => return Err(bad(e.to_string())),
    }
    let found = file.metadata().map_err(|e| bad(e.to_string()))?.len();
    let length = match committed {
        None if found == 0 || own => 0,
        None => return Err(bad("the file has lines that this job did not write: remove it, or name another".into())),
        Some(length) if found < length => {
            return Err(bad(format!(
                "{length} bytes were committed and {found} are there: results have been removed; name another file and data folder"
            )));
        }
        Some(length) => length,
    };
    let cut = file.set_len(length).and_then(|()| file.seek(SeekFrom::Start(length)));
    cut.map_err(|e| bad(e.to_string()))?;
    // A new file is durable only with its entry in the folder.
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| bad(e.to_string()))?;
    Ok(Sink::File { path: path.to_owned(), file, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> OutRecord {
        OutRecord { key: None, value: text.into(), ..OutRecord::default() }
    }

    fn open(spec: &SinkSpec, committed: Option<&BTreeMap<String, u64>>, tree: &Tree) -> Result<FileSinks, CommitError> {
        FileSinks::open(&[("sink".to_owned(), spec)], committed, tree)
    }

    fn config_error(opened: Result<FileSinks, CommitError>, part: &str) {
        assert!(matches!(opened, Err(CommitError::Config(ref e)) if e.contains(part)), "{:?}", opened.err());
    }

    #[test]
    fn lines_that_no_commit_knows_of_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&dir.path().join("tree")).unwrap();
        let path = dir.path().join("a/out.jsonl").display().to_string();
        let spec = SinkSpec::File { path: path.clone() };
        let mut sinks = open(&spec, None, &tree).unwrap();
        sinks.write("sink", &[line("1"), line("2")]).unwrap();
        let committed = sinks.lengths();
        sinks.write("sink", &[line("3")]).unwrap();
        config_error(open(&spec, Some(&committed), &tree), "another process");
        drop(sinks);
        let mut sinks = open(&spec, Some(&committed), &tree).unwrap();
        sinks.write("sink", &[line("4")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n4\n");
        drop(sinks);
        std::fs::write(&path, "1\n").unwrap();
        config_error(open(&spec, Some(&committed), &tree), "have been removed");
    }

    #[test]
    fn lines_of_a_job_that_died_before_its_first_commit_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&dir.path().join("tree")).unwrap();
        let path = dir.path().join("out.jsonl").display().to_string();
        let spec = SinkSpec::File { path: path.clone() };
        open(&spec, None, &tree).unwrap().write("sink", &[line("1")]).unwrap();
        open(&spec, None, &tree).unwrap().write("sink", &[line("2")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2\n");
    }

    #[test]
    fn lines_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&dir.path().join("tree")).unwrap();
        let spec = |name: &str| SinkSpec::File { path: dir.path().join(name).display().to_string() };
        std::fs::write(dir.path().join("theirs"), "x\n").unwrap();
        config_error(open(&spec("theirs"), None, &tree), "did not write");
        let mut sinks = open(&spec("a"), None, &tree).unwrap();
        sinks.write("sink", &[line("1")]).unwrap();
        let committed = sinks.lengths();
        drop(sinks);
        // The pipeline names another file now: the length belongs to the first one.
        let mut sinks = open(&spec("b"), Some(&committed), &tree).unwrap();
        sinks.write("sink", &[line("2")]).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("b")).unwrap(), "2\n");
        config_error(open(&spec("theirs"), Some(&committed), &tree), "did not write");
        assert_eq!(std::fs::read_to_string(dir.path().join("theirs")).unwrap(), "x\n");
    }
}
