//! A logical plan over one scan to the steps that are evaluated.
//!
//! In: projections, filters and flat maps over a table scan. Out: which columns are scanned, and the steps with physical expressions.
//! **Invariant**: filters stay where the pipeline has them. A guest, or a division, that stands behind a filter never sees a row that the
//! filter drops, so what is rejected is what the file says; and none is evaluated twice because a filter was moved below a projection.

use super::Step;
use super::flatmap::{self, FlatMapNode};
use super::session::Session;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::{Column, DFSchema, Result, ScalarValue, internal_err};
use datafusion_expr::{Expr, LogicalPlan};
use std::sync::Arc;

/// A plan's steps.
pub(super) struct Lowered {
    /// Columns of the scan that are used, in the scan's order.
    pub scanned: Vec<usize>,
    /// Schema of those.
    pub input: SchemaRef,
    /// Steps over them.
    pub steps: Vec<Step>,
    /// Schema after the steps.
    pub output: SchemaRef,
}

/// Lowers `plan`.
///
/// # Errors
/// DataFusion's; none is known for a plan whose expressions were typed before.
pub(super) fn lower(session: &Session, plan: LogicalPlan) -> Result<Lowered> {
    let plan = session.optimize(plan)?;
    let mut lowered = walk(session, &plan)?;
    flatmap::narrow(&mut lowered.steps);
    Ok(lowered)
}

fn walk(session: &Session, plan: &LogicalPlan) -> Result<Lowered> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let all = (0..scan.source.schema().fields().len()).collect();
            let input = arrow_schema(&scan.projected_schema);
            let scanned = scan.projection.clone().unwrap_or(all);
            Ok(Lowered { scanned, output: Arc::clone(&input), input, steps: Vec::new() })
        }
        LogicalPlan::Filter(filter) => {
            let mut lowered = walk(session, &filter.input)?;
            if filter.predicate != Expr::Literal(ScalarValue::Boolean(Some(true)), None) {
                let predicate = session.physical(filter.predicate.clone(), filter.input.schema())?;
                lowered.steps.push(Step::Filter(predicate));
            }
            Ok(lowered)
        }
        LogicalPlan::Projection(projection) => {
            let mut lowered = walk(session, &projection.input)?;
            let input = projection.input.schema();
            if !is_identity(&projection.expr, input, &projection.schema) {
                let columns = projection.expr.iter().map(|e| session.physical(e.clone(), input)).collect::<Result<_>>()?;
                lowered.output = arrow_schema(&projection.schema);
                lowered.steps.push(Step::Project(columns, Arc::clone(&lowered.output)));
            }
            Ok(lowered)
        }
        LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<FlatMapNode>() {
            None => internal_err!("{} in a chain of filters and projections", extension.node.name()),
            Some(node) => {
                let mut lowered = walk(session, node.input())?;
                let input = node.input().schema();
                let arguments = node.arguments.iter().map(|e| session.physical(e.clone(), input)).collect::<Result<_>>()?;
                lowered.output = arrow_schema(plan.schema());
                lowered.steps.push(flatmap::step(node, arguments, Arc::clone(&lowered.output)));
                Ok(lowered)
            }
        },
        LogicalPlan::SubqueryAlias(alias) => walk(session, &alias.input),
        other => internal_err!("{} in a chain of filters and projections", other.display()),
    }
}

/// Whether a projection gives its input as it is.
fn is_identity(columns: &[Expr], input: &DFSchema, output: &DFSchema) -> bool {
    let same = |(i, e): (usize, &Expr)| match e {
        Expr::Column(Column { name, .. }) => input.field(i).name() == name && output.field(i).name() == name,
        _ => false,
    };
    columns.len() == input.fields().len() && columns.iter().enumerate().all(same)
}

fn arrow_schema(schema: &DFSchema) -> SchemaRef {
    let bare = |f: &Arc<Field>| Field::new(f.name(), f.data_type().clone(), f.is_nullable());
    Arc::new(Schema::new(schema.fields().iter().map(bare).collect::<Vec<_>>()))
}
