//! Rows to JSON records.
//!
//! Value: an object of all columns in their order, nulls written out; timestamps as RFC 3339 UTC with milliseconds, or as integers, in lists too;
//! binary as hexadecimal digits; doubles that are not finite as null. Key: an object of the key columns, none where there are none.

use crate::config::spec::TimestampFormat;
use crate::output::OutRecord;
use crate::time::write_rfc3339;
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, StringBuilder, TimestampMillisecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use std::sync::Arc;

/// Of timestamps within lists and structs.
const RFC3339_MILLIS: &str = "%Y-%m-%dT%H:%M:%S%.3fZ";
/// Bytes of most timestamps.
const RFC3339_LENGTH: usize = 24;

/// Encodes batches of one schema.
pub struct Encoder {
    value: Projection,
    key: Option<Projection>,
}

/// Columns of a batch as they are written.
struct Projection {
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl Encoder {
    /// For batches of `schema`; `keys` are the columns of the record's key.
    pub fn new(schema: SchemaRef, keys: Vec<usize>, timestamps: TimestampFormat) -> Self {
        let key = (!keys.is_empty()).then(|| Projection::new(&schema, keys, timestamps));
        let all = (0..schema.fields().len()).collect();
        Self { value: Projection::new(&schema, all, timestamps), key }
    }

    /// One record a row.
    ///
    /// # Errors
    /// When a column has a type that JSON can't carry.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<OutRecord>, ArrowError> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let values = self.value.lines(batch)?;
        let keys = self.key.as_ref().map(|k| k.lines(batch)).transpose()?;
        let mut keys = keys.into_iter().flatten();
        Ok(values.into_iter().map(|value| OutRecord { key: keys.next(), value, ..OutRecord::default() }).collect())
    }

    /// One record a row that says that the result of the row's key is no more: its value is the key's object with `"deleted": true`.
    ///
    /// # Errors
    /// When a column has a type that JSON can't carry.
    pub fn tombstones(&mut self, batch: &RecordBatch) -> Result<Vec<OutRecord>, ArrowError> {
        let keys = self.key.as_ref().map(|k| k.lines(batch)).transpose()?;
        let record = |key: Vec<u8>| {
            // An object of one column at least: a brace is last.
            let mut value = key[..key.len().saturating_sub(1)].to_vec();
            value.extend_from_slice(br#","deleted":true}"#);
            OutRecord { key: Some(key), value, is_tombstone: true }
        };
        Ok(keys.into_iter().flatten().map(record).collect())
    }
}

impl Projection {
    fn new(schema: &Schema, columns: Vec<usize>, timestamps: TimestampFormat) -> Self {
        let written = |field: &Field| match (field.data_type(), timestamps) {
            (DataType::Timestamp(..), TimestampFormat::Millis) => DataType::Int64,
            (DataType::Timestamp(..), TimestampFormat::Rfc3339) => DataType::Utf8,
            (DataType::List(item), TimestampFormat::Millis) if matches!(item.data_type(), DataType::Timestamp(..)) => {
                DataType::List(Arc::new(item.as_ref().clone().with_data_type(DataType::Int64)))
            }
            (other, _) => other.clone(),
        };
        let fields: Vec<Field> =
            columns.iter().map(|c| Field::new(schema.field(*c).name(), written(schema.field(*c)), true)).collect();
        Self { columns, schema: Arc::new(Schema::new(fields)) }
    }

    fn lines(&self, batch: &RecordBatch) -> Result<Vec<Vec<u8>>, ArrowError> {
        let columns =
            self.columns.iter().zip(self.schema.fields()).map(|(c, field)| written(batch.column(*c), field.data_type()));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_, _>>()?)?;
        let builder = WriterBuilder::new().with_explicit_nulls(true).with_timestamp_format(RFC3339_MILLIS.into());
        let mut writer = builder.build::<_, LineDelimited>(Vec::with_capacity(batch.num_rows() * 128));
        writer.write(&batch)?;
        writer.finish()?;
        // JSON text has no line break of its own: within strings they are escaped.
        let text = writer.into_inner();
        Ok(text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
    }
}

fn written(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    if let DataType::List(item) = column.data_type() {
        // Of whatever unit they are.
        let millis = item.as_ref().clone().with_data_type(DataType::Timestamp(TimeUnit::Millisecond, None));
        return cast(&cast(column, &DataType::List(Arc::new(millis)))?, to);
    }
    if !matches!(column.data_type(), DataType::Timestamp(..)) {
        return cast(column, to);
    }
    let millis = cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
    if to == &DataType::Int64 { cast(&millis, to) } else { Ok(Arc::new(rfc3339(millis.as_primitive()))) }
}

/// Timestamps as text. Rows next to each other are often of the same window: a text is made once for them.
fn rfc3339(times: &TimestampMillisecondArray) -> StringArray {
    let (mut last, mut text) = (None, String::new());
    let mut out = StringBuilder::with_capacity(times.len(), times.len() * RFC3339_LENGTH);
    for time in times {
        let Some(time) = time else {
            out.append_null();
            continue;
        };
        if last != Some(time) {
            text.clear();
            write_rfc3339(time, &mut text);
            last = Some(time);
        }
        out.append_value(&text);
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            ("user", Arc::new(StringArray::from(vec![Some("a\"\n"), None])) as ArrayRef, true),
            ("window_start", Arc::new(TimestampMillisecondArray::from(vec![1, -1])) as ArrayRef, true),
            ("n", Arc::new(Int64Array::from(vec![Some(i64::MAX), None])) as ArrayRef, true),
            ("x", Arc::new(Float64Array::from(vec![0.1, f64::NAN])) as ArrayRef, true),
        ])
        .unwrap()
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn rows_as_people_read_them() {
        let batch = batch();
        let records = Encoder::new(batch.schema(), vec![0], TimestampFormat::Rfc3339).encode(&batch).unwrap();
        assert_eq!(
            text(&records[0].value),
            r#"{"user":"a\"\n","window_start":"1970-01-01T00:00:00.001Z","n":9223372036854775807,"x":0.1}"#
        );
        assert_eq!(text(&records[1].value), r#"{"user":null,"window_start":"1969-12-31T23:59:59.999Z","n":null,"x":null}"#);
        assert_eq!(records[0].key.as_deref().map(text), Some(r#"{"user":"a\"\n"}"#));
    }

    #[test]
    fn timestamps_are_written_as_arrow_writes_them() {
        // Each day around leap years, centuries and the ends of the four-digit years; then the odd ones.
        let days = (-720_000i64..2_940_000).step_by(97).map(|d| d * 86_400_000 + d.rem_euclid(86_400_000));
        let odd = [-1, 0, 951_782_399_999, 951_782_400_000, 4_107_542_399_999, -62_167_219_200_001, 253_402_300_800_000];
        let times = TimestampMillisecondArray::from_iter(days.chain(odd).map(Some).chain([None]));
        let options = arrow::util::display::FormatOptions::new().with_timestamp_format(Some(RFC3339_MILLIS));
        let formatter = arrow::util::display::ArrayFormatter::try_new(&times, &options).unwrap();
        for (i, text) in rfc3339(&times).iter().enumerate() {
            assert_eq!(text.unwrap_or_default(), formatter.value(i).to_string(), "{:?}", times.value(i));
        }
    }

    #[test]
    fn milliseconds_and_no_key() {
        let batch = batch();
        let records = Encoder::new(batch.schema(), vec![], TimestampFormat::Millis).encode(&batch).unwrap();
        assert!(text(&records[1].value).contains(r#""window_start":-1,"#));
        assert_eq!(records[1].key, None);
    }
}
