//! Stored state as people see it: keys and windows as columns, finished values, and the raw columns of the partial states.
//!
//! In: entries of the log (a pane and a key, with a partial state). Out: batches of rows. **Invariant**: entries are only read; what an
//! aggregate or guest does with them goes nowhere else.

use crate::config::spec::WindowKind;
use crate::operator::assigner::count::TOTAL;
use crate::operator::assigner::{Assigner, EVENT_TIME_MAX};
use crate::operator::merge::{Layout, Merger};
use crate::operator::open::open_windows;
use crate::output::Change;
use crate::plan::{Plan, WindowPlan, timestamp_type};
use crate::state::codec::CodecError;
use crate::state::store::{PaneId, split};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use std::collections::HashSet;
use std::sync::Arc;

/// Reads the state of one plan.
pub struct View {
    window: WindowPlan,
    assigner: Assigner,
    layout: Layout,
    key_fields: Vec<Field>,
    /// Keys, start and end, finished values, state columns.
    schema: SchemaRef,
}

/// Pane, key and partial state.
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

/// Columns of a window's bounds.
const WINDOW: [&str; 2] = ["window_start", "window_end"];

fn corrupt(error: CodecError) -> DataFusionError {
    DataFusionError::External(error.into())
}

impl View {
    /// For a plan; none where it has no state.
    ///
    /// # Errors
    /// When an aggregate doesn't say what its state is.
    pub fn new(plan: &Plan) -> Result<Option<Self>> {
        let Some(window) = plan.window.as_ref() else { return Ok(None) };
        let input = plan.input();
        let key_fields: Vec<Field> = window.keys.iter().map(|k| input.field(*k).as_ref().clone()).collect();
        let is_window = match window.kind {
            WindowKind::Hopping { duration, slide } => duration == slide,
            WindowKind::Calendar { .. } => true,
            _ => false,
        };
        let (names, of_pane) = match window.kind {
            WindowKind::Count { .. } => (["first_row", "end_row"], DataType::Int64),
            _ if is_window => (WINDOW, timestamp_type()),
            _ => (["pane_start", "pane_end"], timestamp_type()),
        };
        let result = window.result.fields();
        let visible = window.aggregates.len() - window.hidden;
        let last = result.len() - usize::from(window.plugin_versions.is_some());
        let values: Vec<Field> = result[last - visible..last].iter().map(|f| f.as_ref().clone()).collect();
        let mut fields: Vec<Field> = key_fields.clone();
        fields.extend(names.map(|name| Field::new(name, of_pane.clone(), true)));
        fields.extend(values.iter().cloned());
        let mut seen: HashSet<String> = fields.iter().map(|f| f.name().clone()).collect();
        for (i, aggregate) in window.aggregates.iter().enumerate() {
            let value = values.get(i).map_or(aggregate.function.name(), |v| v.name());
            for field in aggregate.function.state_fields()? {
                let mut name = format!("{value}[{}]", short(field.name()));
                while !seen.insert(name.clone()) {
                    name.push('\'');
                }
                fields.push(Field::new(name, field.data_type().clone(), true));
            }
        }
        Ok(Some(Self {
            window: window.clone(),
            assigner: window.assigner(),
            layout: Layout::new(window, input)?,
            key_fields,
            schema: Arc::new(Schema::new(fields)),
        }))
    }

    /// Columns of [`View::slots`]: keys, start and end of the pane (or window, where they are the same), finished values, state columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Names and types of the keys.
    pub fn keys(&self) -> String {
        self.key_fields.iter().map(|f| format!("{} ({})", f.name(), f.data_type())).collect::<Vec<_>>().join(", ")
    }

    /// The encoded key of values in the order of the pipeline's keys; none is null.
    ///
    /// # Errors
    /// When there are too few or many, or one can't be of the key's type.
    pub fn encode_key(&self, values: &[Option<String>]) -> std::result::Result<Vec<u8>, String> {
        if values.len() != self.key_fields.len() {
            return Err(format!("the key has {} columns, {}; {} are given", self.key_fields.len(), self.keys(), values.len()));
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(values.len());
        for (value, field) in values.iter().zip(&self.key_fields) {
            let text: ArrayRef = Arc::new(StringArray::from(vec![value.as_deref()]));
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let column = cast_with_options(&text, field.data_type(), &strict).map_err(|e| {
                format!("`{}` can't be {}, the {}: {e}", value.as_deref().unwrap_or("null"), field.name(), field.data_type())
            })?;
            columns.push(column);
        }
        let mut key = Vec::new();
        self.layout.keys.encode(&columns, 1, |_, bytes| key.extend_from_slice(bytes)).map_err(|e| e.to_string())?;
        Ok(key)
    }

    /// One row an entry with a partial state. Without `finished` the aggregates are not called, and their values are null.
    ///
    /// # Errors
    /// When an entry does not read back, or an aggregate or guest fails on it.
    pub fn slots(&self, entries: &[Change], finished: bool) -> Result<RecordBatch> {
        let mut slots = parts(entries)?;
        // What is known of a key's rows is no partial state.
        slots.retain(|slot| !matches!(self.assigner, Assigner::Count(_)) || slot.0 != TOTAL);
        let states = self.layout.states.decode(slots.iter().map(|s| s.2)).map_err(corrupt)?;
        let groups: Vec<usize> = (0..slots.len()).collect();
        let values = if finished { Some(self.finish(&states, &groups, slots.len())?) } else { None };
        let bounds: Vec<(i64, i64)> = slots.iter().map(|s| self.assigner.pane_bounds(s.0)).collect();
        self.batch(slots.iter().map(|s| s.1), &bounds, values, states, &self.schema)
    }

    /// One row a window of one key that is still open, by start: the merge of its panes. Sessions are whole; of count windows that are not full
    /// it is the rows so far.
    ///
    /// # Errors
    /// As [`View::slots`].
    pub fn windows(&self, entries: &[Change], closed: i64) -> Result<RecordBatch> {
        let slots = parts(entries)?;
        let states: Vec<(PaneId, &[u8])> = slots.iter().map(|s| (s.0, s.2)).collect();
        let windows = open_windows(&self.assigner, closed, &states).map_err(corrupt)?;
        let of = || windows.iter().flat_map(|w| &w.slots);
        let groups: Vec<usize> = windows.iter().enumerate().flat_map(|(i, w)| std::iter::repeat_n(i, w.slots.len())).collect();
        let states = self.layout.states.decode(of().map(|i| slots[*i].2)).map_err(corrupt)?;
        let values = self.finish(&states, &groups, windows.len())?;
        let states = self.merger(&states, &groups, windows.len())?.states()?;
        let bounds: Vec<(i64, i64)> = windows.iter().map(|w| (w.start, w.end)).collect();
        let mut fields: Vec<Field> = self.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        for (i, name) in WINDOW.into_iter().enumerate() {
            fields[self.key_fields.len() + i] = Field::new(name, timestamp_type(), true);
        }
        let keys = windows.iter().map(|w| slots[w.slots[0]].1);
        self.batch(keys, &bounds, Some(values), states, &Arc::new(Schema::new(fields)))
    }

    fn batch<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
        bounds: &[(i64, i64)],
        values: Option<Vec<ArrayRef>>,
        states: Vec<ArrayRef>,
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        let mut columns = self.layout.keys.decode(keys).map_err(corrupt)?;
        // A global window has no bounds.
        let shown = |ms: i64| (-EVENT_TIME_MAX..=EVENT_TIME_MAX).contains(&ms).then_some(ms);
        for of in [|b: &(i64, i64)| b.0, |b: &(i64, i64)| b.1] {
            let numbers: Int64Array = bounds.iter().map(|b| shown(of(b))).collect();
            columns.push(match schema.field(columns.len()).data_type() {
                DataType::Int64 => Arc::new(numbers),
                _ => Arc::new(numbers.reinterpret_cast::<arrow::datatypes::TimestampMillisecondType>()),
            });
        }
        let aggregates = self.window.aggregates.len() - self.window.hidden;
        let of_values = &schema.fields()[columns.len()..columns.len() + aggregates];
        let none = || of_values.iter().map(|f| arrow::array::new_null_array(f.data_type(), bounds.len())).collect();
        columns.extend(values.unwrap_or_else(none));
        columns.extend(states);
        let fit = |(column, field): (ArrayRef, &Arc<Field>)| -> Result<ArrayRef> {
            if column.data_type() == field.data_type() {
                Ok(column)
            } else {
                Ok(arrow::compute::cast(&column, field.data_type())?)
            }
        };
        let columns = columns.into_iter().zip(schema.fields()).map(fit).collect::<Result<Vec<_>>>()?;
        // A field that never is null in a result may be so here: what is shown is no result.
        let fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    fn finish(&self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<Vec<ArrayRef>> {
        self.merger(states, groups, total)?.results(self.window.aggregates.len() - self.window.hidden)
    }

    /// The states merged by group.
    fn merger(&self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<Merger<'_>> {
        let mut merger = Merger::new(&self.window, &self.layout.widths)?;
        merger.add(states, groups, total)?;
        Ok(merger)
    }
}

/// `count(1)[sum]` as `sum`.
fn short(field: &str) -> &str {
    let inner = field.strip_suffix(']').and_then(|f| f.rsplit_once('[')).map(|(_, inner)| inner);
    inner.filter(|i| !i.is_empty()).unwrap_or(field)
}
