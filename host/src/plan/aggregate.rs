//! `window_aggregate`: the columns that reach the aggregation, its functions, and what its results look like.

use super::chain::is_window_end;
use super::expression::{Planner, constant, reason, type_name};
use super::stage::{Stage, check_name, named};
use super::{AggregatePlan, WindowPlan, timestamp_type};
use crate::config::spec::{AggregationSpec, Emit, Place, Placed, WindowAggregateSpec, WindowKind};
use crate::limits::ROW_COLUMN;
use crate::plugin::FunctionKind;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::type_coercion::functions::fields_with_udf;
use datafusion_expr::{AggregateUDF, Expr, cast, lit};
use datafusion_functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion_physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion_physical_expr::expressions::{Column, Literal};
use datafusion_physical_expr::{PhysicalExpr, PhysicalSortExpr};
use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;

/// Column of the plugins' versions in results.
pub(super) const VERSIONS: &str = "plugin_versions";
/// Start of a result's window.
pub(super) const WINDOW_START: &str = "window_start";
/// End of a result's window.
pub(super) const WINDOW_END: &str = "window_end";
/// Whether a result is the window's last.
pub(super) const IS_FINAL: &str = "isFinal";

/// Columns that reach the aggregation, each once.
#[derive(Default)]
pub(super) struct Inputs {
    /// Name and value of each.
    pub columns: Vec<(String, Expr)>,
}

impl Inputs {
    /// Index of the column with the value of `expr`; it is called `name` when it is new.
    pub fn index(&mut self, expr: Expr, name: &str) -> usize {
        if let Some(i) = self.columns.iter().position(|(_, e)| *e == expr) {
            return i;
        }
        self.columns.push((name.to_owned(), expr));
        self.columns.len() - 1
    }

    /// Index of a column of no value, to be filled with times as rows come; nothing else is to read it.
    fn own(&mut self, name: &str) -> usize {
        self.columns.push((name.to_owned(), cast(lit(ScalarValue::Null), timestamp_type())));
        self.columns.len() - 1
    }
}

enum Argument {
    Column(usize),
    Constant(ScalarValue),
}

/// An aggregate before the schema of its input is known.
struct Draft<'a> {
    spec: &'a AggregationSpec,
    udf: Arc<AggregateUDF>,
    arguments: Vec<Argument>,
    /// Columns that rows are ordered by.
    order: Vec<usize>,
    filter: Option<usize>,
}

/// Ends `stage` with the projection that feeds the aggregation, and plans the aggregation. `decoded_event_time` and `plugin_versions`
/// are left to the caller. The second value is what stored state depends on.
///
/// # Errors
/// DataFusion's, where no fault of the pipeline explains it.
pub(super) fn window(
    planner: &mut Planner<'_>,
    stage: &mut Stage,
    spec: &WindowAggregateSpec,
    with_versions: bool,
) -> Result<(WindowPlan, String)> {
    let mut inputs = Inputs::default();
    let mut names = HashSet::new();
    let event_time = match &spec.timestamp_column {
        Some(name) => event_time(planner, stage, name, &mut inputs),
        // Filled with the time of the epoch as rows come.
        None => Some(inputs.index(cast(lit(ScalarValue::Null), timestamp_type()), "__event_time")),
    };
    let keys: Vec<usize> = spec.keys.iter().filter_map(|key| self::key(planner, stage, key, &mut inputs, &mut names)).collect();
    let of_window = own_columns(spec);
    for reserved in of_window.iter().map(|f| f.name().as_str()).chain(with_versions.then_some(VERSIONS)) {
        if let Some(key) = spec.keys.iter().find(|k| k.value == reserved) {
            planner.fault(key.place, format!("`{reserved}` is a column of every result; rename the key with a project before"));
        }
        names.insert(reserved.to_owned());
    }
    let mut drafts = Vec::new();
    for (i, aggregation) in spec.aggregations.iter().enumerate() {
        let is_named = check_name(planner, &aggregation.output, &mut names);
        drafts.push((is_named, aggregation, draft(planner, stage, aggregation, i, &mut inputs)));
    }
    let passed = match spec.ttl {
        None => None,
        Some(_) if spec.processing_time => event_time,
        Some(_) => Some(inputs.own("__passed")),
    };
    let mut exprs: Vec<Expr> = inputs.columns.into_iter().map(|(name, expr)| named(expr, &name)).collect();
    exprs.push(stage.column(ROW_COLUMN)?);
    stage.replace(exprs)?;
    let input: SchemaRef = Arc::new(stage.schema().as_arrow().clone());

    let mut fields: Vec<Field> = keys.iter().map(|k| bare(input.field(*k))).collect();
    let mut layout = layout_of_windows(spec, &fields);
    fields.extend(of_window);
    let mut aggregates = Vec::new();
    for (is_named, spec, draft) in drafts {
        let made = draft.and_then(|d| function(planner, &d, &input).map(|f| (d, f)));
        // An aggregate at fault goes on as a column of nulls, so that what uses it is not at fault too.
        let data_type = made.as_ref().map_or(DataType::Null, |(_, f)| f.field().data_type().clone());
        if is_named {
            fields.push(Field::new(&spec.output.value, data_type, true));
        }
        if let Some((draft, function)) = made {
            describe(planner, &mut layout, &draft, &function)?;
            aggregates.push(AggregatePlan { function: Arc::new(function), filter: draft.filter });
        }
    }
    if with_versions {
        fields.push(Field::new(VERSIONS, DataType::Utf8, false));
    }
    let hidden = hidden(spec, event_time, passed, &input)?;
    let window = WindowPlan {
        event_time: event_time.unwrap_or(0),
        decoded_event_time: None,
        passed,
        processing_time: spec.processing_time,
        kind: spec.kind.value,
        offset: spec.offset,
        out_of_orderness: spec.watermark,
        max_future: spec.max_future,
        allowed_lateness: spec.allowed_lateness,
        ttl: spec.ttl,
        emit: spec.emit.value,
        output: spec.output.value,
        keys,
        hidden: hidden.len(),
        aggregates: aggregates.into_iter().chain(hidden).collect(),
        result: Arc::new(Schema::new(fields)),
        plugin_versions: None,
    };
    Ok((window, layout))
}

/// Columns that say which window a result is of.
fn own_columns(spec: &WindowAggregateSpec) -> Vec<Field> {
    let mut fields = Vec::new();
    if spec.kind.value != WindowKind::Global {
        fields.extend([WINDOW_START, WINDOW_END].map(|n| Field::new(n, timestamp_type(), false)));
    }
    if spec.emit.value != Emit::Final {
        fields.push(Field::new(IS_FINAL, DataType::Boolean, false));
    }
    fields
}

/// Columns of a result that, with the group keys, say which window it is of.
pub(super) fn window_keys(kind: &WindowKind) -> &'static [&'static str] {
    match kind {
        WindowKind::Global => &[],
        // All windows of a size begin together.
        WindowKind::Cumulative { .. } => &[WINDOW_START, WINDOW_END],
        _ => &[WINDOW_START],
    }
}

/// What windows that are a key's own need to know of its rows: see [`WindowPlan::hidden`].
fn hidden(
    spec: &WindowAggregateSpec,
    event_time: Option<usize>,
    passed: Option<usize>,
    input: &SchemaRef,
) -> Result<Vec<AggregatePlan>> {
    let of = |udf: Arc<AggregateUDF>, column: usize, name: &str| -> Result<AggregatePlan> {
        let time: Arc<dyn PhysicalExpr> = Arc::new(Column::new(input.field(column).name(), column));
        let function = AggregateExprBuilder::new(udf, vec![time]).schema(Arc::clone(input)).alias(name).build()?;
        Ok(AggregatePlan { function: Arc::new(function), filter: None })
    };
    let mut hidden = Vec::new();
    if let Some(passed) = passed {
        hidden.push(of(min_udaf(), passed, "__since")?);
    }
    let Some(column) = event_time else { return Ok(hidden) };
    let by_rows = matches!(spec.kind.value, WindowKind::Session { .. } | WindowKind::Count { .. });
    if by_rows {
        hidden.push(of(min_udaf(), column, "__first")?);
    }
    if by_rows || passed.is_some() {
        hidden.push(of(max_udaf(), column, "__last")?);
    }
    Ok(hidden)
}

/// The column of the event time.
pub(super) fn event_time(planner: &mut Planner<'_>, stage: &Stage, name: &Placed<String>, inputs: &mut Inputs) -> Option<usize> {
    let column = planner.column(name, stage.schema())?;
    match column.data_type {
        t if t == timestamp_type() && is_window_end(stage, name) => {
            let before = cast(column.expr, DataType::Int64) - lit(1_i64);
            Some(inputs.index(cast(before, timestamp_type()), &format!("{WINDOW_END} - 1ms")))
        }
        t if t == timestamp_type() => Some(inputs.index(column.expr, &name.value)),
        // Null: a column at fault, or one that never has a value.
        DataType::Timestamp(..) | DataType::Null => Some(inputs.index(cast(column.expr, timestamp_type()), "__event_time")),
        other => {
            let message = format!(
                "the event time `{}` is {}, not a timestamp; parse it with outputType milliToTimestamp, secondToTimestamp, \
                 microToTimestamp or timestamp",
                name.value,
                type_name(&other)
            );
            planner.fault(name.place, message);
            None
        }
    }
}

fn key(
    planner: &mut Planner<'_>,
    stage: &Stage,
    key: &Placed<String>,
    inputs: &mut Inputs,
    names: &mut HashSet<String>,
) -> Option<usize> {
    let column = planner.column(key, stage.schema())?;
    check_name(planner, key, names).then(|| inputs.index(column.expr, &key.value))
}

fn draft<'a>(
    planner: &mut Planner<'_>,
    stage: &Stage,
    spec: &'a AggregationSpec,
    number: usize,
    inputs: &mut Inputs,
) -> Option<Draft<'a>> {
    let udf = aggregate(planner, &spec.reducer);
    let columns: Vec<_> = spec.columns.iter().map(|c| planner.column(c, stage.schema())).collect();
    let filter = match &spec.filter {
        None => None,
        Some(text) => Some(planner.predicate(text, stage.schema())?),
    };
    let (udf, columns) = (udf?, columns.into_iter().collect::<Option<Vec<_>>>()?);
    let order = order(planner, stage, spec, &udf, inputs)?;
    let mut constants: Vec<ScalarValue> = spec.arguments.iter().map(|a| constant(&a.value)).collect();
    if columns.is_empty() && constants.is_empty() {
        if udf.name() != "count" {
            planner.fault(spec.reducer.place, format!("`{}` needs a column: give it inputColumns", udf.name()));
            return None;
        }
        constants.push(ScalarValue::Int64(Some(1)));
    }
    let types = columns.iter().map(|c| c.data_type.clone()).chain(constants.iter().map(ScalarValue::data_type));
    let found: Vec<FieldRef> = types.map(|t| Arc::new(Field::new("argument", t, true))).collect();
    let wanted = match fields_with_udf(&found, udf.as_ref()) {
        Ok(wanted) => wanted,
        Err(e) => {
            planner.fault(spec.reducer.place, format!("`{}` can't be called so: {}", udf.name(), reason(&e)));
            return None;
        }
    };
    let mut arguments = Vec::new();
    for (i, (column, field)) in columns.into_iter().zip(&wanted).enumerate() {
        arguments.push(Argument::Column(if column.data_type == *field.data_type() {
            let name = &spec.columns[i].value;
            inputs.index(column.expr, name)
        } else {
            inputs.index(cast(column.expr, field.data_type().clone()), &format!("__argument{number}_{i}"))
        }));
    }
    for (value, field) in constants.into_iter().zip(&wanted[arguments.len()..]) {
        let place = spec.arguments.first().map_or(spec.reducer.place, |a| a.place);
        match value.cast_to(field.data_type()) {
            Ok(value) => arguments.push(Argument::Constant(value)),
            Err(e) => {
                planner.fault(
                    place,
                    format!("the argument {value} of `{}` can't be {}: {}", udf.name(), field.data_type(), reason(&e)),
                );
                return None;
            }
        }
    }
    let filter = filter.map(|f| inputs.index(cast(f, DataType::Boolean), &format!("__where{number}")));
    Some(Draft { spec, udf, arguments, order, filter })
}

/// The columns of `orderBy`: for aggregates that keep the first or last row whatever order rows come in, since partial states are merged in any.
fn order(
    planner: &mut Planner<'_>,
    stage: &Stage,
    spec: &AggregationSpec,
    udf: &AggregateUDF,
    inputs: &mut Inputs,
) -> Option<Vec<usize>> {
    if let Some(first) = spec.order_by.first().filter(|_| !udf.order_sensitivity().is_beneficial()) {
        let text = format!("`{}` takes no `orderBy`; first_value and last_value do", spec.reducer.value);
        planner.fault(first.place, text);
        return None;
    }
    let columns: Vec<_> = spec.order_by.iter().map(|c| planner.column(c, stage.schema())).collect();
    let columns = columns.into_iter().collect::<Option<Vec<_>>>()?;
    Some(columns.into_iter().zip(&spec.order_by).map(|(c, name)| inputs.index(c.expr, &name.value)).collect())
}

/// The aggregate of a name.
fn aggregate(planner: &mut Planner<'_>, reducer: &Placed<String>) -> Option<Arc<AggregateUDF>> {
    let name = &reducer.value;
    let known = planner.session.aggregate();
    if let Some(udf) = known.get(name).or_else(|| known.get(&name.to_lowercase())) {
        let udf = Arc::clone(udf);
        planner.note_guest(udf.name(), |kind| kind == FunctionKind::Aggregate);
        return Some(udf);
    }
    if planner.session.scalar().contains_key(name) {
        let what = match planner.functions.guest(name) {
            Some((FunctionKind::Filter, _)) => "a filter",
            _ => "a scalar function",
        };
        planner.fault(reducer.place, format!("`{name}` is {what}, not an aggregate; use it in a filter or project before"));
        return None;
    }
    let operation = match planner.functions.guest(name) {
        Some((FunctionKind::FlatMap, _)) => Some(("flat map", "flatMap")),
        Some((FunctionKind::Process, _)) => Some(("process", "process")),
        _ => None,
    };
    if let Some((what, operation)) = operation {
        planner
            .fault(reducer.place, format!("`{name}` is a {what}, not an aggregate; use it in `operation: {operation}` before"));
        return None;
    }
    let names: Vec<String> = known.keys().cloned().collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    planner.unknown_function(reducer.place, "reducer", name, &names);
    None
}

/// The function of a draft over `input`, once it has shown that it can accumulate.
fn function(planner: &mut Planner<'_>, draft: &Draft<'_>, input: &SchemaRef) -> Option<AggregateFunctionExpr> {
    let physical = |a: &Argument| -> Arc<dyn PhysicalExpr> {
        match a {
            Argument::Column(i) => Arc::new(Column::new(input.field(*i).name(), *i)),
            Argument::Constant(v) => Arc::new(Literal::new(v.clone())),
        }
    };
    let spec = draft.spec;
    // Nulls first: a row without the column that rows are ordered by is the last only where there is no other.
    let options = SortOptions { descending: false, nulls_first: true };
    let order = draft.order.iter().map(|i| PhysicalSortExpr::new(physical(&Argument::Column(*i)), options)).collect();
    let made = AggregateExprBuilder::new(Arc::clone(&draft.udf), draft.arguments.iter().map(physical).collect())
        .schema(Arc::clone(input))
        .alias(&spec.output.value)
        .with_distinct(spec.distinct)
        .order_by(order)
        .build();
    let tried = made.and_then(|f| {
        if f.groups_accumulator_supported() {
            f.create_groups_accumulator()?;
        } else {
            f.create_accumulator()?;
        }
        Ok(f)
    });
    match tried {
        Ok(function) => Some(function),
        Err(e) => {
            let distinct = if spec.distinct { " with distinct" } else { "" };
            let place: Place = spec.reducer.place;
            planner.fault(place, format!("`{}`{distinct} can't be used so: {}", draft.udf.name(), reason(&e)));
            None
        }
    }
}

fn bare(field: &Field) -> Field {
    Field::new(field.name(), field.data_type().clone(), true)
}

fn layout_of_windows(spec: &WindowAggregateSpec, keys: &[Field]) -> String {
    let mut layout = "keys:".to_owned();
    for key in keys {
        let _ = write!(layout, " {} {}", key.name(), key.data_type());
    }
    let offset = spec.offset.as_millis();
    let _ = match spec.kind.value {
        WindowKind::Hopping { duration, slide } => {
            write!(layout, "\nwindow: {} ms every {} ms from {offset} ms", duration.as_millis(), slide.as_millis())
        }
        WindowKind::Cumulative { size, step } => {
            write!(layout, "\nwindow: up to {} ms by {} ms from {offset} ms", size.as_millis(), step.as_millis())
        }
        WindowKind::Calendar { unit, count, zone } => {
            write!(layout, "\nwindow: {count} {unit:?} of {} from {offset} ms", zone.name())
        }
        WindowKind::Session { gap } => write!(layout, "\nwindow: sessions with gaps of {} ms", gap.as_millis()),
        WindowKind::Count { every, slide } => write!(layout, "\nwindow: {every} rows by {slide}"),
        WindowKind::Global => write!(layout, "\nwindow: global"),
    };
    if spec.processing_time {
        layout.push_str(" of processing time");
    }
    if spec.ttl.is_some() {
        layout.push_str(", idle keys forgotten");
    }
    layout
}

fn describe(planner: &Planner<'_>, layout: &mut String, draft: &Draft<'_>, function: &AggregateFunctionExpr) -> Result<()> {
    let distinct = if draft.spec.distinct { "distinct " } else { "" };
    let name = draft.udf.name();
    let state: Vec<String> = function.state_fields()?.iter().map(|f| f.data_type().to_string()).collect();
    let constants: Vec<String> = draft
        .arguments
        .iter()
        .filter_map(|a| match a {
            Argument::Constant(v) => Some(v.to_string()),
            Argument::Column(_) => None,
        })
        .collect();
    let output = &draft.spec.output.value;
    let _ = write!(layout, "\n{output}: {distinct}{name}({}) state {}", constants.join(", "), state.join(", "));
    for (i, column) in draft.spec.order_by.iter().enumerate() {
        let _ = write!(layout, "{} {}", if i == 0 { " ordered by" } else { "," }, column.value);
    }
    if planner.functions.guest(name).is_some_and(|(kind, _)| kind == FunctionKind::Aggregate)
        && let Some(guest) = planner.functions.layout_of(name)
    {
        let _ = write!(layout, " of {guest}");
    }
    Ok(())
}
