//! Approximate percentiles by DDSketch (Masson, Rim, Lee 2019): the answer is within 1 % of the exact value.
//!
//! `percentile(value, q)`: q in [0, 1] is the same for all rows; 0 and 1 give the exact least and greatest value. Between two values
//! the lower one counts, as in SQL's `percentile_disc`. The result is the same for any order of rows and merges, to the bit.

mod sketch;

use kindling_guest::{msgpack_state, plugin};
use serde::{Deserialize, Serialize};
use sketch::Sketch;

#[derive(Default, Serialize, Deserialize)]
struct Percentile {
    /// None: no rows yet.
    q: Option<f64>,
    sketch: Sketch,
}

msgpack_state!(Percentile, 1);

impl Percentile {
    fn update(&mut self, value: f64, q: f64) -> Result<(), String> {
        if self.q != Some(q) {
            self.set(q)?;
        }
        if !value.is_finite() {
            return Err(format!("{value} has no rank"));
        }
        self.sketch.insert(value);
        Ok(())
    }

    fn set(&mut self, q: f64) -> Result<(), String> {
        if !(0.0..=1.0).contains(&q) {
            return Err(format!("a percentile's second argument is between 0 and 1, for example 0.95, not {q}"));
        }
        match self.q {
            Some(other) => Err(format!("a percentile's second argument is the same for all rows, not {other} and {q}")),
            None => {
                self.q = Some(q);
                Ok(())
            }
        }
    }

    fn merge(&mut self, other: Self) -> Result<(), String> {
        if let Some(q) = other.q.filter(|_| self.q != other.q) {
            self.set(q)?;
        }
        self.sketch.merge(other.sketch);
        Ok(())
    }

    fn finish(&self) -> Option<f64> {
        self.sketch.quantile(self.q?)
    }
}

plugin! {
    name: "percentile",
    version: env!("CARGO_PKG_VERSION"),
    aggregates: [
        /// The value below which a share q of the values lies (0.5 is the median), within 1 %.
        percentile: Percentile,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{self, Random, Rows};

    fn exact(values: &[f64], q: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[(q * (sorted.len() - 1) as f64) as usize]
    }

    #[test]
    fn against_the_exact_percentile() {
        let mut random = Random(3);
        type Shape = (&'static str, fn(f64) -> f64);
        let shapes: [Shape; 5] = [
            ("uniform", |u| u * 1_000.0),
            ("long tail", |u| (1.0 / (1.0 - u)).powi(3)),
            ("both signs", |u| (u - 0.5) * 50.0),
            ("tiny", |u| u * 1e-9),
            ("mostly zero", |u| if u < 0.7 { 0.0 } else { u }),
        ];
        for (shape, make) in shapes {
            let values: Vec<f64> = (0..20_000).map(|_| make(random.unit())).collect();
            for q in [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0] {
                let rows = Rows::of(values.iter().copied()).constant(q);
                let found: f64 =
                    testing::aggregate::<Option<f64>>(plugin(), "percentile", &rows).expect("takes numbers").expect("has rows");
                let exact = exact(&values, q);
                assert!((found - exact).abs() <= 0.010_001 * exact.abs(), "{shape}, q {q}: {found} instead of {exact}");
            }
        }
    }

    #[test]
    fn few_rows() {
        let of = |rows: &Rows| testing::aggregate::<Option<f64>>(plugin(), "percentile", rows);
        assert_eq!(of(&Rows::of([None::<f64>]).constant(0.5)), Ok(None));
        assert_eq!(of(&Rows::of([7.0]).constant(0.5)), Ok(Some(7.0)));
        assert_eq!(of(&Rows::of([3.0, -1.0]).constant(1.0)), Ok(Some(3.0)));
    }

    #[test]
    fn what_it_refuses() {
        let of = |rows: &Rows| testing::aggregate::<Option<f64>>(plugin(), "percentile", rows).expect_err("refused");
        assert!(of(&Rows::of([1.0]).constant(95.0)).message.contains("between 0 and 1"));
        assert!(of(&Rows::of([1.0, 2.0]).and([0.5, 0.6])).message.contains("0.5 and 0.6"));
        let failure = of(&Rows::of([1.0, f64::NAN]).constant(0.5));
        assert_eq!((failure.message.as_str(), failure.row), ("NaN has no rank", Some(1)));
    }

    #[test]
    fn the_same_in_any_order_and_shape() {
        let mut random = Random(4);
        // So wide that the buckets of the least values are folded together.
        let values: Vec<f64> = (0..800).map(|_| (random.unit() * 600.0 - 300.0).exp2() * (random.unit() - 0.5)).collect();
        for q in [0.0, 0.1, 0.5, 0.95] {
            testing::laws(plugin(), "percentile", &Rows::of(values.iter().copied()).constant(q), |a: &Option<f64>, b| a == b);
        }
    }
}
