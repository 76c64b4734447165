//! Windowed aggregation: its input, its results, what is over them.

use super::*;
use crate::operator::steps::apply;
use crate::plan::{Step, explain};
use arrow::array::{AsArray, BooleanArray};
use datafusion_expr::EmitTo;

fn counts() -> Vec<Placed<Operation>> {
    vec![parse(1), filter(2, "name is not null"), window(3, "st", &["name", "camelCase"], vec![reduce(4, "count", &[], "n")])]
}

/// The results of all aggregates over the test batch as one group.
fn results(plan: &Plan) -> Vec<String> {
    let batch = apply(&plan.pre, &batch(plan)).unwrap();
    let window = plan.window.as_ref().unwrap();
    let mut values = Vec::new();
    for aggregate in &window.aggregates {
        let function = &aggregate.function;
        let arguments: Vec<ArrayRef> =
            function.expressions().iter().map(|e| e.evaluate(&batch).unwrap().into_array(batch.num_rows()).unwrap()).collect();
        let filter: Option<&BooleanArray> = aggregate.filter.map(|f| batch.column(f).as_boolean());
        let result = if function.groups_accumulator_supported() {
            let mut accumulator = function.create_groups_accumulator().unwrap();
            accumulator.update_batch(&arguments, &vec![0; batch.num_rows()], filter, 1).unwrap();
            accumulator.evaluate(EmitTo::All).unwrap()
        } else {
            let mut accumulator = function.create_accumulator().unwrap();
            accumulator.update_batch(&arguments).unwrap();
            accumulator.evaluate().unwrap().to_array().unwrap()
        };
        values.push(arrow::util::display::array_value_to_string(&result, 0).unwrap());
    }
    values
}

#[test]
fn the_input_is_just_what_the_aggregation_uses() {
    let plan = plan(counts());
    let window = plan.window.as_ref().unwrap();
    assert_eq!(decoded_names(&plan), ["st", "name", "camelCase"]);
    assert_eq!((window.event_time, window.decoded_event_time, window.keys.as_slice()), (0, Some(0), &[1, 2][..]));
    let expected = ["name Utf8", "camelCase Utf8", "window_start Timestamp(ms)", "window_end Timestamp(ms)", "n Int64"];
    assert_eq!(types(&window.result), expected);
    assert_eq!(plan.output, window.result);
    assert_eq!(plan.output_keys, [0, 1]);
    assert!(plan.post.is_empty());
    assert_eq!(results(&plan), ["2"]);
}

#[test]
fn aggregates_get_the_types_they_want() {
    let mut percentile = reduce(9, "approx_percentile_cont", &["size"], "p");
    percentile.arguments = vec![constant(9, Constant::Double(0.5))];
    let mut distinct = reduce(10, "count", &["name"], "d");
    distinct.distinct = true;
    let mut filtered = reduce(11, "SUM", &["size"], "f");
    filtered.filter = Some(text(11, "size > 10"));
    let aggregations = vec![
        reduce(4, "count", &[], "n"),
        reduce(5, "sum", &["size"], "s"),
        reduce(6, "avg", &["size"], "a"),
        reduce(7, "max", &["name"], "m"),
        reduce(8, "total", &["size"], "t"),
        percentile,
        distinct,
        filtered,
        reduce(12, "approx_distinct", &["name"], "ad"),
        reduce(13, "array_agg", &["name"], "l"),
        reduce(14, "min", &["st"], "first"),
        reduce(15, "stddev", &["price"], "sd"),
        reduce(16, "bool_and", &["good"], "all"),
    ];
    let names = ["n", "s", "a", "m", "t", "p", "d", "f", "ad", "l", "first", "sd", "all"];
    let plan = plan(vec![parse(1), filter(2, "size is not null"), window(3, "st", &[], aggregations)]);
    let window = plan.window.as_ref().unwrap();
    let outputs: Vec<&str> = window.result.fields().iter().skip(2).map(|f| f.name().as_str()).collect();
    assert_eq!(outputs, names);
    let expected =
        ["2", "55", "27.5", "b", "55", "27.5", "2", "50", "2", "[a, b]", "1970-01-01T00:01:00", "1.4142135623730951", "false"];
    assert_eq!(results(&plan), expected);
    let input = apply(&plan.pre, &batch(&plan)).unwrap();
    assert_eq!(input.schema().fields().last().unwrap().name(), "__row");
    let columns: Vec<_> = input.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(columns, ["st", "size", "__argument2_0", "name", "__where7", "price", "good", "__row"]);
    for (aggregate, field) in window.aggregates.iter().zip(window.result.fields().iter().skip(2)) {
        assert_eq!(aggregate.function.field().data_type(), field.data_type());
    }
    assert_eq!(plan.guests.len(), 1);
}

#[test]
fn steps_over_the_results() {
    let mut operations = counts();
    operations.push(filter(5, "n > 1"));
    operations.push(project(6, &[("name", "upper(name)"), ("rate", "n / 60.0"), ("at", "window_end")]));
    let plan = plan(operations);
    assert_eq!(types(&plan.output), ["name Utf8", "rate Float64", "at Timestamp(ms)"]);
    assert_eq!(plan.output_keys, [0]);
    let schema = &plan.window.as_ref().unwrap().result;
    let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![0, 60_000]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["a", "b"])),
        Arc::new(StringArray::from(vec!["c", "d"])),
        Arc::clone(&times),
        times,
        Arc::new(Int64Array::from(vec![1, 120])),
    ];
    let results = RecordBatch::try_new(Arc::clone(schema), columns).unwrap();
    assert_eq!(rows(&apply(&plan.post, &results).unwrap()), ["B 2.0 1970-01-01T00:01:00"]);
}

#[test]
fn a_projection_over_the_results_selects_among_all_of_them() {
    let mut operations = counts();
    operations.push(project(6, &[("n", "n"), ("window_start", "window_start")]));
    let plan = plan(operations);
    let Some(Step::Project(_, schema)) = plan.post.first() else { panic!("columns are selected") };
    assert_eq!(schema.fields().len(), 2);
    assert_eq!(types(&plan.output), ["n Int64", "window_start Timestamp(ms)"]);
    assert!(plan.output_keys.is_empty());
}

#[test]
fn versions_of_plugins_stay_through_a_projection() {
    let aggregations = vec![reduce(4, "total", &["size"], "t")];
    let operations = vec![parse(1), window(3, "st", &["name"], aggregations), project(5, &[("t", "t"), ("n", "shout(name)")])];
    let mut asked = pipeline(operations);
    asked.include_plugin_version = true;
    let plan = plan_of(&asked);
    assert_eq!(plan.window.as_ref().unwrap().plugin_versions.as_deref(), Some("sizes@1.0.0, texts@1.0.0"));
    assert_eq!(types(&plan.output), ["t Int64", "n Utf8", "plugin_versions Utf8"]);
}

#[test]
fn the_decoded_event_time_is_followed_through_projections() {
    let of = |time: &str, sql: &str| {
        let columns = [(time, sql), ("name", "name")];
        let n = vec![reduce(4, "count", &[], "n")];
        plan(vec![parse(1), project(2, &columns), window(3, time, &["name"], n)]).window.unwrap().decoded_event_time
    };
    assert_eq!(of("st", "st"), Some(0));
    assert_eq!(of("t", "st"), Some(0));
    assert_eq!(of("st", "st + interval '1 hour'"), None);
    assert_eq!(of("st", "to_timestamp(size)"), None);
}

#[test]
fn the_layout_changes_with_what_is_stored() {
    let base = plan(counts()).layout;
    assert_eq!(plan(counts()).layout, base);
    let with = |event_time, keys: &[&str], reducer, column| {
        plan(vec![parse(1), window(3, event_time, keys, vec![reduce(4, reducer, &[column], "n")])]).layout
    };
    let total = with("st", &["name"], "total", "size");
    assert!(total.contains("keys: name Utf8\nwindow: 60000 ms every 60000 ms from 0 ms\nn: total() state Int64"), "{total}");
    assert!(total.ends_with("of total(int64) -> int64 (sum int64)"), "{total}");
    assert_ne!(with("st", &["name"], "sum", "size"), total);
    assert_ne!(with("st", &["name"], "sum", "price"), with("st", &["name"], "sum", "size"));
    assert_ne!(with("st", &["extra"], "total", "size"), total);
}

#[test]
fn a_plan_explains_itself() {
    let mut operations = vec![parse(1), guest_filter(2, "small", &["size"])];
    operations.push(window(3, "st", &["name"], vec![reduce(4, "total", &["size"], "t")]));
    operations.push(filter(5, "shout(name) <> 'x'"));
    let pipeline = pipeline(operations);
    let text = explain(&plan_of(&pipeline), &pipeline);
    for line in [
        "  st: Timestamp(ms) from value at $.st as milliToTimestamp",
        "  extra",
        "  filter small(size@2)",
        "  tumbling windows of 1m over st",
        "  panes of 1m, 1 a window",
        "  t = total(size@2)",
        "  a slot for each pane, name Utf8; 4 shards",
        "  shout of texts 1.0.0 (0123456789ab): step over the results 1",
        "  small of sizes 1.0.0 (0123456789ab): step before the aggregation 1",
        "  total of sizes 1.0.0 (0123456789ab): aggregate t",
        "  results: standard output, keyed by name",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

#[test]
fn planning_takes_milliseconds() {
    let pipeline = pipeline(counts());
    let time = || {
        let start = std::time::Instant::now();
        assert_eq!(plan_of(&pipeline).pre.len(), 1);
        start.elapsed()
    };
    // Half a millisecond here; a swap waits for it.
    let least = (0..5).map(|_| time()).min().unwrap();
    assert!(least < Duration::from_millis(20), "{least:?}");
}
