//! What DataFusion asks of a session while SQL becomes expressions: its functions and those of plugins, and how SQL is read.
//!
//! DataFusion's own session comes with catalogs, file formats and a query's execution, which a pipeline has no use for; its planner,
//! optimizer and expressions stand without it.

use super::functions::Functions;
use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DFSchema, Result, TableReference, plan_err};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::planner::{ContextProvider, ExprPlanner};
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use datafusion_functions::core::planner::CoreFunctionPlanner;
use datafusion_functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion_functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion_functions_aggregate::planner::AggregateFunctionPlanner;
use datafusion_functions_nested::planner::{FieldAccessPlanner, NestedFunctionPlanner};
use datafusion_optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion_optimizer::optimize_projections::OptimizeProjections;
use datafusion_optimizer::simplify_expressions::{ExprSimplifier, SimplifyExpressions};
use datafusion_optimizer::{Analyzer, Optimizer, OptimizerContext};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::parser::DFParserBuilder;
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast;
use std::collections::HashMap;
use std::sync::Arc;

/// A registry of all functions, and how SQL is read: names of columns as they are written, text as Utf8.
pub(super) struct Session {
    options: Arc<ConfigOptions>,
    /// By name and by each alias.
    scalar: HashMap<String, Arc<ScalarUDF>>,
    higher_order: HashMap<String, Arc<HigherOrderUDF>>,
    aggregate: HashMap<String, Arc<AggregateUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
}

impl Session {
    /// DataFusion's functions, and those of plugins, which go before one of the same name.
    pub fn new(functions: &dyn Functions) -> Self {
        let mut options = ConfigOptions::default();
        options.sql_parser.enable_ident_normalization = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        let of_guests = functions.scalar_udfs();
        let built_in = datafusion_functions::all_default_functions().into_iter();
        let scalar = built_in.chain(datafusion_functions_nested::all_default_nested_functions()).chain(of_guests).map(|f| {
            // Some depend on settings.
            f.inner().with_updated_config(&options).map_or(f, Arc::new)
        });
        let higher_order = datafusion_functions_nested::all_default_higher_order_functions();
        let aggregate = datafusion_functions_aggregate::all_default_aggregate_functions().into_iter();
        Self {
            scalar: by_name(scalar, |f| f.name(), |f| f.aliases()),
            higher_order: by_name(higher_order.into_iter(), |f| f.name(), |f| f.aliases()),
            aggregate: by_name(aggregate.chain(functions.aggregate_udfs()), |f| f.name(), |f| f.aliases()),
            planners: vec![
                Arc::new(CoreFunctionPlanner::default()),
                Arc::new(NestedFunctionPlanner),
                Arc::new(FieldAccessPlanner),
                Arc::new(DatetimeFunctionPlanner),
                Arc::new(UnicodeFunctionPlanner),
                Arc::new(AggregateFunctionPlanner),
            ],
            options: Arc::new(options),
        }
    }

    /// Functions of one row, by name.
    pub fn scalar(&self) -> &HashMap<String, Arc<ScalarUDF>> {
        &self.scalar
    }

    /// Functions of one row that take a lambda, by name.
    pub fn higher_order(&self) -> &HashMap<String, Arc<HigherOrderUDF>> {
        &self.higher_order
    }

    /// Functions of many rows, by name.
    pub fn aggregate(&self) -> &HashMap<String, Arc<AggregateUDF>> {
        &self.aggregate
    }

    /// Reads a SQL text of one expression.
    ///
    /// # Errors
    /// It is no SQL expression, or one too deep.
    pub fn parse(&self, text: &str) -> Result<ast::Expr> {
        let limit = self.options.sql_parser.recursion_limit.get();
        Ok(DFParserBuilder::new(text).with_recursion_limit(limit).build()?.parse_into_expr()?.expr)
    }

    /// The expression that `parsed` is over the columns of `schema`.
    ///
    /// # Errors
    /// DataFusion's: a name or a call that is unknown, an expression that it does not support.
    pub fn expression(&self, parsed: ast::Expr, schema: &DFSchema) -> Result<Expr> {
        let planner = SqlToRel::new_with_options(self, ParserOptions::from(&self.options.sql_parser));
        let aliased = ast::ExprWithAlias { expr: parsed, alias: None };
        planner.sql_to_expr_with_alias(aliased, schema, &mut PlannerContext::new())
    }

    /// Coerces the types of an expression, and folds its constants.
    ///
    /// # Errors
    /// Types that don't go together, a constant that can't be folded.
    pub fn simplify(&self, expr: Expr, schema: &DFSchema) -> Result<Expr> {
        let simplifier = self.simplifier(schema);
        simplifier.simplify(simplifier.coerce(expr, schema)?)
    }

    /// What evaluates an expression over batches of `schema`.
    ///
    /// # Errors
    /// Types that don't go together, an expression that can't be evaluated.
    pub fn physical(&self, expr: Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.simplifier(schema).coerce(expr, schema)?;
        create_physical_expr(&expr, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())
    }

    /// Coerces types, folds constants, evaluates once what is written twice, and reads only columns that are used. Moves no filter.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn optimize(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let plan = Analyzer::new().execute_and_check(plan, &self.options, |_, _| {})?;
        let optimizer = Optimizer::with_rules(vec![
            Arc::new(SimplifyExpressions::new()),
            Arc::new(CommonSubexprEliminate::new()),
            Arc::new(OptimizeProjections::new()),
        ]);
        let context = OptimizerContext::new_with_config_options(Arc::clone(&self.options)).without_query_execution_start_time();
        optimizer.optimize(plan, &context, |_, _| {})
    }

    fn simplifier(&self, schema: &DFSchema) -> ExprSimplifier {
        let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone()));
        ExprSimplifier::new(context.with_config_options(Arc::clone(&self.options)).build())
    }
}

/// Each function under its name and its aliases; of two of one name the later one.
fn by_name<F: ?Sized>(
    functions: impl Iterator<Item = Arc<F>>,
    name: impl Fn(&F) -> &str,
    aliases: impl Fn(&F) -> &[String],
) -> HashMap<String, Arc<F>> {
    let mut map = HashMap::new();
    for function in functions {
        for alias in aliases(&function) {
            map.insert(alias.clone(), Arc::clone(&function));
        }
        map.insert(name(&function).to_owned(), function);
    }
    map
}

impl ContextProvider for Session {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        plan_err!("an expression can't read a table: {name}")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalar.get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.higher_order.get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.aggregate.get(name).cloned()
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.higher_order.keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.aggregate.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
