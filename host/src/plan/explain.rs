//! A plan for people: what is decoded, where each guest runs, panes, state. Never a connection's properties, which may be secrets.

use super::{DecodeField, FieldSource, OutputType, PathStep, Plan, ProcessPlan, ResultBound, Step, WindowPlan};
use crate::config::spec::{Emit, Operation, Order, Pipeline, SinkSpec, SourceSpec, WindowKind};
use crate::limits::{ROW_COLUMN, STATE_SHARDS};
use crate::plugin::GuestUse;
use crate::time::format_duration;
use arrow::datatypes::Schema;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use serde::Serialize;
use std::fmt::{Result as FmtResult, Write};
use std::sync::Arc;
use std::time::Duration;

/// A plan in words.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// `team/name`.
    pub pipeline: String,
    /// Where records come from.
    pub source: String,
    /// Columns that are decoded: name, type, where from.
    pub decode: Vec<String>,
    /// Columns that the file parses and nothing uses.
    pub pruned: Vec<String>,
    /// Steps before the aggregation, or all.
    pub before: Vec<String>,
    /// The aggregation: windows, panes, keys, aggregates.
    pub aggregation: Vec<String>,
    /// What is stored.
    pub state: Vec<String>,
    /// Operations with state behind that one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<Behind>,
    /// Steps over the results.
    pub after: Vec<String>,
    /// Guests: function, plugin, version, hash, where it runs.
    pub guests: Vec<String>,
    /// Columns of the output: name and type.
    pub output: Vec<String>,
    /// Where results, late rows and rejects go, and the key of the records.
    pub sinks: Vec<String>,
}

/// An operation with state behind another, in words.
#[derive(Clone, Debug, Serialize)]
pub struct Behind {
    /// Name of the operator.
    pub operator: String,
    /// What its watermark follows.
    pub watermark: String,
    /// Steps before it, over the results of the one before.
    pub before: Vec<String>,
    /// The aggregation or process.
    pub aggregation: Vec<String>,
    /// What is stored.
    pub state: Vec<String>,
}

/// A plan as text.
pub fn explain(plan: &Plan, pipeline: &Pipeline) -> String {
    let mut text = String::new();
    // Writing to a String never fails.
    let _ = write_text(&Explanation::of(plan, pipeline), &mut text);
    text
}

fn write_text(e: &Explanation, out: &mut String) -> FmtResult {
    writeln!(out, "pipeline  {}\nsource    {}", e.pipeline, e.source)?;
    let first: [(&str, &[String]); 5] = [
        ("decode", &e.decode),
        ("not decoded, as nothing uses it", &e.pruned),
        (if e.aggregation.is_empty() { "steps" } else { "steps before the aggregation" }, &e.before),
        ("aggregation", &e.aggregation),
        ("state", &e.state),
    ];
    first.into_iter().try_for_each(|(title, lines)| write_part(title, lines, out))?;
    for of in &e.behind {
        write_part(&format!("steps before {}, over the results", of.operator), &of.before, out)?;
        write_part(&of.operator, &[&of.aggregation[..], std::slice::from_ref(&of.watermark)].concat(), out)?;
        write_part(&format!("state of {}", of.operator), &of.state, out)?;
    }
    let last: [(&str, &[String]); 4] =
        [("steps over the results", &e.after), ("guests", &e.guests), ("output", &e.output), ("sinks", &e.sinks)];
    last.into_iter().try_for_each(|(title, lines)| write_part(title, lines, out))
}

fn write_part(title: &str, lines: &[String], out: &mut String) -> FmtResult {
    if !lines.is_empty() {
        writeln!(out, "\n{title}")?;
    }
    lines.iter().try_for_each(|line| writeln!(out, "  {line}"))
}

impl Explanation {
    /// Puts a plan into words.
    pub fn of(plan: &Plan, pipeline: &Pipeline) -> Self {
        Self {
            pipeline: format!("{}/{} {}", pipeline.team, pipeline.name, pipeline.version).trim_end().to_owned(),
            source: source(&pipeline.source),
            decode: plan.decode.iter().map(|f| format!("{}: {} from {}", f.name, f.from.data_type(), from(f))).collect(),
            pruned: pruned(plan, pipeline),
            before: plan.pre.iter().map(step).collect(),
            aggregation: with_state(plan, false),
            state: stored(plan),
            behind: plan.chain().zip(plan.chain().skip(1)).map(|(before, plan)| behind(before, plan)).collect(),
            after: plan.last().post.iter().map(step).collect(),
            guests: plan.guests.iter().map(|g| guest(plan, g)).collect(),
            output: columns(&plan.last().output),
            sinks: sinks(plan, pipeline),
        }
    }
}

/// The aggregation or process of a plan.
fn with_state(plan: &Plan, is_behind: bool) -> Vec<String> {
    match (&plan.window, &plan.process) {
        (Some(window), _) => aggregation(plan, window, is_behind),
        (None, Some(of)) => process(plan, of),
        (None, None) => Vec::new(),
    }
}

fn stored(plan: &Plan) -> Vec<String> {
    match (&plan.window, &plan.process) {
        (Some(window), _) => state(window),
        (None, Some(process)) => vec![format!("{}: {}", process.signature().name, process.signature().state_layout())],
        (None, None) => vec!["none".to_owned()],
    }
}

fn behind(before: &Plan, plan: &Plan) -> Behind {
    let how = match before.next.as_ref().map(|next| next.bound) {
        Some(ResultBound::OpenWindow) if before.window.is_some() => {
            format!("the start of the first window of {} that is open", before.operator)
        }
        Some(ResultBound::Behind(by)) if !by.is_zero() => format!("{} behind that of {}", format_duration(by), before.operator),
        _ => format!("that of {}", before.operator),
    };
    Behind {
        operator: plan.operator.clone(),
        watermark: format!("watermark: {how}"),
        before: plan.pre.iter().map(step).collect(),
        aggregation: with_state(plan, true),
        state: stored(plan),
    }
}

fn process(plan: &Plan, process: &ProcessPlan) -> Vec<String> {
    let input = plan.input();
    let names = |columns: &[usize]| columns.iter().map(|c| input.field(*c).name().as_str()).collect::<Vec<_>>().join(", ");
    let order = match process.order {
        Order::Arrival => "as they come".to_owned(),
        Order::EventTime => format!("by {}: they wait until the watermark is past them", input.field(process.event_time).name()),
    };
    vec![
        format!("process: {}", process.signature().header()),
        format!("keyed by: {}", names(&process.keys)),
        format!("given: {}", names(&process.arguments)),
        format!("order of rows: {order}"),
        format!(
            "event time: {}, out of order by up to {}",
            input.field(process.event_time).name(),
            format_duration(process.out_of_orderness)
        ),
        format!("a key is forgotten: {} after its last row", format_duration(process.ttl)),
    ]
}

fn columns(schema: &Schema) -> Vec<String> {
    schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect()
}

fn source(source: &SourceSpec) -> String {
    match source {
        SourceSpec::Kafka(kafka) => format!("Kafka topic {}", kafka.topic),
        SourceSpec::File { path } => format!("files {path}"),
        SourceSpec::Stdin => "standard input".to_owned(),
        SourceSpec::Generate(g) => format!("generated events, seed {}, {} partitions", g.seed, g.partitions),
    }
}

fn sink(sink: &SinkSpec) -> String {
    match sink {
        SinkSpec::Kafka { topic, .. } => format!("Kafka topic {topic}"),
        SinkSpec::File { path } => format!("file {path}"),
        SinkSpec::Stdout => "standard output".to_owned(),
        SinkSpec::Discard => "nowhere, counted only".to_owned(),
    }
}

fn sinks(plan: &Plan, pipeline: &Pipeline) -> Vec<String> {
    let last = plan.last();
    let keys: Vec<&str> = last.output_keys.iter().map(|k| last.output.field(*k).name().as_str()).collect();
    let how = if plan.upserts() { "upserted by" } else { "keyed by" };
    let keyed = if keys.is_empty() { "records without a key".to_owned() } else { format!("{how} {}", keys.join(", ")) };
    let side = |spec: &Option<SinkSpec>| spec.as_ref().map_or_else(|| "nowhere, counted only".to_owned(), sink);
    let mut lines = vec![format!("results: {}, {keyed}", sink(&pipeline.sink))];
    lines.extend(pipeline.outputs().iter().map(|(name, spec)| format!("{name}: {}", sink(spec))));
    if plan.has_state() {
        lines.push(format!("late: {}", side(&pipeline.late)));
    }
    lines.push(format!("rejects: {}", side(&pipeline.rejects)));
    lines
}

fn from(field: &DecodeField) -> String {
    match &field.from {
        FieldSource::Json { in_key, path, output } => {
            let column = if *in_key { "key" } else { "value" };
            format!("{column} at {} as {}", path_text(path), output_name(*output))
        }
        FieldSource::Key => "the record's key".to_owned(),
        FieldSource::Value => "the record's value".to_owned(),
        FieldSource::Topic => "the record's topic".to_owned(),
        FieldSource::Partition => "the record's partition".to_owned(),
        FieldSource::Offset => "the record's offset".to_owned(),
        FieldSource::Timestamp => "the record's timestamp".to_owned(),
        FieldSource::Headers => "the record's headers".to_owned(),
    }
}

fn path_text(path: &[PathStep]) -> String {
    let mut text = "$".to_owned();
    for step in path {
        let _ = match step {
            PathStep::Member(name) => write!(text, ".{name}"),
            PathStep::Index(i) => write!(text, "[{i}]"),
        };
    }
    text
}

fn output_name(output: OutputType) -> &'static str {
    match output {
        OutputType::String => "string",
        OutputType::Long => "long",
        OutputType::Double => "double",
        OutputType::Boolean => "boolean",
        OutputType::Timestamp => "timestamp",
        OutputType::MilliToTimestamp => "milliToTimestamp",
        OutputType::SecondToTimestamp => "secondToTimestamp",
        OutputType::MicroToTimestamp => "microToTimestamp",
        OutputType::Json => "json",
    }
}

fn pruned(plan: &Plan, pipeline: &Pipeline) -> Vec<String> {
    let parses = pipeline.operations.iter().filter_map(|o| match &o.value {
        Operation::Parse(parse) => Some(&parse.columns),
        _ => None,
    });
    let names = parses.flatten().map(|c| c.name.value.clone());
    names.filter(|n| !plan.decode.iter().any(|f| f.name == *n)).collect()
}

fn step(step: &Step) -> String {
    match step {
        Step::Filter(predicate) => format!("filter {predicate}"),
        Step::Project(exprs, schema) => {
            let shown = schema.fields().iter().zip(exprs).filter(|(f, _)| f.name() != ROW_COLUMN);
            let columns: Vec<String> = shown.map(|(f, e)| format!("{} = {e}", f.name())).collect();
            format!("project {}", columns.join(", "))
        }
        Step::FlatMap(flat) => {
            let fields: Vec<&str> = flat.schema.fields().iter().map(|f| f.name().as_str()).filter(|n| *n != ROW_COLUMN).collect();
            let given = &fields[fields.len() - flat.guest.signature().results.len()..];
            let arguments: Vec<String> = flat.arguments.iter().map(ToString::to_string).collect();
            format!("flatMap {} = {}({})", given.join(", "), flat.guest.signature().name, arguments.join(", "))
        }
    }
}

/// The kind of a plan's windows, for people: `tumbling windows of 1m`.
pub fn window_kind(window: &WindowPlan) -> String {
    windows(window).0
}

/// The windows, and their panes.
fn windows(window: &WindowPlan) -> (String, String) {
    let shown = |d: Duration| format_duration(d);
    let panes = |pane: Duration, windows: Duration| {
        format!("panes of {}, {} a window", shown(pane), windows.as_millis() / pane.as_millis().max(1))
    };
    match window.kind {
        WindowKind::Hopping { duration, slide } if duration == slide => {
            (format!("tumbling windows of {}", shown(duration)), panes(duration, duration))
        }
        WindowKind::Hopping { duration, slide } => {
            let (mut pane, mut rest) = (duration.as_millis(), slide.as_millis());
            while rest > 0 {
                (pane, rest) = (rest, pane % rest);
            }
            let pane = Duration::from_millis(pane as u64);
            (format!("windows of {}, one each {}", shown(duration), shown(slide)), panes(pane, duration))
        }
        WindowKind::Cumulative { size, step } => {
            (format!("cumulative windows of up to {}, one each {}", shown(size), shown(step)), panes(step, size))
        }
        WindowKind::Calendar { unit, count, zone } => {
            let unit = format!("{unit:?}").to_lowercase();
            (
                format!("windows of {count} {unit}{} of {}", if count == 1 { "" } else { "s" }, zone.name()),
                "a pane a window".to_owned(),
            )
        }
        WindowKind::Session { gap } => (
            format!("sessions that end with a gap of {}", shown(gap)),
            format!("slices of {} a key, chained to sessions", shown(gap)),
        ),
        WindowKind::Count { every, slide } => {
            (format!("windows of {every} rows of a key, one each {slide}"), "panes by row number".to_owned())
        }
        WindowKind::Global => ("one window of all rows".to_owned(), "one pane".to_owned()),
    }
}

fn aggregation(plan: &Plan, window: &WindowPlan, is_behind: bool) -> Vec<String> {
    let input = plan.input();
    let over = if window.processing_time { "processing time" } else { input.field(window.event_time).name().as_str() };
    let (kind, panes) = windows(window);
    let mut lines = vec![format!("{kind} over {over}"), panes];
    if is_behind && !window.out_of_orderness.is_zero() {
        lines.push(format!("rows out of order by up to {} more", format_duration(window.out_of_orderness)));
    }
    if !window.processing_time && !is_behind {
        lines.push(format!("watermark {} behind the latest event of a partition", format_duration(window.out_of_orderness)));
        let max = format_duration(window.max_future);
        lines.push(format!("event times more than {max} after their record's timestamp are rejected"));
    }
    if !window.allowed_lateness.is_zero() {
        lines.push(format!("windows stay open {} after their end", format_duration(window.allowed_lateness)));
    }
    match window.emit {
        Emit::Final => {}
        Emit::OnUpdate => lines.push("results with each epoch that changes them, final ones marked by isFinal".to_owned()),
        Emit::Early(every) => {
            let every = format_duration(every);
            lines.push(format!("results each {every} of processing time where they changed, final ones marked by isFinal"));
        }
    }
    let names: Vec<&str> = window.keys.iter().map(|k| input.field(*k).name().as_str()).collect();
    lines.push(if names.is_empty() { "one group".to_owned() } else { format!("grouped by {}", names.join(", ")) });
    for aggregate in &window.aggregates[..window.aggregates.len() - window.hidden] {
        let function = &aggregate.function;
        let arguments: Vec<String> = function.expressions().iter().map(ToString::to_string).collect();
        let distinct = if function.is_distinct() { "distinct " } else { "" };
        let filter = aggregate.filter.map_or_else(String::new, |f| format!(" where {}@{f}", input.field(f).name()));
        let order: Vec<String> = function.order_bys().iter().map(|o| o.expr.to_string()).collect();
        let order = if order.is_empty() { String::new() } else { format!(" ordered by {}", order.join(", ")) };
        lines.push(format!("{} = {}({distinct}{}{order}){filter}", function.name(), function.fun().name(), arguments.join(", ")));
    }
    lines
}

fn state(window: &WindowPlan) -> Vec<String> {
    let keys = window.result.fields().iter().take(window.keys.len());
    let keys: Vec<String> = keys.map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    let key = if keys.is_empty() { "pane".to_owned() } else { format!("pane, {}", keys.join(", ")) };
    let mut lines = vec![format!("a slot for each {key}; {STATE_SHARDS} shards")];
    for aggregate in &window.aggregates {
        let fields = aggregate.function.state_fields().unwrap_or_default();
        let types: Vec<String> = fields.iter().map(|f| f.data_type().to_string()).collect();
        lines.push(format!("{}: {}", aggregate.function.name(), types.join(", ")));
    }
    lines
}

fn guest(plan: &Plan, used: &GuestUse) -> String {
    let mut places = Vec::new();
    for (i, one) in plan.chain().enumerate() {
        let of = if i == 0 { String::new() } else { format!(" of {}", one.operator) };
        let (before, after) = match (&one.window, &one.process) {
            (None, None) => ("step", ""),
            (Some(_), _) if i == 0 => ("step before the aggregation", "step over the results"),
            (None, Some(_)) if i == 0 => ("step before the process", "step over the results"),
            _ => ("step before it,", "step over the results"),
        };
        places.extend(steps_with(&one.pre, used).map(|n| format!("{before} {n}{of}")));
        places.extend(steps_with(&one.post, used).map(|n| format!("{after} {n}{of}")));
        let aggregates = one.window.iter().flat_map(|w| &w.aggregates).map(|a| &a.function);
        places.extend(aggregates.filter(|f| f.fun().name() == used.function).map(|f| format!("aggregate {}{of}", f.name())));
        let is_process = one.process.as_ref().is_some_and(|p| *p.signature().name == used.function);
        places.extend(is_process.then(|| format!("the process{of}")));
    }
    format!("{} of {} {} ({}): {}", used.function, used.plugin, used.version, used.hash, places.join(", "))
}

/// Numbers, from 1, of the steps that call a guest.
fn steps_with<'a>(steps: &'a [Step], used: &'a GuestUse) -> impl Iterator<Item = usize> + 'a {
    let is_called = |step: &Step| match step {
        Step::Filter(predicate) => calls(predicate, &used.function),
        Step::Project(exprs, _) => exprs.iter().any(|e| calls(e, &used.function)),
        Step::FlatMap(flat) => *flat.guest.signature().name == used.function,
    };
    steps.iter().enumerate().filter(move |(_, step)| is_called(step)).map(|(i, _)| i + 1)
}

fn calls(expr: &Arc<dyn PhysicalExpr>, function: &str) -> bool {
    let here = expr.downcast_ref::<ScalarFunctionExpr>().is_some_and(|f| f.fun().name() == function);
    here || expr.children().into_iter().any(|child| calls(child, function))
}
