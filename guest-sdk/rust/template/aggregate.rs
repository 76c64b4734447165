//! Plugin `{{name}}`: the arithmetic mean of a column, as a start for an aggregate of your own.

use kindling_guest::{plugin, state};

state! {
    /// What is kept of a group's rows. Kindling stores it: a version with other fields can't go on with what this one has counted.
    #[derive(Default)]
    struct Mean { sum: f64, count: i64 }
}

impl Mean {
    /// A row. Its arguments are those of the function in SQL and YAML; rows with a null in one of them are skipped.
    fn update(&mut self, value: f64) -> Result<(), String> {
        if !value.is_finite() {
            return Err(format!("{value} can't be averaged")); // the row goes to the rejects, with this text
        }
        self.sum += value;
        self.count += 1;
        Ok(())
    }

    /// Another part of the same group's rows. Must not depend on which part comes first.
    fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }

    /// The result; None is null.
    fn finish(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

plugin! {
    name: "{{name}}",
    version: env!("CARGO_PKG_VERSION"),
    aggregates: [
        /// The arithmetic mean.
        {{name}}: Mean,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{self, Rows};

    #[test]
    fn the_mean_of_some_rows() {
        let rows = Rows::of([Some(1.0), None, Some(2.0), Some(6.0)]);
        assert_eq!(testing::aggregate(plugin(), "{{name}}", &rows), Ok(Some(3.0)));
        assert_eq!(testing::aggregate(plugin(), "{{name}}", &Rows::of([None::<f64>])), Ok(None::<f64>));
    }

    #[test]
    fn the_same_in_any_order_and_in_any_parts() {
        let rows = Rows::of([1.0, 2.0, 3.0, 4.5, 5.5]);
        testing::laws(plugin(), "{{name}}", &rows, |a: &Option<f64>, b| a == b);
    }
}
