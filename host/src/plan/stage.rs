//! A stretch of a pipeline without an aggregation: a scan with filters and projections over it.

use super::expression::{Planner, constant};
use crate::config::spec::{Constant, FilterSpec, Placed};
use crate::limits::HIDDEN_PREFIX;
use crate::plugin::FunctionKind;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion_common::{Column, DFSchema, Result, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::logical_plan::builder::LogicalTableSource;
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use std::collections::HashSet;
use std::sync::Arc;

/// A column as the pipeline sees it at some place.
#[derive(Clone, Debug)]
pub(super) struct StageColumn {
    /// Name.
    pub name: String,
    /// Column of the scan that it is, unchanged.
    pub origin: Option<String>,
    /// In the output where no project is behind.
    pub in_output: bool,
}

/// The stretch so far.
pub(super) struct Stage {
    /// The plan.
    pub plan: LogicalPlan,
    /// Columns that a pipeline may use.
    pub columns: Vec<StageColumn>,
    /// Columns that a project keeps without naming them.
    pub carried: Vec<String>,
    /// The scan is of a windowed aggregation's results.
    pub of_windows: bool,
}

impl Stage {
    /// A scan of `schema`.
    pub fn new(table: &str, schema: SchemaRef, columns: Vec<StageColumn>, carried: Vec<String>) -> Result<Self> {
        let plan = LogicalPlanBuilder::scan(table, Arc::new(LogicalTableSource::new(schema)), None)?.build()?;
        Ok(Self { plan, columns, carried, of_windows: false })
    }

    /// The columns with their types.
    pub fn schema(&self) -> &DFSchema {
        self.plan.schema()
    }

    /// Adds a filter.
    pub fn filter(&mut self, planner: &mut Planner<'_>, spec: &FilterSpec) -> Result<()> {
        let predicate = match spec {
            FilterSpec::Where(text) => planner.predicate(text, self.schema()),
            FilterSpec::Plugin { function, columns, arguments } => self.guest_filter(planner, function, columns, arguments),
        };
        if let Some(predicate) = predicate {
            self.plan = LogicalPlanBuilder::from(self.plan.clone()).filter(predicate)?.build()?;
        }
        Ok(())
    }

    fn guest_filter(
        &self,
        planner: &mut Planner<'_>,
        function: &Placed<String>,
        columns: &[Placed<String>],
        arguments: &[Placed<Constant>],
    ) -> Option<Expr> {
        let name = &function.value;
        let found = columns.iter().map(|c| planner.column(c, self.schema())).collect::<Vec<_>>();
        match planner.functions.guest(name).map(|(kind, _)| kind) {
            Some(FunctionKind::Filter) => {}
            Some(kind) => {
                let (what, instead) = match kind {
                    FunctionKind::Aggregate => ("an aggregate", "a reducer"),
                    FunctionKind::FlatMap => ("a flat map", "`operation: flatMap`"),
                    FunctionKind::Process => ("a process", "`operation: process`"),
                    FunctionKind::Filter | FunctionKind::Scalar => ("a scalar function", "`where:`"),
                };
                planner.fault(function.place, format!("`{name}` is {what}, not a filter; use it in {instead}"));
                return None;
            }
            None => {
                planner.unknown_guest(function, "filter", FunctionKind::Filter);
                return None;
            }
        }
        let mut values = found.into_iter().map(|c| c.map(|c| c.expr)).collect::<Option<Vec<_>>>()?;
        values.extend(arguments.iter().map(|a| Expr::Literal(constant(&a.value), None)));
        let udf = Arc::clone(planner.session.scalar().get(name)?);
        let call = Expr::ScalarFunction(ScalarFunction::new_udf(udf, values));
        planner.typed(call, name, function.place, self.schema()).map(|t| t.expr)
    }

    /// Replaces the columns.
    pub fn project(&mut self, planner: &mut Planner<'_>, columns: &[(Placed<String>, Placed<String>)]) -> Result<()> {
        let (mut names, mut exprs, mut kept) = (HashSet::new(), Vec::new(), Vec::new());
        for (name, text) in columns {
            let typed = planner.sql(text, self.schema());
            if !check_name(planner, name, &mut names) {
                continue;
            }
            // A column at fault goes on as null, so that what uses it is not at fault too.
            let expr = typed.map_or(Expr::Literal(ScalarValue::Null, None), |t| t.expr);
            let origin = match &expr {
                Expr::Column(c) => self.columns.iter().find(|k| k.name == c.name).and_then(|k| k.origin.clone()),
                _ => None,
            };
            kept.push(StageColumn { name: name.value.clone(), origin, in_output: true });
            exprs.push(named(expr, &name.value));
        }
        let carried: Vec<String> = self.carried.iter().filter(|c| !names.contains(c.as_str())).cloned().collect();
        for name in carried {
            exprs.push(self.column(&name)?);
            if !name.starts_with(HIDDEN_PREFIX) {
                kept.push(StageColumn { name, origin: None, in_output: true });
            }
        }
        self.columns = kept;
        self.replace(exprs)
    }

    /// Ends the stretch of a pipeline's output: the columns that are in it, in types that are written out, then `extra`.
    pub fn finish(&mut self, extra: Vec<Expr>) -> Result<()> {
        let mut exprs = Vec::new();
        for column in self.columns.iter().filter(|c| c.in_output) {
            let expr = self.column(&column.name)?;
            let field = self.schema().field_with_unqualified_name(&column.name)?;
            exprs.push(match plain_type(field.data_type()) {
                Some(plain) => cast(expr, plain).alias(&column.name),
                None => expr,
            });
        }
        exprs.extend(extra);
        self.replace(exprs)
    }

    /// A projection on top.
    pub fn replace(&mut self, exprs: Vec<Expr>) -> Result<()> {
        self.plan = LogicalPlanBuilder::from(self.plan.clone()).project(exprs)?.build()?;
        Ok(())
    }

    /// A column by name, hidden ones too.
    pub fn column(&self, name: &str) -> Result<Expr> {
        let (qualifier, field) = self.schema().qualified_field_with_unqualified_name(name)?;
        Ok(Expr::Column(Column::from((qualifier, field))))
    }
}

/// `expr` under `name`; a column that has it already stays what it is.
pub(super) fn named(expr: Expr, name: &str) -> Expr {
    match &expr {
        Expr::Column(c) if c.name == name => expr,
        _ => expr.alias(name),
    }
}

/// Faults a name of an output column that is there already or is kept for Kindling.
pub(super) fn check_name(planner: &mut Planner<'_>, name: &Placed<String>, names: &mut HashSet<String>) -> bool {
    if name.value.starts_with(HIDDEN_PREFIX) {
        let message =
            format!("the column name `{}` starts with `{HIDDEN_PREFIX}`, which is kept for Kindling; rename it", name.value);
        planner.fault(name.place, message);
        return false;
    }
    if !names.insert(name.value.clone()) {
        planner.fault(name.place, format!("there are two columns `{}`; rename one of them", name.value));
        return false;
    }
    true
}

/// What a column of `data_type` is cast to before it is written; none where it stays.
pub(super) fn plain_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Some(DataType::Utf8),
        DataType::Timestamp(TimeUnit::Millisecond, None) => None,
        DataType::Timestamp(..) => Some(super::timestamp_type()),
        DataType::Dictionary(_, values) => Some(plain_type(values).unwrap_or_else(|| (**values).clone())),
        _ => None,
    }
}
