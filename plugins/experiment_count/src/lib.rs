//! Counts experiment assignments; the plugin of the demo.
//!
//! Version 2 (feature `v2`) leaves out the buckets that testers are put in. Signature and state are those of version 1, so that it
//! takes over in mid-stream and counts on from the same states.

kindling_guest::state! {
    #[derive(Debug, Default)]
    struct Assignments { count: i64 }
}

/// Whether a bucket is one of those that testers are put in: `qa`, or `qa-` and more.
fn is_test_bucket(bucket: &str) -> bool {
    bucket.strip_prefix("qa").is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

impl Assignments {
    fn update(&mut self, bucket: &str) {
        if cfg!(feature = "v2") && is_test_bucket(bucket) {
            return;
        }
        self.count += 1;
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
    }

    fn finish(&self) -> i64 {
        self.count
    }
}

kindling_guest::plugin! {
    name: "experiment_count",
    version: if cfg!(feature = "v2") { "2.0.0" } else { env!("CARGO_PKG_VERSION") },
    aggregates: [
        /// How many assignments there were, of those with a bucket.
        assignment_count: Assignments,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{self, Rows};

    #[test]
    fn counts_the_assignments_that_have_a_bucket() {
        let rows = Rows::of([Some("control"), None, Some("variant"), Some("qa"), Some("qa-7"), Some("qatar")]);
        let expected = if cfg!(feature = "v2") { 3 } else { 5 };
        assert_eq!(testing::aggregate(plugin(), "assignment_count", &rows), Ok(expected));
        testing::laws(plugin(), "assignment_count", &rows, |a: &i64, b| a == b);
    }
}
