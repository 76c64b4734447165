//! Calls of a flat map: columns in; rows out, each with the row that it comes from.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion_common::Result;
use datafusion_expr::ColumnarValue;

use super::abi::{ColumnIn, FlatRowsOut, FlatRowsResult, RowsParams};
use super::lower::Prepared;
use super::pieces::{argument_bytes, in_pieces};
use super::signature::ResultColumn;
use super::udf::{argument, external, join};
use super::{Argument, FailureKind, FunctionSignature, GuestError, Plugin, lift};
use crate::limits::FLAT_MAP_ROWS;

/// The rows that a flat map gave.
#[derive(Clone, Debug)]
pub struct FlatRows {
    /// Which row of the call each comes from; never less than the one before.
    pub rows: Vec<u32>,
    /// A column for each result, with a value for each of these rows.
    pub columns: Vec<ArrayRef>,
}

impl Plugin {
    /// Calls flat map number `function` for `rows` rows.
    ///
    /// # Errors
    /// How the guest failed; [`FailureKind::Excess`] where it gave more than [`FLAT_MAP_ROWS`] rows. The row of a refusal is one of this call.
    pub fn flat_map(&self, function: usize, rows: usize, arguments: &[Argument]) -> Result<FlatRows, GuestError> {
        let signature = &self.functions[function];
        let prepared = self.prepared(function, arguments, &signature.arguments, rows)?;
        let columns: Vec<ColumnIn<'_>> = prepared.iter().map(Prepared::column).collect();
        let given = self.run(
            function,
            rows,
            |i| i.flatmap,
            |i, f| {
                let params: RowsParams<'_> = (function as u32, rows as u32, &columns);
                i.call::<_, FlatRowsResult>(f, params, self.limits()).map(|r| r.0)
            },
            |given| match given.rows.len() {
                n if n > FLAT_MAP_ROWS => Ok(Err(n)),
                _ => checked(given, &signature.results, rows).map(Ok),
            },
        )?;
        given.map_err(|n| self.excess(function, n))
    }

    fn excess(&self, function: usize, rows: usize) -> GuestError {
        self.error(function, FailureKind::Excess, format!("gave {rows} rows, {FLAT_MAP_ROWS} are allowed"))
    }
}

/// What holds of the rows that a guest gave for `rows` rows.
fn checked(given: FlatRowsOut, results: &[ResultColumn], rows: usize) -> Result<FlatRows, String> {
    let FlatRowsOut { rows: from, columns } = given;
    if let Some(i) = from.windows(2).position(|w| w[0] > w[1]) {
        return Err(format!("row {} comes from row {}, the one before from row {}", i + 1, from[i + 1], from[i]));
    }
    if let Some(last) = from.last().filter(|last| **last as usize >= rows) {
        return Err(format!("a row comes from row {last} of {rows}, which is not there"));
    }
    let columns = lift::columns(columns, results.iter().map(|r| (r.name.as_str(), r.data_type)), from.len())?;
    Ok(FlatRows { rows: from, columns })
}

/// A flat map that a plan calls.
#[derive(Clone)]
pub struct GuestFlatMap {
    plugin: Arc<Plugin>,
    function: usize,
}

impl GuestFlatMap {
    /// Function number `function` of a plugin, which is a flat map.
    pub(super) fn new(plugin: Arc<Plugin>, function: usize) -> Self {
        Self { plugin, function }
    }

    /// What it takes and gives.
    pub fn signature(&self) -> &FunctionSignature {
        &self.plugin.functions[self.function]
    }

    /// The rows that it gives for `rows` rows.
    ///
    /// # Errors
    /// How the guest failed; [`FailureKind::Excess`] where it gave more than [`FLAT_MAP_ROWS`] rows for several: fewer may go well.
    pub fn call(&self, arguments: &[ColumnarValue], rows: usize) -> Result<FlatRows> {
        let signature = self.signature();
        let arguments: Vec<Argument> =
            arguments.iter().zip(&signature.arguments).map(|(a, t)| argument(a, *t)).collect::<Result<_>>()?;
        let (mut from, mut columns) = (Vec::new(), vec![Vec::new(); signature.results.len()]);
        let pieces = in_pieces(rows, argument_bytes(&arguments), |range| {
            let piece: Vec<Argument> = arguments.iter().map(|a| a.slice(range.start, range.len())).collect();
            let given = self.plugin.flat_map(self.function, range.len(), &piece)?;
            from.extend(given.rows.iter().map(|row| row + range.start as u32));
            if from.len() > FLAT_MAP_ROWS {
                return Err(self.plugin.excess(self.function, from.len()));
            }
            columns.iter_mut().zip(given.columns).for_each(|(all, column)| all.push(column));
            Ok(())
        });
        pieces.map_err(external)?;
        let columns = columns.into_iter().zip(&signature.results).map(|(pieces, c)| join(pieces, c.data_type));
        Ok(FlatRows { columns: columns.collect::<Result<_>>()?, rows: from })
    }
}

impl fmt::Debug for GuestFlatMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:?}", self.signature().name, self.plugin)
    }
}

impl PartialEq for GuestFlatMap {
    fn eq(&self, other: &Self) -> bool {
        self.plugin.hash == other.plugin.hash && self.function == other.function
    }
}

impl Eq for GuestFlatMap {}

impl PartialOrd for GuestFlatMap {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (&self.plugin.hash, self.function).partial_cmp(&(&other.plugin.hash, other.function))
    }
}

impl Hash for GuestFlatMap {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.plugin.hash, self.function).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::GuestType;
    use crate::plugin::abi::{ColumnOut, ValuesOut};

    fn given(rows: &[u32], columns: &[&[i64]]) -> Result<FlatRows, String> {
        let column = |values: &&[i64]| ColumnOut { values: ValuesOut::Int64(values.to_vec()), validity: vec![], constant: false };
        let results = [ResultColumn { name: "n".into(), data_type: GuestType::Int64 }];
        checked(FlatRowsOut { rows: rows.to_vec(), columns: columns.iter().map(column).collect() }, &results, 3)
    }

    #[test]
    fn rows_of_a_guest_are_not_trusted() {
        let all = given(&[0, 0, 2], &[&[7, 8, 9]]).unwrap();
        assert_eq!((all.rows, all.columns[0].len()), (vec![0, 0, 2], 3));
        assert!(given(&[], &[&[]]).unwrap().rows.is_empty());
        let cases = [
            (given(&[0, 2, 1], &[&[7, 8, 9]]), "row 2 comes from row 1, the one before from row 2"),
            (given(&[0, 3], &[&[7, 8]]), "a row comes from row 3 of 3, which is not there"),
            (given(&[0], &[]), "gave 0 columns, but has 1"),
            (given(&[0], &[&[1], &[2]]), "gave 2 columns, but has 1"),
            (given(&[0, 1], &[&[1]]), "column `n`: a column has 1 values instead of 2"),
        ];
        for (result, expect) in cases {
            assert_eq!(result.unwrap_err(), expect);
        }
    }
}
