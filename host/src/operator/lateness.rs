//! How far behind the watermark rows come: a histogram of bounded size.
//!
//! In: for each row with an event time, how far it lay behind the watermark that lateness is decided by; a row at or before that is
//! on time. Out: counts by bucket, and which allowed lateness would have kept a share of the rows.
//!
//! A row's window ends after the row. So an `allowedLateness` as long as the row is behind keeps it, whatever the windows are; a shorter
//! one may do where windows are long.

/// Upper bounds of the buckets, milliseconds; the last bucket has none. Times that people write, about a half apart.
pub const BOUNDS_MS: [i64; 54] = [
    1,
    2,
    3,
    5,
    7,
    10,
    15,
    20,
    30,
    50,
    70,
    100,
    150,
    200,
    300,
    500,
    700, // below a second
    1_000,
    1_500,
    2_000,
    3_000,
    5_000,
    7_000,
    10_000,
    15_000,
    20_000,
    30_000,
    45_000, // below a minute
    60_000,
    90_000,
    120_000,
    180_000,
    300_000,
    420_000,
    600_000,
    900_000,
    1_200_000,
    1_800_000,
    2_700_000, // below an hour
    3_600_000,
    5_400_000,
    7_200_000,
    10_800_000,
    14_400_000,
    21_600_000,
    32_400_000,
    43_200_000, // below a day
    86_400_000,
    129_600_000,
    172_800_000,
    259_200_000,
    604_800_000,
    2_592_000_000,
    31_536_000_000,
];
const BUCKETS: usize = BOUNDS_MS.len() + 1;

/// Rows by how far behind the watermark they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    rows: u64,
    behind: u64,
    /// None until a row is behind: most epochs have none.
    buckets: Option<Box<[u64; BUCKETS]>>,
    max_ms: i64,
    sum_ms: u64,
}

impl Lateness {
    /// So many rows with an event time came, on time or not.
    pub fn saw(&mut self, rows: usize) {
        self.rows += rows as u64;
    }

    /// One of them was `ms` behind the watermark, `ms > 0`.
    #[cold]
    pub fn behind(&mut self, ms: i64) {
        let bucket = BOUNDS_MS.partition_point(|bound| *bound < ms);
        self.buckets.get_or_insert_with(|| Box::new([0; BUCKETS]))[bucket] += 1;
        self.behind += 1;
        self.max_ms = self.max_ms.max(ms);
        self.sum_ms = self.sum_ms.saturating_add(ms.unsigned_abs());
    }

    /// Takes another's rows in.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.behind += other.behind;
        self.max_ms = self.max_ms.max(other.max_ms);
        self.sum_ms = self.sum_ms.saturating_add(other.sum_ms);
        if let Some(theirs) = &other.buckets {
            let mine = self.buckets.get_or_insert_with(|| Box::new([0; BUCKETS]));
            mine.iter_mut().zip(theirs.iter()).for_each(|(mine, theirs)| *mine += theirs);
        }
    }

    /// Rows with an event time.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows behind the watermark.
    pub fn rows_behind(&self) -> u64 {
        self.behind
    }

    /// How far behind the last of them came, milliseconds; 0 where none did.
    pub fn max_ms(&self) -> i64 {
        self.max_ms
    }

    /// Sum over all rows, milliseconds.
    pub fn sum_ms(&self) -> u64 {
        self.sum_ms
    }

    /// Rows that came at most so late: (upper bound in milliseconds, rows up to it), rising, from those on time (bound 0). Rows past the
    /// last bound are those of [`Self::rows`] that are not in the last pair.
    pub fn cumulative(&self) -> impl Iterator<Item = (i64, u64)> + '_ {
        let mut rows = self.rows - self.behind;
        let first = std::iter::once((0, rows));
        first.chain(BOUNDS_MS.iter().enumerate().map(move |(i, bound)| {
            rows += self.buckets.as_ref().map_or(0, |b| b[i]);
            (*bound, rows)
        }))
    }

    /// The allowed lateness, milliseconds, that would have kept at least `per_mille` of a thousand rows; none without rows. Rounded up to a
    /// bound of the histogram; the greatest lateness there was where that is less.
    pub fn keeping(&self, per_mille: u64) -> Option<i64> {
        let wanted = (u128::from(self.rows) * u128::from(per_mille)).div_ceil(1_000);
        let bound = self.cumulative().find(|(_, rows)| u128::from(*rows) >= wanted);
        (self.rows > 0).then(|| bound.map_or(self.max_ms, |(bound, _)| bound.min(self.max_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise() {
        assert!(BOUNDS_MS.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn the_lateness_that_keeps_a_share_of_the_rows() {
        let mut seen = Lateness::default();
        assert_eq!(seen.keeping(990), None);
        seen.saw(980);
        assert_eq!((seen.keeping(990), seen.keeping(1_000)), (Some(0), Some(0)));
        seen.saw(20);
        (0..15).for_each(|_| seen.behind(4_000));
        (0..4).for_each(|_| seen.behind(70_000));
        seen.behind(100_000);
        // 980 on time, 15 up to 5 s, 4 up to 90 s, 1 at 100 s (not rounded to the bucket's 120 s: nothing came later).
        assert_eq!(
            [980, 981, 990, 995, 996, 999, 1_000].map(|p| seen.keeping(p)),
            [0, 5, 5, 5, 90, 90, 100].map(|s| Some(s * 1_000))
        );
        assert_eq!((seen.rows(), seen.rows_behind(), seen.max_ms(), seen.sum_ms()), (1_000, 20, 100_000, 440_000));
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let (mut whole, mut parts) = (Lateness::default(), Lateness::default());
        for ms in [1, 1_000, 1_001, 31_536_000_000, 31_536_000_001, i64::MAX] {
            let mut part = Lateness::default();
            for one in [&mut whole, &mut part] {
                one.saw(2);
                one.behind(ms);
            }
            parts.add(&part);
        }
        assert_eq!(parts, whole);
        let (last, up_to) = whole.cumulative().last().unwrap();
        assert_eq!((last, up_to, whole.rows()), (31_536_000_000, 10, 12));
        assert_eq!(whole.keeping(1_000), Some(i64::MAX));
    }
}
