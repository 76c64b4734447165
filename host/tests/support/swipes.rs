//! Swipes of people over each other, and the matches among them worked out a second time: without a line of the plugin, the host or a broker.
// Each user of this file uses its part.
#![allow(dead_code)]

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;

/// Event time of the first swipe.
const START_MS: i64 = 1_760_000_400_000;
/// Swipes in a second of event time.
const SWIPES_PER_SECOND: u64 = 5_000;
/// People; each has some of the pairs.
const PEOPLE: u64 = 1_000_000;
/// One swipe in so many is a nope.
const NOPE_ONE_IN: u64 = 5;
/// One swipe in so many was sent before, and is among the last so many.
const TWICE_ONE_IN: u64 = 20;
const TWICE_WITHIN: usize = 10_000;
/// One swipe in so many comes late, by at most so much; the others by at most so little.
const LATE_ONE_IN: u64 = 10;
const LATE_MS: u64 = 60_000;
const DELAY_MS: u64 = 300;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A swipe of `user` over `other`; ids are written with 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swipe {
    pub user: u64,
    pub other: u64,
    pub like: bool,
    /// When it was made, by the client.
    pub ts: i64,
    /// When it came in.
    pub st: i64,
}

impl Swipe {
    /// Writes it as JSON.
    pub fn write(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let Self { user, other, like, ts, st } = self;
        write!(out, r#"{{"userId":"{user:016x}","otherId":"{other:016x}","like":{like},"ts":{ts},"st":{st}}}"#)
    }

    /// The two, whoever swiped.
    pub fn pair(&self) -> (u64, u64) {
        (self.user.min(self.other), self.user.max(self.other))
    }

    /// A pair's swipes are in one partition.
    pub fn partition(&self, partitions: usize) -> usize {
        ((self.user ^ self.other) % partitions as u64) as usize
    }
}

/// The swipes of a seed, in the order of their arrival: any of the pairs at any time.
pub struct Swipes {
    random: Random,
    swipes: u64,
    pairs: u64,
    made: u64,
    last: Vec<Swipe>,
}

impl Swipes {
    pub fn new(seed: u64, swipes: u64, pairs: u64) -> Self {
        Self { random: Random(seed), swipes, pairs, made: 0, last: Vec::with_capacity(TWICE_WITHIN) }
    }

    fn one(&mut self, st: i64) -> Swipe {
        let random = &mut self.random;
        if !self.last.is_empty() && random.below(TWICE_ONE_IN) == 0 {
            return Swipe { st, ..self.last[random.below(self.last.len() as u64) as usize] };
        }
        let pair = random.below(self.pairs);
        let one = pair % PEOPLE;
        let two = (one + 1 + pair / PEOPLE) % PEOPLE;
        // A one-to-one map: as scattered as ids are.
        let (one, two) = (Random(one).next(), Random(two).next());
        let (user, other) = if random.below(2) == 0 { (one, two) } else { (two, one) };
        let bound = if random.below(LATE_ONE_IN) == 0 { LATE_MS } else { DELAY_MS };
        let delay = random.below(bound);
        Swipe { user, other, like: random.below(NOPE_ONE_IN) != 0, ts: st - delay as i64, st }
    }
}

impl Iterator for Swipes {
    type Item = Swipe;

    fn next(&mut self) -> Option<Swipe> {
        if self.made == self.swipes {
            return None;
        }
        let swipe = self.one(START_MS + (self.made * 1_000 / SWIPES_PER_SECOND) as i64);
        match self.last.len() {
            TWICE_WITHIN => self.last[self.made as usize % TWICE_WITHIN] = swipe,
            _ => self.last.push(swipe),
        }
        self.made += 1;
        Some(swipe)
    }
}

/// `swiper|swipee` to the time of the swipe that completed the match.
pub type Matches = BTreeMap<String, i64>;

/// The matches, by their definition: of each one's swipes over another only those count that are newer than all that came before; the first
/// like that meets a like is the pair's match.
pub fn expected(swipes: impl Iterator<Item = Swipe>) -> Matches {
    let mut newest: HashMap<(u64, u64), (i64, bool)> = HashMap::new();
    let mut matches: HashMap<(u64, u64), Swipe> = HashMap::new();
    for swipe in swipes {
        match newest.entry((swipe.user, swipe.other)) {
            Entry::Occupied(seen) if seen.get().0 >= swipe.ts => continue,
            Entry::Occupied(mut seen) => drop(seen.insert((swipe.ts, swipe.like))),
            Entry::Vacant(none) => drop(none.insert((swipe.ts, swipe.like))),
        }
        let is_liked = newest.get(&(swipe.other, swipe.user)).is_some_and(|(_, like)| *like);
        if swipe.like && is_liked {
            matches.entry(swipe.pair()).or_insert(swipe);
        }
    }
    matches.into_values().map(|m| (format!("{:016x}|{:016x}", m.user, m.other), m.ts)).collect()
}

/// Takes in a match as engines write it: JSON of `swiper`, `swipee` and `ts`.
///
/// # Errors
/// When it is none, or came before.
pub fn add(matches: &mut Matches, payload: &[u8]) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Match<'a> {
        swiper: &'a str,
        swipee: &'a str,
        ts: i64,
    }
    let Match { swiper, swipee, ts } =
        serde_json::from_slice(payload).map_err(|e| format!("{}: {e}", String::from_utf8_lossy(payload)))?;
    match matches.insert(format!("{swiper}|{swipee}"), ts) {
        Some(before) => Err(format!("the match of {swiper} and {swipee} came twice, of {before} and {ts}")),
        None => Ok(()),
    }
}

/// The match detector over topic `topic` of a broker, to `TOPIC-out`; `more` is more of the process's lines.
pub fn pipeline(brokers: &str, topic: &str, more: &str) -> String {
    format!(
        "
name: {topic}
source: {{ name: kafka, parameters: {{ brokers: '{brokers}', topic: {topic} }} }}
pipeline:
  - operation: parse
    parse:
      parameters:
        - {{ jsonPath: userId, outputType: string, outputCol: userId }}
        - {{ jsonPath: otherId, outputType: string, outputCol: otherId }}
        - {{ jsonPath: like, outputType: boolean, outputCol: like }}
        - {{ jsonPath: ts, outputType: milliToTimestamp, outputCol: ts }}
  - operation: process
    plugin: match_detection
    keyBy: ['least(userId, otherId)', 'greatest(userId, otherId)']
    timestampColumn: ts
    ttl: 7.days
{more}
sink: {{ name: kafka, parameters: {{ brokers: '{brokers}', topic: {topic}-out }} }}
"
    )
}
