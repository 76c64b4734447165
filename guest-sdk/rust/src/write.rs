//! Values to columns: results, fields of states, and the rows of tests.

use crate::read::Timestamp;
use crate::text::InlineStr;
use crate::types::{Column, Datatype, Values, Varlen};

/// A type that a result or a field of a state can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the result of a plugin's function, nor a field of its state",
    note = "values are bool, i64, f64, Timestamp, String, Vec<u8>, InlineStr, or an Option of one of these"
)]
pub trait Value: Sized {
    /// Type of its column.
    const TYPE: Datatype;
    /// What its column is gathered in.
    type Buffer;
    /// A buffer for `rows` values.
    fn buffer(rows: usize) -> Self::Buffer;
    /// Appends the value, or a placeholder for null; whether there was a value.
    fn append(self, buffer: &mut Self::Buffer) -> bool;
    /// Appends a placeholder for null.
    fn append_null(buffer: &mut Self::Buffer);
    /// The values of the column.
    fn values(buffer: Self::Buffer) -> Values;
}

/// Gathers a bitmap, one bit a row, the least significant bit first.
#[derive(Default)]
pub struct BitmapBuilder {
    bytes: Vec<u8>,
    // The byte being filled is kept apart: a read-modify-write of memory for each bit would be a chain of eight.
    last: u8,
    bits: usize,
}

impl BitmapBuilder {
    /// An empty bitmap with room for `bits`.
    pub fn with_capacity(bits: usize) -> Self {
        Self { bytes: Vec::with_capacity(bits.div_ceil(8)), last: 0, bits: 0 }
    }

    /// Appends a bit.
    #[inline(always)]
    pub fn push(&mut self, bit: bool) {
        self.last |= u8::from(bit) << (self.bits & 7);
        self.bits += 1;
        if self.bits & 7 == 0 {
            self.bytes.push(self.last);
            self.last = 0;
        }
    }

    /// The bytes.
    pub fn finish(mut self) -> Vec<u8> {
        if self.bits & 7 != 0 {
            self.bytes.push(self.last);
        }
        self.bytes
    }
}

/// Gathers values of variable length.
pub struct VarlenBuilder {
    offsets: Vec<u32>,
    /// Bytes so far; append to them, then call [`VarlenBuilder::end`].
    pub data: Vec<u8>,
}

impl VarlenBuilder {
    /// No values, with room for `rows`.
    pub fn with_capacity(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { offsets, data: Vec::new() }
    }

    /// Appends a value.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.end();
    }

    /// Ends a value that was appended to `data`.
    #[inline]
    pub fn end(&mut self) {
        // A guest's memory ends before this could overflow.
        self.offsets.push(self.data.len() as u32);
    }

    /// Offsets and data.
    pub fn finish(self) -> Varlen {
        Varlen { offsets: self.offsets, data: self.data }
    }
}

/// Gathers a column.
pub struct ColumnBuilder<V: Value> {
    buffer: V::Buffer,
    rows: usize,
    // None until the first null: most columns never have one.
    validity: Option<BitmapBuilder>,
}

impl<V: Value> ColumnBuilder<V> {
    /// An empty column with room for `rows`.
    pub fn with_capacity(rows: usize) -> Self {
        Self { buffer: V::buffer(rows), rows: 0, validity: None }
    }

    /// Appends a value.
    #[inline(always)]
    pub fn push(&mut self, value: V) {
        let present = value.append(&mut self.buffer);
        self.mark(present);
    }

    /// Appends a null.
    #[inline(always)]
    pub fn push_null(&mut self) {
        V::append_null(&mut self.buffer);
        self.mark(false);
    }

    #[inline(always)]
    fn mark(&mut self, present: bool) {
        match &mut self.validity {
            Some(bits) => bits.push(present),
            None if present => {}
            None => self.first_null(),
        }
        self.rows += 1;
    }

    #[cold]
    fn first_null(&mut self) {
        let mut bits = BitmapBuilder::default();
        (0..self.rows).for_each(|_| bits.push(true));
        bits.push(false);
        self.validity = Some(bits);
    }

    /// The column.
    pub fn finish(self) -> Column {
        let validity = self.validity.map(BitmapBuilder::finish).unwrap_or_default();
        Column { values: V::values(self.buffer), validity, constant: false }
    }
}

macro_rules! number {
    ($type:ty, $datatype:ident, $buffer:ty, |$self:ident| $raw:expr) => {
        impl Value for $type {
            const TYPE: Datatype = Datatype::$datatype;
            type Buffer = Vec<$buffer>;
            fn buffer(rows: usize) -> Self::Buffer {
                Vec::with_capacity(rows)
            }
            #[inline(always)]
            fn append($self, buffer: &mut Self::Buffer) -> bool {
                buffer.push($raw);
                true
            }
            #[inline(always)]
            fn append_null(buffer: &mut Self::Buffer) {
                buffer.push(Default::default());
            }
            fn values(buffer: Self::Buffer) -> Values {
                Values::$datatype(buffer)
            }
        }
    };
}

number!(i64, Int64, i64, |self| self);
number!(f64, Float64, f64, |self| self);
number!(Timestamp, Timestamp, i64, |self| self.0);

impl Value for bool {
    const TYPE: Datatype = Datatype::Boolean;
    type Buffer = BitmapBuilder;
    fn buffer(rows: usize) -> BitmapBuilder {
        BitmapBuilder::with_capacity(rows)
    }
    #[inline(always)]
    fn append(self, buffer: &mut BitmapBuilder) -> bool {
        buffer.push(self);
        true
    }
    #[inline(always)]
    fn append_null(buffer: &mut BitmapBuilder) {
        buffer.push(false);
    }
    fn values(buffer: BitmapBuilder) -> Values {
        Values::Boolean(buffer.finish())
    }
}

macro_rules! variable {
    ([$($generics:tt)*] $type:ty, $datatype:ident, |$self:ident| $bytes:expr) => {
        impl<$($generics)*> Value for $type {
            const TYPE: Datatype = Datatype::$datatype;
            type Buffer = VarlenBuilder;
            fn buffer(rows: usize) -> VarlenBuilder {
                VarlenBuilder::with_capacity(rows)
            }
            #[inline]
            fn append($self, buffer: &mut VarlenBuilder) -> bool {
                buffer.push($bytes);
                true
            }
            fn append_null(buffer: &mut VarlenBuilder) {
                buffer.end();
            }
            fn values(buffer: VarlenBuilder) -> Values {
                Values::$datatype(buffer.finish())
            }
        }
    };
}

variable!([] String, Utf8, |self| self.as_bytes());
variable!(['a] &'a str, Utf8, |self| self.as_bytes());
variable!([const N: usize] InlineStr<N>, Utf8, |self| self.as_str().as_bytes());
variable!([] Vec<u8>, Binary, |self| &self);
variable!(['a] &'a [u8], Binary, |self| self);

impl<V: Value> Value for Option<V> {
    const TYPE: Datatype = V::TYPE;
    type Buffer = V::Buffer;
    fn buffer(rows: usize) -> V::Buffer {
        V::buffer(rows)
    }
    #[inline(always)]
    fn append(self, buffer: &mut V::Buffer) -> bool {
        match self {
            Some(value) => value.append(buffer),
            None => {
                V::append_null(buffer);
                false
            }
        }
    }
    fn append_null(buffer: &mut V::Buffer) {
        V::append_null(buffer);
    }
    fn values(buffer: V::Buffer) -> Values {
        V::values(buffer)
    }
}

/// What a scalar function and `finish` may return: a value, or a `Result` of one.
#[diagnostic::on_unimplemented(
    message = "a plugin's function can't return `{Self}`",
    note = "return bool, i64, f64, Timestamp, String, Vec<u8>, InlineStr, an Option of one of these, or a Result of any of them"
)]
pub trait Returned {
    /// The value.
    type Value: Value;
    /// The value, or why the row is refused.
    ///
    /// # Errors
    /// The function refuses the row.
    fn returned(self) -> Result<Self::Value, String>;
}

/// What `update` and `merge` may return: nothing, or a `Result` of nothing.
#[diagnostic::on_unimplemented(
    message = "`update` and `merge` can't return `{Self}`",
    note = "return nothing, or `Result<(), E>` where `E` can be displayed"
)]
pub trait Done {
    /// Nothing, or why the row is refused.
    ///
    /// # Errors
    /// The function refuses the row.
    fn done(self) -> Result<(), String>;
}

impl Done for () {
    #[inline(always)]
    fn done(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: std::fmt::Display> Done for Result<(), E> {
    #[inline(always)]
    fn done(self) -> Result<(), String> {
        self.map_err(|e| e.to_string())
    }
}

macro_rules! returned {
    ($([$($generics:tt)*] $type:ty),* $(,)?) => { $(
        impl<$($generics)*> Returned for $type {
            type Value = Self;
            #[inline(always)]
            fn returned(self) -> Result<Self, String> {
                Ok(self)
            }
        }
    )* };
}

returned!([] bool, [] i64, [] f64, [] Timestamp, [] String, [] &'static str, [] Vec<u8>, [const N: usize] InlineStr<N>, [V: Value] Option<V>);

impl<V: Value, E: std::fmt::Display> Returned for Result<V, E> {
    type Value = V;
    #[inline(always)]
    fn returned(self) -> Result<V, String> {
        self.map_err(|e| e.to_string())
    }
}
