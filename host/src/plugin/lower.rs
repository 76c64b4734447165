//! Arrow arrays to guest columns. Values are borrowed where Arrow's layout is the interface's; offsets that don't start at 0 and bitmaps
//! that don't start at a byte are copied.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{ByteArrayType, DataType, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType};

use super::GuestType;
use super::abi::{ColumnIn, ValuesIn, VarlenIn};

/// An argument of a guest's function.
#[derive(Clone, Debug)]
pub enum Argument {
    /// A value for each row.
    Column(ArrayRef),
    /// An array of one value, which stands for every row.
    Constant(ArrayRef),
}

impl Argument {
    fn array(&self) -> &ArrayRef {
        match self {
            Self::Column(array) | Self::Constant(array) => array,
        }
    }

    /// Rows `offset .. offset + len`.
    pub(super) fn slice(&self, offset: usize, len: usize) -> Self {
        match self {
            Self::Column(array) => Self::Column(array.slice(offset, len)),
            Self::Constant(array) => Self::Constant(array.clone()),
        }
    }
}

/// A column that only has to be borrowed to be lowered.
pub(super) struct Prepared<'a> {
    values: PreparedValues<'a>,
    validity: Cow<'a, [u8]>,
    constant: bool,
}

enum PreparedValues<'a> {
    Boolean(Cow<'a, [u8]>),
    Int64(&'a [i64]),
    Float64(&'a [f64]),
    Timestamp(&'a [i64]),
    Utf8(Cow<'a, [u32]>, &'a [u8]),
    Binary(Cow<'a, [u32]>, &'a [u8]),
}

/// Prepares an argument of `rows` rows for a parameter of type `expected`.
///
/// # Errors
/// The argument has another type or another number of rows: the caller's mistake, not the guest's.
pub(super) fn prepare(argument: &Argument, expected: GuestType, rows: usize) -> Result<Prepared<'_>, String> {
    let (array, constant) = (argument.array(), matches!(argument, Argument::Constant(_)));
    let agreed = if constant { 1 } else { rows };
    if array.len() != agreed {
        return Err(format!("an argument has {} rows instead of {agreed}", array.len()));
    }
    let values = match (array.data_type(), expected) {
        (DataType::Boolean, GuestType::Boolean) => PreparedValues::Boolean(bitmap(array.as_boolean().values())),
        (DataType::Int64, GuestType::Int64) => PreparedValues::Int64(array.as_primitive::<Int64Type>().values()),
        (DataType::Float64, GuestType::Float64) => PreparedValues::Float64(array.as_primitive::<Float64Type>().values()),
        (DataType::Timestamp(TimeUnit::Millisecond, _), GuestType::Timestamp) => {
            PreparedValues::Timestamp(array.as_primitive::<TimestampMillisecondType>().values())
        }
        (DataType::Utf8, GuestType::Utf8) => {
            let (offsets, data) = varlen(array.as_string::<i32>());
            PreparedValues::Utf8(offsets, data)
        }
        (DataType::Binary, GuestType::Binary) => {
            let (offsets, data) = varlen(array.as_binary::<i32>());
            PreparedValues::Binary(offsets, data)
        }
        (found, _) => return Err(format!("an argument is {found} instead of {expected}")),
    };
    Ok(Prepared { values, validity: validity(array.nulls()), constant })
}

impl Prepared<'_> {
    /// The column as wasmtime lowers it.
    pub(super) fn column(&self) -> ColumnIn<'_> {
        let values = match &self.values {
            PreparedValues::Boolean(bits) => ValuesIn::Boolean(bits),
            PreparedValues::Int64(values) => ValuesIn::Int64(values),
            PreparedValues::Float64(values) => ValuesIn::Float64(values),
            PreparedValues::Timestamp(values) => ValuesIn::Timestamp(values),
            PreparedValues::Utf8(offsets, data) => ValuesIn::Utf8(VarlenIn { offsets, data }),
            PreparedValues::Binary(offsets, data) => ValuesIn::Binary(VarlenIn { offsets, data }),
        };
        ColumnIn { values, validity: &self.validity, constant: self.constant }
    }
}

fn validity(nulls: Option<&NullBuffer>) -> Cow<'_, [u8]> {
    match nulls {
        Some(nulls) if nulls.null_count() > 0 => bitmap(nulls.inner()),
        _ => Cow::Borrowed(&[]),
    }
}

/// One bit a value from bit 0 on; bits past the last value are 0, since a guest's output may depend on its input alone.
pub(super) fn bitmap(bits: &BooleanBuffer) -> Cow<'_, [u8]> {
    let (len, bytes) = (bits.len(), bits.len().div_ceil(8));
    let mask = if len % 8 == 0 { 0xff } else { (1_u8 << (len % 8)) - 1 };
    let mut copy = if bits.offset().is_multiple_of(8) {
        let whole = &bits.values()[bits.offset() / 8..][..bytes];
        if whole.last().is_none_or(|last| last & !mask == 0) {
            return Cow::Borrowed(whole);
        }
        whole.to_vec()
    } else {
        bits.sliced().as_slice()[..bytes].to_vec()
    };
    if let Some(last) = copy.last_mut() {
        *last &= mask;
    }
    Cow::Owned(copy)
}

/// Offsets from 0 on, and the bytes they point into.
fn varlen<T: ByteArrayType<Offset = i32>>(array: &GenericByteArray<T>) -> (Cow<'_, [u32]>, &[u8]) {
    let offsets = array.value_offsets();
    // An empty array may have no offset at all.
    let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else { return (Cow::Borrowed(&[0]), &[]) };
    let data = &array.value_data()[first as usize..last as usize];
    if first == 0 {
        // Offsets are never negative, so they are the same number without a sign.
        return (Cow::Borrowed(array.offsets().inner().inner().typed_data::<u32>()), data);
    }
    (Cow::Owned(offsets.iter().map(|o| (o - first) as u32).collect()), data)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Int64Array, StringArray};

    use super::*;

    fn utf8(array: &ArrayRef) -> (Vec<u32>, Vec<u8>, Vec<u8>) {
        let argument = Argument::Column(array.clone());
        let prepared = prepare(&argument, GuestType::Utf8, array.len()).unwrap();
        let column = prepared.column();
        match column.values {
            ValuesIn::Utf8(v) => (v.offsets.to_vec(), v.data.to_vec(), column.validity.to_vec()),
            _ => panic!("not text"),
        }
    }

    #[test]
    fn a_slice_of_strings_starts_at_0() {
        let array: ArrayRef = Arc::new(StringArray::from(vec![Some("ab"), None, Some("c"), Some(""), Some("dé")]));
        assert_eq!(utf8(&array), (vec![0, 2, 2, 3, 3, 6], "abcdé".as_bytes().to_vec(), vec![0b11101]));
        assert_eq!(utf8(&array.slice(1, 3)), (vec![0, 0, 1, 1], b"c".to_vec(), vec![0b110]));
        assert_eq!(utf8(&array.slice(2, 3)), (vec![0, 1, 1, 4], "cdé".as_bytes().to_vec(), vec![]));
        assert_eq!(utf8(&array.slice(5, 0)), (vec![0], vec![], vec![]));
    }

    #[test]
    fn bitmaps_at_every_bit_offset() {
        let all: Vec<bool> = (0..97).map(|i| i % 3 == 0 || i % 7 == 0).collect();
        let array = BooleanArray::from(all.clone());
        for start in 0..20 {
            for len in [0, 1, 7, 8, 9, 40, 77] {
                let slice: ArrayRef = Arc::new(array.slice(start, len));
                let argument = Argument::Column(slice);
                let prepared = prepare(&argument, GuestType::Boolean, len).unwrap();
                let ValuesIn::Boolean(bits) = prepared.column().values else { panic!("not boolean") };
                assert_eq!(bits.len(), len.div_ceil(8));
                for i in 0..bits.len() * 8 {
                    let expect = i < len && all[start + i];
                    assert_eq!(bits[i / 8] >> (i % 8) & 1 == 1, expect, "start {start} len {len} bit {i}");
                }
            }
        }
    }

    #[test]
    fn another_type_or_length_is_told() {
        let array: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let error = |a: Argument, t, n| prepare(&a, t, n).err().unwrap();
        assert_eq!(error(Argument::Column(array.clone()), GuestType::Utf8, 2), "an argument is Int64 instead of utf8");
        assert_eq!(error(Argument::Column(array.clone()), GuestType::Int64, 3), "an argument has 2 rows instead of 3");
        assert_eq!(error(Argument::Constant(array), GuestType::Int64, 2), "an argument has 2 rows instead of 1");
    }
}
