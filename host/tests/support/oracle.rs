//! Kafka Streams and Flink as oracles: the cases, their input, and what an engine made of it. Shared by `tests/oracles.rs`, which compares with
//! recorded answers, and `examples/oracles`, which asks the engines.
// Each of both uses its part.
#![allow(dead_code)]

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Rows of a case.
const ROWS: u64 = 300;
/// Event times are multiples of this, milliseconds: rows meet the edges of windows often.
const GRID: i64 = 10;
/// Event time of the first row.
const START: i64 = 1_760_000_400_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tumbling,
    Hopping,
    Session,
}

/// An engine that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oracle {
    Flink,
    Streams,
}

impl Oracle {
    pub const ALL: [Self; 2] = [Self::Flink, Self::Streams];

    pub fn name(self) -> &'static str {
        match self {
            Self::Flink => "Flink",
            Self::Streams => "Kafka Streams",
        }
    }
}

/// Rows that come behind the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// None: disorder is below the bound.
    None,
    /// Any: late for some windows, for all of them, or for none.
    Any,
    /// None but rows of keys of their own, late for certain.
    Apart,
}

/// Windows over an input that engines must agree on; all times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub kind: Kind,
    /// Duration; of sessions the gap.
    pub size: i64,
    pub slide: i64,
    /// Bounded out-of-orderness.
    pub bound: i64,
    pub lateness: i64,
    pub partitions: usize,
    pub behind: Behind,
    pub oracles: &'static [Oracle],
}

const TUMBLING: Case = Case {
    name: "tumbling",
    kind: Kind::Tumbling,
    size: 5_000,
    slide: 5_000,
    bound: 1_000,
    lateness: 0,
    partitions: 1,
    behind: Behind::Any,
    oracles: &Oracle::ALL,
};
const HOPPING: Case = Case { name: "hopping", kind: Kind::Hopping, size: 6_000, slide: 2_000, ..TUMBLING };
/// No two rows, no bound and no gap make a whole number of steps of the grid: where a session ends and closes no row stands.
const SESSION: Case =
    Case { name: "session", kind: Kind::Session, size: 3_003, slide: 3_003, bound: 1_001, behind: Behind::Apart, ..TUMBLING };

/// All cases. Where rows behind the watermark are in sessions of other rows, engines are meant to differ (see host/docs/windows.md). A partition's rows
/// are judged by its own watermark: Kafka Streams has a task a partition here, and Flink is asked with windows of each partition's own.
pub const CASES: [Case; 15] = [
    TUMBLING,
    Case { name: "tumbling-lateness", lateness: 1_500, ..TUMBLING },
    HOPPING,
    Case { name: "hopping-lateness", lateness: 700, ..HOPPING },
    Case { name: "hopping-uneven", size: 5_000, slide: 3_000, ..HOPPING },
    SESSION,
    Case { name: "session-lateness", lateness: 1_501, ..SESSION },
    Case { name: "session-short", size: 503, slide: 503, ..SESSION },
    Case { name: "session-long-lateness", size: 9_003, slide: 9_003, lateness: 701, ..SESSION },
    Case { name: "tumbling-partitions", partitions: 4, behind: Behind::None, ..TUMBLING },
    Case { name: "session-partitions", partitions: 4, behind: Behind::None, ..SESSION },
    Case { name: "session-partitions-late", partitions: 4, ..SESSION },
    Case { name: "session-partitions-lateness", partitions: 4, lateness: 1_501, ..SESSION },
    Case { name: "tumbling-partitions-late", partitions: 4, lateness: 500, ..TUMBLING },
    Case { name: "hopping-partitions-late", partitions: 4, ..HOPPING },
];

/// A row of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub partition: usize,
    /// Within the partition.
    pub offset: i64,
    pub key: String,
    pub time: i64,
    pub id: u64,
}

impl Row {
    pub fn value(&self) -> String {
        json!({"k": self.key, "st": self.time, "id": self.id}).to_string()
    }
}

/// What an engine made of a case's input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Key, start and end of a window to its count.
    pub windows: BTreeMap<(String, i64, i64), i64>,
    /// Rows that were late for all their windows.
    pub late: BTreeSet<u64>,
}

impl Answer {
    /// The first differences to what `other` says; empty where there are none.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let keys: BTreeSet<_> = self.windows.keys().chain(other.windows.keys()).collect();
        for key in keys {
            let (mine, theirs) = (self.windows.get(key), other.windows.get(key));
            if mine != theirs {
                found.push(format!("window {key:?}: {mine:?} against {theirs:?}"));
            }
        }
        found.extend(self.late.difference(&other.late).map(|id| format!("row {id} is late, and not to the other")));
        found.extend(other.late.difference(&self.late).map(|id| format!("row {id} is not late, but to the other")));
        found.truncate(10);
        found
    }
}

/// A case with its input, and the engines' answers.
pub struct Recorded {
    pub case: Case,
    pub seed: u64,
    pub versions: BTreeMap<String, String>,
    pub rows: Vec<Row>,
    pub answers: BTreeMap<Oracle, Answer>,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n.max(1) as u64) as i64
    }
}

impl Case {
    pub fn named(name: &str) -> Option<Self> {
        CASES.into_iter().find(|c| c.name == name)
    }

    /// The input: each key in one partition, three keys of nine active at a time, so that sessions end.
    pub fn input(&self, seed: u64) -> Vec<Row> {
        let mut random = Random(seed.wrapping_mul(31).wrapping_add(self.name.len() as u64));
        let (mut heads, mut offsets) = (vec![START; self.partitions], vec![0i64; self.partitions]);
        let mut rows = Vec::new();
        for id in 0..ROWS {
            let number = (id as i64 / 25 + random.below(3)) % 9;
            let mut key = format!("key-{number}");
            let partition = number as usize % self.partitions;
            heads[partition] += random.below(40) * GRID;
            let in_bound = random.below(self.bound / GRID) * GRID;
            let delay = match (self.behind, random.below(100)) {
                (Behind::Any, 0..2) => random.below(6_000) * GRID,
                (Behind::Any, 2..20) => random.below((2 * self.bound + self.size + self.lateness) / GRID) * GRID,
                (Behind::Apart, 0..4) => {
                    key = format!("late-{id}");
                    (self.bound + self.lateness + self.size) / GRID * GRID + GRID * (100 + random.below(1_000))
                }
                _ => in_bound,
            };
            rows.push(Row { partition, offset: offsets[partition], key, time: heads[partition] - delay, id });
            offsets[partition] += 1;
        }
        rows
    }

    /// How many windows a time is in, of windows that are the same for all keys.
    pub fn windows_of(&self, time: i64) -> i64 {
        time.div_euclid(self.slide) - (time - self.size).div_euclid(self.slide)
    }

    /// The pipeline; `source`, `sink` and `late` are YAML.
    pub fn pipeline(&self, name: &str, source: &str, sink: &str, late: &str) -> String {
        let window = match self.kind {
            Kind::Session => format!("type: session, gap: {}ms", self.size),
            Kind::Tumbling => format!("duration: {}ms", self.size),
            Kind::Hopping => format!("duration: {}ms, slideDuration: {}ms", self.size, self.slide),
        };
        format!(
            "
name: {name}
source: {source}
pipeline:
  - operation: parse
    parse:
      inputCol: value
      parameters:
        - {{ jsonPath: st, outputType: milliToTimestamp, outputCol: st }}
        - {{ jsonPath: k, outputType: string, outputCol: k }}
  - operation: window_aggregate
    window: {{ {window}, timestampColumn: st, watermark: {}ms, allowedLateness: {}ms }}
    groupByKeys: [k]
    aggregations: [{{ reducer: count, outputColumn: count }}]
timestampFormat: millis
sink: {sink}
sideOutputs: {{ late: {late} }}
",
            self.bound, self.lateness
        )
    }
}

impl Recorded {
    /// Lines of JSON: the case, the rows, the answers; what several engines say alike stands once.
    pub fn to_lines(&self) -> String {
        let mut lines = vec![json!({"case": self.case.name, "seed": self.seed, "versions": self.versions}).to_string()];
        for row in &self.rows {
            lines.push(json!({"partition": row.partition, "k": row.key, "st": row.time, "id": row.id}).to_string());
        }
        let mut said: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (oracle, answer) in &self.answers {
            for ((key, start, end), count) in &answer.windows {
                let text = json!({"k": key, "start": start, "end": end, "count": count}).to_string();
                said.entry(text).or_default().push(oracle.name());
            }
            for id in &answer.late {
                said.entry(json!({"late": id}).to_string()).or_default().push(oracle.name());
            }
        }
        lines.extend(said.iter().map(|(text, by)| format!("{{\"from\":{},{}", json!(by), &text[1..])));
        lines.join("\n") + "\n"
    }

    /// Reads [`Self::to_lines`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().map(|l| serde_json::from_str::<Value>(l).map_err(|e| format!("{l}: {e}")));
        let head = lines.next().ok_or("it is empty")??;
        let case = head["case"].as_str().and_then(Case::named).ok_or_else(|| format!("no case {}", head["case"]))?;
        let mut recorded = Self {
            case,
            seed: head["seed"].as_u64().ok_or("no seed")?,
            versions: serde_json::from_value(head["versions"].clone()).map_err(|e| e.to_string())?,
            rows: Vec::new(),
            answers: case.oracles.iter().map(|o| (*o, Answer::default())).collect(),
        };
        let mut offsets = vec![0i64; case.partitions];
        for line in lines {
            let line = line?;
            let number = |name: &str| line[name].as_i64().ok_or_else(|| format!("no {name} in {line}"));
            let key = || line["k"].as_str().map(str::to_owned).ok_or_else(|| format!("no k in {line}"));
            let Some(from) = line["from"].as_array() else {
                let (partition, id) = (number("partition")? as usize, number("id")? as u64);
                let offset = offsets.get_mut(partition).ok_or_else(|| format!("no such partition in {line}"))?;
                recorded.rows.push(Row { partition, offset: *offset, key: key()?, time: number("st")?, id });
                *offset += 1;
                continue;
            };
            for name in from {
                let oracle = Oracle::ALL.into_iter().find(|o| Some(o.name()) == name.as_str());
                let answer = oracle.and_then(|o| recorded.answers.get_mut(&o)).ok_or_else(|| format!("{name} is not asked"))?;
                if line["late"].is_u64() {
                    answer.late.insert(number("late")? as u64);
                } else {
                    answer.windows.insert((key()?, number("start")?, number("end")?), number("count")?);
                }
            }
        }
        Ok(recorded)
    }
}
