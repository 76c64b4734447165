//! Calls of a guest: columns in, checked columns out, counted. One call carries a batch; how large, its caller bounds.

use std::time::Instant;

use arrow::array::ArrayRef;
use arrow::buffer::BooleanBuffer;
use wasmtime::component::Func;

use super::abi::{BitmapResult, ColumnIn, ColumnResult, ColumnsResult, FailureOut, GroupsParams, RowsParams};
use super::instance::{Crash, Instance};
use super::load::Plugin;
use super::lower::{Argument, Prepared, prepare};
use super::{FailureKind, GuestError, GuestType, lift};

/// Characters of a guest's message that are kept.
const MESSAGE_CHARS: usize = 512;

impl Plugin {
    /// Calls filter number `function` for `rows` rows: which to keep.
    ///
    /// # Errors
    /// How the guest failed. The row of a refusal is one of this call.
    pub fn filter(&self, function: usize, rows: usize, arguments: &[Argument]) -> Result<BooleanBuffer, GuestError> {
        let prepared = self.prepared(function, arguments, &self.functions[function].arguments, rows)?;
        let columns: Vec<ColumnIn<'_>> = prepared.iter().map(Prepared::column).collect();
        self.run(
            function,
            rows,
            |i| i.filter,
            |i, f| {
                let params: RowsParams<'_> = (function as u32, rows as u32, &columns);
                i.call::<_, BitmapResult>(f, params, self.limits()).map(|r| r.0)
            },
            |bits| lift::bitmap(bits, rows),
        )
    }

    /// Calls scalar function number `function` for `rows` rows: a value each.
    ///
    /// # Errors
    /// How the guest failed. The row of a refusal is one of this call.
    pub fn scalar(&self, function: usize, rows: usize, arguments: &[Argument]) -> Result<ArrayRef, GuestError> {
        let signature = &self.functions[function];
        let prepared = self.prepared(function, arguments, &signature.arguments, rows)?;
        self.rows_call(function, rows, &prepared, |i| i.scalar)
    }

    /// Rows to one partial state a group: row i belongs to group `groups[i]`, which is less than `group_count`. A column a state field,
    /// `group_count` rows.
    ///
    /// # Errors
    /// How the guest failed. The row of a refusal is one of this call.
    pub fn accumulate(
        &self,
        function: usize,
        groups: &[u32],
        group_count: usize,
        arguments: &[Argument],
    ) -> Result<Vec<ArrayRef>, GuestError> {
        let prepared = self.prepared(function, arguments, &self.functions[function].arguments, groups.len())?;
        self.groups_call(function, groups, group_count, &prepared, |i| i.accumulate)
    }

    /// Partial states to one partial state a group, numbered as in [`Self::accumulate`].
    ///
    /// # Errors
    /// How the guest failed.
    pub fn merge(
        &self,
        function: usize,
        groups: &[u32],
        group_count: usize,
        states: &[ArrayRef],
    ) -> Result<Vec<ArrayRef>, GuestError> {
        let states: Vec<Argument> = states.iter().cloned().map(Argument::Column).collect();
        let prepared = self.prepared(function, &states, &self.state_types(function), groups.len())?;
        self.groups_call(function, groups, group_count, &prepared, |i| i.merge)
    }

    /// Partial states to results, one a row.
    ///
    /// # Errors
    /// How the guest failed.
    pub fn finish(&self, function: usize, rows: usize, states: &[ArrayRef]) -> Result<ArrayRef, GuestError> {
        let states: Vec<Argument> = states.iter().cloned().map(Argument::Column).collect();
        let prepared = self.prepared(function, &states, &self.state_types(function), rows)?;
        self.rows_call(function, rows, &prepared, |i| i.finish)
    }

    pub(super) fn state_types(&self, function: usize) -> Vec<GuestType> {
        self.functions[function].state.iter().map(|f| f.data_type).collect()
    }

    pub(super) fn prepared<'a>(
        &self,
        function: usize,
        arguments: &'a [Argument],
        types: &[GuestType],
        rows: usize,
    ) -> Result<Vec<Prepared<'a>>, GuestError> {
        let fault = |text: String| self.error(function, FailureKind::Nonsense, format!("is called wrongly: {text}"));
        if arguments.len() != types.len() {
            return Err(fault(format!("{} arguments instead of {}", arguments.len(), types.len())));
        }
        arguments.iter().zip(types).map(|(a, t)| prepare(a, *t, rows).map_err(fault)).collect()
    }

    fn rows_call(
        &self,
        function: usize,
        rows: usize,
        prepared: &[Prepared<'_>],
        export: fn(&Instance) -> Option<Func>,
    ) -> Result<ArrayRef, GuestError> {
        let columns: Vec<ColumnIn<'_>> = prepared.iter().map(Prepared::column).collect();
        let expected = self.functions[function].result;
        self.run(
            function,
            rows,
            export,
            |i, f| {
                let params: RowsParams<'_> = (function as u32, rows as u32, &columns);
                i.call::<_, ColumnResult>(f, params, self.limits()).map(|r| r.0)
            },
            |column| lift::column(column, expected, rows),
        )
    }

    fn groups_call(
        &self,
        function: usize,
        groups: &[u32],
        group_count: usize,
        prepared: &[Prepared<'_>],
        export: fn(&Instance) -> Option<Func>,
    ) -> Result<Vec<ArrayRef>, GuestError> {
        let columns: Vec<ColumnIn<'_>> = prepared.iter().map(Prepared::column).collect();
        let fields = &self.functions[function].state;
        self.run(
            function,
            groups.len(),
            export,
            |i, f| {
                let params: GroupsParams<'_> = (function as u32, groups, group_count as u32, &columns);
                i.call::<_, ColumnsResult>(f, params, self.limits()).map(|r| r.0)
            },
            |columns| lift::states(columns, fields, group_count, "groups"),
        )
    }

    /// One call on an instance of the pool. The instance goes back only where all went as agreed or the guest refused.
    pub(super) fn run<T, U>(
        &self,
        function: usize,
        rows: usize,
        export: impl Fn(&Instance) -> Option<Func>,
        call: impl FnOnce(&mut Instance, Func) -> Result<Result<T, FailureOut>, Crash>,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Result<U, GuestError> {
        let start = Instant::now();
        let nonsense = |text: String| Crash { kind: FailureKind::Nonsense, message: text };
        let attempt = || {
            let mut slot = self.pool.check_out(&self.guest)?;
            let instance = slot.instance();
            let func = export(instance).ok_or_else(|| nonsense("the export that it needs is missing".into()))?;
            let answer = call(instance, func)?;
            let result = match answer {
                Ok(value) => Ok(check(value).map_err(nonsense)?),
                Err(refusal) => Err(refused(refusal, rows)),
            };
            slot.give_back();
            result
        };
        let result = attempt();
        self.stats.called(rows, start.elapsed(), result.as_ref().err().map(|c| &c.kind));
        result.map_err(|crash| self.error(function, crash.kind, crash.message))
    }

    /// An error of this plugin's function.
    pub(super) fn error(&self, function: usize, kind: FailureKind, message: String) -> GuestError {
        GuestError {
            plugin: self.name.clone(),
            version: self.version_text.clone(),
            hash: self.short_hash.clone(),
            function: self.functions[function].name.clone(),
            kind,
            message,
        }
    }
}

fn refused(failure: FailureOut, rows: usize) -> Crash {
    let row = failure.row.map(|r| r as usize);
    let shown: String = failure.message.chars().take(MESSAGE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let message = match row {
        Some(row) if row >= rows => format!("refused row {row} of {rows}, which is not there: {shown}"),
        // The number of the row is one of this call, which says nothing to people.
        _ => format!("refused: {shown}"),
    };
    Crash { kind: FailureKind::Refused(row.filter(|r| *r < rows)), message }
}
