//! The operations of a pipeline.

use crate::config::decode::{Fields, text};
use crate::config::fault::{Fault, suggest};
use crate::config::path;
use crate::config::spec::{AggregationSpec, FilterSpec, Operation, ParseColumn, ParseSpec, Place, Placed, WindowAggregateSpec};
use crate::config::yaml::{Node, NodeValue};
use crate::limits::MAX_FUTURE;
use crate::plan::OutputType;
use std::time::Duration;

/// Panes that one window may have.
const PANES_MAX: u64 = 10_000;
const OPERATIONS: [&str; 4] = ["parse", "filter", "project", "window_aggregate"];
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
pub fn operation(node: Node, faults: &mut Vec<Fault>) -> Option<Placed<Operation>> {
    let place = node.place;
    let mut fields = Fields::new(node, "an operation", faults);
    let name = fields.text("operation", faults)?;
    let value = match name.value.as_str() {
        "parse" => parse(&mut fields, faults).map(Operation::Parse),
        "filter" => nested(&mut fields, "filter", faults, filter).map(Operation::Filter),
        "project" => nested(&mut fields, "project", faults, project).map(Operation::Project),
        "window_aggregate" => nested(&mut fields, "window_aggregate", faults, window_aggregate).map(Operation::WindowAggregate),
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
    read: fn(&mut Fields<'_>, &mut Vec<Fault>) -> Option<T>,
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

fn input_columns(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Vec<Placed<String>> {
    let mut columns = fields.texts("inputColumns", faults);
    columns.extend(fields.text_opt("inputColumn", faults));
    columns
}

fn window_aggregate(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Option<WindowAggregateSpec> {
    let window = fields.need("window", faults);
    let keys = fields.texts("groupByKeys", faults);
    let place = fields.place();
    let aggregations = fields.list("aggregations", faults);
    if aggregations.is_empty() {
        faults.push(Fault::new(place, "window_aggregate needs `aggregations`: a list of reducer and outputColumn"));
    }
    let aggregations: Vec<_> = aggregations.into_iter().filter_map(|n| aggregation(n, faults)).collect();
    let mut window = Fields::new(window?, "window", faults);
    let timestamp_column = window.text("timestampColumn", faults);
    let duration = window.duration("duration", faults);
    let slide = window.duration_opt("slideDuration", faults);
    let offset = window.duration_opt("offset", faults).map_or(Duration::ZERO, |d| d.value);
    let watermark = window.duration("watermark", faults);
    let max_future = window.duration_opt("maxFuture", faults).map_or(MAX_FUTURE, |d| d.value);
    let allowed_lateness = window.duration_opt("allowedLateness", faults).map_or(Duration::ZERO, |d| d.value);
    window.finish(faults);
    if let Some(duration) = &duration {
        check_window(duration, slide.as_ref(), faults);
    }
    Some(WindowAggregateSpec {
        timestamp_column: timestamp_column?,
        duration: duration?,
        slide,
        offset,
        watermark: watermark?,
        max_future,
        allowed_lateness,
        keys,
        aggregations,
    })
}

fn check_window(duration: &Placed<Duration>, slide: Option<&Placed<Duration>>, faults: &mut Vec<Fault>) {
    let millis = |d: &Placed<Duration>| d.value.as_millis() as u64;
    if millis(duration) == 0 {
        faults.push(Fault::new(duration.place, "`duration` must be longer than 0"));
        return;
    }
    let Some(slide) = slide else { return };
    let mut fault = |place: Place, text: String| faults.push(Fault::new(place, text));
    if millis(slide) == 0 {
        fault(slide.place, "`slideDuration` must be longer than 0".into());
    } else if slide.value > duration.value {
        fault(slide.place, "`slideDuration` is longer than `duration`: rows between two windows would count nowhere".into());
    } else if millis(duration) / gcd(millis(duration), millis(slide)) > PANES_MAX {
        fault(
            slide.place,
            format!("a window would have more than {PANES_MAX} panes; make `slideDuration` longer, or a divisor of `duration`"),
        );
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn aggregation(node: Node, faults: &mut Vec<Fault>) -> Option<AggregationSpec> {
    let mut fields = Fields::new(node, "an aggregation", faults);
    let reducer = fields.text("reducer", faults);
    let output = fields.text("outputColumn", faults);
    let columns = input_columns(&mut fields, faults);
    let arguments = fields.constants("arguments", faults);
    let distinct = fields.bool_or("distinct", false, faults);
    let filter = fields.text_opt("where", faults);
    fields.finish(faults);
    Some(AggregationSpec { reducer: reducer?, columns, arguments, distinct, filter, output: output? })
}
