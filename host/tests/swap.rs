//! Plugins swapped under a running job: what takes over, what is refused, what is rolled back.

mod support;

use std::path::PathBuf;
use support::Job;

const PIPELINE: &str = "
name: swap
source: { name: generate, parameters: { rowsPerSecond: 5000, brokenShare: 0.0, lateShare: 0.0 } }
pipeline:
  - operation: parse
    parse:
      parameters:
        - { jsonPath: st, outputType: milliToTimestamp, outputCol: st }
        - { jsonPath: platform, outputType: string, outputCol: platform }
  - operation: window_aggregate
    window: { timestampColumn: st, duration: 1.seconds, watermark: 3.seconds }
    groupByKeys: [platform]
    aggregations:
      - { reducer: count, outputColumn: count }
      - { reducer: victim_count, inputColumns: [platform], outputColumn: guest, where: platform IS NOT NULL }
includePluginVersion: true
sink: { name: file, parameters: { path: out.jsonl } }
sideOutputs:
  rejects: { name: file, parameters: { path: rejects.jsonl } }
";

fn evil(name: &str) -> PathBuf {
    let guests = std::env::var("KINDLING_TEST_GUESTS");
    let guests = guests.expect("KINDLING_TEST_GUESTS is not set: run tests/run, or tests/guests/build DIR and set it to DIR");
    PathBuf::from(guests).join("evil").join(name)
}

/// Runs the job, swaps `artefact` in, waits for `says` in its log, and gives the result rows.
fn swapped(artefact: &str, says: &str) -> (Vec<serde_json::Value>, String, u64) {
    let job = Job::new(PIPELINE);
    job.drop_in(&evil("victim_1_0_0.wasm"), "victim.wasm");
    let mut child = job.start(&["--guest-time", "200ms"]);
    job.wait_for("restored", 1);
    std::thread::sleep(std::time::Duration::from_secs(1));
    job.drop_in(&evil(artefact), "victim.wasm");
    job.wait_for(says, 1);
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert!(child.try_wait().expect("a status").is_none(), "the job goes on: {}", job.log_text());
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("signalled");
    assert!(child.wait().expect("it ends").success(), "{}", job.log_text());
    let text = std::fs::read_to_string(job.dir.path().join("out.jsonl")).expect("results");
    let rows: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert!(rows.len() > 6, "{} rows: {}", rows.len(), job.log_text());
    for row in rows.iter().filter(|r| !r["platform"].is_null()) {
        assert_eq!(row["count"], row["guest"], "nothing is lost and nothing counted twice: {row}");
    }
    let rejects = std::fs::read_to_string(job.dir.path().join("rejects.jsonl")).unwrap_or_default().lines().count() as u64;
    (rows, job.log_text(), rejects)
}

fn last_version(rows: &[serde_json::Value]) -> &str {
    rows.last().and_then(|r| r["plugin_versions"].as_str()).unwrap_or_default()
}

#[test]
fn a_version_that_fits_takes_over() {
    let (rows, log, rejects) = swapped("victim_1_1_0.wasm", "has taken over");
    assert_eq!((last_version(&rows), rejects), ("victim@1.1.0", 0), "{log}");
    assert!(rows.iter().any(|r| r["plugin_versions"] == "victim@1.0.0"), "{log}");
}

#[test]
fn a_version_that_does_not_fit_is_refused_and_the_reason_shown() {
    for (artefact, says) in [
        ("victim_2_signature_changed.wasm", "function `victim_count`: was"),
        ("victim_2_state_changed.wasm", "its state was"),
        ("victim_2_function_gone.wasm", "does not have it"),
        ("truncated.wasm", "what runs goes on"),
    ] {
        let (rows, log, rejects) = swapped(artefact, says);
        assert_eq!((last_version(&rows), rejects), ("victim@1.0.0", 0), "{artefact}: {log}");
    }
}

#[test]
fn a_version_that_fails_in_its_first_epochs_is_rolled_back() {
    for artefact in ["victim_2_update_traps.wasm", "victim_2_merge_traps.wasm", "victim_2_loops.wasm"] {
        let (rows, log, rejects) = swapped(artefact, "was rolled back");
        assert_eq!((last_version(&rows), rejects), ("victim@1.0.0", 0), "{artefact}: {log}");
    }
}
