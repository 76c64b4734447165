//! What `kindling demo` shows: a table that is drawn anew on a terminal, a line a second elsewhere, and the account at the end.

use super::demo::DemoArgs;
use super::demo_events::Expected;
use super::demo_matches::{Match, Matches};
use super::table::table;
use crate::error::{Error, Kind};
use crate::output::OutRecord;
use crate::runtime::core::Counts;
use crate::runtime::job::Committed;
use crate::runtime::swap::Swapper;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the table is drawn.
const FRAME: Duration = Duration::from_millis(250);
/// Variants shown.
const SHOWN: usize = 8;

/// The demo's picture of itself.
pub struct View {
    started: Instant,
    rate: u64,
    total: Duration,
    terminal: bool,
    quiet: bool,
    drawn: Option<Instant>,
    lines: usize,
    /// Counts of each variant: built-in and guest.
    variants: BTreeMap<String, (i64, i64)>,
    counted: i64,
    matches: Matches,
    window: String,
    dropped_at: Option<Instant>,
    first_new: Option<(Duration, String)>,
    last: Option<(Instant, u64)>,
    speed: f64,
}

impl View {
    /// Nothing seen yet.
    pub fn new(args: &DemoArgs, started: Instant) -> Self {
        Self {
            started,
            rate: args.rate,
            total: args.time,
            terminal: std::io::stdout().is_terminal(),
            quiet: args.json,
            drawn: None,
            lines: 0,
            variants: BTreeMap::new(),
            counted: 0,
            matches: Matches::default(),
            window: String::new(),
            dropped_at: None,
            first_new: None,
            last: None,
            speed: 0.0,
        }
    }

    /// The second versions of the plugins lie in the folder.
    pub fn dropped_in(&mut self) {
        self.dropped_at = Some(Instant::now());
    }

    /// An epoch of the matches was committed.
    pub fn matches(&mut self, epoch: &Committed<'_>) {
        self.matches.epoch(epoch, self.dropped_at);
    }

    /// An epoch of the counts was committed.
    pub fn epoch(&mut self, epoch: &Committed<'_>, swapper: &Swapper) {
        for record in epoch.outputs {
            self.result(record);
        }
        let now = Instant::now();
        match self.last {
            Some((then, rows)) if now - then >= Duration::from_secs(1) => {
                self.speed = epoch.counts.rows.saturating_sub(rows) as f64 / (now - then).as_secs_f64();
                self.last = Some((now, epoch.counts.rows));
            }
            None => self.last = Some((now, epoch.counts.rows)),
            _ => {}
        }
        let every = if self.terminal { FRAME } else { Duration::from_secs(1) };
        if !self.quiet && self.drawn.is_none_or(|d| now - d >= every) {
            self.drawn = Some(now);
            self.draw(epoch, swapper);
        }
    }

    fn result(&mut self, record: &OutRecord) {
        let Ok(row) = serde_json::from_slice::<Value>(&record.value) else { return };
        let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
        let (count, guest) = (row["count"].as_i64().unwrap_or(0), row["guestCount"].as_i64().unwrap_or(0));
        self.counted += count;
        let variant = self.variants.entry(format!(
            "{} / {} / {}",
            text("experimentName"),
            text("experimentGroup"),
            text("experimentBucket")
        ));
        let sums = variant.or_default();
        *sums = (sums.0 + count, sums.1 + guest);
        self.window = format!("{} to {}", text("window_start"), text("window_end"));
        if let (Some(dropped), None, "experiment_count@2.0.0") =
            (self.dropped_at, &self.first_new, text("plugin_versions").as_str())
        {
            self.first_new = Some((dropped.elapsed(), String::from_utf8_lossy(&record.value).into_owned()));
        }
    }

    fn draw(&mut self, epoch: &Committed<'_>, swapper: &Swapper) {
        let seconds = self.started.elapsed().as_secs_f64();
        let version = epoch.plan.guests.first().map_or_else(String::new, |g| format!("{}@{}", g.plugin, g.version));
        let (matches, matching) = (self.matches.count(), &self.matches.version);
        if !self.terminal {
            say!(
                "{seconds:5.1}s  {} rows  {:.0} rows/s  {} late  {} rejected  {} results  {matches} matches  watermark {}  {version}  {matching}",
                epoch.counts.rows,
                self.speed,
                epoch.counts.late,
                epoch.counts.rejects,
                epoch.counts.outputs,
                clock(epoch.closed)
            );
            return;
        }
        let mut counts = table(["experiment / group / bucket", "count (built-in)", "count (guest)"], 1..3);
        for (name, (count, guest)) in self.variants.iter().take(SHOWN) {
            counts.add_row([name.clone(), count.to_string(), guest.to_string()]);
        }
        let mut found = table(["match: swiper", "swipee", "at", "waited_ms (1.1.0)"], 0..0);
        for row in &self.matches.last {
            let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
            found.add_row([
                text("swiper"),
                text("swipee"),
                clock(row["ts"].as_i64().unwrap_or(i64::MIN)),
                row["waited_ms"].as_i64().map_or_else(String::new, |ms| ms.to_string()),
            ]);
        }
        let note = swapper.notes().last().map_or_else(String::new, |n| format!("{}: {}", n.plugin, n.text));
        let text = format!(
            "kindling demo  {seconds:.0} of {} s  {} events/s asked for\n\n\
             rows {}   rows/s {:.0}   late {}   rejected {}   results {}   matches {matches}\n\
             watermark {}   state {} keys   epoch {}   commit {:.1} ms\n\
             plugins {version}   {matching}   {note}\n\nlast window {}\n{counts}\n{found}\n",
            self.total.as_secs(),
            self.rate,
            epoch.counts.rows,
            self.speed,
            epoch.counts.late,
            epoch.counts.rejects,
            epoch.counts.outputs,
            clock(epoch.closed),
            epoch.sizes.slots,
            epoch.epoch,
            epoch.commit_time.as_secs_f64() * 1e3,
            self.window,
        );
        let mut out = std::io::stdout().lock();
        // Up over the last picture, then each line cleared behind its text.
        let up = if self.lines > 0 { format!("\x1b[{}A", self.lines) } else { String::new() };
        let _ = write!(out, "{up}{}\x1b[J", text.replace('\n', "\x1b[K\n"));
        let _ = out.flush();
        self.lines = text.lines().count();
    }

    /// The account at the end: every row that came is counted, late or rejected, and the matches are those of the events; `matched` rows were read
    /// for them.
    ///
    /// # Errors
    /// When a row is lost or counted twice, or a match is.
    pub fn finish(
        &self,
        counts: &Counts,
        matched: u64,
        expected: &Expected,
        matches: &BTreeSet<Match>,
        args: &DemoArgs,
    ) -> Result<(), Error> {
        let accounted = self.counted + counts.late as i64;
        let good = counts.rows == expected.events
            && matched == expected.events
            && accounted == expected.assignments as i64
            && counts.rejects == expected.broken
            && self.matches.are(matches);
        let seconds = self.started.elapsed().as_secs_f64();
        if args.json {
            let swap = |first: &Option<(Duration, String)>| {
                first.as_ref().map(|(d, row)| serde_json::json!({"seconds": d.as_secs_f64(), "row": row}))
            };
            say!(
                "{}",
                serde_json::json!({"rows": counts.rows, "counted": self.counted, "late": counts.late, "rejects": counts.rejects,
                    "events": expected.events, "assignments": expected.assignments, "broken": expected.broken, "swap": swap(&self.first_new),
                    "matches": self.matches.count(), "expectedMatches": matches.len(), "carriedMatches": self.matches.carried,
                    "matchSwap": swap(&self.matches.first_carried), "nothingLost": good, "seconds": seconds})
            );
        } else {
            self.tell(counts, expected, matches.len(), good);
            say!("({seconds:.1} s; the events were counted and matched a second time, without the pipelines)");
            say!("\nNext, a guest of your own:  kindling plugin new my_match --kind process");
        }
        if good { Ok(()) } else { Err(Error::new(Kind::Internal, "the demo's rows don't add up")) }
    }

    fn tell(&self, counts: &Counts, expected: &Expected, matches: usize, good: bool) {
        match &self.first_new {
            Some((after, row)) => {
                say!("\nfirst result of experiment_count 2.0.0, {:.1} s after it was dropped in:\n  {row}", after.as_secs_f64())
            }
            None => say!("\nthe demo ended before a window of experiment_count 2.0.0 closed"),
        }
        if let Some((after, row)) = &self.matches.first_carried {
            say!(
                "\nfirst match of match_detection 1.1.0 for a like that 1.0.0 had been given, {:.1} s after it was dropped in:\n  {row}",
                after.as_secs_f64()
            );
        }
        say!(
            "\n{} of {} events read; {} experiment assignments = {} counted + {} late; {} of {} broken events rejected;\n\
             {} of {matches} matches found, {} of them made in part by each version of the detector: {}",
            counts.rows,
            expected.events,
            expected.assignments,
            self.counted,
            counts.late,
            counts.rejects,
            expected.broken,
            self.matches.count(),
            self.matches.carried,
            if good { "nothing was lost, nothing came twice" } else { "THESE DON'T ADD UP" }
        );
    }
}

fn clock(ms: i64) -> String {
    if ms == i64::MIN {
        return "-".into();
    }
    let day = ms.rem_euclid(86_400_000);
    format!("{:02}:{:02}:{:02}.{:03}Z", day / 3_600_000, day / 60_000 % 60, day / 1_000 % 60, day % 1_000)
}
