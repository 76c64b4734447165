//! A declared pipeline to a plan: the operations in their order, with everything that is wrong with them.

use super::aggregate::{self, VERSIONS};
use super::expression::Planner;
use super::functions::{Functions, session};
use super::lower::{Lowered, lower};
use super::prefilter::prefilter;
use super::process;
use super::stage::{Stage, StageColumn, check_name};
use super::{DecodeField, FieldSource, Plan, WindowPlan, timestamp_type};
use crate::config::fault::{ConfigErrors, Fault};
use crate::config::spec::{Operation, OutputMode, ParseSpec, Pipeline, Place, Placed, ProcessSpec, WindowAggregateSpec};
use crate::limits::ROW_COLUMN;
use crate::plugin::{GuestUse, PluginSet};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Expr;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Name of the scan of records in SQL, where a column needs one.
const RECORD: &str = "record";
/// Name of the scan of an aggregation's results.
const RESULT: &str = "result";

/// Plans a pipeline.
///
/// # Errors
/// Everything that is wrong with the pipeline's operations, by line.
pub fn build(pipeline: &Pipeline, plugins: &PluginSet) -> Result<Plan, ConfigErrors> {
    build_with(pipeline, plugins)
}

pub(super) fn build_with(pipeline: &Pipeline, functions: &dyn Functions) -> Result<Plan, ConfigErrors> {
    let mut planner = Planner { state: session(functions), functions, faults: Vec::new(), guests: BTreeSet::new() };
    let planned = plan(&mut planner, pipeline);
    let mut faults = planner.faults;
    match planned {
        Ok(plan) if faults.is_empty() => return Ok(plan),
        Err(e) if faults.is_empty() => {
            let place = pipeline.operations.first().map_or_else(Place::default, |o| o.place);
            faults.push(Fault { place, message: format!("the pipeline can't be planned: {e}") });
        }
        _ => {}
    }
    Err(ConfigErrors::new(&pipeline.file, &pipeline.text, faults))
}

fn plan(planner: &mut Planner<'_>, pipeline: &Pipeline) -> Result<Plan> {
    let fields = decode_fields(planner, &pipeline.operations);
    let has_state = |o: &Placed<Operation>| matches!(o.value, Operation::WindowAggregate(_) | Operation::Process(_));
    let split = pipeline.operations.iter().position(has_state);
    let (before, rest) = pipeline.operations.split_at(split.unwrap_or(pipeline.operations.len()));
    let mut stage = scan(&fields)?;
    check_order(planner, before);
    operations(planner, &mut stage, before)?;
    match rest.split_first() {
        Some((Placed { value: Operation::WindowAggregate(spec), .. }, after)) => {
            aggregated(planner, pipeline, &fields, stage, spec, after)
        }
        Some((Placed { value: Operation::Process(spec), .. }, after)) => {
            processed(planner, pipeline, &fields, stage, spec, after)
        }
        _ => stateless(planner, pipeline, &fields, stage),
    }
}

/// A pipeline that only filters and projects.
fn stateless(planner: &mut Planner<'_>, pipeline: &Pipeline, fields: &[DecodeField], mut stage: Stage) -> Result<Plan> {
    let guests = guests(planner);
    let mut extra = Vec::new();
    if pipeline.include_plugin_version && !stage.columns.iter().any(|c| c.name == VERSIONS && c.in_output) {
        extra.push(Expr::Literal(ScalarValue::Utf8(Some(versions(&guests))), None).alias(VERSIONS));
    }
    extra.push(stage.column(ROW_COLUMN)?);
    stage.finish(extra)?;
    fail_if_faulty(planner)?;
    let lowered = lower(&planner.state, stage.plan)?;
    let visible: Vec<_> = lowered.output.fields().iter().filter(|f| f.name() != ROW_COLUMN).cloned().collect();
    let decode = decoded_fields(fields, &lowered);
    Ok(Plan {
        prefilter: prefilter(&lowered.steps, &decode),
        decode,
        decoded: lowered.input,
        pre: lowered.steps,
        window: None,
        process: None,
        post: Vec::new(),
        output: Arc::new(Schema::new(visible)),
        output_keys: Vec::new(),
        layout: "stateless".to_owned(),
        operator: pipeline.operator.clone(),
        guests,
    })
}

/// A pipeline with a windowed aggregation, and `after` over its results.
fn aggregated(
    planner: &mut Planner<'_>,
    pipeline: &Pipeline,
    fields: &[DecodeField],
    mut stage: Stage,
    spec: &WindowAggregateSpec,
    after: &[Placed<Operation>],
) -> Result<Plan> {
    let with_versions = pipeline.include_plugin_version;
    let origin = spec.timestamp_column.as_ref().and_then(|time| origin(&stage, time));
    let (mut window, layout) = aggregate::window(planner, &mut stage, spec, with_versions)?;
    let mut results = scan_results(&window.result, with_versions)?;
    check_after(planner, after, "window_aggregate");
    if spec.output.value == OutputMode::Upsert {
        for flat in after.iter().filter(|o| matches!(o.value, Operation::FlatMap(_))) {
            planner.fault(
                flat.place,
                "results are upserted by their key, and a flatMap behind them makes several rows of one; move it before window_aggregate, or write `output: append`",
            );
        }
    }
    operations(planner, &mut results, after)?;
    results.finish(Vec::new())?;
    fail_if_faulty(planner)?;
    let pre = lower(&planner.state, stage.plan)?;
    let post = lower_results(planner, results, &window.result)?;
    let guests = guests(planner);
    window.plugin_versions = with_versions.then(|| versions(&guests));
    window.decoded_event_time = decoded_time(origin, &pre);
    let output_keys = output_keys(planner, spec, &window, &post.output);
    let decode = decoded_fields(fields, &pre);
    Ok(Plan {
        prefilter: prefilter(&pre.steps, &decode),
        decode,
        decoded: pre.input,
        pre: pre.steps,
        window: Some(window),
        process: None,
        post: post.steps,
        output: post.output,
        output_keys,
        layout,
        operator: pipeline.operator.clone(),
        guests,
    })
}

/// A pipeline with a keyed process, and `after` over its results.
fn processed(
    planner: &mut Planner<'_>,
    pipeline: &Pipeline,
    fields: &[DecodeField],
    mut stage: Stage,
    spec: &ProcessSpec,
    after: &[Placed<Operation>],
) -> Result<Plan> {
    let with_versions = pipeline.include_plugin_version;
    let origin = origin(&stage, &spec.timestamp_column);
    check_after(planner, after, "process");
    let Some((mut process, layout)) = process::plan(planner, &mut stage, spec, with_versions)? else {
        return Err(DataFusionError::Plan("the process can't be planned".to_owned()));
    };
    let result =
        process.outputs.iter().find(|o| o.sink.is_none()).map_or_else(|| Arc::new(Schema::empty()), |o| Arc::clone(&o.schema));
    let has_results = !result.fields().is_empty();
    if let (false, Some(first)) = (has_results, after.first()) {
        planner.fault(first.place, format!("`{}` has no output `results`, so nothing comes here", spec.process.value));
    }
    let post = if has_results {
        let mut results = scan_results(&result, with_versions)?;
        operations(planner, &mut results, after)?;
        results.finish(Vec::new())?;
        Some(results)
    } else {
        None
    };
    fail_if_faulty(planner)?;
    let pre = lower(&planner.state, stage.plan)?;
    let (post, output) = match post {
        Some(results) => {
            let lowered = lower_results(planner, results, &result)?;
            (lowered.steps, lowered.output)
        }
        None => (Vec::new(), result),
    };
    let guests = guests(planner);
    process.plugin_versions = with_versions.then(|| versions(&guests));
    process.decoded_event_time = decoded_time(origin, &pre);
    // The key of a record is the key of the state, where the rows still show all of it.
    let output_keys = spec.keys.iter().map(|k| output.index_of(&k.value).ok()).collect::<Option<Vec<_>>>().unwrap_or_default();
    let decode = decoded_fields(fields, &pre);
    Ok(Plan {
        prefilter: prefilter(&pre.steps, &decode),
        decode,
        decoded: pre.input,
        pre: pre.steps,
        window: None,
        process: Some(process),
        post,
        output,
        output_keys,
        layout,
        operator: pipeline.operator.clone(),
        guests,
    })
}

/// Faults what can't stand behind the operation with state.
fn check_after(planner: &mut Planner<'_>, after: &[Placed<Operation>], name: &str) {
    for operation in after {
        let text = match &operation.value {
            Operation::WindowAggregate(_) | Operation::Process(_) => format!(
                "a pipeline has one operation with state, which is the {name} before; write its results to a topic, and read that in another \
                 pipeline"
            ),
            Operation::Parse(_) => format!("parse reads the records, which are gone after {name}; move it to the front"),
            Operation::Filter(_) | Operation::FlatMap(_) | Operation::Project(_) => continue,
        };
        planner.fault(operation.place, text);
    }
}

/// Lowering a plan with nulls in place of what is at fault would only find the same faults again.
fn fail_if_faulty(planner: &Planner<'_>) -> Result<()> {
    match planner.faults.is_empty() {
        true => Ok(()),
        false => Err(DataFusionError::Plan("the pipeline has faults".to_owned())),
    }
}

/// Columns that could be decoded: those that the pipeline parses, in their order, then what every record has.
fn decode_fields(planner: &mut Planner<'_>, operations: &[Placed<Operation>]) -> Vec<DecodeField> {
    let (mut fields, mut names) = (Vec::new(), HashSet::new());
    for operation in operations {
        if let Operation::Parse(parse) = &operation.value {
            parsed(planner, parse, &mut fields, &mut names);
        }
    }
    let record = [
        ("key", FieldSource::Key),
        ("value", FieldSource::Value),
        ("topic", FieldSource::Topic),
        ("partition", FieldSource::Partition),
        ("offset", FieldSource::Offset),
        ("timestamp", FieldSource::Timestamp),
        ("headers", FieldSource::Headers),
    ];
    // A parsed column hides the record's own of the same name.
    let own = record.into_iter().filter(|(name, _)| !names.contains(*name));
    fields.extend(own.map(|(name, from)| DecodeField { name: name.to_owned(), from }));
    fields
}

fn parsed(planner: &mut Planner<'_>, parse: &ParseSpec, fields: &mut Vec<DecodeField>, names: &mut HashSet<String>) {
    let in_key = match parse.input.value.as_str() {
        "value" => false,
        "key" => true,
        other => {
            planner.fault(
                parse.input.place,
                format!("parse reads `value` or `key`, not `{other}`; a jsonPath reaches into nested JSON"),
            );
            false
        }
    };
    for column in &parse.columns {
        if check_name(planner, &column.name, names) {
            let from = FieldSource::Json { in_key, path: column.steps.clone(), output: column.output };
            fields.push(DecodeField { name: column.name.value.clone(), from });
        }
    }
}

fn scan(fields: &[DecodeField]) -> Result<Stage> {
    let mut schema: Vec<Field> = fields.iter().map(|f| Field::new(&f.name, f.from.data_type(), true)).collect();
    schema.push(Field::new(ROW_COLUMN, DataType::UInt32, false));
    let is_json = |f: &DecodeField| matches!(f.from, FieldSource::Json { .. });
    let none_parsed = !fields.iter().any(is_json);
    // Without parse a record goes on as its key and value.
    let in_output = |f: &DecodeField| is_json(f) || none_parsed && matches!(f.from, FieldSource::Key | FieldSource::Value);
    let column = |f: &DecodeField| StageColumn { name: f.name.clone(), origin: Some(f.name.clone()), in_output: in_output(f) };
    Stage::new(RECORD, Arc::new(Schema::new(schema)), fields.iter().map(column).collect(), vec![ROW_COLUMN.to_owned()])
}

fn scan_results(result: &SchemaRef, with_versions: bool) -> Result<Stage> {
    let column = |f: &Arc<Field>| StageColumn { name: f.name().clone(), origin: None, in_output: true };
    let carried = if with_versions { vec![VERSIONS.to_owned()] } else { Vec::new() };
    Stage::new(RESULT, Arc::clone(result), result.fields().iter().map(column).collect(), carried)
}

/// Faults a parse behind a project: its columns would be gone already.
fn check_order(planner: &mut Planner<'_>, operations: &[Placed<Operation>]) {
    let first = operations.iter().position(|o| matches!(o.value, Operation::Project(_))).unwrap_or(operations.len());
    for late in operations[first..].iter().filter(|o| matches!(o.value, Operation::Parse(_))) {
        planner.fault(late.place, "parse stands behind a project, which keeps only the columns that it names; move it before");
    }
}

fn operations(planner: &mut Planner<'_>, stage: &mut Stage, operations: &[Placed<Operation>]) -> Result<()> {
    for operation in operations {
        match &operation.value {
            Operation::Filter(spec) => stage.filter(planner, spec)?,
            Operation::Project(columns) => stage.project(planner, columns)?,
            Operation::FlatMap(spec) => stage.flat_map(planner, spec)?,
            // Parsed columns are part of the scan; a second aggregation has been found fault with.
            Operation::Parse(_) | Operation::WindowAggregate(_) | Operation::Process(_) => {}
        }
    }
    Ok(())
}

/// The column of the scan that a column is, unchanged.
fn origin(stage: &Stage, column: &Placed<String>) -> Option<String> {
    stage.columns.iter().find(|c| c.name == column.value).and_then(|c| c.origin.clone())
}

/// The decoded column of the event time, where it is one of that type.
fn decoded_time(origin: Option<String>, pre: &Lowered) -> Option<usize> {
    origin.and_then(|o| pre.input.index_of(&o).ok()).filter(|i| *pre.input.field(*i).data_type() == timestamp_type())
}

/// The steps over results, which come with all their columns, so a scan of some of them is a projection.
fn lower_results(planner: &Planner<'_>, results: Stage, result: &SchemaRef) -> Result<Lowered> {
    let mut lowered = lower(&planner.state, results.plan)?;
    if lowered.scanned.len() == result.fields().len() {
        return Ok(lowered);
    }
    let columns = lowered.scanned.iter().map(|i| {
        let column = datafusion::physical_expr::expressions::Column::new(result.field(*i).name(), *i);
        Arc::new(column) as Arc<dyn datafusion::physical_expr::PhysicalExpr>
    });
    lowered.steps.insert(0, super::Step::Project(columns.collect(), Arc::clone(&lowered.input)));
    Ok(lowered)
}

fn decoded_fields(fields: &[DecodeField], lowered: &Lowered) -> Vec<DecodeField> {
    // The row column is no field: it is last in the scan and has no entry here.
    lowered.scanned.iter().filter_map(|i| fields.get(*i).cloned()).collect()
}

/// Columns of the record's key: the group keys that are still there, and for an upsert the window.
fn output_keys(planner: &mut Planner<'_>, spec: &WindowAggregateSpec, window: &WindowPlan, output: &Schema) -> Vec<usize> {
    let keys = window.result.fields().iter().take(window.keys.len()).map(|k| k.name().as_str());
    if window.output == OutputMode::Append {
        return keys.filter_map(|k| output.index_of(k).ok()).collect();
    }
    let mut found = Vec::new();
    for name in keys.chain(aggregate::window_keys(&window.kind).iter().copied()) {
        match output.index_of(name) {
            Ok(i) => found.push(i),
            Err(_) => planner.fault(
                spec.output.place,
                format!("results are upserted by the group keys and the window, but a project drops `{name}`; keep it, or write `output: append`"),
            ),
        }
    }
    found
}

fn guests(planner: &Planner<'_>) -> Vec<GuestUse> {
    planner.guests.iter().cloned().collect()
}

/// `name@version` of each plugin, by name.
fn versions(guests: &[GuestUse]) -> String {
    let plugins: BTreeSet<String> = guests.iter().map(|g| format!("{}@{}", g.plugin, g.version)).collect();
    plugins.into_iter().collect::<Vec<_>>().join(", ")
}
