//! What a function can do wrong in a call, as changes to the columns that a good function would have returned.
#![allow(clippy::ptr_arg)] // all have the type `Misdeed`, whether or not they change the number of columns

use kindling_guest::types::{Column, Datatype, Failure, Kind, Values, Varlen};

use crate::victim::Stage;

/// Spoils the columns of a result; `row` is the poisoned one.
pub type Misdeed = fn(&mut Vec<Column>, usize) -> Result<(), Failure>;

/// Name, kind, the stage it goes wrong in (aggregates only), what goes wrong.
pub const MISDEEDS: &[(&str, Kind, Stage, Misdeed)] = &[
    ("filter_loop", Kind::Filter, Stage::Update, endless_loop),
    ("filter_memory", Kind::Filter, Stage::Update, endless_memory),
    ("filter_recursion", Kind::Filter, Stage::Update, endless_recursion),
    ("filter_trap", Kind::Filter, Stage::Update, trap),
    ("filter_refuse", Kind::Filter, Stage::Update, refuse),
    ("filter_refuse_far", Kind::Filter, Stage::Update, refuse_far),
    ("filter_refuse_all", Kind::Filter, Stage::Update, refuse_all),
    ("filter_short", Kind::Filter, Stage::Update, short),
    ("filter_long", Kind::Filter, Stage::Update, long),
    ("scalar_loop", Kind::Scalar, Stage::Update, endless_loop),
    ("scalar_trap", Kind::Scalar, Stage::Update, trap),
    ("scalar_refuse", Kind::Scalar, Stage::Update, refuse),
    ("scalar_short", Kind::Scalar, Stage::Update, short),
    ("scalar_long", Kind::Scalar, Stage::Update, long),
    ("scalar_wrong_type", Kind::Scalar, Stage::Update, wrong_type),
    ("scalar_constant", Kind::Scalar, Stage::Update, constant),
    ("scalar_validity", Kind::Scalar, Stage::Update, long_validity),
    ("scalar_not_utf8", Kind::Scalar, Stage::Update, not_utf8),
    ("scalar_split_character", Kind::Scalar, Stage::Update, split_character),
    ("scalar_offsets_outside", Kind::Scalar, Stage::Update, offsets_outside),
    ("scalar_offsets_descending", Kind::Scalar, Stage::Update, offsets_descending),
    ("scalar_offsets_start", Kind::Scalar, Stage::Update, offsets_start),
    ("scalar_offsets_none", Kind::Scalar, Stage::Update, offsets_none),
    ("aggregate_loop", Kind::Aggregate, Stage::Update, endless_loop),
    ("aggregate_memory", Kind::Aggregate, Stage::Update, endless_memory),
    ("aggregate_recursion", Kind::Aggregate, Stage::Update, endless_recursion),
    ("aggregate_trap", Kind::Aggregate, Stage::Update, trap),
    ("aggregate_refuse", Kind::Aggregate, Stage::Update, refuse),
    ("aggregate_few_groups", Kind::Aggregate, Stage::Update, short),
    ("aggregate_many_groups", Kind::Aggregate, Stage::Update, long),
    ("aggregate_no_columns", Kind::Aggregate, Stage::Update, no_columns),
    ("aggregate_more_columns", Kind::Aggregate, Stage::Update, more_columns),
    ("aggregate_wrong_type", Kind::Aggregate, Stage::Update, wrong_type),
    ("merge_loop", Kind::Aggregate, Stage::Merge, endless_loop),
    ("merge_trap", Kind::Aggregate, Stage::Merge, trap),
    ("merge_refuse", Kind::Aggregate, Stage::Merge, refuse),
    ("merge_few_groups", Kind::Aggregate, Stage::Merge, short),
    ("merge_wrong_type", Kind::Aggregate, Stage::Merge, wrong_type),
    ("finish_loop", Kind::Aggregate, Stage::Finish, endless_loop),
    ("finish_trap", Kind::Aggregate, Stage::Finish, trap),
    ("finish_refuse", Kind::Aggregate, Stage::Finish, refuse),
    ("finish_short", Kind::Aggregate, Stage::Finish, short),
    ("finish_wrong_type", Kind::Aggregate, Stage::Finish, wrong_type),
];

/// What a flat map can do wrong in a call, as changes to the origins of its rows and to its column, of which row `row` is the poisoned one.
pub type FlatMisdeed = fn(&mut Vec<u32>, &mut Vec<Column>, usize) -> Result<(), Failure>;

/// Name of each flat map, and what goes wrong. They give the rows that came in.
pub const FLAT_MISDEEDS: &[(&str, FlatMisdeed)] = &[
    ("flatmap_loop", |_, columns, row| endless_loop(columns, row)),
    ("flatmap_trap", |_, columns, row| trap(columns, row)),
    ("flatmap_refuse", |_, columns, row| refuse(columns, row)),
    ("flatmap_short", |_, columns, row| short(columns, row)),
    ("flatmap_no_columns", |_, columns, row| no_columns(columns, row)),
    ("flatmap_not_utf8", |_, columns, row| not_utf8(columns, row)),
    ("flatmap_outside", |rows, _, _| {
        rows.iter_mut().for_each(|row| *row += 100_000);
        Ok(())
    }),
    ("flatmap_descending", |rows, columns, _| {
        // Of one row two that come from the first and the one before it can't be told; from far outside and then inside they can.
        rows.insert(0, u32::MAX);
        *columns = vec![Column { values: repeated(rows.len()), validity: Vec::new(), constant: false }];
        Ok(())
    }),
    ("flatmap_many", |rows, columns, row| {
        *rows = vec![row as u32; 65_537];
        *columns = vec![Column { values: repeated(rows.len()), validity: Vec::new(), constant: false }];
        Ok(())
    }),
];

/// So many texts of no characters.
fn repeated(count: usize) -> Values {
    Values::Utf8(Varlen { offsets: vec![0; count + 1], data: Vec::new() })
}

/// Never returns, but the compiler can't know.
pub fn endless_loop(columns: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    while std::hint::black_box(columns.len()) < usize::MAX {}
    Ok(())
}

fn endless_memory(_: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    let mut hoard = Vec::new();
    while hoard.len() < usize::MAX {
        hoard.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
    Ok(())
}

fn endless_recursion(_: &mut Vec<Column>, row: usize) -> Result<(), Failure> {
    fn deeper(depth: u64) -> u64 {
        let here = std::hint::black_box([depth; 64]);
        if std::hint::black_box(depth) == u64::MAX { 0 } else { deeper(depth + 1) + here[7] }
    }
    std::hint::black_box(deeper(row as u64));
    Ok(())
}

fn trap(_: &mut Vec<Column>, row: usize) -> Result<(), Failure> {
    panic!("row {row} is poisoned")
}

fn refuse(_: &mut Vec<Column>, row: usize) -> Result<(), Failure> {
    Err(Failure { message: "poisoned".into(), row: Some(row as u32) })
}

fn refuse_far(_: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    Err(Failure { message: "a row that was never sent".into(), row: Some(u32::MAX) })
}

fn refuse_all(_: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    Err(Failure { message: "no row in particular, and a text of some length: ".to_owned() + &"x".repeat(100_000), row: None })
}

fn short(columns: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    for column in columns {
        match &mut column.values {
            Values::Boolean(values) => drop(values.pop()),
            Values::Int64(values) | Values::Timestamp(values) => drop(values.pop()),
            Values::Float64(values) => drop(values.pop()),
            Values::Utf8(values) | Values::Binary(values) => {
                values.offsets.pop();
                values.data.truncate(values.offsets.last().map_or(0, |end| *end as usize));
            }
        }
    }
    Ok(())
}

fn long(columns: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    for column in columns {
        match &mut column.values {
            Values::Boolean(values) => values.push(0),
            Values::Int64(values) | Values::Timestamp(values) => values.push(7),
            Values::Float64(values) => values.push(7.0),
            Values::Utf8(values) | Values::Binary(values) => values.offsets.extend(values.offsets.last().copied()),
        }
    }
    Ok(())
}

fn no_columns(columns: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    columns.clear();
    Ok(())
}

fn more_columns(columns: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    columns.extend(columns.first().cloned());
    Ok(())
}

fn wrong_type(columns: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    for column in columns {
        column.values = Values::Float64(vec![0.5; 8_192]);
    }
    Ok(())
}

fn constant(columns: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    columns.iter_mut().for_each(|column| column.constant = true);
    Ok(())
}

fn long_validity(columns: &mut Vec<Column>, row: usize) -> Result<(), Failure> {
    // Too long by far, whatever the number of rows: one that is too short would be none at all for up to 8 rows.
    columns.iter_mut().for_each(|column| column.validity = vec![u8::MAX; row / 8 + 40_000]);
    Ok(())
}

fn text(columns: &mut [Column]) -> Option<&mut Varlen> {
    match columns.first_mut().map(|column| &mut column.values) {
        Some(Values::Utf8(text)) => Some(text),
        _ => None,
    }
}

fn not_utf8(columns: &mut Vec<Column>, row: usize) -> Result<(), Failure> {
    if let Some(text) = text(columns) {
        let start = text.offsets[row] as usize;
        text.data[start] = 0xff;
    }
    Ok(())
}

/// The data is UTF-8 as a whole, but an offset lies inside a character. The rows are no longer those that were sent.
fn split_character(columns: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    if let Some(text) = text(columns) {
        let places = text.offsets.len();
        text.data = "é".as_bytes().to_vec();
        text.offsets = vec![0; places];
        if let [.., inside, end] = &mut text.offsets[..] {
            (*inside, *end) = (1, 2);
        }
    }
    Ok(())
}

fn offsets_outside(columns: &mut Vec<Column>, row: usize) -> Result<(), Failure> {
    if let Some(text) = text(columns) {
        text.offsets[row + 1] = u32::MAX;
    }
    Ok(())
}

fn offsets_descending(columns: &mut Vec<Column>, row: usize) -> Result<(), Failure> {
    if let Some(text) = text(columns) {
        text.offsets[row] = text.offsets[row + 1] + 1;
    }
    Ok(())
}

fn offsets_start(columns: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    if let Some(text) = text(columns) {
        text.offsets[0] = 1;
    }
    Ok(())
}

fn offsets_none(columns: &mut Vec<Column>, _: usize) -> Result<(), Failure> {
    if let Some(text) = text(columns) {
        text.offsets.clear();
    }
    Ok(())
}

/// Result type of the functions of a kind: all take a text.
pub fn result(kind: Kind) -> Datatype {
    match kind {
        Kind::Filter => Datatype::Boolean,
        Kind::Scalar => Datatype::Utf8,
        Kind::Aggregate => Datatype::Int64,
    }
}
