//! Where a running job can be asked: a small file in its folder of data, there while the process runs.
//!
//! `kindling why JOB` finds the address by it. A process that was killed leaves the file behind; then nothing answers at the address.

use crate::error::{Error, Kind};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const FILE: &str = "endpoint.json";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    process: u32,
    /// Where it serves its metrics, if it does.
    address: Option<SocketAddr>,
}

/// The file of a job; removed when this is dropped.
pub(super) struct Endpoint {
    file: PathBuf,
}

impl Endpoint {
    /// Of the job `team`/`name` that keeps its data in `data_dir`.
    pub(super) fn new(data_dir: &Path, team: &str, name: &str) -> Self {
        Self { file: data_dir.join(team).join(name).join(FILE) }
    }

    /// Says where this process can be asked. A file that can't be written is a warning: the job itself does not need it.
    pub(super) fn write(&self, address: Option<SocketAddr>) {
        // Whoever asks is on this machine, and a job that listens on all addresses is there too.
        let address = address.map(|a| if a.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], a.port())) } else { a });
        let text = serde_json::to_string(&Content { process: std::process::id(), address }).unwrap_or_default();
        let written = self.file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&self.file, text));
        if let Err(error) = written {
            tracing::warn!("{}: {error}; `kindling why` needs --from to find this job", self.file.display());
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Another process that has taken the job over has written its own.
        let own = read(&self.file).is_ok_and(|c| c.process == std::process::id());
        if own {
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

fn read(file: &Path) -> Result<Content, String> {
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

/// Where the job `job` (`name` or `team/name`) can be asked, by its folder under `data_dir`; and what to say when nothing answers there.
///
/// # Errors
/// When no such job runs with this folder of data, when it serves nothing, or when several have the name.
pub(super) fn find(data_dir: &Path, job: &str) -> Result<(SocketAddr, String), Error> {
    let config = |text: String| Error::new(Kind::Config, text);
    let found: Vec<(String, PathBuf)> = folders(data_dir).into_iter().filter(|(name, _)| is_called(name, job)).collect();
    let shown = data_dir.display();
    let (name, folder) = match found.as_slice() {
        [one] => one,
        [] => {
            let all: Vec<String> = folders(data_dir).into_iter().map(|(name, _)| name).collect();
            let there = if all.is_empty() { "no job has run there".to_owned() } else { format!("there are {}", all.join(", ")) };
            return Err(config(format!(
                "no job `{job}` keeps its data in {shown}: {there}; give the job's --data-dir, or its --metrics address with --from"
            )));
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
            return Err(config(format!("`{job}` is several jobs: write one of {}", names.join(", "))));
        }
    };
    let file = folder.join(FILE);
    if !file.is_file() {
        return Err(config(format!(
            "job {name} is not running with the data in {shown}; if it runs elsewhere, give its --metrics address with --from"
        )));
    }
    let content =
        read(&file).map_err(|e| config(format!("{}: {e}; give the job's --metrics address with --from", file.display())))?;
    let address = content.address.ok_or_else(|| {
        config(format!(
            "job {name} runs (process {}) and serves nothing: start it with --metrics, for example --metrics 127.0.0.1:9400",
            content.process
        ))
    })?;
    Ok((address, format!("job {name} ran as process {}, which has ended or does not answer: look at its log", content.process)))
}

/// Whether the job `team/name` is what `job` names.
pub(super) fn is_called(name: &str, job: &str) -> bool {
    name == job || name.split_once('/').is_some_and(|(_, name)| name == job)
}

/// Folders of jobs by `team/name`.
fn folders(data_dir: &Path) -> Vec<(String, PathBuf)> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        entries.filter(|p| p.is_dir()).collect()
    };
    let base = |path: &Path| path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let jobs = list(data_dir).into_iter().flat_map(|team| list(&team).into_iter().map(move |job| (base(&team), job)));
    let mut jobs: Vec<(String, PathBuf)> = jobs
        .filter(|(_, job)| job.join(FILE).is_file() || job.join("tree").is_dir())
        .map(|(team, job)| (format!("{team}/{}", base(&job)), job))
        .collect();
    jobs.sort();
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_found_by_its_name_while_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let text = |job: &str| find(dir.path(), job).unwrap_err().to_string();
        assert!(text("counts").contains("no job has run there"), "{}", text("counts"));
        let endpoint = Endpoint::new(dir.path(), "growth", "counts");
        endpoint.write(None);
        assert!(text("counts").contains("serves nothing: start it with --metrics"));
        assert!(text("count").contains("there are growth/counts"));
        endpoint.write(Some("0.0.0.0:9400".parse().unwrap()));
        for job in ["counts", "growth/counts"] {
            assert_eq!(find(dir.path(), job).unwrap().0, "127.0.0.1:9400".parse().unwrap());
        }
        let other = Endpoint::new(dir.path(), "trust", "counts");
        other.write(Some("127.0.0.1:9401".parse().unwrap()));
        assert!(text("counts").contains("write one of growth/counts, trust/counts"));
        std::fs::create_dir(dir.path().join("trust/counts/tree")).unwrap();
        drop(other);
        assert!(text("trust/counts").contains("job trust/counts is not running"), "{}", text("trust/counts"));
    }
}
