//! Filters and projections: what is decoded, what comes out.

use super::*;
use crate::operator::steps::apply;
use crate::plan::{FieldSource, Step, explain};

fn run(plan: &Plan) -> Vec<String> {
    rows(&apply(&plan.pre, &batch(plan)).unwrap())
}

#[test]
fn parsed_columns_come_out_in_their_order() {
    let plan = plan(vec![parse(1)]);
    assert!(plan.pre.is_empty());
    assert_eq!(decoded_names(&plan), ["st", "name", "size", "price", "good", "extra", "camelCase"]);
    assert_eq!(plan.decoded.fields().last().unwrap().name(), "__row");
    let expected =
        ["st Timestamp(ms)", "name Utf8", "size Int64", "price Float64", "good Boolean", "extra Utf8", "camelCase Utf8"];
    assert_eq!(types(&plan.output), expected);
    assert!(plan.output_keys.is_empty() && plan.guests.is_empty());
}

#[test]
fn only_used_columns_are_decoded() {
    let plan = plan(vec![parse(1), filter(2, "size < 10 AND topic <> 't'"), project(3, &[("who", "name")])]);
    assert_eq!(decoded_names(&plan), ["name", "size", "topic"]);
    assert_eq!(types(&plan.decoded), ["name Utf8", "size Int64", "topic Utf8", "__row UInt32"]);
    assert!(matches!(plan.decode[2].from, FieldSource::Topic));
    let last = plan.pre.last().unwrap();
    let Step::Project(_, schema) = last else { panic!("a project is last") };
    assert_eq!(types(schema), ["who Utf8", "__row UInt32"]);
}

#[test]
fn expressions_are_evaluated() {
    let cases = [
        ("upper(camelCase)", ["CAMEL", "CASE", "-"]),
        ("UPPER(camelCase)", ["CAMEL", "CASE", "-"]),
        ("size / 2 + price", ["2.5", "27.5", "-"]),
        ("case when good then 1 else 2 end", ["1", "2", "2"]),
        ("coalesce(name, 'none')", ["a", "b", "none"]),
        ("st + interval '1 minute'", ["1970-01-01T00:02:00", "1970-01-01T00:03:05", "-"]),
        ("date_trunc('minute', st)", ["1970-01-01T00:01:00", "1970-01-01T00:02:00", "-"]),
        ("cast(size as varchar) || name", ["5a", "50b", "-"]),
        ("name in ('a', 'c')", ["true", "false", "-"]),
        ("camelCase like 'Ca%'", ["true", "true", "-"]),
        ("partition + 1", ["4", "5", "-"]),
        ("extract(second from st)", ["0", "5", "-"]),
        ("record.size", ["5", "50", "-"]),
        ("shout(name)", ["a!", "b!", "-"]),
        ("shout(shout(name)) || shout(name)", ["a!!a!", "b!!b!", "-"]),
        ("timestamp is null and \"offset\" is null and key is null", ["true", "true", "true"]),
        ("timestamp > to_timestamp_millis(5)", ["-", "-", "-"]),
        ("offset = 1", ["-", "-", "-"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(run(&plan(vec![parse(1), project(2, &[("x", sql)])])), expected, "{sql}");
    }
}

#[test]
fn rows_are_kept_where_a_filter_is_true() {
    let cases = [("size < 10", vec!["a"]), ("good", vec!["a"]), ("name is null", vec!["-"]), ("true", vec!["a", "b", "-"])];
    for (sql, expected) in cases {
        assert_eq!(run(&plan(vec![parse(1), filter(2, sql), project(3, &[("n", "name")])])), expected, "{sql}");
    }
    assert_eq!(run(&plan(vec![parse(1), filter(2, "st > '1970-01-01T00:02:00Z'"), project(3, &[("n", "name")])])), ["b"]);
}

#[test]
fn a_guest_filter_sees_only_what_is_left() {
    let plan = plan(vec![parse(1), filter(2, "name = 'a'"), guest_filter(3, "small", &["size"]), project(4, &[("n", "name")])]);
    let filters: Vec<String> = plan
        .pre
        .iter()
        .filter_map(|s| match s {
            Step::Filter(p) => Some(p.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(filters, ["name@0 = a", "small(size@1)"]);
    assert_eq!(run(&plan), ["a"]);
    assert_eq!(plan.guests.len(), 1);
    assert_eq!((plan.guests[0].function.as_str(), plan.guests[0].plugin.as_str()), ("small", "sizes"));
}

#[test]
fn a_guest_in_a_projection_is_called_once() {
    let operations =
        vec![parse(1), project(2, &[("loud", "shout(name)")]), filter(3, "loud <> 'a!'"), project(4, &[("l", "loud || loud")])];
    let plan = plan(operations);
    let calls: usize = plan
        .pre
        .iter()
        .map(|s| match s {
            Step::Filter(p) => p.to_string().matches("shout").count(),
            Step::Project(exprs, _) => exprs.iter().map(|e| e.to_string().matches("shout").count()).sum(),
            Step::FlatMap(_) => 0,
        })
        .sum();
    assert_eq!(calls, 1, "{}", explain(&plan, &pipeline(vec![])));
    assert_eq!(run(&plan), ["b!b!"]);
}

#[test]
fn a_parsed_column_hides_the_records_own() {
    let mut operation = parse(1);
    if let Operation::Parse(spec) = &mut operation.value {
        spec.columns[5].name = text(1, "topic");
    }
    let plan = plan(vec![operation, project(2, &[("t", "topic")])]);
    assert!(matches!(plan.decode[0].from, FieldSource::Json { .. }));
}

#[test]
fn without_parse_key_and_value_go_on() {
    let plan = plan(vec![filter(1, "value like '%x%'")]);
    assert_eq!(types(&plan.output), ["key Utf8", "value Utf8"]);
}

#[test]
fn versions_of_plugins_come_out_where_asked_for() {
    let mut asked = pipeline(vec![parse(1), guest_filter(2, "small", &["size"]), project(3, &[("n", "shout(name)")])]);
    asked.include_plugin_version = true;
    assert_eq!(run(&plan_of(&asked)), ["a! sizes@1.0.0, texts@1.0.0"]);
}

#[test]
fn output_types_can_be_written() {
    let plan =
        plan(vec![parse(1), project(2, &[("t", "to_timestamp(size)"), ("n", "NULL"), ("v", "arrow_cast(name, 'Utf8View')")])]);
    assert_eq!(types(&plan.output), ["t Timestamp(ms)", "n Utf8", "v Utf8"]);
}

#[test]
fn the_decoder_tests_what_a_filter_says_of_texts() {
    use crate::plan::TextMatch::{self, Equals, Prefix};
    let text = |t: &str| Equals(t.to_owned());
    type Tests = Vec<(&'static str, Vec<TextMatch>)>;
    let cases: [(&str, Tests); 14] = [
        ("name = 'a'", vec![("name", vec![text("a")])]),
        ("'a' = name", vec![("name", vec![text("a")])]),
        ("name IN ('a', 'b', 'c', 'd', 'e')", vec![("name", ["a", "b", "c", "d", "e"].map(text).to_vec())]),
        ("name = 'a' OR name = 'b'", vec![("name", vec![text("a"), text("b")])]),
        ("name LIKE 'on-%'", vec![("name", vec![Prefix("on-".to_owned())])]),
        ("name = 'a' AND extra = 'b'", vec![("name", vec![text("a")]), ("extra", vec![text("b")])]),
        // What stands behind a condition that is no test is not looked at where that fails, so it can't be tested first.
        ("name = 'a' AND size / 0 = 1 AND extra = 'b'", vec![("name", vec![text("a")])]),
        ("size / 0 = 1 AND name = 'a'", vec![]),
        ("name = 'a' OR extra = 'b'", vec![]),
        ("name = 'a' OR size = 1", vec![]),
        ("name NOT IN ('a', 'b', 'c', 'd', 'e')", vec![]),
        ("name NOT LIKE 'a%' AND name ILIKE 'a%' AND name LIKE 'a_b%' AND name LIKE '%a%'", vec![]),
        ("topic = 'a'", vec![]),
        ("name = extra AND upper(name) = 'A'", vec![]),
    ];
    for (sql, expected) in cases {
        let plan = plan(vec![parse(1), filter(2, sql), filter(3, "camelCase = 'x'")]);
        let found: Vec<_> = plan.prefilter.iter().map(|t| (plan.decode[t.column].name.as_str(), t.any.clone())).collect();
        assert_eq!(found, expected, "{sql}");
    }
    let behind = plan(vec![parse(1), project(2, &[("name", "extra")]), filter(3, "name = 'a'")]);
    assert!(matches!(behind.pre.first(), Some(Step::Project(..))) && behind.prefilter.is_empty());
}
