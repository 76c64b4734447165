//! `kindling demo` adds up: in memory, and through the topics of a real broker. Both plugins are swapped on the way, and matches of which the old
//! version had seen the first like are made by the new one.
//!
//! Needs KINDLING_BROKERS=host:port (`tests/run` sets it).

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use serde_json::Value;
use std::process::Command;

fn demo(args: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    let output = command.args(["demo", "--json", "--for", "9s", "--rate", "10000"]).args(args).output().unwrap();
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{told}");
    let summary: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(summary["nothingLost"], true, "{summary}");
    let number = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!((number("rows"), number("matches")), (90_000, number("expectedMatches")), "{summary}");
    assert!(number("late") > 0 && number("rejects") > 0 && number("carriedMatches") > 0, "{summary}");
    // The new field, and what the old version kept.
    let row: Value = serde_json::from_str(summary["matchSwap"]["row"].as_str().unwrap()).unwrap();
    assert_eq!(row["plugin_versions"], "match_detection@1.1.0", "{row}");
    assert!(row["waited_ms"].as_i64().unwrap() > 0, "{row}");
    let row: Value = serde_json::from_str(summary["swap"]["row"].as_str().unwrap()).unwrap();
    assert_eq!(row["plugin_versions"], "experiment_count@2.0.0", "{row}");
}

#[test]
fn the_demo_adds_up() {
    demo(&[]);
}

#[test]
fn the_demo_adds_up_through_a_broker() {
    let brokers = std::env::var("KINDLING_BROKERS").expect("KINDLING_BROKERS is not set: run tests/run, or set it to host:port");
    demo(&["--brokers", &brokers]);
}
