//! `flatMap`: a guest that gives none, one or many rows of each, as a node of DataFusion's logical plan, so that columns are pruned through it.
//!
//! **Invariant**: a row keeps all its columns. The guest sees its arguments only; the rest is repeated on this side. The results stand behind
//! the columns that came in, but before [`ROW_COLUMN`], which stays last.

use super::expression::{Planner, constant, type_name};
use super::stage::{Stage, StageColumn, check_name};
use super::{FlatMapStep, Step};
use crate::config::spec::{FlatMapSpec, Placed};
use crate::limits::ROW_COLUMN;
use crate::plugin::{FunctionKind, GuestFlatMap};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::{DFSchema, DFSchemaRef, Result, TableReference, internal_err};
use datafusion_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore, cast, lit};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::utils::collect_columns;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// A flat map over its input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlatMapNode {
    input: LogicalPlan,
    pub guest: GuestFlatMap,
    pub arguments: Vec<Expr>,
    /// Names of its columns in the pipeline, and their types.
    results: Vec<(String, DataType)>,
    schema: DFSchemaRef,
}

impl FlatMapNode {
    fn new(input: LogicalPlan, guest: GuestFlatMap, arguments: Vec<Expr>, results: Vec<(String, DataType)>) -> Result<Self> {
        let mut fields: Vec<(Option<TableReference>, _)> =
            input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        let at = results_at(input.schema());
        let given = results.iter().map(|(name, data_type)| (None, Arc::new(Field::new(name, data_type.clone(), true))));
        fields.splice(at..at, given);
        let schema = Arc::new(DFSchema::new_with_metadata(fields, HashMap::new())?);
        Ok(Self { input, guest, arguments, results, schema })
    }

    /// The plan under it.
    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }
}

/// Where the results stand: at the end, or before the hidden row column there.
fn results_at(input: &DFSchema) -> usize {
    let columns = input.fields().len();
    columns - usize::from(input.fields().last().is_some_and(|f| f.name() == ROW_COLUMN))
}

impl PartialOrd for FlatMapNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (&self.guest, &self.arguments, &self.input).partial_cmp(&(&other.guest, &other.arguments, &other.input))
    }
}

impl UserDefinedLogicalNodeCore for FlatMapNode {
    fn name(&self) -> &str {
        "FlatMap"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.arguments.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlatMap: {:?}", self.guest)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Self::new(input, self.guest.clone(), exprs, self.results.clone()),
            _ => internal_err!("a flat map has one input"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let (at, results) = (results_at(self.input.schema()), self.results.len());
        let of_input = output_columns.iter().filter_map(|i| match *i {
            i if i < at => Some(i),
            i => i.checked_sub(results).filter(|i| *i >= at),
        });
        Some(vec![of_input.collect()])
    }
}

impl Stage {
    /// Adds a flat map.
    ///
    /// # Errors
    /// DataFusion's, where no fault of the pipeline explains it.
    pub fn flat_map(&mut self, planner: &mut Planner<'_>, spec: &FlatMapSpec) -> Result<()> {
        let columns: Vec<_> = spec.columns.iter().map(|c| planner.column(c, self.schema())).collect();
        let Some(guest) = find(planner, &spec.function) else { return Ok(()) };
        let names = self.result_names(planner, spec, &guest);
        let Some(columns) = columns.into_iter().collect::<Option<Vec<_>>>() else { return Ok(()) };
        let mut values: Vec<(Expr, DataType)> = columns.into_iter().map(|c| (c.expr, c.data_type)).collect();
        values.extend(spec.arguments.iter().map(|a| constant(&a.value)).map(|v| (lit(v.clone()), v.data_type())));
        let (Some(names), Some(arguments)) = (names, arguments(planner, spec, &guest, values)) else { return Ok(()) };
        planner.note_guest(&spec.function.value, |kind| kind == FunctionKind::FlatMap);
        let results: Vec<_> =
            names.into_iter().zip(&guest.signature().results).map(|(n, c)| (n, c.data_type.data_type())).collect();
        let shown = |(name, _): &(String, DataType)| StageColumn { name: name.clone(), origin: None, in_output: true };
        self.columns.extend(results.iter().map(shown));
        let node = FlatMapNode::new(self.plan.clone(), guest, arguments, results)?;
        self.plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(())
    }

    /// What the columns of a flat map are called: as the pipeline says, else as the function says.
    fn result_names(&self, planner: &mut Planner<'_>, spec: &FlatMapSpec, guest: &GuestFlatMap) -> Option<Vec<String>> {
        let results = &guest.signature().results;
        if !spec.outputs.is_empty() && spec.outputs.len() != results.len() {
            let message = format!(
                "`outputColumns` has {} names, but {} gives {}",
                spec.outputs.len(),
                guest.signature().header(),
                results.len()
            );
            planner.fault(spec.outputs[0].place, message);
            return None;
        }
        let mut names: HashSet<String> = self.columns.iter().map(|c| c.name.clone()).collect();
        let known = planner.faults.len();
        let mut chosen = Vec::with_capacity(results.len());
        for (i, result) in results.iter().enumerate() {
            let name = match spec.outputs.get(i) {
                Some(name) => name.clone(),
                None => Placed { value: result.name.clone(), place: spec.function.place },
            };
            if spec.outputs.is_empty() && names.contains(&name.value) {
                let message = format!("there is a column `{}` already; give the new ones names by `outputColumns`", name.value);
                planner.fault(name.place, message);
            } else if check_name(planner, &name, &mut names) {
                chosen.push(name.value);
            }
        }
        (planner.faults.len() == known).then_some(chosen)
    }
}

/// The flat map of a name.
fn find(planner: &mut Planner<'_>, function: &Placed<String>) -> Option<GuestFlatMap> {
    let name = &function.value;
    if let Some(guest) = planner.functions.flat_map(name) {
        return Some(guest);
    }
    match planner.functions.guest(name).map(|(kind, _)| kind) {
        Some(kind) => planner.fault(function.place, format!("`{name}` is no flat map, but of kind {kind}")),
        None => planner.unknown_guest(function, "flat map", FunctionKind::FlatMap),
    }
    None
}

/// The arguments in the types of the function.
fn arguments(
    planner: &mut Planner<'_>,
    spec: &FlatMapSpec,
    guest: &GuestFlatMap,
    values: Vec<(Expr, DataType)>,
) -> Option<Vec<Expr>> {
    let signature = guest.signature();
    let types = &signature.arguments;
    if values.len() != types.len() || values.iter().zip(types).any(|((_, from), to)| !to.accepts(from)) {
        let found: Vec<String> = values.iter().map(|(_, t)| type_name(t)).collect();
        let message =
            format!("{} can't be called with ({}): cast the columns in a project", signature.header(), found.join(", "));
        planner.fault(spec.function.place, message);
        return None;
    }
    let cast = |((expr, from), to): ((Expr, DataType), DataType)| if from == to { expr } else { cast(expr, to) };
    Some(values.into_iter().zip(types.iter().map(|t| t.data_type())).map(cast).collect())
}

/// The step of a node; `schema` is that of its rows.
pub(super) fn step(node: &FlatMapNode, arguments: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef) -> Step {
    let kept = vec![true; schema.fields().len() - node.results.len()];
    Step::FlatMap(Arc::new(FlatMapStep { guest: node.guest.clone(), arguments, kept, schema }))
}

/// Marks columns that no step behind a flat map reads, so that they are not repeated for each of its rows.
pub(super) fn narrow(steps: &mut [Step]) {
    for i in 0..steps.len() {
        let (before, behind) = steps.split_at_mut(i + 1);
        let Step::FlatMap(flat) = &before[i] else { continue };
        let Some(read) = read(behind) else { continue };
        let at = flat.kept.len() - usize::from(flat.schema.fields().last().is_some_and(|f| f.name() == ROW_COLUMN));
        let results = flat.schema.fields().len() - flat.kept.len();
        let place = |column: usize| if column < at { column } else { column + results };
        let kept: Vec<bool> = (0..flat.kept.len()).map(|column| read.contains(&place(column))).collect();
        let mut fields: Vec<Field> = flat.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        for column in (0..kept.len()).filter(|c| !kept[*c]) {
            // Nulls stand in its place.
            fields[place(column)] = fields[place(column)].clone().with_nullable(true);
        }
        let narrowed = FlatMapStep { kept, schema: Arc::new(Schema::new(fields)), ..FlatMapStep::clone(flat) };
        before[i] = Step::FlatMap(Arc::new(narrowed));
    }
}

/// Columns that the steps up to the next projection read; none where there is no projection, so that all are.
fn read(steps: &[Step]) -> Option<HashSet<usize>> {
    let mut read = HashSet::new();
    for step in steps {
        match step {
            Step::Filter(predicate) => read.extend(collect_columns(predicate).iter().map(|c| c.index())),
            Step::Project(columns, _) => {
                read.extend(columns.iter().flat_map(collect_columns).map(|c| c.index()));
                return Some(read);
            }
            // Its rows have the columns before it, at other places.
            Step::FlatMap(_) => return None,
        }
    }
    None
}
