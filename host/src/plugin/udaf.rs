//! Guest aggregates as DataFusion's aggregate functions.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, ScalarValue, plan_err};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion_expr::{Accumulator, AggregateUDFImpl, GroupsAccumulator, Signature};
use datafusion_physical_expr::expressions::Literal;

use super::accumulator::{GuestGroups, GuestRows};
use super::udf::{as_type, coerce, signature};
use super::{FunctionSignature, LAYOUT, Plugin, StateField};

/// A guest's aggregate.
#[derive(Debug)]
pub(super) struct GuestAggregate {
    plugin: Arc<Plugin>,
    function: usize,
    signature: Signature,
    /// The result for no rows, once it was asked for.
    of_no_rows: OnceLock<ScalarValue>,
}

impl GuestAggregate {
    pub(super) fn new(plugin: Arc<Plugin>, function: usize) -> Self {
        Self { plugin, function, signature: signature(), of_no_rows: OnceLock::new() }
    }

    fn about(&self) -> &FunctionSignature {
        &self.plugin.functions[self.function]
    }

    fn groups(&self, args: &AccumulatorArgs<'_>) -> Result<GuestGroups> {
        let name = &self.about().name;
        if args.is_distinct {
            return plan_err!("{name}(DISTINCT ...): a plugin's aggregate can't be distinct; take DISTINCT away");
        }
        if !args.order_bys.is_empty() {
            return plan_err!(
                "{name}(... ORDER BY ...): the order of rows does not matter to a plugin's aggregate; take ORDER BY away"
            );
        }
        let types = &self.about().arguments;
        let constant = |(i, e): (usize, &Arc<dyn datafusion_physical_expr::PhysicalExpr>)| -> Result<Option<ArrayRef>> {
            match (e.downcast_ref::<Literal>(), types.get(i)) {
                (Some(literal), Some(t)) => as_type(&literal.value().to_array()?, *t).map(Some),
                _ => Ok(None),
            }
        };
        let constants = args.exprs.iter().enumerate().map(constant).collect::<Result<_>>()?;
        Ok(GuestGroups::new(self.plugin.clone(), self.function, constants))
    }
}

impl PartialEq for GuestAggregate {
    fn eq(&self, other: &Self) -> bool {
        self.plugin.hash == other.plugin.hash && self.function == other.function
    }
}

impl Eq for GuestAggregate {}

impl Hash for GuestAggregate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.plugin.hash, self.function).hash(state);
    }
}

impl AggregateUDFImpl for GuestAggregate {
    fn name(&self) -> &str {
        &self.about().name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.about().result.data_type())
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        coerce(self.about(), arg_types)
    }

    fn accumulator(&self, acc_args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if self.about().arguments.is_empty() {
            // DataFusion does not tell such an accumulator how many rows there are.
            return plan_err!("{}: an aggregate without arguments needs GROUP BY or a window", self.about().name);
        }
        Ok(Box::new(GuestRows::new(self.groups(&acc_args)?)))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let field = |f: &StateField| {
            let layout = (!f.layout.is_empty()).then(|| (LAYOUT.to_owned(), f.layout.clone()));
            let field = Field::new(format_state_name(args.name, &f.name), f.data_type.data_type(), true);
            Arc::new(field.with_metadata(layout.into_iter().collect()))
        };
        Ok(self.about().state.iter().map(field).collect())
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(self.groups(&args)?))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn default_value(&self, _data_type: &DataType) -> Result<ScalarValue> {
        if let Some(value) = self.of_no_rows.get() {
            return Ok(value.clone());
        }
        let value = GuestRows::new(GuestGroups::new(self.plugin.clone(), self.function, Vec::new())).evaluate()?;
        Ok(self.of_no_rows.get_or_init(|| value).clone())
    }
}
