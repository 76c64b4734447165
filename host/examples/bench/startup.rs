//! From the start of the process to the first committed epoch, with ten plugins whose compiled code is in the cache.

use crate::events;
use crate::job::{Place, committed};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const PLUGINS: usize = 10;
const RUNS: usize = 7;
/// Longer than any start should take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints the least, the median and the most of some starts; the one that fills the cache is told apart.
///
/// # Errors
/// What could not be run.
pub fn measure(place: &Place) -> Result<(), Box<dyn Error>> {
    let plugins = place.scratch.join("ten-plugins");
    fill(&place.root.join("plugins"), &plugins)?;
    let topic = format!("bench-startup-{}", std::process::id());
    events::fill(&place.brokers, &topic, 1_000, events::PARTITIONS)?;
    let mut seconds = Vec::with_capacity(RUNS);
    for run in 0..=RUNS {
        let out = format!("{topic}-{run}");
        events::create(&place.brokers, &out, events::PARTITIONS)?;
        let reader = reader(&place.brokers, &out)?;
        let mut command = place.live("pass", &topic, &out, &plugins);
        let started = Instant::now();
        let mut job = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let first = loop {
            match reader.poll(Duration::from_millis(10)) {
                Some(Ok(_)) => break Ok(started.elapsed()),
                _ if started.elapsed() > PATIENCE => break Err("the job committed nothing"),
                _ => {}
            }
        };
        job.kill()?;
        job.wait()?;
        seconds.push(first?.as_secs_f64());
    }
    let cold = seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    println!(
        "start to first committed epoch, {PLUGINS} plugins: least {:.2} s, median {:.2} s, most {:.2} s of {RUNS}; {cold:.2} s when they are \
         compiled first",
        seconds[0],
        seconds[RUNS / 2],
        seconds[RUNS - 1]
    );
    Ok(())
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
    // Connected before the clock starts.
    while consumer.poll(Duration::from_millis(200)).is_some() {}
    Ok(consumer)
}
