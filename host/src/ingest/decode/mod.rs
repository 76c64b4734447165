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
//!
//! Of a row that fails the plan's [`TextTest`]s only its event time is decoded; it is not in the batch, and a value of another column
//! that does not fit is no fault of it.

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
use crate::plan::{DecodeField, FieldSource, OutputType, PathStep, Plan, TextTest};
use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use columns::Column;
use json::{Found, Slot};
use paths::Paths;
use scan::Survey;
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
    survey: Survey,
    rows: Vec<u32>,
    tests: Vec<TextTest>,
    event_time: Option<usize>,
    times: Vec<Option<i64>>,
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

    /// Reads the JSON of a key or value (`what`): finds the wanted values, and gives the text that they lie in.
    fn read<'a>(&mut self, bytes: Option<&'a [u8]>, what: &str, survey: &mut Survey) -> Result<&'a str, String> {
        let bytes = bytes.ok_or_else(|| format!("the record has no {what}"))?;
        let text = match survey.of(bytes) {
            Some(ascii) => ascii,
            None => text(bytes, what)?,
        };
        if u32::try_from(bytes.len()).is_err() {
            return Err(format!("the {what} is longer than 4 GiB"));
        }
        json::read(bytes, survey, &mut self.paths)
            .map_err(|fault| format!("broken JSON in the {what} at byte {}: {}", fault.at, fault.what))?;
        Ok(text)
    }

    /// Fills the cells of all wanted columns from the text that was read last.
    #[inline]
    fn fill(&self, text: &str, fields: &[DecodeField], cells: &mut [Cell], scratch: &mut String) -> Result<(), String> {
        for (i, &(column, output)) in self.wanted.iter().enumerate() {
            let slot = self.paths.slot(i);
            match value::cell(output, slot, text, scratch) {
                Ok(cell) => cells[column] = cell,
                Err(misfit) => return Err(misfit_text(&fields[column], output, slot, text, misfit)),
            }
        }
        Ok(())
    }

    /// The cell of one wanted column from the text that was read last.
    fn cell(&self, column: usize, text: &str, fields: &[DecodeField], scratch: &mut String) -> Result<Cell, String> {
        let Some(i) = self.wanted.iter().position(|(c, _)| *c == column) else { return Ok(Cell::Null) };
        let (slot, output) = (self.paths.slot(i), self.wanted[i].1);
        value::cell(output, slot, text, scratch).map_err(|misfit| misfit_text(&fields[column], output, slot, text, misfit))
    }
}

impl Decoder {
    /// A decoder of a plan's columns for records of `partitions`, that leaves out the rows which fail its tests.
    pub fn of_plan(plan: &Plan, partitions: &[PartitionName]) -> Self {
        let event_time = plan.decoded_event_time();
        Self { tests: plan.prefilter.clone(), event_time, ..Self::new(&plan.decode, partitions) }
    }

    /// A decoder of `fields` for records of `partitions`, by itself: it leaves nothing out and tells no event times, which a task needs.
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
            survey: Survey::default(),
            rows: Vec::new(),
            tests: Vec::new(),
            event_time: None,
            times: Vec::new(),
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
        self.times.clear();
        for row in rows {
            let record = raw.records.record(row);
            let mut time = None;
            match self.read(raw, row, &record, &mut time) {
                Ok(Some(texts)) => {
                    if let Err(e) = self.append(texts) {
                        self.finish();
                        return Err(e);
                    }
                    self.rows.push(row as u32);
                }
                Ok(None) => {}
                Err(reason) => faults.push(RowFault { row: row as u32, reason: bounded(reason) }),
            }
            self.times.push(time);
        }
        let columns = self.finish();
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    /// The event times of the records that the last call of [`Self::decode`] was given: of rows that failed a test too, none of rows at
    /// fault. Only a decoder of a plan whose event time is a decoded column has any.
    pub fn event_times(&self) -> &[Option<i64>] {
        &self.times
    }

    /// Fills the cells of one record; gives the texts of its key and value, which cells point into. None where it fails a test.
    fn read<'a>(
        &mut self,
        raw: &RawBatch,
        row: usize,
        record: &Record<'a>,
        time: &mut Option<i64>,
    ) -> Result<Option<(&'a str, &'a str)>, String> {
        self.scratch.clear();
        let (mut key, mut value) = ("", "");
        if !self.key.wanted.is_empty() {
            key = self.key.read(record.key, "key", &mut self.survey)?;
        }
        if !self.value.wanted.is_empty() {
            value = self.value.read(record.value, "value", &mut self.survey)?;
        }
        if !self.tests.is_empty() && !self.passes(key, value)? {
            *time = self.event_time.map(|column| self.time_of(column, record, key, value)).transpose()?.flatten();
            return Ok(None);
        }
        let (cells, scratch) = (&mut self.cells, &mut self.scratch);
        self.key.fill(key, &self.fields, cells, scratch)?;
        self.value.fill(value, &self.fields, cells, scratch)?;
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
        if let Some(column) = self.event_time
            && let Cell::Long(ms) = self.cells[column]
        {
            *time = Some(ms);
        }
        Ok(Some((key, value)))
    }

    /// Whether a record whose documents were read passes all tests.
    fn passes(&mut self, key: &str, value: &str) -> Result<bool, String> {
        for test in &self.tests {
            let (text, cell) = match &self.fields[test.column].from {
                FieldSource::Json { in_key: true, .. } => {
                    (key, self.key.cell(test.column, key, &self.fields, &mut self.scratch)?)
                }
                _ => (value, self.value.cell(test.column, value, &self.fields, &mut self.scratch)?),
            };
            let passes = match cell {
                Cell::Text(range) => test.passes(&text[range]),
                Cell::Scratch(range) => test.passes(&self.scratch[range]),
                _ => false,
            };
            if !passes {
                return Ok(false);
            }
        }
        self.scratch.clear();
        Ok(true)
    }

    /// The event time of a record that is not decoded otherwise.
    fn time_of(&mut self, column: usize, record: &Record<'_>, key: &str, value: &str) -> Result<Option<i64>, String> {
        let cell = match &self.fields[column].from {
            FieldSource::Json { in_key: true, .. } => self.key.cell(column, key, &self.fields, &mut self.scratch)?,
            FieldSource::Json { .. } => self.value.cell(column, value, &self.fields, &mut self.scratch)?,
            _ => return Ok(record.timestamp),
        };
        Ok(if let Cell::Long(ms) = cell { Some(ms) } else { None })
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
