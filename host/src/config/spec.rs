//! A pipeline as declared: connections resolved, durations and expressions still as they were written where the plan reads them.

use super::operators::WINDOW_AGGREGATE;
use std::collections::BTreeMap;
use std::time::Duration;

/// A place in a file: line and column from 1. Carried by everything that a later step may find fault with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1; 0 when the value came from `--set`.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// A declared pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The file, for error messages.
    pub file: String,
    /// Its text, for the lines that errors show.
    pub text: String,
    /// Name of the job; the file's stem where the file has none.
    pub name: String,
    /// Team that owns and pays for it; `default` where the file has none.
    pub team: String,
    /// Version of the pipeline, free text.
    pub version: String,
    /// Where records come from.
    pub source: SourceSpec,
    /// How its partitions wait for each other.
    pub pace: PaceSpec,
    /// Bounds of its state.
    pub state: StateSpec,
    /// Operations in their order.
    pub operations: Vec<Placed<Operation>>,
    /// Names of the operators that have state, in order: `name` of the windowed aggregation or process, or one made of its kind.
    pub operators: Vec<String>,
    /// Where results go; stdout where the file has none.
    pub sink: SinkSpec,
    /// Where late rows go.
    pub late: Option<SinkSpec>,
    /// Where rejected rows go.
    pub rejects: Option<SinkSpec>,
    /// How timestamps are written in JSON.
    pub timestamp_format: TimestampFormat,
    /// Result rows carry `plugin_versions`.
    pub include_plugin_version: bool,
}

impl Pipeline {
    /// The name of an operator with state, by its number among them; of a pipeline without any, one that it could have.
    pub fn operator(&self, number: usize) -> &str {
        self.operators.get(number).map_or(WINDOW_AGGREGATE, String::as_str)
    }

    /// Sinks of the process's outputs, by name.
    pub fn outputs(&self) -> Vec<(String, SinkSpec)> {
        let of = |operation: &Placed<Operation>| match &operation.value {
            Operation::Process(process) => {
                process.outputs.iter().map(|(name, sink)| (name.value.clone(), sink.clone())).collect()
            }
            _ => Vec::new(),
        };
        self.operations.iter().flat_map(of).collect()
    }
}

/// How timestamps are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampFormat {
    /// `2026-01-31T23:59:59.123Z`
    #[default]
    Rfc3339,
    /// Milliseconds since 1970 UTC.
    Millis,
}

/// A source.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceSpec {
    /// A Kafka topic.
    Kafka(KafkaSourceSpec),
    /// JSON lines; `path` may be a glob; each file is a partition; the input ends with the files.
    File {
        /// Path or glob.
        path: String,
    },
    /// JSON lines from standard input, one partition.
    Stdin,
    /// Generated events.
    Generate(GenerateSpec),
}

/// How the partitions of a source wait for each other: `idleAfter` and `maxDrift` among its parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaceSpec {
    /// A partition that stood at its end this long holds the watermark back no longer; none: as the command line says.
    pub idle_after: Option<Duration>,
    /// A partition whose watermark is more than this ahead of the least one is not read until the others come near; none: it is read.
    pub max_drift: Option<Duration>,
}

/// `state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSpec {
    /// Bytes of memory that keyed state takes; none: as the command line says.
    pub memory: Option<usize>,
}

/// A Kafka source.
#[derive(Clone, Debug, PartialEq)]
pub struct KafkaSourceSpec {
    /// librdkafka properties of the connection, `bootstrap.servers` among them, with secrets filled in.
    pub properties: BTreeMap<String, String>,
    /// Topic.
    pub topic: String,
    /// An offset that is gone stops the job; else it is counted and the job goes on.
    pub fail_on_data_loss: bool,
    /// Where a job without a committed position starts.
    pub starting_offsets: StartingOffsets,
}

/// Where a job without a committed position starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartingOffsets {
    /// The oldest record that is still there.
    #[default]
    Earliest,
    /// Only records that come from now on.
    Latest,
}

/// Generated swipe and experiment events: late, out-of-order and broken ones among them, the same for the same seed.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateSpec {
    /// Rows a second over all partitions; 0: as fast as it goes.
    pub rows_per_second: u64,
    /// Rows in all; none: without end.
    pub rows: Option<u64>,
    /// Seed.
    pub seed: u64,
    /// Partitions.
    pub partitions: usize,
    /// Events come up to this much out of order.
    pub disorder: Duration,
    /// Share of events (0 to 1) that come much later than that.
    pub late_share: f64,
    /// Share of events (0 to 1) that are broken JSON or have a wrong type.
    pub broken_share: f64,
    /// Event time of the first event, milliseconds since 1970 UTC; none: the time of the start.
    pub start_ms: Option<i64>,
}

impl Default for GenerateSpec {
    fn default() -> Self {
        Self {
            rows_per_second: 10_000,
            rows: None,
            seed: 42,
            partitions: 4,
            disorder: Duration::from_secs(3),
            late_share: 0.001,
            broken_share: 0.001,
            start_ms: None,
        }
    }
}

/// A sink.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkSpec {
    /// A Kafka topic.
    Kafka {
        /// librdkafka properties of the connection.
        properties: BTreeMap<String, String>,
        /// Topic; made with the broker's defaults when it is not there.
        topic: String,
    },
    /// JSON lines appended to a file.
    File {
        /// Path.
        path: String,
    },
    /// JSON lines on standard output.
    Stdout,
    /// Nowhere (counted only).
    Discard,
}

/// One operation of a pipeline.
#[derive(Clone, Debug)]
pub enum Operation {
    /// JSON of a column to columns.
    Parse(ParseSpec),
    /// Keeps rows.
    Filter(FilterSpec),
    /// Columns anew.
    Project(Vec<(Placed<String>, Placed<String>)>),
    /// None, one or many rows of each.
    FlatMap(FlatMapSpec),
    /// Windowed aggregation.
    WindowAggregate(WindowAggregateSpec),
    /// Keyed process.
    Process(ProcessSpec),
}

impl Operation {
    /// Whether it keeps something from row to row.
    pub fn has_state(&self) -> bool {
        matches!(self, Self::WindowAggregate(_) | Self::Process(_))
    }
}

/// `process`.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// A guest's process.
    pub process: Placed<String>,
    /// SQL expressions that make the key.
    pub keys: Vec<Placed<String>>,
    /// Column of the event time.
    pub timestamp_column: Placed<String>,
    /// Bounded out-of-orderness.
    pub watermark: Duration,
    /// An event time may be this much later than the timestamp of its record.
    pub max_future: Duration,
    /// A key that no row has come for in so long is forgotten.
    pub ttl: Duration,
    /// In which order it is given a key's rows.
    pub order: Order,
    /// Sinks of outputs by name; `results` goes on in the pipeline.
    pub outputs: Vec<(Placed<String>, SinkSpec)>,
}

/// In which order a process is given a key's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they come.
    #[default]
    Arrival,
    /// By event time: rows wait until the watermark is past them.
    EventTime,
}

/// `parse`.
#[derive(Clone, Debug)]
pub struct ParseSpec {
    /// Column that holds the JSON: `value` or `key`.
    pub input: Placed<String>,
    /// Columns to make.
    pub columns: Vec<ParseColumn>,
}

/// A column of `parse`.
#[derive(Clone, Debug)]
pub struct ParseColumn {
    /// Path as written: `a.b[0].c`, with or without `$.` before it.
    pub path: Placed<String>,
    /// The path in steps.
    pub steps: Vec<crate::plan::PathStep>,
    /// How the value is read.
    pub output: crate::plan::OutputType,
    /// Name of the column.
    pub name: Placed<String>,
}

/// `filter`.
#[derive(Clone, Debug)]
pub enum FilterSpec {
    /// A SQL expression.
    Where(Placed<String>),
    /// A guest filter over columns and constants.
    Plugin {
        /// Function.
        function: Placed<String>,
        /// Columns.
        columns: Vec<Placed<String>>,
        /// Constants after the columns.
        arguments: Vec<Placed<Constant>>,
    },
}

/// `flatMap`.
#[derive(Clone, Debug)]
pub struct FlatMapSpec {
    /// Function.
    pub function: Placed<String>,
    /// Columns.
    pub columns: Vec<Placed<String>>,
    /// Constants after the columns.
    pub arguments: Vec<Placed<Constant>>,
    /// Names of the columns that it gives; as the function calls them where there are none.
    pub outputs: Vec<Placed<String>>,
}

/// A constant argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// true or false.
    Boolean(bool),
    /// Integer.
    Long(i64),
    /// Double.
    Double(f64),
    /// Text.
    String(String),
    /// Null.
    Null,
}

/// `window_aggregate`.
#[derive(Clone, Debug)]
pub struct WindowAggregateSpec {
    /// Which windows.
    pub kind: Placed<WindowKind>,
    /// Windows over the time at which rows are read, not over the time at which events happened.
    pub processing_time: bool,
    /// Column of the event time; none where `processing_time`.
    pub timestamp_column: Option<Placed<String>>,
    /// Alignment.
    pub offset: Duration,
    /// Bounded out-of-orderness.
    pub watermark: Duration,
    /// An event time may be this much later than the timestamp of its record.
    pub max_future: Duration,
    /// A window stays open this long after its end.
    pub allowed_lateness: Duration,
    /// A key that nothing has updated for so long is forgotten: of windows that never close.
    pub ttl: Option<Duration>,
    /// When results are given.
    pub emit: Placed<Emit>,
    /// How results are keyed.
    pub output: Placed<OutputMode>,
    /// Group keys.
    pub keys: Vec<Placed<String>>,
    /// Aggregates.
    pub aggregations: Vec<AggregationSpec>,
}

/// A kind of window. Durations are of at least a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// Windows of `duration`, one each `slide`, which is at most `duration`; tumbling where they are equal.
    Hopping {
        /// Length of a window.
        duration: Duration,
        /// Distance between two starts.
        slide: Duration,
    },
    /// Windows that begin anew each `size` and give a result each `step`, which divides `size`.
    Cumulative {
        /// Length of the longest.
        size: Duration,
        /// Distance between two ends.
        step: Duration,
    },
    /// Windows by the clocks of a time zone.
    Calendar {
        /// What is counted.
        unit: CalendarUnit,
        /// How many make a window, from 1.
        count: u32,
        /// Time zone.
        zone: chrono_tz::Tz,
    },
    /// Runs of a key's rows that are at most `gap` apart.
    Session {
        /// Time without rows that ends a session.
        gap: Duration,
    },
    /// Runs of a key's rows by number.
    Count {
        /// Rows of a window, from 1.
        every: u64,
        /// Rows from one result to the next, from 1 to `every`.
        slide: u64,
    },
    /// All rows.
    Global,
}

/// A unit of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalendarUnit {
    /// From midnight to midnight.
    Day,
    /// From Monday.
    Week,
    /// From the first.
    Month,
}

/// When a window's results are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// Once, when the window closes.
    #[default]
    Final,
    /// With each epoch that changes them, and when the window closes.
    OnUpdate,
    /// Each so much processing time where they have changed; at the window's end, with each change after it, and when the window closes.
    Early(Duration),
}

/// How result records relate to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputMode {
    /// Each is one more; the record's key is the group keys.
    #[default]
    Append,
    /// The last of a key counts; the record's key is the group keys and the window.
    Upsert,
}

/// One aggregate.
#[derive(Clone, Debug)]
pub struct AggregationSpec {
    /// Function: DataFusion's or a guest's.
    pub reducer: Placed<String>,
    /// Columns.
    pub columns: Vec<Placed<String>>,
    /// Constants after the columns.
    pub arguments: Vec<Placed<Constant>>,
    /// Only distinct values.
    pub distinct: bool,
    /// Columns whose order, ascending, says which row is first and which last; none: rows as they come.
    pub order_by: Vec<Placed<String>>,
    /// Only rows for which this SQL expression is true.
    pub filter: Option<Placed<String>>,
    /// Name of the result.
    pub output: Placed<String>,
}
