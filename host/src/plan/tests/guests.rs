//! A pipeline file with a real guest: read, planned, run.

use super::*;
use crate::config::{LoadOptions, load_str};
use crate::operator::steps::apply;
use crate::plan::{build, explain};
use crate::plugin::{FailureKind, PluginSet, guest_error, testing};
use datafusion_expr::EmitTo;

const FILE: &str = "
source: { name: stdin }
pipeline:
  - operation: parse
    parse:
      inputCol: value
      parameters:
        - { jsonPath: st, outputType: milliToTimestamp, outputCol: st }
        - { jsonPath: size, outputType: long, outputCol: size }
  - operation: filter
    where: size is not null
  - operation: filter
    plugin: even
    inputColumns: [size]
  - operation: project
    columns: { st: st, double: twice(size + 1) }
  - operation: window_aggregate
    window: { timestampColumn: st, duration: 1.minute, watermark: 1.second }
    aggregations:
      - { reducer: sum, inputColumns: [double], outputColumn: total }
includePluginVersion: true
";

#[test]
fn guests_are_found_planned_and_called() {
    let engine = testing::engine();
    let plugins = PluginSet::empty().with(testing::plugin(&engine, "numbers", "1.2.3", "")).unwrap();
    let pipeline = load_str(FILE, "guests.yaml", &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let plan = build(&pipeline, &plugins).unwrap_or_else(|e| panic!("{e}"));
    let used: Vec<&str> = plan.guests.iter().map(|g| g.function.as_str()).collect();
    assert_eq!(used, ["even", "sum", "twice"]);
    assert!(plan.guests.iter().all(|g| g.plugin == "numbers" && g.version == "1.2.3" && g.hash.len() == 12));
    let window = plan.window.as_ref().unwrap();
    assert_eq!(window.plugin_versions.as_deref(), Some("numbers@1.2.3"));
    assert!(plan.layout.contains("of sum(int64) -> int64 (sum int64)"), "{}", plan.layout);
    let input = apply(&plan.pre, &batch(&plan)).unwrap();
    let function = &window.aggregates[0].function;
    let mut accumulator = function.create_groups_accumulator().unwrap();
    let argument = function.expressions()[0].evaluate(&input).unwrap().into_array(input.num_rows()).unwrap();
    accumulator.update_batch(&[argument], &vec![0; input.num_rows()], None, 1).unwrap();
    let total = accumulator.evaluate(EmitTo::All).unwrap();
    // Of 5 and 50 only 50 is even: twice 51.
    assert_eq!(arrow::util::display::array_value_to_string(&total, 0).unwrap(), "102");
    let text = explain(&plan, &pipeline);
    assert!(text.contains("even of numbers 1.2.3"), "{text}");
}

#[test]
fn a_guest_that_is_not_there_is_named_with_its_line() {
    let pipeline = load_str(FILE, "guests.yaml", &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let text = build(&pipeline, &PluginSet::empty()).err().unwrap().to_string();
    assert!(text.contains("guests.yaml:13:13: unknown filter `even`; functions of a plugin are there once"), "{text}");
    assert!(text.contains("unknown function `twice`"), "{text}");
}

#[test]
fn guests_stand_in_sql_where_built_ins_do() {
    let plugins = PluginSet::empty().with(testing::plugin(&testing::engine(), "numbers", "1.2.3", "")).unwrap();
    // A cast to a narrower number has to be coerced back, and a constant is one value for all rows.
    let calls = "{ st: st, double: twice(cast(size as int)), half: size % 2, answer: twice(21) }";
    let file = FILE.replace("{ st: st, double: twice(size + 1) }", calls);
    let file = file.replace("plugin: even\n    inputColumns: [size]", "where: even(size) or size < 10");
    let grouped = "groupByKeys: [half]\n    aggregations:\n      - { reducer: max, inputColumns: [answer], outputColumn: most }";
    let pipeline = load_str(&file.replace("aggregations:", grouped), "guests.yaml", &LoadOptions::default());
    let plan = build(&pipeline.unwrap_or_else(|e| panic!("{e}")), &plugins).unwrap_or_else(|e| panic!("{e}"));
    let input = apply(&plan.pre, &batch(&plan)).unwrap();
    let values = |name: &str| -> Vec<i64> {
        let column = input.column_by_name(name).unwrap_or_else(|| panic!("{name} in {:?}", input.schema()));
        arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(column.as_ref()).values().to_vec()
    };
    assert_eq!((values("double"), values("half"), values("answer")), (vec![10, 100], vec![1, 0], vec![42, 42]));
    let window = plan.window.as_ref().unwrap();
    let mut groups = window.aggregates[1].function.create_groups_accumulator().unwrap();
    let doubles: ArrayRef = Arc::new(Int64Array::from(vec![10, 100, 1_000]));
    // By group, without rows that a condition drops; of a group without rows it is what the guest says of none.
    let kept = arrow::array::BooleanArray::from(vec![true, true, false]);
    groups.update_batch(&[doubles], &[0, 1, 1], Some(&kept), 3).unwrap();
    let sums = groups.evaluate(EmitTo::All).unwrap();
    assert_eq!(arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(sums.as_ref()).values(), &[10, 100, 0]);
}

#[test]
fn what_a_guest_does_not_take_is_told() {
    let plugins = PluginSet::empty().with(testing::plugin(&testing::engine(), "numbers", "1.2.3", "")).unwrap();
    let faults = |from: &str, to: &str| {
        assert!(FILE.contains(from), "{from}");
        let pipeline =
            load_str(&FILE.replace(from, to), "guests.yaml", &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        build(&pipeline, &plugins).err().map_or_else(String::new, |e| e.to_string())
    };
    let text = faults("twice(size + 1)", "twice('a')");
    assert!(text.contains("guests.yaml:16:") && text.contains("twice(int64) -> int64 can't be called with (Utf8"), "{text}");
    let text = faults("inputColumns: [double]", "inputColumns: [double, double]");
    assert!(
        text.contains("guests.yaml:20:") && text.contains("sum(int64) -> int64 can't be called with (Int64, Int64)"),
        "{text}"
    );
    let text = faults("inputColumns: [double]", "distinct: true, inputColumns: [double]");
    assert!(text.contains("guests.yaml:20:") && text.contains("take DISTINCT away"), "{text}");
    // A narrower number is widened.
    assert_eq!(faults("twice(size + 1)", "twice(cast(size as int))"), "");
}

#[test]
fn a_failure_is_found_in_datafusions_error() {
    let plugins = PluginSet::empty().with(testing::plugin(&testing::engine(), "numbers", "1.2.3", "")).unwrap();
    let without_filter = FILE.replace("plugin: even\n    inputColumns: [size]", "where: true");
    let file = without_filter.replace("twice(size + 1)", "fails(size)");
    let pipeline = load_str(&file, "guests.yaml", &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let plan = build(&pipeline, &plugins).unwrap_or_else(|e| panic!("{e}"));
    let error = apply(&plan.pre, &batch(&plan)).unwrap_err();
    let found = guest_error(&error).unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!((&*found.function, &found.kind), ("fails", &FailureKind::Refused(Some(1))));
}
