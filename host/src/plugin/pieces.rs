//! A batch in calls that a guest can bear: bounded in rows and bytes, and cut again where a guest runs out of memory.

use std::ops::Range;

use arrow::array::{Array, ArrayRef};

use super::{Argument, FailureKind, GuestError};

/// Rows of one call at most; a larger batch makes several calls.
pub(super) const CALL_ROWS: usize = 16_384;
/// Bytes of columns that one call takes in at most, by the mean size of a row; a larger batch makes several calls.
pub(super) const CALL_BYTES: usize = 8 << 20;
/// How often a piece is halved that wants too much memory: a state of many bytes a group may need it, a runaway guest must not get many
/// tries.
pub(super) const HALVINGS: u32 = 3;

/// Rows of a call, for `rows` rows of `bytes` bytes.
pub(super) fn call_rows(rows: usize, bytes: usize) -> usize {
    match bytes / rows.max(1) {
        0 => CALL_ROWS,
        mean => (CALL_BYTES / mean).clamp(2, CALL_ROWS),
    }
}

/// Makes as many calls as `rows` rows of `bytes` bytes need, in order.
///
/// # Errors
/// The first failure; a refused row is one of all rows, not of its piece.
pub(super) fn in_pieces<T>(
    rows: usize,
    bytes: usize,
    mut call: impl FnMut(Range<usize>) -> Result<T, GuestError>,
) -> Result<Vec<T>, GuestError> {
    let step = call_rows(rows, bytes);
    let mut results = Vec::with_capacity(rows.div_ceil(step));
    let mut start = 0;
    while start < rows {
        let end = rows.min(start + step);
        piece(start..end, HALVINGS, &mut call, &mut results)?;
        start = end;
    }
    Ok(results)
}

fn piece<T>(
    range: Range<usize>,
    halvings: u32,
    call: &mut impl FnMut(Range<usize>) -> Result<T, GuestError>,
    results: &mut Vec<T>,
) -> Result<(), GuestError> {
    match call(range.clone()) {
        Ok(result) => results.push(result),
        Err(error) if error.kind == FailureKind::Memory && halvings > 0 && range.len() > 1 => {
            let middle = range.start + range.len() / 2;
            piece(range.start..middle, halvings - 1, call, results)?;
            piece(middle..range.end, halvings - 1, call, results)?;
        }
        Err(mut error) => {
            if let FailureKind::Refused(Some(row)) = &mut error.kind {
                *row += range.start;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Bytes of the arguments' values.
pub(super) fn argument_bytes(arguments: &[Argument]) -> usize {
    arguments.iter().map(|a| if let Argument::Column(array) = a { array_bytes(array) } else { 0 }).sum()
}

/// Bytes of an array's values, without those that a slice leaves out.
pub(super) fn array_bytes(array: &ArrayRef) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: FailureKind) -> GuestError {
        let text = || "x".into();
        GuestError { plugin: text(), version: text(), hash: text(), function: text(), kind, message: String::new() }
    }

    #[test]
    fn pieces_cover_all_rows_in_order() {
        for (rows, bytes, first) in
            [(0, 0, None), (10, 80, Some(0..10)), (40_000, 320_000, Some(0..16_384)), (64, 64 << 20, Some(0..8))]
        {
            let pieces = in_pieces(rows, bytes, Ok).unwrap();
            assert_eq!(pieces.first().cloned(), first);
            assert_eq!(pieces.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..rows).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_call_out_of_memory_is_halved_but_not_for_ever() {
        let mut calls = 0;
        let pieces = in_pieces(1_000, 0, |r| {
            calls += 1;
            if r.len() > 300 { Err(error(FailureKind::Memory)) } else { Ok(r) }
        });
        assert_eq!((pieces.unwrap().len(), calls), (4, 7));
        let mut calls = 0;
        let failed = in_pieces(1_000, 0, |_| {
            calls += 1;
            Err::<(), _>(error(FailureKind::Memory))
        });
        assert_eq!((failed.unwrap_err().kind, calls), (FailureKind::Memory, 4));
    }

    #[test]
    fn a_refused_row_is_one_of_all_rows() {
        let failed = in_pieces(40_000, 0, |r| if r.start > 0 { Err(error(FailureKind::Refused(Some(5)))) } else { Ok(()) });
        assert_eq!(failed.unwrap_err().kind, FailureKind::Refused(Some(CALL_ROWS + 5)));
    }
}
