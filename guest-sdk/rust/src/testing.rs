//! A plugin's functions called natively, as Kindling would call them: through columns, in batches, with states taken apart and put
//! together again. For unit tests.

pub mod process;

use crate::Plugin;
use crate::read::Read;
use crate::state::{Field, State};
use crate::types::{Column, Failure, Kind, Values, Varlen};
use crate::write::{BitmapBuilder, ColumnBuilder, Value};

/// Rows of arguments.
///
/// ```
/// use kindling_guest::testing::Rows;
/// let rows = Rows::of(["a", "b"]).and([Some(1), None]).constant(0.5);
/// assert_eq!(rows.len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Rows {
    columns: Vec<Column>,
    rows: usize,
}

impl Rows {
    /// Rows of one argument.
    pub fn of<V: Value>(values: impl IntoIterator<Item = V>) -> Self {
        let (column, rows) = column(values);
        Self { columns: vec![column], rows }
    }

    /// One more argument.
    ///
    /// # Panics
    /// It has another number of rows.
    pub fn and<V: Value>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        let (column, rows) = column(values);
        assert_eq!(rows, self.rows, "all arguments have the same number of rows");
        self.columns.push(column);
        self
    }

    /// One more argument, the same for all rows.
    pub fn constant<V: Value>(mut self, value: V) -> Self {
        self.columns.push(Column { constant: true, ..column([value]).0 });
        self
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// These rows, in this order.
    fn take(&self, rows: &[usize]) -> Vec<Column> {
        self.columns.iter().map(|column| if column.constant { column.clone() } else { take(column, rows) }).collect()
    }
}

fn column<V: Value>(values: impl IntoIterator<Item = V>) -> (Column, usize) {
    let mut builder = ColumnBuilder::with_capacity(0);
    let rows = values.into_iter().map(|value| builder.push(value)).count();
    (builder.finish(), rows)
}

fn bits(bytes: &[u8], rows: &[usize]) -> Vec<u8> {
    let mut taken = BitmapBuilder::default();
    rows.iter().for_each(|row| taken.push(bytes[row / 8] >> (row % 8) & 1 == 1));
    taken.finish()
}

fn take(column: &Column, rows: &[usize]) -> Column {
    fn pick<T: Copy>(from: &[T], rows: &[usize]) -> Vec<T> {
        rows.iter().map(|row| from[*row]).collect()
    }
    let varlen = |from: &Varlen| {
        let mut taken = crate::write::VarlenBuilder::with_capacity(rows.len());
        rows.iter().for_each(|row| taken.push(&from.data[from.offsets[*row] as usize..from.offsets[row + 1] as usize]));
        taken.finish()
    };
    let values = match &column.values {
        Values::Boolean(from) => Values::Boolean(bits(from, rows)),
        Values::Int64(from) => Values::Int64(pick(from, rows)),
        Values::Float64(from) => Values::Float64(pick(from, rows)),
        Values::Timestamp(from) => Values::Timestamp(pick(from, rows)),
        Values::Utf8(from) => Values::Utf8(varlen(from)),
        Values::Binary(from) => Values::Binary(varlen(from)),
    };
    let validity = if column.validity.is_empty() { Vec::new() } else { bits(&column.validity, rows) };
    Column { values, validity, constant: false }
}

/// The values of a column as Rust values.
///
/// # Panics
/// The column is of another type, or has nulls where `T` has none.
pub fn values<T: Field>(column: &Column, rows: usize) -> Vec<T> {
    let reader = crate::state::open_field::<T>("result", column, rows).expect("the result has the type that the test names");
    (0..rows).map(|row| T::own(reader.get::<true>(row))).collect()
}

fn find(plugin: &Plugin, name: &str, kind: Kind) -> u32 {
    let functions = plugin.describe().functions;
    let found = functions.iter().position(|function| function.name == name && function.kind == kind);
    found.unwrap_or_else(|| panic!("the plugin has no {kind:?} `{name}`")) as u32
}

/// Which rows the filter `name` keeps.
///
/// # Errors
/// What the filter refused.
///
/// # Panics
/// There is no such filter.
pub fn filter(plugin: &Plugin, name: &str, rows: &Rows) -> Result<Vec<bool>, Failure> {
    let kept = plugin.filter(find(plugin, name, Kind::Filter), rows.rows as u32, &rows.columns)?;
    Ok((0..rows.rows).map(|row| kept[row / 8] >> (row % 8) & 1 == 1).collect())
}

/// What the scalar function `name` gives for each row.
///
/// # Errors
/// What the function refused.
///
/// # Panics
/// There is no such function, or its result is no `T`.
pub fn scalar<T: Field>(plugin: &Plugin, name: &str, rows: &Rows) -> Result<Vec<T>, Failure> {
    let column = plugin.scalar(find(plugin, name, Kind::Scalar), rows.rows as u32, &rows.columns)?;
    Ok(values(&column, rows.rows))
}

/// The rows that the flat map `name` gives, each with the number of the row that it comes from.
///
/// # Errors
/// What the flat map refused.
///
/// # Panics
/// There is no such flat map, or its rows are no `T`.
pub fn flatmap<T: State>(plugin: &Plugin, name: &str, rows: &Rows) -> Result<Vec<(usize, T)>, Failure> {
    let found = plugin.describe_flatmaps().iter().position(|function| function.name == name);
    let number = plugin.describe().functions.len() + found.unwrap_or_else(|| panic!("the plugin has no flat map `{name}`"));
    let given = plugin.flatmap(number as u32, rows.rows as u32, &rows.columns)?;
    let open = T::open(&given.columns, given.rows.len()).expect("the rows have the columns that the test names");
    let row = |(i, from): (usize, &u32)| (*from as usize, T::get(&open, i).expect("a row reads back"));
    Ok(given.rows.iter().enumerate().map(row).collect())
}

/// What the aggregate `name` gives for all rows together.
///
/// # Errors
/// What the aggregate refused.
///
/// # Panics
/// There is no such aggregate, or its result is no `T`.
pub fn aggregate<T: Field>(plugin: &Plugin, name: &str, rows: &Rows) -> Result<T, Failure> {
    let mut results = aggregate_groups(plugin, name, &vec![0; rows.rows], 1, rows)?;
    Ok(results.remove(0))
}

/// What the aggregate `name` gives for each group; row i belongs to group `groups[i]`.
///
/// # Errors
/// What the aggregate refused.
///
/// # Panics
/// There is no such aggregate, or its result is no `T`.
pub fn aggregate_groups<T: Field>(
    plugin: &Plugin,
    name: &str,
    groups: &[u32],
    groupcount: u32,
    rows: &Rows,
) -> Result<Vec<T>, Failure> {
    let function = find(plugin, name, Kind::Aggregate);
    let states = plugin.accumulate(function, groups, groupcount, &rows.columns)?;
    Ok(values(&plugin.finish(function, groupcount, &states)?, groupcount as usize))
}

/// Whether the aggregate `name` gives the same for these rows in any order, in any batches, merged in any shape, with states of no
/// rows among them. `same` compares the result of all rows at once (first) with another.
///
/// # Panics
/// It does not; or it refuses something.
pub fn laws<T: Field + std::fmt::Debug>(plugin: &Plugin, name: &str, rows: &Rows, same: impl Fn(&T, &T) -> bool) {
    const TRIALS: u64 = 40;
    let function = find(plugin, name, Kind::Aggregate);
    let expected: T = aggregate(plugin, name, rows).expect("the aggregate takes the rows");
    for trial in 0..TRIALS {
        let mut random = Random(trial);
        let mut order: Vec<usize> = (0..rows.rows).collect();
        (1..order.len()).rev().for_each(|i| order.swap(i, random.below(i + 1)));
        // Partial states of random batches, each over a few groups of which some get no rows.
        let mut parts: Vec<Vec<Column>> = Vec::new();
        let mut rest = &order[..];
        while !rest.is_empty() || parts.is_empty() {
            let (batch, after) = rest.split_at(random.below(rest.len() + 1));
            let groupcount = 1 + random.below(3);
            let groups: Vec<u32> = batch.iter().map(|_| random.below(groupcount) as u32).collect();
            let states = plugin.accumulate(function, &groups, groupcount as u32, &rows.take(batch));
            let states = states.expect("the aggregate takes a part of the rows");
            parts.extend((0..groupcount).map(|group| states.iter().map(|column| take(column, &[group])).collect::<Vec<_>>()));
            rest = after;
        }
        while parts.len() > 1 {
            let some = 2 + random.below((parts.len() - 1).min(4));
            let chosen: Vec<_> = (0..some).map(|_| parts.swap_remove(random.below(parts.len()))).collect();
            let merged = plugin.merge(function, &vec![0; some], 1, &concat(&chosen)).expect("the aggregate merges its states");
            parts.push(merged);
        }
        let result = plugin.finish(function, 1, &parts[0]).expect("the aggregate finishes its states");
        let result = values::<T>(&result, 1).remove(0);
        assert!(same(&expected, &result), "`{name}`, trial {trial}: {expected:?} from all rows at once, {result:?} in parts");
    }
}

/// States of one row each to columns of many rows.
fn concat(states: &[Vec<Column>]) -> Vec<Column> {
    fn gather<V: Value>(columns: &[&Column]) -> Column
    where
        Option<V>: Field,
    {
        column(columns.iter().map(|column| values::<Option<V>>(column, 1).remove(0))).0
    }
    (0..states[0].len())
        .map(|field| {
            let columns: Vec<&Column> = states.iter().map(|state| &state[field]).collect();
            match columns[0].values {
                Values::Boolean(_) => gather::<bool>(&columns),
                Values::Int64(_) => gather::<i64>(&columns),
                Values::Float64(_) => gather::<f64>(&columns),
                Values::Timestamp(_) => gather::<crate::Timestamp>(&columns),
                Values::Utf8(_) => gather::<String>(&columns),
                Values::Binary(_) => gather::<Vec<u8>>(&columns),
            }
        })
        .collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): numbers for tests that are the same on every run.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}
