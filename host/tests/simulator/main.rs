//! A deterministic simulator: one number drives the input, the pipeline, a clock, a broker and everything that goes wrong, and a job's own code
//! (restore, epochs, swaps, retries) runs in it in one thread. What was committed is compared with a plain recomputation.
//!
//! `KINDLING_SIM_SEED=n` runs one seed and prints its trace, `KINDLING_SIM_FEEDS=m` with it only the first `m` feeds of its input;
//! `KINDLING_SIM_SEEDS=n` runs `n` seeds (`KINDLING_SIM_FROM` on), with a line of progress now and then.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod broker;
mod case;
mod chain;
mod committer;
#[path = "../support/definition.rs"]
mod definition;
mod disk;
#[path = "../support/files.rs"]
mod files;
mod guests;
mod mutants;
mod process;
mod run;
mod source;
mod verify;
mod world;

use case::{Case, ENDLESS, Guests, Shape};
use definition::{Kind, Random};
use mutants::Mutant;
use process::Fault;
use std::time::{Duration, Instant};
use verify::Final;
use world::Weather;

/// Seeds of a plain run.
const SEEDS: u64 = 400;
/// Seeds of a plain run with keyed processes.
const SEEDS_OF_PROCESSES: u64 = 200;
/// Seeds of a plain run with several operations with state.
const SEEDS_OF_CHAINS: u64 = 80;
/// Seeds that found something, with what it was.
const SEEDS_KEPT: &[(u64, &str)] = &[(
    7886,
    "the definition: a session of processing time that an epoch has closed does not take a row of the next one in, although that comes in the same \
     millisecond, just the gap after",
)];
const SEEDS_KEPT_OF_CHAINS: &[(u64, &str)] =
    &[(10_916, "whether a result at the very end of a session behind windows joined it depended on where epochs were cut")];
/// A mutant must be found within so many seeds.
const SEEDS_OF_MUTANT: u64 = 100;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(2);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// What a run came to: the hash of its trace, what was committed, and all of the trace that is kept.
struct Checked {
    hash: u64,
    outcome: Result<Final, String>,
    trace: String,
}

fn run(seed: u64, case: &Case, weather: Weather, mutant: Option<Mutant>) -> Checked {
    let random = Random::of_seed(seed ^ 0x5eed_0000_0000);
    let (run, outcome) = run::run(case, random, weather, mutant);
    run.state(|state| Checked {
        hash: state.trace.hash(),
        outcome: outcome.and_then(|()| verify::verify(case, state)),
        trace: state.trace.text(),
    })
}

/// What a test makes of seeds, by its name.
#[derive(Clone, Copy)]
struct Draw {
    test: &'static str,
    case: fn(&mut Random) -> Case,
}

const JOBS: Draw = Draw { test: "simulated_jobs", case: Case::random };
const PROCESSES: Draw = Draw { test: "simulated_processes", case: Case::random_process };
const CHAINS: Draw = Draw { test: "simulated_chains", case: Case::random_chain };

fn case(draw: Draw, seed: u64, feeds: Option<u64>) -> Case {
    let mut case = (draw.case)(&mut Random::of_seed(seed));
    if let Some(feeds) = feeds {
        case.cut(feeds as usize);
    }
    case
}

/// Both ways to run a case: with all that goes wrong, and with nothing.
fn check(case: &Case, seed: u64, mutant: Option<Mutant>) -> Result<u64, (String, String)> {
    let stormy = run(seed, case, Weather::Stormy, mutant);
    let stormy_final = stormy.outcome.map_err(|why| (why, stormy.trace.clone()))?;
    // Where nothing depends on how epochs are cut, a run with crashes has the same output as one without.
    if mutant.is_none() && case.is_cut_free() {
        let calm = run(seed, case, Weather::Calm, None);
        let calm_final = calm.outcome.map_err(|why| (format!("without faults: {why}"), calm.trace))?;
        if calm_final != stormy_final {
            return Err((format!("without faults {calm_final:#?}\nwith them {stormy_final:#?}"), stormy.trace));
        }
    }
    Ok(stormy.hash)
}

/// Fewer rows that fail too, and how.
fn smaller(draw: Draw, seed: u64) -> (Option<u64>, (String, String)) {
    let whole = case(draw, seed, None).feeds.len() as u64;
    for feeds in (1..10).map(|n| whole * n / 10) {
        if let Err(failure) = check(&case(draw, seed, Some(feeds)), seed, None) {
            return (Some(feeds), failure);
        }
    }
    let failure =
        check(&case(draw, seed, None), seed, None).err().unwrap_or_else(|| ("it does not fail again".into(), String::new()));
    (None, failure)
}

fn fail(draw: Draw, seed: u64) -> ! {
    let (feeds, (why, trace)) = smaller(draw, seed);
    let cut = feeds.map_or_else(String::new, |n| format!("KINDLING_SIM_FEEDS={n} "));
    let (about, test) = (case(draw, seed, feeds).about(), draw.test);
    panic!(
        "{trace}\n\nseed {seed}: {about}\n{why}\n\nagain: KINDLING_SIM_SEED={seed} {cut}tests/run {test} (or as in CONTRIBUTING.md)"
    );
}

fn check_all(draw: Draw, seeds: impl Iterator<Item = u64>, tells: bool) {
    let (started, mut told, mut done) = (Instant::now(), Instant::now(), 0u64);
    for seed in seeds {
        if check(&case(draw, seed, None), seed, None).is_err() {
            fail(draw, seed);
        }
        done += 1;
        if tells && told.elapsed() >= PROGRESS {
            told = Instant::now();
            eprintln!("{done} seeds, {:.0} a second, now at {seed}", done as f64 / started.elapsed().as_secs_f64());
        }
    }
    eprintln!("{done} seeds in {:.1} s", started.elapsed().as_secs_f64());
}

/// The seeds that the environment asks for, else these.
fn simulate(draw: Draw, seeds: impl Iterator<Item = u64>) {
    if let Some(seed) = number("KINDLING_SIM_SEED") {
        let case = case(draw, seed, number("KINDLING_SIM_FEEDS"));
        let checked = run(seed, &case, Weather::Stormy, None);
        eprintln!("{}\n\nseed {seed}: {}", checked.trace, case.about());
        if let Err((why, _)) = check(&case, seed, None) {
            panic!("seed {seed}: {why}");
        }
        return;
    }
    match number("KINDLING_SIM_SEEDS") {
        Some(seeds) => {
            let from = number("KINDLING_SIM_FROM").unwrap_or(0);
            check_all(draw, from..from + seeds, true);
        }
        None => check_all(draw, seeds, false),
    }
}

#[test]
fn simulated_jobs_commit_what_the_definition_says() {
    simulate(JOBS, SEEDS_KEPT.iter().map(|(seed, _)| *seed).chain(0..SEEDS));
}

#[test]
fn simulated_processes_commit_what_a_plain_recomputation_gives() {
    simulate(PROCESSES, 0..SEEDS_OF_PROCESSES);
}

#[test]
fn simulated_chains_commit_what_a_plain_recomputation_gives() {
    simulate(CHAINS, SEEDS_KEPT_OF_CHAINS.iter().map(|(seed, _)| *seed).chain(0..SEEDS_OF_CHAINS));
}

#[test]
fn simulated_runs_of_one_seed_are_the_same() {
    for (draw, seed) in (0..27).flat_map(|seed| [(JOBS, seed), (PROCESSES, seed), (CHAINS, seed)]) {
        let case = case(draw, seed, None);
        let (a, b) = (run(seed, &case, Weather::Stormy, None), run(seed, &case, Weather::Stormy, None));
        assert_eq!(a.hash, b.hash, "seed {seed}: {}\n{}\n\n{}", case.about(), a.trace, b.trace);
    }
}

/// What is rare must not be so rare that a plain run has none of it.
#[test]
fn simulated_cases_are_of_every_kind() {
    let all: Vec<Case> = (0..SEEDS).map(|seed| case(JOBS, seed, None)).collect();
    let kind = |case: &Case| if let Shape::Windows { kind, .. } = case.shape { Some(kind) } else { None };
    let is = |test: &dyn Fn(&Case) -> bool| all.iter().filter(|c| test(c)).count();
    let found = [
        ("calendar", is(&|c| matches!(kind(c), Some(Kind::Calendar { .. })))),
        ("ttl of global windows", is(&|c| c.bounds.ttl.is_some() && kind(c) == Some(Kind::Global))),
        ("ttl of count windows", is(&|c| c.bounds.ttl.is_some() && matches!(kind(c), Some(Kind::Count { .. })))),
        ("endless guests", is(&|c| c.guests == Guests::Hostile(ENDLESS))),
        ("other hostile guests", is(&|c| matches!(c.guests, Guests::Hostile(name) if name != ENDLESS))),
        ("swaps", is(&|c| c.guests == Guests::Swapped)),
        ("disks", is(&|c| c.with_disks)),
    ];
    let chains: Vec<Case> = (0..SEEDS_OF_CHAINS).map(|seed| case(CHAINS, seed, None)).collect();
    let is = |test: &dyn Fn(&Case) -> bool| chains.iter().filter(|c| test(c)).count();
    let of_process = |shape: Shape| matches!(shape, Shape::Process(_));
    let of_chains = [
        ("chains of three", is(&|c| c.behind.len() > 1)),
        ("behind a process", is(&|c| of_process(c.shape))),
        ("processes behind", is(&|c| c.behind.iter().any(|b| of_process(b.shape)))),
        ("ttl behind", is(&|c| c.last_ttl().is_some())),
        ("behind processing time", is(&|c| matches!(c.shape, Shape::Windows { processing: true, .. }))),
        ("hostile guests behind", is(&|c| c.has_hostile_behind())),
        ("swaps of a process behind", is(&|c| c.swaps_process && !of_process(c.shape))),
    ];
    let processes: Vec<Case> = (0..SEEDS_OF_PROCESSES).map(|seed| case(PROCESSES, seed, None)).collect();
    let is = |test: &dyn Fn(&Case) -> bool| processes.iter().filter(|c| test(c)).count();
    let fault = |case: &Case| if let Shape::Process(process) = case.shape { process.fault } else { None };
    let of_processes = [
        ("processes that refuse", is(&|c| fault(c) == Some(Fault::Refuses))),
        ("processes that trap", is(&|c| fault(c) == Some(Fault::Traps))),
        ("swaps of processes", is(&|c| c.swaps_process)),
    ];
    let found = [&found[..], &of_chains, &of_processes].concat();
    assert!(found.iter().all(|(_, count)| *count >= 5), "{found:?}");
    eprintln!("{found:?}");
}

#[test]
fn simulated_defects_are_found() {
    let all = |draw: Draw| Mutant::ALL.map(|mutant| (draw, mutant));
    let later = Mutant::LATER.map(|mutant| (CHAINS, mutant));
    for (draw, mutant) in [JOBS, PROCESSES, CHAINS].into_iter().flat_map(all).chain(later) {
        let found = (0..SEEDS_OF_MUTANT).find(|seed| check(&case(draw, *seed, None), *seed, Some(mutant)).is_err());
        let found = found.unwrap_or_else(|| panic!("{mutant:?} is not found in {SEEDS_OF_MUTANT} seeds of {}", draw.test));
        eprintln!("{}: {mutant:?}: found by seed {found}", draw.test);
    }
}
