//! Kindling beside a hand-written loop, Apache Flink and Kafka Streams, on the same topic; `tests/bench/run` calls this.
//!
//!     bench fill    --brokers B --topic T --rows N [--partitions P] [--seconds S | --pairs P]
//!     bench run     --brokers B --topic T --rows N --root DIR --loop BINARY --broker-pid PID --peers DIR [--rounds R] [--workloads a,b] [--no-peers]
//!                   [--budgets 64MiB,256MiB] [--pairs P]
//!     bench latency --brokers B --root DIR --rows N --rate R --broker-pid PID [--epochs 20ms,100ms,1s]
//!     bench scaling --brokers B --root DIR --rows N
//!     bench startup --brokers B --root DIR
//!     bench soak    --brokers B --root DIR --rate R --minutes M
//!
//! Measured: a process from its start to its end: wall time, CPU (user and system, with all its threads), peak memory, and the broker's CPU
//! meanwhile. Runs are interleaved, so that a machine that slows down slows all of them; what is compared are ratios within one round.
//! Not measured: what is not on this machine (a network, other brokers, other tenants).
#![allow(unsafe_code)] // wait4.

mod events;
mod job;
mod latency;
mod matches;
mod measure;
mod soak;
mod startup;
#[path = "../../tests/support/swipes.rs"]
mod swipes;

use job::{Counts, Engine, Place, Workload};
use measure::{Run, median, spread};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// `--name value` pairs, and flags with nothing behind them.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(args: &[String]) -> Outcome<Self> {
        let mut options = BTreeMap::new();
        let mut args = args.iter().peekable();
        while let Some(name) = args.next() {
            let name = name.strip_prefix("--").ok_or_else(|| format!("`{name}` is no option"))?;
            let value = args.next_if(|a| !a.starts_with("--")).cloned().unwrap_or_default();
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn text(&self, name: &str) -> Outcome<&str> {
        self.0.get(name).map(String::as_str).ok_or_else(|| format!("--{name} is missing").into())
    }

    fn or<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.0.get(name).map_or(default, String::as_str)
    }

    fn number(&self, name: &str) -> Outcome<u64> {
        Ok(self.text(name)?.parse().map_err(|e| format!("--{name}: {e}"))?)
    }

    fn place(&self, topic: &str) -> Outcome<Place> {
        let root = PathBuf::from(self.text("root")?);
        let own = std::env::current_exe()?;
        let release = own.parent().and_then(|p| p.parent()).ok_or("no folder of binaries")?;
        let scratch = std::env::temp_dir().join(format!("kindling-bench-{}", std::process::id()));
        std::fs::create_dir_all(&scratch)?;
        Ok(Place {
            brokers: self.text("brokers")?.into(),
            topic: topic.into(),
            rows: self.or("rows", "0").parse().map_err(|e| format!("--rows: {e}"))?,
            kindling: release.join("kindling"),
            hand_loop: PathBuf::from(self.or("loop", "")),
            peers: PathBuf::from(self.or("peers", "")),
            root,
            scratch,
        })
    }
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = args.split_first().ok_or("say what to do: see the head of host/examples/bench/main.rs")?;
    let options = Options::parse(rest)?;
    match command.as_str() {
        "fill" => {
            let partitions = options.or("partitions", "4").parse()?;
            let (brokers, topic, rows) = (options.text("brokers")?, options.text("topic")?, options.number("rows")?);
            if options.has("pairs") {
                return matches::fill(brokers, topic, rows, partitions, options.number("pairs")?);
            }
            let seconds = options.has("seconds").then(|| options.number("seconds")).transpose()?;
            events::fill(brokers, topic, rows, partitions, seconds)
        }
        "run" => run(&options),
        "scaling" => scaling(&options),
        "latency" => {
            let place = options.place("")?;
            for epoch in options.or("epochs", "20ms,100ms,1s").split(',') {
                latency::measure(&place, options.number("rate")?, epoch, options.or("broker-pid", "0").parse()?)?;
            }
            Ok(std::fs::remove_dir_all(&place.scratch)?)
        }
        "startup" => {
            let place = options.place("")?;
            startup::measure(&place)?;
            Ok(std::fs::remove_dir_all(&place.scratch)?)
        }
        "soak" => {
            let place = options.place("")?;
            soak::measure(&place, options.number("rate")?, Duration::from_secs(60 * options.number("minutes")?))?;
            Ok(std::fs::remove_dir_all(&place.scratch)?)
        }
        other => Err(format!("`{other}`: no such command").into()),
    }
}

/// All engines in turn, in rounds; then a table a workload.
fn run(options: &Options) -> Outcome<()> {
    let place = options.place(options.text("topic")?)?;
    let rounds: u32 = options.or("rounds", "3").parse()?;
    let broker: u32 = options.or("broker-pid", "0").parse()?;
    let names = options.or("workloads", "counts,types,filter,hopping");
    let workloads = names.split(',').map(Workload::named).collect::<Result<Vec<_>, _>>()?;
    for workload in workloads {
        let mut engines = Engine::of(workload, !options.has("no-peers"));
        let budgets = options.or("budgets", "").split(',').filter(|b| !b.is_empty());
        engines.extend(budgets.map(|budget| Engine::KindlingWithin(budget.to_owned())));
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); engines.len()];
        let matches = match workload {
            Workload::Matches => Some(matches::matches(place.rows, options.number("pairs")?)),
            _ => None,
        };
        for round in 0..rounds {
            let mut expected = matches.clone();
            for (engine, runs) in engines.iter().zip(&mut runs) {
                let mut out = format!("bench-{}-{}-{round}-{:?}", workload.name(), std::process::id(), engine).to_lowercase();
                out.retain(|c| c.is_ascii_alphanumeric() || c == '-');
                eprintln!("{}, round {}: {}", workload.name(), round + 1, engine.title());
                if *engine != Engine::Loop {
                    events::create(&place.brokers, &out, events::PARTITIONS)?;
                }
                if *engine == Engine::LoopExactlyOnce {
                    events::create(&place.brokers, &format!("{out}-pairs"), events::PARTITIONS)?;
                }
                let run = measure::run(&mut place.command(workload, engine, &out), broker)?;
                // A round of all engines may take an hour: what is known is told.
                let million = place.rows as f64 / 1e6;
                eprintln!("  {:.2} CPU s per million rows, {:.2} M rows/s", run.cpu / million, million / run.wall);
                let results = place.results(workload, engine, &out)?;
                check(&engine.title(), &results, expected.get_or_insert_with(|| results.clone()))?;
                runs.push(run);
            }
        }
        table(workload, &engines, &runs, place.rows);
        if let Some(matches) = matches {
            println!("each found the {} matches of an independent computation, none twice", matches.len());
        }
    }
    Ok(std::fs::remove_dir_all(&place.scratch)?)
}

/// Equal work: the same windows with the same counts as the loop's, the same matches as computed from the generated swipes.
fn check(title: &str, results: &Counts, expected: &Counts) -> Outcome<()> {
    let differ = expected.iter().find(|(k, v)| results.get(*k) != Some(v));
    if let Some((key, count)) = differ {
        return Err(format!("{title}: {key} is {:?}, expected was {count}", results.get(key)).into());
    }
    if results.len() != expected.len() {
        return Err(format!("{title}: {} results, expected were {}", results.len(), expected.len()).into());
    }
    Ok(())
}

fn table(workload: Workload, engines: &[Engine], runs: &[Vec<Run>], rows: u64) {
    let million = rows as f64 / 1e6;
    let (duration, slide) = workload.window();
    let windows = match workload {
        Workload::Matches => String::new(),
        _ => format!(", windows of {} s each {} s", duration / 1_000, slide / 1_000),
    };
    println!("\n{}: {million} million rows{windows}", workload.name());
    println!("| | CPU s per million rows | against the loop (spread) | rows/s | peak memory | broker CPU s per million |");
    println!("|---|---|---|---|---|---|");
    for (engine, own) in engines.iter().zip(runs) {
        let of = |value: &dyn Fn(&Run) -> f64| own.iter().map(value).collect::<Vec<f64>>();
        let ratios: Vec<f64> = own.iter().zip(&runs[0]).map(|(r, hand)| r.cpu / hand.cpu).collect();
        let (low, high) = spread(&ratios);
        println!(
            "| {} | {:.2} | {:.2} ({low:.2} to {high:.2}) | {:.2} M | {:.0} MB | {:.2} |",
            engine.title(),
            median(&of(&|r| r.cpu)) / million,
            median(&ratios),
            million / median(&of(&|r| r.wall)),
            of(&|r| r.peak).iter().fold(0.0, |a: f64, b| a.max(*b)) / 1e6,
            median(&of(&|r| r.broker)) / million,
        );
    }
}

/// The counts over 1, 2 and 4 partitions on 1 and 2 cores.
fn scaling(options: &Options) -> Outcome<()> {
    println!("| partitions | cores | rows/s | CPU s per million rows |\n|---|---|---|---|");
    for partitions in [1, 2, 4] {
        let topic = format!("bench-scaling-{partitions}-{}", std::process::id());
        let place = options.place(&topic)?;
        events::fill(&place.brokers, &topic, place.rows, partitions, None)?;
        for cores in [1, 2] {
            let out = format!("{topic}-out-{cores}");
            events::create(&place.brokers, &out, partitions)?;
            let plain = place.command(Workload::Counts, &Engine::Kindling, &out);
            let mut pinned = std::process::Command::new("taskset");
            pinned.args(["-c", if cores == 1 { "0" } else { "0,1" }]).arg(plain.get_program()).args(plain.get_args());
            let run = measure::run(&mut pinned, 0)?;
            let million = place.rows as f64 / 1e6;
            println!("| {partitions} | {cores} | {:.2} M | {:.2} |", million / run.wall, run.cpu / million);
        }
        std::fs::remove_dir_all(&place.scratch)?;
    }
    Ok(())
}
