//! Encoded partial states of the same keys, merged into fresh ones or finished to results.

use crate::operator::fold::accumulator;
use crate::plan::WindowPlan;
use crate::state::codec::{CodecError, RowCodec};
use crate::state::spill::SpillError;
use arrow::array::ArrayRef;
use arrow::datatypes::Schema;
use datafusion_common::{DataFusionError, Result};
use datafusion_expr::{EmitTo, GroupsAccumulator};

/// As DataFusion carries it.
pub fn external(error: CodecError) -> DataFusionError {
    DataFusionError::External(error.into())
}

/// As DataFusion carries it.
pub fn external_store(error: SpillError) -> DataFusionError {
    DataFusionError::External(error.into())
}

/// What the keys and states of a plan look like.
pub struct Layout {
    /// Codec of keys.
    pub keys: RowCodec,
    /// Codec of states.
    pub states: RowCodec,
    /// How many state columns each aggregate has.
    pub widths: Vec<usize>,
}

impl Layout {
    /// Of a plan's window; `input` is the schema that reaches the aggregation.
    ///
    /// # Errors
    /// When an aggregate doesn't say what its state is.
    pub fn new(window: &WindowPlan, input: &Schema) -> Result<Self> {
        let key_types = window.keys.iter().map(|k| input.field(*k).data_type().clone()).collect();
        let mut state_types = Vec::new();
        let mut widths = Vec::new();
        for aggregate in &window.aggregates {
            let fields = aggregate.function.state_fields()?;
            widths.push(fields.len());
            state_types.extend(fields.iter().map(|f| f.data_type().clone()));
        }
        Ok(Self { keys: RowCodec::new("key", key_types), states: RowCodec::new("state", state_types), widths })
    }

    /// Merges the states of each group into one, in the order of the groups; none is empty.
    ///
    /// # Errors
    /// An aggregate's or a guest's; [`CodecError`] when stored bytes don't read back.
    pub fn combine(&self, window: &WindowPlan, groups: &[Vec<&[u8]>]) -> Result<Vec<Box<[u8]>>> {
        let mut merger = Merger::new(window, &self.widths)?;
        self.add(&mut merger, groups.iter().map(Vec::as_slice), groups.len())?;
        let mut merged = Vec::with_capacity(groups.len());
        self.states.encode(&merger.states()?, groups.len(), |_, state| merged.push(state.into())).map_err(external)?;
        Ok(merged)
    }

    /// Adds encoded states: those of group `i` to slot `i`.
    ///
    /// # Errors
    /// As [`Self::combine`].
    pub fn add<'a>(
        &self,
        merger: &mut Merger<'_>,
        groups: impl Iterator<Item = &'a [&'a [u8]]> + Clone,
        count: usize,
    ) -> Result<()> {
        let slots: Vec<usize> = groups.clone().enumerate().flat_map(|(i, g)| std::iter::repeat_n(i, g.len())).collect();
        let states = self.states.decode(groups.flat_map(|g| g.iter().copied())).map_err(external)?;
        merger.add(&states, &slots, count)
    }
}

/// Fresh accumulators that states are merged into.
pub struct Merger<'a> {
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    widths: &'a [usize],
}

impl<'a> Merger<'a> {
    /// Empty ones.
    ///
    /// # Errors
    /// When an aggregate can't make one.
    pub fn new(window: &WindowPlan, widths: &'a [usize]) -> Result<Self> {
        Ok(Self { accumulators: window.aggregates.iter().map(accumulator).collect::<Result<_>>()?, widths })
    }

    /// Merges row `i` of the state columns into slot `slots[i]` of `total`.
    ///
    /// DataFusion's accumulators take it that each of the groups they are told of has been in a batch: a slot is therefore numbered when
    /// it first comes, and their number grows with it.
    ///
    /// # Errors
    /// An aggregate's or a guest's.
    pub fn add(&mut self, states: &[ArrayRef], slots: &[usize], total: usize) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let mut at = 0;
        for (accumulator, width) in self.accumulators.iter_mut().zip(self.widths) {
            accumulator.merge_batch(&states[at..at + width], slots, total)?;
            at += width;
        }
        Ok(())
    }

    /// The merged state columns.
    ///
    /// # Errors
    /// An aggregate's or a guest's.
    pub fn states(mut self) -> Result<Vec<ArrayRef>> {
        let mut states = Vec::new();
        for accumulator in &mut self.accumulators {
            states.extend(accumulator.state(EmitTo::All)?);
        }
        Ok(states)
    }

    /// The finished values of the first `count` aggregates.
    ///
    /// # Errors
    /// An aggregate's or a guest's.
    pub fn results(mut self, count: usize) -> Result<Vec<ArrayRef>> {
        self.accumulators.iter_mut().take(count).map(|a| a.evaluate(EmitTo::All)).collect()
    }
}
