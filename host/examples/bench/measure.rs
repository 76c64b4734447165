//! A process from its start to its end.

use std::error::Error;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the memory of a process is looked at.
const WATCH: Duration = Duration::from_millis(50);

/// One run of a process.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Seconds.
    pub wall: f64,
    /// Seconds of user and system time.
    pub cpu: f64,
    /// Bytes.
    pub peak: f64,
    /// CPU seconds of the broker meanwhile.
    pub broker: f64,
}

/// Runs `command` to its end.
///
/// # Errors
/// When it does not start, or does not end with 0; with what it wrote to standard error.
pub fn run(command: &mut Command, broker: u32) -> Result<Run, Box<dyn Error>> {
    let (before, started) = (cpu_of(broker), Instant::now());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|e| format!("{command:?}: {e}"))?;
    let mut said = String::new();
    let mut stderr = child.stderr.take().ok_or("no standard error")?;
    let (process, has_ended) = (child.id(), AtomicBool::new(false));
    // The system's own maximum begins with this program's memory, which the child has until it becomes another program.
    let peak = std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let mut peak = 0.0;
            while !has_ended.load(Ordering::Relaxed) {
                peak = peak_of(process).max(peak);
                std::thread::sleep(WATCH);
            }
            peak
        });
        let read = stderr.read_to_string(&mut said);
        has_ended.store(true, Ordering::Relaxed);
        read.map(|_| watched.join().unwrap_or(f64::NAN))
    })?;
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the child is ours and has not been waited for; both pointers are valid.
    let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) };
    // SAFETY: zeroes are a rusage.
    let usage = unsafe { usage.assume_init() };
    if waited < 0 || status != 0 {
        return Err(format!("{command:?} ended with {status}:\n{said}").into());
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Ok(Run {
        wall: started.elapsed().as_secs_f64(),
        cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        peak,
        broker: cpu_of(broker) - before,
    })
}

/// The most bytes of memory that a process has had; 0 where there is none.
fn peak_of(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1_024.0
}

/// CPU seconds of a process so far; 0 where there is none.
pub fn cpu_of(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Behind the name, which may have spaces: state is the first, user and system time the 12th and 13th.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    // SAFETY: asks for a constant of the system.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    fields.filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / ticks
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

pub fn spread(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(low, high), v| (low.min(*v), high.max(*v)))
}
