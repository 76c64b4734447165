//! Rows of columns to bytes and back: the format of keys and states in the table, the changelog and the local tree.
//!
//! In: Arrow columns. Out: one byte string a row. A value is a tag (0 null, 1 a value), then by its type: little-endian bytes where the
//! width is fixed; for text and bytes a 32-bit little-endian length and the bytes; for lists and maps a 32-bit count and each item
//! as a value; for structs each field as a value. A dictionary's value is written as it is.
//!
//! **Invariant**: the format is stable: it is stored in topics that outlive any version of this program. Equal values have equal
//! bytes, so encoded keys compare as keys.

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BinaryBuilder, BooleanArray, BooleanBufferBuilder, BooleanBuilder, ListArray, MapArray,
    NullArray, StringBuilder, StructArray, make_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef};
use std::sync::Arc;

/// Bytes that do not read back as the columns that they should be.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes end early, or have a tag or length that can't be.
    #[error("stored {what} is corrupt: {why}")]
    Corrupt {
        /// Key or state.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A type that has no format.
    #[error("values of type {0} can't be stored; cast them to another type")]
    Unsupported(DataType),
    /// Arrow could not build or read the column.
    #[error("{0}")]
    Arrow(#[from] arrow::error::ArrowError),
}

pub(crate) const NULL: u8 = 0;
const VALUE: u8 = 1;

/// How values of one column are laid out.
#[derive(Clone, Debug)]
enum Layout<'a> {
    Null,
    Boolean,
    Fixed(usize),
    Text,
    Bytes,
    /// Items of this field; maps are lists of their entries.
    List(&'a FieldRef),
    Struct(&'a [FieldRef]),
    /// As values of this type.
    Dictionary(&'a DataType),
    Unsupported,
}

fn layout(data_type: &DataType) -> Layout<'_> {
    match data_type {
        DataType::Null => Layout::Null,
        DataType::Boolean => Layout::Boolean,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Layout::Text,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Layout::Bytes,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) | DataType::Map(item, _) => {
            Layout::List(item)
        }
        DataType::Struct(fields) => Layout::Struct(fields),
        DataType::Dictionary(_, values) => Layout::Dictionary(values),
        t => t.primitive_width().map_or(Layout::Unsupported, Layout::Fixed),
    }
}

/// Encodes and decodes rows of the same columns.
#[derive(Clone, Debug)]
pub struct RowCodec {
    what: &'static str,
    types: Vec<DataType>,
}

impl RowCodec {
    /// A codec of columns with these types; `what` names the rows in errors.
    pub fn new(what: &'static str, types: Vec<DataType>) -> Self {
        Self { what, types }
    }

    /// Types of the columns.
    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    /// Encodes all rows of `columns`: calls `each` with the row's number and its bytes.
    ///
    /// # Errors
    /// [`CodecError::Unsupported`] for unions and the like.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize, mut each: impl FnMut(usize, &[u8])) -> Result<(), CodecError> {
        let readers = columns.iter().map(ColumnReader::new).collect::<Result<Vec<_>, _>>()?;
        let mut buffer = Vec::with_capacity(64);
        for row in 0..rows {
            buffer.clear();
            for reader in &readers {
                reader.append(row, &mut buffer);
            }
            each(row, &buffer);
        }
        Ok(())
    }

    /// Decodes rows into one array a column.
    ///
    /// # Errors
    /// [`CodecError::Corrupt`] when bytes are left over, missing, or not of the column's type.
    pub fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, CodecError> {
        let mut builders: Vec<ColumnBuilder> = self.types.iter().map(ColumnBuilder::new).collect::<Result<_, _>>()?;
        for mut row in rows {
            for builder in &mut builders {
                builder.take(&mut row).map_err(|why| CodecError::Corrupt { what: self.what, why })?;
            }
            if !row.is_empty() {
                return Err(CodecError::Corrupt { what: self.what, why: format!("{} bytes are left over", row.len()) });
            }
        }
        builders.into_iter().map(ColumnBuilder::finish).collect()
    }
}

/// Reads one column's values as bytes.
struct ColumnReader {
    nulls: Option<NullBuffer>,
    kind: ReaderKind,
}

enum ReaderKind {
    Null,
    Boolean(BooleanArray),
    Fixed { bytes: Buffer, width: usize, offset: usize },
    Bytes(arrow::array::BinaryArray),
    List { offsets: OffsetBuffer<i32>, items: Box<ColumnReader> },
    Struct(Vec<ColumnReader>),
}

impl ColumnReader {
    fn new(array: &ArrayRef) -> Result<Self, CodecError> {
        let kind = match layout(array.data_type()) {
            Layout::Null => ReaderKind::Null,
            Layout::Boolean => ReaderKind::Boolean(array.as_boolean().clone()),
            Layout::Fixed(width) => {
                let data = array.to_data();
                ReaderKind::Fixed { bytes: data.buffers()[0].clone(), width, offset: data.offset() }
            }
            Layout::Text | Layout::Bytes => ReaderKind::Bytes(cast(array, &DataType::Binary)?.as_binary::<i32>().clone()),
            Layout::List(item) => {
                let (offsets, items): (_, ArrayRef) = match array.as_map_opt() {
                    Some(map) => (map.offsets().clone(), Arc::new(map.entries().clone())),
                    None => {
                        let lists = cast(array, &DataType::List(Arc::clone(item)))?;
                        (lists.as_list::<i32>().offsets().clone(), Arc::clone(lists.as_list::<i32>().values()))
                    }
                };
                ReaderKind::List { offsets, items: Box::new(Self::new(&items)?) }
            }
            Layout::Struct(_) => ReaderKind::Struct(array.as_struct().columns().iter().map(Self::new).collect::<Result<_, _>>()?),
            Layout::Dictionary(values) => return Self::new(&cast(array, values)?),
            Layout::Unsupported => return Err(CodecError::Unsupported(array.data_type().clone())),
        };
        Ok(Self { nulls: array.logical_nulls(), kind })
    }

    fn append(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return out.push(NULL);
        }
        out.push(VALUE);
        match &self.kind {
            ReaderKind::Null => {}
            ReaderKind::Boolean(a) => out.push(u8::from(a.value(row))),
            ReaderKind::Fixed { bytes, width, offset } => {
                let at = (offset + row) * width;
                out.extend_from_slice(&bytes[at..at + width]);
            }
            ReaderKind::Bytes(a) => {
                append_length(a.value(row).len(), out);
                out.extend_from_slice(a.value(row));
            }
            ReaderKind::List { offsets, items } => {
                // Offsets of Arrow are not negative and do not fall.
                let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
                append_length(to - from, out);
                (from..to).for_each(|i| items.append(i, out));
            }
            ReaderKind::Struct(fields) => fields.iter().for_each(|f| f.append(row, out)),
        }
    }
}

fn append_length(length: usize, out: &mut Vec<u8>) {
    // A record of Kafka is far below 4 GiB; lengths beyond it cannot be committed in any case.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// Builds one column from bytes.
struct ColumnBuilder {
    data_type: DataType,
    kind: BuilderKind,
}

enum BuilderKind {
    Null(usize),
    Boolean(BooleanBuilder),
    Fixed { data_type: DataType, width: usize, bytes: Vec<u8>, valid: BooleanBufferBuilder },
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    List { item: FieldRef, offsets: Vec<i32>, valid: BooleanBufferBuilder, items: Box<ColumnBuilder> },
    Struct { fields: Vec<FieldRef>, valid: BooleanBufferBuilder, columns: Vec<ColumnBuilder> },
}

impl ColumnBuilder {
    fn new(data_type: &DataType) -> Result<Self, CodecError> {
        let valid = BooleanBufferBuilder::new(0);
        let kind = match layout(data_type) {
            Layout::Null => BuilderKind::Null(0),
            Layout::Boolean => BuilderKind::Boolean(BooleanBuilder::new()),
            Layout::Fixed(width) => BuilderKind::Fixed { data_type: data_type.clone(), width, bytes: Vec::new(), valid },
            Layout::Text => BuilderKind::Text(StringBuilder::new()),
            Layout::Bytes => BuilderKind::Bytes(BinaryBuilder::new()),
            Layout::List(item) => {
                let items = Box::new(Self::new(item.data_type())?);
                BuilderKind::List { item: Arc::clone(item), offsets: vec![0], valid, items }
            }
            Layout::Struct(fields) => {
                let columns = fields.iter().map(|f| Self::new(f.data_type())).collect::<Result<_, _>>()?;
                BuilderKind::Struct { fields: fields.to_vec(), valid, columns }
            }
            Layout::Dictionary(values) => Self::new(values)?.kind,
            Layout::Unsupported => return Err(CodecError::Unsupported(data_type.clone())),
        };
        Ok(Self { data_type: data_type.clone(), kind })
    }

    /// Takes one value off the front of `row`.
    fn take(&mut self, row: &mut &[u8]) -> Result<(), String> {
        match split(row, 1)?[0] {
            NULL => self.append_null(),
            VALUE => self.take_value(row)?,
            tag => return Err(format!("tag {tag} can't stand before a value of type {}", self.data_type)),
        }
        Ok(())
    }

    fn append_null(&mut self) {
        match &mut self.kind {
            BuilderKind::Null(n) => *n += 1,
            BuilderKind::Boolean(b) => b.append_null(),
            BuilderKind::Fixed { width, bytes, valid, .. } => {
                bytes.resize(bytes.len() + *width, 0);
                valid.append(false);
            }
            BuilderKind::Text(b) => b.append_null(),
            BuilderKind::Bytes(b) => b.append_null(),
            BuilderKind::List { offsets, valid, .. } => {
                offsets.push(offsets.last().copied().unwrap_or(0));
                valid.append(false);
            }
            BuilderKind::Struct { valid, columns, .. } => {
                columns.iter_mut().for_each(Self::append_null);
                valid.append(false);
            }
        }
    }

    fn take_value(&mut self, row: &mut &[u8]) -> Result<(), String> {
        match &mut self.kind {
            BuilderKind::Null(_) => return Err("a value stands where there can be none".into()),
            BuilderKind::Boolean(b) => b.append_value(split(row, 1)?[0] != 0),
            BuilderKind::Fixed { width, bytes, valid, .. } => {
                bytes.extend_from_slice(split(row, *width)?);
                valid.append(true);
            }
            BuilderKind::Text(b) => {
                let text = std::str::from_utf8(with_length(row)?).map_err(|e| e.to_string())?;
                b.append_value(fits(text, b.values_slice().len() + text.len())?);
            }
            BuilderKind::Bytes(b) => {
                let bytes = with_length(row)?;
                b.append_value(fits(bytes, b.values_slice().len() + bytes.len())?);
            }
            BuilderKind::List { offsets, valid, items, .. } => {
                // Each item is a byte at least, so a false count ends with the row.
                let count = length(row)?;
                (0..count).try_for_each(|_| items.take(row))?;
                let end = offsets.last().map_or(0, |end| i64::from(*end)) + i64::from(count);
                offsets.push(i32::try_from(end).map_err(|_| TOO_MUCH.to_owned())?);
                valid.append(true);
            }
            BuilderKind::Struct { valid, columns, .. } => {
                columns.iter_mut().try_for_each(|c| c.take(row))?;
                valid.append(true);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<ArrayRef, CodecError> {
        let nulls = |mut valid: BooleanBufferBuilder| Some(NullBuffer::new(valid.finish()));
        let plain: ArrayRef = match self.kind {
            BuilderKind::Null(n) => Arc::new(NullArray::new(n)),
            BuilderKind::Boolean(mut b) => Arc::new(b.finish()),
            BuilderKind::Text(mut b) => Arc::new(b.finish()),
            BuilderKind::Bytes(mut b) => Arc::new(b.finish()),
            BuilderKind::Fixed { data_type, bytes, mut valid, .. } => {
                let data = ArrayData::builder(data_type)
                    .len(valid.len())
                    // `align_buffers` copies where the bytes are not aligned for the type.
                    .align_buffers(true)
                    .add_buffer(Buffer::from_vec(bytes))
                    .null_bit_buffer(Some(valid.finish().into_inner()))
                    .build()?;
                make_array(data)
            }
            BuilderKind::List { item, offsets, valid, items } => {
                let (offsets, items) = (OffsetBuffer::new(ScalarBuffer::from(offsets)), items.finish()?);
                match &self.data_type {
                    DataType::Map(entries, sorted) => {
                        let items = items.as_struct().clone();
                        Arc::new(MapArray::try_new(Arc::clone(entries), offsets, items, nulls(valid), *sorted)?)
                    }
                    _ => Arc::new(ListArray::try_new(item, offsets, items, nulls(valid))?),
                }
            }
            BuilderKind::Struct { fields, valid, columns } => {
                let length = valid.len();
                let columns = columns.into_iter().map(Self::finish).collect::<Result<_, _>>()?;
                Arc::new(StructArray::try_new_with_length(fields.into(), columns, nulls(valid), length)?)
            }
        };
        Ok(if plain.data_type() == &self.data_type { plain } else { cast(&plain, &self.data_type)? })
    }
}

const TOO_MUCH: &str = "it is more than 2 GiB with its neighbours";

/// `value`, where a column that ends at `end` bytes can be.
fn fits<T>(value: T, end: usize) -> Result<T, String> {
    if i32::try_from(end).is_ok() { Ok(value) } else { Err(TOO_MUCH.into()) }
}

fn split<'a>(row: &mut &'a [u8], n: usize) -> Result<&'a [u8], String> {
    let (head, tail) = row.split_at_checked(n).ok_or_else(|| format!("{n} bytes were expected, {} are there", row.len()))?;
    *row = tail;
    Ok(head)
}

fn length(row: &mut &[u8]) -> Result<u32, String> {
    let head: [u8; 4] = split(row, 4)?.try_into().map_err(|_| "a length is cut".to_owned())?;
    Ok(u32::from_le_bytes(head))
}

fn with_length<'a>(row: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = length(row)?;
    split(row, length as usize)
}

/// A hash of encoded bytes that never changes: FNV-1a, 64 bits, folded. It decides the shard of a key, which is stored.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let h = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    h ^ (h >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use arrow::datatypes::Field;
    use arrow::datatypes::{Int32Type, Int64Type};

    fn sample() -> Vec<ArrayRef> {
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(4)]), None, Some(vec![None])]);
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        map.keys().append_value("k");
        map.values().append_null();
        for valid in [true, false, true] {
            map.append(valid).unwrap();
        }
        vec![
            Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)])),
            Arc::new(StringArray::from(vec![Some("a"), Some(""), None])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN), None])),
            Arc::new(TimestampMillisecondArray::from(vec![Some(7), None, Some(9)])),
            Arc::new(StringViewArray::from(vec![Some("longer than twelve bytes"), None, Some("x")])),
            Arc::new(BinaryArray::from(vec![Some(&b"\xff"[..]), None, Some(b"")])),
            Arc::new(Decimal128Array::from(vec![Some(12), None, Some(-1)])),
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])])),
            Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![]), None, Some(vec![Some(2)])])),
            Arc::new(FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(
                vec![Some(vec![Some(1), None]), None, Some(vec![Some(2), Some(3)])],
                2,
            )),
            Arc::new(NullArray::new(3)),
            Arc::new(vec![Some("a"), None, Some("b")].into_iter().collect::<DictionaryArray<Int32Type>>()),
            Arc::new(StructArray::from(vec![(
                Arc::new(Field::new("list", lists.data_type().clone(), true)),
                Arc::new(lists) as ArrayRef,
            )])),
            Arc::new(map.finish()),
        ]
    }

    fn encoded(codec: &RowCodec, columns: &[ArrayRef]) -> Vec<Vec<u8>> {
        let mut rows = Vec::new();
        codec.encode(columns, columns[0].len(), |_, b| rows.push(b.to_vec())).unwrap();
        rows
    }

    #[test]
    fn every_type_reads_back() {
        let columns = sample();
        let codec = RowCodec::new("state", columns.iter().map(|c| c.data_type().clone()).collect());
        let rows = encoded(&codec, &columns);
        let back = codec.decode(rows.iter().map(Vec::as_slice)).unwrap();
        for (a, b) in columns.iter().zip(&back) {
            assert_eq!(a, b);
        }
        // A slice starts at an offset of its buffers.
        let sliced: Vec<ArrayRef> = columns.iter().map(|c| c.slice(1, 2)).collect();
        assert_eq!(encoded(&codec, &sliced), rows[1..]);
        assert_eq!(codec.decode(std::iter::empty()).unwrap().len(), columns.len());
    }

    #[test]
    fn cut_or_changed_bytes_are_corrupt_and_never_a_panic() {
        let columns = sample();
        let codec = RowCodec::new("state", columns.iter().map(|c| c.data_type().clone()).collect());
        let row = &encoded(&codec, &columns)[0];
        for cut in 0..row.len() {
            assert!(codec.decode(std::iter::once(&row[..cut])).is_err(), "cut at {cut}");
        }
        for at in 0..row.len() {
            let mut changed = row.clone();
            changed[at] ^= 0x55;
            let _ = codec.decode(std::iter::once(changed.as_slice()));
        }
        let longer = [row.as_slice(), &[0]].concat();
        assert!(codec.decode(std::iter::once(longer.as_slice())).is_err());
    }

    #[test]
    fn the_stored_format_does_not_change() {
        let codec = RowCodec::new("key", vec![DataType::Utf8, DataType::Int64, DataType::Boolean]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["ab"])),
            Arc::new(Int64Array::from(vec![258])),
            Arc::new(BooleanArray::new_null(1)),
        ];
        assert_eq!(encoded(&codec, &columns), [[1, 2, 0, 0, 0, b'a', b'b', 1, 2, 1, 0, 0, 0, 0, 0, 0, 0].to_vec()]);
        assert_eq!(stable_hash(b"kindling"), stable_hash(b"kindling"));
        assert_eq!(stable_hash(b""), 0xcbf2_9ce4_8422_2325 ^ 0xcbf2_9ce4);
    }
}
