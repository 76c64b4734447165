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

    /// Bytes of memory that the state of a job's operators may take; each has the same share.
    pub fn limit(&self, operators: &[&str], bytes: usize) {
        self.gauge(LIMIT, None, bytes);
        operators.iter().for_each(|operator| self.gauge(LIMIT, Some(operator), bytes / operators.len()));
    }

    /// The sizes of a job's operators.
    pub fn set<'a>(&self, operators: impl Iterator<Item = (&'a str, Sizes)>) {
        let mut all = Vec::new();
        for (operator, sizes) in operators {
            self.set_one(Some(operator), sizes);
            all.push(sizes);
        }
        self.set_one(None, all.into_iter().sum());
    }

    /// Of an operator, or of the job.
    fn set_one(&self, operator: Option<&str>, sizes: Sizes) {
        let Sizes { slots, bytes, memory_bytes, disk_slots, disk_bytes, disk_reads, disk_writes } = sizes;
        for (at, value) in [(0, slots), (1, bytes), (2, memory_bytes), (4, disk_slots), (5, disk_bytes)] {
            self.gauge(at, operator, value);
        }
        for ((job, operators), value) in self.counters.iter().zip([disk_reads, disk_writes]) {
            let counter = operator.map_or_else(|| job.clone(), |operator| operators.with_label_values(&[operator]));
            // After a return to the last committed epoch the table counts from 0 again: a counter that goes back is a restart, to Prometheus.
            if value < counter.get() {
                counter.reset();
            }
            counter.inc_by(value - counter.get());
        }
    }

    fn gauge(&self, at: usize, operator: Option<&str>, value: usize) {
        let Some((job, operators)) = self.gauges.get(at) else { return };
        let gauge = operator.map_or_else(|| job.clone(), |operator| operators.with_label_values(&[operator]));
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_of_the_job_and_of_its_operator() {
        let registry = Registry::new();
        let metrics = StateMetrics::new(&registry).unwrap();
        metrics.limit(&["counts"], usize::MAX);
        let sizes = Sizes { slots: 1, bytes: 2, memory_bytes: 3, disk_slots: 4, disk_bytes: 5, disk_reads: 6, disk_writes: 7 };
        let set = |sizes: &[Sizes]| metrics.set(["counts", "matches"].into_iter().zip(sizes.iter().copied()));
        set(&[sizes]);
        set(&[sizes]);
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
        set(&[Sizes { disk_reads: 2, ..sizes }]);
        assert!(text().contains("\nstate_disk_reads_total 2\n"), "{}", text());
        set(&[sizes, sizes]);
        assert!(text().contains("\nstate_keys 2\n"), "{}", text());
        assert!(text().contains("\noperator_state_keys{operator=\"matches\"} 1\n"), "{}", text());
    }
}
