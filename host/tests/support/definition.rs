//! What windows are, by their definition: row by row, by looking at every window that a row could be in. Written without a line of the
//! operator that it is compared with.
// Each test file uses its part.
#![allow(dead_code)]

use std::collections::BTreeMap;

/// A generator with one number as its state (PCG's multiplier).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The generator of a seed: neighbouring seeds have nothing in common.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.below(2);
        random
    }

    /// From 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A kind of window; times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hopping {
        duration: i64,
        slide: i64,
        offset: i64,
    },
    Cumulative {
        size: i64,
        step: i64,
    },
    Session {
        gap: i64,
    },
    Count {
        every: i64,
        slide: i64,
    },
    Global,
    /// So many days by the clocks of Berlin, counted from 1970-01-01, or weeks from Monday.
    Calendar {
        days: i64,
        weeks: bool,
    },
}

impl Kind {
    /// A kind whose windows are of time.
    pub fn random(random: &mut Random) -> Self {
        match random.below(4) {
            0 => {
                let duration = 1 + random.below(30) as i64;
                Self::Hopping { duration, slide: duration, offset: random.below(9) as i64 }
            }
            1 => {
                let slide = 1 + random.below(6) as i64;
                Self::Hopping { duration: slide * (1 + random.below(14) as i64), slide, offset: random.below(9) as i64 }
            }
            2 => {
                let step = 1 + random.below(5) as i64;
                Self::Cumulative { size: step * (1 + random.below(14) as i64), step }
            }
            _ => Self::Session { gap: 1 + random.below(12) as i64 },
        }
    }

    /// As members of a pipeline's `window`.
    pub fn yaml(self) -> String {
        match self {
            Self::Hopping { duration, slide, offset } => {
                format!("type: hopping, duration: {duration}ms, slideDuration: {slide}ms, offset: {offset}ms")
            }
            Self::Cumulative { size, step } => format!("type: cumulative, size: {size}ms, step: {step}ms"),
            Self::Session { gap } => format!("type: session, gap: {gap}ms"),
            Self::Count { every, slide } => format!("type: count, every: {every}, slide: {slide}"),
            Self::Global => "type: global".into(),
            Self::Calendar { days, weeks } => {
                let unit = if weeks { "week" } else { "day" };
                format!("duration: {}.{unit}, timezone: Europe/Berlin", if weeks { days / 7 } else { days })
            }
        }
    }

    /// The same with each time `n` times as long; not of windows by the calendar.
    pub fn scaled(self, n: i64) -> Self {
        match self {
            Self::Hopping { duration, slide, offset } => {
                Self::Hopping { duration: duration * n, slide: slide * n, offset: offset * n }
            }
            Self::Cumulative { size, step } => Self::Cumulative { size: size * n, step: step * n },
            Self::Session { gap } => Self::Session { gap: gap * n },
            Self::Count { .. } | Self::Global | Self::Calendar { .. } => self,
        }
    }

    /// Bounds of the windows that contain `time`, by looking at all that are near; none where they are not the same for all keys.
    pub fn windows(self, time: i64) -> Vec<(i64, i64)> {
        let all: Vec<(i64, i64)> = match self {
            Self::Hopping { duration, slide, offset } => {
                let first = (time - offset - duration) / slide - 2;
                (first..).map(|n| n * slide + offset).take_while(|s| *s <= time).map(|s| (s, s + duration)).collect()
            }
            Self::Cumulative { size, step } => {
                let first = time / size - 2;
                (first..first + 5).flat_map(|n| (1..=size / step).map(move |m| (n * size, n * size + m * step))).collect()
            }
            Self::Global => vec![(i64::MIN, i64::MAX)],
            Self::Calendar { days, weeks } => {
                // 1970-01-01 was a Thursday.
                let from = if weeks { -3 } else { 0 };
                let first = (time / DAY - from).div_euclid(days) - 2;
                (first..first + 5).map(|n| (midnight(n * days + from), midnight((n + 1) * days + from))).collect()
            }
            Self::Session { .. } | Self::Count { .. } => Vec::new(),
        };
        all.into_iter().filter(|(start, end)| *start <= time && time < *end).collect()
    }
}

const DAY: i64 = 86_400_000;
/// When clocks in Berlin are two hours ahead of UTC, else one: 2026-03-29T01:00Z to 2026-10-25T01:00Z.
const SUMMER: std::ops::Range<i64> = 1_774_746_000_000..1_792_890_000_000;

/// When the day with this number since 1970 begins in Berlin; in 2026.
fn midnight(day: i64) -> i64 {
    let winter = day * DAY - 3_600_000;
    let summer = winter - 3_600_000;
    if SUMMER.contains(&summer) { summer } else { winter }
}

/// How a job tells time; milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bounded out-of-orderness.
    pub disorder: i64,
    /// Allowed lateness.
    pub lateness: i64,
    /// How far ahead of its record an event time may be.
    pub max_future: i64,
    /// Keys of a global or count window are forgotten so long after their last row.
    pub ttl: Option<i64>,
}

/// A row, in the order of its partition.
#[derive(Clone, Debug)]
pub struct Row<K> {
    pub partition: usize,
    pub key: K,
    /// Event time.
    pub time: i64,
    /// Timestamp of its record.
    pub written: Option<i64>,
    /// What is summed.
    pub value: i64,
    /// It is in windows; else it only moves the watermark.
    pub counts: bool,
    /// Watermark that windows had been closed up to when it was read.
    pub floor: i64,
}

/// A window of a key with rows in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window<K> {
    pub key: K,
    pub start: i64,
    pub end: i64,
    pub rows: i64,
    pub sum: i64,
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It counts in at least one window.
    Counted,
    /// All its windows had closed, the last one so long ago.
    Late(i64),
    /// It can't be true.
    Future,
}

impl Bounds {
    /// The watermark of a partition after a row; none where the row can't be true.
    fn after<K>(&self, watermark: i64, row: &Row<K>) -> Option<i64> {
        if row.time <= watermark.saturating_add(self.disorder) {
            return Some(watermark);
        }
        let is_true = row.written.is_none_or(|w| row.time <= w + self.max_future);
        is_true.then(|| watermark.max(row.written.map_or(row.time, |w| w.min(row.time)) - self.disorder))
    }
}

/// The greatest watermark of a partition after all `rows`.
pub fn reached<K>(bounds: Bounds, rows: &[Row<K>]) -> i64 {
    let mut watermarks = BTreeMap::<usize, i64>::new();
    for row in rows {
        let watermark = watermarks.entry(row.partition).or_insert(i64::MIN);
        *watermark = bounds.after(*watermark, row).unwrap_or(*watermark);
    }
    watermarks.into_values().max().unwrap_or(i64::MIN)
}

/// The windows of `rows`, and what becomes of each row.
pub fn expected<K: Ord + Clone>(kind: Kind, bounds: Bounds, rows: &[Row<K>]) -> (Vec<Window<K>>, Vec<Fate>) {
    let mut watermarks = BTreeMap::<usize, i64>::new();
    let mut counted: Vec<(i64, &Row<K>)> = Vec::new();
    let mut fates = Vec::new();
    for row in rows {
        let watermark = watermarks.entry(row.partition).or_insert(i64::MIN);
        let at = (*watermark).max(row.floor);
        let Some(after) = bounds.after(*watermark, row) else {
            fates.push(Fate::Future);
            continue;
        };
        *watermark = after;
        // What a row finds of a key that is forgotten is what its own watermark leaves.
        let at = if bounds.ttl.is_some() { at.max(*watermark) } else { at };
        let ends: Vec<i64> = match (kind, bounds.ttl) {
            (Kind::Global | Kind::Count { .. }, Some(ttl)) => vec![row.time + ttl],
            (Kind::Session { gap }, _) => vec![row.time + gap],
            (Kind::Count { .. } | Kind::Global, None) => vec![i64::MAX - bounds.lateness],
            _ => kind.windows(row.time).into_iter().map(|(_, end)| end).collect(),
        };
        let last = ends.into_iter().max().map_or(i64::MIN, |end| end + bounds.lateness);
        fates.push(if last <= at { Fate::Late(at - last) } else { Fate::Counted });
        if row.counts && last > at {
            counted.push((at, row));
        }
    }
    let windows = match kind {
        Kind::Session { gap } => sessions(gap + bounds.lateness, gap, counted),
        Kind::Count { every, slide } => counts(every, slide, bounds.ttl, reached(bounds, rows), &counted),
        Kind::Global if bounds.ttl.is_some() => lives(bounds.ttl.unwrap_or_default(), counted),
        _ => aligned(kind, bounds.lateness, &counted),
    };
    (windows, fates)
}

fn aligned<K: Ord + Clone>(kind: Kind, lateness: i64, rows: &[(i64, &Row<K>)]) -> Vec<Window<K>> {
    let mut windows = BTreeMap::<(K, i64, i64), (i64, i64)>::new();
    for (watermark, row) in rows {
        for (start, end) in kind.windows(row.time) {
            if end.saturating_add(lateness) > *watermark {
                let (rows, sum) = windows.entry((row.key.clone(), start, end)).or_default();
                (*rows, *sum) = (*rows + 1, *sum + row.value);
            }
        }
    }
    windows.into_iter().map(|((key, start, end), (rows, sum))| Window { key, start, end, rows, sum }).collect()
}

/// The last life of each key, in the order of watermarks, whichever partition rows are of.
fn lives<K: Ord + Clone>(ttl: i64, mut rows: Vec<(i64, &Row<K>)>) -> Vec<Window<K>> {
    rows.sort_by_key(|(watermark, _)| *watermark);
    // Greatest event time, rows, sum.
    let mut lives = BTreeMap::<K, (i64, i64, i64)>::new();
    for (watermark, row) in rows {
        let life = lives.entry(row.key.clone()).or_insert((row.time, 0, 0));
        if life.0 + ttl <= watermark {
            *life = (row.time, 0, 0);
        }
        *life = (life.0.max(row.time), life.1 + 1, life.2 + row.value);
    }
    let window = |(key, (_, rows, sum))| Window { key, start: i64::MIN, end: i64::MAX, rows, sum };
    lives.into_iter().map(window).collect()
}

/// In the order of watermarks, whichever partition rows are of.
fn sessions<K: Ord + Clone>(closes_after: i64, gap: i64, mut rows: Vec<(i64, &Row<K>)>) -> Vec<Window<K>> {
    rows.sort_by(|a, b| (a.0, &a.1.key, a.1.time).cmp(&(b.0, &b.1.key, b.1.time)));
    // `end` is the time of the last row for as long as sessions grow.
    let mut sessions: Vec<Window<K>> = Vec::new();
    for (watermark, row) in rows {
        let mut own = Window { key: row.key.clone(), start: row.time, end: row.time, rows: 1, sum: row.value };
        sessions.retain(|s| {
            let near = s.start <= row.time + gap && row.time <= s.end + gap;
            let joins = s.key == row.key && s.end + closes_after > watermark && near;
            if joins {
                (own.start, own.end) = (own.start.min(s.start), own.end.max(s.end));
                (own.rows, own.sum) = (own.rows + s.rows, own.sum + s.sum);
            }
            !joins
        });
        sessions.push(own);
    }
    // Rows that came when a session had closed make another with the same bounds; its result has the same key and replaces it.
    let mut merged = BTreeMap::<(K, i64, i64), (i64, i64)>::new();
    for s in sessions {
        let (rows, sum) = merged.entry((s.key, s.start, s.end + gap)).or_default();
        (*rows, *sum) = (*rows + s.rows, *sum + s.sum);
    }
    merged.into_iter().map(|((key, start, end), (rows, sum))| Window { key, start, end, rows, sum }).collect()
}

/// Each `slide` rows of a key its last `every`; at the end what is left of keys that live then. A key that is idle for `ttl` begins anew.
fn counts<K: Ord + Clone>(every: i64, slide: i64, ttl: Option<i64>, reached: i64, rows: &[(i64, &Row<K>)]) -> Vec<Window<K>> {
    let is_over = |life: &[&Row<K>], watermark: i64| {
        let last = life.iter().map(|r| r.time).max();
        last.zip(ttl).is_some_and(|(last, ttl)| last + ttl <= watermark)
    };
    let mut keys = BTreeMap::<K, Vec<Vec<&Row<K>>>>::new();
    for (watermark, row) in rows {
        let lives = keys.entry(row.key.clone()).or_insert_with(|| vec![Vec::new()]);
        if lives.last().is_some_and(|life| is_over(life, *watermark)) {
            lives.push(Vec::new());
        }
        lives.last_mut().into_iter().for_each(|life| life.push(row));
    }
    let mut windows = Vec::new();
    for (key, lives) in keys {
        for (i, life) in lives.iter().enumerate() {
            let n = life.len() as i64;
            let goes_on = i + 1 == lives.len() && !is_over(life, reached);
            let last_end = if goes_on { n + every - 1 } else { n };
            for end in (1..=last_end).filter(|end| end % slide == 0 && end - every < n) {
                let of = &life[(end - every).max(0) as usize..end.min(n) as usize];
                let start = of.iter().map(|r| r.time).min().unwrap_or_default();
                let end = of.iter().map(|r| r.time).max().unwrap_or_default() + 1;
                let sum = of.iter().map(|r| r.value).sum();
                windows.push(Window { key: key.clone(), start, end, rows: of.len() as i64, sum });
            }
        }
    }
    windows.sort();
    windows
}
