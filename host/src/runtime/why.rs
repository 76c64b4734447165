//! Why the watermark stands where it does: what `kindling why` shows and `/why` answers.
//!
//! In: a job as last seen, and the time. Out: a [`Why`]: every partition, what is open, how late rows were, and the same in sentences.

use crate::limits::JobLimits;
use crate::operator::lateness::Lateness;
use crate::operator::window_lateness::RowLateness;
use crate::plan::{Plan, window_kind};
use crate::runtime::core::{JobCore, OpenWindows};
use crate::runtime::explanation;
use crate::runtime::status::{Inner, PartitionSeen, Phase};
use crate::state::store::Sizes;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Where a job stands. Times are milliseconds since 1970 UTC, spans milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// `team/name`.
    pub job: String,
    /// When this was so.
    pub at: i64,
    /// `starting`, `restoring`, `running`, `committing`, `backing off`.
    pub phase: String,
    /// For how long.
    pub phase_ms: i64,
    /// Since the last epoch was closed; none before the first.
    pub epoch_age_ms: Option<i64>,
    /// Up to where windows have been closed.
    pub watermark: Option<i64>,
    /// Index in `partitions` of the one that holds it back.
    pub held_back_by: Option<usize>,
    /// What holds it back and what would unblock it, in sentences.
    pub explanation: Vec<String>,
    /// The partitions, as the source has them.
    pub partitions: Vec<PartitionWhy>,
    /// Open windows; none for a pipeline without.
    pub windows: Option<WindowsWhy>,
    /// The operators with state behind the first one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<OperatorWhy>,
    /// How late rows were, since the process started: those that came in, and by operator.
    pub lateness: LatenessWhy,
    /// What waiting depends on.
    pub settings: Settings,
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionWhy {
    /// Topic, or path of the file.
    pub topic: String,
    /// Number.
    pub partition: i32,
    /// Offset that is read next.
    pub position: i64,
    /// End offset as last known.
    pub end: Option<i64>,
    /// Records between the two.
    pub lag: Option<i64>,
    /// Its watermark.
    pub watermark: Option<i64>,
    /// How long that has not moved.
    pub still_ms: i64,
    /// Since its last record; none where none came in this process.
    pub record_age_ms: Option<i64>,
    /// Records a second.
    pub rows_per_second: f64,
    /// `reading`, `at end`, `idle`, `waiting` (more than maxDrift ahead), `finished`.
    pub state: String,
    /// How long it has stood at its end.
    pub at_end_ms: Option<i64>,
    /// The end that the broker told of, where that is not the end that was read to.
    pub unread_end: Option<i64>,
}

/// What is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowsWhy {
    /// Slices of time with state.
    pub panes: usize,
    /// Keys of all of them.
    pub slots: usize,
    /// Bytes of keys and states.
    pub bytes: usize,
    /// Bytes of memory that they take.
    #[serde(default)]
    pub memory_bytes: usize,
    /// Keys that are on disk only.
    #[serde(default)]
    pub disk_slots: usize,
    /// Bytes of their keys and states.
    #[serde(default)]
    pub disk_bytes: usize,
    /// Start of the oldest slice.
    pub oldest: Option<i64>,
    /// The watermark that closes the next window.
    pub next_close: Option<i64>,
}

/// An operator with state behind another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorWhy {
    /// Its name.
    pub operator: String,
    /// Its watermark, which follows that of the one before.
    pub watermark: Option<i64>,
    /// What is open in it.
    pub windows: WindowsWhy,
}

impl OperatorWhy {
    pub(super) fn of(core: &JobCore) -> Self {
        let watermark = Some(core.closed()).filter(|closed| *closed != i64::MIN);
        let windows = WindowsWhy::of(core.open_windows(), &core.operator_sizes().first().copied().unwrap_or_default());
        Self { operator: core.plan().operator.clone(), watermark, windows }
    }
}

impl WindowsWhy {
    fn of(windows: Option<OpenWindows>, state: &Sizes) -> Self {
        Self {
            panes: windows.map_or(0, |w| w.panes),
            slots: state.slots,
            bytes: state.bytes,
            memory_bytes: state.memory_bytes,
            disk_slots: state.disk_slots,
            disk_bytes: state.disk_bytes,
            oldest: windows.and_then(|w| w.oldest),
            next_close: windows.and_then(|w| w.next_close),
        }
    }
}

/// How late rows were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatenessWhy {
    /// Rows that came in: those of the first operator with state.
    #[serde(flatten)]
    pub rows: RowsBehind,
    /// Each operator with state, in order.
    #[serde(default)]
    pub operators: Vec<OperatorLateness>,
}

/// How far behind the watermark an operator's rows came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RowsBehind {
    /// Rows with an event time.
    pub rows: u64,
    /// Those that came behind the watermark.
    pub behind: u64,
    /// Those that were set aside: late for all their windows, or for their turn.
    pub late: u64,
    /// How far behind the last of them came.
    pub max_ms: i64,
    /// The allowed lateness that would have kept 99 % of the rows; none without rows.
    pub keeps_99: Option<i64>,
    /// And 99.9 %.
    pub keeps_999: Option<i64>,
    /// Rows by how far behind they came: up to so many milliseconds (none: more than the one before), so many rows. Empty buckets are left out.
    pub buckets: Vec<(Option<i64>, u64)>,
}

/// How late the rows of an operator were; of one behind another these are results of that. By window a row is counted once, by the first that it
/// belongs to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OperatorLateness {
    /// Its name.
    pub operator: String,
    /// Kind of window: `tumbling windows of 1m`; or `keyed process`.
    pub kind: String,
    /// `allowedLateness` of its windows.
    pub allowed_lateness_ms: Option<i64>,
    /// How far behind its watermark they came.
    #[serde(flatten)]
    pub rows: RowsBehind,
    /// How long after the ends of their windows: of the windows that end last, at most
    /// [`WINDOWS_KEPT`](crate::operator::window_lateness::WINDOWS_KEPT), ascending; of sessions slices as long as the gap. Empty where the watermark
    /// closes no window.
    pub windows: Vec<WindowRows>,
    /// All windows before those together, where there were more.
    pub older: Option<WindowRows>,
}

/// Rows of a window by how long after its end they came; of a session, after the end of the session of the row alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowRows {
    /// First time; none of windows together.
    pub start: Option<i64>,
    /// After its last row.
    pub end: Option<i64>,
    /// Rows with an event time in it.
    pub rows: u64,
    /// Those that came after its end.
    pub after_end: u64,
    /// How long after it the last of them came.
    pub max_ms: i64,
    /// The allowed lateness with which 99 % of its rows count in it.
    pub keeps_99: Option<i64>,
    /// And 99.9 %.
    pub keeps_999: Option<i64>,
    /// As those of [`RowsBehind`].
    pub buckets: Vec<(Option<i64>, u64)>,
}

/// What waiting depends on, as the pipeline and the command line say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// `watermark` of the window; none for a pipeline without.
    pub out_of_orderness_ms: Option<i64>,
    /// `allowedLateness` of the window.
    pub allowed_lateness_ms: Option<i64>,
    /// `maxFuture` of the window.
    pub max_future_ms: Option<i64>,
    /// `idleAfter` of the source.
    pub idle_after_ms: i64,
    /// `maxDrift` of the source.
    pub max_drift_ms: Option<i64>,
}

impl Settings {
    pub(super) fn of(plan: &Plan, limits: &JobLimits) -> Self {
        let (window, process) = (plan.window.as_ref(), plan.process.as_ref());
        Self {
            out_of_orderness_ms: window.map(|w| w.out_of_orderness).or(process.map(|p| p.out_of_orderness)).map(ms),
            allowed_lateness_ms: window.map(|w| ms(w.allowed_lateness)),
            max_future_ms: window.map(|w| w.max_future).or(process.map(|p| p.max_future)).map(ms),
            idle_after_ms: ms(limits.idle_after),
            max_drift_ms: limits.max_drift.map(ms),
        }
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Why {
    pub(super) fn of(job: &str, inner: &Inner, lateness: &[RowLateness], now: Instant, now_ms: i64) -> Self {
        let since = |at: Instant| ms(now.saturating_duration_since(at));
        let partitions: Vec<PartitionWhy> =
            inner.partitions.iter().enumerate().map(|(i, seen)| partition(inner, i, seen, &since)).collect();
        let open = |p: &&usize| !["idle", "finished"].contains(&partitions[**p].state.as_str());
        let numbers: Vec<usize> = (0..partitions.len()).collect();
        let waits = inner.settings.out_of_orderness_ms.is_some();
        let held_back_by =
            numbers.iter().filter(|_| waits).filter(open).min_by_key(|p| partitions[**p].watermark.unwrap_or(i64::MIN)).copied();
        let windows = inner.settings.out_of_orderness_ms.map(|_| WindowsWhy::of(inner.windows, &inner.state));
        let mut why = Self {
            job: job.to_owned(),
            at: now_ms,
            phase: phase(&inner.phase).to_owned(),
            phase_ms: inner.phase_since.map_or(0, since),
            epoch_age_ms: inner.seen_at.map(since),
            watermark: inner.closed,
            held_back_by,
            explanation: Vec::new(),
            partitions,
            windows,
            behind: inner.behind.clone(),
            lateness: LatenessWhy::of(&inner.operators, lateness),
            settings: inner.settings,
        };
        why.explanation = explanation::sentences(&why, &inner.phase);
        why
    }
}

fn phase(phase: &Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Restoring => "restoring",
        Phase::Running => "running",
        Phase::Committing => "committing",
        Phase::BackingOff(_) => "backing off",
    }
}

fn partition(inner: &Inner, index: usize, seen: &PartitionSeen, since: &dyn Fn(Instant) -> i64) -> PartitionWhy {
    let name = inner.names.get(index);
    let state = &seen.state;
    let word = match state {
        s if s.finished => "finished",
        s if s.held => "waiting",
        _ if seen.idle => "idle",
        s if s.at_end.is_some() => "at end",
        _ => "reading",
    };
    // Behind the last record there may be marks of transactions: at its end nothing is behind.
    let end = seen.end.map(|end| end.max(seen.position));
    let at_its_end = state.at_end.filter(|a| a.told.is_none());
    PartitionWhy {
        topic: name.map_or_else(String::new, |n| n.topic.to_string()),
        partition: name.map_or(-1, |n| n.partition),
        position: seen.position,
        end: end.or_else(|| at_its_end.map(|_| seen.position)),
        lag: if at_its_end.is_some() { Some(0) } else { end.map(|end| end - seen.position) },
        watermark: Some(state.watermark).filter(|w| *w != i64::MIN),
        still_ms: since(state.moved),
        record_age_ms: state.records.map(since),
        rows_per_second: (seen.rate * 10.0).round() / 10.0,
        state: word.to_owned(),
        at_end_ms: state.at_end.map(|a| since(a.since)),
        unread_end: state.at_end.and_then(|a| a.told),
    }
}

impl LatenessWhy {
    fn of(operators: &[OperatorLateness], lateness: &[RowLateness]) -> Self {
        Self {
            rows: lateness.first().map(RowsBehind::of).unwrap_or_default(),
            operators: operators.iter().zip(lateness).map(|(operator, rows)| operator.with(rows)).collect(),
        }
    }
}

impl RowsBehind {
    fn of(lateness: &RowLateness) -> Self {
        let behind = &lateness.behind;
        Self {
            rows: behind.rows(),
            behind: behind.rows_behind(),
            late: lateness.late,
            max_ms: behind.max_ms(),
            keeps_99: behind.keeping(990),
            keeps_999: behind.keeping(999),
            buckets: buckets(behind),
        }
    }
}

impl OperatorLateness {
    /// Of a plan's operator, without rows.
    pub(super) fn of(plan: &Plan) -> Self {
        let window = plan.window.as_ref();
        Self {
            operator: plan.operator.clone(),
            kind: window.map_or_else(|| "keyed process".to_owned(), window_kind),
            allowed_lateness_ms: window.map(|w| ms(w.allowed_lateness)),
            ..Self::default()
        }
    }

    fn with(&self, lateness: &RowLateness) -> Self {
        let older = lateness.windows.older();
        let windows = lateness.windows.recent().iter();
        Self {
            rows: RowsBehind::of(lateness),
            windows: windows.map(|(w, rows)| window_rows(Some(w.start), Some(w.end), rows)).collect(),
            older: (older.rows() > 0).then(|| window_rows(None, None, older)),
            ..self.clone()
        }
    }
}

fn window_rows(start: Option<i64>, end: Option<i64>, rows: &Lateness) -> WindowRows {
    WindowRows {
        start,
        end,
        rows: rows.rows(),
        after_end: rows.rows_behind(),
        max_ms: rows.max_ms(),
        keeps_99: rows.keeping(990),
        keeps_999: rows.keeping(999),
        buckets: buckets(rows),
    }
}

/// The buckets that are not empty.
fn buckets(lateness: &Lateness) -> Vec<(Option<i64>, u64)> {
    let mut buckets = Vec::new();
    let mut before = 0;
    for (bound, rows) in lateness.cumulative() {
        if rows > before {
            buckets.push((Some(bound), rows - before));
        }
        before = rows;
    }
    if lateness.rows() > before {
        buckets.push((None, lateness.rows() - before));
    }
    buckets
}
