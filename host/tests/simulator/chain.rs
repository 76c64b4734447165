//! Operations with state behind the first one: what the pipeline says of them, and what they must give, worked out from all results of the one
//! before without epochs.
//!
//! None of their rows is late, and whatever depends on a watermark goes by a row's own time: it is as if each row came from a partition of its own.

use crate::case::{Case, Emit, Feed, Shape};
use crate::definition::{Bounds, Kind, Random, Row, Window, expected};
use crate::process::{Act, Process, Said, What, of_key};
use std::collections::BTreeMap;

const SECOND: i64 = 1_000;

type Key = Option<String>;

/// What the rows of a later operation are keyed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rekey {
    /// As they were.
    Same,
    /// Those of an even value have one key.
    Mixed,
    /// All have.
    One,
}

impl Rekey {
    fn random(random: &mut Random) -> Self {
        [Self::Same, Self::Mixed, Self::One][random.below(3) as usize]
    }

    /// As an expression.
    fn sql(self, key: &str, value: &str) -> String {
        match self {
            Self::Same => key.to_owned(),
            Self::Mixed => format!("CASE WHEN {value} % 2 = 0 THEN 'even' ELSE {key} END"),
            Self::One => "'all'".to_owned(),
        }
    }

    fn of(self, key: Key, value: i64) -> Key {
        match self {
            Self::Mixed if value % 2 == 0 => Some("even".to_owned()),
            Self::Same | Self::Mixed => key,
            Self::One => Some("all".to_owned()),
        }
    }
}

/// An operation with state behind another one; times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    pub shape: Shape,
    key: Rekey,
    /// Event time is the start of the windows before, not their end.
    by_start: bool,
    /// Bounded out-of-orderness.
    disorder: i64,
    /// Allowed lateness of its windows.
    lateness: i64,
    /// Keys of a global window are forgotten so long after their last row.
    pub ttl: Option<i64>,
    /// An aggregate of its windows that fails on rows of some values.
    pub hostile: Option<&'static str>,
}

/// Whether such an aggregate fails on a row of this value.
fn is_poison(value: i64) -> bool {
    value % 11 == 0
}

/// What an operation gives, and where it stands in the end.
#[derive(Default)]
pub struct Given {
    /// Values of rows that are results themselves.
    pub values: Vec<i64>,
    /// Results of windows.
    pub windows: Vec<Window<Key>>,
    /// What processes gave, this one and those before; the sums are this one's.
    pub said: Said,
    /// Keys that live, of processes up to this one: the watermark that ends the life, and the one that a run after the end reaches.
    pub lives: Vec<(i64, i64)>,
    /// Watermark.
    pub reached: i64,
    /// The same once more is run after the end, which goes on behind the last window.
    pub reached_later: i64,
}

/// A result as a row of the next operation.
struct Passed {
    key: Key,
    /// The column that its event time is.
    column: i64,
    /// The end of a window is a millisecond earlier as an event time.
    time: i64,
    value: i64,
}

impl Case {
    /// A case with two or three operations with state. Times are seconds, as a process's guest needs it.
    pub fn random_chain(random: &mut Random) -> Self {
        let mut case = Self::plain(random);
        let random = &mut Random::of_seed(random.below(u64::MAX));
        if random.one_in(4) {
            case.become_process(random);
        } else {
            case.become_windows(random);
        }
        let count = 1 + random.below(2);
        for number in 1..=count {
            let behind = Behind::random(&case, number == count, random);
            case.behind.push(behind);
        }
        case.vary_process(random);
        for behind in case.behind.iter_mut().filter(|b| matches!(b.shape, Shape::Windows { .. })) {
            behind.hostile = [None, None, Some("aggregate_trap"), Some("aggregate_refuse")][random.below(4) as usize];
        }
        if random.one_in(8) {
            case.become_processing(random);
        }
        case
    }

    /// The first windows are of processing time: milliseconds, as a run does not take longer, but for the hours when nobody runs the job.
    fn become_processing(&mut self, random: &mut Random) {
        if let Shape::Windows { kind, processing, .. } = &mut self.shape {
            let by_start = self.behind.first().is_some_and(|behind| behind.by_start);
            (*kind, *processing) = (Kind::random(random), true);
            if by_start && matches!(kind, Kind::Session { .. }) {
                *kind = Kind::Cumulative { size: 20, step: 5 };
            }
            self.bounds.lateness = 0;
        }
    }

    fn become_windows(&mut self, random: &mut Random) {
        self.shape = Shape::Windows { kind: Kind::random(random).scaled(SECOND), emit: Emit::Final, processing: false };
        self.keyed = true;
        self.limits.max_drift = self.limits.max_drift.map(|drift| drift * SECOND as u32);
        let Bounds { disorder, lateness, max_future, .. } = &mut self.bounds;
        [disorder, lateness, max_future].into_iter().for_each(|bound| *bound *= SECOND);
        for feed in &mut self.feeds {
            if let Feed::Row { item, .. } = feed {
                (item.time, item.written) = (item.time * SECOND, item.written.map(|written| written * SECOND));
            }
        }
    }

    /// The last operation.
    pub fn last(&self) -> Shape {
        self.behind.last().map_or(self.shape, |behind| behind.shape)
    }

    /// How long after its last row the last operation forgets a key of a window.
    pub fn last_ttl(&self) -> Option<i64> {
        self.behind.last().map_or(self.bounds.ttl, |behind| behind.ttl)
    }

    /// Operations behind the first have aggregates that fail on some rows.
    pub fn has_hostile_behind(&self) -> bool {
        self.behind.iter().any(|behind| behind.hostile.is_some())
    }

    pub fn has_process(&self) -> bool {
        std::iter::once(self.shape).chain(self.behind.iter().map(|b| b.shape)).any(|shape| matches!(shape, Shape::Process(_)))
    }

    /// How far a row is behind one that came before it, at most; of one partition.
    fn most_behind(&self) -> i64 {
        let (mut greatest, mut most) = (i64::MIN, 0);
        for feed in &self.feeds {
            if let Feed::Row { item, .. } = feed {
                greatest = greatest.max(item.time);
                most = most.max(greatest - item.time);
            }
        }
        most
    }

    /// What all operations give, from what the first one does.
    pub fn given_behind(&self, first: Given) -> Given {
        let mut before = (self.shape, self.bounds.lateness);
        let mut given = first;
        for behind in &self.behind {
            given = behind.given(before, given);
            before = (behind.shape, behind.lateness);
        }
        given
    }

    /// The operations behind the first, as text.
    pub fn yaml_behind(&self) -> String {
        let mut before = self.shape;
        let mut text = String::new();
        for behind in &self.behind {
            text += &behind.yaml(before);
            before = behind.shape;
        }
        text
    }
}

impl Behind {
    fn random(case: &Case, is_last: bool, random: &mut Random) -> Self {
        let before = case.last();
        let emit = [Emit::Final, Emit::OnUpdate, Emit::Early][random.below(3) as usize];
        // The guest's outputs can have a sink once.
        let shape = if !case.has_process() && random.one_in(3) {
            Shape::Process(Process { ttl: 5 + random.below(60) as i64, by_event_time: true, fault: None })
        } else if is_last && emit != Emit::Final && random.one_in(4) {
            Shape::Windows { kind: Kind::Global, emit, processing: false }
        } else {
            let emit = if is_last { emit } else { Emit::Final };
            Shape::Windows { kind: Kind::random(random).scaled(SECOND), emit, processing: false }
        };
        let is_global = matches!(shape, Shape::Windows { kind: Kind::Global, .. });
        let disorder = random.below(3) as i64 * random.below(9) as i64 * SECOND;
        let lateness = random.below(3) as i64 * random.below(9) as i64 * SECOND;
        // Nothing says when all sessions before a start are there.
        let has_starts = matches!(before, Shape::Windows { kind, .. } if !matches!(kind, Kind::Session { .. }));
        Self {
            shape,
            key: Rekey::random(random),
            by_start: has_starts && random.one_in(2),
            // Rows as they arrive may be late, and so is what comes of them.
            disorder: match before {
                Shape::Process(Process { by_event_time: false, .. }) => case.most_behind(),
                _ => disorder,
            },
            lateness: if is_global || matches!(shape, Shape::Process(_)) { 0 } else { lateness },
            ttl: (is_global && random.one_in(2)).then(|| (2 + random.below(40) as i64) * SECOND),
            hostile: None,
        }
    }

    fn yaml(&self, before: Shape) -> String {
        let (key, time, value) = match before {
            Shape::Process(_) => ("id", "at", "total"),
            _ if self.by_start => ("k", "window_start", "sum"),
            _ => ("k", "window_end", "sum"),
        };
        let key = self.key.sql(key, value);
        let text = format!(
            "  - operation: project\n    columns: {{ k: \"{key}\", t: {time}, v: {value}, s: \"CASE WHEN {value} % 11 = 0 THEN 'poison' ELSE 'x' END\" }}\n"
        );
        let (kind, emit) = match self.shape {
            Shape::Process(process) => {
                // By the time, so that it does not matter in which order rows of one time come.
                return text + &process.yaml("(arrow_cast(t, 'Int64') / 1000)", true, "t", self.disorder);
            }
            Shape::Windows { kind, emit, .. } => (kind, emit),
            Shape::Rows => return text,
        };
        let time = match (kind, self.ttl) {
            (Kind::Global, None) => String::new(),
            (Kind::Global, Some(_)) => format!(", watermark: {}ms", self.disorder),
            _ => format!(", watermark: {}ms, allowedLateness: {}ms", self.disorder, self.lateness),
        };
        let ttl = match (kind, self.ttl) {
            (Kind::Global, None) => "    ttl: 3650.days\n".to_owned(),
            (_, ttl) => ttl.map_or_else(String::new, |ttl| format!("    ttl: {ttl}ms\n")),
        };
        let guest = self.hostile.map(|name| format!("      - {{ reducer: {name}, inputColumns: [s], outputColumn: guest }}\n"));
        text + &format!(
            "  - operation: window_aggregate\n    window: {{ {}, timestampColumn: t{time} }}\n    emit: {}\n{ttl}    groupByKeys: [k]\n    \
             aggregations:\n      - {{ reducer: count, outputColumn: count }}\n      \
             - {{ reducer: sum, inputColumns: [v], outputColumn: sum }}\n{}",
            kind.yaml(),
            emit.yaml(),
            guest.unwrap_or_default(),
        )
    }

    /// What it gives of all that the operation before, with its allowed lateness, gave.
    fn given(&self, (before, lateness): (Shape, i64), given: Given) -> Given {
        let reached = self.reached(before, lateness, given.reached);
        let later = self.reached(before, lateness, given.reached_later);
        let Given { windows, mut said, mut lives, .. } = given;
        let sums = std::mem::take(&mut said.sums);
        let of_window = |w: Window<Key>| {
            let (column, time) = if self.by_start { (w.start, w.start) } else { (w.end, w.end - 1) };
            Passed { key: self.key.of(w.key, w.sum), column, time, value: w.sum }
        };
        let of_sum =
            |s: crate::process::Sum| Passed { key: self.key.of(Some(s.id), s.total), column: s.at, time: s.at, value: s.total };
        let mut rows: Vec<Passed> = windows.into_iter().map(of_window).chain(sums.into_iter().map(of_sum)).collect();
        if self.hostile.is_some() {
            said.refused += rows.extract_if(.., |row| is_poison(row.value)).count();
        }
        let windows = match self.shape {
            Shape::Windows { kind, .. } => self.windows(kind, &rows),
            Shape::Process(process) => {
                lives.extend(processed(process, &rows, reached, &mut said).into_iter().map(|end| (end, later)));
                Vec::new()
            }
            Shape::Rows => Vec::new(),
        };
        let reached_later = match self.shape {
            Shape::Windows { kind, .. } => later.max(goes_on_behind(kind, self.lateness, &windows)),
            _ => later,
        };
        Given { windows, said, lives, reached, reached_later, ..Given::default() }
    }

    /// The watermark in the end, from that of the operation before.
    fn reached(&self, before: Shape, lateness: i64, reached: i64) -> i64 {
        if reached == i64::MIN {
            return reached;
        }
        let from = match before {
            Shape::Windows { kind, .. } if self.by_start => {
                kind.windows(reached - lateness).into_iter().map(|(start, _)| start).min().unwrap_or(i64::MIN)
            }
            Shape::Windows { .. } => reached - lateness,
            Shape::Process(_) | Shape::Rows => reached,
        };
        // A session is open to a row at its end.
        let touching = matches!(self.shape, Shape::Windows { kind: Kind::Session { .. }, .. });
        from - self.disorder - i64::from(touching)
    }

    fn windows(&self, kind: Kind, rows: &[Passed]) -> Vec<Window<Key>> {
        let row = |(partition, p): (usize, &Passed)| Row {
            partition,
            key: p.key.clone(),
            time: p.time,
            written: None,
            value: p.value,
            counts: true,
            floor: i64::MIN,
        };
        let rows: Vec<Row<Key>> = rows.iter().enumerate().map(row).collect();
        expected(kind, Bounds { disorder: 0, lateness: self.lateness, max_future: 0, ttl: self.ttl }, &rows).0
    }
}

/// The watermark that a run after the end of the input begins at, at most.
pub fn goes_on_behind(kind: Kind, lateness: i64, windows: &[Window<Key>]) -> i64 {
    // Sessions are kept in slices, and which slice the last row lies in is not their business here.
    let slice = if let Kind::Session { gap } = kind { gap } else { 0 };
    windows.iter().map(|w| w.end.saturating_add(lateness + slice)).max().unwrap_or(i64::MIN)
}

/// What a process gives of rows, by what their times say that they do; which watermarks would end the keys that live in the end.
fn processed(process: Process, rows: &[Passed], reached: i64, said: &mut Said) -> Vec<i64> {
    let mut keys = BTreeMap::<Key, Vec<Act>>::new();
    for row in rows {
        let what = process.what(row.column / SECOND);
        if what == What::Fault {
            said.refused += 1;
            continue;
        }
        let act = Act { watermark: row.time, time: row.time, at: (0, 0), what, amount: row.value };
        keys.entry(row.key.clone()).or_default().push(act);
    }
    let live = |(key, mut acts): (Key, Vec<Act>)| of_key(process, key.as_deref().unwrap_or("-"), &mut acts, reached, said);
    keys.into_iter().filter_map(live).collect()
}
