//! Guest filters and scalar functions as DataFusion's scalar functions, so that they stand wherever a built-in may.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, new_empty_array};
use arrow::compute::{cast_with_options, concat};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility};

use super::pieces::{argument_bytes, in_pieces};
use super::{Argument, FunctionKind, FunctionSignature, GuestError, GuestType, Plugin};

/// A guest's filter or scalar function.
#[derive(Debug)]
pub(super) struct GuestScalar {
    plugin: Arc<Plugin>,
    function: usize,
    signature: Signature,
}

impl GuestScalar {
    pub(super) fn new(plugin: Arc<Plugin>, function: usize) -> Self {
        Self { plugin, function, signature: signature() }
    }

    fn about(&self) -> &FunctionSignature {
        &self.plugin.functions[self.function]
    }

    fn call(&self, arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
        let about = self.about();
        let pieces = in_pieces(rows, argument_bytes(arguments), |range| {
            let piece: Vec<Argument> = arguments.iter().map(|a| a.slice(range.start, range.len())).collect();
            match about.kind {
                FunctionKind::Filter => {
                    let kept = self.plugin.filter(self.function, range.len(), &piece)?;
                    Ok(Arc::new(BooleanArray::new(kept, None)) as ArrayRef)
                }
                _ => self.plugin.scalar(self.function, range.len(), &piece),
            }
        });
        join(pieces.map_err(external)?, about.result)
    }
}

impl PartialEq for GuestScalar {
    fn eq(&self, other: &Self) -> bool {
        self.plugin.hash == other.plugin.hash && self.function == other.function
    }
}

impl Eq for GuestScalar {}

impl Hash for GuestScalar {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.plugin.hash, self.function).hash(state);
    }
}

impl ScalarUDFImpl for GuestScalar {
    fn name(&self) -> &str {
        &self.about().name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.about().result.data_type())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let about = self.about();
        // A filter keeps a row or drops it; a scalar function may give a null for any row.
        let nullable = about.kind != FunctionKind::Filter;
        Ok(Arc::new(Field::new(&*about.name, about.result.data_type(), nullable)))
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        coerce(self.about(), arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types = &self.about().arguments;
        if args.args.len() != types.len() {
            return plan_err!("{} takes {} arguments, not {}", self.about().header(), types.len(), args.args.len());
        }
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arguments = args.args.iter().zip(types).map(|(a, t)| argument(a, *t)).collect::<Result<Vec<_>>>()?;
        if constant {
            // Guests are pure functions, so one row stands for all.
            let value = self.call(&arguments, 1)?;
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&value, 0)?));
        }
        Ok(ColumnarValue::Array(self.call(&arguments, args.number_rows)?))
    }
}

/// DataFusion asks `coerce_types` then.
pub(super) fn signature() -> Signature {
    Signature::new(TypeSignature::UserDefined, Volatility::Immutable)
}

/// The types to cast arguments of `found` types to.
///
/// # Errors
/// The function does not take such arguments.
pub(super) fn coerce(about: &FunctionSignature, found: &[DataType]) -> Result<Vec<DataType>> {
    let fits = found.len() == about.arguments.len() && about.arguments.iter().zip(found).all(|(t, f)| t.accepts(f));
    if !fits {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        return plan_err!("{} can't be called with ({}): cast the arguments", about.header(), found.join(", "));
    }
    Ok(about.arguments.iter().map(|t| t.data_type()).collect())
}

/// A value of DataFusion as an argument of type `expected`.
pub(super) fn argument(value: &ColumnarValue, expected: GuestType) -> Result<Argument> {
    Ok(match value {
        ColumnarValue::Array(array) => Argument::Column(as_type(array, expected)?),
        ColumnarValue::Scalar(scalar) => Argument::Constant(as_type(&scalar.to_array()?, expected)?),
    })
}

/// The array in the type of a guest's column; the plan has cast it before, as a rule.
pub(super) fn as_type(array: &ArrayRef, expected: GuestType) -> Result<ArrayRef> {
    let expected = expected.data_type();
    if *array.data_type() == expected {
        return Ok(array.clone());
    }
    let options = arrow::compute::CastOptions { safe: false, ..Default::default() };
    Ok(cast_with_options(array, &expected, &options)?)
}

/// The results of the pieces as one array.
pub(super) fn join(mut pieces: Vec<ArrayRef>, result: GuestType) -> Result<ArrayRef> {
    match pieces.len() {
        0 => Ok(new_empty_array(&result.data_type())),
        1 => Ok(pieces.swap_remove(0)),
        _ => Ok(concat(&pieces.iter().map(AsRef::as_ref).collect::<Vec<_>>())?),
    }
}

/// A guest's failure on its way through DataFusion.
pub(super) fn external(error: GuestError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
