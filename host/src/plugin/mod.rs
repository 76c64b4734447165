//! WebAssembly guests: what an artefact is, loading and checking it, calling it, and the set of versions that a plan stands on.
//!
//! **Invariant**: what a guest returns is untrusted: every length, offset, type and bitmap is checked before it becomes an Arrow array.

use std::sync::Arc;

/// What a guest's function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// Rows to keep or drop.
    Filter,
    /// One value a row.
    Scalar,
    /// Partial states.
    Aggregate,
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
pub fn guest_error(error: &datafusion::error::DataFusionError) -> Option<&GuestError> {
    match error.find_root() {
        datafusion::error::DataFusionError::External(e) => e.downcast_ref::<GuestError>(),
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
