//! Partial states that wait to be merged, and their merging into one state a group, in calls that a guest can bear.

use arrow::array::{Array, ArrayRef, UInt32Array, new_empty_array};
use arrow::compute::{concat, take};
use datafusion_common::{DataFusionError, Result};

use super::pieces::{CALL_BYTES, CALL_ROWS, HALVINGS, array_bytes, call_rows};
use super::udf::external;
use super::{FailureKind, GuestError, Plugin};

/// Rounds of merging at most. Each halves at least what a call can't take at once, so they are never used up but by states so large
/// that a guest can't hold two.
const ROUNDS: usize = 40;

/// Partial states: row i is one of group `groups[i]`.
#[derive(Clone, Debug)]
pub(super) struct Partial {
    pub(super) groups: Vec<u32>,
    pub(super) states: Vec<ArrayRef>,
}

impl Partial {
    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.groups.len() * size_of::<u32>() + self.states.iter().map(|s| s.get_array_memory_size()).sum::<usize>()
    }

    /// A state for each of the groups 0, 1, ...
    pub(super) fn whole(states: Vec<ArrayRef>, groups: usize) -> Self {
        Self { groups: (0..groups as u32).collect(), states }
    }
}

/// Merges partial states of the groups `0..total` into one state a group, in the order of the groups. A group without any has the state
/// of no rows.
pub(super) fn merge(plugin: &Plugin, function: usize, parts: &[Partial], total: usize) -> Result<Vec<ArrayRef>> {
    let mut all = join(plugin, function, parts)?;
    for number in 0..ROUNDS {
        if is_whole(&all.groups, total) {
            return Ok(all.states);
        }
        if fits(&all, total) {
            match plugin.merge(function, &all.groups, total, &all.states) {
                // What a guest says of a row is about a state here, and no row of the input is meant.
                Err(e) if e.kind == FailureKind::Memory => {}
                other => return other.map_err(|e| external(without_row(e))),
            }
        }
        let sorted = sort(&all)?;
        if is_whole(&sorted.groups, total) {
            return Ok(sorted.states);
        }
        all = round(plugin, function, &sorted, total, number)?;
    }
    let message = "its partial states are so large that two of them can't be merged in one call".to_owned();
    Err(external(plugin.error(function, FailureKind::Memory, message)))
}

/// All parts as one.
fn join(plugin: &Plugin, function: usize, parts: &[Partial]) -> Result<Partial> {
    if let [one] = parts {
        return Ok(one.clone());
    }
    let fields = &plugin.functions[function].state;
    let groups = parts.iter().flat_map(|p| &p.groups).copied().collect();
    let column = |i: usize| match parts {
        [] => Ok(new_empty_array(&fields[i].data_type.data_type())),
        _ => concat(&parts.iter().map(|p| p.states[i].as_ref()).collect::<Vec<_>>()),
    };
    Ok(Partial { groups, states: (0..fields.len()).map(column).collect::<Result<_, _>>()? })
}

/// Whether the rows are exactly one state for each group, in order.
fn is_whole(groups: &[u32], total: usize) -> bool {
    groups.len() == total && groups.iter().enumerate().all(|(i, g)| i == *g as usize)
}

/// Whether one call can take all.
fn fits(all: &Partial, total: usize) -> bool {
    total <= CALL_ROWS && all.groups.len() <= 4 * CALL_ROWS && all.states.iter().map(array_bytes).sum::<usize>() <= CALL_BYTES
}

/// The rows ordered by group.
fn sort(all: &Partial) -> Result<Partial> {
    if all.groups.is_sorted() {
        return Ok(all.clone());
    }
    let mut order: Vec<u32> = (0..all.groups.len() as u32).collect();
    order.sort_by_key(|row| all.groups[*row as usize]);
    let groups = order.iter().map(|row| all.groups[*row as usize]).collect();
    let order = UInt32Array::from(order);
    let states = all.states.iter().map(|s| take(s, &order, None)).collect::<Result<_, _>>()?;
    Ok(Partial { groups, states })
}

/// Merges sorted rows piece by piece. A group that is cut by the end of a piece has several states afterwards, so that it needs another
/// round; there the pieces are cut elsewhere, so that it is cut no more.
fn round(plugin: &Plugin, function: usize, sorted: &Partial, total: usize, number: usize) -> Result<Partial> {
    let rows = sorted.groups.len();
    let step = call_rows(rows, sorted.states.iter().map(array_bytes).sum());
    let mut pieces = Vec::new();
    let merger = Merger { plugin, function, sorted, total };
    let mut start = 0;
    let mut end = rows.min(if number.is_multiple_of(2) { step } else { step / 2 });
    loop {
        merger.piece(start, end, HALVINGS, &mut pieces)?;
        start = end;
        if start == rows {
            return join(plugin, function, &pieces);
        }
        end = rows.min(start + step);
    }
}

struct Merger<'a> {
    plugin: &'a Plugin,
    function: usize,
    sorted: &'a Partial,
    total: usize,
}

impl Merger<'_> {
    /// Merges the rows `start..end`. Groups without any rows belong to the piece of the next greater group, or to the last piece.
    fn piece(&self, start: usize, end: usize, halvings: u32, pieces: &mut Vec<Partial>) -> Result<()> {
        let groups = &self.sorted.groups;
        let low = match start {
            0 => 0,
            _ if groups[start - 1] == groups[start] => groups[start],
            _ => groups[start - 1] + 1,
        };
        let high = if end == groups.len() { self.total as u32 } else { groups[end - 1] + 1 };
        let local: Vec<u32> = groups[start..end].iter().map(|g| g - low).collect();
        let states: Vec<ArrayRef> = self.sorted.states.iter().map(|s| s.slice(start, end - start)).collect();
        match self.plugin.merge(self.function, &local, (high - low) as usize, &states) {
            Ok(states) => pieces.push(Partial { groups: (low..high).collect(), states }),
            Err(e) if e.kind == FailureKind::Memory && halvings > 0 && end - start > 2 => {
                let middle = start + (end - start) / 2;
                self.piece(start, middle, halvings - 1, pieces)?;
                self.piece(middle, end, halvings - 1, pieces)?;
            }
            Err(e) => return Err(external(without_row(e))),
        }
        Ok(())
    }
}

/// The error without the row that the guest named: it is one of partial states, not of the input.
pub(super) fn without_row(mut error: GuestError) -> GuestError {
    if let FailureKind::Refused(row) = &mut error.kind {
        *row = None;
    }
    error
}

/// A partial from DataFusion's form, its types checked.
pub(super) fn partial(plugin: &Plugin, function: usize, states: &[ArrayRef], groups: &[usize]) -> Result<Partial> {
    let about = &plugin.functions[function];
    let fits = states.len() == about.state.len() && states.iter().all(|s| s.len() == groups.len());
    if !fits {
        let text = format!("{}: {} state columns, the state is ({})", about.name, states.len(), about.state_layout());
        return Err(DataFusionError::Execution(text));
    }
    let states = states.iter().zip(&about.state).map(|(s, f)| super::udf::as_type(s, f.data_type)).collect::<Result<_>>()?;
    Ok(Partial { groups: groups.iter().map(|g| *g as u32).collect(), states })
}
