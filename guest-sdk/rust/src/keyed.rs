//! What a keyed process reads and writes: rows as structs, and the rows of its outputs.

pub use crate::process_bindings::kindling::plugin::processing::{Attribute, Output, Rows};
use crate::read::{Arg, Bits, Read, validity};
use crate::state::State;
use crate::types::Column;

/// A row as a struct: implemented by [`row!`](crate::row!).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a row yet",
    note = "declare the struct inside `kindling_guest::row! {{ ... }}`"
)]
pub trait Row<'a>: Copy {
    /// The columns of a call, resolved.
    type Reader;
    /// Name and type of each column.
    fn attributes() -> Vec<Attribute>;
    /// Resolves the columns of a call with `rows` rows.
    ///
    /// # Errors
    /// A column is missing, of another type, or shorter.
    fn open(columns: &'a [Column], rows: usize) -> Result<Self::Reader, String>;
    /// Row `row`.
    ///
    /// # Errors
    /// A field that can't be null is.
    fn get(reader: &Self::Reader, row: usize) -> Result<Self, String>;
    /// Rows as columns, for tests.
    fn write(rows: &[Self]) -> Vec<Column>;
}

/// What a process gives: one kind of row by [`output!`](crate::output!), several by [`outputs!`](crate::outputs!), [`Pass`] for the row
/// that came in, or `()` for nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the output of a process",
    note = "declare the struct inside `kindling_guest::output! {{ ... }}`, or take `Pass` or `()`"
)]
pub trait Outputs: Sized {
    /// What rows are gathered in.
    type Gathered: Default;
    /// Name and columns of each output.
    fn describe() -> Vec<Output>;
    /// Appends a row of key `key`; `row` is the row of the call that it was given for, none for a timer.
    ///
    /// # Errors
    /// It passes a row on where there is none.
    fn gather(self, key: u32, row: Option<u32>, gathered: &mut Self::Gathered) -> Result<(), String>;
    /// The rows of each output.
    ///
    /// # Errors
    /// A value can't be written.
    fn write(gathered: Self::Gathered) -> Result<Vec<Rows>, String>;
}

/// The row that came in, with all its columns: an output that makes a process a filter that remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass;

impl Outputs for Pass {
    type Gathered = (Vec<u32>, Vec<u32>);
    fn describe() -> Vec<Output> {
        vec![Output { name: "results".into(), columns: Vec::new(), passes: true }]
    }
    fn gather(self, key: u32, row: Option<u32>, (keys, rows): &mut Self::Gathered) -> Result<(), String> {
        keys.push(key);
        rows.push(row.ok_or("a timer has no row to pass on")?);
        Ok(())
    }
    fn write((keys, rows): Self::Gathered) -> Result<Vec<Rows>, String> {
        Ok(vec![Rows { keys, rows, columns: Vec::new() }])
    }
}

impl Outputs for () {
    type Gathered = ();
    fn describe() -> Vec<Output> {
        Vec::new()
    }
    fn gather(self, _: u32, _: Option<u32>, (): &mut ()) -> Result<(), String> {
        Ok(())
    }
    fn write((): ()) -> Result<Vec<Rows>, String> {
        Ok(Vec::new())
    }
}

/// Rows of one output, of a struct that is declared by [`output!`](crate::output!).
pub struct Gather<T> {
    keys: Vec<u32>,
    rows: Vec<T>,
}

impl<T> Default for Gather<T> {
    fn default() -> Self {
        Self { keys: Vec::new(), rows: Vec::new() }
    }
}

impl<T: State> Gather<T> {
    /// Appends a row of a key.
    pub fn push(&mut self, key: u32, row: T) {
        self.keys.push(key);
        self.rows.push(row);
    }

    /// The columns.
    ///
    /// # Errors
    /// A value can't be written.
    pub fn write(self) -> Result<Rows, String> {
        Ok(Rows { keys: self.keys, rows: Vec::new(), columns: T::write(self.rows)? })
    }
}

/// Name and columns of the output of a struct.
pub fn describe<T: State>(name: &str) -> Output {
    let attribute = |field: crate::types::Field, nullable| Attribute { name: field.name, type_: field.type_, nullable };
    let columns = T::fields().into_iter().zip(T::nullable()).map(|(field, nullable)| attribute(field, nullable));
    Output { name: name.into(), columns: columns.collect(), passes: false }
}

/// Declares a struct as the rows that a process is given: a column a field, by its name.
///
/// Fields are `bool`, `i64`, `f64`, [`Timestamp`](crate::Timestamp), `&str`, `&[u8]`, or an `Option` of one of these. A row with a null in a
/// field that isn't an `Option` is refused.
///
/// ```
/// kindling_guest::row! {
///     /// A swipe.
///     struct Swipe<'a> { user_id: &'a str, other_id: &'a str, like: bool }
/// }
/// ```
#[macro_export]
macro_rules! row {
    ($(#[$meta:meta])* $vis:vis struct $name:ident $(<$life:lifetime>)? {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident : $type:ty),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        $vis struct $name $(<$life>)? { $($(#[$field_meta])* $field_vis $field: $type),+ }

        $crate::__row_impl!($name, [$($life)?], $($field: $type),+);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __row_impl {
    ($name:ident, [], $($field:ident : $type:ty),+) => {
        $crate::__row_impl!(@ $name, 'row, [], $($field: $type),+);
    };
    ($name:ident, [$life:lifetime], $($field:ident : $type:ty),+) => {
        $crate::__row_impl!(@ $name, $life, [<$life>], $($field: $type),+);
    };
    (@ $name:ident, $life:lifetime, [$($generics:tt)*], $($field:ident : $type:ty),+) => {
        impl<$life> $crate::keyed::Row<$life> for $name $($generics)* {
            type Reader = ($(($crate::keyed::Reader<$life, $type>, Option<$crate::read::Bits<$life>>),)+);
            fn attributes() -> Vec<$crate::keyed::Attribute> {
                vec![$($crate::keyed::attribute::<$type>(stringify!($field))),+]
            }
            fn open(columns: &$life [$crate::types::Column], rows: usize) -> Result<Self::Reader, String> {
                let mut columns = columns.iter();
                let opened = ($($crate::keyed::open::<$type>(stringify!($field), columns.next(), rows)?,)+);
                match columns.next() {
                    Some(_) => Err(concat!("more columns than `", stringify!($name), "` has fields").into()),
                    None => Ok(opened),
                }
            }
            #[inline(always)]
            fn get(reader: &Self::Reader, row: usize) -> Result<Self, String> {
                let ($($field,)+) = reader;
                Ok(Self { $($field: $crate::keyed::value::<$type>(stringify!($field), $field, row)?),+ })
            }
            fn write(rows: &[Self]) -> Vec<$crate::types::Column> {
                vec![$({
                    let mut column = $crate::write::ColumnBuilder::<$type>::with_capacity(rows.len());
                    rows.iter().for_each(|row| column.push(row.$field));
                    column.finish()
                }),+]
            }
        }
    };
}

/// The reader of a field of a row.
pub type Reader<'a, T> = <T as Arg>::Reader<'a>;

/// Name and type of a field.
pub fn attribute<T: Arg>(name: &str) -> Attribute {
    Attribute { name: name.into(), type_: T::TYPE, nullable: T::NULLABLE }
}

/// Resolves the column of a field; with what says which rows are null where the field can't be.
///
/// # Errors
/// It is missing, of another type, or shorter.
pub fn open<'a, T: Arg>(
    name: &str,
    column: Option<&'a Column>,
    rows: usize,
) -> Result<(Reader<'a, T>, Option<Bits<'a>>), String> {
    let column = column.ok_or_else(|| format!("the column of `{name}` is missing"))?;
    let required = if T::NULLABLE { None } else { validity(column) };
    Ok((T::open(column, rows).map_err(|e| format!("`{name}`: {e}"))?, required))
}

/// The value of a field.
///
/// # Errors
/// It is null and can't be.
#[inline(always)]
pub fn value<'a, T: Arg>(name: &str, (reader, required): &(Reader<'a, T>, Option<Bits<'a>>), row: usize) -> Result<T::Item<'a>, String> {
    match required {
        Some(bits) if !bits.at(row) => Err(format!("`{name}` is null")),
        _ => Ok(reader.get::<true>(row)),
    }
}

/// Declares a struct as the rows that a process gives; each field becomes a column. Of fields as [`state!`](crate::state!).
///
/// ```
/// kindling_guest::output! {
///     /// Two who like each other.
///     struct Match { swiper: String, swipee: String, at: kindling_guest::Timestamp }
/// }
/// ```
#[macro_export]
macro_rules! output {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)+ }) => {
        $crate::state! {
            $(#[$meta])*
            #[derive(Clone, Debug, Default, PartialEq)]
            $vis struct $name { $($fields)+ }
        }

        impl $crate::keyed::Outputs for $name {
            type Gathered = $crate::keyed::Gather<Self>;
            fn describe() -> Vec<$crate::keyed::Output> {
                vec![$crate::keyed::describe::<Self>("results")]
            }
            fn gather(self, key: u32, _: Option<u32>, gathered: &mut Self::Gathered) -> Result<(), String> {
                gathered.push(key, self);
                Ok(())
            }
            fn write(gathered: Self::Gathered) -> Result<Vec<$crate::keyed::Rows>, String> {
                Ok(vec![gathered.write()?])
            }
        }
    };
}

/// Declares the outputs of a process that has several: an enum of the structs that were declared by [`output!`](crate::output!), each with the
/// name that the pipeline calls it by.
///
/// ```
/// use kindling_guest::{output, outputs};
/// output! { struct Match { a: String, b: String } }
/// output! { struct Nope { by: String } }
/// outputs! { enum Out { Match as "matches", Nope as "nopes" } }
/// ```
#[macro_export]
macro_rules! outputs {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($kind:ident as $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        $vis enum $name { $(#[doc = concat!("A row of `", $label, "`.")] $kind($kind)),+ }

        $(impl From<$kind> for $name {
            fn from(row: $kind) -> Self {
                Self::$kind(row)
            }
        })+

        const _: () = {
            #[derive(Default)]
            #[allow(non_snake_case)]
            pub struct Gathered { $($kind: $crate::keyed::Gather<$kind>),+ }

            impl $crate::keyed::Outputs for $name {
                type Gathered = Gathered;
                fn describe() -> Vec<$crate::keyed::Output> {
                    vec![$($crate::keyed::describe::<$kind>($label)),+]
                }
                fn gather(self, key: u32, _: Option<u32>, gathered: &mut Gathered) -> Result<(), String> {
                    match self { $(Self::$kind(row) => gathered.$kind.push(key, row)),+ }
                    Ok(())
                }
                fn write(gathered: Gathered) -> Result<Vec<$crate::keyed::Rows>, String> {
                    Ok(vec![$(gathered.$kind.write()?),+])
                }
            }
        };
    };
}
