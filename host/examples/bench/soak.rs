//! Whether memory stays flat: the counts with a guest at a steady rate for a long time, and the job's memory as it goes: resident, and the part
//! of it that is the job's own (anonymous). The rest are pages of the program's file, which the kernel takes and gives back as it likes.

use crate::events;
use crate::job::Place;
use std::error::Error;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Memory is looked at this often.
const EVERY: Duration = Duration::from_secs(10);
/// A line is printed for as many looks.
const LOOKS: usize = 30;

/// Prints the job's memory every five minutes.
///
/// # Errors
/// What could not be run, or a job that ended.
pub fn measure(place: &Place, rate: u64, time: Duration) -> Result<(), Box<dyn Error>> {
    let topic = format!("bench-soak-{}", std::process::id());
    let out = format!("{topic}-out");
    events::create(&place.brokers, &topic, events::PARTITIONS)?;
    events::create(&place.brokers, &out, events::PARTITIONS)?;
    let mut command = place.live("counts-guest", &topic, &out, &place.root.join("plugins"));
    let mut job = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let brokers = place.brokers.clone();
    let rows = rate * time.as_secs();
    let sending = std::thread::spawn(move || events::steady(&brokers, &topic, rows, rate).map_err(|e| e.to_string()));
    let watched = watch(&mut job, rate, time);
    job.kill()?;
    job.wait()?;
    watched?;
    Ok(sending.join().map_err(|_| "the sender panicked")??)
}

fn watch(job: &mut Child, rate: u64, time: Duration) -> Result<(), Box<dyn Error>> {
    println!("{rate} rows a second\n| minutes | resident MB: least, mean, most | own MB: least, mean, most |\n|---|---|---|");
    let (started, mut all, mut own) = (Instant::now(), Vec::with_capacity(LOOKS), Vec::with_capacity(LOOKS));
    while started.elapsed() < time {
        std::thread::sleep(EVERY);
        if let Some(status) = job.try_wait()? {
            return Err(format!("the job ended: {status}").into());
        }
        all.push(memory(job.id(), "VmRSS:")?);
        own.push(memory(job.id(), "RssAnon:")?);
        if all.len() == LOOKS {
            println!("| {} | {} | {} |", started.elapsed().as_secs() / 60, span(&all), span(&own));
            all.clear();
            own.clear();
        }
    }
    Ok(())
}

/// Least, mean and most.
fn span(seen: &[f64]) -> String {
    let (least, most) = crate::measure::spread(seen);
    format!("{least:.0}, {:.0}, {most:.0}", seen.iter().sum::<f64>() / seen.len() as f64)
}

/// A line of `/proc/PROCESS/status`, megabytes.
fn memory(process: u32, name: &str) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix(name)).ok_or_else(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? * 1_024.0 / 1e6)
}
