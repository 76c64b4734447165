//! A pipeline file and `kindling.yaml`: typed, and what is wrong with them by line and column.

pub mod spec;
