//! Keyed state: the table in memory, the format of its entries, and the local tree that makes restarts quick.
//!
//! The truth is the log (a changelog topic, or the local tree where no Kafka is involved); the table is what has been replayed of
//! it, plus what the epochs in flight did.

pub mod bulk;
pub mod codec;
pub mod savepoint;
pub mod store;
pub mod tree;
