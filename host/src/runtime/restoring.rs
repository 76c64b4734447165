//! What people see of a restore: a line on the terminal, log lines where there is none, gauges for Prometheus.

use super::metrics::Metrics;
use crate::output::{RestoreProgress, RestoreStep, RestoreWatch};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

/// A step that is done by then is not spoken of.
const QUIET: Duration = Duration::from_secs(2);
/// Between two log lines.
const LOG_EVERY: Duration = Duration::from_secs(2);

/// Shows restores of the job `label`.
pub fn watch(label: String, metrics: Arc<Metrics>) -> RestoreWatch {
    let is_terminal = std::io::stderr().is_terminal();
    let mut logged = Duration::ZERO;
    let mut counted = 0;
    Box::new(move |progress| {
        // Each step, and each attempt, counts from 0.
        if progress.records < counted {
            counted = 0;
        }
        metrics.restored(progress, progress.records - counted);
        counted = if progress.done { 0 } else { progress.records };
        let told = progress.elapsed >= QUIET;
        if is_terminal && told {
            let line = text(&label, progress);
            let end = if progress.done { "\n" } else { "" };
            // A terminal that is gone is no reason to stop.
            let _ = write!(std::io::stderr().lock(), "\r{line}\x1b[K{end}");
        } else if told && (progress.done || progress.elapsed >= logged + LOG_EVERY) {
            logged = progress.elapsed;
            tracing::info!(records = progress.records, "{}", text(&label, progress));
        }
        if progress.done {
            logged = Duration::ZERO;
        }
    })
}

/// `restoring default/counts from the changelog: 1,200,000 records, 48 %, 910,000 records/s, about 2 s left`
fn text(label: &str, progress: &RestoreProgress) -> String {
    let RestoreProgress { step, records, share, elapsed, done } = *progress;
    let from = match step {
        RestoreStep::Changelog => "the changelog",
        RestoreStep::LocalTree => "the local tree",
    };
    let seconds = elapsed.as_secs_f64();
    let rate = grouped((records as f64 / seconds.max(0.001)) as u64);
    if done {
        return format!("read {} records of {label} from {from} in {seconds:.1} s, {rate} records/s", grouped(records));
    }
    let share = match share {
        Some(share) if share > 0.01 => {
            format!(", {:.0} %, about {:.0} s left", (share * 100.0).floor(), seconds / share - seconds)
        }
        Some(_) => ", 0 %".to_owned(),
        None => String::new(),
    };
    format!("restoring {label} from {from}: {} records{share}, {rate} records/s", grouped(records))
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_records_share_rate_and_what_is_left() {
        let mut progress = RestoreProgress {
            step: RestoreStep::Changelog,
            records: 1_200_000,
            share: Some(0.25),
            elapsed: Duration::from_secs(3),
            done: false,
        };
        assert_eq!(
            text("t/j", &progress),
            "restoring t/j from the changelog: 1,200,000 records, 25 %, about 9 s left, 400,000 records/s"
        );
        progress = RestoreProgress { share: None, step: RestoreStep::LocalTree, ..progress };
        assert_eq!(text("t/j", &progress), "restoring t/j from the local tree: 1,200,000 records, 400,000 records/s");
        progress.done = true;
        assert_eq!(text("t/j", &progress), "read 1,200,000 records of t/j from the local tree in 3.0 s, 400,000 records/s");
        assert_eq!([0, 999, 1_000, 12_345_678].map(grouped), ["0", "999", "1,000", "12,345,678"]);
    }
}
