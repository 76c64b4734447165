//! Calls of the test guest: what comes back, how failures are told, what becomes of the instances.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, new_empty_array};
use arrow::datatypes::{DataType, Int64Type};
use datafusion_expr::{EmitTo, GroupsAccumulator};

use super::accumulator::GuestGroups;
use super::pieces::CALL_ROWS;
use super::testing::{engine, plugin};
use super::{Argument, FailureKind, Plugin};

fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn fail(plugin: &Plugin, how: i64) -> (FailureKind, String) {
    let error = plugin.scalar(3, 2, &[Argument::Column(ints([how, 0]))]).unwrap_err();
    (error.kind.clone(), error.to_string())
}

#[test]
fn columns_and_constants_go_in_and_out() {
    let plugin = plugin(&engine(), "p", "1.0.0", "");
    let kept = plugin.filter(0, 11, &[Argument::Column(ints(0..11))]).unwrap();
    assert_eq!(kept.iter().collect::<Vec<_>>(), (0..11).map(|i| i % 2 == 0).collect::<Vec<_>>());
    let twice = plugin.scalar(1, 3, &[Argument::Column(ints(1..9).slice(2, 3))]).unwrap();
    assert_eq!(twice.as_primitive::<Int64Type>().values(), &[6, 8, 10]);
    let twice = plugin.scalar(1, 4, &[Argument::Constant(ints([21]))]).unwrap();
    assert_eq!(twice.as_primitive::<Int64Type>().values(), &[42; 4]);
    let sums = plugin.accumulate(2, &[0, 1, 0], 3, &[Argument::Column(ints([1, 2, 3]))]).unwrap();
    assert_eq!(sums[0].as_primitive::<Int64Type>().values(), &[4, 2, 0]);
    assert_eq!((plugin.stats.read().calls, plugin.stats.read().rows, plugin.instances()), (4, 21, 1));
}

#[test]
fn each_failure_is_told_and_costs_the_instance() {
    let plugin = plugin(&engine(), "p", "1.0.0", "");
    let cases = [
        (1, FailureKind::Trap, "trapped: wasm trap: wasm `unreachable` instruction executed"),
        (2, FailureKind::Timeout, "ran longer than 200ms"),
        (3, FailureKind::Trap, "stack overflow (endless recursion, or more than 524288 bytes of stack)"),
        (4, FailureKind::Memory, "of memory, the limit is 8388608"),
        (6, FailureKind::Nonsense, "a column has 3 values instead of 2"),
        (7, FailureKind::Nonsense, "its answer can't be read: list pointer/length out of bounds of memory"),
    ];
    for (how, kind, expect) in cases {
        let (found, text) = fail(&plugin, how);
        assert_eq!(found, kind, "{text}");
        assert!(text.contains(expect), "{text}");
        assert!(text.starts_with(&format!("plugin p 1.0.0 ({}), function fails: ", plugin.short_hash())), "{text}");
        assert_eq!(plugin.instances(), 0, "an instance that failed is thrown away");
        assert_eq!(plugin.scalar(1, 1, &[Argument::Column(ints([4]))]).unwrap().as_primitive::<Int64Type>().value(0), 8);
    }
    assert_eq!(fail(&plugin, 5).0, FailureKind::Refused(Some(1)));
    assert_eq!(plugin.instances(), 1, "an instance that refused goes on");
    let stats = plugin.stats.read();
    assert_eq!((stats.traps, stats.timeouts, stats.memory, stats.nonsense, stats.refused), (2, 1, 1, 2, 1));
}

#[test]
fn the_stack_overflow_names_the_function() {
    let plugin = plugin(&engine(), "p", "1.0.0", "");
    assert!(fail(&plugin, 3).1.contains("in deep < deep"), "{}", fail(&plugin, 3).1);
}

#[test]
fn instances_are_shared_and_bounded() {
    let plugin = plugin(&engine(), "p", "1.0.0", "");
    std::thread::scope(|scope| {
        for _ in 0..80 {
            scope.spawn(|| {
                for _ in 0..20 {
                    plugin.scalar(1, 100, &[Argument::Column(ints(0..100))]).unwrap();
                }
            });
        }
    });
    assert!(plugin.instances() <= super::pool::INSTANCES);
    assert_eq!(plugin.stats.read().calls, 1_600);
}

fn groups(plugin: &Arc<Plugin>) -> GuestGroups {
    GuestGroups::new(plugin.clone(), 2, vec![None])
}

#[test]
fn groups_are_accumulated_merged_and_emitted() {
    let plugin = plugin(&engine(), "p", "1.0.0", "");
    let mut acc = groups(&plugin);
    acc.update_batch(&[ints([1, 2, 3])], &[5, 0, 5], None, 6).unwrap();
    let mask = BooleanArray::from(vec![Some(true), Some(false), None, Some(true)]);
    acc.update_batch(&[ints([10, 20, 30, 40])], &[1, 1, 1, 6], Some(&mask), 7).unwrap();
    assert!(acc.size() > 0);
    let first = acc.evaluate(EmitTo::First(2)).unwrap();
    assert_eq!(first.as_primitive::<Int64Type>().values(), &[2, 10]);
    // Groups 5 and 6 are 3 and 4 now.
    acc.merge_batch(&[ints([100, 1_000])], &[4, 4], 5).unwrap();
    let states = acc.state(EmitTo::All).unwrap();
    assert_eq!(states[0].as_primitive::<Int64Type>().values(), &[0, 0, 0, 4, 1_140]);
    assert_eq!(acc.evaluate(EmitTo::All).unwrap().len(), 0);
    assert_eq!(&acc.state(EmitTo::All).unwrap(), &[new_empty_array(&DataType::Int64)]);
}

#[test]
fn many_batches_many_groups_equal_the_plain_sums() {
    let plugin = plugin(&engine(), "p", "1.0.0", "");
    for total in [1_usize, 7, 1_000, 50_000] {
        let mut acc = groups(&plugin);
        let mut expect = vec![0_i64; total];
        for batch in 0..40_usize {
            let rows = if batch == 3 { 3 * CALL_ROWS } else { 4_000 };
            let group: Vec<usize> = (0..rows).map(|i| (i * 7_919 + batch * 104_729) % total).collect();
            let values: Vec<i64> = (0..rows).map(|i| (i * batch) as i64).collect();
            for (g, v) in group.iter().zip(&values) {
                expect[*g] += v;
            }
            if batch % 2 == 0 {
                acc.update_batch(&[ints(values)], &group, None, total).unwrap();
            } else {
                acc.merge_batch(&[ints(values)], &group, total).unwrap();
            }
        }
        let sums = acc.evaluate(EmitTo::All).unwrap();
        assert_eq!(sums.as_primitive::<Int64Type>().values(), &expect, "{total} groups");
    }
}

#[test]
fn a_state_for_each_row() {
    let plugin = plugin(&engine(), "p", "1.0.0", "");
    let mask = BooleanArray::from(vec![true, false, true]);
    let states = groups(&plugin).convert_to_state(&[ints([1, 2, 3])], Some(&mask)).unwrap();
    assert_eq!(states[0].as_primitive::<Int64Type>().values(), &[1, 0, 3]);
}

#[test]
fn a_failing_call_leaves_the_accumulator_as_it_was() {
    let plugin = plugin(&engine(), "p", "1.0.0", "");
    let mut acc = groups(&plugin);
    acc.update_batch(&[ints([1, 2])], &[0, 1], None, 2).unwrap();
    // Wrong: text, and one column too many.
    let text: ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["x"]));
    assert!(acc.update_batch(&[text], &[0], None, 2).is_err());
    assert!(acc.merge_batch(&[ints([1]), ints([1])], &[0], 2).is_err());
    assert_eq!(acc.evaluate(EmitTo::All).unwrap().as_primitive::<Int64Type>().values(), &[1, 2]);
}
