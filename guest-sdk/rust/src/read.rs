//! Columns to values: what a function's arguments and a state's fields are read through.
//!
//! In: columns as the host sent them. Out: a borrowed value a row. The type of a column is resolved once a call; what remains for a
//! row is a load. A constant column has one value, which `row & mask` finds with a mask of 0, without a branch.
//!
//! Invariant: whatever the columns hold, nothing here panics or reads outside of them.
//!
//! `unsafe` is `str::from_utf8_unchecked`, in one place. The host checks text before it becomes a column, as Arrow demands, and its
//! offsets lie between characters; checking again would cost more than the rest of a filter. Inside WebAssembly a host that broke
//! this could only confuse the guest that it runs itself. Natively (tests) the text of a column is checked when it is opened.
#![allow(unsafe_code)]

use crate::types::{Column, Datatype, Values};

/// Milliseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "msgpack", derive(serde::Serialize, serde::Deserialize))]
pub struct Timestamp(pub i64);

/// Reads the values of one column.
pub trait Read: Copy {
    /// A value.
    type Item;
    /// The value of `row`. Without `NULLS` the column is known to have no nulls.
    fn get<const NULLS: bool>(&self, row: usize) -> Self::Item;
}

/// A type that an argument of a function can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be an argument of a plugin's function",
    note = "arguments are bool, i64, f64, Timestamp, &str, &[u8], or an Option of one of these"
)]
pub trait Arg {
    /// Type of its column.
    const TYPE: Datatype;
    /// Whether nulls reach the function.
    const NULLABLE: bool;
    /// What the function is given.
    type Item<'a>;
    /// What reads it.
    type Reader<'a>: Read<Item = Self::Item<'a>>;
    /// Resolves a column of `rows` rows.
    ///
    /// # Errors
    /// The column is of another type, or shorter.
    fn open(column: &Column, rows: usize) -> Result<Self::Reader<'_>, String>;
}

/// Bitmap, one bit a row, the least significant bit first.
#[derive(Clone, Copy)]
pub struct Bits<'a> {
    bytes: &'a [u8],
    mask: usize,
}

impl<'a> Bits<'a> {
    /// A bitmap of rows, or of one value for all of them.
    pub fn new(bytes: &'a [u8], constant: bool) -> Self {
        Self { bytes, mask: mask(constant) }
    }

    /// Bit `row`; false past the end.
    #[inline(always)]
    pub fn at(&self, row: usize) -> bool {
        let row = row & self.mask;
        self.bytes.get(row >> 3).is_some_and(|byte| byte >> (row & 7) & 1 == 1)
    }
}

/// Numbers.
#[derive(Clone, Copy)]
pub struct Numbers<'a, T> {
    values: &'a [T],
    mask: usize,
}

/// Timestamps.
#[derive(Clone, Copy)]
pub struct Times<'a>(Numbers<'a, i64>);

/// Byte strings.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    offsets: &'a [u32],
    data: &'a [u8],
    mask: usize,
}

/// Texts.
#[derive(Clone, Copy)]
pub struct Texts<'a>(Bytes<'a>);

/// Values or nulls.
#[derive(Clone, Copy)]
pub struct Nullable<'a, R> {
    values: R,
    validity: Option<Bits<'a>>,
}

impl Read for Bits<'_> {
    type Item = bool;
    #[inline(always)]
    fn get<const NULLS: bool>(&self, row: usize) -> bool {
        self.at(row)
    }
}

impl<T: Copy + Default> Read for Numbers<'_, T> {
    type Item = T;
    #[inline(always)]
    fn get<const NULLS: bool>(&self, row: usize) -> T {
        self.values.get(row & self.mask).copied().unwrap_or_default()
    }
}

impl Read for Times<'_> {
    type Item = Timestamp;
    #[inline(always)]
    fn get<const NULLS: bool>(&self, row: usize) -> Timestamp {
        Timestamp(self.0.get::<NULLS>(row))
    }
}

impl<'a> Read for Bytes<'a> {
    type Item = &'a [u8];
    #[inline(always)]
    fn get<const NULLS: bool>(&self, row: usize) -> &'a [u8] {
        let row = row & self.mask;
        match self.offsets.get(row..row.wrapping_add(2)) {
            Some(&[start, end]) => self.data.get(start as usize..end as usize).unwrap_or_default(),
            _ => &[],
        }
    }
}

impl<'a> Read for Texts<'a> {
    type Item = &'a str;
    #[inline(always)]
    fn get<const NULLS: bool>(&self, row: usize) -> &'a str {
        // SAFETY: the column was valid UTF-8 with offsets between characters (see the top of this file), and a place that
        // can't be read gives the empty slice.
        unsafe { std::str::from_utf8_unchecked(self.0.get::<NULLS>(row)) }
    }
}

impl<R: Read> Read for Nullable<'_, R> {
    type Item = Option<R::Item>;
    #[inline(always)]
    fn get<const NULLS: bool>(&self, row: usize) -> Option<R::Item> {
        let null = NULLS && self.validity.is_some_and(|bits| !bits.at(row));
        if null { None } else { Some(self.values.get::<NULLS>(row)) }
    }
}

/// The validity of a column, if it has nulls.
pub fn validity(column: &Column) -> Option<Bits<'_>> {
    (!column.validity.is_empty()).then(|| Bits::new(&column.validity, column.constant))
}

fn mask(constant: bool) -> usize {
    if constant { 0 } else { usize::MAX }
}

/// Whether `places` suffice for a column of `rows` rows.
fn long_enough(column: &Column, places: usize, rows: usize) -> Result<(), String> {
    let needed = if column.constant { rows.min(1) } else { rows };
    if places < needed {
        return Err(format!("a column has {places} values, but {needed} are needed"));
    }
    Ok(())
}

fn numbers<'a, T>(column: &Column, values: &'a [T], rows: usize) -> Result<Numbers<'a, T>, String> {
    long_enough(column, values.len(), rows)?;
    Ok(Numbers { values, mask: mask(column.constant) })
}

fn bytes<'a>(column: &'a Column, offsets: &'a [u32], data: &'a [u8], rows: usize) -> Result<Bytes<'a>, String> {
    long_enough(column, offsets.len().saturating_sub(1), rows)?;
    Ok(Bytes { offsets, data, mask: mask(column.constant) })
}

fn texts(bytes: Bytes<'_>) -> Result<Texts<'_>, String> {
    #[cfg(not(target_arch = "wasm32"))]
    for row in 0..bytes.offsets.len().saturating_sub(1) {
        let text = Bytes { mask: usize::MAX, ..bytes }.get::<false>(row);
        std::str::from_utf8(text).map_err(|e| format!("text of row {row}: {e}"))?;
    }
    Ok(Texts(bytes))
}

fn mismatch<T>(expected: &str, column: &Column) -> Result<T, String> {
    let found = match column.values {
        Values::Boolean(_) => "boolean",
        Values::Int64(_) => "int64",
        Values::Float64(_) => "float64",
        Values::Timestamp(_) => "timestamp",
        Values::Utf8(_) => "utf8",
        Values::Binary(_) => "binary",
    };
    Err(format!("a column is {found}, but {expected} is needed"))
}

macro_rules! argument {
    ($type:ty, $datatype:ident, $expected:literal, $item:ty, $reader:ty, |$column:ident, $values:ident, $rows:ident| $open:expr) => {
        impl Arg for $type {
            const TYPE: Datatype = Datatype::$datatype;
            const NULLABLE: bool = false;
            type Item<'a> = $item;
            type Reader<'a> = $reader;
            fn open($column: &Column, $rows: usize) -> Result<Self::Reader<'_>, String> {
                match &$column.values {
                    Values::$datatype($values) => $open,
                    _ => mismatch($expected, $column),
                }
            }
        }

        impl Arg for Option<$type> {
            const TYPE: Datatype = Datatype::$datatype;
            const NULLABLE: bool = true;
            type Item<'a> = Option<$item>;
            type Reader<'a> = Nullable<'a, $reader>;
            fn open(column: &Column, rows: usize) -> Result<Self::Reader<'_>, String> {
                Ok(Nullable { values: <$type as Arg>::open(column, rows)?, validity: validity(column) })
            }
        }
    };
}

argument!(bool, Boolean, "boolean", bool, Bits<'a>, |column, values, rows| {
    long_enough(column, values.len().saturating_mul(8), rows)?;
    Ok(Bits::new(values, column.constant))
});
argument!(i64, Int64, "int64", i64, Numbers<'a, i64>, |column, values, rows| numbers(column, values, rows));
argument!(f64, Float64, "float64", f64, Numbers<'a, f64>, |column, values, rows| numbers(column, values, rows));
argument!(Timestamp, Timestamp, "timestamp", Timestamp, Times<'a>, |column, values, rows| numbers(column, values, rows)
    .map(Times));
argument!(&str, Utf8, "utf8", &'a str, Texts<'a>, |column, values, rows| {
    bytes(column, &values.offsets, &values.data, rows).and_then(texts)
});
argument!(&[u8], Binary, "binary", &'a [u8], Bytes<'a>, |column, values, rows| bytes(
    column,
    &values.offsets,
    &values.data,
    rows
));
