//! The SQL of one expression to a typed expression, or to what is wrong with it.
//!
//! **Invariant**: an expression gives the same value when an epoch is run again, and looks at one row only: no clock, no randomness, no
//! aggregates, no subqueries.

use super::functions::Functions;
use super::session::Session;
use crate::config::fault::{Fault, suggest};
use crate::config::spec::{Constant, Place, Placed};
use crate::limits::HIDDEN_PREFIX;
use crate::plugin::{FunctionKind, GuestUse};
use arrow::datatypes::DataType;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion_expr::{Expr, Volatility};
use datafusion_sql::sqlparser::ast::{self, ObjectNamePart, visit_expressions};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Finds functions, types expressions, and gathers what is wrong and which guests are used.
pub(super) struct Planner<'a> {
    /// Functions and settings.
    pub session: Session,
    /// Plugins.
    pub functions: &'a dyn Functions,
    /// What is wrong so far.
    pub faults: Vec<Fault>,
    /// Guests that are used so far.
    pub guests: BTreeSet<GuestUse>,
}

/// A typed expression.
pub(super) struct Typed {
    /// The expression.
    pub expr: Expr,
    /// Its type.
    pub data_type: DataType,
}

impl Planner<'_> {
    /// Something is wrong at `place`.
    pub fn fault(&mut self, place: Place, message: impl Into<String>) {
        self.faults.push(Fault::new(place, message));
    }

    /// Says that there is no such column among those of `schema`.
    pub fn unknown_column(&mut self, place: Place, name: &str, schema: &DFSchema) {
        let names = visible(schema);
        let near = suggest(name, names.iter().copied());
        let listed = if near.is_empty() { format!("; there are: {}", names.join(", ")) } else { near };
        self.fault(place, format!("unknown column `{name}`{listed}"));
    }

    /// Says that there is no such function among `candidates`.
    pub fn unknown_function(&mut self, place: Place, what: &str, name: &str, candidates: &[&str]) {
        // Registries have no order, and of two that are as near the text must name the same each time.
        let mut sorted = candidates.to_vec();
        sorted.sort_unstable();
        let near = suggest(name, sorted);
        let hint = "functions of a plugin are there once its .wasm file is in the folder of plugins (--plugins)";
        self.fault(place, format!("unknown {what} `{name}`{near}{}{hint}", if near.is_empty() { "; " } else { " " }));
    }

    /// Says that no plugin has a function of this name and kind; `what` it is called.
    pub fn unknown_guest(&mut self, function: &Placed<String>, what: &str, kind: FunctionKind) {
        let mut names = self.functions.function_names();
        names.retain(|name| self.functions.guest(name).is_some_and(|(of, _)| of == kind));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.unknown_function(function.place, what, &function.value, &names);
    }

    /// A column of `schema` by name.
    pub fn column(&mut self, name: &Placed<String>, schema: &DFSchema) -> Option<Typed> {
        match visible(schema).contains(&name.value.as_str()) {
            true => {
                let (qualifier, field) = schema.qualified_field_with_unqualified_name(&name.value).ok()?;
                Some(Typed { expr: Expr::from((qualifier, field)), data_type: field.data_type().clone() })
            }
            false => {
                self.unknown_column(name.place, &name.value, schema);
                None
            }
        }
    }

    /// The expression of a SQL text over the columns of `schema`.
    pub fn sql(&mut self, text: &Placed<String>, schema: &DFSchema) -> Option<Typed> {
        let parsed = match self.session.parse(&text.value) {
            Ok(parsed) => parsed,
            Err(e) => {
                self.fault(text.place, format!("`{}` is not a SQL expression: {}", text.value, reason(&e)));
                return None;
            }
        };
        let known = self.faults.len();
        self.check_names(&parsed, text.place, schema);
        if self.faults.len() > known {
            return None;
        }
        match self.session.expression(parsed, schema) {
            Ok(expr) => self.typed(expr, &text.value, text.place, schema),
            Err(e) => {
                self.fault(text.place, format!("`{}`: {}", text.value, reason(&e)));
                None
            }
        }
    }

    /// A SQL text that is true or false.
    pub fn predicate(&mut self, text: &Placed<String>, schema: &DFSchema) -> Option<Expr> {
        let typed = self.sql(text, schema)?;
        match typed.data_type {
            DataType::Boolean | DataType::Null => Some(typed.expr),
            other => {
                let message = format!("`{}` is {}, not true or false; compare it with something", text.value, type_name(&other));
                self.fault(text.place, message);
                None
            }
        }
    }

    /// An expression that was put together, checked and typed; `text` is what the user wrote.
    pub fn typed(&mut self, expr: Expr, text: &str, place: Place, schema: &DFSchema) -> Option<Typed> {
        if let Some(message) = impure(&expr) {
            self.fault(place, format!("`{text}`: {message}"));
            return None;
        }
        match self.data_type(&expr, schema) {
            Ok(data_type) => {
                self.note_guests(&expr);
                Some(Typed { expr, data_type })
            }
            Err(e) => {
                self.fault(place, format!("`{text}`: {}", reason(&e)));
                None
            }
        }
    }

    /// The type of an expression that can be coerced, whose constants can be folded, and that can be evaluated.
    fn data_type(&self, expr: &Expr, schema: &DFSchema) -> Result<DataType> {
        let simplified = self.session.simplify(expr.clone(), schema)?;
        self.session.physical(simplified, schema)?.data_type(schema.as_arrow())
    }

    /// Notes that a guest is used.
    pub fn note_guest(&mut self, function: &str, is: impl Fn(FunctionKind) -> bool) {
        if let Some((kind, used)) = self.functions.guest(function)
            && is(kind)
        {
            self.guests.insert(used);
        }
    }

    fn note_guests(&mut self, expr: &Expr) {
        let mut called = BTreeSet::new();
        let walk = expr.apply(|e| {
            if let Expr::ScalarFunction(f) = e {
                called.insert(f.name().to_owned());
            }
            Ok(TreeNodeRecursion::Continue)
        });
        // The closure above never fails.
        debug_assert!(walk.is_ok());
        for name in called {
            self.note_guest(&name, |kind| kind != FunctionKind::Aggregate);
        }
    }

    /// Faults all names in an expression that are neither column nor function, where DataFusion would say the first only.
    fn check_names(&mut self, parsed: &ast::Expr, place: Place, schema: &DFSchema) {
        let (mut columns, mut functions, mut has_lambda, mut has_over) = (Vec::new(), Vec::new(), false, false);
        let _: ControlFlow<()> = visit_expressions(parsed, |e| {
            match e {
                ast::Expr::Identifier(id) => columns.push(id.value.clone()),
                ast::Expr::Function(f) if f.over.is_some() => has_over = true,
                ast::Expr::Function(f) if f.name.0.len() == 1 => functions.extend(f.name.0.first().and_then(function_name)),
                ast::Expr::Lambda(_) => has_lambda = true,
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let names = visible(schema);
        // Parameters of a lambda look like columns.
        columns.retain(|c| !has_lambda && !names.contains(&c.as_str()));
        columns.dedup();
        for column in columns {
            self.unknown_column(place, &column, schema);
        }
        if has_over {
            self.fault(place, "window functions (OVER) can't be used; window_aggregate makes windows");
        }
        for name in functions {
            let scalar = self.session.scalar();
            if scalar.contains_key(&name) || self.session.higher_order().contains_key(&name) || PLANNED.contains(&&*name) {
                continue;
            }
            if self.session.aggregate().contains_key(&name) {
                self.fault(
                    place,
                    format!("`{name}` is an aggregate: it stands as a reducer in window_aggregate, not in an expression"),
                );
                continue;
            }
            if let Some((FunctionKind::FlatMap, _)) = self.functions.guest(&name) {
                self.fault(place, format!("`{name}` is a flat map: it stands in `operation: flatMap`, not in an expression"));
                continue;
            }
            let candidates: Vec<String> = scalar.keys().cloned().collect();
            let candidates: Vec<&str> = candidates.iter().map(String::as_str).collect();
            self.unknown_function(place, "function", &name, &candidates);
        }
    }
}

/// Functions that DataFusion's planner knows without a registry.
const PLANNED: [&str; 2] = ["map", "make_map"];

/// The name under which DataFusion looks a function up.
fn function_name(part: &ObjectNamePart) -> Option<String> {
    let ident = part.as_ident()?;
    Some(if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() })
}

/// Names of the columns that a pipeline may use.
pub(super) fn visible(schema: &DFSchema) -> Vec<&str> {
    schema.fields().iter().map(|f| f.name().as_str()).filter(|n| !n.starts_with(HIDDEN_PREFIX)).collect()
}

/// Why an expression is no pure function of one row, if it is none.
fn impure(expr: &Expr) -> Option<String> {
    let mut message = None;
    let walk = expr.apply(|e| {
        message = match e {
            Expr::AggregateFunction(f) => {
                Some(format!("`{}` is an aggregate: it stands as a reducer in window_aggregate", f.func.name()))
            }
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                Some("an expression can't hold a query".to_owned())
            }
            Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => Some(format!(
                "`{}` gives another value each time, and an epoch that is run again must give the same; use a column",
                f.name()
            )),
            Expr::Placeholder(p) => Some(format!("`{}` is a placeholder; write the value, or use --set", p.id)),
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        Ok(TreeNodeRecursion::Stop)
    });
    // The closure above never fails.
    debug_assert!(walk.is_ok());
    message
}

/// A constant of YAML.
pub(super) fn constant(value: &Constant) -> ScalarValue {
    match value {
        Constant::Boolean(v) => ScalarValue::Boolean(Some(*v)),
        Constant::Long(v) => ScalarValue::Int64(Some(*v)),
        Constant::Double(v) => ScalarValue::Float64(Some(*v)),
        Constant::String(v) => ScalarValue::Utf8(Some(v.clone())),
        Constant::Null => ScalarValue::Null,
    }
}

/// A type as the pipeline file calls it.
pub(super) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "a string".to_owned(),
        DataType::Int64 => "a long".to_owned(),
        DataType::Float64 => "a double".to_owned(),
        DataType::Boolean => "a boolean".to_owned(),
        DataType::Timestamp(..) => "a timestamp".to_owned(),
        other => format!("{other}"),
    }
}

/// DataFusion's error without its jargon: one line, no prefixes, no lists of candidates.
pub(super) fn reason(error: &DataFusionError) -> String {
    let text = error.find_root().strip_backtrace();
    let mut text = text.lines().next().unwrap_or_default();
    if let Some((_, errors)) = text.split_once("failed to match any signature, errors: ") {
        let mut each: Vec<&str> = errors.split(PLANNING).map(|e| e.trim_end_matches(['.', ',', ' '])).collect();
        each.retain(|e| !e.is_empty());
        each.dedup();
        return each.join(", or ");
    }
    while let Some(rest) = PREFIXES.iter().find_map(|p| text.strip_prefix(p)) {
        text = rest.trim_start();
    }
    let text = text.split("No function matches").next().unwrap_or(text);
    text.trim().trim_end_matches("\")").trim_end_matches(['.', ';', ',']).to_owned()
}

const PLANNING: &str = "Error during planning: ";
/// What DataFusion puts before its errors.
const PREFIXES: [&str; 9] = [
    PLANNING,
    "Internal error: ",
    "SQL error: ",
    "ParserError(\"",
    "Schema error: ",
    "Execution error: ",
    "Arrow error: ",
    "Cast error: ",
    "This feature is not implemented: ",
];
