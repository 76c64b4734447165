//! Plugin `hostile`: a function for each misdeed. Filters keep all rows, scalar functions give their argument, flat maps
//! give each row once, aggregates count.

use evil::misdeeds::{FLAT_MISDEEDS, MISDEEDS, Misdeed, result};
use evil::victim::Stage;
use evil::{POISON, description};
use kindling_guest::bindings::Guest;
use kindling_guest::read::{Arg, Read};
use kindling_guest::types::{
    Column, Datatype, Description, Failure, Field, Flatmapfunction, Flatrows, Function, Kind, Resultcolumn, Values,
};
use kindling_guest::write::{BitmapBuilder, ColumnBuilder};

struct Exports;

fn column(values: Values) -> Column {
    Column { values, validity: Vec::new(), constant: false }
}

fn failure(message: String) -> Failure {
    Failure { message, row: None }
}

fn texts(columns: &[Column], rows: usize) -> Result<Vec<&str>, Failure> {
    let texts = columns.first().ok_or_else(|| failure("no argument".into()))?;
    let texts = <&str>::open(texts, rows).map_err(failure)?;
    Ok((0..rows).map(|row| texts.get::<true>(row)).collect())
}

/// Does the misdeed of `function` if it belongs to this stage and a row is poisoned.
fn spoil(function: u32, stage: Stage, poisoned: Option<usize>, columns: &mut Vec<Column>) -> Result<(), Failure> {
    let (_, _, when, misdeed): (_, _, _, Misdeed) = MISDEEDS[function as usize];
    match poisoned {
        Some(row) if when == stage => misdeed(columns, row),
        _ => Ok(()),
    }
}

/// Counts and marks of the poisoned, of each state.
fn states(columns: &[Column], rows: usize) -> Result<Vec<(i64, bool)>, Failure> {
    let [counts, marks] = columns else { return Err(failure("a state has 2 columns".into())) };
    let (counts, marks) = (i64::open(counts, rows).map_err(failure)?, bool::open(marks, rows).map_err(failure)?);
    Ok((0..rows).map(|row| (counts.get::<true>(row), marks.get::<true>(row))).collect())
}

fn gathered(groups: &[u32], groupcount: u32, parts: impl Iterator<Item = (i64, bool)>) -> Vec<Column> {
    let mut gathered = vec![(0, false); groupcount as usize];
    for (group, (count, marked)) in groups.iter().zip(parts) {
        let state = &mut gathered[*group as usize];
        *state = (state.0 + count, state.1 || marked);
    }
    let mut marks = BitmapBuilder::with_capacity(gathered.len());
    gathered.iter().for_each(|state| marks.push(state.1));
    vec![column(Values::Int64(gathered.iter().map(|state| state.0).collect())), column(Values::Boolean(marks.finish()))]
}

impl Guest for Exports {
    fn describe() -> Description {
        let field = |name: &str, type_| Field { name: name.into(), type_, layout: String::new() };
        let functions = MISDEEDS.iter().map(|(name, kind, _, _)| Function {
            name: (*name).into(),
            kind: *kind,
            doc: "Not for use.".into(),
            arguments: vec![Datatype::Utf8],
            result: result(*kind),
            state: match kind {
                Kind::Aggregate => vec![field("count", Datatype::Int64), field("poisoned", Datatype::Boolean)],
                _ => Vec::new(),
            },
        });
        description("hostile", functions.collect())
    }

    fn filter(function: u32, rows: u32, arguments: Vec<Column>) -> Result<Vec<u8>, Failure> {
        let texts = texts(&arguments, rows as usize)?;
        let mut kept = vec![column(Values::Boolean(vec![u8::MAX; texts.len().div_ceil(8)]))];
        spoil(function, Stage::Update, texts.iter().position(|text| *text == POISON), &mut kept)?;
        match kept.pop().map(|column| column.values) {
            Some(Values::Boolean(bits)) => Ok(bits),
            _ => Ok(Vec::new()),
        }
    }

    fn scalar(function: u32, rows: u32, arguments: Vec<Column>) -> Result<Column, Failure> {
        let texts = texts(&arguments, rows as usize)?;
        let mut same = ColumnBuilder::<&str>::with_capacity(texts.len());
        texts.iter().for_each(|text| same.push(text));
        let mut same = vec![same.finish()];
        spoil(function, Stage::Update, texts.iter().position(|text| *text == POISON), &mut same)?;
        same.pop().ok_or_else(|| failure("no column".into()))
    }

    fn describeflatmaps() -> Vec<Flatmapfunction> {
        let function = |(name, _): &(&str, _)| Flatmapfunction {
            name: (*name).into(),
            doc: "Not for use.".into(),
            arguments: vec![Datatype::Utf8],
            results: vec![Resultcolumn { name: "text".into(), type_: Datatype::Utf8 }],
        };
        FLAT_MISDEEDS.iter().map(function).collect()
    }

    fn flatmap(function: u32, rows: u32, arguments: Vec<Column>) -> Result<Flatrows, Failure> {
        let texts = texts(&arguments, rows as usize)?;
        let mut same = ColumnBuilder::<&str>::with_capacity(texts.len());
        texts.iter().for_each(|text| same.push(text));
        let (mut rows, mut columns) = ((0..rows).collect(), vec![same.finish()]);
        if let Some(row) = texts.iter().position(|text| *text == POISON) {
            FLAT_MISDEEDS[function as usize - MISDEEDS.len()].1(&mut rows, &mut columns, row)?;
        }
        Ok(Flatrows { rows, columns })
    }

    fn accumulate(function: u32, groups: Vec<u32>, groupcount: u32, arguments: Vec<Column>) -> Result<Vec<Column>, Failure> {
        let texts = texts(&arguments, groups.len())?;
        let mut counted = gathered(&groups, groupcount, texts.iter().map(|text| (1, *text == POISON)));
        spoil(function, Stage::Update, texts.iter().position(|text| *text == POISON), &mut counted)?;
        Ok(counted)
    }

    fn merge(function: u32, groups: Vec<u32>, groupcount: u32, parts: Vec<Column>) -> Result<Vec<Column>, Failure> {
        let parts = states(&parts, groups.len())?;
        let mut merged = gathered(&groups, groupcount, parts.iter().copied());
        spoil(function, Stage::Merge, parts.iter().position(|state| state.1), &mut merged)?;
        Ok(merged)
    }

    fn finish(function: u32, rows: u32, parts: Vec<Column>) -> Result<Column, Failure> {
        let parts = states(&parts, rows as usize)?;
        let mut finished = vec![column(Values::Int64(parts.iter().map(|state| state.0).collect()))];
        spoil(function, Stage::Finish, parts.iter().position(|state| state.1), &mut finished)?;
        finished.pop().ok_or_else(|| failure("no column".into()))
    }
}

#[cfg(target_arch = "wasm32")]
kindling_guest::bindings::export_plugin!(Exports with_types_in kindling_guest::bindings);
