//! The table of a plugin's processes.

use crate::process::{self, Process};
use crate::process_bindings::kindling::plugin::processing as types;
use crate::rowwise;
use crate::types::Failure;

type Run = Box<dyn Fn(&types::Batch) -> Result<types::Effect, Failure> + Send + Sync>;

/// One process of a plugin.
pub struct Entry {
    description: types::Process,
    run: Run,
}

impl Entry {
    /// The process `P`.
    pub fn of<P: Process + 'static>(name: &str, doc: &str) -> Self {
        Self { description: process::describe::<P>(name, doc), run: Box::new(process::run::<P>) }
    }
}

/// A plugin of processes: what [`plugin!`](crate::plugin!) makes of `processes: [...]`. Its methods are the exports of `wit/process.wit`.
pub struct Processes {
    name: &'static str,
    version: &'static str,
    entries: Vec<Entry>,
}

impl Processes {
    /// A plugin of these processes, numbered from 0.
    pub fn new(name: &'static str, version: &'static str, entries: Vec<Entry>) -> Self {
        Self { name, version, entries }
    }

    /// What the plugin is and has.
    pub fn describe(&self) -> types::Processes {
        types::Processes {
            name: self.name.into(),
            version: self.version.into(),
            sdk: concat!("kindling-guest ", env!("CARGO_PKG_VERSION"), " (rust)").into(),
            processes: self.entries.iter().map(|entry| entry.description.clone()).collect(),
        }
    }

    /// Runs a call.
    ///
    /// # Errors
    /// There is no such process, the columns don't fit, or a row was refused.
    pub fn process(&self, process: u32, batch: &types::Batch) -> Result<types::Effect, Failure> {
        match self.entries.get(process as usize) {
            Some(entry) => (entry.run)(batch),
            None => Err(rowwise::whole(format!("the plugin has no process {process}"))),
        }
    }
}
