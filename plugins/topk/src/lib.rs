//! The most frequent values by Misra-Gries summaries, merged as Agarwal et al. (Mergeable Summaries, 2012) do.
//!
//! `top_k(value, k)` gives JSON, the most frequent first: `[{"value":"a","count":12},{"value":"b","count":5}]`.
//!
//! While a key has at most 16 * k different values (at least 256) the result is exact, and the same for any order of rows and merges.
//! Beyond, the rarest are forgotten: a count may then be too low, by at most rows / (16 * k), and values that are about as frequent as that
//! may be there or not, depending on the order of rows. No value with more rows than that is ever missed.

mod json;

use kindling_guest::{msgpack_state, plugin};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counters kept for each value asked for.
const COUNTERS_PER_K: usize = 16;
/// Counters kept at least.
const COUNTERS_MIN: usize = 256;
/// The greatest k.
const K_MAX: i64 = 1_000;

#[derive(Default, Serialize, Deserialize)]
struct TopK {
    /// None: no rows yet.
    k: Option<i64>,
    // Ordered, so that the same counts are the same bytes.
    counts: BTreeMap<String, u64>,
}

msgpack_state!(TopK, 1);

impl TopK {
    fn update(&mut self, value: &str, k: i64) -> Result<(), String> {
        if self.k != Some(k) {
            self.set(k)?;
        }
        match self.counts.get_mut(value) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(value.to_owned(), 1);
                // Forgetting at twice the number of counters makes its cost a constant a row.
                if self.counts.len() > 2 * self.counters() {
                    self.forget();
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, k: i64) -> Result<(), String> {
        if !(1..=K_MAX).contains(&k) {
            return Err(format!("top_k's second argument is between 1 and {K_MAX}, not {k}"));
        }
        match self.k {
            Some(other) => Err(format!("top_k's second argument is the same for all rows, not {other} and {k}")),
            None => {
                self.k = Some(k);
                Ok(())
            }
        }
    }

    fn counters(&self) -> usize {
        let k = usize::try_from(self.k.unwrap_or(1)).unwrap_or(1);
        (k * COUNTERS_PER_K).max(COUNTERS_MIN)
    }

    /// Takes from all counts the greatest one that would not be kept, which leaves at most `counters` of them.
    fn forget(&mut self) {
        let counters = self.counters();
        if self.counts.len() <= counters {
            return;
        }
        let mut counts: Vec<u64> = self.counts.values().copied().collect();
        let (_, taken, _) = counts.select_nth_unstable_by(counters, |a, b| b.cmp(a));
        let taken = *taken;
        self.counts.retain(|_, count| {
            *count = count.saturating_sub(taken);
            *count > 0
        });
    }

    fn merge(&mut self, other: Self) -> Result<(), String> {
        if let Some(k) = other.k.filter(|_| self.k != other.k) {
            self.set(k)?;
        }
        if self.counts.is_empty() {
            self.counts = other.counts;
        } else {
            other.counts.into_iter().for_each(|(value, count)| *self.counts.entry(value).or_default() += count);
        }
        self.forget();
        Ok(())
    }

    fn finish(&self) -> String {
        let mut top: Vec<(&String, &u64)> = self.counts.iter().collect();
        top.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        top.truncate(usize::try_from(self.k.unwrap_or(0)).unwrap_or(0));
        json::counts(&top)
    }
}

plugin! {
    name: "topk",
    version: env!("CARGO_PKG_VERSION"),
    aggregates: [
        /// The k most frequent texts with their counts, as JSON.
        top_k: TopK,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{self, Random, Rows};

    fn exact(values: &[String], k: usize) -> String {
        let mut counts = BTreeMap::<&String, u64>::new();
        values.iter().for_each(|value| *counts.entry(value).or_default() += 1);
        let mut top: Vec<_> = counts.iter().map(|(value, count)| (*value, count)).collect();
        top.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        top.truncate(k);
        json::counts(&top)
    }

    /// Value i with about a share of 1 / i^2.
    fn skewed(rows: usize, values: usize, seed: u64) -> Vec<String> {
        let mut random = Random(seed);
        (0..rows).map(|_| format!("v{}", ((1.0 / (random.unit() + 1e-9)) as usize).min(values))).collect()
    }

    #[test]
    fn exact_while_the_values_are_few() {
        let values = skewed(20_000, 250, 1);
        for k in [1, 3, 16] {
            let rows = Rows::of(values.iter().map(String::as_str)).constant(k as i64);
            assert_eq!(testing::aggregate(plugin(), "top_k", &rows), Ok(exact(&values, k)), "k {k}");
            testing::laws(plugin(), "top_k", &rows, |a: &String, b| a == b);
        }
    }

    #[test]
    fn the_frequent_are_found_among_many() {
        let values = skewed(50_000, 100_000, 2);
        let rows = Rows::of(values.iter().map(String::as_str)).constant(5);
        let bound = 50_000 / 256;
        let found = |result: &String| -> Vec<(String, i64)> {
            let parts = result.trim_matches(['[', ']']).split("},").map(|part| {
                let (value, count) = part.split_once("\",\"count\":").expect("value and count");
                (value.trim_start_matches("{\"value\":\"").to_owned(), count.trim_end_matches('}').parse().expect("a count"))
            });
            parts.collect()
        };
        let exact = found(&exact(&values, 5));
        let check = |result: &String| {
            let close = found(result).iter().zip(&exact).all(|(a, b)| a.0 == b.0 && a.1 <= b.1 && b.1 - a.1 <= bound);
            assert!(close, "{result} instead of {exact:?}");
            close
        };
        testing::laws(plugin(), "top_k", &rows, |a: &String, b| check(a) && check(b));
    }

    #[test]
    fn edges() {
        let of = |rows: &Rows| testing::aggregate::<String>(plugin(), "top_k", rows);
        assert_eq!(of(&Rows::of([None::<&str>]).constant(3)), Ok("[]".into()));
        assert_eq!(of(&Rows::of(["b", "a", "a", "b"]).constant(1)), Ok(r#"[{"value":"a","count":2}]"#.into()));
        assert!(of(&Rows::of(["a"]).constant(0)).expect_err("refused").message.contains("between 1 and 1000"));
        let failure = of(&Rows::of(["a", "b"]).and([1, 2])).expect_err("refused");
        assert_eq!(failure.row, Some(1));
    }
}
