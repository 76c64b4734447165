//! A declared pipeline to a plan: the operations in their order, with everything that is wrong with them.

use super::aggregate::{self, VERSIONS};
use super::chain::{self, Before};
use super::expression::Planner;
use super::functions::Functions;
use super::lower::{Lowered, lower};
use super::prefilter::prefilter;
use super::process;
use super::session::Session;
use super::stage::{Stage, StageColumn, check_name};
use super::{DecodeField, FieldSource, Next, Plan, ResultBound, Step, WindowPlan, timestamp_type};
use crate::config::fault::{ConfigErrors, Fault};
use crate::config::spec::{Operation, OutputMode, ParseSpec, Pipeline, Place, Placed, ProcessSpec, WindowAggregateSpec};
use crate::limits::ROW_COLUMN;
use crate::plugin::{GuestUse, PluginSet};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::{DataFusionError, Result, ScalarValue};
use datafusion_expr::Expr;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Name of the scan of records in SQL, where a column needs one.
const RECORD: &str = "record";

/// Plans a pipeline.
///
/// # Errors
/// Everything that is wrong with the pipeline's operations, by line.
pub fn build(pipeline: &Pipeline, plugins: &PluginSet) -> Result<Plan, ConfigErrors> {
    build_with(pipeline, plugins)
}

pub(super) fn build_with(pipeline: &Pipeline, functions: &dyn Functions) -> Result<Plan, ConfigErrors> {
    let mut planner = Planner { session: Session::new(functions), functions, faults: Vec::new(), guests: BTreeSet::new() };
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

/// What a stretch of operations begins with.
#[derive(Clone, Copy)]
struct Input<'a> {
    pipeline: &'a Pipeline,
    /// Columns that can be decoded; of results none.
    fields: &'a [DecodeField],
    /// Operations with state before the stretch.
    number: usize,
    /// The last of them.
    before: Option<Before<'a>>,
}

impl Input<'_> {
    fn operator(&self) -> String {
        self.pipeline.operator(self.number).to_owned()
    }

    /// What the stored state of a later operation depends on: also on its number, by which it is stored.
    fn layout(&self, layout: String) -> String {
        if self.number == 0 { layout } else { format!("operator {} with state\n{layout}", self.number + 1) }
    }

    /// The decoded column of the event time, where rows of it move the watermark: results don't.
    fn origin(&self, stage: &Stage, time: &Placed<String>) -> Option<String> {
        self.before.is_none().then(|| origin(stage, time)).flatten()
    }
}

fn plan(planner: &mut Planner<'_>, pipeline: &Pipeline) -> Result<Plan> {
    let fields = decode_fields(planner, &pipeline.operations);
    let input = Input { pipeline, fields: &fields, number: 0, before: None };
    stretch(planner, input, scan(&fields)?, &pipeline.operations).map(|(plan, _)| plan)
}

/// A stretch of operations up to one with state, and what is behind that. Says how late its rows can be, where they are results.
fn stretch(
    planner: &mut Planner<'_>,
    input: Input<'_>,
    mut stage: Stage,
    operations: &[Placed<Operation>],
) -> Result<(Plan, ResultBound)> {
    let split = operations.iter().position(|o| o.value.has_state());
    let (before, rest) = operations.split_at(split.unwrap_or(operations.len()));
    match input.before {
        None => check_order(planner, before),
        Some(with_state) => check_after(planner, before, with_state),
    }
    self::operations(planner, &mut stage, before)?;
    let Some((with_state, after)) = rest.split_first() else {
        return Ok((stateless(planner, input, stage)?, ResultBound::OpenWindow));
    };
    let bound = input.before.map(|b| chain::check_behind(planner, b, &stage, &with_state.value));
    let plan = match &with_state.value {
        Operation::WindowAggregate(spec) => aggregated(planner, input, stage, spec, after)?,
        Operation::Process(spec) => processed(planner, input, stage, spec, after)?,
        _ => stateless(planner, input, stage)?,
    };
    Ok((plan, bound.unwrap_or(ResultBound::OpenWindow)))
}

/// What is behind an operation with state.
struct Behind {
    post: Vec<Step>,
    output: SchemaRef,
    next: Option<Next>,
}

/// Plans `after`, over results of the columns `result`.
fn behind(
    planner: &mut Planner<'_>,
    input: Input<'_>,
    before: Before<'_>,
    result: &SchemaRef,
    after: &[Placed<Operation>],
) -> Result<Behind> {
    if after.iter().any(|o| o.value.has_state()) {
        chain::check_before(planner, before);
        let mut stage = chain::scan_rows(result)?;
        stage.of_windows = before.has_windows_of_time();
        let input = Input { fields: &[], number: input.number + 1, before: Some(before), ..input };
        let (plan, bound) = stretch(planner, input, stage, after)?;
        let columns = chain::read_columns(result, &plan.decoded)?;
        let next = Some(Next { plan: Arc::new(plan), columns, bound });
        return Ok(Behind { post: Vec::new(), output: Arc::clone(result), next });
    }
    let mut results = chain::scan_results(result, input.pipeline.include_plugin_version)?;
    check_after(planner, after, before);
    operations(planner, &mut results, after)?;
    results.finish(Vec::new())?;
    fail_if_faulty(planner)?;
    let lowered = lower_results(planner, results, result)?;
    Ok(Behind { post: lowered.steps, output: lowered.output, next: None })
}

/// Result rows carry the plugins' versions: those of the last operation with state.
fn with_versions(input: Input<'_>, after: &[Placed<Operation>]) -> bool {
    input.pipeline.include_plugin_version && !after.iter().any(|o| o.value.has_state())
}

/// A pipeline that only filters and projects.
fn stateless(planner: &mut Planner<'_>, input: Input<'_>, mut stage: Stage) -> Result<Plan> {
    let guests = guests(planner);
    let mut extra = Vec::new();
    if input.pipeline.include_plugin_version && !stage.columns.iter().any(|c| c.name == VERSIONS && c.in_output) {
        extra.push(Expr::Literal(ScalarValue::Utf8(Some(versions(&guests))), None).alias(VERSIONS));
    }
    extra.push(stage.column(ROW_COLUMN)?);
    stage.finish(extra)?;
    fail_if_faulty(planner)?;
    let lowered = lower(&planner.session, stage.plan)?;
    let visible: Vec<_> = lowered.output.fields().iter().filter(|f| f.name() != ROW_COLUMN).cloned().collect();
    let decode = decoded_fields(input.fields, &lowered);
    Ok(Plan {
        prefilter: prefilter(&lowered.steps, &decode),
        decode,
        decoded: lowered.input,
        pre: lowered.steps,
        window: None,
        process: None,
        post: Vec::new(),
        next: None,
        output: Arc::new(Schema::new(visible)),
        output_keys: Vec::new(),
        layout: "stateless".to_owned(),
        operator: input.operator(),
        guests,
    })
}

/// A windowed aggregation, and `after` over its results.
fn aggregated(
    planner: &mut Planner<'_>,
    input: Input<'_>,
    mut stage: Stage,
    spec: &WindowAggregateSpec,
    after: &[Placed<Operation>],
) -> Result<Plan> {
    let with_versions = with_versions(input, after);
    let origin = spec.timestamp_column.as_ref().and_then(|time| input.origin(&stage, time));
    let (mut window, layout) = aggregate::window(planner, &mut stage, spec, with_versions)?;
    if spec.output.value == OutputMode::Upsert {
        for flat in after.iter().filter(|o| matches!(o.value, Operation::FlatMap(_))) {
            planner.fault(
                flat.place,
                "results are upserted by their key, and a flatMap behind them makes several rows of one; move it before window_aggregate, or write `output: append`",
            );
        }
    }
    let Behind { post, output, next } = behind(planner, input, Before::Window(spec), &window.result, after)?;
    let pre = lower(&planner.session, stage.plan)?;
    let guests = guests(planner);
    window.plugin_versions = with_versions.then(|| versions(&guests));
    window.decoded_event_time = decoded_time(origin, &pre);
    let output_keys = if next.is_none() { output_keys(planner, spec, &window, &output) } else { Vec::new() };
    let decode = decoded_fields(input.fields, &pre);
    Ok(Plan {
        prefilter: prefilter(&pre.steps, &decode),
        decode,
        decoded: pre.input,
        pre: pre.steps,
        window: Some(window),
        process: None,
        post,
        next,
        output,
        output_keys,
        layout: input.layout(layout),
        operator: input.operator(),
        guests,
    })
}

/// A keyed process, and `after` over its results.
fn processed(
    planner: &mut Planner<'_>,
    input: Input<'_>,
    mut stage: Stage,
    spec: &ProcessSpec,
    after: &[Placed<Operation>],
) -> Result<Plan> {
    let with_versions = with_versions(input, after);
    let origin = input.origin(&stage, &spec.timestamp_column);
    let planned = process::plan(planner, &mut stage, spec, with_versions)?;
    let Some((mut process, layout)) = planned else {
        return Err(DataFusionError::Plan("the process can't be planned".to_owned()));
    };
    let result =
        process.outputs.iter().find(|o| o.sink.is_none()).map_or_else(|| Arc::new(Schema::empty()), |o| Arc::clone(&o.schema));
    let Behind { post, output, next } = if result.fields().is_empty() {
        if let Some(first) = after.first() {
            planner.fault(first.place, format!("`{}` has no output `results`, so nothing comes here", spec.process.value));
        }
        Behind { post: Vec::new(), output: result, next: None }
    } else {
        behind(planner, input, Before::Process, &result, after)?
    };
    fail_if_faulty(planner)?;
    let pre = lower(&planner.session, stage.plan)?;
    let guests = guests(planner);
    process.plugin_versions = with_versions.then(|| versions(&guests));
    process.decoded_event_time = decoded_time(origin, &pre);
    // The key of a record is the key of the state, where the rows still show all of it.
    let output_keys = spec.keys.iter().map(|k| output.index_of(&k.value).ok()).collect::<Option<Vec<_>>>().unwrap_or_default();
    let decode = decoded_fields(input.fields, &pre);
    Ok(Plan {
        prefilter: prefilter(&pre.steps, &decode),
        decode,
        decoded: pre.input,
        pre: pre.steps,
        window: None,
        process: Some(process),
        post,
        next,
        output,
        output_keys,
        layout: input.layout(layout),
        operator: input.operator(),
        guests,
    })
}

/// Faults what can't stand behind an operation with state.
fn check_after(planner: &mut Planner<'_>, after: &[Placed<Operation>], before: Before<'_>) {
    let name = if matches!(before, Before::Window(_)) { "window_aggregate" } else { "process" };
    for operation in after.iter().filter(|o| matches!(o.value, Operation::Parse(_))) {
        let text = format!("parse reads the records, which are gone after {name}; move it to the front");
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
            // Parsed columns are part of the scan; operations with state end a stretch.
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
    let mut lowered = lower(&planner.session, results.plan)?;
    if lowered.scanned.len() == result.fields().len() {
        return Ok(lowered);
    }
    let columns = lowered.scanned.iter().map(|i| {
        let column = datafusion_physical_expr::expressions::Column::new(result.field(*i).name(), *i);
        Arc::new(column) as Arc<dyn datafusion_physical_expr::PhysicalExpr>
    });
    lowered.steps.insert(0, Step::Project(columns.collect(), Arc::clone(&lowered.input)));
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
