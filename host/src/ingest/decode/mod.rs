//! Records to columns: only what the plan asks for, in one pass over the bytes, straight into Arrow builders.
//!
//! In: records of one partition. Out: a batch with a row for each record that could be decoded, and a [`RowFault`] for each that
//! could not; a row at fault leaves nothing in the batch.
//!
//! What a JSON value becomes:
//!
//! - A path that is not there, or JSON's `null`, is null. So is a path through a value of another type (`a.b` where `a` is 5).
//! - `string` takes strings, and numbers and booleans as their JSON text; an object or array is a fault.
//! - `long` takes numbers without a fraction (`12`, `12.0`, `1.2e1`) that fit 64 bits, exactly; a JSON string is not a number.
//! - `double` takes numbers; one that overflows is a fault. `boolean` takes `true` and `false`.
//! - `timestamp` takes text: see [`crate::plan::OutputType::Timestamp`]. `milliToTimestamp`, `secondToTimestamp` and `microToTimestamp` take
//!   numbers, rounded down to the millisecond, exactly; all must lie in the years 0 to 9999.
//! - `json` takes anything, as the text that stands in the record.
//! - Of members with the same name the last one wins.
//!
//! The whole document is checked, also behind the last wanted value: broken JSON, something after it, invalid UTF-8, or nesting
//! past [`crate::limits::JSON_DEPTH_MAX`] anywhere is a fault of the row. Numbers out of range and lone surrogate escapes are
//! faults only where they are wanted: JSON's grammar allows them. JSON is not looked at when no path of it is asked for.

mod columns;
mod json;
mod paths;
mod scan;
pub(in crate::ingest) mod timestamp;
mod unescape;
mod value;

pub use columns::decoded_schema;

use crate::element::{PartitionName, RawBatch, Record};
use crate::limits::FAULT_TEXT_BYTES;
use crate::plan::{DecodeField, FieldSource, OutputType, PathStep};
use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use columns::Column;
use json::{Found, Slot};
use paths::Paths;
use std::ops::Range;
use std::sync::Arc;
use value::{Cell, Misfit};

/// A record that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFault {
    /// Index of the record in its raw batch.
    pub row: u32,
    /// What is wrong, where in the record; at most [`FAULT_TEXT_BYTES`] bytes.
    pub reason: String,
}

/// Why a batch as a whole could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Arrow's text columns count bytes in 32 bits.
    #[error("the rows of one batch hold more than 2 GiB of text in one column: decode fewer rows at a time")]
    TooMuchText,
    /// A defect of ours: columns that do not fit the schema.
    #[error("decoded columns do not fit their schema: {0}")]
    Schema(#[from] arrow::error::ArrowError),
}

/// Decodes records of one source. Holds its buffers between calls; one a worker.
pub struct Decoder {
    schema: SchemaRef,
    topics: Vec<PartitionName>,
    fields: Vec<DecodeField>,
    columns: Vec<Column>,
    value: Document,
    key: Document,
    cells: Vec<Cell>,
    scratch: String,
    quotes: Vec<u8>,
    rows: Vec<u32>,
}

/// The wanted values of the key's or value's JSON.
struct Document {
    paths: Paths,
    /// Column and type of each wanted path.
    wanted: Vec<(usize, OutputType)>,
}

impl Document {
    fn new(fields: &[DecodeField], of_key: bool) -> Self {
        let (mut paths, mut wanted): (Vec<&[PathStep]>, Vec<_>) = Default::default();
        for (column, field) in fields.iter().enumerate() {
            if let FieldSource::Json { in_key, path, output } = &field.from
                && *in_key == of_key
            {
                paths.push(path);
                wanted.push((column, *output));
            }
        }
        Self { paths: Paths::new(&paths), wanted }
    }
}

impl Decoder {
    /// A decoder of `fields` for records of `partitions`.
    pub fn new(fields: &[DecodeField], partitions: &[PartitionName]) -> Self {
        Self {
            schema: decoded_schema(fields),
            topics: partitions.to_vec(),
            columns: fields.iter().map(|f| Column::new(&f.from)).collect(),
            value: Document::new(fields, false),
            key: Document::new(fields, true),
            cells: vec![Cell::Null; fields.len()],
            fields: fields.to_vec(),
            scratch: String::new(),
            quotes: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// The schema of what [`Decoder::decode`] gives: see [`decoded_schema`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes records `rows` of `raw`. Records at fault are pushed to `faults` and are not in the batch, whose last column says
    /// which record of `raw` each row is.
    ///
    /// # Errors
    /// When the rows make no batch; nothing of them is left behind in the decoder.
    pub fn decode(&mut self, raw: &RawBatch, rows: Range<usize>, faults: &mut Vec<RowFault>) -> Result<RecordBatch, DecodeError> {
        for row in rows {
            let record = raw.records.record(row);
            match self.read(raw, row, &record) {
                Ok(texts) => {
                    if let Err(e) = self.append(texts) {
                        self.finish();
                        return Err(e);
                    }
                    self.rows.push(row as u32);
                }
                Err(reason) => faults.push(RowFault { row: row as u32, reason: bounded(reason) }),
            }
        }
        let columns = self.finish();
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    /// Fills the cells of one record; gives the texts of its key and value, which cells point into.
    fn read<'a>(&mut self, raw: &RawBatch, row: usize, record: &Record<'a>) -> Result<(&'a str, &'a str), String> {
        self.scratch.clear();
        let (cells, scratch, quotes) = (&mut self.cells, &mut self.scratch, &mut self.quotes);
        let (mut key, mut value) = ("", "");
        if !self.key.wanted.is_empty() {
            key = document(&mut self.key, record.key, "key", &self.fields, cells, scratch, quotes)?;
        }
        if !self.value.wanted.is_empty() {
            value = document(&mut self.value, record.value, "value", &self.fields, cells, scratch, quotes)?;
        }
        for (cell, field) in cells.iter_mut().zip(&self.fields) {
            *cell = match &field.from {
                FieldSource::Json { .. } => continue,
                FieldSource::Key => whole_text(record.key, &mut key, "key")?,
                FieldSource::Value => whole_text(record.value, &mut value, "value")?,
                FieldSource::Topic => push(scratch, self.topics.get(raw.partition).map_or("", |p| &*p.topic)),
                FieldSource::Partition => Cell::Long(self.topics.get(raw.partition).map_or(-1, |p| i64::from(p.partition))),
                FieldSource::Offset => Cell::Long(record.offset),
                FieldSource::Timestamp => record.timestamp.map_or(Cell::Null, Cell::Long),
                FieldSource::Headers => push(scratch, &headers_json(raw.records.headers(row))),
            };
        }
        Ok((key, value))
    }

    fn append(&mut self, (key, value): (&str, &str)) -> Result<(), DecodeError> {
        for ((column, cell), field) in self.columns.iter_mut().zip(&self.cells).zip(&self.fields) {
            let of_key = matches!(field.from, FieldSource::Json { in_key: true, .. } | FieldSource::Key);
            column.append(cell, if of_key { key } else { value }, &self.scratch)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        let mut columns: Vec<ArrayRef> = self.columns.iter_mut().map(Column::finish).collect();
        columns.push(Arc::new(UInt32Array::from(std::mem::take(&mut self.rows))));
        columns
    }
}

/// Reads the JSON of a key or value (`what`) and fills the cells of its columns.
fn document<'a>(
    of: &mut Document,
    bytes: Option<&'a [u8]>,
    what: &str,
    fields: &[DecodeField],
    cells: &mut [Cell],
    scratch: &mut String,
    quotes: &mut Vec<u8>,
) -> Result<&'a str, String> {
    let bytes = bytes.ok_or_else(|| format!("the record has no {what}"))?;
    let text = text(bytes, what)?;
    if u32::try_from(bytes.len()).is_err() {
        return Err(format!("the {what} is longer than 4 GiB"));
    }
    json::read(bytes, &mut of.paths, quotes)
        .map_err(|fault| format!("broken JSON in the {what} at byte {}: {}", fault.at, fault.what))?;
    for (i, &(column, output)) in of.wanted.iter().enumerate() {
        let slot = of.paths.slot(i);
        match value::cell(output, slot, text, scratch) {
            Ok(cell) => cells[column] = cell,
            Err(misfit) => return Err(misfit_text(&fields[column], output, slot, text, misfit)),
        }
    }
    Ok(text)
}

#[inline]
fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, String> {
    std::str::from_utf8(bytes).map_err(|e| format!("the {what} is not UTF-8 at byte {}", e.valid_up_to()))
}

/// The key or value as a whole; `seen` is its text when it was read before.
fn whole_text<'a>(bytes: Option<&'a [u8]>, seen: &mut &'a str, what: &str) -> Result<Cell, String> {
    let Some(bytes) = bytes else { return Ok(Cell::Null) };
    if seen.len() != bytes.len() {
        *seen = text(bytes, what)?;
    }
    Ok(Cell::Text(0..bytes.len()))
}

fn push(scratch: &mut String, text: &str) -> Cell {
    let start = scratch.len();
    scratch.push_str(text);
    Cell::Scratch(start..scratch.len())
}

/// Headers as a JSON object; of headers with the same name the last one wins, bytes that are not UTF-8 become U+FFFD.
fn headers_json(headers: Vec<(String, Option<Vec<u8>>)>) -> String {
    let text = |value: Vec<u8>| serde_json::Value::from(String::from_utf8_lossy(&value).into_owned());
    let object: serde_json::Map<_, _> =
        headers.into_iter().map(|(name, value)| (name, value.map_or(serde_json::Value::Null, text))).collect();
    serde_json::Value::from(object).to_string()
}

#[cold]
fn misfit_text(field: &DecodeField, output: OutputType, slot: Slot, document: &str, misfit: Misfit) -> String {
    let path = match &field.from {
        FieldSource::Json { path, .. } => path_text(path),
        _ => String::new(),
    };
    let range = slot.start as usize..slot.end as usize;
    let found = match slot.found {
        Found::Text | Found::EscapedText => format!("the string \"{}\"", cut(&document[range], 60)),
        Found::Object => "an object".into(),
        Found::Array => "an array".into(),
        Found::Integer | Found::Decimal => format!("the number {}", cut(&document[range], 60)),
        _ => cut(&document[range], 60).to_owned(),
    };
    let expected = match output {
        OutputType::String => "a string",
        OutputType::Long => "an integer (long)",
        OutputType::Double => "a number (double)",
        OutputType::Boolean => "true or false (boolean)",
        OutputType::Timestamp => "a timestamp as text",
        OutputType::MilliToTimestamp => "a number of milliseconds (milliToTimestamp)",
        OutputType::SecondToTimestamp => "a number of seconds (secondToTimestamp)",
        OutputType::MicroToTimestamp => "a number of microseconds (microToTimestamp)",
        OutputType::Json => "JSON",
    };
    let detail = match misfit {
        Misfit::Type => "",
        Misfit::Fraction => ", which has a fraction",
        Misfit::Range if matches!(output, OutputType::Long | OutputType::Double) => ", which is out of range",
        Misfit::Range => ", which is not within the years 0 to 9999: is the unit right?",
        Misfit::Timestamp => ", which is none: RFC 3339 is expected, like 2026-01-31T23:59:59.123Z",
        Misfit::Surrogate => ", which has half of a surrogate pair",
    };
    format!("`{}`: expected {expected}, found {found}{detail}", cut(&path, 120))
}

/// A path as people write it: `a.b[0].c`; `$` for the whole document.
fn path_text(path: &[PathStep]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            PathStep::Member(name) if text.is_empty() => text.push_str(name),
            PathStep::Member(name) => {
                text.push('.');
                text.push_str(name);
            }
            PathStep::Index(i) => text.push_str(&format!("[{i}]")),
        }
    }
    if text.is_empty() { "$".into() } else { text }
}

/// The first `bytes` bytes of `text` at most, on a character's boundary.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes.min(text.len()))]
}

fn bounded(mut reason: String) -> String {
    reason.truncate(cut(&reason, FAULT_TEXT_BYTES).len());
    reason
}

#[cfg(test)]
mod tests;
