//! WebAssembly guests: what an artefact is, loading and checking it, calling it, and the set of versions that a plan stands on.
//!
//! In the order of a guest's life: `artefact` (bytes of a file), `encode` (core module to component), `engine` (compiled code and its
//! cache), `instance` and `pool` (running code), `check` and `load` (a [`Plugin`] that may be used), `abi`, `lower`, `lift` and `call`
//! (columns in and out), `udf` and `udaf` (what DataFusion sees), `set` (the versions that a plan stands on), `watch` (files that come
//! and go).
//!
//! **Invariant**: what a guest returns is untrusted: every length, offset, type and bitmap is checked before it becomes an Arrow array.

mod abi;
mod accumulator;
mod artefact;
mod cache;
mod call;
#[cfg(test)]
mod call_tests;
mod check;
mod check_flatmap;
mod check_process;
mod compatible;
mod encode;
mod engine;
mod error;
mod flatmap;
mod instance;
mod lift;
mod load;
mod lower;
mod partials;
mod pieces;
mod pool;
mod process;
mod set;
mod signature;
mod stats;
mod status;
#[cfg(test)]
pub(crate) mod testing;
mod udaf;
mod udf;
mod version;
mod watch;

pub use artefact::{Artefact, ArtefactForm};
pub use compatible::compatible;
pub use engine::{CompiledGuest, GuestEngine};
pub use error::PluginError;
pub use flatmap::{FlatRows, GuestFlatMap};
pub use load::Plugin;
pub use lower::Argument;
pub use process::{Effect, KeyBatch, OutputRows, Timers};
pub use set::{PluginProblem, PluginSet};
pub use signature::{Attribute, FunctionSignature, GuestType, LAYOUT, ProcessOutput, ProcessSignature, ResultColumn, StateField};
pub use stats::{PluginStats, StatsReading};
pub use status::{FunctionStatus, PluginStatus, fetch_status};
pub use version::Version;
pub use watch::{PluginEvent, PluginWatcher};

use std::sync::Arc;

/// What a guest's function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// Rows to keep or drop.
    Filter,
    /// One value a row.
    Scalar,
    /// Partial states.
    Aggregate,
    /// None, one or many rows a row.
    FlatMap,
    /// What is kept of a key, and rows and timers that change it.
    Process,
}

/// Why a call of a guest failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The guest said no; with a row where it named one (an index into the rows of the call).
    Refused(Option<usize>),
    /// A trap: unreachable, out of bounds, division by zero, stack overflow.
    Trap,
    /// The call took longer than its limit.
    Timeout,
    /// The instance wanted more memory than its limit.
    Memory,
    /// What came back is not what was agreed: lengths, types, offsets, UTF-8.
    Nonsense,
    /// More came back than one call may give, in bytes or rows.
    Excess,
}

/// A call of a guest that failed. Travels through DataFusion as `DataFusionError::External`; see [`guest_error`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("plugin {plugin} {version} ({hash}), function {function}: {message}")]
pub struct GuestError {
    /// Name of the plugin.
    pub plugin: Arc<str>,
    /// Version of the plugin.
    pub version: Arc<str>,
    /// First 12 hex digits of the artefact's SHA-256.
    pub hash: Arc<str>,
    /// Function that was called.
    pub function: Arc<str>,
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened.
    pub message: String,
}

/// The guest's failure inside a DataFusion error, if that is what it is.
pub fn guest_error(error: &datafusion_common::DataFusionError) -> Option<&GuestError> {
    match error.find_root() {
        datafusion_common::DataFusionError::External(e) => e.downcast_ref::<GuestError>(),
        _ => None,
    }
}

/// A guest's function that a plan calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestUse {
    /// Function.
    pub function: String,
    /// Plugin.
    pub plugin: String,
    /// Version.
    pub version: String,
    /// First 12 hex digits of the artefact's SHA-256.
    pub hash: String,
}
