//! The Arrow builders of a decoded batch.

use super::DecodeError;
use super::value::Cell;
use crate::limits::{COLUMN_TEXT_BYTES, ROW_COLUMN};
use crate::plan::{DecodeField, FieldSource};
use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// The schema of a decoded batch: the columns of `fields`, all of which may be null, and [`ROW_COLUMN`] (UInt32, never null) last.
pub fn decoded_schema(fields: &[DecodeField]) -> SchemaRef {
    let columns = fields.iter().map(|f| Field::new(&f.name, f.from.data_type(), true));
    Arc::new(Schema::new(columns.chain([Field::new(ROW_COLUMN, DataType::UInt32, false)]).collect::<Vec<_>>()))
}

/// The builder of one column.
pub(super) enum Column {
    Text(StringBuilder),
    Long(Int64Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Timestamp(TimestampMillisecondBuilder),
}

impl Column {
    pub(super) fn new(from: &FieldSource) -> Self {
        match from.data_type() {
            DataType::Int64 => Self::Long(Int64Builder::new()),
            DataType::Float64 => Self::Double(Float64Builder::new()),
            DataType::Boolean => Self::Boolean(BooleanBuilder::new()),
            DataType::Timestamp(..) => Self::Timestamp(TimestampMillisecondBuilder::new()),
            _ => Self::Text(StringBuilder::new()),
        }
    }

    /// Appends `cell`, whose text lies in `document` or `scratch`. A cell of another type than the column's is null.
    #[inline]
    pub(super) fn append(&mut self, cell: &Cell, document: &str, scratch: &str) -> Result<(), DecodeError> {
        match (self, cell) {
            (Self::Text(b), Cell::Text(range)) => return append_text(b, &document[range.clone()]),
            (Self::Text(b), Cell::Scratch(range)) => return append_text(b, &scratch[range.clone()]),
            (Self::Long(b), Cell::Long(v)) => b.append_value(*v),
            (Self::Timestamp(b), Cell::Long(v)) => b.append_value(*v),
            (Self::Double(b), Cell::Double(v)) => b.append_value(*v),
            (Self::Boolean(b), Cell::Boolean(v)) => b.append_value(*v),
            (Self::Text(b), _) => b.append_null(),
            (Self::Long(b), _) => b.append_null(),
            (Self::Timestamp(b), _) => b.append_null(),
            (Self::Double(b), _) => b.append_null(),
            (Self::Boolean(b), _) => b.append_null(),
        }
        Ok(())
    }

    /// The column; the builder is empty afterwards, with room for as much again.
    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(b) => {
                let next = StringBuilder::with_capacity(b.len(), b.values_slice().len());
                Arc::new(std::mem::replace(b, next).finish())
            }
            Self::Long(b) => Arc::new(b.finish()),
            Self::Double(b) => Arc::new(b.finish()),
            Self::Boolean(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
        }
    }
}

#[inline]
fn append_text(builder: &mut StringBuilder, text: &str) -> Result<(), DecodeError> {
    if builder.values_slice().len() + text.len() > COLUMN_TEXT_BYTES {
        return Err(DecodeError::TooMuchText);
    }
    builder.append_value(text);
    Ok(())
}
