//! What happens to the rows of one epoch: steps, windows, partial states, and the close of the epoch. No I/O, no clock.
//!
//! A [`task::EpochTask`] takes the raw batches of some partitions and makes partial states by (pane, key); [`close::close`] merges the
//! partial states of all tasks with the stored ones, finishes the windows that the watermark closed, and says what changes.

mod aligned;
pub mod assigner;
pub mod blocks;
pub mod close;
pub(crate) mod columns;
pub mod counts;
pub mod emission;
pub mod epoch;
pub mod fold;
mod idle;
pub mod isolate;
pub mod lateness;
pub mod merge;
pub mod open;
pub mod process;
mod results;
mod sessions;
pub mod steps;
pub mod task;
mod view;
pub mod watermark;
pub mod window_lateness;

use datafusion_common::DataFusionError;

/// What to do with an error in a user's expression or a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPolicy {
    /// Give it to the caller, who has another plan to run (a new plugin version is on probation).
    Fail,
    /// Find the rows or keys at fault, set them aside, and go on.
    Isolate,
}

/// An error with Arrow's and DataFusion's wrapping taken off, in one line.
pub fn reason(error: &DataFusionError) -> String {
    match crate::plugin::guest_error(error) {
        Some(guest) => guest.message.clone(),
        None => error.find_root().to_string().lines().next().unwrap_or_default().to_owned(),
    }
}
