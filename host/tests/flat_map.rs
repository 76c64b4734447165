//! Flat maps in a pipeline file: what `check` finds fault with, by line, and what `explain` shows.

use kindling::config::{LoadOptions, load_str};
use kindling::limits::GuestLimits;
use kindling::plan::{build, explain};
use kindling::plugin::{GuestEngine, PluginSet};
use std::path::Path;

const HEAD: &str = "source: { name: stdin }
pipeline:
  - operation: parse
    parse:
      parameters:
        - { jsonPath: k, outputType: string, outputCol: k }
        - { jsonPath: s, outputType: string, outputCol: s }
        - { jsonPath: tag, outputType: string, outputCol: tag }
        - { jsonPath: st, outputType: milliToTimestamp, outputCol: st }
";

fn plan(operations: &str) -> Result<String, String> {
    let engine = GuestEngine::new(GuestLimits::default(), None).expect("an engine");
    let (plugins, problems) = PluginSet::open_dir(&engine, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins"));
    assert!(problems.is_empty(), "{problems:?}");
    let pipeline = load_str(&format!("{HEAD}{operations}"), "p.yaml", &LoadOptions::default()).map_err(|e| e.to_string())?;
    build(&pipeline, &plugins).map(|plan| explain(&plan, &pipeline)).map_err(|e| e.to_string())
}

#[test]
fn a_plan_decodes_and_repeats_only_what_is_read() {
    let text = plan(
        "  - { operation: flatMap, plugin: explode_tags, inputColumns: [s], outputColumns: [word, n] }
  - { operation: filter, where: n > 1 }
  - { operation: project, columns: { k: k, word: word } }\n",
    )
    .unwrap();
    assert!(text.contains("flatMap word, n = explode_tags(s@1)"), "{text}");
    assert!(text.contains("explode_tags of tags 1.0.0"), "{text}");
    let decoded = text.split("not decoded").next().unwrap_or_default();
    assert!(decoded.contains("  k: ") && decoded.contains("  s: ") && !decoded.contains("  tag: "), "{text}");
}

#[test]
fn faults_are_told_with_their_line() {
    let upserted = "  - operation: window_aggregate
    window: { timestampColumn: st, duration: 10s, watermark: 1s }
    output: upsert
    groupByKeys: [k]
    aggregations: [{ reducer: count, outputColumn: n }]
  - { operation: flatMap, plugin: explode_tags, inputColumns: [k] }\n";
    let cases = [
        ("  - { operation: flatMap, plugin: explode_tag, inputColumns: [s] }\n", "p.yaml:10:35: unknown flat map `explode_tag`"),
        ("  - { operation: flatMap, plugin: is_human, inputColumns: [s] }\n", "`is_human` is no flat map, but of kind filter"),
        ("  - { operation: flatMap, plugin: explode_tags, inputColumns: [x] }\n", "p.yaml:10:64: unknown column `x`"),
        ("  - { operation: flatMap, plugin: explode_tags, inputColumns: [s] }\n", "there is a column `tag` already"),
        (
            "  - { operation: flatMap, plugin: explode_tags, inputColumns: [s], outputColumns: [a] }\n",
            "`outputColumns` has 1 names, but explode_tags(utf8) -> rows of (tag utf8, position int64) gives 2",
        ),
        (
            "  - { operation: flatMap, plugin: explode_tags, inputColumns: [st], outputColumns: [a, b] }\n",
            "can't be called with (a timestamp)",
        ),
        ("  - { operation: filter, where: explode_tags(s) = 'a' }\n", "`explode_tags` is a flat map"),
        ("  - { operation: filter, plugin: explode_tags, inputColumns: [s] }\n", "is a flat map, not a filter"),
        ("  - { operation: flat_map, plugin: explode_tags, inputColumns: [s] }\n", "unknown operation `flat_map`"),
        (upserted, "results are upserted by their key"),
    ];
    for (operations, expect) in cases {
        let text = plan(operations).expect_err(expect);
        assert!(text.contains(expect), "{expect}\n in {text}");
    }
}
