//! What a seed stands for: a pipeline, its bounds, and the input.

use crate::chain::Behind;
use crate::definition::{Bounds, Kind, Random};
use crate::process::Process;
use kindling::config::spec::{Pipeline, TimestampFormat};
use kindling::config::{LoadOptions, load_str};
use kindling::element::OwnedRecord;
use kindling::limits::{JobLimits, StateLimit};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than any run.
const NEVER: Duration = Duration::from_secs(100 * 86_400);
const HOUR: i64 = 3_600_000;

/// An aggregate that never returns on poisoned rows. Rows beside them may be rejected with them: how many calls are tried is bounded.
pub const ENDLESS: &str = "aggregate_loop";

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    Good,
    /// Its text makes hostile guests misbehave.
    Poison,
    /// No JSON.
    Broken,
    /// A record without a value.
    Tombstone,
    /// Its event time is null.
    Timeless,
}

/// A row of the input.
#[derive(Clone, Debug)]
pub struct Item {
    pub key: Option<String>,
    pub time: i64,
    /// Timestamp of its record.
    pub written: Option<i64>,
    /// Unlike that of all other rows.
    pub value: i64,
    pub nature: Nature,
}

impl Item {
    pub fn record(&self) -> OwnedRecord {
        let text = if self.nature == Nature::Poison { "poison" } else { "x" };
        let time = if self.nature == Nature::Timeless { json!(null) } else { json!(self.time) };
        let value = match self.nature {
            Nature::Tombstone => None,
            Nature::Broken => Some(format!("{{\"st\":{},\"k\":", self.time)),
            _ => Some(json!({"st": time, "k": self.key, "v": self.value, "s": text}).to_string()),
        };
        let value = value.map(String::into_bytes);
        OwnedRecord { timestamp: self.written, key: self.key.clone().map(String::into_bytes), value, ..OwnedRecord::default() }
    }
}

/// One thing that happens to the input.
#[derive(Clone, Debug)]
pub enum Feed {
    /// A row comes, in a transaction or not.
    Row { partition: usize, item: Item, transaction: Option<usize> },
    /// A transaction ends.
    End { transaction: usize, commits: bool },
}

/// When results are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    Final,
    OnUpdate,
    Early,
}

impl Emit {
    pub fn yaml(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::OnUpdate => "onUpdate",
            Self::Early => "{ early: 40ms }",
        }
    }
}

/// What the pipeline does with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each row is a result.
    Rows,
    /// A windowed aggregation.
    Windows { kind: Kind, emit: Emit, processing: bool },
    /// A keyed process.
    Process(Process),
}

/// Guests in the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guests {
    None,
    /// An aggregate that fails on poisoned rows, by this name.
    Hostile(&'static str),
    /// A good aggregate, and other versions of it that are swapped in.
    Swapped,
    /// A keyed process.
    Accounts,
}

/// All that a seed says of job and input.
#[derive(Clone, Debug)]
pub struct Case {
    /// The first operation with state, where there is one.
    pub shape: Shape,
    pub bounds: Bounds,
    /// More of them.
    pub behind: Vec<Behind>,
    pub keyed: bool,
    /// Rows whose value divides by 3 are filtered away.
    pub filtered: bool,
    pub guests: Guests,
    /// Versions of the process's guest are swapped in.
    pub swaps_process: bool,
    pub partitions: usize,
    pub feeds: Vec<Feed>,
    pub limits: JobLimits,
    pub workers: usize,
    /// Partitions become idle within a run: what is late depends on when.
    pub idles: bool,
    /// Processes have local trees on disks.
    pub with_disks: bool,
    /// State is over its memory budget, and partly on a scratch disk.
    pub with_spill: bool,
}

impl Case {
    pub fn random(random: &mut Random) -> Self {
        let mut case = Self::plain(random);
        // By numbers of its own, so that seeds of before are what they were.
        case.vary(&mut Random::of_seed(random.below(u64::MAX)));
        case
    }

    /// A case of rows, or of windows by milliseconds that do not forget keys.
    pub fn plain(random: &mut Random) -> Self {
        let shape = shape(random);
        let with_lateness = matches!(
            shape,
            Shape::Windows { kind: Kind::Hopping { .. } | Kind::Cumulative { .. } | Kind::Session { .. }, processing: false, .. }
        );
        let bounds = Bounds {
            disorder: random.below(8) as i64,
            lateness: if with_lateness { random.below(3) as i64 * random.below(12) as i64 } else { 0 },
            max_future: 30,
            ttl: None,
        };
        let guests = match (shape, random.below(8)) {
            (Shape::Rows, _) => Guests::None,
            (_, 0) => Guests::Hostile("aggregate_trap"),
            (_, 1) => Guests::Hostile("aggregate_refuse"),
            (_, 2 | 3) => Guests::Swapped,
            _ => Guests::None,
        };
        let partitions = 1 + random.below(4) as usize;
        let idles = random.one_in(4);
        let with_spill = random.one_in(8);
        let memory_bytes = if with_spill { 100 + random.below(1_500) as usize } else { StateLimit::default().memory_bytes };
        let limits = JobLimits {
            state: StateLimit { memory_bytes, spill: None },
            epoch_time: Duration::from_millis(5 + random.below(60)),
            epoch_rows: 1 + random.below(30) as usize,
            batch_rows: 1 + random.below(8) as usize,
            idle_after: if idles { Duration::from_millis(20 + random.below(80)) } else { NEVER },
            max_drift: random.one_in(4).then(|| Duration::from_millis(10 + random.below(60))),
            probation_epochs: 1 + random.below(3) as u32,
            ..JobLimits::default()
        };
        Self {
            shape,
            bounds,
            behind: Vec::new(),
            keyed: !random.one_in(6) || matches!(shape, Shape::Windows { kind: Kind::Global, .. }),
            filtered: random.one_in(4),
            guests,
            swaps_process: false,
            partitions,
            feeds: feeds(partitions, guests, random),
            limits,
            workers: 1 + random.below(3) as usize,
            idles,
            with_disks: random.one_in(8),
            with_spill,
        }
    }

    /// Guests that never return; global and count windows whose keys are forgotten; windows by the calendar, with hours in the place of milliseconds.
    fn vary(&mut self, random: &mut Random) {
        if matches!(self.guests, Guests::Hostile(_)) && random.one_in(6) {
            self.guests = Guests::Hostile(ENDLESS);
        }
        let Shape::Windows { kind, processing: false, .. } = &mut self.shape else { return };
        match kind {
            Kind::Global if !random.one_in(3) => self.bounds.ttl = Some(2 + random.below(40) as i64),
            Kind::Count { .. } if !random.one_in(3) => self.bounds.ttl = Some(2 + random.below(40) as i64),
            Kind::Hopping { duration, slide, .. } if duration == slide && random.one_in(3) => {
                let weeks = random.one_in(4);
                *kind = Kind::Calendar { days: if weeks { 7 } else { 1 + random.below(2) as i64 }, weeks };
                // Five days before clocks change, and a shift that is not a whole day.
                let start = [1_774_310_400_000, 1_792_454_400_000][random.below(2) as usize] + random.below(24) as i64 * HOUR;
                for feed in &mut self.feeds {
                    if let Feed::Row { item, .. } = feed {
                        item.time = start + item.time * HOUR;
                        item.written = item.written.map(|written| start + written * HOUR);
                    }
                }
                let Bounds { disorder, lateness, max_future, .. } = &mut self.bounds;
                [disorder, lateness, max_future].into_iter().for_each(|bound| *bound *= HOUR);
                self.limits.max_drift = self.limits.max_drift.map(|drift| drift * HOUR as u32);
            }
            _ => {}
        }
    }

    /// Windows of event time: they have a watermark.
    pub fn is_timed(&self) -> bool {
        match self.shape {
            Shape::Rows | Shape::Process(_) => false,
            Shape::Windows { kind: Kind::Global | Kind::Count { .. }, .. } => self.bounds.ttl.is_some(),
            Shape::Windows { processing, .. } => !processing,
        }
    }

    /// What is given before it is final, is given anew with each change.
    pub fn upserts(&self) -> bool {
        matches!(self.last(), Shape::Windows { emit: Emit::OnUpdate | Emit::Early, .. })
    }

    fn yaml(&self) -> String {
        self.first_yaml() + &self.yaml_behind()
    }

    fn first_yaml(&self) -> String {
        let mut text =
            "name: sim\nsource: { name: stdin }\npipeline:\n  - operation: parse\n    parse:\n      parameters:\n".to_owned();
        for (path, kind) in [("st", "milliToTimestamp"), ("k", "string"), ("v", "long"), ("s", "string")] {
            text += &format!("        - {{ jsonPath: {path}, outputType: {kind}, outputCol: {path} }}\n");
        }
        if self.filtered {
            text += "  - operation: filter\n    where: v % 3 <> 0\n";
        }
        let (kind, emit, processing) = match self.shape {
            Shape::Rows => return text + "  - operation: project\n    columns: { k: k, v: v }\n",
            Shape::Process(process) => return text + &process.first_yaml(self.bounds.disorder),
            Shape::Windows { kind, emit, processing } => (kind, emit, processing),
        };
        let Bounds { disorder, lateness, max_future, ttl } = self.bounds;
        let time = match kind {
            _ if processing => "time: processing".to_owned(),
            _ if !self.is_timed() => "timestampColumn: st".to_owned(),
            Kind::Global | Kind::Count { .. } => {
                format!("timestampColumn: st, watermark: {disorder}ms, maxFuture: {max_future}ms")
            }
            _ => {
                format!("timestampColumn: st, watermark: {disorder}ms, allowedLateness: {lateness}ms, maxFuture: {max_future}ms")
            }
        };
        let keys = if self.keyed { "[k]" } else { "[]" };
        text +=
            &format!("  - operation: window_aggregate\n    window: {{ {}, {time} }}\n    emit: {}\n", kind.yaml(), emit.yaml());
        if matches!(kind, Kind::Global | Kind::Count { .. }) {
            text += &ttl.map_or_else(|| "    ttl: 3650.days\n".to_owned(), |ttl| format!("    ttl: {ttl}ms\n"));
        }
        text += &format!("    groupByKeys: {keys}\n    aggregations:\n      - {{ reducer: count, outputColumn: count }}\n");
        text += "      - { reducer: sum, inputColumns: [v], outputColumn: sum }\n";
        let guest = match self.guests {
            Guests::None | Guests::Accounts => return text,
            Guests::Hostile(function) => function,
            Guests::Swapped => "victim_count",
        };
        text + &format!("      - {{ reducer: {guest}, inputColumns: [s], outputColumn: guest }}\n")
    }

    pub fn pipeline(&self) -> Pipeline {
        let pipeline = load_str(&self.yaml(), "simulated.yaml", &LoadOptions::default());
        let pipeline = pipeline.unwrap_or_else(|e| panic!("{e}\n{}", self.yaml()));
        Pipeline { timestamp_format: TimestampFormat::Millis, ..pipeline }
    }

    /// Only the first of its feeds; transactions that are open then are aborted.
    pub fn cut(&mut self, feeds: usize) {
        self.feeds.truncate(feeds);
        let mut open: Vec<usize> = Vec::new();
        for feed in &self.feeds {
            match feed {
                Feed::Row { transaction: Some(t), .. } if !open.contains(t) => open.push(*t),
                Feed::Row { .. } => {}
                Feed::End { transaction, .. } => open.retain(|t| t != transaction),
            }
        }
        self.feeds.extend(open.into_iter().map(|transaction| Feed::End { transaction, commits: false }));
    }

    /// Nothing depends on where epochs end.
    pub fn is_cut_free(&self) -> bool {
        let by_epoch = match self.shape {
            Shape::Rows | Shape::Process(_) => false,
            Shape::Windows { kind, processing, .. } => processing || (self.partitions > 1 && matches!(kind, Kind::Count { .. })),
        };
        !by_epoch && !self.idles && !self.swaps_process && ![Guests::Swapped, Guests::Hostile(ENDLESS)].contains(&self.guests)
    }

    /// The committed rows of each partition by offset, once all of the input is there: worked out here a second time.
    pub fn log(&self) -> Vec<BTreeMap<i64, &Item>> {
        let committed =
            |t: &usize| self.feeds.iter().any(|f| matches!(f, Feed::End { transaction, commits: true } if transaction == t));
        let mut log = vec![BTreeMap::new(); self.partitions];
        let mut next = vec![0; self.partitions];
        let mut wrote = BTreeMap::<usize, usize>::new();
        for feed in &self.feeds {
            let partition = match feed {
                Feed::Row { partition, item, transaction } => {
                    if transaction.is_none_or(|t| committed(&t)) {
                        log[*partition].insert(next[*partition], item);
                    }
                    wrote.extend(transaction.map(|t| (t, *partition)));
                    *partition
                }
                // The mark at the end.
                Feed::End { transaction, .. } => wrote[transaction],
            };
            next[partition] += 1;
        }
        log
    }

    /// For people.
    pub fn about(&self) -> String {
        let Self { shape, bounds, behind, keyed, filtered, guests, swaps_process, partitions, workers, .. } = self;
        let Self { idles, with_disks, with_spill, limits, .. } = self;
        format!(
            "{shape:?}, {bounds:?}, behind it {behind:?}, keyed {keyed}, filtered {filtered}, guests {guests:?}, swaps of a process \
             {swaps_process}, {partitions} partitions, {workers} workers, idles {idles}, disks {with_disks}, spill {with_spill}, {} feeds, \
             epochs of {} rows and {:?}, max drift {:?}",
            self.feeds.len(),
            limits.epoch_rows,
            limits.epoch_time,
            limits.max_drift
        )
    }
}

fn shape(random: &mut Random) -> Shape {
    let emit = [Emit::Final, Emit::OnUpdate, Emit::Early][random.below(3) as usize];
    match random.below(12) {
        0 => Shape::Rows,
        1 => {
            let every = 1 + random.below(6) as i64;
            let kind = Kind::Count { every, slide: 1 + random.below(every as u64) as i64 };
            Shape::Windows { kind, emit: Emit::Final, processing: false }
        }
        2 => {
            let emit = if emit == Emit::Final { Emit::OnUpdate } else { emit };
            Shape::Windows { kind: Kind::Global, emit, processing: false }
        }
        3 => Shape::Windows { kind: Kind::random(random), emit, processing: true },
        _ => Shape::Windows { kind: Kind::random(random), emit, processing: false },
    }
}

/// Rows of all partitions, disordered, some late, some broken, some in transactions that others have open for a while.
fn feeds(partitions: usize, guests: Guests, random: &mut Random) -> Vec<Feed> {
    let rows = 10 + random.below(90);
    let mut bases: Vec<i64> = (0..partitions).map(|_| random.below(20) as i64).collect();
    // A partition of which little comes.
    let quiet = random.one_in(3).then(|| random.below(partitions as u64) as usize);
    let (mut feeds, mut open, mut next) = (Vec::new(), Vec::<(usize, usize)>::new(), 0);
    let (disorder, faulty) = (1 + random.below(24), [0, 8, 30][random.below(3) as usize]);
    for value in 1..=rows as i64 {
        let partition = random.below(partitions as u64) as usize;
        if quiet == Some(partition) && !random.one_in(8) {
            continue;
        }
        let base = &mut bases[partition];
        *base += random.below(5) as i64 + if random.one_in(40) { 60 } else { 0 };
        let late = if random.one_in(12) { 40 } else { disorder };
        let time = *base - random.below(3) as i64 * random.below(late) as i64;
        let written = match random.below(20) {
            0 => Some(time - random.below(60) as i64),
            1 => None,
            _ => Some(time.max(*base)),
        };
        let nature = match random.below(100) {
            n if n >= faulty => Nature::Good,
            n => [Nature::Poison, Nature::Broken, Nature::Tombstone, Nature::Timeless][(n % 4) as usize],
        };
        let nature = if nature == Nature::Poison && guests == Guests::None { Nature::Good } else { nature };
        let key = (!random.one_in(9)).then(|| format!("k{}", random.below(4)));
        if random.one_in(15) && !open.iter().any(|(_, p)| *p == partition) {
            open.push((next, partition));
            next += 1;
        }
        let transaction = open.iter().find(|(_, p)| *p == partition).map(|(t, _)| *t);
        feeds.push(Feed::Row { partition, item: Item { key, time, written, value, nature }, transaction });
        let has_rows = |t: usize| feeds.iter().any(|f| matches!(f, Feed::Row { transaction: Some(o), .. } if *o == t));
        let ready: Vec<usize> = (0..open.len()).filter(|i| has_rows(open[*i].0)).collect();
        if !ready.is_empty() && random.one_in(6) {
            let (transaction, _) = open.swap_remove(ready[random.below(ready.len() as u64) as usize]);
            feeds.push(Feed::End { transaction, commits: !random.one_in(3) });
        }
    }
    let rest =
        open.into_iter().filter(|(t, _)| feeds.iter().any(|f| matches!(f, Feed::Row { transaction: Some(o), .. } if o == t)));
    let rest: Vec<Feed> = rest.map(|(transaction, _)| Feed::End { transaction, commits: transaction % 2 == 0 }).collect();
    feeds.extend(rest);
    feeds
}
