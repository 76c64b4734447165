//! Artefacts that are no plugins, or hostile ones: each gives an error that says what is wrong, and the process goes on.
//!
//! What guests do wrong in their calls is in `tests/scenarios/hostile_*.yaml`; here is what they do wrong before and around them.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use kindling::config::{LoadOptions, load_str};
use kindling::element::{OwnedRecord, OwnedRecords, PartitionName, RawBatch};
use kindling::ingest::decode::Decoder;
use kindling::limits::GuestLimits;
use kindling::plugin::{GuestEngine, Plugin, PluginSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn evil(name: &str) -> PathBuf {
    let guests = std::env::var("KINDLING_TEST_GUESTS");
    let guests = guests.expect("KINDLING_TEST_GUESTS is not set: run tests/run, or tests/guests/build DIR and set it to DIR");
    PathBuf::from(guests).join("evil").join(name)
}

fn engine() -> Arc<GuestEngine> {
    let limits = GuestLimits { call_time: Duration::from_millis(300), ..GuestLimits::default() };
    GuestEngine::new(limits, None).expect("an engine")
}

/// The error of loading `path`.
fn refused(engine: &Arc<GuestEngine>, path: &std::path::Path) -> String {
    match Plugin::load(engine, path) {
        Ok(plugin) => panic!("{} was loaded as {} {}", path.display(), plugin.name, plugin.version),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_no_plugin_is_refused_with_its_reason() {
    let engine = engine();
    for (name, says) in [
        ("empty.wasm", "empty"),
        ("garbage.wasm", "WebAssembly"),
        ("truncated.wasm", "damaged"),
        ("huge.wasm", "but a plugin has at most"),
        ("import_env.wasm", "imports `env#secret`"),
        ("memory_at_start.wasm", "memory"),
        ("describe_traps.wasm", "describe"),
        ("describe_loops.wasm", "describe"),
        ("describe_nothing.wasm", "no functions"),
        ("describe_function_name.wasm", "name"),
        ("describe_plugin_name.wasm", "name"),
        ("describe_version.wasm", "semantic version"),
        ("describe_filter_result.wasm", "boolean"),
        ("describe_no_state.wasm", "state"),
        ("describe_twice.wasm", "twice"),
        ("describe_huge.wasm", ""),
    ] {
        let started = Instant::now();
        let error = refused(&engine, &evil(name));
        assert!(error.contains(says), "{name}: `{says}` is not in: {error}");
        assert!(error.contains(name), "{name} is not named: {error}");
        assert!(error.len() < 4_000, "{name}: the error is {} bytes long", error.len());
        assert!(started.elapsed() < Duration::from_secs(20), "{name} took {:?}", started.elapsed());
    }
}

#[test]
fn text_modules_that_are_no_guests_are_refused() {
    let engine = engine();
    let dir = tempfile::tempdir().expect("a folder");
    for (name, says) in [
        ("start_loops.wat", ""),
        ("no_exports.wat", "describe"),
        ("foreign_component.wat", "describe"),
        ("import_component.wat", "import"),
    ] {
        let text = std::fs::read_to_string(evil(name)).expect("it is there");
        let path = dir.path().join(name).with_extension("wasm");
        std::fs::write(&path, wat::parse_str(text).expect("it is WebAssembly text")).expect("written");
        let error = refused(&engine, &path);
        assert!(error.contains(says), "{name}: `{says}` is not in: {error}");
    }
}

#[test]
fn a_folder_with_hostile_files_gives_the_good_ones_and_a_problem_for_each_bad_one() {
    let engine = engine();
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["garbage.wasm", "truncated.wasm", "victim_1_0_0.wasm", "describe_traps.wasm"] {
        std::fs::copy(evil(name), dir.path().join(name)).expect("copied");
    }
    let (set, problems) = PluginSet::open_dir(&engine, dir.path());
    assert_eq!(set.plugins().map(|p| p.name.to_string()).collect::<Vec<_>>(), ["victim"]);
    assert_eq!(problems.len(), 3, "{problems:?}");
}

/// Three rows of `columns`, computed by a plugin.
fn projected(artefact: &str, columns: &str) -> RecordBatch {
    let engine = engine();
    let plugin = Plugin::load(&engine, &evil(artefact)).expect("it is good under the adapter");
    let set = PluginSet::empty().with(plugin).expect("one plugin");
    let pipeline = format!("source: {{ name: stdin }}\npipeline:\n  - operation: project\n    columns: {{ {columns} }}\n");
    let pipeline = load_str(&pipeline, "p.yaml", &LoadOptions::default()).expect("a pipeline");
    let plan = kindling::plan::build(&pipeline, &set).expect("a plan");
    let names = [PartitionName { topic: "t".into(), partition: 0 }];
    let row = |offset| OwnedRecord { offset, value: Some(b"{}".to_vec()), ..OwnedRecord::default() };
    let raw = RawBatch { partition: 0, records: Box::new(OwnedRecords { rows: (0..3).map(row).collect() }) };
    let batch = Decoder::new(&plan.decode, &names).decode(&raw, 0..3, &mut Vec::new()).expect("decoded");
    kindling::operator::steps::apply(&plan.pre, &batch).expect("it runs")
}

#[test]
fn a_guest_under_the_adapter_without_imports_is_the_same_in_each_run() {
    let run = || projected("import_wasi.wasm", "c: wasi_clock(\"offset\"), r: wasi_random(\"offset\")");
    assert_eq!(run(), run());
}

#[test]
fn a_guest_that_asks_for_the_network_is_told_that_there_is_none() {
    let answers = projected("import_wasi_socket.wasm", "a: accept(\"offset\")");
    assert_eq!(answers.column(0).as_primitive::<Int64Type>().values(), &[52; 3], "not supported");
}
