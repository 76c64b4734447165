//! What the decoder can decide of a plan's first filter by itself: the text of a decoded column against constants.
//!
//! In: the first step of a plan. Out: tests that each row which passes the filter passes too. The filter itself stays where it is.

use super::{DecodeField, FieldSource, OutputType, Step};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, InListExpr, LikeExpr, Literal};
use std::sync::Arc;

/// A test of one column's text; null fails it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTest {
    /// Index into [`super::Plan::decode`]; a `string` of a JSON path.
    pub column: usize,
    /// One of these must match.
    pub any: Vec<TextMatch>,
}

/// What a text is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// It is this.
    Equals(String),
    /// It starts with this.
    Prefix(String),
}

impl TextTest {
    /// Whether `text` passes.
    pub fn passes(&self, text: &str) -> bool {
        self.any.iter().any(|m| match m {
            TextMatch::Equals(wanted) => text == wanted,
            TextMatch::Prefix(wanted) => text.starts_with(wanted.as_str()),
        })
    }
}

/// The tests that decide `steps`' first filter, or a part of it: the conditions that are joined by AND, from the first one on, up to one
/// that is no test. Behind a condition that is false the others are not looked at, so none of their faults is lost.
pub(super) fn prefilter(steps: &[Step], fields: &[DecodeField]) -> Vec<TextTest> {
    let mut tests = Vec::new();
    if let Some(Step::Filter(predicate)) = steps.first() {
        conjuncts(predicate, fields, &mut tests);
    }
    tests
}

/// Adds the tests of `expr`; whether all of it is tests.
fn conjuncts(expr: &Arc<dyn PhysicalExpr>, fields: &[DecodeField], tests: &mut Vec<TextTest>) -> bool {
    if let Some(and) = expr.downcast_ref::<BinaryExpr>().filter(|b| *b.op() == Operator::And) {
        return conjuncts(and.left(), fields, tests) && conjuncts(and.right(), fields, tests);
    }
    let test = test(expr, fields);
    let is_test = test.is_some();
    tests.extend(test);
    is_test
}

fn test(expr: &Arc<dyn PhysicalExpr>, fields: &[DecodeField]) -> Option<TextTest> {
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        return match binary.op() {
            Operator::Eq => {
                equals(binary.left(), binary.right(), fields).or_else(|| equals(binary.right(), binary.left(), fields))
            }
            Operator::Or => {
                let (mut left, right) = (test(binary.left(), fields)?, test(binary.right(), fields)?);
                (left.column == right.column).then(|| {
                    left.any.extend(right.any);
                    left
                })
            }
            _ => None,
        };
    }
    if let Some(list) = expr.downcast_ref::<InListExpr>().filter(|l| !l.negated()) {
        let any = list.list().iter().map(|e| text(e).map(TextMatch::Equals)).collect::<Option<Vec<_>>>()?;
        return Some(TextTest { column: column(list.expr(), fields)?, any });
    }
    let like = expr.downcast_ref::<LikeExpr>().filter(|l| !l.negated() && !l.case_insensitive())?;
    let pattern = text(like.pattern())?;
    let prefix = pattern.strip_suffix('%').filter(|p| !p.contains(['%', '_', '\\']))?;
    Some(TextTest { column: column(like.expr(), fields)?, any: vec![TextMatch::Prefix(prefix.to_owned())] })
}

fn equals(of: &Arc<dyn PhysicalExpr>, to: &Arc<dyn PhysicalExpr>, fields: &[DecodeField]) -> Option<TextTest> {
    Some(TextTest { column: column(of, fields)?, any: vec![TextMatch::Equals(text(to)?)] })
}

/// The decoded column that `expr` is, where its cells are texts of JSON.
fn column(expr: &Arc<dyn PhysicalExpr>, fields: &[DecodeField]) -> Option<usize> {
    let index = expr.downcast_ref::<Column>()?.index();
    matches!(fields.get(index)?.from, FieldSource::Json { output: OutputType::String, .. }).then_some(index)
}

fn text(expr: &Arc<dyn PhysicalExpr>) -> Option<String> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::Utf8(Some(text)) => Some(text.clone()),
        _ => None,
    }
}
