//! The close of an epoch: partial states into the stored ones, and the results of the windows that the watermark closed.
//!
//! In: the store as the epoch before left it, the partial states of all tasks, the watermark. Out: a [`Closed`].
//! **Invariant**: the store is only read. States are merged into fresh arrays; what fails leaves nothing behind.

use crate::operator::FaultPolicy;
use crate::operator::assigner::Assigner;
use crate::operator::epoch::{ExcludedKeys, RowError};
use crate::operator::fold::{Partial, accumulator};
use crate::operator::isolate::{Budget, isolate};
use crate::plan::WindowPlan;
use crate::state::codec::{CodecError, RowCodec};
use crate::state::store::{PaneId, Store, Update};
use ahash::RandomState;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, TimestampMillisecondArray, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::Schema;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Keys of one batch of results.
const RESULT_ROWS: usize = 16_384;

/// A window's result that could not be made: the state of the key goes to the rejects instead.
pub struct BadResult {
    /// Start of the window.
    pub window: i64,
    /// Encoded key.
    pub key: Box<[u8]>,
    /// Encoded partial states of the panes, one after the other.
    pub state: Vec<u8>,
    /// Why.
    pub error: Arc<RowError>,
}

/// What the close of an epoch does.
#[derive(Default)]
pub struct Closed {
    /// Slots to set.
    pub updates: Vec<Update>,
    /// Panes that no open window needs any more.
    pub removed: Vec<PaneId>,
    /// Result rows: keys, window_start, window_end, aggregates.
    pub results: Vec<RecordBatch>,
    /// Keys on which merging failed: the epoch must be run again without their rows, and nothing else in here counts.
    pub excluded: ExcludedKeys,
    /// Results that could not be made.
    pub bad_results: Vec<BadResult>,
}

/// Closes epochs of one plan.
pub struct Closer {
    window: WindowPlan,
    assigner: Assigner,
    keys: RowCodec,
    states: RowCodec,
    /// How many state columns each aggregate has.
    widths: Vec<usize>,
}

fn external(error: CodecError) -> DataFusionError {
    DataFusionError::External(error.into())
}

impl Closer {
    /// For a plan's window; `input` is the schema that reaches the aggregation.
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
        Ok(Self {
            assigner: window.assigner(),
            window: window.clone(),
            keys: RowCodec::new("key", key_types),
            states: RowCodec::new("state", state_types),
            widths,
        })
    }

    /// The codec of keys.
    pub fn keys(&self) -> &RowCodec {
        &self.keys
    }

    /// Whether a partial state counts in a window that `closed` has closed: then the epoch must be run again from that time.
    pub fn is_stale(&self, partial: &Partial, closed: i64) -> bool {
        partial.panes.iter().any(|p| self.assigner.closes_at(p.from) <= closed)
    }

    /// The watermark that closes the last window over all stored panes and `partials`.
    pub fn last_close<'a>(&self, store: &Store, partials: impl Iterator<Item = &'a Partial>) -> Option<i64> {
        let panes = store.panes().chain(partials.flat_map(|p| p.panes.iter().copied()));
        panes.map(|p| self.assigner.closes_at(self.assigner.last_window(p.start))).max()
    }

    /// Closes an epoch: windows that close in `(before, now]` are finished.
    ///
    /// # Errors
    /// Under [`FaultPolicy::Fail`] the first error of an aggregate or guest; [`CodecError`] when stored bytes don't read back.
    pub fn close(
        &self,
        store: &Store,
        partials: &[&Partial],
        before: i64,
        now: i64,
        policy: FaultPolicy,
        budget: &mut Budget,
    ) -> Result<Closed> {
        let mut closed = Closed::default();
        let slots = self.slots(partials)?;
        let updates = self.merge(store, partials, &slots, policy, budget, &mut closed)?;
        if !closed.excluded.is_empty() {
            return Ok(closed);
        }
        let mut fresh: BTreeMap<PaneId, Vec<&Update>> = BTreeMap::new();
        for update in &updates {
            fresh.entry(update.pane).or_default().push(update);
        }
        let panes: BTreeSet<PaneId> = store.panes().chain(fresh.keys().copied()).collect();
        let mut due: BTreeMap<i64, Vec<PaneId>> = BTreeMap::new();
        for pane in &panes {
            for window in self.assigner.windows(*pane) {
                let closes = self.assigner.closes_at(window);
                if closes > now {
                    break;
                }
                if closes > before {
                    due.entry(window).or_default().push(*pane);
                }
            }
        }
        for (window, panes) in due {
            self.finish_window(store, &fresh, window, &panes, policy, budget, &mut closed)?;
        }
        drop(fresh);
        closed.removed = store.panes().filter(|p| self.assigner.is_done(*p, now)).collect();
        closed.updates = updates.into_iter().filter(|u| !self.assigner.is_done(u.pane, now)).collect();
        Ok(closed)
    }

    /// Numbers the (pane, key) of all partials: `slots[p][row]`, and the keys by number.
    fn slots(&self, partials: &[&Partial]) -> Result<Slots> {
        let mut slots = Slots::default();
        let mut numbers: HashMap<(PaneId, Box<[u8]>), usize, RandomState> = HashMap::default();
        // The groups of one partial are distinct: only several need the table.
        let several = partials.iter().filter(|p| !p.is_empty()).count() > 1;
        for partial in partials {
            let mut of_partial = Vec::with_capacity(partial.len());
            self.keys
                .encode(&partial.keys, partial.len(), |row, key| {
                    let next = slots.keys.len();
                    let full: (PaneId, Box<[u8]>) = (partial.panes[row], key.into());
                    let number = if several { *numbers.entry(full.clone()).or_insert(next) } else { next };
                    if number == next {
                        slots.keys.push(full);
                    }
                    of_partial.push(number);
                })
                .map_err(external)?;
            slots.of.push(of_partial);
        }
        Ok(slots)
    }

    fn merge(
        &self,
        store: &Store,
        partials: &[&Partial],
        slots: &Slots,
        policy: FaultPolicy,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<Vec<Update>> {
        let count = slots.keys.len();
        let merge_range = |range: Range<usize>| self.merged(store, partials, slots, range);
        let states = match merge_range(0..count) {
            Ok(states) => states,
            Err(error) if policy == FaultPolicy::Fail => return Err(error),
            Err(error) => {
                for fault in isolate(count, error, budget, &mut |r| merge_range(r).map(drop)) {
                    let error = Arc::new(RowError::of(&fault.error));
                    closed.excluded.extend(slots.keys[fault.items].iter().map(|k| (k.clone(), Arc::clone(&error))));
                }
                return Ok(Vec::new());
            }
        };
        let Merged { slots: order, states } = states;
        let mut updates = Vec::with_capacity(count);
        let keys = &slots.keys;
        self.states
            .encode(&states, count, |i, state| {
                let (pane, key) = &keys[order[i]];
                updates.push(Update { pane: *pane, key: key.clone(), state: state.into() });
            })
            .map_err(external)?;
        Ok(updates)
    }

    /// The merged states of the slots in `range`: stored ones first, then each task's.
    ///
    /// DataFusion's accumulators take it that each of the groups they are told of has been in a batch: a group is therefore numbered when
    /// it first comes, and their number grows with it.
    fn merged(&self, store: &Store, partials: &[&Partial], slots: &Slots, range: Range<usize>) -> Result<Merged> {
        let mut numbers: Vec<Option<usize>> = vec![None; range.len()];
        let mut order = Vec::with_capacity(range.len());
        let mut stored = Vec::new();
        for slot in range.clone() {
            let (pane, key) = &slots.keys[slot];
            if let Some(state) = store.get(*pane, key) {
                stored.push(state);
                numbers[slot - range.start] = Some(order.len());
                order.push(slot);
            }
        }
        let whole = range.len() == slots.keys.len();
        let mut merging = partials.iter().filter(|p| !p.is_empty());
        if let (true, true, Some(only), None) = (whole, stored.is_empty(), merging.next(), merging.next()) {
            return Ok(Merged { slots: range.collect(), states: only.states.clone() });
        }
        let mut merger = Merger::new(&self.window, &self.widths)?;
        let of_stored: Vec<usize> = (0..stored.len()).collect();
        merger.add(&self.states.decode(stored.into_iter()).map_err(external)?, &of_stored, order.len())?;
        for (partial, of) in partials.iter().zip(&slots.of) {
            let rows: Vec<u32> = (0..of.len() as u32).filter(|r| range.contains(&of[*r as usize])).collect();
            let mut here = Vec::with_capacity(rows.len());
            for row in &rows {
                let slot = of[*row as usize];
                here.push(*numbers[slot - range.start].get_or_insert_with(|| {
                    order.push(slot);
                    order.len() - 1
                }));
            }
            if whole {
                merger.add(&partial.states, &here, order.len())?;
            } else {
                let rows = UInt32Array::from(rows);
                let states = partial.states.iter().map(|s| Ok(take(s, &rows, None)?)).collect::<Result<Vec<_>>>()?;
                merger.add(&states, &here, order.len())?;
            }
        }
        Ok(Merged { slots: order, states: merger.states()? })
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one close; a struct for them would have this one use")]
    fn finish_window(
        &self,
        store: &Store,
        fresh: &BTreeMap<PaneId, Vec<&Update>>,
        window: i64,
        panes: &[PaneId],
        policy: FaultPolicy,
        budget: &mut Budget,
        closed: &mut Closed,
    ) -> Result<()> {
        let mut by_key: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        for pane in panes {
            let fresh: HashMap<&[u8], &[u8], RandomState> =
                fresh.get(pane).into_iter().flatten().map(|u| (u.key.as_ref(), u.state.as_ref())).collect();
            for (key, state) in store.pane(*pane).into_iter().flatten() {
                if !fresh.contains_key(key.as_ref()) {
                    by_key.entry(key).or_default().push(state);
                }
            }
            for (key, state) in fresh {
                by_key.entry(key).or_default().push(state);
            }
        }
        let entries: Vec<(&[u8], Vec<&[u8]>)> = by_key.into_iter().collect();
        for chunk in entries.chunks(RESULT_ROWS) {
            match self.results(window, chunk) {
                Ok(batch) => closed.results.push(batch),
                Err(error) if policy == FaultPolicy::Fail => return Err(error),
                Err(error) => {
                    let mut good = 0;
                    for fault in isolate(chunk.len(), error, budget, &mut |r| self.results(window, &chunk[r]).map(drop)) {
                        if good < fault.items.start {
                            closed.results.push(self.results(window, &chunk[good..fault.items.start])?);
                        }
                        good = fault.items.end;
                        let error = Arc::new(RowError::of(&fault.error));
                        closed.bad_results.extend(chunk[fault.items].iter().map(|(key, states)| BadResult {
                            window,
                            key: (*key).into(),
                            state: states.concat(),
                            error: Arc::clone(&error),
                        }));
                    }
                    if good < chunk.len() {
                        closed.results.push(self.results(window, &chunk[good..])?);
                    }
                }
            }
        }
        Ok(())
    }

    /// Result rows of a window for some keys and their states by pane.
    fn results(&self, window: i64, entries: &[(&[u8], Vec<&[u8]>)]) -> Result<RecordBatch> {
        let rows = entries.len();
        let slots: Vec<usize> =
            entries.iter().enumerate().flat_map(|(i, (_, states))| std::iter::repeat_n(i, states.len())).collect();
        let states = self.states.decode(entries.iter().flat_map(|(_, states)| states.iter().copied())).map_err(external)?;
        let mut merger = Merger::new(&self.window, &self.widths)?;
        merger.add(&states, &slots, rows)?;
        let mut columns = self.keys.decode(entries.iter().map(|(key, _)| *key)).map_err(external)?;
        columns.push(Arc::new(TimestampMillisecondArray::from_value(window, rows)));
        columns.push(Arc::new(TimestampMillisecondArray::from_value(window + self.assigner.duration(), rows)));
        columns.extend(merger.results()?);
        if let Some(versions) = &self.window.plugin_versions {
            columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(versions, rows))));
        }
        let schema = &self.window.result;
        let columns = columns
            .into_iter()
            .zip(schema.fields())
            .map(|(c, f)| if c.data_type() == f.data_type() { Ok(c) } else { Ok(cast(&c, f.data_type())?) })
            .collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))?)
    }
}

/// Merged states, and which slot each row of them is.
struct Merged {
    slots: Vec<usize>,
    states: Vec<ArrayRef>,
}

#[derive(Default)]
struct Slots {
    /// Slot of each row of each partial.
    of: Vec<Vec<usize>>,
    /// Pane and encoded key of each slot.
    keys: Vec<(PaneId, Box<[u8]>)>,
}

/// Fresh accumulators that states are merged into.
struct Merger<'a> {
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    widths: &'a [usize],
}

impl<'a> Merger<'a> {
    fn new(window: &WindowPlan, widths: &'a [usize]) -> Result<Self> {
        Ok(Self { accumulators: window.aggregates.iter().map(accumulator).collect::<Result<_>>()?, widths })
    }

    fn add(&mut self, states: &[ArrayRef], slots: &[usize], total: usize) -> Result<()> {
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

    fn states(mut self) -> Result<Vec<ArrayRef>> {
        let mut states = Vec::new();
        for accumulator in &mut self.accumulators {
            states.extend(accumulator.state(EmitTo::All)?);
        }
        Ok(states)
    }

    fn results(mut self) -> Result<Vec<ArrayRef>> {
        self.accumulators.iter_mut().map(|a| a.evaluate(EmitTo::All)).collect()
    }
}
