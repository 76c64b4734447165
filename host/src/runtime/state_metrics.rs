//! How large keyed state is, for Prometheus: of the job, and of each operator that has state.

use crate::state::store::Sizes;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The gauges, by what they are called behind `state_` and what they tell.
const GAUGES: [(&str, &str); 6] = [
    ("keys", "Slots of keyed state: keys by pane, in memory or on disk."),
    ("bytes", "Bytes of keys and partial states, in memory or on disk."),
    ("memory_bytes", "Bytes of memory that keyed state takes, with hash tables, timers and merged panes."),
    ("memory_limit_bytes", "Bytes of memory that keyed state may take; past it slots go to disk."),
    ("disk_keys", "Slots of keyed state that are on disk only."),
    ("disk_bytes", "Bytes of keys and partial states that are on disk only."),
];
/// The counters likewise.
const COUNTERS: [(&str, &str); 2] =
    [("disk_reads_total", "Slots and timers read from disk."), ("disk_writes_total", "Slots and timers written to disk.")];
/// Where the limit stands among the gauges.
const LIMIT: usize = 3;

/// Sizes of a job's state.
pub struct StateMetrics {
    gauges: Vec<(IntGauge, IntGaugeVec)>,
    counters: Vec<(IntCounter, IntCounterVec)>,
}

impl StateMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When a name is refused.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let by_operator = |name: &str, help: &str| Opts::new(format!("operator_state_{name}"), format!("By operator: {help}"));
        let mut gauges = Vec::new();
        for (name, help) in GAUGES {
            let job = IntGauge::new(format!("state_{name}"), help)?;
            let operators = IntGaugeVec::new(by_operator(name, help), &["operator"])?;
            registry.register(Box::new(job.clone()))?;
            registry.register(Box::new(operators.clone()))?;
            gauges.push((job, operators));
        }
        let mut counters = Vec::new();
        for (name, help) in COUNTERS {
            let job = IntCounter::new(format!("state_{name}"), help)?;
            let operators = IntCounterVec::new(by_operator(name, help), &["operator"])?;
            registry.register(Box::new(job.clone()))?;
            registry.register(Box::new(operators.clone()))?;
            counters.push((job, operators));
        }
        Ok(Self { gauges, counters })
    }

    /// Bytes of memory that the state of `operator` may take.
    pub fn limit(&self, operator: &str, bytes: usize) {
        self.gauge(LIMIT, operator, bytes);
    }

    /// The sizes of `operator`, a job's only one with state.
    pub fn set(&self, operator: &str, sizes: &Sizes) {
        let Sizes { slots, bytes, memory_bytes, disk_slots, disk_bytes, disk_reads, disk_writes } = *sizes;
        for (at, value) in [(0, slots), (1, bytes), (2, memory_bytes), (4, disk_slots), (5, disk_bytes)] {
            self.gauge(at, operator, value);
        }
        for ((job, operators), value) in self.counters.iter().zip([disk_reads, disk_writes]) {
            // After a return to the last committed epoch the table counts from 0 again: a counter that goes back is a restart, to Prometheus.
            let operator = operators.with_label_values(&[operator]);
            if value < job.get() {
                job.reset();
                operator.reset();
            }
            job.inc_by(value - job.get());
            operator.inc_by(value.saturating_sub(operator.get()));
        }
    }

    fn gauge(&self, at: usize, operator: &str, value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        if let Some((job, operators)) = self.gauges.get(at) {
            job.set(value);
            operators.with_label_values(&[operator]).set(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_of_the_job_and_of_its_operator() {
        let registry = Registry::new();
        let metrics = StateMetrics::new(&registry).unwrap();
        metrics.limit("counts", usize::MAX);
        let sizes = Sizes { slots: 1, bytes: 2, memory_bytes: 3, disk_slots: 4, disk_bytes: 5, disk_reads: 6, disk_writes: 7 };
        metrics.set("counts", &sizes);
        metrics.set("counts", &sizes);
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "state_keys 1",
            "state_memory_limit_bytes 9223372036854776000",
            "operator_state_bytes{operator=\"counts\"} 2",
            "operator_state_memory_bytes{operator=\"counts\"} 3",
            "operator_state_disk_keys{operator=\"counts\"} 4",
            "state_disk_bytes 5",
            "state_disk_reads_total 6",
            "operator_state_disk_writes_total{operator=\"counts\"} 7",
        ] {
            assert!(text().lines().any(|l| l == line), "{line} is missing in\n{}", text());
        }
        metrics.set("counts", &Sizes { disk_reads: 2, ..sizes });
        assert!(text().contains("\nstate_disk_reads_total 2\n"), "{}", text());
    }
}
