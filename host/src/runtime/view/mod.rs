//! Stored state as people see it: the key's columns, and behind them, of windows, finished values and the columns of partial states; of keyed
//! processes what the guest keeps, its timers, and when the key is forgotten.
//!
//! In: entries of the log. Out: batches of rows. **Invariant**: entries are only read; what an aggregate or guest does with them goes nowhere
//! else.

mod keyed;
mod msgpack;
mod windows;

use crate::operator::process::ProcessCloser;
use crate::output::Change;
use crate::plan::Plan;
use crate::state::codec::{CodecError, RowCodec};
use crate::state::store::{PaneId, split};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, SchemaRef};
use datafusion_common::{DataFusionError, Result};
use keyed::Keyed;
use std::collections::HashSet;
use std::sync::Arc;
use windows::Windows;

/// Reads the state of one plan.
pub struct View {
    keys: Keys,
    of: Of,
}

enum Of {
    Windows(Box<Windows>),
    Process(Box<Keyed>),
}

/// The columns of keys.
struct Keys {
    fields: Vec<Field>,
    codec: RowCodec,
}

/// Pane, key and stored bytes.
type Part<'a> = (PaneId, &'a [u8], &'a [u8]);

/// The parts of entries of the log.
fn parts(entries: &[Change]) -> Result<Vec<Part<'_>>> {
    let mut parts = Vec::with_capacity(entries.len());
    for entry in entries {
        let (pane, key) = split(&entry.key).map_err(corrupt)?;
        parts.push((pane, key, entry.value.as_deref().unwrap_or_default()));
    }
    Ok(parts)
}

fn corrupt(error: CodecError) -> DataFusionError {
    DataFusionError::External(error.into())
}

/// A name that no column has so far: `name`, or that with ticks behind it.
fn unused(mut name: String, seen: &mut HashSet<String>) -> String {
    while !seen.insert(name.clone()) {
        name.push('\'');
    }
    name
}

impl View {
    /// For a plan; none where it has no state.
    ///
    /// # Errors
    /// When an aggregate doesn't say what its state is.
    pub fn new(plan: &Plan) -> Result<Option<Self>> {
        let columns = plan.window.as_ref().map(|w| &w.keys).or(plan.process.as_ref().map(|p| &p.keys));
        let Some(columns) = columns else { return Ok(None) };
        let fields: Vec<Field> = columns.iter().map(|k| plan.input().field(*k).as_ref().clone()).collect();
        let codec = RowCodec::new("key", fields.iter().map(|f| f.data_type().clone()).collect());
        let of = match (&plan.window, ProcessCloser::new(plan)) {
            (Some(window), _) => Of::Windows(Box::new(Windows::new(window, plan.input(), &fields)?)),
            (None, Some(process)) => Of::Process(Box::new(Keyed::new(process, &fields))),
            (None, None) => return Ok(None),
        };
        Ok(Some(Self { keys: Keys { fields, codec }, of }))
    }

    /// Columns of [`View::slots`]. Of windows: keys, start and end of the pane (or window, where they are the same), finished values, state columns.
    /// Of a process: keys, the guest's state, and what Kindling keeps beside it.
    pub fn schema(&self) -> &SchemaRef {
        match &self.of {
            Of::Windows(windows) => &windows.schema,
            Of::Process(process) => &process.schema,
        }
    }

    /// Names and types of the keys.
    pub fn keys(&self) -> String {
        self.keys.fields.iter().map(|f| format!("{} ({})", f.name(), f.data_type())).collect::<Vec<_>>().join(", ")
    }

    /// The encoded key of values in the order of the pipeline's keys; none is null.
    ///
    /// # Errors
    /// When there are too few or many, or one can't be of the key's type.
    pub fn encode_key(&self, values: &[Option<String>]) -> std::result::Result<Vec<u8>, String> {
        let fields = &self.keys.fields;
        if values.len() != fields.len() {
            return Err(format!("the key has {} columns, {}; {} are given", fields.len(), self.keys(), values.len()));
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(values.len());
        for (value, field) in values.iter().zip(fields) {
            let text: ArrayRef = Arc::new(StringArray::from(vec![value.as_deref()]));
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let column = cast_with_options(&text, field.data_type(), &strict).map_err(|e| {
                format!("`{}` can't be {}, the {}: {e}", value.as_deref().unwrap_or("null"), field.name(), field.data_type())
            })?;
            columns.push(column);
        }
        let mut key = Vec::new();
        self.keys.codec.encode(&columns, 1, |_, bytes| key.extend_from_slice(bytes)).map_err(|e| e.to_string())?;
        Ok(key)
    }

    /// One row an entry. Without `finished` aggregates are not called, and their values are null.
    ///
    /// # Errors
    /// When an entry does not read back, or an aggregate or guest fails on it.
    pub fn slots(&self, entries: &[Change], finished: bool) -> Result<RecordBatch> {
        let slots = parts(entries)?;
        match &self.of {
            Of::Windows(windows) => windows.slots(&self.keys.codec, slots, finished),
            Of::Process(process) => process.slots(&self.keys.codec, &slots),
        }
    }

    /// What one key has, from all its entries. Of windows one row each that is still open, by start: the merge of its panes; sessions are whole; of
    /// count windows that are not full it is the rows so far. Of a process one row, or none.
    ///
    /// # Errors
    /// As [`View::slots`].
    pub fn of_key(&self, entries: &[Change], closed: i64) -> Result<RecordBatch> {
        let slots = parts(entries)?;
        match &self.of {
            Of::Windows(windows) => windows.open(&self.keys.codec, &slots, closed),
            Of::Process(process) => process.of_key(&self.keys.codec, &slots),
        }
    }
}
