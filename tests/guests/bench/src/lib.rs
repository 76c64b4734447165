//! Guests for the bench of the boundary between host and guest: as little work a row as there can be.

mod gcd;

use kindling_guest::{plugin, state};

state! {
    #[derive(Default)]
    struct Average { sum: f64, count: i64 }
}

impl Average {
    fn update(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }
    fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }
    fn finish(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

state! {
    #[derive(Default)]
    struct Total { total: i64 }
}

impl Total {
    fn update(&mut self, value: i64) {
        self.total = self.total.wrapping_add(value);
    }
    fn update_text(&mut self, text: &str) {
        self.update(text.len() as i64);
    }
    fn merge(&mut self, other: Self) {
        self.update(other.total);
    }
    fn finish(&self) -> i64 {
        self.total
    }
}

fn bench_prefix(text: &str) -> bool {
    text.starts_with("user-1")
}

fn bench_gcd(a: i64, b: i64) -> i64 {
    gcd::gcd(a, b)
}

plugin! {
    name: "bench",
    version: env!("CARGO_PKG_VERSION"),
    aggregates: [
        /// The arithmetic mean.
        bench_avg: Average,
        /// The sum of whole numbers.
        bench_sum: Total,
        /// The bytes of texts.
        bench_bytes: Total where update = Total::update_text,
    ],
    filters: [
        /// Keeps texts that start with `user-1`.
        bench_prefix,
    ],
    scalars: [
        /// The greatest common divisor.
        bench_gcd,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{Rows, aggregate, filter, scalar};

    #[test]
    fn they_compute_what_they_say() {
        assert_eq!(aggregate(plugin(), "bench_avg", &Rows::of([1.0, 2.0])), Ok(Some(1.5)));
        assert_eq!(aggregate(plugin(), "bench_sum", &Rows::of([1i64, 2])), Ok(Some(3)));
        assert_eq!(aggregate(plugin(), "bench_bytes", &Rows::of(["ab", "c"])), Ok(Some(3)));
        assert_eq!(filter(plugin(), "bench_prefix", &Rows::of(["user-1", "user-2"])), Ok(vec![true, false]));
        assert_eq!(scalar(plugin(), "bench_gcd", &Rows::of([12, 7]).constant(18)), Ok(vec![6, 1]));
        assert_eq!((gcd::gcd(1 << 40, 6 << 33), gcd::gcd(-4, 6)), (1 << 34, 2));
    }
}
