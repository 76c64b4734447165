//! Swipes to matches: the last swipe of each of two people in a hash map.

use crate::Job;
use ahash::AHashMap;
use std::borrow::Cow;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};

#[derive(serde::Deserialize)]
struct Swipe<'a> {
    #[serde(borrow, rename = "userId")]
    user: Cow<'a, str>,
    #[serde(borrow, rename = "otherId")]
    other: Cow<'a, str>,
    like: bool,
    ts: i64,
}

/// The last swipe of each of the two: low is who comes first in order of their ids.
#[derive(Clone, Copy)]
pub struct Pair {
    pub low_at: i64,
    pub high_at: i64,
    pub low_likes: bool,
    pub high_likes: bool,
    pub is_match: bool,
}

const NEVER: Pair = Pair { low_at: i64::MIN, high_at: i64::MIN, low_likes: false, high_likes: false, is_match: false };

pub struct Match {
    pub swiper: String,
    pub swipee: String,
    pub ts: i64,
}

#[derive(Default)]
pub struct Pairs {
    /// By `low|high`.
    by_pair: AHashMap<Box<[u8]>, Pair>,
    key: Vec<u8>,
    pub matches: Vec<Match>,
}

impl Pairs {
    /// Takes in a swipe; its pair, and what is known of it now.
    pub fn swipe(&mut self, bytes: &[u8]) -> Result<(&[u8], Pair), sonic_rs::Error> {
        let swipe: Swipe<'_> = sonic_rs::from_slice(bytes)?;
        let is_low = swipe.user < swipe.other;
        let (low, high) = if is_low { (&swipe.user, &swipe.other) } else { (&swipe.other, &swipe.user) };
        self.key.clear();
        self.key.extend_from_slice(low.as_bytes());
        self.key.push(b'|');
        self.key.extend_from_slice(high.as_bytes());
        let pair = match self.by_pair.get_mut(self.key.as_slice()) {
            Some(pair) => pair,
            None => self.by_pair.entry(self.key.as_slice().into()).or_insert(NEVER),
        };
        let (at, likes, is_liked) = if is_low {
            (&mut pair.low_at, &mut pair.low_likes, pair.high_likes)
        } else {
            (&mut pair.high_at, &mut pair.high_likes, pair.low_likes)
        };
        if swipe.ts > *at {
            (*at, *likes) = (swipe.ts, swipe.like);
            if swipe.like && is_liked && !std::mem::replace(&mut pair.is_match, true) {
                let (swiper, swipee) = (swipe.user.into_owned(), swipe.other.into_owned());
                self.matches.push(Match { swiper, swipee, ts: swipe.ts });
            }
        }
        Ok((&self.key, *pair))
    }

    /// Lines of `swiper|swipee`, space, time.
    pub fn write(self, path: &str) -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        for Match { swiper, swipee, ts } in &self.matches {
            writeln!(out, "{swiper}|{swipee} {ts}")?;
        }
        out.flush()
    }
}

impl Job for Pairs {
    fn row(&mut self, _: i32, _: i64, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        self.swipe(bytes)?;
        Ok(())
    }
}
