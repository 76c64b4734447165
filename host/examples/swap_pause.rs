//! How long results wait when a plugin is swapped: the longest gap between two commits around a swap, less the same without one.
//!
//!     cargo run --release --example swap_pause -- [--brokers HOST:PORT] [--rate ROWS_PER_SECOND] [--swaps N]
//!
//! The pipeline of the demo (a guest's count beside a built-in's) at a steady rate. Each second is one observation; in every other one a
//! version is dropped in that no cache has seen, so it is read, checked, compiled and planned while rows flow. With a broker each commit is
//! a transaction with results, changelog and offsets; without, results go to a file.

use kindling::config::{LoadOptions, load_str};
use kindling::error::Error;
use kindling::limits::{GuestLimits, JobLimits};
use kindling::runtime::job::{self, Committed, Control};
use kindling::runtime::setup::{SetupOptions, set_up};
use std::path::Path;
use std::time::{Duration, Instant};

const PIPELINE: &str = include_str!("../src/cli/demo.yaml");
const ARTEFACT: &[u8] = include_bytes!("../../plugins/experiment_count.wasm");
/// Between two observations, and before the first swap of all.
const ROUND: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_secs(3);

/// The artefact with a custom section that no other has: other bytes, the same behaviour.
fn version(n: u64) -> Vec<u8> {
    let mut bytes = ARTEFACT.to_vec();
    // Section 0 of 13 bytes: a name of 4, and 8 of its own.
    bytes.extend([0, 13, 4, b'r', b'u', b'n', b'#']);
    bytes.extend((n ^ (std::process::id() as u64) << 32).to_le_bytes());
    bytes
}

fn drop_in(plugins: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::write(plugins.join(".part"), bytes)?;
    std::fs::rename(plugins.join(".part"), plugins.join("experiment_count.wasm"))
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
    sorted[at - 1].as_secs_f64() * 1e3
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
    let rate = option("--rate").unwrap_or_else(|| "200000".into());
    let swaps: u64 = option("--swaps").unwrap_or_else(|| "50".into()).parse()?;
    let folder = tempfile::tempdir()?;
    let plugins = folder.path().join("plugins");
    std::fs::create_dir(&plugins)?;
    drop_in(&plugins, &version(0))?;
    let mut sets = vec![("source.parameters.rowsPerSecond".to_owned(), rate.clone())];
    let mut sink = |name: &str, parameters: &[(&str, String)]| {
        sets.push(("sink.name".into(), name.into()));
        sets.extend(parameters.iter().map(|(k, v)| (format!("sink.parameters.{k}"), v.clone())));
    };
    match option("--brokers") {
        Some(brokers) => sink("kafka", &[("brokers", brokers), ("topic", format!("swap-pause-{}", std::process::id()))]),
        None => sink("file", &[("path", folder.path().join("out.jsonl").display().to_string())]),
    }
    let pipeline = load_str(PIPELINE, "demo.yaml", &LoadOptions { sets, ..LoadOptions::default() })?;
    let options = SetupOptions {
        plugins: &plugins,
        data_dir: folder.path(),
        until_end: false,
        limits: JobLimits::default(),
        guest_limits: GuestLimits::default(),
        workers: std::thread::available_parallelism()?.get(),
        observe_outputs: false,
    };
    let setup = set_up(pipeline, &options)?;
    let swapper = setup.swapper.clone();
    let control = Control::default();
    let started = Instant::now();
    let (mut last, mut round, mut dropped) = (None, 0u64, 0u64);
    let (mut longest, mut with, mut without) = (Duration::ZERO, Vec::new(), Vec::new());
    let mut observer = |_: &Committed<'_>| {
        let now = Instant::now();
        if let Some(before) = last.replace(now) {
            longest = longest.max(now.duration_since(before));
        }
        if started.elapsed() < WARM_UP + ROUND * u32::try_from(round).unwrap_or(u32::MAX) {
            return;
        }
        if round > 0 {
            if round % 2 == 0 { with.push(longest) } else { without.push(longest) }
        }
        longest = Duration::ZERO;
        round += 1;
        if round > 2 * swaps {
            control.stop();
        } else if round % 2 == 0 {
            dropped += 1;
            // Not on the job's own thread, whose pauses are what is measured.
            let (plugins, bytes) = (plugins.clone(), version(dropped));
            std::thread::spawn(move || drop_in(&plugins, &bytes));
        }
    };
    let (_, counts): (_, _) = job::run(setup.spec, &control, &mut observer).map_err(|e: Error| e.to_string())?;
    let taken = swapper.notes().iter().filter(|n| n.text.contains("has taken over")).count();
    println!("{} rows at {rate} a second, {dropped} swaps, {taken} of the last ones noted as taken over", counts.rows);
    println!("longest gap between two commits, ms      p50     p90     p99     max");
    for (what, gaps) in [("in a second with a swap", &mut with), ("in a second without", &mut without)] {
        gaps.sort();
        let p = |share| percentile(gaps, share);
        println!("{what:<36}{:>8.1}{:>8.1}{:>8.1}{:>8.1}", p(0.5), p(0.9), p(0.99), p(1.0));
    }
    println!("pause (p99 with, less p99 without)  {:>8.1}", percentile(&with, 0.99) - percentile(&without, 0.99));
    Ok(())
}
