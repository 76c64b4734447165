//! Operations with state behind each other: what the later one is given, and what can't be.

use super::*;
use crate::plan::ResultBound;

fn counts(line: usize, time: &str, keys: &[&str]) -> Placed<Operation> {
    window(line, time, keys, vec![reduce(line, "count", &[], "n")])
}

fn of(operation: &mut Placed<Operation>) -> &mut WindowAggregateSpec {
    match &mut operation.value {
        Operation::WindowAggregate(spec) => spec,
        _ => panic!("a window"),
    }
}

fn changed(mut operation: Placed<Operation>, change: impl FnOnce(&mut WindowAggregateSpec)) -> Placed<Operation> {
    change(of(&mut operation));
    operation
}

#[test]
fn the_later_one_is_given_what_it_uses() {
    let mut pipeline = pipeline(vec![
        parse(1),
        counts(2, "st", &["name", "size"]),
        filter(3, "n > 1"),
        changed(counts(4, "window_start", &["name"]), |w| w.watermark = Duration::ZERO),
        filter(5, "n > 2"),
    ]);
    pipeline.operators = vec!["inner".into(), "outer".into()];
    let plan = plan_of(&pipeline);
    let next = plan.next.as_ref().unwrap();
    assert_eq!(next.bound, ResultBound::OpenWindow);
    assert_eq!(types(&next.plan.decoded), ["name Utf8", "window_start Timestamp(ms)", "n Int64", "__row UInt32"]);
    assert!(next.plan.decode.is_empty() && plan.output_keys.is_empty());
    assert_eq!(next.columns, [0, 2, 4]);
    assert_eq!((plan.post.len(), next.plan.pre.len(), plan.last().post.len()), (0, 2, 1));
    assert_eq!(plan.operators().keys().collect::<Vec<_>>(), ["inner", "outer"]);
    assert!(next.plan.layout.starts_with("operator 2 with state\n"), "{}", next.plan.layout);
    assert!(!plan.layout.contains("operator"), "{}", plan.layout);
}

#[test]
fn how_late_results_are() {
    let bound = |inner: Placed<Operation>, time: &str| {
        let plan = plan(vec![parse(1), inner, counts(3, time, &[])]);
        plan.next.unwrap().bound
    };
    let minute = Duration::from_secs(60);
    let late = || changed(counts(2, "st", &[]), |w| w.allowed_lateness = minute);
    assert_eq!(bound(late(), "window_end"), ResultBound::Behind(minute));
    assert_eq!(bound(late(), "window_start"), ResultBound::OpenWindow);
    let session = changed(counts(2, "st", &[]), |w| w.kind.value = WindowKind::Session { gap: minute });
    assert_eq!(bound(session, "window_end"), ResultBound::Behind(Duration::ZERO));
}

#[test]
fn what_can_not_be() {
    let check = |inner: Placed<Operation>, outer: Placed<Operation>, says: &[&str]| {
        let found = faults(&pipeline(vec![parse(1), inner, outer]));
        let fits = found.len() == says.len() && found.iter().zip(says).all(|(f, s)| f.starts_with(s));
        assert!(fits, "expected {says:#?}, found {found:#?}");
    };
    let (inner, outer) = (|| counts(2, "st", &[]), || counts(3, "window_end", &[]));
    check(changed(inner(), |w| w.emit.value = Emit::OnUpdate), outer(), &["2: an operation with state stands behind"]);
    check(
        changed(inner(), |w| w.output.value = OutputMode::Upsert),
        outer(),
        &["2: the results go on to an operation with state"],
    );
    let global = changed(inner(), |w| w.kind.value = WindowKind::Global);
    check(global, outer(), &["2: a global window has no end", "3: unknown column `window_end`; there are: n"]);
    let session = || changed(inner(), |w| w.kind.value = WindowKind::Session { gap: Duration::from_secs(1) });
    check(session(), counts(3, "window_start", &[]), &["3: `window_start` of a session can be any time before its end"]);
    let every = WindowKind::Count { every: 2, slide: 2 };
    check(inner(), changed(outer(), |w| w.kind.value = every), &["3: results come in an order that depends on"]);
    check(inner(), counts(3, "st", &[]), &["3: unknown column `st`"]);
    let read = changed(inner(), |w| (w.processing_time, w.timestamp_column) = (true, None));
    let last = changed(read, |w| w.aggregations = vec![reduce(2, "max", &["st"], "last")]);
    check(last, counts(3, "last", &[]), &["3: the windows before are of processing time, and `last` is not"]);
}
