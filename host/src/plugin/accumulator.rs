//! An aggregate of a guest as DataFusion accumulates: rows of a batch become partial states at once, partial states are merged when
//! they have become many, and when they are asked for.
//!
//! **Invariant**: a call either succeeds or leaves the accumulator as it was: the guest is called first, only then something changes.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::{filter, prep_null_mask_filter};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::partials::{Partial, merge, partial, without_row};
use super::pieces::{argument_bytes, array_bytes, in_pieces};
use super::udf::{as_type, external, join};
use super::{Argument, FailureKind, GuestError, Plugin};

/// Partial states that wait beyond those of the last merge; past it, and past the number of groups, they are merged.
const PENDING_ROWS: usize = 65_536;
/// Bytes that wait beyond those of the last merge; past it, and past the bytes of that merge, they are merged.
const PENDING_BYTES: usize = 32 << 20;

/// Accumulates for many groups.
pub(super) struct GuestGroups {
    plugin: Arc<Plugin>,
    function: usize,
    /// The value of each argument that is a literal.
    constants: Vec<Option<ArrayRef>>,
    parts: Vec<Partial>,
    /// Rows and bytes of `parts` but for the first, which is the last merge's.
    pending_rows: usize,
    pending_bytes: usize,
    groups: usize,
    numbering: Numbering,
}

impl GuestGroups {
    pub(super) fn new(plugin: Arc<Plugin>, function: usize, constants: Vec<Option<ArrayRef>>) -> Self {
        let numbering = Numbering::default();
        Self { plugin, function, constants, parts: Vec::new(), pending_rows: 0, pending_bytes: 0, groups: 0, numbering }
    }

    fn arguments(&self, values: &[ArrayRef]) -> Result<Vec<Argument>> {
        let types = &self.plugin.functions[self.function].arguments;
        if values.len() != types.len() {
            let text = format!("is called wrongly: {} arguments instead of {}", values.len(), types.len());
            return Err(external(self.plugin.error(self.function, FailureKind::Nonsense, text)));
        }
        let argument = |(i, value): (usize, &ArrayRef)| match self.constants.get(i) {
            Some(Some(constant)) => Ok(Argument::Constant(constant.clone())),
            _ => as_type(value, types[i]).map(Argument::Column),
        };
        values.iter().enumerate().map(argument).collect()
    }

    /// One state a group so far; what waits is merged.
    fn merged(&self) -> Result<Vec<ArrayRef>> {
        merge(&self.plugin, self.function, &self.parts, self.groups)
    }

    fn finished(&self, states: &[ArrayRef], groups: usize) -> Result<ArrayRef> {
        let bytes = states.iter().map(array_bytes).sum();
        let pieces = in_pieces(groups, bytes, |range| {
            let piece: Vec<ArrayRef> = states.iter().map(|s| s.slice(range.start, range.len())).collect();
            self.plugin.finish(self.function, range.len(), &piece)
        });
        join(pieces.map_err(|e| external(without_row(e)))?, self.plugin.functions[self.function].result)
    }

    /// Takes in new partial states of `groups` groups in all.
    fn append(&mut self, new: Vec<Partial>, groups: usize) -> Result<()> {
        let rows: usize = new.iter().map(|p| p.groups.len()).sum();
        let bytes: usize = new.iter().map(Partial::bytes).sum();
        let first_bytes = self.parts.first().map_or(0, Partial::bytes);
        let many = self.pending_rows + rows > PENDING_ROWS.max(groups);
        let large = self.pending_bytes + bytes > PENDING_BYTES.max(first_bytes);
        if (many || large) && !self.parts.is_empty() {
            let mut parts = self.parts.clone();
            parts.extend(new);
            let states = merge(&self.plugin, self.function, &parts, groups)?;
            self.hold(states, groups);
        } else {
            // The first one is not counted: merging it alone would gain nothing.
            if !self.parts.is_empty() {
                self.pending_rows += rows;
                self.pending_bytes += bytes;
            }
            self.parts.extend(new);
            self.groups = groups;
        }
        Ok(())
    }

    /// Holds one state a group, and nothing else.
    fn hold(&mut self, states: Vec<ArrayRef>, groups: usize) {
        self.parts = if groups == 0 { Vec::new() } else { vec![Partial::whole(states, groups)] };
        (self.pending_rows, self.pending_bytes, self.groups) = (0, 0, groups);
    }

    /// Gives the states of the groups that are emitted to `finish`, and keeps the others.
    fn emit<T>(&mut self, emit_to: EmitTo, finish: impl FnOnce(&Self, &[ArrayRef], usize) -> Result<T>) -> Result<T> {
        let states = self.merged()?;
        let groups = self.groups;
        let first = match emit_to {
            EmitTo::All => groups,
            EmitTo::First(n) => n.min(groups),
        };
        let cut = |start: usize, len: usize| -> Vec<ArrayRef> { states.iter().map(|s| s.slice(start, len)).collect() };
        let result = finish(self, &cut(0, first), first)?;
        let rest = cut(first, groups - first);
        self.hold(rest, groups - first);
        if self.groups == 0 {
            self.numbering = Numbering::default();
        }
        Ok(result)
    }
}

impl GroupsAccumulator for GuestGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let arguments = self.arguments(values)?;
        let kept = Kept::new(arguments, group_indices, opt_filter)?;
        let numbering = &mut self.numbering;
        numbering.grow(total_num_groups);
        let (plugin, function) = (&self.plugin, self.function);
        let new = in_pieces(kept.groups().len(), argument_bytes(&kept.arguments), |range| {
            let arguments: Vec<Argument> = kept.arguments.iter().map(|a| a.slice(range.start, range.len())).collect();
            let (local, groups) = numbering.number(&kept.groups()[range]);
            let states = plugin.accumulate(function, local, groups.len(), &arguments)?;
            Ok(Partial { groups, states })
        });
        self.append(new.map_err(|e| external(kept.with_original_row(e)))?, total_num_groups)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        let new = partial(&self.plugin, self.function, values, group_indices)?;
        self.append(vec![new], total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.emit(emit_to, |this, states, groups| this.finished(states, groups))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.emit(emit_to, |_, states, _| Ok(states.to_vec()))
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = opt_filter.map_or_else(|| values.first().map_or(0, Array::len), Array::len);
        let mut one_group_a_row = Self::new(self.plugin.clone(), self.function, self.constants.clone());
        let groups: Vec<usize> = (0..rows).collect();
        one_group_a_row.update_batch(values, &groups, opt_filter, rows)?;
        one_group_a_row.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        // Called once a batch; the parts are few.
        self.parts.iter().map(Partial::bytes).sum::<usize>() + self.numbering.bytes()
    }
}

/// The rows of a batch that an aggregate's filter leaves.
struct Kept<'a> {
    arguments: Vec<Argument>,
    all_groups: &'a [usize],
    /// Groups and original numbers of the rows, where any was dropped.
    some: Option<(Vec<usize>, Vec<u32>)>,
}

impl<'a> Kept<'a> {
    fn new(arguments: Vec<Argument>, groups: &'a [usize], opt_filter: Option<&BooleanArray>) -> Result<Self> {
        let Some(mask) = opt_filter.filter(|m| m.true_count() < m.len()) else {
            return Ok(Self { arguments, all_groups: groups, some: None });
        };
        // A null is not true.
        let mask = if mask.null_count() > 0 { &prep_null_mask_filter(mask) } else { mask };
        let arguments = arguments
            .into_iter()
            .map(|a| match a {
                Argument::Column(array) => filter(&array, mask).map(Argument::Column),
                constant => Ok(constant),
            })
            .collect::<Result<_, _>>()?;
        let rows: Vec<u32> = mask.values().set_indices_u32().collect();
        let kept = rows.iter().map(|row| groups[*row as usize]).collect();
        Ok(Self { arguments, all_groups: groups, some: Some((kept, rows)) })
    }

    fn groups(&self) -> &[usize] {
        self.some.as_ref().map_or(self.all_groups, |(groups, _)| groups)
    }

    fn with_original_row(&self, mut error: GuestError) -> GuestError {
        if let (FailureKind::Refused(Some(row)), Some((_, rows))) = (&mut error.kind, &self.some) {
            *row = rows[*row] as usize;
        }
        error
    }
}

/// Numbers the groups of a batch from 0 in the order of their first rows, so that a guest makes states only for groups that are there.
#[derive(Default)]
struct Numbering {
    /// For each group: the round it was numbered in (high half) and its number (low half).
    slots: Vec<u64>,
    round: u32,
    local: Vec<u32>,
}

impl Numbering {
    fn grow(&mut self, groups: usize) {
        if self.slots.len() < groups {
            self.slots.resize(groups, 0);
        }
    }

    /// The number of each row's group, and the groups by number.
    fn number(&mut self, rows: &[usize]) -> (&[u32], Vec<u32>) {
        self.round = self.round.checked_add(1).unwrap_or_else(|| {
            self.slots.fill(0);
            1
        });
        let stamp = u64::from(self.round) << 32;
        let mut groups = Vec::new();
        self.local.clear();
        self.local.extend(rows.iter().map(|group| {
            let slot = &mut self.slots[*group];
            if *slot < stamp {
                *slot = stamp | groups.len() as u64;
                groups.push(*group as u32);
            }
            *slot as u32
        }));
        (&self.local, groups)
    }

    fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>() + self.local.capacity() * size_of::<u32>()
    }
}

/// Accumulates for a single group, by the same calls.
pub(super) struct GuestRows(GuestGroups);

impl GuestRows {
    pub(super) fn new(mut groups: GuestGroups) -> Self {
        groups.groups = 1;
        Self(groups)
    }
}

impl fmt::Debug for GuestRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:?}", self.0.plugin.functions[self.0.function].name, self.0.plugin)
    }
}

impl Accumulator for GuestRows {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, Array::len);
        self.0.update_batch(values, &vec![0; rows], None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        // May be called again later, so nothing is emitted.
        let states = self.0.merged()?;
        ScalarValue::try_from_array(&self.0.finished(&states, 1)?, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.merged()?.iter().map(|s| ScalarValue::try_from_array(s, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states.first().map_or(0, Array::len);
        self.0.merge_batch(states, &vec![0; rows], 1)
    }
}
