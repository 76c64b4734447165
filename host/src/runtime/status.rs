//! Where a job stands, kept for whoever asks: written by the job's thread once an epoch, read by the server's at any time.
//!
//! In: partitions, watermarks, what is being waited for. Out: a [`Why`], and the histogram of lateness for Prometheus.
//! **Invariant**: the lock is held for a copy only, so a job that is stuck still answers, and who asks holds nobody up.

use crate::element::PartitionName;
use crate::limits::JobLimits;
use crate::operator::window_lateness::RowLateness;
use crate::plan::Plan;
use crate::runtime::core::{JobCore, OpenWindows};
use crate::runtime::progress::{PartitionClock, PartitionState};
use crate::runtime::why::{OperatorLateness, OperatorWhy, Settings, Why};
use crate::state::store::Sizes;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the job's thread is at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Being set up.
    #[default]
    Starting,
    /// Taking its state and positions back.
    Restoring,
    /// Running epochs.
    Running,
    /// Waiting for the commit of an epoch.
    Committing,
    /// Waiting before it goes back to the last committed epoch; why.
    BackingOff(String),
}

/// A job after an epoch.
pub(super) struct Seen<'a> {
    pub(super) core: &'a JobCore,
    pub(super) clock: &'a PartitionClock,
    /// End of each partition, where it was asked for.
    pub(super) ends: Vec<i64>,
    /// What is open, where it was looked for; sizes of state are taken then too, so that they fit.
    pub(super) windows: Option<OpenWindows>,
    /// Whether the two above were.
    pub(super) looked: bool,
    pub(super) now: Instant,
}

/// One partition as last seen.
pub(super) struct PartitionSeen {
    pub(super) state: PartitionState,
    pub(super) idle: bool,
    pub(super) position: i64,
    pub(super) end: Option<i64>,
    /// Records a second, over the last second or so.
    pub(super) rate: f64,
}

/// Everything as last seen.
#[derive(Default)]
pub(super) struct Inner {
    pub(super) names: Vec<PartitionName>,
    pub(super) settings: Settings,
    /// The operators with state, without rows.
    pub(super) operators: Vec<OperatorLateness>,
    pub(super) phase: Phase,
    pub(super) phase_since: Option<Instant>,
    pub(super) seen_at: Option<Instant>,
    pub(super) partitions: Vec<PartitionSeen>,
    pub(super) closed: Option<i64>,
    pub(super) state: Sizes,
    pub(super) windows: Option<OpenWindows>,
    pub(super) behind: Vec<OperatorWhy>,
    /// Positions when rates were last worked out.
    rated: Option<(Instant, Vec<i64>)>,
}

/// Shared between a job and its server.
pub struct JobStatus {
    job: String,
    inner: Mutex<Inner>,
    /// By operator with state.
    lateness: Arc<Mutex<Vec<RowLateness>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value behind these locks is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobStatus {
    /// Of the job `team`/`name`, which has not begun.
    pub fn new(team: &str, name: &str) -> Self {
        Self { job: format!("{team}/{name}"), inner: Mutex::default(), lateness: Arc::default() }
    }

    /// What the answers name: partitions and settings.
    pub fn describe(&self, plan: &Plan, partitions: &[PartitionName], limits: &JobLimits) {
        let mut inner = lock(&self.inner);
        inner.names = partitions.to_vec();
        inner.settings = Settings::of(plan, limits);
        inner.operators = plan.chain().filter(|p| p.has_state()).map(OperatorLateness::of).collect();
    }

    pub(super) fn phase(&self, phase: Phase) {
        let mut inner = lock(&self.inner);
        if inner.phase != phase {
            (inner.phase, inner.phase_since) = (phase, Some(Instant::now()));
        }
    }

    pub(super) fn committed(&self, lateness: &[RowLateness]) {
        let mut all = lock(&self.lateness);
        let operators = all.len().max(lateness.len());
        all.resize_with(operators, RowLateness::default);
        all.iter_mut().zip(lateness).for_each(|(all, new)| all.add(new));
    }

    pub(super) fn saw(&self, seen: &Seen<'_>) {
        let mut inner = lock(&self.inner);
        let positions = seen.core.positions();
        let rates = if seen.looked { inner.rates(positions, seen.now) } else { None };
        let before = std::mem::take(&mut inner.partitions);
        let partition = |(i, state): (usize, &PartitionState)| PartitionSeen {
            state: state.clone(),
            idle: seen.clock.is_idle(i, seen.now),
            position: positions[i],
            end: seen.ends.get(i).copied().or_else(|| before.get(i)?.end),
            rate: rates.as_ref().map_or_else(|| before.get(i).map_or(0.0, |p| p.rate), |r| r[i]),
        };
        inner.partitions = seen.clock.partitions().iter().enumerate().map(partition).collect();
        inner.closed = Some(seen.core.closed()).filter(|c| *c != i64::MIN);
        if seen.looked {
            inner.windows = seen.windows;
            inner.state = seen.core.operator_sizes().first().copied().unwrap_or_default();
            inner.behind = seen.core.behind().map(OperatorWhy::of).collect();
        }
        inner.seen_at = Some(seen.now);
    }

    /// Where the job stands now.
    pub fn why(&self) -> Why {
        let lateness = lock(&self.lateness).clone();
        Why::of(&self.job, &lock(&self.inner), &lateness, Instant::now(), crate::time::now_ms())
    }

    /// The histogram of lateness for a registry.
    ///
    /// # Errors
    /// When its name is refused.
    pub fn lateness_collector(&self) -> Result<Box<dyn Collector>, prometheus::Error> {
        let help = "How far behind the watermark rows came; 0 is on time.";
        let desc = Desc::new("row_lateness_seconds".into(), help.into(), Vec::new(), HashMap::new())?;
        Ok(Box::new(LatenessCollector { desc, lateness: Arc::clone(&self.lateness) }))
    }
}

impl Inner {
    /// Records a second of each partition since they were last worked out.
    fn rates(&mut self, positions: &[i64], now: Instant) -> Option<Vec<f64>> {
        let before = self.rated.replace((now, positions.to_vec()));
        let (at, before) =
            before.filter(|(at, p)| p.len() == positions.len() && now.duration_since(*at) > Duration::from_millis(100))?;
        let seconds = now.duration_since(at).as_secs_f64();
        Some(positions.iter().zip(before).map(|(now, then)| (now - then).max(0) as f64 / seconds).collect())
    }
}

/// `Lateness` in Prometheus' terms, with buckets up to the latest row's.
struct LatenessCollector {
    desc: Desc,
    lateness: Arc<Mutex<Vec<RowLateness>>>,
}

impl Collector for LatenessCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Of the rows that come in. By window it would be a family without end: that is for `kindling why`.
        let lateness = lock(&self.lateness).first().map(|rows| rows.behind.clone()).unwrap_or_default();
        let bucket = |(bound, rows): (i64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound as f64 / 1e3);
            bucket.set_cumulative_count(rows);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_sample_count(lateness.rows());
        histogram.set_sample_sum(lateness.sum_ms() as f64 / 1e3);
        histogram.set_bucket(lateness.cumulative().map(bucket).collect());
        let mut metric = Metric::from_label(Vec::<LabelPair>::new());
        metric.set_histogram(histogram);
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_reads_as_a_histogram() {
        let metrics = crate::runtime::metrics::Metrics::new("t", "j").unwrap();
        let mut lateness = RowLateness::default();
        lateness.behind.saw(10);
        lateness.behind.behind(2_500);
        metrics.status.committed(&[lateness, RowLateness::default()]);
        let text = prometheus::TextEncoder::new().encode_to_string(&metrics.registry.gather()).unwrap();
        for (what, value) in [
            (r#"_bucket{"#, r#"le="0"} 9"#),
            (r#"_bucket{"#, r#"le="2"} 9"#),
            (r#"_bucket{"#, r#"le="3"} 10"#),
            (r#"_bucket{"#, r#"le="+Inf"} 10"#),
            (r#"_sum{"#, "} 2.5"),
            (r#"_count{"#, "} 10"),
        ] {
            let start = format!("kindling_row_lateness_seconds{what}");
            let found = |l: &str| l.starts_with(&start) && l.ends_with(value) && l.contains(r#"job="j""#);
            assert!(text.lines().any(found), "{start} {value} is missing in\n{text}");
        }
    }
}
