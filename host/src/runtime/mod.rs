//! A job: workers, epochs, commits, swaps, recovery. The only layer with threads and a clock.
//!
//! [`core::JobCore`] is the job without either: epochs in, commits out. Tests and scenarios drive it directly; [`job`] drives it with
//! readers, workers and a committer.

pub mod begin;
pub mod carry;
pub mod core;
pub mod desk;
pub mod driver;
mod explanation;
pub mod job;
pub mod metrics;
mod progress;
pub mod restoring;
pub mod scenario;
pub mod setup;
mod state_metrics;
pub mod status;
pub mod swap;
pub mod view;
pub mod why;
pub mod worker;
