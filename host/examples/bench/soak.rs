//! Whether memory stays flat: the counts with a guest at a steady rate for a long time, and the job's resident memory as it goes.

use crate::events;
use crate::job::Place;
use std::error::Error;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Memory is looked at this often.
const EVERY: Duration = Duration::from_secs(10);
/// A line is printed for as many looks.
const LOOKS: usize = 30;

/// Prints least, mean and most of the job's memory every five minutes.
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
    println!("{rate} rows a second\n| minutes | least MB | mean MB | most MB |\n|---|---|---|---|");
    let (started, mut seen) = (Instant::now(), Vec::with_capacity(LOOKS));
    while started.elapsed() < time {
        std::thread::sleep(EVERY);
        if let Some(status) = job.try_wait()? {
            return Err(format!("the job ended: {status}").into());
        }
        seen.push(resident(job.id())?);
        if seen.len() == LOOKS {
            let mean = seen.iter().sum::<f64>() / LOOKS as f64;
            let (least, most) = crate::measure::spread(&seen);
            println!("| {} | {least:.0} | {mean:.0} | {most:.0} |", started.elapsed().as_secs() / 60);
            seen.clear();
        }
    }
    Ok(())
}

/// Resident memory of a process, megabytes.
fn resident(process: u32) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? * 1_024.0 / 1e6)
}
