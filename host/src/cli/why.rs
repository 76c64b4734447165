//! `kindling why`: what a running job waits for.

use super::endpoint::{find, is_called};
use super::table::table;
use crate::ask::ask;
use crate::error::{Error, Kind};
use crate::runtime::why::{OperatorLateness, PartitionWhy, Why, WindowRows, WindowsWhy};
use crate::size::format_size;
use crate::time::{format_span, write_rfc3339};
use clap::Args;
use std::path::PathBuf;

/// Partitions that the table shows unless all are asked for: those that are the furthest behind.
const SHOWN: usize = 20;

/// Arguments of `kindling why`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  kindling why experiment-counts                     a job of this folder: found by .kindling/, where `kindling run` keeps its data
  kindling why growth/experiment-counts --data-dir /var/lib/kindling
  kindling why experiment-counts --from 10.0.0.7:9400      a job elsewhere, by its --metrics address
  kindling why experiment-counts --json | jq .lateness

Windows close when the job's watermark reaches their end and allowedLateness. That watermark is the least over the partitions, so results
that do not come are a partition that is behind. A partition is:
  reading    it has records, or may have
  at end     all was read; it still counts, for idleAfter (a parameter of the source, 5s unless said otherwise)
  idle       it stood at its end for idleAfter, and the broker said so: it counts no more until it has records
  waiting    it is more than maxDrift (a parameter of the source) ahead of the others, and is not read until they come near
  finished   the end of a file, or of a run with --until-end

How late rows were is measured against the watermark of each row's own partition, since the process started. The allowedLateness that is
named keeps its share of the rows for certain; where windows are long a shorter one may do: by window (the last 32, and those before
them together) it is told how long after the window's end rows came, and what keeps 99 % and 99.9 % of its rows. Where several operations
have state it is told of each; the rows of a later one are results of the one before. --json has all histograms. Event times that are further in the future of
their record's timestamp than maxFuture (a setting of the window, 1.day unless said otherwise) go to the rejects.")]
pub struct WhyArgs {
    /// The job: its name, or team/name.
    pub job: String,
    /// Ask the job that serves its metrics here.
    #[arg(long, value_name = "ADDR")]
    pub from: Option<String>,
    /// Folder in which the job keeps its data, to find it by.
    #[arg(long, default_value = ".kindling")]
    pub data_dir: PathBuf,
    /// Show all partitions, not only the twenty that are the furthest behind.
    #[arg(long)]
    pub all: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `kindling why`.
///
/// # Errors
/// When the job can't be found or asked, or another one answers.
pub fn why(args: &WhyArgs) -> Result<(), Error> {
    let external = |text: String| Error::new(Kind::External, text);
    let why: Why = match &args.from {
        Some(from) => ask(from, "/why").map_err(external)?,
        None => {
            let (address, silent) = find(&args.data_dir, &args.job)?;
            ask(&address.to_string(), "/why").map_err(|e| external(format!("{silent} ({e})")))?
        }
    };
    if !is_called(&why.job, &args.job) {
        let text = format!("the job that answers is {}, not `{}`: give another address with --from", why.job, args.job);
        return Err(Error::new(Kind::Config, text));
    }
    if args.json {
        let text = serde_json::to_string_pretty(&why).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        say!("{text}");
        return Ok(());
    }
    say!("{}, {}, at {}: watermark {}\n", why.job, why.phase, time(Some(why.at)), time(why.watermark));
    for sentence in &why.explanation {
        say!("{sentence}");
    }
    partitions(&why, args.all);
    windows(&why);
    lateness(&why);
    Ok(())
}

fn time(ms: Option<i64>) -> String {
    ms.map_or_else(
        || "none yet".to_owned(),
        |ms| {
            let mut text = String::new();
            write_rfc3339(ms, &mut text);
            text
        },
    )
}

fn span(ms: Option<i64>) -> String {
    ms.map_or_else(|| "-".to_owned(), format_span)
}

fn partitions(why: &Why, all: bool) {
    if why.partitions.is_empty() {
        return;
    }
    let mut order: Vec<usize> = (0..why.partitions.len()).collect();
    // The one that holds the watermark first, then by how far behind they are.
    order.sort_by_key(|p| (Some(*p) != why.held_back_by, why.partitions[*p].watermark.unwrap_or(i64::MIN), *p));
    let shown = if all { order.len() } else { order.len().min(SHOWN) };
    let mut table =
        table(["partition", "state", "watermark", "not moved for", "offset", "end", "lag", "last record", "rows/s"], 3..9);
    let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    for index in order.iter().take(shown) {
        let p: &PartitionWhy = &why.partitions[*index];
        let holds = if Some(*index) == why.held_back_by { " *" } else { "" };
        table.add_row([
            format!("{}/{}{holds}", p.topic, p.partition),
            p.state.clone(),
            time(p.watermark),
            format_span(p.still_ms),
            p.position.to_string(),
            number(p.end),
            number(p.lag),
            p.record_age_ms.map_or_else(|| "-".to_owned(), |age| format!("{} ago", format_span(age))),
            format!("{}", p.rows_per_second),
        ]);
    }
    say!("\n{table}");
    if shown < order.len() {
        say!("{} more partitions are further ahead: --all shows them", order.len() - shown);
    }
}

fn windows(why: &Why) {
    if let Some(open) = &why.windows {
        opened(open);
    }
    for behind in &why.behind {
        say!("\n{}, behind it: watermark {}", behind.operator, time(behind.watermark));
        opened(&behind.windows);
    }
}

fn opened(open: &WindowsWhy) {
    let size = format_size(open.bytes);
    let place = match open.disk_slots {
        0 => String::new(),
        n => format!(", {} of them in memory and {n} keys on disk", format_size(open.memory_bytes)),
    };
    match open.oldest {
        None if open.slots == 0 => say!("\nNo window is open."),
        None => say!(
            "\nOpen: {} panes with {} keys, {size}{place}, of windows that the watermark does not close.",
            open.panes,
            open.slots
        ),
        Some(oldest) => say!(
            "\nOpen: {} panes with {} keys, {size}{place}; the oldest from {}; the next window closes at watermark {}.",
            open.panes,
            open.slots,
            time(Some(oldest)),
            time(open.next_close)
        ),
    }
}

fn lateness(why: &Why) {
    let operators = &why.lateness.operators;
    for operator in operators.iter().filter(|operator| operator.rows.behind > 0) {
        let of = if operators.len() > 1 { format!("{}: ", operator.operator) } else { String::new() };
        histogram(&format!("{of}behind the watermark by"), operator.rows.rows, &operator.rows.buckets);
        if !operator.windows.is_empty() {
            by_window(operator);
        }
    }
}

/// The windows to which rows came late, and of all of them together when they came.
fn by_window(operator: &OperatorLateness) {
    let all: Vec<&WindowRows> = operator.older.iter().chain(&operator.windows).collect();
    let late: Vec<&&WindowRows> = all.iter().filter(|w| w.after_end > 0).collect();
    say!(
        "\n{}, {}: rows came after the end of {} of the last {} windows{}. A row is counted by the first window that it belongs to.",
        operator.operator,
        operator.kind,
        operator.windows.iter().filter(|w| w.after_end > 0).count(),
        operator.windows.len(),
        if operator.older.is_some() { ", and of those before them" } else { "" }
    );
    if late.is_empty() {
        return;
    }
    let mut table = table(
        ["window", "rows", "after its end", "at most by", "99 % with allowedLateness", "99.9 %", "after its end by: rows"],
        1..6,
    );
    for window in late {
        let name = window
            .start
            .map_or_else(|| "all before".to_owned(), |start| format!("{} to {}", time(Some(start)), time(window.end)));
        let buckets = window.buckets.iter().filter(|(bound, _)| *bound != Some(0));
        let buckets: Vec<String> = buckets
            .map(|(bound, rows)| {
                format!("{}: {rows}", bound.map_or_else(|| "more".to_owned(), |b| format!("up to {}", format_span(b))))
            })
            .collect();
        table.add_row([
            name,
            window.rows.to_string(),
            window.after_end.to_string(),
            format_span(window.max_ms),
            span(window.keeps_99),
            span(window.keeps_999),
            buckets.join(", "),
        ]);
    }
    say!("{table}");
}

fn histogram(title: &str, all: u64, buckets: &[(Option<i64>, u64)]) {
    let mut table = table([title, "rows", "share"], 1..3);
    let mut before = None;
    for (bound, rows) in buckets {
        let what = match bound {
            Some(0) => "on time".to_owned(),
            Some(bound) => format!("up to {}", format_span(*bound)),
            None => format!("more than {}", span(before)),
        };
        before = *bound;
        table.add_row([what, rows.to_string(), format!("{:.3} %", *rows as f64 / all as f64 * 100.0)]);
    }
    say!("\n{table}");
}
