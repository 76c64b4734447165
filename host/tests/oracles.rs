//! What Kafka Streams and Flink made of random disordered input, as `tests/oracles/run --record` wrote it down, and what Kindling makes of it: the
//! same windows, counts and late rows, in each of the ways a scenario is run, with crashes at every epoch among them.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "support/oracle.rs"]
mod oracle;

use kindling::plugin::PluginSet;
use kindling::runtime::scenario::{Expect, Input, RecordInput, Scenario};
use oracle::{Answer, Behind, CASES, Recorded};
use serde_json::json;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn recorded() -> Vec<(PathBuf, Recorded)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracles/recorded");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let recorded = Recorded::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        all.push((path, recorded));
    }
    all
}

fn scenario(recorded: &Recorded, answer: &Answer) -> Scenario {
    let record = |row: &oracle::Row| {
        Input::Record(RecordInput {
            value: Some(row.value()),
            hex: None,
            key: Some(row.key.clone()),
            timestamp: None,
            partition: row.partition,
            headers: HashMap::new(),
        })
    };
    let window = |((key, start, end), count): (&(String, i64, i64), &i64)| json!({"k": key, "window_start": start, "window_end": end, "count": count});
    let late = |row: &&oracle::Row| answer.late.contains(&row.id);
    let place = |row: &oracle::Row| json!({"partition": row.partition, "offset": row.offset, "value": row.value()});
    Scenario {
        about: recorded.case.name.to_owned(),
        pipeline: recorded.case.pipeline("oracle", "{ name: stdin }", "{ name: stdout }", "{ name: discard }"),
        pipeline_file: None,
        input: recorded.rows.iter().map(record).collect(),
        input_file: None,
        plugins: Vec::new(),
        expect: Expect {
            output: answer.windows.iter().map(window).collect(),
            late: recorded.rows.iter().filter(late).map(place).collect(),
            ..Expect::default()
        },
        tolerance: 0.0,
        spread: false,
        small_epochs: true,
    }
}

#[test]
fn kindling_gives_what_flink_and_kafka_streams_gave() {
    for (path, recorded) in recorded() {
        for (oracle, answer) in &recorded.answers {
            let scenario = scenario(&recorded, answer);
            for mode in scenario.modes() {
                let outcome = scenario.run(&path, mode, &PluginSet::empty(), &|name| Err(format!("no plugin {name}")));
                assert_eq!(outcome, Ok(()), "{}, {} ({})", path.display(), oracle.name(), mode.name);
            }
        }
    }
}

/// What is recorded has something to say: each case, each engine, windows that the disorder reached, late rows where there are to be such.
#[test]
fn what_is_recorded_is_whole() {
    let all = recorded();
    for case in CASES {
        let of_case: Vec<_> = all.iter().filter(|(_, r)| r.case.name == case.name).collect();
        assert!(of_case.len() >= 2, "{}: run tests/oracles/run --record", case.name);
        for (path, recorded) in of_case {
            assert_eq!(recorded.rows, case.input(recorded.seed), "{}: the input is another: record it anew", path.display());
            assert_eq!(recorded.versions.len(), case.oracles.len(), "{}", path.display());
            for answer in recorded.answers.values() {
                assert!(answer.windows.len() > 10, "{}: {} windows", path.display(), answer.windows.len());
                assert_eq!(!answer.late.is_empty(), case.behind != Behind::None, "{}", path.display());
            }
        }
    }
}
