//! The loops over rows of filters and scalar functions, and what the loops of all functions share.

use crate::read::{Arg, Bits, Read, validity};
use crate::types::{Column, Datatype, Failure};
use crate::write::{BitmapBuilder, ColumnBuilder, Returned};

/// The arguments of a function, as a tuple of [`Arg`].
pub trait Args {
    /// What the function is given for a row.
    type Items<'a>;
    /// What reads them.
    type Readers<'a>;
    /// Types of the columns.
    fn types() -> Vec<Datatype>;
    /// Resolves the columns of a call with `rows` rows.
    ///
    /// # Errors
    /// A column is missing, of another type, or shorter.
    fn open(columns: &[Column], rows: usize) -> Result<Self::Readers<'_>, String>;
    /// The arguments of `row`. Without `NULLS` no column has a null.
    fn get<'a, const NULLS: bool>(readers: &Self::Readers<'a>, row: usize) -> Self::Items<'a>;
    /// The columns whose nulls don't reach the function.
    fn required(columns: &[Column]) -> Vec<&Column>;
}

/// A function of a row, `fn(A, B, ...) -> R`. `Marker` is the function's type, so that it can be inferred.
#[diagnostic::on_unimplemented(
    message = "this can't be a function of a plugin",
    note = "arguments, 1 to 6, are bool, i64, f64, Timestamp, &str, &[u8], or an Option of one of these; see the crate's documentation for results"
)]
pub trait RowFunction<Marker> {
    /// Its arguments.
    type Args: Args;
    /// Its result.
    type Output;
    /// Calls it.
    fn call(&self, items: <Self::Args as Args>::Items<'_>) -> Self::Output;
}

/// A state's `update`, `fn(&mut S, A, B, ...)`. `Marker` is the function's type, so that it can be inferred.
#[diagnostic::on_unimplemented(
    message = "this can't be the `update` of `{S}`",
    note = "`update` takes `&mut self` and 1 to 6 of bool, i64, f64, Timestamp, &str, &[u8], or an Option of one of these",
    note = "`update` returns nothing, or `Result<(), E>` where `E` can be displayed"
)]
pub trait Update<S, Marker> {
    /// Its arguments.
    type Args: Args;
    /// What it returns.
    type Output: crate::write::Done;
    /// Calls it.
    fn call(&self, state: &mut S, items: <Self::Args as Args>::Items<'_>) -> Self::Output;
}

macro_rules! arities {
    ($count:literal: $($arg:ident $item:ident $index:tt),*) => {
        impl<$($arg: Arg),*> Args for ($($arg,)*) {
            type Items<'a> = ($($arg::Item<'a>,)*);
            type Readers<'a> = ($($arg::Reader<'a>,)*);
            fn types() -> Vec<Datatype> {
                vec![$($arg::TYPE),*]
            }
            fn open(columns: &[Column], rows: usize) -> Result<Self::Readers<'_>, String> {
                let [$($item),*] = columns else {
                    return Err(format!("called with {} arguments, but it has {}", columns.len(), $count));
                };
                Ok(($($arg::open($item, rows).map_err(|e| format!("argument {}: {e}", $index + 1))?,)*))
            }
            #[inline(always)]
            fn get<'a, const NULLS: bool>(readers: &Self::Readers<'a>, row: usize) -> Self::Items<'a> {
                ($(readers.$index.get::<NULLS>(row),)*)
            }
            fn required(columns: &[Column]) -> Vec<&Column> {
                let nullable = [$($arg::NULLABLE),*];
                columns.iter().zip(nullable).filter(|(_, nullable)| !nullable).map(|(column, _)| column).collect()
            }
        }

        impl<Fun, R, $($arg: Arg),*> RowFunction<fn($($arg),*) -> R> for Fun
        where
            Fun: Fn($($arg),*) -> R,
            Fun: for<'a> Fn($($arg::Item<'a>),*) -> R,
        {
            type Args = ($($arg,)*);
            type Output = R;
            #[inline(always)]
            fn call(&self, ($($item,)*): <Self::Args as Args>::Items<'_>) -> R {
                self($($item),*)
            }
        }

        impl<Fun, S, R: crate::write::Done, $($arg: Arg),*> Update<S, fn($($arg),*) -> R> for Fun
        where
            Fun: Fn(&mut S, $($arg),*) -> R,
            Fun: for<'a> Fn(&mut S, $($arg::Item<'a>),*) -> R,
        {
            type Args = ($($arg,)*);
            type Output = R;
            #[inline(always)]
            fn call(&self, state: &mut S, ($($item,)*): <Self::Args as Args>::Items<'_>) -> R {
                self(state, $($item),*)
            }
        }
    };
}

arities!(1: A a 0);
arities!(2: A a 0, B b 1);
arities!(3: A a 0, B b 1, C c 2);
arities!(4: A a 0, B b 1, C c 2, D d 3);
arities!(5: A a 0, B b 1, C c 2, D d 3, E e 4);
arities!(6: A a 0, B b 1, C c 2, D d 3, E e 4, F f 5);

/// A failure of the call as a whole.
pub fn whole(message: String) -> Failure {
    Failure { message, row: None }
}

/// A failure of one row.
pub fn at(row: usize, message: String) -> Failure {
    Failure { message, row: u32::try_from(row).ok() }
}

/// Calls `each` for every row, with None where an argument that must not be null is.
///
/// # Errors
/// The columns don't fit; or what `each` refused, with its row.
#[inline(always)]
pub fn for_rows<'a, A: Args>(
    columns: &'a [Column],
    rows: usize,
    mut each: impl FnMut(usize, Option<A::Items<'a>>) -> Result<(), String>,
) -> Result<(), Failure> {
    let readers = A::open(columns, rows).map_err(whole)?;
    if columns.iter().all(|column| column.validity.is_empty()) {
        for row in 0..rows {
            each(row, Some(A::get::<false>(&readers, row))).map_err(|message| at(row, message))?;
        }
    } else {
        let present = present(&A::required(columns), rows);
        let present = Bits::new(&present, false);
        for row in 0..rows {
            let items = if present.at(row) { Some(A::get::<true>(&readers, row)) } else { None };
            each(row, items).map_err(|message| at(row, message))?;
        }
    }
    Ok(())
}

/// The rows where no column is null.
fn present(columns: &[&Column], rows: usize) -> Vec<u8> {
    let mut all = vec![u8::MAX; rows.div_ceil(8)];
    for column in columns {
        match validity(column) {
            Some(bits) if column.constant && !bits.at(0) => all.fill(0),
            Some(_) if !column.constant => {
                // A bitmap that is too short has nulls past its end.
                let bytes = column.validity.iter().copied().chain(std::iter::repeat(0));
                all.iter_mut().zip(bytes).for_each(|(all, byte)| *all &= byte);
            }
            _ => {}
        }
    }
    all
}

/// Bitmap of the rows that `keep` keeps.
///
/// # Errors
/// The columns don't fit, or a row was refused.
pub fn filter<M, F, R>(keep: &F, rows: usize, columns: &[Column]) -> Result<Vec<u8>, Failure>
where
    F: RowFunction<M, Output = R>,
    R: Returned<Value = bool>,
{
    let mut kept = BitmapBuilder::with_capacity(rows);
    for_rows::<F::Args>(columns, rows, |_, items| {
        kept.push(match items {
            Some(items) => keep.call(items).returned()?,
            None => false,
        });
        Ok(())
    })?;
    Ok(kept.finish())
}

/// A value of `function` a row.
///
/// # Errors
/// The columns don't fit, or a row was refused.
pub fn scalar<M, F, R>(function: &F, rows: usize, columns: &[Column]) -> Result<Column, Failure>
where
    F: RowFunction<M, Output = R>,
    R: Returned,
{
    let mut results = ColumnBuilder::<R::Value>::with_capacity(rows);
    for_rows::<F::Args>(columns, rows, |_, items| {
        match items {
            Some(items) => results.push(function.call(items).returned()?),
            None => results.push_null(),
        }
        Ok(())
    })?;
    Ok(results.finish())
}
