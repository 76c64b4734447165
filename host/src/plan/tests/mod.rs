//! What is shared: a pipeline put together by hand, guests that are native, a batch to run steps over.

mod aggregation;
mod chain;
mod faults;
mod guests;
mod steps;

use super::functions::Functions;
use super::logical::build_with;
use super::{DecodeField, OutputType, PathStep, Plan};
use crate::config::spec::{
    AggregationSpec, Constant, Emit, FilterSpec, Operation, OutputMode, ParseColumn, ParseSpec, Pipeline, Place, Placed,
    SinkSpec, SourceSpec, TimestampFormat, WindowAggregateSpec, WindowKind,
};
use crate::plugin::{FunctionKind, GuestUse};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::{AggregateUDF, ColumnarValue, ScalarUDF, Volatility, create_udaf, create_udf};
use datafusion_functions_aggregate::sum::sum_udaf;
use std::sync::Arc;
use std::time::Duration;

/// Natively: filter `small(long)`, scalar `shout(string)`, aggregate `total(long)`.
struct Native;

impl Functions for Native {
    fn scalar_udfs(&self) -> Vec<Arc<ScalarUDF>> {
        let small = |args: &[ColumnarValue]| match &args[0] {
            ColumnarValue::Array(a) => {
                let longs: &Int64Array = arrow::array::AsArray::as_primitive(a.as_ref());
                let kept: arrow::array::BooleanArray = longs.iter().map(|v| Some(v.is_some_and(|v| v < 10))).collect();
                Ok(ColumnarValue::Array(Arc::new(kept)))
            }
            ColumnarValue::Scalar(v) => {
                let small = matches!(v, ScalarValue::Int64(Some(v)) if *v < 10);
                Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(small))))
            }
        };
        let shout = |args: &[ColumnarValue]| match &args[0] {
            ColumnarValue::Array(a) => {
                let texts: &StringArray = arrow::array::AsArray::as_string(a.as_ref());
                let loud: StringArray = texts.iter().map(|t| t.map(|t| format!("{t}!"))).collect();
                Ok(ColumnarValue::Array(Arc::new(loud)))
            }
            ColumnarValue::Scalar(v) => Ok(ColumnarValue::Scalar(v.clone())),
        };
        vec![
            Arc::new(create_udf("small", vec![DataType::Int64], DataType::Boolean, Volatility::Immutable, Arc::new(small))),
            Arc::new(create_udf("shout", vec![DataType::Utf8], DataType::Utf8, Volatility::Immutable, Arc::new(shout))),
        ]
    }

    fn aggregate_udfs(&self) -> Vec<Arc<AggregateUDF>> {
        let total = create_udaf(
            "total",
            vec![DataType::Int64],
            Arc::new(DataType::Int64),
            Volatility::Immutable,
            Arc::new(|args| sum_udaf().accumulator(args)),
            Arc::new(vec![DataType::Int64]),
        );
        vec![Arc::new(total)]
    }

    fn flat_map(&self, _: &str) -> Option<crate::plugin::GuestFlatMap> {
        None
    }

    fn guest(&self, function: &str) -> Option<(FunctionKind, GuestUse)> {
        let (kind, plugin) = match function {
            "small" => (FunctionKind::Filter, "sizes"),
            "shout" => (FunctionKind::Scalar, "texts"),
            "total" => (FunctionKind::Aggregate, "sizes"),
            _ => return None,
        };
        let used =
            GuestUse { function: function.into(), plugin: plugin.into(), version: "1.0.0".into(), hash: "0123456789ab".into() };
        Some((kind, used))
    }

    fn layout_of(&self, function: &str) -> Option<String> {
        (function == "total").then(|| "total(int64) -> int64 (sum int64)".to_owned())
    }

    fn process(&self, _: &str) -> Option<(Arc<crate::plugin::Plugin>, usize)> {
        None
    }

    fn function_names(&self) -> Vec<String> {
        ["shout", "small", "total"].map(str::to_owned).to_vec()
    }
}

/// A value at a line of its own.
fn at<T>(line: usize, value: T) -> Placed<T> {
    Placed { value, place: Place { line, column: 3 } }
}

fn text(line: usize, value: &str) -> Placed<String> {
    at(line, value.to_owned())
}

fn texts(line: usize, values: &[&str]) -> Vec<Placed<String>> {
    values.iter().map(|v| text(line, v)).collect()
}

/// `st` (timestamp), `name`, `level`, `extra` (strings), `size` (long), `price` (double), `good` (boolean).
fn parse(line: usize) -> Placed<Operation> {
    let column = |name: &str, output| ParseColumn {
        path: text(line, name),
        steps: vec![PathStep::Member(name.to_owned())],
        output,
        name: text(line, name),
    };
    let columns = vec![
        column("st", OutputType::MilliToTimestamp),
        column("name", OutputType::String),
        column("size", OutputType::Long),
        column("price", OutputType::Double),
        column("good", OutputType::Boolean),
        column("extra", OutputType::String),
        column("camelCase", OutputType::String),
    ];
    at(line, Operation::Parse(ParseSpec { input: text(line, "value"), columns }))
}

fn filter(line: usize, sql: &str) -> Placed<Operation> {
    at(line, Operation::Filter(FilterSpec::Where(text(line, sql))))
}

fn guest_filter(line: usize, function: &str, columns: &[&str]) -> Placed<Operation> {
    let spec = FilterSpec::Plugin { function: text(line, function), columns: texts(line, columns), arguments: Vec::new() };
    at(line, Operation::Filter(spec))
}

fn project(line: usize, columns: &[(&str, &str)]) -> Placed<Operation> {
    at(line, Operation::Project(columns.iter().map(|(name, sql)| (text(line, name), text(line, sql))).collect()))
}

fn reduce(line: usize, reducer: &str, columns: &[&str], output: &str) -> AggregationSpec {
    AggregationSpec {
        reducer: text(line, reducer),
        columns: texts(line, columns),
        arguments: Vec::new(),
        distinct: false,
        order_by: Vec::new(),
        filter: None,
        output: text(line, output),
    }
}

fn window(line: usize, event_time: &str, keys: &[&str], aggregations: Vec<AggregationSpec>) -> Placed<Operation> {
    at(
        line,
        Operation::WindowAggregate(WindowAggregateSpec {
            kind: at(line, WindowKind::Hopping { duration: Duration::from_secs(60), slide: Duration::from_secs(60) }),
            processing_time: false,
            timestamp_column: Some(text(line, event_time)),
            offset: Duration::ZERO,
            watermark: Duration::from_secs(1),
            max_future: Duration::from_secs(86_400),
            allowed_lateness: Duration::ZERO,
            ttl: None,
            emit: at(line, Emit::Final),
            output: at(line, OutputMode::Append),
            keys: texts(line, keys),
            aggregations,
        }),
    )
}

fn pipeline(operations: Vec<Placed<Operation>>) -> Pipeline {
    Pipeline {
        file: "p.yaml".into(),
        text: String::new(),
        name: "p".into(),
        team: "t".into(),
        version: String::new(),
        source: SourceSpec::Stdin,
        pace: crate::config::spec::PaceSpec::default(),
        state: crate::config::spec::StateSpec::default(),
        operations,
        operators: vec!["counts".into()],
        sink: SinkSpec::Stdout,
        late: None,
        rejects: None,
        timestamp_format: TimestampFormat::Rfc3339,
        include_plugin_version: false,
    }
}

fn plan_of(pipeline: &Pipeline) -> Plan {
    build_with(pipeline, &Native).unwrap_or_else(|e| panic!("{e}"))
}

fn plan(operations: Vec<Placed<Operation>>) -> Plan {
    plan_of(&pipeline(operations))
}

/// `line: message` of each fault.
fn faults(pipeline: &Pipeline) -> Vec<String> {
    let errors = build_with(pipeline, &Native).err().expect("the pipeline is at fault");
    errors.faults.iter().map(|f| format!("{}: {}", f.place.line, f.message)).collect()
}

fn decoded_names(plan: &Plan) -> Vec<&str> {
    plan.decode.iter().map(|f: &DecodeField| f.name.as_str()).collect()
}

fn types(schema: &arrow::datatypes::Schema) -> Vec<String> {
    schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect()
}

/// Three rows as the plan's decoder would give them, the last all null.
fn batch(plan: &Plan) -> RecordBatch {
    let schema = &plan.decoded;
    let columns = schema.fields().iter().map(|f| -> ArrayRef {
        let values: ArrayRef = match f.name().as_str() {
            "__row" => return Arc::new(UInt32Array::from(vec![0, 1, 2])),
            "st" => Arc::new(TimestampMillisecondArray::from(vec![60_000, 125_000])),
            "name" => Arc::new(StringArray::from(vec!["a", "b"])),
            "camelCase" => Arc::new(StringArray::from(vec!["Camel", "Case"])),
            "size" => Arc::new(Int64Array::from(vec![5, 50])),
            "price" => Arc::new(arrow::array::Float64Array::from(vec![0.5, 2.5])),
            "good" => Arc::new(arrow::array::BooleanArray::from(vec![true, false])),
            "partition" => Arc::new(Int64Array::from(vec![3, 4])),
            _ => return new_null_array(f.data_type(), 3),
        };
        concat(&[values.as_ref(), new_null_array(f.data_type(), 1).as_ref()]).unwrap()
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect()).unwrap()
}

/// Rows as text, one string a row, without the row column.
fn rows(batch: &RecordBatch) -> Vec<String> {
    let shown: Vec<usize> = (0..batch.num_columns()).filter(|i| batch.schema().field(*i).name() != "__row").collect();
    let options = arrow::util::display::FormatOptions::default().with_null("-");
    let value = |c: usize, r: usize| {
        arrow::util::display::ArrayFormatter::try_new(batch.column(c), &options).unwrap().value(r).to_string()
    };
    (0..batch.num_rows()).map(|r| shown.iter().map(|c| value(*c, r)).collect::<Vec<_>>().join(" ")).collect()
}

/// A constant at a line.
fn constant(line: usize, value: Constant) -> Placed<Constant> {
    at(line, value)
}
