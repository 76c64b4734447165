//! Kindling: a stream processor for Kafka whose logic is WebAssembly.
//!
//! The parts, in the order of a record's way:
//!
//! - [`config`]: a pipeline file, `kindling.yaml`, and what is wrong with them, by line and column.
//! - [`plan`]: a pipeline with its functions found, its expressions typed, its columns pruned.
//! - [`ingest`]: records from Kafka, files, stdin or a generator, and their decoding into columns.
//! - [`operator`]: filter, project and windowed aggregation over the rows of one epoch. Pure: no I/O, no clock.
//! - [`output`]: rows to records, and one atomic commit an epoch.
//! - [`plugin`]: WebAssembly guests: loading, checking, calling, swapping.
//! - [`state`]: keyed state in memory and over the budget on disk, its log and its local tree.
//! - [`runtime`]: a job: workers, epochs, commits, swaps, recovery.
//! - [`server`]: metrics over HTTP.
//! - [`cli`]: the `kindling` command.
//!
//! A layer uses only those to its right: cli, server -> runtime -> plan -> ingest, operator, output -> plugin, state ->
//! element, time, size, error, limits, ask, release.

pub mod ask;
pub mod cli;
pub mod config;
pub mod element;
pub mod error;
pub mod ingest;
pub mod limits;
pub mod operator;
pub mod output;
pub mod plan;
pub mod plugin;
pub mod release;
pub mod runtime;
pub mod server;
pub mod size;
pub mod state;
pub mod time;
