//! What a guest's function takes and gives, as the rest of Kindling sees it.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};

use super::FunctionKind;

/// Type of a guest's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestType {
    /// true or false.
    Boolean,
    /// Signed 64-bit integer.
    Int64,
    /// IEEE 754 double.
    Float64,
    /// Milliseconds since 1970 UTC.
    Timestamp,
    /// UTF-8 text.
    Utf8,
    /// Bytes.
    Binary,
}

impl GuestType {
    /// The Arrow type of such a column.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, None),
            Self::Utf8 => DataType::Utf8,
            Self::Binary => DataType::Binary,
        }
    }

    /// Whether a value of `from` may be cast to this without a change of meaning. A value that does not fit (an unsigned integer past
    /// the signed ones) is an error at run time, never another value.
    pub(crate) fn accepts(self, from: &DataType) -> bool {
        match from {
            DataType::Null => true,
            DataType::Dictionary(_, values) => self.accepts(values),
            _ => match self {
                Self::Boolean => matches!(from, DataType::Boolean),
                Self::Int64 => from.is_integer(),
                Self::Float64 => from.is_numeric(),
                Self::Timestamp => matches!(from, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64),
                Self::Utf8 => matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
                Self::Binary => matches!(
                    from,
                    DataType::Binary
                        | DataType::LargeBinary
                        | DataType::BinaryView
                        | DataType::FixedSizeBinary(_)
                        | DataType::Utf8
                        | DataType::LargeUtf8
                        | DataType::Utf8View
                ),
            },
        }
    }
}

impl fmt::Display for GuestType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Timestamp => "timestamp",
            Self::Utf8 => "utf8",
            Self::Binary => "binary",
        })
    }
}

/// Metadata of an aggregate's Arrow state field: its [`StateField::layout`], where it has one.
pub const LAYOUT: &str = "layout";

/// A part of an aggregate's partial state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StateField {
    /// Name, unique within the state.
    pub name: String,
    /// Type.
    pub data_type: GuestType,
    /// How the bytes of a binary field are to be read; empty for plain values.
    pub layout: String,
}

/// A column that a flat map gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResultColumn {
    /// Name, unique within the function.
    pub name: String,
    /// Type.
    pub data_type: GuestType,
}

/// A guest's function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FunctionSignature {
    /// Name in SQL and YAML.
    pub name: Arc<str>,
    /// Filter, scalar, aggregate, flat map or process.
    pub kind: FunctionKind,
    /// One line for people.
    pub doc: String,
    /// Types of the arguments.
    pub arguments: Vec<GuestType>,
    /// Type of the result; says nothing of a flat map or a process.
    pub result: GuestType,
    /// Columns of a flat map's rows; empty for others.
    pub results: Vec<ResultColumn>,
    /// Fields of the partial state, or of a key's; empty for other functions.
    pub state: Vec<StateField>,
    /// What only a keyed process has.
    pub process: Option<ProcessSignature>,
}

/// A column of a process's rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// Name.
    pub name: String,
    /// Type.
    pub data_type: GuestType,
    /// Whether it may be null.
    pub nullable: bool,
}

/// An output of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessOutput {
    /// Name; `results` goes on in the pipeline.
    pub name: String,
    /// Its columns.
    pub columns: Vec<Attribute>,
    /// Each of its rows is one that came in, with the columns behind it.
    pub passes: bool,
}

/// What a keyed process takes and gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessSignature {
    /// Columns of the rows that it is given, found by name.
    pub arguments: Vec<Attribute>,
    /// Its outputs.
    pub outputs: Vec<ProcessOutput>,
}

fn attributes(attributes: &[Attribute]) -> String {
    let one = |a: &Attribute| format!("{} {}{}", a.name, a.data_type, if a.nullable { "?" } else { "" });
    attributes.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl ProcessSignature {
    /// `user_id utf8, like boolean`, with `?` behind what may be null.
    pub fn rows(&self) -> String {
        attributes(&self.arguments)
    }

    fn given(&self) -> String {
        let one = |o: &ProcessOutput| {
            let row = match (o.passes, o.columns.is_empty()) {
                (true, true) => "the row",
                (true, false) => "the row, ",
                (false, _) => "",
            };
            format!("{}({row}{})", o.name, attributes(&o.columns))
        };
        self.outputs.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl FunctionSignature {
    /// `avg(float64) -> float64`; of a flat map or a process with the names of its columns.
    pub fn header(&self) -> String {
        if let Some(process) = &self.process {
            return format!("{}({}) -> {}", self.name, process.rows(), process.given());
        }
        let arguments: Vec<String> = self.arguments.iter().map(ToString::to_string).collect();
        let result = match self.results.as_slice() {
            [] => self.result.to_string(),
            columns => {
                let columns: Vec<String> = columns.iter().map(|c| format!("{} {}", c.name, c.data_type)).collect();
                format!("rows of ({})", columns.join(", "))
            }
        };
        format!("{}({}) -> {result}", self.name, arguments.join(", "))
    }

    /// `sum float64, count int64`, or with the layout of bytes: `top binary [msgpack:TopK:1]`. Two versions of a function whose texts
    /// are equal can hand their states over.
    pub fn state_layout(&self) -> String {
        let fields: Vec<String> = self
            .state
            .iter()
            .map(|f| match f.layout.as_str() {
                "" => format!("{} {}", f.name, f.data_type),
                layout => format!("{} {} [{layout}]", f.name, f.data_type),
            })
            .collect();
        fields.join(", ")
    }
}

impl fmt::Display for FunctionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Scalar => "scalar",
            Self::Aggregate => "aggregate",
            Self::Process => "process",
            Self::FlatMap => "flat map",
        })
    }
}
