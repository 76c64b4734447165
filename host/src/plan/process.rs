//! `process`: the columns that reach the guest, found by the names that it gives them, and what its outputs look like.

use super::aggregate::{Inputs, VERSIONS, event_time};
use super::expression::{Planner, type_name, visible};
use super::stage::{Stage, named, plain_type};
use super::{ProcessOutputPlan, ProcessPlan};
use crate::config::fault::suggest;
use crate::config::spec::{Order, Placed, ProcessSpec};
use crate::limits::ROW_COLUMN;
use crate::plugin::{Attribute, FunctionKind, FunctionSignature, Plugin, ProcessOutput, ProcessSignature};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::{DFSchema, Result};
use datafusion_expr::cast;
use std::collections::HashSet;
use std::sync::Arc;

/// Name of the output that goes on in the pipeline.
const RESULTS: &str = "results";

/// Ends `stage` with the projection that feeds the process, and plans it. `decoded_event_time` and `plugin_versions` are left to the caller. The
/// second value is what stored state depends on. None where a fault says why.
///
/// # Errors
/// DataFusion's, where no fault of the pipeline explains it.
pub(super) fn plan(
    planner: &mut Planner<'_>,
    stage: &mut Stage,
    spec: &ProcessSpec,
    with_versions: bool,
) -> Result<Option<(ProcessPlan, String)>> {
    let mut inputs = Inputs::default();
    let event_time = event_time(planner, stage, &spec.timestamp_column, &mut inputs);
    let keys = keys(planner, stage, spec, &mut inputs);
    let Some((plugin, function)) = find(planner, &spec.process) else { return Ok(None) };
    let signature = &plugin.functions[function];
    let Some(process) = signature.process.clone() else { return Ok(None) };
    let arguments = arguments(planner, stage, &spec.process, &process, &mut inputs);
    let passes = process.outputs.iter().any(|o| o.passes);
    let mut passed = Vec::new();
    if passes {
        for column in stage.columns.iter().filter(|c| c.in_output) {
            let expr = stage.column(&column.name)?;
            let field = stage.schema().field_with_unqualified_name(&column.name)?;
            let expr = plain_type(field.data_type()).map_or(expr.clone(), |plain| cast(expr, plain));
            passed.push(inputs.index(expr, &column.name));
        }
    }
    let (Some(event_time), Some(keys), Some(arguments)) = (event_time, keys, arguments) else { return Ok(None) };
    let mut exprs: Vec<_> = unique(inputs);
    exprs.push(stage.column(ROW_COLUMN)?);
    let names: Vec<String> = stage.columns.iter().filter(|c| c.in_output).map(|c| c.name.clone()).collect();
    stage.replace(exprs)?;
    let input = stage.schema().as_arrow().clone();
    let passed_fields: Vec<Field> =
        passed.iter().zip(&names).map(|(i, name)| Field::new(name, input.field(*i).data_type().clone(), true)).collect();
    let outputs = outputs(planner, spec, &process, &passed_fields, with_versions);
    let layout = layout(signature, spec, &keys, &input);
    let plan = ProcessPlan {
        plugin,
        function,
        event_time,
        decoded_event_time: None,
        out_of_orderness: spec.watermark,
        max_future: spec.max_future,
        keys,
        arguments,
        passed,
        ttl: spec.ttl,
        order: spec.order,
        outputs,
        plugin_versions: None,
    };
    Ok(Some((plan, layout)))
}

/// The columns, with names that differ: an argument that was cast, and the column itself, are two.
fn unique(inputs: Inputs) -> Vec<datafusion_expr::Expr> {
    let mut names = HashSet::new();
    let name = |name: &str, i: usize, names: &mut HashSet<String>| {
        if names.insert(name.to_owned()) { name.to_owned() } else { format!("__{name}_{i}") }
    };
    inputs.columns.into_iter().enumerate().map(|(i, (text, expr))| named(expr, &name(&text, i, &mut names))).collect()
}

fn keys(planner: &mut Planner<'_>, stage: &Stage, spec: &ProcessSpec, inputs: &mut Inputs) -> Option<Vec<usize>> {
    let typed: Vec<_> = spec.keys.iter().map(|key| planner.sql(key, stage.schema())).collect();
    let key = |(key, typed): (&Placed<String>, Option<super::expression::Typed>)| {
        let typed = typed?;
        let expr = plain_type(&typed.data_type).map_or(typed.expr.clone(), |plain| cast(typed.expr, plain));
        Some(inputs.index(expr, &key.value))
    };
    spec.keys.iter().zip(typed).map(key).collect()
}

fn find(planner: &mut Planner<'_>, name: &Placed<String>) -> Option<(Arc<Plugin>, usize)> {
    if let Some(found) = planner.functions.process(&name.value) {
        planner.note_guest(&name.value, |kind| kind == FunctionKind::Process);
        return Some(found);
    }
    match planner.functions.guest(&name.value) {
        Some((kind, _)) => {
            let an = if kind == FunctionKind::Aggregate { "an" } else { "a" };
            planner.fault(name.place, format!("`{}` is {an} {kind}, not a process", name.value));
        }
        None => planner.unknown_guest(name, "process", FunctionKind::Process),
    }
    None
}

/// The columns that the guest is given: of the same name, or of one that differs in case and underscores only.
fn arguments(
    planner: &mut Planner<'_>,
    stage: &Stage,
    name: &Placed<String>,
    process: &ProcessSignature,
    inputs: &mut Inputs,
) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for attribute in &process.arguments {
        let Some(column) = column_of(stage.schema(), &attribute.name) else {
            let names = visible(stage.schema());
            let near = suggest(&attribute.name, names.iter().copied());
            planner.fault(
                name.place,
                format!(
                    "`{}` reads a column `{}`, which is not there{near}; make it with a parse or a project before (there are {})",
                    name.value,
                    attribute.name,
                    names.join(", ")
                ),
            );
            found.push(None);
            continue;
        };
        let typed = planner.column(&Placed { value: column, place: name.place }, stage.schema());
        found.push(typed.and_then(|typed| {
            let wanted = attribute.data_type.data_type();
            if !attribute.data_type.accepts(&typed.data_type) {
                let (is, text) = (type_name(&typed.data_type), &attribute.name);
                let message = format!("`{}` reads `{text}` as {}, but the column is {is}", name.value, attribute.data_type);
                planner.fault(name.place, message);
                return None;
            }
            let expr = if typed.data_type == wanted { typed.expr } else { cast(typed.expr, wanted) };
            Some(inputs.index(expr, &attribute.name))
        }));
    }
    found.into_iter().collect()
}

fn column_of(schema: &DFSchema, name: &str) -> Option<String> {
    let plain = |text: &str| text.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect::<String>();
    let names = visible(schema);
    if names.contains(&name) {
        return Some(name.to_owned());
    }
    let mut near = names.iter().filter(|n| plain(n) == plain(name));
    match (near.next(), near.next()) {
        (Some(only), None) => Some((*only).to_owned()),
        _ => None,
    }
}

fn outputs(
    planner: &mut Planner<'_>,
    spec: &ProcessSpec,
    process: &ProcessSignature,
    passed: &[Field],
    with_versions: bool,
) -> Vec<ProcessOutputPlan> {
    for (name, _) in &spec.outputs {
        if !process.outputs.iter().any(|o| o.name == name.value) {
            let names: Vec<&str> = process.outputs.iter().map(|o| o.name.as_str()).collect();
            let near = suggest(&name.value, names.iter().copied());
            let text = format!("`{}` has no output `{}`{near}; it has {}", spec.process.value, name.value, names.join(", "));
            planner.fault(name.place, text);
        }
    }
    let mut plans = Vec::new();
    for output in &process.outputs {
        let sink = spec.outputs.iter().position(|(name, _)| name.value == output.name);
        if sink.is_none() && output.name != RESULTS {
            let text = format!(
                "`{}` has an output `{}` that goes nowhere: add `outputs: {{ {}: ... }}` with a sink, such as `name: discard`",
                spec.process.value, output.name, output.name
            );
            planner.fault(spec.process.place, text);
        }
        let with_versions = with_versions && sink.is_none();
        plans.push(output_plan(planner, spec, output, sink, if output.passes { passed } else { &[] }, with_versions));
    }
    plans
}

fn output_plan(
    planner: &mut Planner<'_>,
    spec: &ProcessSpec,
    output: &ProcessOutput,
    sink: Option<usize>,
    passed: &[Field],
    with_versions: bool,
) -> ProcessOutputPlan {
    let own = |a: &Attribute| Field::new(&a.name, a.data_type.data_type(), a.nullable);
    let mut fields: Vec<Field> = passed.iter().cloned().chain(output.columns.iter().map(own)).collect();
    if with_versions {
        fields.push(Field::new(VERSIONS, DataType::Utf8, false));
    }
    let mut names = HashSet::new();
    for field in &fields {
        if !names.insert(field.name()) {
            let text = format!(
                "the rows of output `{}` have two columns `{}`; rename one by a project before",
                output.name,
                field.name()
            );
            planner.fault(spec.process.place, text);
        }
    }
    ProcessOutputPlan { name: output.name.clone(), schema: Arc::new(Schema::new(fields)), passes: output.passes, sink }
}

/// What stored state depends on: the key, the state, and where rows wait, those.
fn layout(signature: &FunctionSignature, spec: &ProcessSpec, keys: &[usize], input: &Schema) -> String {
    let types = |columns: &mut dyn Iterator<Item = usize>| -> String {
        columns.map(|i| input.field(i).data_type().to_string()).collect::<Vec<_>>().join(", ")
    };
    let mut layout = format!("process of ({}): ({})", types(&mut keys.iter().copied()), signature.state_layout());
    if spec.order == Order::EventTime {
        let all = (0..input.fields().len() - 1).map(|i| format!("{} {}", input.field(i).name(), input.field(i).data_type()));
        layout += &format!("; rows ({})", all.collect::<Vec<_>>().join(", "));
    }
    layout
}
