//! The operations of a pipeline.

use crate::config::decode::{Fields, text};
use crate::config::endpoints::Connections;
use crate::config::fault::{Fault, suggest};
use crate::config::path;
use crate::config::processes::process;
use crate::config::spec::{AggregationSpec, FilterSpec, FlatMapSpec, Operation, ParseColumn, ParseSpec, Placed};
use crate::config::windows::window_aggregate;
use crate::config::yaml::{Node, NodeValue};
use crate::plan::OutputType;

const OPERATIONS: [&str; 6] = ["parse", "filter", "project", "flatMap", "window_aggregate", "process"];
const OUTPUT_TYPES: [(&str, OutputType); 9] = [
    ("string", OutputType::String),
    ("long", OutputType::Long),
    ("double", OutputType::Double),
    ("boolean", OutputType::Boolean),
    ("timestamp", OutputType::Timestamp),
    ("milliToTimestamp", OutputType::MilliToTimestamp),
    ("secondToTimestamp", OutputType::SecondToTimestamp),
    ("microToTimestamp", OutputType::MicroToTimestamp),
    ("json", OutputType::Json),
];

/// One item of `pipeline`.
pub fn operation(node: Node, connections: &Connections, faults: &mut Vec<Fault>) -> Option<Placed<Operation>> {
    let place = node.place;
    let mut fields = Fields::new(node, "an operation", faults);
    let name = fields.text("operation", faults)?;
    let value = match name.value.as_str() {
        "parse" => parse(&mut fields, faults).map(Operation::Parse),
        "filter" => nested(&mut fields, "filter", faults, filter).map(Operation::Filter),
        "project" => nested(&mut fields, "project", faults, project).map(Operation::Project),
        "flatMap" => nested(&mut fields, "flatMap", faults, flat_map).map(Operation::FlatMap),
        "window_aggregate" => nested(&mut fields, "window_aggregate", faults, window_aggregate).map(Operation::WindowAggregate),
        "process" => {
            let read = |fields: &mut Fields<'_>, faults: &mut Vec<Fault>| process(fields, connections, faults);
            nested(&mut fields, "process", faults, read).map(Operation::Process)
        }
        other => {
            let near = suggest(other, OPERATIONS);
            let all = OPERATIONS.join(", ");
            faults.push(Fault::new(name.place, format!("unknown operation `{other}`{near}; there are {all}")));
            return None;
        }
    };
    fields.finish(faults);
    Some(Placed { value: value?, place })
}

/// An operation's fields stand under its name, or beside `operation`.
fn nested<T>(
    fields: &mut Fields<'_>,
    name: &'static str,
    faults: &mut Vec<Fault>,
    read: impl Fn(&mut Fields<'_>, &mut Vec<Fault>) -> Option<T>,
) -> Option<T> {
    match fields.take(name) {
        None => read(fields, faults),
        Some(node) => {
            let mut inner = Fields::new(node, name, faults);
            let value = read(&mut inner, faults);
            inner.finish(faults);
            value
        }
    }
}

fn parse(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Option<ParseSpec> {
    let mut inner = Fields::new(fields.need("parse", faults)?, "parse", faults);
    let input = inner.text_opt("inputCol", faults);
    let input = input.unwrap_or_else(|| Placed { value: "value".into(), place: inner.place() });
    if !["value", "key"].contains(&input.value.as_str()) {
        faults.push(Fault::new(input.place, format!("`inputCol` is value or key, not `{}`", input.value)));
    }
    let mut columns = inner.list("parameters", faults);
    // Some hands write `parameters` one level out.
    columns.extend(fields.list("parameters", faults));
    if columns.is_empty() {
        faults.push(Fault::new(inner.place(), "parse needs `parameters`: a list of jsonPath, outputType, outputCol"));
    }
    let columns = columns.into_iter().filter_map(|n| parse_column(n, faults)).collect();
    inner.finish(faults);
    Some(ParseSpec { input, columns })
}

fn parse_column(node: Node, faults: &mut Vec<Fault>) -> Option<ParseColumn> {
    let mut fields = Fields::new(node, "a column of parse", faults);
    let path = fields.text("jsonPath", faults);
    let output = fields.text("outputType", faults);
    let name = fields.text("outputCol", faults);
    fields.finish(faults);
    let steps = path.as_ref().and_then(|p| path::parse(&p.value).map_err(|why| faults.push(Fault::new(p.place, why))).ok());
    let output = output.and_then(|o| {
        let found = OUTPUT_TYPES.iter().find(|(n, _)| *n == o.value).map(|(_, t)| *t);
        if found.is_none() {
            let near = suggest(&o.value, OUTPUT_TYPES.iter().map(|(n, _)| *n));
            let all: Vec<&str> = OUTPUT_TYPES.iter().map(|(n, _)| *n).collect();
            faults.push(Fault::new(o.place, format!("unknown outputType `{}`{near}; there are {}", o.value, all.join(", "))));
        }
        found
    });
    Some(ParseColumn { path: path?, steps: steps?, output: output?, name: name? })
}

fn filter(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Option<FilterSpec> {
    let expression = fields.text_opt("where", faults);
    let function = fields.text_opt("plugin", faults);
    let columns = input_columns(fields, faults);
    let arguments = fields.constants("arguments", faults);
    match (expression, function) {
        (Some(expression), None) if columns.is_empty() && arguments.is_empty() => Some(FilterSpec::Where(expression)),
        (None, Some(function)) => Some(FilterSpec::Plugin { function, columns, arguments }),
        _ => {
            faults.push(Fault::new(fields.place(), "filter needs `where` (a SQL expression), or `plugin` with `inputColumns`"));
            None
        }
    }
}

fn project(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Option<Vec<(Placed<String>, Placed<String>)>> {
    let node = fields.need("columns", faults)?;
    let NodeValue::Map(members) = node.value else {
        faults.push(Fault::new(node.place, "`columns` must be a mapping of names to SQL expressions"));
        return None;
    };
    let columns = members.into_iter().filter_map(|(name, node)| {
        let expression = text(node, &name.value, faults)?;
        Some((name, expression))
    });
    Some(columns.collect())
}

fn flat_map(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Option<FlatMapSpec> {
    let function = fields.text("plugin", faults);
    let columns = input_columns(fields, faults);
    let arguments = fields.constants("arguments", faults);
    let outputs = fields.texts("outputColumns", faults);
    Some(FlatMapSpec { function: function?, columns, arguments, outputs })
}

fn input_columns(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Vec<Placed<String>> {
    let mut columns = fields.texts("inputColumns", faults);
    columns.extend(fields.text_opt("inputColumn", faults));
    columns
}

/// One item of `aggregations`.
pub fn aggregation(node: Node, faults: &mut Vec<Fault>) -> Option<AggregationSpec> {
    let mut fields = Fields::new(node, "an aggregation", faults);
    let reducer = fields.text("reducer", faults);
    let output = fields.text("outputColumn", faults);
    let columns = input_columns(&mut fields, faults);
    let arguments = fields.constants("arguments", faults);
    let distinct = fields.bool_or("distinct", false, faults);
    let order_by = fields.texts("orderBy", faults);
    let filter = fields.text_opt("where", faults);
    fields.finish(faults);
    Some(AggregationSpec { reducer: reducer?, columns, arguments, distinct, order_by, filter, output: output? })
}
