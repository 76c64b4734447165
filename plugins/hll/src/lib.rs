//! Approximate distinct counts by HyperLogLog (Flajolet et al. 2007), with 4,096 registers: a standard error of 1.6 %.
//!
//! The estimator is Ertl's (arXiv:1702.01284, algorithm 6), which needs no table of biases and is exact enough from 1 to 10^18.
//! A key with few values is cheap: its state is a list of the registers in use, 3 bytes each, until that would be longer than
//! a kilobyte; then it is all registers, 4 KiB. The result is the same for any order of rows and merges.

mod hash;
mod registers;

use kindling_guest::{plugin, state};

state! {
    #[derive(Default)]
    struct Distinct { registers: Vec<u8> as "hll:p12:1" }
}

impl Distinct {
    fn update(&mut self, value: &str) {
        registers::insert(&mut self.registers, hash::bytes(value.as_bytes()));
    }

    fn update_int(&mut self, value: i64) {
        registers::insert(&mut self.registers, hash::number(value as u64));
    }

    fn merge(&mut self, other: Self) {
        registers::merge(&mut self.registers, other.registers);
    }

    fn finish(&self) -> i64 {
        registers::estimate(&self.registers).round() as i64
    }
}

plugin! {
    name: "hll",
    version: env!("CARGO_PKG_VERSION"),
    aggregates: [
        /// About how many different texts there are (standard error 1.6 %).
        hll_distinct: Distinct,
        /// About how many different integers there are (standard error 1.6 %).
        hll_distinct_int: Distinct where update = Distinct::update_int,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{self, Random, Rows};
    use std::collections::HashSet;

    /// Three standard errors.
    const BOUND: f64 = 0.049;

    fn close(estimate: i64, exact: usize) -> bool {
        (estimate as f64 - exact as f64).abs() <= (BOUND * exact as f64).max(1.0)
    }

    #[test]
    fn against_the_exact_count_of_texts() {
        for (seed, users) in [1, 2, 10, 100, 341, 342, 1_000, 5_000, 20_000, 300_000].into_iter().enumerate() {
            let mut random = Random(seed as u64);
            let values: Vec<String> = (0..users * 2).map(|_| format!("user-{}", random.below(users))).collect();
            let exact = values.iter().collect::<HashSet<_>>().len();
            let estimate = testing::aggregate(plugin(), "hll_distinct", &Rows::of(values)).expect("takes every text");
            assert!(close(estimate, exact), "{estimate} instead of {exact}");
        }
    }

    #[test]
    fn against_the_exact_count_of_integers() {
        for exact in [1_usize, 50, 3_000, 1_000_000] {
            let rows = Rows::of((0..exact as i64).map(|i| i * 1_000 - 7));
            let estimate = testing::aggregate(plugin(), "hll_distinct_int", &rows).expect("takes every integer");
            assert!(close(estimate, exact), "{estimate} instead of {exact}");
        }
    }

    #[test]
    fn no_rows_and_repeated_rows() {
        assert_eq!(testing::aggregate(plugin(), "hll_distinct", &Rows::of([None::<&str>])), Ok(0));
        assert_eq!(testing::aggregate(plugin(), "hll_distinct", &Rows::of(["a"; 1_000])), Ok(1));
    }

    #[test]
    fn the_same_in_any_order_and_shape() {
        for rows in [20, 600, 4_000] {
            let rows = Rows::of((0..rows).map(|i| format!("{}", i * i % 2_003)));
            testing::laws(plugin(), "hll_distinct", &rows, |a: &i64, b| a == b);
        }
    }

    #[test]
    fn states_that_are_no_states_do_no_harm() {
        for bytes in [vec![1], vec![255; 7], vec![255; 4_096], vec![0; 9_000]] {
            let mut registers = bytes.clone();
            registers::insert(&mut registers, 7);
            registers::merge(&mut registers, bytes.clone());
            registers::merge(&mut vec![0; 4_096], bytes.clone());
            registers::estimate(&bytes);
        }
    }
}
