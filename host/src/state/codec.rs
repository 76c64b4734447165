//! Rows of columns to bytes and back: the format of keys and states in the table, the changelog and the local tree.
//!
//! In: Arrow columns. Out: one byte string a row. A value is a tag (0 null, 1 plain, 2 Arrow IPC), then for plain values of fixed width
//! their little-endian bytes, for text and bytes a 32-bit little-endian length and the bytes; every other type (lists, structs)
//! is an Arrow IPC stream of one row behind such a length.
//!
//! **Invariant**: the format is stable: it is stored in topics that outlive any version of this program. Equal values have equal
//! bytes, so encoded keys compare as keys.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBufferBuilder, BooleanBuilder, RecordBatch, StringBuilder, make_array,
    new_empty_array,
};
use arrow::buffer::Buffer;
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field, Schema};
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
    /// Arrow could not build or read the column.
    #[error("{0}")]
    Arrow(#[from] arrow::error::ArrowError),
}

const NULL: u8 = 0;
const PLAIN: u8 = 1;
const IPC: u8 = 2;

/// How values of one column are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Boolean,
    Fixed(usize),
    Bytes,
    Other,
}

fn layout(data_type: &DataType) -> Layout {
    match data_type {
        DataType::Boolean => Layout::Boolean,
        DataType::Utf8
        | DataType::Binary
        | DataType::LargeUtf8
        | DataType::LargeBinary
        | DataType::Utf8View
        | DataType::BinaryView => Layout::Bytes,
        t => t.primitive_width().map_or(Layout::Other, Layout::Fixed),
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
    /// [`CodecError::Arrow`] when a nested value cannot be written.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize, mut each: impl FnMut(usize, &[u8])) -> Result<(), CodecError> {
        let readers = columns.iter().map(ColumnReader::new).collect::<Result<Vec<_>, _>>()?;
        let mut buffer = Vec::with_capacity(64);
        for row in 0..rows {
            buffer.clear();
            for reader in &readers {
                reader.append(row, &mut buffer)?;
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
        let mut builders: Vec<ColumnBuilder> = self.types.iter().map(ColumnBuilder::new).collect();
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
enum ColumnReader {
    Boolean(arrow::array::BooleanArray),
    Fixed { array: ArrayRef, bytes: Buffer, width: usize, offset: usize },
    Bytes(arrow::array::BinaryArray),
    Other(ArrayRef),
}

impl ColumnReader {
    fn new(array: &ArrayRef) -> Result<Self, CodecError> {
        Ok(match layout(array.data_type()) {
            Layout::Boolean => Self::Boolean(array.as_boolean().clone()),
            Layout::Fixed(width) => {
                let data = array.to_data();
                Self::Fixed { array: Arc::clone(array), bytes: data.buffers()[0].clone(), width, offset: data.offset() }
            }
            Layout::Bytes => Self::Bytes(cast(array, &DataType::Binary)?.as_binary::<i32>().clone()),
            Layout::Other => Self::Other(Arc::clone(array)),
        })
    }

    fn append(&self, row: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match self {
            Self::Boolean(a) if a.is_valid(row) => out.extend_from_slice(&[PLAIN, u8::from(a.value(row))]),
            Self::Fixed { array, bytes, width, offset } if array.is_valid(row) => {
                out.push(PLAIN);
                let at = (offset + row) * width;
                out.extend_from_slice(&bytes[at..at + width]);
            }
            Self::Bytes(a) if a.is_valid(row) => append_bytes(PLAIN, a.value(row), out),
            Self::Other(a) if a.is_valid(row) => append_bytes(IPC, &ipc_of(&a.slice(row, 1))?, out),
            _ => out.push(NULL),
        }
        Ok(())
    }
}

fn append_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    // A record of Kafka is far below 4 GiB; lengths beyond it cannot be committed in any case.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn ipc_of(value: &ArrayRef) -> Result<Vec<u8>, CodecError> {
    let schema = Arc::new(Schema::new(vec![Field::new("v", value.data_type().clone(), true)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(value)])?;
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &schema)?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

fn from_ipc(bytes: &[u8]) -> Result<ArrayRef, String> {
    let mut reader = arrow::ipc::reader::StreamReader::try_new(bytes, None).map_err(|e| e.to_string())?;
    match reader.next() {
        Some(Ok(batch)) if batch.num_rows() == 1 && batch.num_columns() == 1 => Ok(Arc::clone(batch.column(0))),
        Some(Err(e)) => Err(e.to_string()),
        _ => Err("an Arrow value is not one row of one column".into()),
    }
}

/// Builds one column from bytes.
struct ColumnBuilder {
    data_type: DataType,
    values: Values,
}

enum Values {
    Boolean(BooleanBuilder),
    Fixed { width: usize, bytes: Vec<u8>, valid: BooleanBufferBuilder },
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Other(Vec<Option<ArrayRef>>),
}

impl ColumnBuilder {
    fn new(data_type: &DataType) -> Self {
        let values = match layout(data_type) {
            Layout::Boolean => Values::Boolean(BooleanBuilder::new()),
            Layout::Fixed(width) => Values::Fixed { width, bytes: Vec::new(), valid: BooleanBufferBuilder::new(0) },
            Layout::Bytes if matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => {
                Values::Text(StringBuilder::new())
            }
            Layout::Bytes => Values::Bytes(BinaryBuilder::new()),
            Layout::Other => Values::Other(Vec::new()),
        };
        Self { data_type: data_type.clone(), values }
    }

    /// Takes one value off the front of `row`.
    fn take(&mut self, row: &mut &[u8]) -> Result<(), String> {
        let tag = split(row, 1)?[0];
        match (&mut self.values, tag) {
            (Values::Boolean(b), NULL) => b.append_null(),
            (Values::Boolean(b), PLAIN) => b.append_value(split(row, 1)?[0] != 0),
            (Values::Fixed { width, bytes, valid }, NULL) => {
                bytes.resize(bytes.len() + *width, 0);
                valid.append(false);
            }
            (Values::Fixed { width, bytes, valid }, PLAIN) => {
                bytes.extend_from_slice(split(row, *width)?);
                valid.append(true);
            }
            (Values::Text(b), NULL) => b.append_null(),
            (Values::Text(b), PLAIN) => b.append_value(std::str::from_utf8(with_length(row)?).map_err(|e| e.to_string())?),
            (Values::Bytes(b), NULL) => b.append_null(),
            (Values::Bytes(b), PLAIN) => b.append_value(with_length(row)?),
            (Values::Other(v), NULL) => v.push(None),
            (Values::Other(v), IPC) => {
                let value = from_ipc(with_length(row)?)?;
                if value.data_type() != &self.data_type {
                    return Err(format!("a value is {}, not {}", value.data_type(), self.data_type));
                }
                v.push(Some(value));
            }
            (_, tag) => return Err(format!("tag {tag} can't stand before a value of type {}", self.data_type)),
        }
        Ok(())
    }

    fn finish(self) -> Result<ArrayRef, CodecError> {
        let plain: ArrayRef = match self.values {
            Values::Boolean(mut b) => Arc::new(b.finish()),
            Values::Text(mut b) => Arc::new(b.finish()),
            Values::Bytes(mut b) => Arc::new(b.finish()),
            Values::Fixed { bytes, mut valid, .. } => {
                let data = arrow::array::ArrayData::builder(self.data_type.clone())
                    .len(valid.len())
                    // `align_buffers` copies where the bytes are not aligned for the type.
                    .align_buffers(true)
                    .add_buffer(Buffer::from_vec(bytes))
                    .null_bit_buffer(Some(valid.finish().into_inner()))
                    .build()?;
                make_array(data)
            }
            Values::Other(values) => {
                let null = arrow::array::new_null_array(&self.data_type, 1);
                let parts: Vec<&dyn Array> = values.iter().map(|v| v.as_ref().unwrap_or(&null).as_ref()).collect();
                if parts.is_empty() { new_empty_array(&self.data_type) } else { concat(&parts)? }
            }
        };
        Ok(if plain.data_type() == &self.data_type { plain } else { cast(&plain, &self.data_type)? })
    }
}

fn split<'a>(row: &mut &'a [u8], n: usize) -> Result<&'a [u8], String> {
    let (head, tail) = row.split_at_checked(n).ok_or_else(|| format!("{n} bytes were expected, {} are there", row.len()))?;
    *row = tail;
    Ok(head)
}

fn with_length<'a>(row: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let head: [u8; 4] = split(row, 4)?.try_into().map_err(|_| "a length is cut".to_owned())?;
    split(row, u32::from_le_bytes(head) as usize)
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
    use arrow::datatypes::Int64Type;

    fn sample() -> Vec<ArrayRef> {
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
