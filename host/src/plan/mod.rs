//! A pipeline with its functions found, its expressions typed and its columns pruned: what a job runs. Immutable: a swap of a plugin
//! makes another plan.

mod aggregate;
mod chain;
mod explain;
mod expression;
mod flatmap;
mod functions;
mod logical;
mod lower;
mod prefilter;
mod process;
mod session;
mod stage;
#[cfg(test)]
mod tests;

pub use explain::{Explanation, explain, window_kind};
pub use logical::build;
pub use prefilter::{TextMatch, TextTest};

use crate::config::spec::{Emit, Order, OutputMode, WindowKind};
use crate::plugin::{FunctionSignature, GuestFlatMap, Plugin};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use std::sync::Arc;
use std::time::Duration;

/// A column that is decoded from a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeField {
    /// Name of the column.
    pub name: String,
    /// Where its value comes from.
    pub from: FieldSource,
}

/// Where the value of a decoded column comes from, and its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldSource {
    /// A path into the JSON of the key or value.
    Json {
        /// The JSON is in the key, not the value.
        in_key: bool,
        /// Steps from the root.
        path: Vec<PathStep>,
        /// How the JSON value is read.
        output: OutputType,
    },
    /// The record's key as text (Utf8).
    Key,
    /// The record's value as text (Utf8).
    Value,
    /// Topic (Utf8).
    Topic,
    /// Partition (Int64).
    Partition,
    /// Offset (Int64).
    Offset,
    /// The record's own timestamp (Timestamp ms).
    Timestamp,
    /// Headers as JSON text, an object of name to text (Utf8).
    Headers,
}

impl FieldSource {
    /// The Arrow type of the column.
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Json { output, .. } => output.data_type(),
            Self::Partition | Self::Offset => DataType::Int64,
            Self::Timestamp => timestamp_type(),
            Self::Key | Self::Value | Self::Topic | Self::Headers => DataType::Utf8,
        }
    }
}

/// A step of a JSON path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathStep {
    /// Member of an object.
    Member(String),
    /// Element of an array, from 0.
    Index(usize),
}

/// `outputType` of a parsed column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputType {
    /// Text; a number or boolean gives its JSON text.
    String,
    /// Signed 64-bit integer.
    Long,
    /// IEEE 754 double.
    Double,
    /// true or false.
    Boolean,
    /// RFC 3339 or `YYYY-MM-DD[ T]hh:mm:ss[.fff]` (UTC where no offset is given) text.
    Timestamp,
    /// Milliseconds since 1970 UTC.
    MilliToTimestamp,
    /// Seconds since 1970 UTC (fractions allowed).
    SecondToTimestamp,
    /// Microseconds since 1970 UTC; kept as milliseconds, rounded down.
    MicroToTimestamp,
    /// Any JSON value, kept as its text.
    Json,
}

impl OutputType {
    /// The Arrow type of the column.
    pub fn data_type(self) -> DataType {
        match self {
            Self::String | Self::Json => DataType::Utf8,
            Self::Long => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Timestamp | Self::MilliToTimestamp | Self::SecondToTimestamp | Self::MicroToTimestamp => timestamp_type(),
        }
    }
}

/// The Arrow type of every timestamp here: milliseconds since 1970 UTC.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None)
}

/// One stateless step over columns.
#[derive(Clone)]
pub enum Step {
    /// Keeps the rows for which the predicate is true (not null).
    Filter(Arc<dyn PhysicalExpr>),
    /// Columns anew; the schema is that of the result, and has [`crate::limits::ROW_COLUMN`] last where the input had it.
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
    /// None, one or many rows a row.
    FlatMap(Arc<FlatMapStep>),
}

impl Step {
    /// Schema of its rows; none where it is that of the rows before it.
    pub fn schema(&self) -> Option<&SchemaRef> {
        match self {
            Self::Filter(_) => None,
            Self::Project(_, schema) => Some(schema),
            Self::FlatMap(flat) => Some(&flat.schema),
        }
    }
}

/// A guest that gives none, one or many rows of each.
#[derive(Clone)]
pub struct FlatMapStep {
    /// The guest.
    pub guest: GuestFlatMap,
    /// Its arguments.
    pub arguments: Vec<Arc<dyn PhysicalExpr>>,
    /// For each column that comes in, whether a later step reads it; of the others nulls go on.
    pub kept: Vec<bool>,
    /// The columns that come in, then the guest's, then [`crate::limits::ROW_COLUMN`] where the input had it last.
    pub schema: SchemaRef,
}

/// Windowed aggregation.
#[derive(Clone)]
pub struct WindowPlan {
    /// Column of the event time in the schema that reaches the aggregation (Timestamp ms); over processing time an empty one to be filled.
    pub event_time: usize,
    /// The same column in the decoded schema, when it is one: then rows that a filter drops move the watermark too.
    pub decoded_event_time: Option<usize>,
    /// Where idle keys are forgotten: a column (Timestamp ms) to be filled with the watermark that the row makes.
    pub passed: Option<usize>,
    /// Windows over the time at which rows are read.
    pub processing_time: bool,
    /// Which windows.
    pub kind: WindowKind,
    /// Windows are aligned to 1970 UTC plus this, by the clocks of their time zone where they have one.
    pub offset: Duration,
    /// How far out of order events may come (`watermark` in YAML).
    pub out_of_orderness: Duration,
    /// How much later than the timestamp of its record an event time may be.
    pub max_future: Duration,
    /// A window stays open this long after its end.
    pub allowed_lateness: Duration,
    /// A key that nothing has updated for so long is forgotten; only of global and count windows.
    pub ttl: Option<Duration>,
    /// When results are given.
    pub emit: Emit,
    /// How result records are keyed.
    pub output: OutputMode,
    /// Columns of the group keys.
    pub keys: Vec<usize>,
    /// Aggregates in their order; the last [`Self::hidden`] are no columns of the result.
    pub aggregates: Vec<AggregatePlan>,
    /// Aggregates that Kindling adds, for windows that are a key's own: the least [`Self::passed`] where there is one, then the least event time
    /// (not of global windows) and the greatest.
    pub hidden: usize,
    /// Schema of a result row: keys, window_start, window_end (no such columns of a global window), isFinal (where results are given before
    /// they are final), one column an aggregate, and `plugin_versions` (Utf8) where asked for.
    pub result: SchemaRef,
    /// Value of the column `plugin_versions`, where asked for: `name@version` of each guest used, by name.
    pub plugin_versions: Option<String>,
}

impl WindowPlan {
    /// The arithmetic of these windows.
    pub fn assigner(&self) -> crate::operator::assigner::Assigner {
        crate::operator::assigner::Assigner::new(&self.kind, self.offset, self.allowed_lateness, self.ttl)
    }

    /// Whether results are given before they are final.
    pub fn is_speculative(&self) -> bool {
        self.emit != Emit::Final
    }
}

/// A keyed process.
#[derive(Clone)]
pub struct ProcessPlan {
    /// Plugin with the guest.
    pub plugin: Arc<Plugin>,
    /// Number of the process in it.
    pub function: usize,
    /// Column of the event time in the schema that reaches the process (Timestamp ms).
    pub event_time: usize,
    /// The same column in the decoded schema, when it is one: then rows that a filter drops move the watermark too.
    pub decoded_event_time: Option<usize>,
    /// How far out of order events may come (`watermark` in YAML).
    pub out_of_orderness: Duration,
    /// How much later than the timestamp of its record an event time may be.
    pub max_future: Duration,
    /// Columns that make the key.
    pub keys: Vec<usize>,
    /// Columns that the guest is given.
    pub arguments: Vec<usize>,
    /// Columns that outputs pass on.
    pub passed: Vec<usize>,
    /// A key that no row has come for in so long is forgotten.
    pub ttl: Duration,
    /// In which order rows are given.
    pub order: Order,
    /// The guest's outputs.
    pub outputs: Vec<ProcessOutputPlan>,
    /// Value of the column `plugin_versions` of `results`, where asked for.
    pub plugin_versions: Option<String>,
}

/// An output of a process.
#[derive(Clone)]
pub struct ProcessOutputPlan {
    /// Name.
    pub name: String,
    /// Schema of its rows: what is passed on, then the guest's columns; of `results` with `plugin_versions` behind them where asked for.
    pub schema: SchemaRef,
    /// Its rows are rows that came in.
    pub passes: bool,
    /// Which of the pipeline's sinks of outputs it goes to; none: on in the pipeline.
    pub sink: Option<usize>,
}

impl ProcessPlan {
    /// What the guest says of itself.
    pub fn signature(&self) -> &FunctionSignature {
        &self.plugin.functions[self.function]
    }
}

/// One aggregate of a windowed aggregation.
#[derive(Clone)]
pub struct AggregatePlan {
    /// The function with its arguments, which are columns of the aggregation's input and literals.
    pub function: Arc<AggregateFunctionExpr>,
    /// Boolean column: only rows where it is true count.
    pub filter: Option<usize>,
}

/// The operation with state that stands behind another.
#[derive(Clone)]
pub struct Next {
    /// What is done with the results of the one before; it decodes nothing.
    pub plan: Arc<Plan>,
    /// Columns of those that its decoded batches are.
    pub columns: Vec<usize>,
    /// How late those can be.
    pub bound: ResultBound,
}

/// How late results can be for the watermark that their operation has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultBound {
    /// By so much.
    Behind(Duration),
    /// None is before the start of the first window that is open.
    OpenWindow,
}

/// What a job runs. Where several operations have state, a plan is that of one of them, and has the next one.
#[derive(Clone)]
pub struct Plan {
    /// Columns to decode, pruned to those that are used.
    pub decode: Vec<DecodeField>,
    /// Schema of a decoded batch: the columns of `decode` and [`crate::limits::ROW_COLUMN`] (UInt32) last.
    pub decoded: SchemaRef,
    /// What a row must pass to be worth decoding: tests that follow from the first step, which is a filter where there are any. A row that
    /// fails one is only looked at for its event time.
    pub prefilter: Vec<TextTest>,
    /// Steps before the aggregation or process, or all steps where there is none.
    pub pre: Vec<Step>,
    /// The aggregation.
    pub window: Option<WindowPlan>,
    /// The keyed process; then there is no aggregation.
    pub process: Option<ProcessPlan>,
    /// Steps over the results of the aggregation or process; none where there is a next operation with state.
    pub post: Vec<Step>,
    /// The next operation with state.
    pub next: Option<Next>,
    /// Schema of an output row (without [`crate::limits::ROW_COLUMN`]).
    pub output: SchemaRef,
    /// Columns of `output` that make the record's key (the group keys that are still there).
    pub output_keys: Vec<usize>,
    /// Fingerprint of what stored state depends on: key types, window, aggregates' state fields and layouts. Two plans with the
    /// same fingerprint can go on with each other's state.
    pub layout: String,
    /// Name of the operator that has the state.
    pub operator: String,
    /// Guests that the plan calls: function, plugin, version, hash.
    pub guests: Vec<crate::plugin::GuestUse>,
}

impl Plan {
    /// The operators that have state, by name, and the layout of their state.
    pub fn operators(&self) -> std::collections::BTreeMap<String, String> {
        self.chain().filter(|p| p.has_state()).map(|p| (p.operator.clone(), p.layout.clone())).collect()
    }

    /// The operations with state, in order: this one, and those behind it.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |plan| plan.next.as_ref().map(|next| next.plan.as_ref()))
    }

    /// The one whose results are the pipeline's.
    pub fn last(&self) -> &Self {
        self.chain().last().unwrap_or(self)
    }

    /// Whether the last result of a key counts.
    pub fn upserts(&self) -> bool {
        self.last().window.as_ref().is_some_and(|w| w.output == OutputMode::Upsert)
    }

    /// Schema of the batches that reach the operation with state.
    pub fn input(&self) -> &SchemaRef {
        self.pre.iter().rev().find_map(Step::schema).unwrap_or(&self.decoded)
    }

    /// Whether an operator keeps state.
    pub fn has_state(&self) -> bool {
        self.window.is_some() || self.process.is_some()
    }

    /// The decoded column of the event time, where it is one.
    pub fn decoded_event_time(&self) -> Option<usize> {
        let process = self.process.as_ref().and_then(|p| p.decoded_event_time);
        self.window.as_ref().map_or(process, |w| w.decoded_event_time)
    }
}
