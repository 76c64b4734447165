//! The loops over rows and partial states of aggregates.

use crate::rowwise::{Update, at, for_rows, whole};
use crate::state::State;
use crate::types::{Column, Failure};
use crate::write::{ColumnBuilder, Done, Returned};

/// A state's `merge`, `fn(&mut S, S)`. `Marker` is the function's type, so that it can be inferred.
#[diagnostic::on_unimplemented(
    message = "this can't be the `merge` of `{S}`",
    note = "`merge` is `fn merge(&mut self, other: Self)`, and may return `Result<(), E>` where `E` can be displayed"
)]
pub trait Merge<S, Marker> {
    /// Merges `other` into `state`.
    ///
    /// # Errors
    /// The state is refused.
    fn call(&self, state: &mut S, other: S) -> Result<(), String>;
}

/// A state's `finish`, `fn(&S) -> R`. `Marker` is the function's type, so that it can be inferred.
#[diagnostic::on_unimplemented(
    message = "this can't be the `finish` of `{S}`",
    note = "`finish` is `fn finish(&self) -> R`; see the crate's documentation for what `R` can be"
)]
pub trait Finish<S, Marker> {
    /// What it returns.
    type Output: Returned;
    /// Calls it.
    fn call(&self, state: &S) -> Self::Output;
}

impl<Fun, S, R> Merge<S, fn(S) -> R> for Fun
where
    R: Done,
    Fun: Fn(&mut S, S) -> R,
{
    #[inline(always)]
    fn call(&self, state: &mut S, other: S) -> Result<(), String> {
        self(state, other).done()
    }
}

impl<Fun, S, R> Finish<S, fn() -> R> for Fun
where
    R: Returned,
    Fun: Fn(&S) -> R,
{
    type Output = R;
    #[inline(always)]
    fn call(&self, state: &S) -> R {
        self(state)
    }
}

fn no_rows<S: State>(groupcount: u32) -> Vec<S> {
    (0..groupcount).map(|_| S::default()).collect()
}

#[cold]
fn outside() -> String {
    "a group's number is not below the count of groups".into()
}

/// Rows to one partial state a group.
///
/// # Errors
/// The columns don't fit, or a row was refused.
pub fn accumulate<S, M, U>(update: &U, groups: &[u32], groupcount: u32, columns: &[Column]) -> Result<Vec<Column>, Failure>
where
    S: State,
    U: Update<S, M>,
{
    let mut states = no_rows::<S>(groupcount);
    for_rows::<U::Args>(columns, groups.len(), |row, items| {
        let Some(items) = items else { return Ok(()) };
        match groups.get(row).and_then(|group| states.get_mut(*group as usize)) {
            Some(state) => update.call(state, items).done(),
            None => Err(outside()),
        }
    })?;
    S::write(states).map_err(whole)
}

/// Partial states to one partial state a group.
///
/// # Errors
/// The columns don't fit, or a state was refused.
pub fn merge<S, M, F>(merge: &F, groups: &[u32], groupcount: u32, columns: &[Column]) -> Result<Vec<Column>, Failure>
where
    S: State,
    F: Merge<S, M>,
{
    let mut states = no_rows::<S>(groupcount);
    let parts = S::open(columns, groups.len()).map_err(whole)?;
    for (row, group) in groups.iter().enumerate() {
        let merged = match states.get_mut(*group as usize) {
            Some(state) => S::get(&parts, row).and_then(|part| merge.call(state, part)),
            None => Err(outside()),
        };
        merged.map_err(|message| at(row, message))?;
    }
    S::write(states).map_err(whole)
}

/// Partial states to results.
///
/// # Errors
/// The columns don't fit, or a state was refused.
pub fn finish<S, M, F>(finish: &F, rows: usize, columns: &[Column]) -> Result<Column, Failure>
where
    S: State,
    F: Finish<S, M>,
{
    let mut results = ColumnBuilder::<<F::Output as Returned>::Value>::with_capacity(rows);
    let states = S::open(columns, rows).map_err(whole)?;
    for row in 0..rows {
        let result = S::get(&states, row).and_then(|state| finish.call(&state).returned());
        results.push(result.map_err(|message| at(row, message))?);
    }
    Ok(results.finish())
}
