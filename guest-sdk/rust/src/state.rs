//! How the partial states of an aggregate travel: as a column a field, or as MessagePack in one column.

use crate::read::{Arg, Bits, Timestamp};
use crate::types::{self, Column};
use crate::write::{BitmapBuilder, ColumnBuilder, Value};

/// The state of an aggregate: implemented by [`state!`](crate::state!) and [`msgpack_state!`](crate::msgpack_state!).
///
/// `Default` is the state of no rows: merging it into a state changes nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a state yet",
    note = "declare the struct inside `kindling_guest::state! {{ ... }}`, or name it in `kindling_guest::msgpack_state!`"
)]
pub trait State: Default {
    /// The columns of a call, resolved.
    type Rows<'a>;
    /// Name, type and layout of each column.
    fn fields() -> Vec<types::Field>;
    /// Which of them may be null.
    fn nullable() -> Vec<bool>;
    /// Resolves the columns of a call with `rows` states.
    ///
    /// # Errors
    /// A column is missing, of another type, shorter, or null where it can't be.
    fn open(columns: &[Column], rows: usize) -> Result<Self::Rows<'_>, String>;
    /// The state of `row`.
    ///
    /// # Errors
    /// Its bytes don't read back.
    fn get(rows: &Self::Rows<'_>, row: usize) -> Result<Self, String>;
    /// A column a field, a place for each state.
    ///
    /// # Errors
    /// A state can't be written.
    fn write(states: Vec<Self>) -> Result<Vec<Column>, String>;
}

/// A type that a field of a [`state!`](crate::state!) can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a field of a `state!`",
    note = "fields are bool, i64, f64, Timestamp, String, Vec<u8>, or an Option of one of these; `msgpack_state!` takes anything that serde can write"
)]
pub trait Field: Value {
    /// What it is read as.
    type Read: Arg;
    /// Owns what was read.
    fn own(item: <Self::Read as Arg>::Item<'_>) -> Self;
    /// The column of a field of all states.
    fn gather<S>(states: &[S], field: impl Fn(&S) -> &Self) -> Column;
}

/// A column with nulls where `value` gives None.
fn nullable<'s, S, V: Value>(states: &'s [S], value: impl Fn(&'s S) -> Option<V>) -> Column {
    let mut column = ColumnBuilder::<Option<V>>::with_capacity(states.len());
    states.iter().for_each(|state| column.push(value(state)));
    column.finish()
}

fn whole(values: types::Values) -> Column {
    Column { values, validity: Vec::new(), constant: false }
}

macro_rules! field {
    ($type:ty, $read:ty, |$item:ident| $own:expr, |$states:ident, $field:ident| $gather:expr) => {
        impl Field for $type {
            type Read = $read;
            #[inline(always)]
            fn own($item: <$read as Arg>::Item<'_>) -> Self {
                $own
            }
            fn gather<S>($states: &[S], $field: impl Fn(&S) -> &Self) -> Column {
                $gather
            }
        }
    };
}

macro_rules! plain_field {
    ($type:ty, $datatype:ident, |$value:ident| $raw:expr) => {
        // Collecting from an iterator of known length is a loop without checks; pushing is not.
        field!($type, $type, |item| item, |states, field| {
            let raw = |$value: $type| $raw;
            whole(types::Values::$datatype(states.iter().map(|state| raw(*field(state))).collect()))
        });
        field!(Option<$type>, Option<$type>, |item| item, |states, field| nullable(states, |state| *field(state)));
    };
}

macro_rules! owned_field {
    ($type:ty, $borrowed:ty) => {
        field!($type, &'static $borrowed, |item| item.into(), |states, field| {
            let mut column = ColumnBuilder::<&$borrowed>::with_capacity(states.len());
            states.iter().for_each(|state| column.push(field(state)));
            column.finish()
        });
        field!(Option<$type>, Option<&'static $borrowed>, |item| item.map(Into::into), |states, field| {
            nullable(states, |state| field(state).as_deref())
        });
    };
}

plain_field!(i64, Int64, |value| value);
plain_field!(f64, Float64, |value| value);
plain_field!(Timestamp, Timestamp, |value| value.0);
owned_field!(String, str);
owned_field!(Vec<u8>, [u8]);
field!(bool, bool, |item| item, |states, field| {
    let mut bits = BitmapBuilder::with_capacity(states.len());
    states.iter().for_each(|state| bits.push(*field(state)));
    whole(types::Values::Boolean(bits.finish()))
});
field!(Option<bool>, Option<bool>, |item| item, |states, field| nullable(states, |state| *field(state)));

/// The reader of a field.
pub type FieldReader<'a, F> = <<F as Field>::Read as Arg>::Reader<'a>;

/// Whether a field may be null.
pub fn is_nullable<F: Field>() -> bool {
    F::Read::NULLABLE
}

/// Resolves the column of a field.
///
/// # Errors
/// The column is of another type, shorter, or null where it can't be.
pub fn open_field<'a, F: Field>(name: &str, column: &'a Column, rows: usize) -> Result<FieldReader<'a, F>, String> {
    if !F::Read::NULLABLE && !column.validity.is_empty() {
        let valid = Bits::new(&column.validity, column.constant);
        if let Some(row) = (0..rows).find(|row| !valid.at(*row)) {
            return Err(format!("state field `{name}`: null in row {row}"));
        }
    }
    F::Read::open(column, rows).map_err(|e| format!("state field `{name}`: {e}"))
}

/// Declares a struct of scalars as the state of an aggregate; each field travels as a column.
///
/// Fields are `bool`, `i64`, `f64`, [`Timestamp`], `String`, `Vec<u8>`, or an `Option` of one of these. Bytes with a format of their
/// own say which: `registers: Vec<u8> as "hll:p12:1"`; change that text when the format changes, and Kindling will not hand an
/// old version's states to the new one.
///
/// ```
/// kindling_guest::state! {
///     /// The latest value.
///     #[derive(Default)]
///     pub struct Latest { at: Option<kindling_guest::Timestamp>, value: f64 }
/// }
/// ```
#[macro_export]
macro_rules! state {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident : $type:ty $(as $layout:literal)?),+ $(,)?
    }) => {
        $(#[$meta])*
        $vis struct $name { $($(#[$field_meta])* $field_vis $field: $type),+ }

        impl $crate::state::State for $name {
            type Rows<'a> = ($($crate::state::FieldReader<'a, $type>,)+);
            fn fields() -> Vec<$crate::types::Field> {
                vec![$($crate::types::Field {
                    name: stringify!($field).into(),
                    type_: <$type as $crate::write::Value>::TYPE,
                    layout: concat!($($layout)?).into(),
                }),+]
            }
            fn nullable() -> Vec<bool> {
                vec![$($crate::state::is_nullable::<$type>()),+]
            }
            fn open(columns: &[$crate::types::Column], rows: usize) -> Result<Self::Rows<'_>, String> {
                let mut columns = columns.iter();
                let opened = ($($crate::state::open_field::<$type>(
                    stringify!($field),
                    columns.next().ok_or(concat!("state field `", stringify!($field), "` is missing"))?,
                    rows,
                )?,)+);
                if columns.next().is_some() {
                    return Err(concat!("more columns than `", stringify!($name), "` has fields").into());
                }
                Ok(opened)
            }
            #[inline(always)]
            fn get(rows: &Self::Rows<'_>, row: usize) -> Result<Self, String> {
                let ($($field,)+) = rows;
                Ok(Self { $($field: <$type as $crate::state::Field>::own($crate::read::Read::get::<true>($field, row))),+ })
            }
            fn write(states: Vec<Self>) -> Result<Vec<$crate::types::Column>, String> {
                Ok(vec![$(<$type as $crate::state::Field>::gather(&states, |state| &state.$field)),+])
            }
        }
    };
}

/// Makes a type that serde can write and read the state of an aggregate; it travels as MessagePack in one binary column.
///
/// The number is the version of its layout: change it when the type changes so that old bytes don't read back as what they were, and
/// Kindling will not hand an old version's states to the new one.
///
/// ```
/// #[derive(Default, serde::Serialize, serde::Deserialize)]
/// struct Names(std::collections::BTreeMap<String, u64>);
///
/// kindling_guest::msgpack_state!(Names, 1);
/// ```
#[cfg(feature = "msgpack")]
#[macro_export]
macro_rules! msgpack_state {
    ($name:ident, $version:literal) => {
        impl $crate::state::State for $name {
            type Rows<'a> = $crate::state::FieldReader<'a, Vec<u8>>;
            fn fields() -> Vec<$crate::types::Field> {
                let layout = concat!("msgpack:", stringify!($name), ":", $version).into();
                vec![$crate::types::Field { name: "state".into(), type_: $crate::types::Datatype::Binary, layout }]
            }
            fn nullable() -> Vec<bool> {
                vec![false]
            }
            fn open(columns: &[$crate::types::Column], rows: usize) -> Result<Self::Rows<'_>, String> {
                match columns {
                    [column] => $crate::state::open_field::<Vec<u8>>("state", column, rows),
                    _ => Err(format!("{} columns of state instead of 1", columns.len())),
                }
            }
            fn get(rows: &Self::Rows<'_>, row: usize) -> Result<Self, String> {
                $crate::state::from_msgpack($crate::read::Read::get::<true>(rows, row))
            }
            fn write(states: Vec<Self>) -> Result<Vec<$crate::types::Column>, String> {
                $crate::state::to_msgpack(&states)
            }
        }
    };
}

/// Reads a state back.
///
/// # Errors
/// The bytes are no such state.
#[cfg(feature = "msgpack")]
pub fn from_msgpack<S: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<S, String> {
    rmp_serde::from_slice(bytes).map_err(|e| format!("the state does not read back: {e}"))
}

/// One binary column of states.
///
/// # Errors
/// A state can't be written.
#[cfg(feature = "msgpack")]
pub fn to_msgpack<S: serde::Serialize>(states: &[S]) -> Result<Vec<Column>, String> {
    let mut written = crate::write::VarlenBuilder::with_capacity(states.len());
    for state in states {
        rmp_serde::encode::write(&mut written.data, state).map_err(|e| format!("the state can't be written: {e}"))?;
        written.end();
    }
    Ok(vec![Column { values: types::Values::Binary(written.finish()), validity: Vec::new(), constant: false }])
}
