//! Jobs whose state is many times their memory budget: right, exactly once, within the budget, also where the disk changes what it was given.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "support/files.rs"]
mod files;

use files::files_below;
use kindling::config::{LoadOptions, load_str};
use kindling::limits::{GuestLimits, JobLimits};
use kindling::runtime::job::{self, Committed, Control, End};
use kindling::runtime::setup::{SetupOptions, set_up};
use kindling::state::store::Sizes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const BUDGET: usize = 1 << 20;
const ROWS: u64 = 240_000;
const KEYS: u64 = 50_000;
/// Milliseconds from one row to the next: two windows of a minute, and a third that is short.
const STEP: u64 = 1;

/// Key and start of the window to rows.
type Counts = BTreeMap<(String, String), u64>;

fn user(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS
}

fn rows() -> String {
    (0..ROWS).fold(String::new(), |mut text, n| {
        let _ = writeln!(text, r#"{{"st":{},"user":"u-{:08}"}}"#, n * STEP, user(n));
        text
    })
}

fn expected(seconds: u64) -> Counts {
    let mut counts = Counts::new();
    for n in 0..ROWS {
        let start = n * STEP / 1_000 / seconds * seconds;
        let start = format!("1970-01-01T00:{:02}:{:02}.000Z", start / 60, start % 60);
        *counts.entry((format!("u-{:08}", user(n)), start)).or_default() += 1;
    }
    counts
}

fn results(path: &Path) -> Counts {
    let mut counts = Counts::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let before = counts.insert((text("user"), text("window_start")), row["rows"].as_u64().unwrap());
        assert_eq!(before, None, "a result comes twice: {line}");
    }
    counts
}

/// Runs to the end; gives the results, and how often the job went back to its last committed epoch.
fn run(dir: &Path, memory: &str, window: &str, each: &mut dyn FnMut(&Committed<'_>)) -> (Counts, u64) {
    let (input, output) = (dir.join("rows.jsonl"), dir.join("counts.jsonl"));
    std::fs::write(&input, rows()).unwrap();
    let pipeline = format!(
        "name: counts
source: {{ name: file, parameters: {{ path: {} }} }}
state: {{ memory: {memory} }}
pipeline:
  - operation: parse
    parse:
      parameters:
        - {{ jsonPath: st, outputType: milliToTimestamp, outputCol: st }}
        - {{ jsonPath: user, outputType: string, outputCol: user }}
  - operation: window_aggregate
    window: {{ {window}, timestampColumn: st, watermark: 1s }}
    groupByKeys: [user]
    aggregations: [{{ reducer: count, outputColumn: rows }}]
sink: {{ name: file, parameters: {{ path: {} }} }}
",
        input.display(),
        output.display()
    );
    let pipeline = load_str(&pipeline, "counts.yaml", &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let options = SetupOptions {
        plugins: &dir.join("none"),
        data_dir: dir,
        until_end: true,
        limits: JobLimits { epoch_rows: 10_000, close_results: 7_000, ..JobLimits::default() },
        guest_limits: GuestLimits::default(),
        workers: 1,
        observe_outputs: false,
    };
    let setup = set_up(pipeline, &options).unwrap_or_else(|e| panic!("{e}"));
    let metrics = setup.metrics;
    let (end, counts) = job::run(setup.spec, &Control::default(), each).unwrap_or_else(|e| panic!("{e}"));
    // An epoch that was in commit when the job went back may be committed and not counted.
    let rows = if metrics.recoveries.get() == 0 { ROWS } else { counts.rows };
    assert_eq!((end, rows, counts.late, counts.rejects), (End::Finished, ROWS.min(rows), 0, 0));
    assert!(!spill(dir).exists(), "what was on disk is gone with the job");
    let text = prometheus::TextEncoder::new().encode_to_string(&metrics.registry.gather()).unwrap();
    for name in ["memory_limit_bytes", "memory_bytes", "disk_keys", "disk_bytes", "disk_reads_total", "disk_writes_total"] {
        let start = format!("kindling_operator_state_{name}{{");
        let of_operator = |l: &str| l.starts_with(&start) && l.contains(r#"operator="window_aggregate""#);
        assert!(text.lines().any(of_operator), "{name} is missing in\n{text}");
    }
    (results(&output), metrics.recoveries.get())
}

fn spill(dir: &Path) -> PathBuf {
    dir.join("default/counts/spill")
}

#[test]
fn state_of_many_times_the_budget_is_counted_right_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    for (window, seconds) in [("duration: 1.minute", 60), ("duration: 2.minutes, slideDuration: 2.minutes", 120)] {
        let dir = dir.path().join(seconds.to_string());
        std::fs::create_dir(&dir).unwrap();
        let mut most = Sizes::default();
        let (got, recoveries) = run(&dir, "1MiB", window, &mut |epoch| {
            most.memory_bytes = most.memory_bytes.max(epoch.sizes.memory_bytes);
            most.disk_slots = most.disk_slots.max(epoch.sizes.disk_slots);
            most.slots = most.slots.max(epoch.sizes.slots);
            most.disk_reads = epoch.sizes.disk_reads;
        });
        println!("{window}: at most {most:?}");
        assert!(got == expected(seconds), "{window}: other results");
        assert_eq!(recoveries, 0);
        assert!(most.memory_bytes <= BUDGET, "{most:?}");
        assert!(most.disk_slots > 40_000 && most.disk_reads > 40_000, "{most:?}");
    }
}

#[test]
fn sessions_and_sliding_windows_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    for (name, window) in
        [("sliding", "duration: 1.minute, slideDuration: 30.seconds"), ("session", "type: session, gap: 40.seconds")]
    {
        let of = |memory: &str| {
            let dir = dir.path().join(format!("{name}-{memory}"));
            std::fs::create_dir(&dir).unwrap();
            let mut on_disk = 0;
            let (got, _) = run(&dir, memory, window, &mut |epoch| on_disk = on_disk.max(epoch.sizes.disk_slots));
            (got, on_disk)
        };
        let ((all, never), (some, on_disk)) = (of("unlimited"), of("1MiB"));
        assert!(all == some, "{name}: other results");
        assert!(never == 0 && on_disk > 30_000, "{name}: {on_disk} on disk");
    }
}

/// Changes a bit in the middle of each file of the store on disk; how many files.
fn damage(dir: &Path) -> usize {
    let folder = spill(dir).join("keyspaces");
    let tables = files_below(&folder).into_iter().filter(|file| file.parent().is_some_and(|p| p.ends_with("tables")));
    let mut changed = 0;
    for path in tables.map(|file| folder.join(file)) {
        // One that has just been merged away is gone, and one that is begun is empty.
        let Ok(mut bytes) = std::fs::read(&path) else { continue };
        let at = bytes.len() / 3;
        let Some(byte) = bytes.get_mut(at) else { continue };
        *byte ^= 0x10;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
        changed += 1;
    }
    changed
}

#[test]
fn a_disk_that_changes_a_bit_costs_a_return_to_the_last_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut damaged = 0;
    let (got, recoveries) = run(dir.path(), "1MiB", "duration: 2.minutes", &mut |epoch| {
        if damaged == 0 && epoch.sizes.disk_slots > 30_000 {
            damaged = damage(dir.path());
        }
    });
    assert!(damaged > 0);
    assert!(recoveries > 0, "it was told");
    assert!(got == expected(120), "other results");
}
