//! The types of `wit/plugin.wit` and `wit/process.wit` as wasmtime's typed calls take and give them: borrowed on the way in, owned on the way out.

use wasmtime::component::{ComponentType, Lift, Lower};

/// Values of variable length, on the way in.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct VarlenIn<'a> {
    pub(super) offsets: &'a [u32],
    pub(super) data: &'a [u8],
}

/// Values of a column, on the way in.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(variant)]
pub(super) enum ValuesIn<'a> {
    #[component(name = "boolean")]
    Boolean(&'a [u8]),
    #[component(name = "int64")]
    Int64(&'a [i64]),
    #[component(name = "float64")]
    Float64(&'a [f64]),
    #[component(name = "timestamp")]
    Timestamp(&'a [i64]),
    #[component(name = "utf8")]
    Utf8(VarlenIn<'a>),
    #[component(name = "binary")]
    Binary(VarlenIn<'a>),
}

/// A column, on the way in.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct ColumnIn<'a> {
    pub(super) values: ValuesIn<'a>,
    pub(super) validity: &'a [u8],
    pub(super) constant: bool,
}

/// Values of variable length, as a guest gave them: unchecked.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct VarlenOut {
    pub(super) offsets: Vec<u32>,
    pub(super) data: Vec<u8>,
}

/// Values of a column, as a guest gave them: unchecked.
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum ValuesOut {
    #[component(name = "boolean")]
    Boolean(Vec<u8>),
    #[component(name = "int64")]
    Int64(Vec<i64>),
    #[component(name = "float64")]
    Float64(Vec<f64>),
    #[component(name = "timestamp")]
    Timestamp(Vec<i64>),
    #[component(name = "utf8")]
    Utf8(VarlenOut),
    #[component(name = "binary")]
    Binary(VarlenOut),
}

/// A column, as a guest gave it: unchecked.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct ColumnOut {
    pub(super) values: ValuesOut,
    pub(super) validity: Vec<u8>,
    pub(super) constant: bool,
}

/// The guest refuses the call.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct FailureOut {
    pub(super) message: String,
    pub(super) row: Option<u32>,
}

/// Type of a column.
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "only wasmtime makes them, by their numbers")]
pub(super) enum DatatypeOut {
    #[component(name = "boolean")]
    Boolean,
    #[component(name = "int64")]
    Int64,
    #[component(name = "float64")]
    Float64,
    #[component(name = "timestamp")]
    Timestamp,
    #[component(name = "utf8")]
    Utf8,
    #[component(name = "binary")]
    Binary,
}

/// Kind of a function.
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "only wasmtime makes them, by their numbers")]
pub(super) enum KindOut {
    #[component(name = "filter")]
    Filter,
    #[component(name = "scalar")]
    Scalar,
    #[component(name = "aggregate")]
    Aggregate,
}

/// A field of a partial state.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct FieldOut {
    pub(super) name: String,
    #[component(name = "type")]
    pub(super) data_type: DatatypeOut,
    pub(super) layout: String,
}

/// A function, as `describe` says.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct FunctionOut {
    pub(super) name: String,
    pub(super) kind: KindOut,
    pub(super) doc: String,
    pub(super) arguments: Vec<DatatypeOut>,
    pub(super) result: DatatypeOut,
    pub(super) state: Vec<FieldOut>,
}

/// A column that a flat map gives.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct ResultColumnOut {
    pub(super) name: String,
    #[component(name = "type")]
    pub(super) data_type: DatatypeOut,
}

/// A flat map, as `describeflatmaps` says.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct FlatMapFunctionOut {
    pub(super) name: String,
    pub(super) doc: String,
    pub(super) arguments: Vec<DatatypeOut>,
    pub(super) results: Vec<ResultColumnOut>,
}

/// The rows of a flat map, as a guest gave them: unchecked.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct FlatRowsOut {
    pub(super) rows: Vec<u32>,
    pub(super) columns: Vec<ColumnOut>,
}

/// What `describe` says.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct DescriptionOut {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) sdk: String,
    pub(super) functions: Vec<FunctionOut>,
}

/// Parameters of `filter`, `scalar` and `flatmap`: function, rows, arguments. Also of `finish`, with states for arguments.
pub(super) type RowsParams<'a> = (u32, u32, &'a [ColumnIn<'a>]);
/// Parameters of `accumulate` and `merge`: function, groups, number of groups, arguments or states.
pub(super) type GroupsParams<'a> = (u32, &'a [u32], u32, &'a [ColumnIn<'a>]);
/// Result of `filter`.
pub(super) type BitmapResult = (Result<Vec<u8>, FailureOut>,);
/// Result of `scalar` and `finish`.
pub(super) type ColumnResult = (Result<ColumnOut, FailureOut>,);
/// Result of `flatmap`.
pub(super) type FlatRowsResult = (Result<FlatRowsOut, FailureOut>,);
/// Result of `accumulate` and `merge`.
pub(super) type ColumnsResult = (Result<Vec<ColumnOut>, FailureOut>,);

/// Timers by key, on the way in.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct TimersIn<'a> {
    pub(super) offsets: &'a [u32],
    pub(super) times: &'a [i64],
}

/// A call of a process.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct BatchIn<'a> {
    pub(super) keys: u32,
    pub(super) known: &'a [u8],
    pub(super) states: &'a [ColumnIn<'a>],
    pub(super) offsets: &'a [u32],
    pub(super) arguments: &'a [ColumnIn<'a>],
    pub(super) times: &'a [i64],
    pub(super) watermarks: &'a [i64],
    pub(super) until: &'a [i64],
    pub(super) now: i64,
    pub(super) eventtimers: TimersIn<'a>,
    pub(super) processingtimers: TimersIn<'a>,
}

/// Timers by key, as a guest gave them: unchecked.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct TimersOut {
    pub(super) offsets: Vec<u32>,
    pub(super) times: Vec<i64>,
}

/// Rows of an output, as a guest gave them: unchecked.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct RowsOut {
    pub(super) keys: Vec<u32>,
    pub(super) rows: Vec<u32>,
    pub(super) columns: Vec<ColumnOut>,
}

/// What a call of a process changes, as the guest gave it: unchecked.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct EffectOut {
    pub(super) known: Vec<u8>,
    pub(super) states: Vec<ColumnOut>,
    pub(super) eventtimers: TimersOut,
    pub(super) processingtimers: TimersOut,
    pub(super) outputs: Vec<RowsOut>,
}

/// A column of a process's rows.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct AttributeOut {
    pub(super) name: String,
    #[component(name = "type")]
    pub(super) data_type: DatatypeOut,
    pub(super) nullable: bool,
}

/// An output of a process, as `describeprocesses` says.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct OutputOut {
    pub(super) name: String,
    pub(super) columns: Vec<AttributeOut>,
    pub(super) passes: bool,
}

/// A process, as `describeprocesses` says.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct ProcessOut {
    pub(super) name: String,
    pub(super) doc: String,
    pub(super) arguments: Vec<AttributeOut>,
    pub(super) state: Vec<FieldOut>,
    pub(super) outputs: Vec<OutputOut>,
}

/// What `describeprocesses` says.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct ProcessesOut {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) sdk: String,
    pub(super) processes: Vec<ProcessOut>,
}

/// Parameters of `process`: process, batch.
pub(super) type ProcessParams<'a> = (u32, BatchIn<'a>);
/// Result of `process`.
pub(super) type EffectResult = (Result<EffectOut, FailureOut>,);
