//! Finding what is at fault in a call that failed, by bisection, within a budget.

use crate::plugin::GuestError;
use datafusion_common::{DataFusionError, Result};
use std::ops::Range;

/// Calls that an epoch may spend on finding rows at fault. A time-out counts for [`TIMEOUT_COST`] calls, since each takes the
/// whole time limit.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: usize,
}

/// What a call that timed out costs.
const TIMEOUT_COST: usize = 32;
/// Calls that isolating one row of a batch may take, about twice the binary logarithm of the largest batch.
const CALLS_A_ROW: usize = 28;

impl Budget {
    /// Enough to isolate `rows` rows.
    pub fn for_rows(rows: usize) -> Self {
        Self { left: rows.saturating_mul(CALLS_A_ROW) }
    }

    fn spend(&mut self, error: Option<&DataFusionError>) {
        self.spend_on(error.and_then(crate::plugin::guest_error));
    }

    /// A call, and how it failed where it did.
    pub fn spend_on(&mut self, error: Option<&GuestError>) {
        let timed_out = error.is_some_and(|g| g.kind == crate::plugin::FailureKind::Timeout);
        self.left = self.left.saturating_sub(if timed_out { TIMEOUT_COST } else { 1 });
    }

    /// Whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }
}

/// Items at fault, and why.
#[derive(Debug)]
pub struct Fault {
    /// The items: one, or the rest that the budget did not suffice to take apart.
    pub items: Range<usize>,
    /// The error of the call over them.
    pub error: DataFusionError,
}

/// Finds the items in `0..count` at fault: `call` is pure, fails over any range with an item at fault in it, and has failed over all.
///
/// The ranges that it gives are disjoint and ascending.
pub fn isolate(
    count: usize,
    error: DataFusionError,
    budget: &mut Budget,
    call: &mut dyn FnMut(Range<usize>) -> Result<()>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    // Explicit stack: ranges that are known to fail, the leftmost on top.
    let mut open = vec![(0..count, error)];
    while let Some((range, error)) = open.pop() {
        if range.len() <= 1 || budget.left == 0 {
            faults.push(Fault { items: range, error });
            continue;
        }
        let middle = range.start + range.len() / 2;
        let mut halves = Vec::with_capacity(2);
        for half in [range.start..middle, middle..range.end] {
            let outcome = call(half.clone()).err();
            budget.spend(outcome.as_ref());
            halves.extend(outcome.map(|e| (half, e)));
        }
        if halves.is_empty() {
            // Each half is well and the whole is not: no single item is at fault, so the range is taken as one.
            faults.push(Fault { items: range, error });
        } else {
            open.extend(halves.into_iter().rev());
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion_common::exec_datafusion_err;

    fn run(count: usize, bad: &[usize], budget: usize) -> (Vec<Range<usize>>, usize) {
        let mut calls = 0;
        let faults = isolate(count, exec_datafusion_err!("all"), &mut Budget { left: budget }, &mut |r| {
            calls += 1;
            if bad.iter().any(|b| r.contains(b)) { Err(exec_datafusion_err!("{r:?}")) } else { Ok(()) }
        });
        (faults.into_iter().map(|f| f.items).collect(), calls)
    }

    #[test]
    fn finds_each_bad_item_and_no_other() {
        assert_eq!(run(8_192, &[77], 1_000).0, vec![77..78]);
        assert!(run(8_192, &[77], 1_000).1 <= 26);
        assert_eq!(run(10, &[0, 9], 1_000).0, [0..1, 9..10]);
        assert_eq!(run(1, &[0], 1_000).0, vec![0..1]);
    }

    #[test]
    fn a_spent_budget_gives_ranges_that_cover_every_bad_item() {
        let (ranges, calls) = run(1_000, &(0..1_000).collect::<Vec<_>>(), 10);
        assert_eq!(ranges.iter().map(Range::len).sum::<usize>(), 1_000);
        assert!(calls <= 12);
    }
}
