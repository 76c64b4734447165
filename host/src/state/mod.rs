//! Keyed state: the table in memory, what of it is over the budget on disk, the format of its entries, and the local tree that makes restarts quick.
//!
//! The truth is the log (a changelog topic, or the local tree where no Kafka is involved); the table is what has been replayed of
//! it, plus what the epochs in flight did.

pub mod arena;
pub mod bulk;
pub mod codec;
mod evict;
#[cfg(test)]
#[path = "../../tests/support/files.rs"]
mod files;
mod lists;
mod read;
pub mod savepoint;
mod slots;
pub mod spill;
pub mod store;
pub mod timers;
pub mod tree;
mod update;
