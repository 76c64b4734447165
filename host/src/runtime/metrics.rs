//! What a job counts, for Prometheus and for the terminal. Names follow Prometheus' conventions: base units, `_total` for counters.

use crate::element::PartitionName;
use crate::output::RestoreProgress;
use crate::plugin::PluginSet;
use crate::runtime::job::Committed;
use crate::runtime::progress::PartitionClock;
use crate::runtime::state_metrics::StateMetrics;
use crate::runtime::status::JobStatus;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::time::Instant;

/// Counters and gauges of one job.
pub struct Metrics {
    /// All of them, to be written out.
    pub registry: Registry,
    /// Where the job stands, for `kindling why`.
    pub status: JobStatus,
    rows: IntCounter,
    bytes: IntCounter,
    outputs: IntCounter,
    late: IntCounter,
    rejects: IntCounterVec,
    expired: IntCounter,
    epochs: IntCounter,
    commit_seconds: Histogram,
    closed: IntGauge,
    watermark: IntGaugeVec,
    lag: IntGaugeVec,
    idle: IntGaugeVec,
    held: IntGaugeVec,
    state: StateMetrics,
    restored_records: IntCounter,
    restore_share: Gauge,
    restore_seconds: Gauge,
    /// Offsets that were gone and skipped.
    pub skipped_offsets: IntCounter,
    /// Plans taken over.
    pub swaps: IntCounter,
    /// New versions rolled back.
    pub rollbacks: IntCounter,
    /// Epochs run again.
    pub reruns: IntCounter,
    /// Returns to the last committed epoch.
    pub recoveries: IntCounter,
}

impl Metrics {
    /// Fresh counters of the job `team`/`name`.
    ///
    /// # Errors
    /// When a name is refused.
    pub fn new(team: &str, name: &str) -> Result<Self, prometheus::Error> {
        let labels = [("team".to_owned(), team.to_owned()), ("job".to_owned(), name.to_owned())].into_iter().collect();
        let registry = Registry::new_custom(Some("kindling".into()), Some(labels))?;
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let c = IntCounter::new(name, help)?;
            registry.register(Box::new(c.clone()))?;
            Ok(c)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let g = IntGauge::new(name, help)?;
            registry.register(Box::new(g.clone()))?;
            Ok(g)
        };
        let gauges = |name: &str, help: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let g = IntGaugeVec::new(Opts::new(name, help), &["topic", "partition"])?;
            registry.register(Box::new(g.clone()))?;
            Ok(g)
        };
        let seconds = |name: &str, help: &str| -> Result<Gauge, prometheus::Error> {
            let g = Gauge::new(name, help)?;
            registry.register(Box::new(g.clone()))?;
            Ok(g)
        };
        let rejects = IntCounterVec::new(
            Opts::new("rejected_rows_total", "Rows set aside, by the plugin that failed on them."),
            &["plugin", "version"],
        )?;
        registry.register(Box::new(rejects.clone()))?;
        let buckets = vec![0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
        let commit_seconds = Histogram::with_opts(HistogramOpts::new("commit_seconds", "Time of a commit.").buckets(buckets))?;
        registry.register(Box::new(commit_seconds.clone()))?;
        let status = JobStatus::new(team, name);
        registry.register(status.lateness_collector()?)?;
        Ok(Self {
            status,
            rows: counter("rows_total", "Records read, of committed epochs.")?,
            bytes: counter("bytes_total", "Bytes of keys and values read, of committed epochs.")?,
            outputs: counter("output_rows_total", "Result rows committed.")?,
            late: counter("late_rows_total", "Rows late for all their windows.")?,
            rejects,
            expired: counter("expired_keys_total", "Keys whose state was cleared because nothing updated them for the ttl.")?,
            epochs: counter("epochs_total", "Epochs committed.")?,
            commit_seconds,
            closed: gauge("watermark_milliseconds", "Watermark of the job: milliseconds since 1970 UTC.")?,
            watermark: gauges("partition_watermark_milliseconds", "Watermark of a partition: milliseconds since 1970 UTC.")?,
            lag: gauges("consumer_lag_rows", "Records between the job's position and the end of a partition.")?,
            idle: gauges("partition_idle", "1 where a partition holds the watermark back no longer, as it stood at its end.")?,
            held: gauges("partition_held", "1 where a partition is not read, as it is more than maxDrift ahead of the others.")?,
            state: StateMetrics::new(&registry)?,
            restored_records: counter("restored_records_total", "Records and entries read to restore state.")?,
            restore_share: seconds("restore_share", "Share of the restore's changelog that is read, 0 to 1.")?,
            restore_seconds: seconds("restore_seconds", "Time of the restore's last step, so far.")?,
            skipped_offsets: counter("skipped_offsets_total", "Offsets that were gone and skipped (failOnDataLoss: false).")?,
            swaps: counter("plugin_swaps_total", "Plugin versions that took over while the job ran.")?,
            rollbacks: counter(
                "plugin_rollbacks_total",
                "Plugin versions that failed in their first epochs and were rolled back.",
            )?,
            reruns: counter("epoch_reruns_total", "Epochs run again without rows at fault, or with another plan.")?,
            recoveries: counter("recoveries_total", "Returns to the last committed epoch after a failed commit.")?,
            registry,
        })
    }

    /// An epoch was committed.
    pub fn committed(&self, epoch: &Committed<'_>) {
        let to = |counter: &IntCounter, value: u64| counter.inc_by(value.saturating_sub(counter.get()));
        to(&self.rows, epoch.counts.rows);
        to(&self.bytes, epoch.counts.bytes);
        to(&self.outputs, epoch.counts.outputs);
        to(&self.late, epoch.counts.late);
        to(&self.expired, epoch.counts.expired);
        to(&self.epochs, epoch.counts.epochs);
        self.commit_seconds.observe(epoch.commit_time.as_secs_f64());
        if epoch.closed != i64::MIN {
            self.closed.set(epoch.closed);
        }
        if epoch.plan.has_state() {
            self.state.set(epoch.plan.chain().map(|p| p.operator.as_str()).zip(epoch.operator_sizes.iter().copied()));
        }
    }

    /// What the state of these operators may take of memory together, bytes.
    pub fn state_limit(&self, operators: &[&str], bytes: usize) {
        self.state.limit(operators, bytes);
    }

    /// A restore has come so far, `more` records since the last call.
    pub fn restored(&self, progress: &RestoreProgress, more: u64) {
        self.restored_records.inc_by(more);
        if let Some(share) = progress.share {
            self.restore_share.set(share);
        }
        self.restore_seconds.set(progress.elapsed.as_secs_f64());
    }

    /// A row was set aside; `plugin` is empty where no guest failed on it.
    pub fn rejected_by(&self, plugin: &str, version: &str) {
        self.rejects.with_label_values(&[plugin, version]).inc();
    }

    /// Lag and watermark of each partition; `ends` may be empty.
    pub fn lag(&self, partitions: &[PartitionName], positions: &[i64], ends: &[i64], watermarks: &[i64]) {
        for (i, name) in partitions.iter().enumerate() {
            let labels = [name.topic.as_ref(), &name.partition.to_string()];
            if let Some(end) = ends.get(i) {
                self.lag.with_label_values(&labels).set((end - positions[i]).max(0));
            }
            if watermarks[i] != i64::MIN {
                self.watermark.with_label_values(&labels).set(watermarks[i]);
            }
        }
    }
}

impl Metrics {
    /// Which partitions are idle, and which wait for others.
    pub(super) fn waiting(&self, partitions: &[PartitionName], clock: &PartitionClock, now: Instant) {
        for (i, (name, state)) in partitions.iter().zip(clock.partitions()).enumerate() {
            let labels = [name.topic.as_ref(), &name.partition.to_string()];
            self.idle.with_label_values(&labels).set(clock.is_idle(i, now).into());
            self.held.with_label_values(&labels).set(state.held.into());
        }
    }
}

/// Calls, rows, time and failures of guests by plugin and version, as they are now.
///
/// # Errors
/// When a name is refused.
pub fn plugin_families(plugins: &PluginSet) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let by = ["plugin", "version"];
    let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &by);
    let calls = counter("kindling_guest_calls_total", "Calls of a guest.")?;
    let rows = counter("kindling_guest_rows_total", "Rows (or states) of the calls.")?;
    let nanos = counter("kindling_guest_nanoseconds_total", "Time within calls, the copying of columns among it.")?;
    let failures = IntCounterVec::new(
        Opts::new("kindling_guest_failures_total", "Calls that failed, by kind."),
        &["plugin", "version", "kind"],
    )?;
    for plugin in plugins.plugins() {
        let (name, version, stats) = (&*plugin.name, plugin.version.to_string(), plugin.stats.read());
        calls.with_label_values(&[name, &version]).inc_by(stats.calls);
        rows.with_label_values(&[name, &version]).inc_by(stats.rows);
        nanos.with_label_values(&[name, &version]).inc_by(stats.nanos);
        let kinds = [
            ("refused", stats.refused),
            ("trap", stats.traps),
            ("timeout", stats.timeouts),
            ("memory", stats.memory),
            ("nonsense", stats.nonsense),
        ];
        for (kind, count) in kinds {
            failures.with_label_values(&[name, &version, kind]).inc_by(count);
        }
    }
    // A family without a member has no text: the encoder refuses all there is for it.
    let families = [calls, rows, nanos, failures].into_iter().flat_map(|c| c.collect());
    Ok(families.filter(|f| !f.get_metric().is_empty()).collect())
}
