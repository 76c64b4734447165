//! The plain aggregates as guests: what tests compare with the built-in ones, and short examples of typed states.
//!
//! Nulls are skipped, and of no rows all but the counts are null, as in SQL.

use kindling_guest::{plugin, state};

state! {
    #[derive(Default)]
    struct Count { count: i64 }
}

impl Count {
    fn update(&mut self, _value: f64) {
        self.count += 1;
    }
    fn update_text(&mut self, _value: &str) {
        self.count += 1;
    }
    fn merge(&mut self, other: Self) {
        self.count += other.count;
    }
    fn finish(&self) -> i64 {
        self.count
    }
}

state! {
    #[derive(Default)]
    struct Sum { sum: Option<f64> }
}

impl Sum {
    fn update(&mut self, value: f64) {
        self.sum = Some(self.sum.unwrap_or_default() + value);
    }
    fn merge(&mut self, other: Self) {
        if let Some(sum) = other.sum {
            self.update(sum);
        }
    }
    fn finish(&self) -> Option<f64> {
        self.sum
    }
}

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
    struct Least { least: Option<f64> }
}

impl Least {
    fn update(&mut self, value: f64) {
        if self.least.is_none_or(|least| value < least) {
            self.least = Some(value);
        }
    }
    fn merge(&mut self, other: Self) {
        if let Some(value) = other.least {
            self.update(value);
        }
    }
    fn finish(&self) -> Option<f64> {
        self.least
    }
}

state! {
    #[derive(Default)]
    struct Greatest { greatest: Option<f64> }
}

impl Greatest {
    fn update(&mut self, value: f64) {
        if self.greatest.is_none_or(|greatest| value > greatest) {
            self.greatest = Some(value);
        }
    }
    fn merge(&mut self, other: Self) {
        if let Some(value) = other.greatest {
            self.update(value);
        }
    }
    fn finish(&self) -> Option<f64> {
        self.greatest
    }
}

fn guest_equals(text: &str, other: &str) -> bool {
    text == other
}

plugin! {
    name: "basics",
    version: env!("CARGO_PKG_VERSION"),
    aggregates: [
        /// How many values are not null.
        guest_count: Count,
        /// How many texts are not null.
        guest_count_text: Count where update = Count::update_text,
        /// The sum of the values.
        guest_sum: Sum,
        /// The arithmetic mean of the values.
        guest_avg: Average,
        /// The least value.
        guest_min: Least,
        /// The greatest value.
        guest_max: Greatest,
    ],
    filters: [
        /// Keeps rows whose text is another.
        guest_equals,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{self, Random, Rows};

    #[test]
    fn texts_are_compared() {
        assert_eq!(testing::filter(plugin(), "guest_equals", &Rows::of(["ios", "web", ""]).constant("ios")), Ok(vec![true, false, false]));
    }

    #[test]
    fn as_computed_by_hand() {
        let mut random = Random(1);
        // Halves up to 500 add up exactly in any order.
        let values: Vec<Option<f64>> =
            (0..1_000).map(|i| (i % 7 != 0).then(|| random.below(2_001) as f64 / 2.0 - 500.0)).collect();
        let (rows, present) = (Rows::of(values.clone()), values.iter().flatten().copied().collect::<Vec<f64>>());
        let sum: f64 = present.iter().sum();
        let expected = [
            ("guest_sum", sum),
            ("guest_avg", sum / present.len() as f64),
            ("guest_min", present.iter().copied().fold(f64::INFINITY, f64::min)),
            ("guest_max", present.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        ];
        for (name, value) in expected {
            assert_eq!(testing::aggregate(plugin(), name, &rows), Ok(Some(value)), "{name}");
            assert_eq!(testing::aggregate(plugin(), name, &Rows::of([None::<f64>])), Ok(None::<f64>), "{name} of nulls");
            testing::laws(plugin(), name, &rows, |a: &Option<f64>, b| a == b);
        }
        assert_eq!(testing::aggregate(plugin(), "guest_count", &rows), Ok(present.len() as i64));
        testing::laws(plugin(), "guest_count", &rows, |a: &i64, b| a == b);
        let texts = Rows::of([Some("a"), None, Some("")]);
        assert_eq!(testing::aggregate(plugin(), "guest_count_text", &texts), Ok(2));
    }
}
