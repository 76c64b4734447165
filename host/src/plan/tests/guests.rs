//! A pipeline file with a real guest: read, planned, run.

use super::*;
use crate::config::{LoadOptions, load_str};
use crate::operator::steps::apply;
use crate::plan::{build, explain};
use crate::plugin::{PluginSet, testing};
use datafusion::logical_expr::EmitTo;

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
