//! From the start of the process to the first committed epoch, with ten plugins whose compiled code is in the cache.

use crate::events;
use crate::job::{Place, committed};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PLUGINS: usize = 10;
const RUNS: usize = 7;
/// Sent before each start.
const ROWS: u64 = 1_000;
/// Longer than any start should take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints the least, the median and the most of some starts: of jobs that are new, whose topics are made, and of the same jobs again. The very
/// first, which fills the cache of compiled plugins, is told apart.
///
/// # Errors
/// What could not be run.
pub fn measure(place: &Place) -> Result<(), Box<dyn Error>> {
    let plugins = place.scratch.join("ten-plugins");
    fill(&place.root.join("plugins"), &plugins)?;
    let topic = format!("bench-startup-{}", std::process::id());
    events::create(&place.brokers, &topic, events::PARTITIONS)?;
    let (mut first, mut again) = (Vec::with_capacity(RUNS), Vec::with_capacity(RUNS));
    for run in 0..=RUNS {
        let out = format!("{topic}-{run}");
        events::create(&place.brokers, &out, events::PARTITIONS)?;
        let reader = reader(&place.brokers, &out)?;
        for seconds in [&mut first, &mut again] {
            events::fill(&place.brokers, &topic, ROWS, events::PARTITIONS, None)?;
            seconds.push(start(&mut place.live("pass", &topic, &out, &plugins), &reader)?);
        }
    }
    println!("start to first committed epoch, {PLUGINS} plugins, seconds: {:.2} when they are compiled first", first.remove(0));
    again.remove(0);
    for (what, mut seconds) in [("a new job", first), ("a job again", again)] {
        seconds.sort_by(f64::total_cmp);
        println!("{what}: least {:.2}, median {:.2}, most {:.2} of {RUNS}", seconds[0], seconds[RUNS / 2], seconds[RUNS - 1]);
    }
    Ok(())
}

/// Seconds from the start of the process to its first committed output; then the job is stopped as an operator stops it.
fn start(command: &mut Command, reader: &BaseConsumer) -> Result<f64, Box<dyn Error>> {
    // What earlier runs left, and the reader's connection.
    while reader.poll(Duration::from_millis(300)).is_some() {}
    let started = Instant::now();
    let mut job = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let first = loop {
        match reader.poll(Duration::from_millis(10)) {
            Some(Ok(_)) => break Ok(started.elapsed()),
            _ if started.elapsed() > PATIENCE => break Err("the job committed nothing"),
            _ => {}
        }
    };
    Command::new("kill").arg(job.id().to_string()).status()?;
    job.wait()?;
    Ok(first?.as_secs_f64())
}

/// A folder with ten artefacts: those of `from` and its `demo`, then some of them once more.
fn fill(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(to)?;
    let mut artefacts: Vec<PathBuf> = Vec::new();
    for folder in [from.to_owned(), from.join("demo")] {
        for entry in std::fs::read_dir(folder)? {
            artefacts.push(entry?.path());
        }
    }
    artefacts.retain(|p| p.extension().is_some_and(|e| e == "wasm"));
    artefacts.sort();
    for (i, artefact) in artefacts.iter().cycle().take(PLUGINS).enumerate() {
        std::fs::copy(artefact, to.join(format!("{i}.wasm")))?;
    }
    Ok(())
}

fn reader(brokers: &str, topic: &str) -> Result<BaseConsumer, Box<dyn Error>> {
    let consumer = committed(brokers)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..events::PARTITIONS as i32 {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}
