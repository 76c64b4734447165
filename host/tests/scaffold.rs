//! What `kindling plugin new` makes, as a user goes on with it: built for WebAssembly and run by its pipeline. (That each kind passes its own
//! native tests is for the SDK's tests to say.) The first screen of the README is the same code.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Lines of Rust that the README's detector may have.
const README_LINES_MAX: usize = 30;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn kindling(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    command.current_dir(folder).args(args);
    command
}

fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The crate of a new process, by the name that the README gives it.
fn scaffolded() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    succeeds(kindling(dir.path(), &["plugin", "new", "match_detector", "--kind", "process"]));
    dir
}

#[test]
fn a_new_process_is_built_and_its_pipeline_runs() {
    let dir = scaffolded();
    let folder = dir.path().join("match_detector");
    // The versions that the SDK was tested with are at hand, also without a network.
    std::fs::copy(repository().join("guest-sdk/rust/Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let mut build = kindling(&folder, &["plugin", "build", "--plugins", "../plugins"]);
    build.env("CARGO_NET_OFFLINE", "true").env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("scaffold"));
    // Where `tests/run` has put std for WebAssembly; else it is the user's own.
    if let Ok(rustc) = std::env::var("KINDLING_WASM_RUSTC") {
        build.env("RUSTC", rustc);
    }
    let said = succeeds(build);
    assert!(said.contains("match_detector 0.1.0 is in ../plugins/match_detector.wasm"), "{said}");
    let sets = ["--set", "source.name=stdin", "--until-end", "--plugins", "../plugins"];
    let mut run = kindling(&folder, &[&["run", "pipeline.yaml"][..], &sets].concat());
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let swipe = |user: u64, other: u64, name: &str, st: i64| {
        json!({ "name": name, "userId": user, "st": st, "properties": { "targetUserId": other } }).to_string()
    };
    let events = [
        swipe(7, 8, "Swipe.like", 1_000),
        swipe(9, 8, "Swipe.like", 2_000),
        swipe(9, 8, "Swipe.pass", 2_500),
        swipe(8, 9, "Swipe.like", 3_000),
        swipe(8, 7, "Swipe.like", 4_000),
        swipe(7, 8, "Swipe.like", 5_000),
        swipe(8, 8, "Swipe.like", 6_000),
        json!({ "name": "Session.start", "userId": 7, "st": 6_000 }).to_string(),
    ];
    child.stdin.take().unwrap().write_all(events.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> = String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows, [json!({ "swiper": "8", "swipee": "7", "ts": "1970-01-01T00:00:04.000Z" })]);
}

#[test]
fn the_readme_shows_what_a_new_process_is() {
    let dir = scaffolded();
    let read = |path: &str| std::fs::read_to_string(dir.path().join("match_detector").join(path)).unwrap();
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let source = read("src/lib.rs");
    let (code, _tests) = source.split_once("\n#[cfg(test)]").unwrap();
    let (_about, code) = code.split_once("\n\n").unwrap();
    assert!(
        readme.contains(&format!("```rust\n{code}```\n")),
        "the README's match detector is not that of the template:\n{code}"
    );
    assert!(code.lines().count() <= README_LINES_MAX, "{} lines", code.lines().count());
    let pipeline = read("pipeline.yaml");
    assert!(
        readme.contains(&format!("```yaml\n{pipeline}```\n")),
        "the README's pipeline is not that of the template:\n{pipeline}"
    );
}
