//! Stored state as people see it: keys and windows as columns, finished values, and the raw columns of the partial states.
//!
//! In: entries of the log (a pane and a key, with a partial state). Out: batches of rows. **Invariant**: entries are only read; what an
//! aggregate or guest does with them goes nowhere else.

use crate::config::spec::WindowKind;
use crate::operator::assigner::{Assigner, EVENT_TIME_MAX};
use crate::operator::fold::accumulator;
use crate::operator::task::input_schema;
use crate::output::Change;
use crate::plan::{Plan, WindowPlan, timestamp_type};
use crate::state::codec::{CodecError, RowCodec};
use crate::state::store::split;
use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::EmitTo;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Reads the state of one plan.
pub struct View {
    window: WindowPlan,
    assigner: Assigner,
    keys: RowCodec,
    states: RowCodec,
    /// State columns of each aggregate.
    widths: Vec<usize>,
    key_fields: Vec<Field>,
    /// Keys, start and end, finished values, state columns.
    schema: SchemaRef,
}

fn corrupt(error: CodecError) -> DataFusionError {
    DataFusionError::External(error.into())
}

impl View {
    /// For a plan; none where it has no state, or windows of row numbers, whose states tell nothing by themselves.
    ///
    /// # Errors
    /// When an aggregate doesn't say what its state is.
    pub fn new(plan: &Plan) -> Result<Option<Self>> {
        let Some(window) = plan.window.as_ref().filter(|w| !matches!(w.kind, WindowKind::Count { .. })) else { return Ok(None) };
        let input = input_schema(plan);
        let key_fields: Vec<Field> = window.keys.iter().map(|k| input.field(*k).as_ref().clone()).collect();
        let is_window = match window.kind {
            WindowKind::Hopping { duration, slide } => duration == slide,
            WindowKind::Calendar { .. } => true,
            _ => false,
        };
        let names = if is_window { ["window_start", "window_end"] } else { ["pane_start", "pane_end"] };
        let result = window.result.fields();
        let visible = window.aggregates.len() - window.hidden;
        let last = result.len() - usize::from(window.plugin_versions.is_some());
        let values: Vec<Field> = result[last - visible..last].iter().map(|f| f.as_ref().clone()).collect();
        let mut fields: Vec<Field> = key_fields.clone();
        fields.extend(names.map(|name| Field::new(name, timestamp_type(), true)));
        fields.extend(values.iter().cloned());
        let (mut widths, mut state_types) = (Vec::new(), Vec::new());
        let mut seen: HashSet<String> = fields.iter().map(|f| f.name().clone()).collect();
        for (i, aggregate) in window.aggregates.iter().enumerate() {
            let value = values.get(i).map_or(aggregate.function.name(), |v| v.name());
            let state = aggregate.function.state_fields()?;
            widths.push(state.len());
            for field in state {
                let mut name = format!("{value}[{}]", short(field.name()));
                while !seen.insert(name.clone()) {
                    name.push('\'');
                }
                state_types.push(field.data_type().clone());
                fields.push(Field::new(name, field.data_type().clone(), true));
            }
        }
        let key_types = key_fields.iter().map(|f| f.data_type().clone()).collect();
        Ok(Some(Self {
            window: window.clone(),
            assigner: window.assigner(),
            keys: RowCodec::new("key", key_types),
            states: RowCodec::new("state", state_types),
            widths,
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
        self.keys.encode(&columns, 1, |_, bytes| key.extend_from_slice(bytes)).map_err(|e| e.to_string())?;
        Ok(key)
    }

    /// One row an entry. Without `finished` the aggregates are not called, and their values are null.
    ///
    /// # Errors
    /// When an entry does not read back, or an aggregate or guest fails on it.
    pub fn slots(&self, entries: &[Change], finished: bool) -> Result<RecordBatch> {
        let mut parts = Vec::with_capacity(entries.len());
        for entry in entries {
            let (pane, key) = split(&entry.key).map_err(corrupt)?;
            parts.push((pane, key, entry.value.as_deref().unwrap_or_default()));
        }
        let states = self.states.decode(parts.iter().map(|p| p.2)).map_err(corrupt)?;
        let groups: Vec<usize> = (0..parts.len()).collect();
        let values = if finished { Some(self.finish(&states, &groups, parts.len())?) } else { None };
        let bounds: Vec<(i64, i64)> = parts.iter().map(|p| self.assigner.pane_bounds(p.0)).collect();
        let keys = parts.iter().map(|p| p.1);
        self.batch(keys, &bounds, values, states, &self.schema)
    }

    /// One row a window of one key that is still open, by start: the merge of its panes. Of sessions one row a slice.
    ///
    /// # Errors
    /// As [`View::slots`].
    pub fn windows(&self, entries: &[Change], closed: i64) -> Result<RecordBatch> {
        if let Assigner::Session(_) = self.assigner {
            return self.slots(entries, true);
        }
        let mut windows: BTreeMap<(i64, i64), Vec<&Change>> = BTreeMap::new();
        for entry in entries {
            let (pane, _) = split(&entry.key).map_err(corrupt)?;
            for window in self.assigner.open_windows(pane, closed) {
                windows.entry(window).or_default().push(entry);
            }
        }
        let groups: Vec<usize> = windows.values().enumerate().flat_map(|(i, e)| std::iter::repeat_n(i, e.len())).collect();
        let stored = windows.values().flatten().map(|e| e.value.as_deref().unwrap_or_default());
        let states = self.states.decode(stored).map_err(corrupt)?;
        let values = self.finish(&states, &groups, windows.len())?;
        let states = self.merge(&states, &groups, windows.len(), |a| a.state(EmitTo::All))?.concat();
        let bounds: Vec<(i64, i64)> = windows.keys().copied().collect();
        let mut keys = Vec::new();
        for entry in windows.values().filter_map(|e| e.first()) {
            keys.push(split(&entry.key).map_err(corrupt)?.1);
        }
        let mut fields: Vec<Field> = self.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        for (i, name) in ["window_start", "window_end"].into_iter().enumerate() {
            let field = &mut fields[self.key_fields.len() + i];
            *field = field.clone().with_name(name);
        }
        self.batch(keys.into_iter(), &bounds, Some(values), states, &Arc::new(Schema::new(fields)))
    }

    fn batch<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
        bounds: &[(i64, i64)],
        values: Option<Vec<ArrayRef>>,
        states: Vec<ArrayRef>,
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        let mut columns = self.keys.decode(keys).map_err(corrupt)?;
        // A global window has no bounds.
        let shown = |ms: i64| (-EVENT_TIME_MAX..=EVENT_TIME_MAX).contains(&ms).then_some(ms);
        columns.push(Arc::new(bounds.iter().map(|b| shown(b.0)).collect::<TimestampMillisecondArray>()));
        columns.push(Arc::new(bounds.iter().map(|b| shown(b.1)).collect::<TimestampMillisecondArray>()));
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
        let mut values = self.merge(states, groups, total, |a| a.evaluate(EmitTo::All))?;
        values.truncate(self.window.aggregates.len() - self.window.hidden);
        Ok(values)
    }

    /// Merges states into fresh accumulators by group, and takes `out` of each.
    fn merge<T>(
        &self,
        states: &[ArrayRef],
        groups: &[usize],
        total: usize,
        out: impl Fn(&mut dyn datafusion::logical_expr::GroupsAccumulator) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::with_capacity(self.widths.len());
        let mut at = 0;
        for (aggregate, width) in self.window.aggregates.iter().zip(&self.widths) {
            let mut accumulator = accumulator(aggregate)?;
            if total > 0 {
                accumulator.merge_batch(&states[at..at + width], groups, total)?;
            }
            at += width;
            all.push(out(accumulator.as_mut())?);
        }
        Ok(all)
    }
}

/// `count(1)[sum]` as `sum`.
fn short(field: &str) -> &str {
    let inner = field.strip_suffix(']').and_then(|f| f.rsplit_once('[')).map(|(_, inner)| inner);
    inner.filter(|i| !i.is_empty()).unwrap_or(field)
}
