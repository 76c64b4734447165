//! DDSketch: counts of values in buckets whose bounds grow by 2 %, for values of either sign.

use serde::{Deserialize, Serialize};

/// An answer is within this share of the exact value.
const ACCURACY: f64 = 0.01;
/// Each bucket's upper bound is this times its lower one.
const GROWTH: f64 = (1.0 + ACCURACY) / (1.0 - ACCURACY);
/// Buckets of a sign: enough for values between 1 and 10^17 at full accuracy. Those nearest to 0 are folded together past it.
const BUCKETS_MAX: usize = 2_048;
/// Values nearer to 0 count as 0.
const LEAST: f64 = 1e-300;

/// The distribution of the values so far.
#[derive(Default, Serialize, Deserialize)]
pub struct Sketch {
    least: Option<f64>,
    greatest: Option<f64>,
    zeros: u64,
    positive: Buckets,
    negative: Buckets,
}

/// Counts by bucket; bucket i holds values in (GROWTH^(i-1), GROWTH^i].
#[derive(Default, Serialize, Deserialize)]
struct Buckets {
    /// The number of the first bucket; of no meaning without counts.
    first: i32,
    counts: Vec<u64>,
}

impl Buckets {
    fn add(&mut self, bucket: i32, count: u64) {
        if self.counts.is_empty() {
            self.first = bucket;
        }
        let end = self.first.saturating_add(self.counts.len() as i32);
        if bucket >= end {
            let above = (bucket - end) as usize + 1;
            self.extend_up(above);
        } else if bucket < self.first {
            let below = (self.first - bucket) as usize;
            let room = BUCKETS_MAX.saturating_sub(self.counts.len());
            self.first -= below.min(room) as i32;
            self.counts.splice(0..0, std::iter::repeat_n(0, below.min(room)));
        }
        // A bucket below the first is one that was folded into it: what is folded depends only on the greatest bucket, never
        // on the order of values.
        let place = usize::try_from(bucket.saturating_sub(self.first)).unwrap_or(0);
        if let Some(counted) = self.counts.get_mut(place) {
            *counted += count;
        }
    }

    /// Makes room for `above` more buckets, folding the lowest ones together if they would be too many.
    fn extend_up(&mut self, above: usize) {
        let folded = (self.counts.len() + above).saturating_sub(BUCKETS_MAX);
        let sum: u64 = self.counts.iter().take(folded).sum();
        self.counts.drain(..folded.min(self.counts.len()));
        let kept = self.counts.len();
        self.counts.resize((kept + above).min(BUCKETS_MAX), 0);
        self.first = self.first.saturating_add(folded as i32);
        if let Some(first) = self.counts.first_mut() {
            *first += sum;
        }
    }

    fn merge(&mut self, other: Self) {
        for (place, count) in other.counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            self.add(other.first.saturating_add(place as i32), count);
        }
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The value of the bucket that holds rank `rank`, counted from the least value if `up`.
    fn value(&self, mut rank: u64, up: bool) -> Option<f64> {
        let find = |(place, count): (usize, &u64)| {
            let found = rank < *count;
            rank = rank.saturating_sub(*count);
            found.then_some(place)
        };
        let mut places = self.counts.iter().enumerate();
        let place = if up { places.find_map(find) } else { places.rev().find_map(find) };
        place.map(|place| GROWTH.powi(self.first.saturating_add(place as i32)) * 2.0 / (GROWTH + 1.0))
    }
}

fn bucket(magnitude: f64) -> i32 {
    (magnitude.ln() / GROWTH.ln()).ceil() as i32
}

impl Sketch {
    /// Counts a finite value.
    pub fn insert(&mut self, value: f64) {
        self.bounds(Some(value), Some(value));
        if value.abs() < LEAST {
            self.zeros += 1;
        } else if value > 0.0 {
            self.positive.add(bucket(value), 1);
        } else {
            self.negative.add(bucket(-value), 1);
        }
    }

    fn bounds(&mut self, least: Option<f64>, greatest: Option<f64>) {
        self.least = [self.least, least].into_iter().flatten().reduce(f64::min);
        self.greatest = [self.greatest, greatest].into_iter().flatten().reduce(f64::max);
    }

    /// Counts what another sketch has counted.
    pub fn merge(&mut self, other: Self) {
        self.bounds(other.least, other.greatest);
        self.zeros += other.zeros;
        self.positive.merge(other.positive);
        self.negative.merge(other.negative);
    }

    /// The value of rank q * (count - 1), rounded down; None of no values.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let (negative, positive) = (self.negative.total(), self.positive.total());
        let count = negative + self.zeros + positive;
        let rank = (q * count.checked_sub(1)? as f64) as u64;
        let (least, greatest) = (self.least?, self.greatest?);
        let value = if rank < negative {
            -self.negative.value(rank, false)?
        } else if rank < negative + self.zeros {
            0.0
        } else {
            self.positive.value(rank - negative - self.zeros, true)?
        };
        // What is known exactly.
        Some(if rank == 0 {
            least
        } else if rank == count - 1 {
            greatest
        } else {
            value.max(least).min(greatest)
        })
    }
}
