//! Folders for scenarios that keep state on disk.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder of this process for one run, removed with it.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// One that nobody has.
    pub(super) fn new() -> Self {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("kindling-scenario-{}-{run}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
