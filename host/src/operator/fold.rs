//! Rows to partial states by (pane, key), in a table of the epoch's own.
//!
//! In: batches whose rows have a pane. Out: one [`Partial`]. **Invariant**: a table that failed is thrown away; nothing outside it changed.

use crate::plan::{AggregatePlan, WindowPlan};
use crate::state::store::PaneId;
use ahash::RandomState;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::Result;
use datafusion_expr::{EmitTo, GroupsAccumulator};
use datafusion_physical_expr::GroupsAccumulatorAdapter;
use datafusion_physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion_physical_plan::aggregates::order::GroupOrdering;
use std::collections::HashMap;
use std::sync::Arc;

/// Partial states of one task and epoch: one row a (pane, key).
#[derive(Default)]
pub struct Partial {
    /// Pane of each row.
    pub panes: Vec<PaneId>,
    /// Key columns.
    pub keys: Vec<ArrayRef>,
    /// State columns of all aggregates, one after the other.
    pub states: Vec<ArrayRef>,
}

/// An accumulator over groups for an aggregate, vectorised where the aggregate has one.
///
/// # Errors
/// When the aggregate cannot make one.
pub fn accumulator(aggregate: &AggregatePlan) -> Result<Box<dyn GroupsAccumulator>> {
    let function = Arc::clone(&aggregate.function);
    if function.groups_accumulator_supported() {
        function.create_groups_accumulator()
    } else {
        Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
    }
}

/// The table.
pub struct Fold {
    window: Arc<WindowPlan>,
    groups: Box<dyn GroupValues>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    panes: Vec<PaneId>,
    pane_numbers: HashMap<PaneId, u32, RandomState>,
    indices: Vec<usize>,
}

impl Fold {
    /// An empty table; `input` is the schema of the batches.
    ///
    /// # Errors
    /// When an accumulator can't be made.
    pub fn new(window: &Arc<WindowPlan>, input: &Schema) -> Result<Self> {
        // Panes are few: their number in the table stands for them among the group columns.
        let mut fields = vec![Field::new("pane", DataType::UInt32, false)];
        fields.extend(window.keys.iter().map(|k| input.field(*k).clone()));
        Ok(Self {
            window: Arc::clone(window),
            groups: new_group_values(Arc::new(Schema::new(fields)), &GroupOrdering::None)?,
            accumulators: window.aggregates.iter().map(accumulator).collect::<Result<_>>()?,
            panes: Vec::new(),
            pane_numbers: HashMap::default(),
            indices: Vec::new(),
        })
    }

    /// Folds in the rows of `batch`; row `i` belongs to `panes[i]`.
    ///
    /// # Errors
    /// An aggregate's or a guest's; the table must not be used after it.
    pub fn add(&mut self, batch: &RecordBatch, panes: &[PaneId]) -> Result<()> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(1 + self.window.keys.len());
        columns.push(Arc::new(self.number(panes)));
        columns.extend(self.window.keys.iter().map(|k| Arc::clone(batch.column(*k))));
        self.groups.intern(&columns, &mut self.indices)?;
        let total = self.groups.len();
        for (aggregate, accumulator) in self.window.aggregates.iter().zip(&mut self.accumulators) {
            let function = &aggregate.function;
            let (arguments, order) = (function.expressions(), function.order_bys());
            let arguments = arguments
                .iter()
                .chain(order.iter().map(|o| &o.expr))
                .map(|e| e.evaluate(batch)?.into_array(rows))
                .collect::<Result<Vec<_>>>()?;
            let filter: Option<&BooleanArray> = aggregate.filter.map(|f| batch.column(f).as_boolean());
            accumulator.update_batch(&arguments, &self.indices, filter, total)?;
        }
        Ok(())
    }

    /// Numbers the panes of a batch; consecutive rows mostly share one.
    fn number(&mut self, panes: &[PaneId]) -> UInt32Array {
        let mut last: Option<(PaneId, u32)> = None;
        let numbers = panes.iter().map(|pane| match last {
            Some((p, n)) if p == *pane => n,
            _ => {
                let n = *self.pane_numbers.entry(*pane).or_insert_with(|| {
                    self.panes.push(*pane);
                    self.panes.len() as u32 - 1
                });
                last = Some((*pane, n));
                n
            }
        });
        UInt32Array::from_iter_values(numbers)
    }

    /// The partial states.
    ///
    /// # Errors
    /// An aggregate's or a guest's.
    pub fn finish(mut self) -> Result<Partial> {
        if self.groups.is_empty() {
            return Ok(Partial::default());
        }
        let mut columns = self.groups.emit(EmitTo::All)?;
        let keys = columns.split_off(1);
        let numbers = columns[0].as_primitive::<arrow::datatypes::UInt32Type>();
        let panes = numbers.values().iter().map(|n| self.panes[*n as usize]).collect();
        let mut states = Vec::new();
        for accumulator in &mut self.accumulators {
            states.extend(accumulator.state(EmitTo::All)?);
        }
        Ok(Partial { panes, keys, states })
    }
}

impl Partial {
    /// Number of (pane, key).
    pub fn len(&self) -> usize {
        self.panes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.panes.is_empty()
    }

    /// Bytes of the columns.
    pub fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.states).map(|a| a.get_array_memory_size()).sum()
    }
}
