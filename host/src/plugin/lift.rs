//! Guest columns to Arrow arrays. What a guest gives is untrusted: each length, offset, type and byte of text is checked here, and what
//! does not hold is told as text. Numbers are moved, not copied.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray, StringBuilder, TimestampMillisecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};

use super::abi::{ColumnOut, ValuesOut, VarlenOut};
use super::{GuestType, StateField};

/// The array of a column that must have `rows` values of type `expected`.
///
/// # Errors
/// What does not hold.
pub(super) fn column(column: ColumnOut, expected: GuestType, rows: usize) -> Result<ArrayRef, String> {
    if column.constant {
        return Err("a column is marked constant, which only the host may do".into());
    }
    let nulls = validity(column.validity, rows)?;
    Ok(match (column.values, expected) {
        (ValuesOut::Boolean(bits), GuestType::Boolean) => Arc::new(BooleanArray::new(bitmap(bits, rows)?, nulls)),
        (ValuesOut::Int64(values), GuestType::Int64) => Arc::new(Int64Array::new(numbers(values, rows)?, nulls)),
        (ValuesOut::Float64(values), GuestType::Float64) => Arc::new(Float64Array::new(numbers(values, rows)?, nulls)),
        (ValuesOut::Timestamp(values), GuestType::Timestamp) => {
            Arc::new(TimestampMillisecondArray::new(numbers(values, rows)?, nulls))
        }
        (ValuesOut::Utf8(values), GuestType::Utf8) => text(values, nulls, rows)?,
        (ValuesOut::Binary(values), GuestType::Binary) => {
            let (offsets, data) = varlen(values, rows)?;
            // The offsets were checked, so the array can't refuse them; its own check is left on all the same.
            Arc::new(BinaryArray::try_new(offsets, data, nulls).map_err(|e| e.to_string())?)
        }
        (values, _) => return Err(format!("a column is {} instead of {expected}", name(&values))),
    })
}

/// A guest's columns, each by name in what is wrong with it.
///
/// # Errors
/// There are more or fewer than `expected`, or one is not as agreed.
pub(super) fn columns<'a>(
    columns: Vec<ColumnOut>,
    expected: impl ExactSizeIterator<Item = (&'a str, GuestType)>,
    rows: usize,
) -> Result<Vec<ArrayRef>, String> {
    if columns.len() != expected.len() {
        return Err(format!("gave {} columns, but has {}", columns.len(), expected.len()));
    }
    let lifted = columns.into_iter().zip(expected);
    lifted.map(|(given, (name, data_type))| column(given, data_type, rows).map_err(|e| format!("column `{name}`: {e}"))).collect()
}

/// The columns of `count` states; `what` they are of, for people: groups, keys.
///
/// # Errors
/// As [`columns`].
pub(super) fn states(columns: Vec<ColumnOut>, fields: &[StateField], count: usize, what: &str) -> Result<Vec<ArrayRef>, String> {
    if columns.len() != fields.len() {
        return Err(format!("gave {} columns, but its state has {} fields", columns.len(), fields.len()));
    }
    let lifted = columns.into_iter().zip(fields).map(|(given, field)| {
        column(given, field.data_type, count).map_err(|e| format!("state field `{}` of {count} {what}: {e}", field.name))
    });
    lifted.collect()
}

/// The rows to keep, from the bitmap that `filter` gives.
///
/// # Errors
/// The bitmap has another length.
pub(super) fn bitmap(bits: Vec<u8>, rows: usize) -> Result<BooleanBuffer, String> {
    let agreed = rows.div_ceil(8);
    if bits.len() != agreed {
        return Err(format!("a bitmap has {} bytes instead of {agreed} for {rows} rows", bits.len()));
    }
    Ok(BooleanBuffer::new(Buffer::from_vec(bits), 0, rows))
}

fn validity(bits: Vec<u8>, rows: usize) -> Result<Option<NullBuffer>, String> {
    if bits.is_empty() {
        return Ok(None);
    }
    let nulls = NullBuffer::new(bitmap(bits, rows).map_err(|e| format!("validity: {e}"))?);
    Ok((nulls.null_count() > 0).then_some(nulls))
}

fn numbers<T: arrow::datatypes::ArrowNativeType>(values: Vec<T>, rows: usize) -> Result<ScalarBuffer<T>, String> {
    if values.len() != rows {
        return Err(format!("a column has {} values instead of {rows}", values.len()));
    }
    Ok(values.into())
}

fn varlen(values: VarlenOut, rows: usize) -> Result<(OffsetBuffer<i32>, Buffer), String> {
    let VarlenOut { offsets, data } = values;
    if offsets.len() != rows + 1 {
        return Err(format!("a column has {} offsets instead of {} for {rows} rows", offsets.len(), rows + 1));
    }
    if offsets[0] != 0 {
        return Err(format!("the first offset is {} instead of 0", offsets[0]));
    }
    if let Some(i) = offsets.windows(2).position(|w| w[0] > w[1]) {
        return Err(format!("offset {} is {}, less than the one before, {}", i + 1, offsets[i + 1], offsets[i]));
    }
    let last = offsets[rows];
    if last as usize != data.len() {
        return Err(format!("the last offset is {last}, but there are {} bytes", data.len()));
    }
    if last > i32::MAX as u32 {
        return Err(format!("{last} bytes in a column are too many"));
    }
    let offsets: Vec<i32> = offsets.into_iter().map(|o| o as i32).collect();
    Ok((OffsetBuffer::new(offsets.into()), Buffer::from_vec(data)))
}

fn text(values: VarlenOut, nulls: Option<NullBuffer>, rows: usize) -> Result<ArrayRef, String> {
    let (offsets, data) = varlen(values, rows)?;
    match StringArray::try_new(offsets.clone(), data.clone(), nulls.clone()) {
        Ok(array) => Ok(Arc::new(array)),
        // What stands at a null's place is unspecified, so it may be no text either: look again, value by value.
        Err(_) => {
            let mut builder = StringBuilder::with_capacity(rows, data.len());
            for row in 0..rows {
                if nulls.as_ref().is_some_and(|n| n.is_null(row)) {
                    builder.append_null();
                    continue;
                }
                let bytes = &data[offsets[row] as usize..offsets[row + 1] as usize];
                builder.append_value(std::str::from_utf8(bytes).map_err(|e| format!("row {row} is not UTF-8: {e}"))?);
            }
            Ok(Arc::new(builder.finish()))
        }
    }
}

fn name(values: &ValuesOut) -> &'static str {
    match values {
        ValuesOut::Boolean(_) => "boolean",
        ValuesOut::Int64(_) => "int64",
        ValuesOut::Float64(_) => "float64",
        ValuesOut::Timestamp(_) => "timestamp",
        ValuesOut::Utf8(_) => "utf8",
        ValuesOut::Binary(_) => "binary",
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    fn lift(values: ValuesOut, validity: Vec<u8>, expected: GuestType, rows: usize) -> Result<ArrayRef, String> {
        column(ColumnOut { values, validity, constant: false }, expected, rows)
    }

    fn utf8(offsets: &[u32], data: &[u8]) -> ValuesOut {
        ValuesOut::Utf8(VarlenOut { offsets: offsets.to_vec(), data: data.to_vec() })
    }

    #[test]
    fn what_is_right_comes_through() {
        let a = lift(ValuesOut::Int64(vec![1, 2, 3]), vec![0b11111101], GuestType::Int64, 3).unwrap();
        assert_eq!(a.as_ref(), &Int64Array::from(vec![Some(1), None, Some(3)]) as &dyn Array);
        let a = lift(utf8(&[0, 1, 1, 3], "aé".as_bytes()), vec![], GuestType::Utf8, 3).unwrap();
        assert_eq!(a.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "", "é"]);
        assert_eq!(lift(utf8(&[0], b""), vec![], GuestType::Utf8, 0).unwrap().len(), 0);
        // No text at a null's place.
        let a = lift(utf8(&[0, 1, 3], b"a\xff\xfe"), vec![0b01], GuestType::Utf8, 2).unwrap();
        assert_eq!(a.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("a"), None]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        use GuestType::{Binary, Boolean, Int64, Utf8};
        let cases = [
            (lift(ValuesOut::Int64(vec![1]), vec![], Int64, 2), "has 1 values instead of 2"),
            (lift(ValuesOut::Int64(vec![1]), vec![], Utf8, 1), "is int64 instead of utf8"),
            (lift(ValuesOut::Int64(vec![1]), vec![1, 1], Int64, 1), "validity: a bitmap has 2 bytes instead of 1 for 1 rows"),
            (lift(ValuesOut::Boolean(vec![]), vec![], Boolean, 1), "a bitmap has 0 bytes instead of 1"),
            (lift(utf8(&[], b""), vec![], Utf8, 0), "has 0 offsets instead of 1"),
            (lift(utf8(&[1, 1], b"a"), vec![], Utf8, 1), "the first offset is 1"),
            (lift(utf8(&[0, 2, 1], b"a"), vec![], Utf8, 2), "offset 2 is 1, less than the one before, 2"),
            (lift(utf8(&[0, 5], b"a"), vec![], Utf8, 1), "the last offset is 5, but there are 1 bytes"),
            (lift(utf8(&[0, u32::MAX, 1], b"a"), vec![], Utf8, 2), "less than the one before"),
            (lift(utf8(&[0, 1], b"\xff"), vec![], Utf8, 1), "row 0 is not UTF-8"),
            (lift(utf8(&[0, 1, 2], "é".as_bytes()), vec![], Utf8, 2), "row 0 is not UTF-8"),
            (lift(utf8(&[0, 1], b"a"), vec![], Binary, 1), "is utf8 instead of binary"),
            (
                column(ColumnOut { values: ValuesOut::Int64(vec![1]), validity: vec![], constant: true }, Int64, 1),
                "marked constant",
            ),
        ];
        for (result, expect) in cases {
            let error = result.err().unwrap();
            assert!(error.contains(expect), "{error}");
        }
    }
}
