//! What a scenario file holds.

use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// A scenario file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scenario {
    /// What it shows, in a line.
    pub about: String,
    /// The pipeline, as its own YAML text.
    #[serde(default)]
    pub pipeline: String,
    /// In its place: a pipeline's file, from the scenario's folder.
    #[serde(default)]
    pub pipeline_file: Option<PathBuf>,
    /// Records in their order, and swaps between them.
    #[serde(default)]
    pub input: Vec<Input>,
    /// In its place: a file with the value of a record of partition 0 in each line, from the scenario's folder.
    #[serde(default)]
    pub input_file: Option<PathBuf>,
    /// Artefacts that are loaded besides those of the plugins' folder.
    #[serde(default)]
    pub plugins: Vec<String>,
    /// What must come out.
    pub expect: Expect,
    /// Relative tolerance of numbers, for approximate aggregates.
    #[serde(default)]
    pub tolerance: f64,
    /// Also run with the records spread over several partitions. Off where the order between rows matters (late rows, first values):
    /// order is kept within a partition only.
    #[serde(default = "yes")]
    pub spread: bool,
    /// Also run in epochs of one row. Off where a swap must meet several rows in one epoch.
    #[serde(default = "yes")]
    pub small_epochs: bool,
}

fn yes() -> bool {
    true
}

/// One step of the input.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// The value of a record of partition 0.
    Value(String),
    /// A record.
    Record(RecordInput),
    /// From here on it is that processing time, milliseconds since 1970 UTC; an epoch ends here.
    Now {
        /// Not before the one so far, which is 0 at first.
        now: i64,
    },
    /// A plugin's artefact that replaces the loaded one of the same name, from the next epoch on.
    Swap {
        /// Path, from the plugins' folder.
        swap: String,
    },
    /// An epoch without records closes while these partitions are idle; they may be ones that never have a record.
    Idle {
        /// Partitions.
        idle: Vec<usize>,
    },
}

/// A record of the input.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordInput {
    /// Value; none is a tombstone.
    #[serde(default)]
    pub value: Option<String>,
    /// Value as hexadecimal digits, for bytes that are not text.
    #[serde(default)]
    pub hex: Option<String>,
    /// Key.
    #[serde(default)]
    pub key: Option<String>,
    /// Milliseconds since 1970 UTC.
    #[serde(default)]
    pub timestamp: Option<i64>,
    /// Partition.
    #[serde(default)]
    pub partition: usize,
    /// Headers.
    #[serde(default)]
    pub headers: HashMap<String, String>,
}

/// What must come out, each in any order but for `revisions`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Result rows; of a pipeline that upserts the last of each key, without those that were taken back.
    #[serde(default)]
    pub output: Vec<Value>,
    /// Rows of a process's outputs that have sinks of their own, by name.
    #[serde(default)]
    pub outputs: BTreeMap<String, Vec<Value>>,
    /// All records of a pipeline that upserts, in their order, where each row is an epoch. How many there are depends on epochs, by design.
    #[serde(default)]
    pub revisions: Option<Vec<Value>>,
    /// Members that late rows have.
    #[serde(default)]
    pub late: Vec<Value>,
    /// Members that rejected rows have; `reason` need only be a part.
    #[serde(default)]
    pub rejects: Vec<Value>,
    /// The swap is refused, with this in the reason.
    #[serde(default)]
    pub refused: Option<String>,
    /// Keys of the result records, where they matter.
    #[serde(default)]
    pub keys: Option<Vec<Value>>,
}
