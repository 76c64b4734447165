//! Swipe to match: the second of two likes between two people makes one match, once for a pair.
//!
//! Keyed by the pair, whoever swiped: `keyBy: ["least(userId, otherId)", "greatest(userId, otherId)"]`. A later nope takes back a like that is no match
//! yet; a swipe that comes twice, or after a newer one of the same person, changes nothing.

use kindling_guest::{Context, Pass, Process, Refusal, Timestamp, output, plugin, row, state};

row! {
    /// A swipe of `user_id` over `other_id`.
    struct Swipe<'a> { user_id: &'a str, other_id: &'a str, like: bool, ts: Timestamp }
}

state! {
    /// The last swipe of each of the two: low is who comes first in order of their ids.
    #[derive(Default)]
    struct Pair { low_at: Option<Timestamp>, high_at: Option<Timestamp>, low_likes: bool, high_likes: bool, is_match: bool }
}

impl Pair {
    /// Takes in a swipe; true when it completes the match.
    fn swipe(&mut self, swipe: &Swipe<'_>) -> bool {
        let (at, likes, is_liked) = if swipe.user_id < swipe.other_id {
            (&mut self.low_at, &mut self.low_likes, self.high_likes)
        } else {
            (&mut self.high_at, &mut self.high_likes, self.low_likes)
        };
        if at.is_some_and(|last| swipe.ts <= last) {
            return false;
        }
        (*at, *likes) = (Some(swipe.ts), swipe.like);
        swipe.like && is_liked && !std::mem::replace(&mut self.is_match, true)
    }
}

#[cfg(not(feature = "v2"))]
output! {
    /// Two who like each other; `swiper` is who completed it, at `ts`.
    struct Match { swiper: String, swipee: String, ts: Timestamp }
}

#[cfg(feature = "v2")]
output! {
    /// Two who like each other; `swiper` is who completed it, at `ts`, so long after the other's like.
    struct Match { swiper: String, swipee: String, ts: Timestamp, waited_ms: i64 }
}

struct MatchDetection;

impl Process for MatchDetection {
    type State = Pair;
    type Row<'a> = Swipe<'a>;
    type Output = Match;

    fn on_row(pair: &mut Pair, swipe: Swipe<'_>, context: &mut Context<Match>) -> Result<(), Refusal> {
        if pair.swipe(&swipe) {
            context.emit(Match {
                swiper: swipe.user_id.into(),
                swipee: swipe.other_id.into(),
                ts: swipe.ts,
                #[cfg(feature = "v2")]
                waited_ms: [pair.low_at, pair.high_at].iter().flatten().map(|at| swipe.ts.0 - at.0).max().unwrap_or(0),
            });
        }
        Ok(())
    }
}

struct CompletesMatch;

impl Process for CompletesMatch {
    type State = Pair;
    type Row<'a> = Swipe<'a>;
    type Output = Pass;

    fn on_row(pair: &mut Pair, swipe: Swipe<'_>, context: &mut Context<Pass>) -> Result<(), Refusal> {
        if pair.swipe(&swipe) {
            context.emit(Pass);
        }
        Ok(())
    }
}

plugin! {
    name: "match_detection",
    version: if cfg!(feature = "v2") { "1.1.0" } else { "1.0.0" },
    processes: [
        /// One row for each pair of people who like each other.
        match_detection: MatchDetection,
        /// Lets through the swipes that complete a match.
        completes_match: CompletesMatch,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::process::Job;

    fn swipe<'a>(user_id: &'a str, other_id: &'a str, like: bool, ts: i64) -> (&'static str, i64, Swipe<'a>) {
        ("pair", ts, Swipe { user_id, other_id, like, ts: Timestamp(ts) })
    }

    fn matches(swipes: &[(&str, i64, Swipe<'_>)]) -> Vec<(String, String, i64)> {
        let mut job = Job::<MatchDetection>::default();
        let mut all = Vec::new();
        for swipe in swipes {
            let given = job.rows(std::slice::from_ref(swipe)).expect("taken");
            all.extend(given.rows::<Match>("results").into_iter().map(|(_, m)| (m.swiper, m.swipee, m.ts.0)));
        }
        let at_once = Job::<MatchDetection>::default().rows(swipes).expect("taken").rows::<Match>("results");
        assert_eq!(at_once.len(), all.len(), "the same, however rows are cut into calls");
        all
    }

    #[test]
    fn the_second_like_makes_one_match() {
        let found = matches(&[swipe("b", "a", true, 1), swipe("a", "b", true, 2), swipe("b", "a", true, 3), swipe("a", "b", true, 4)]);
        assert_eq!(found, [("a".into(), "b".into(), 2)]);
    }

    #[test]
    fn a_nope_takes_a_like_back_but_no_match() {
        assert!(matches(&[swipe("a", "b", true, 1), swipe("a", "b", false, 2), swipe("b", "a", true, 3)]).is_empty());
        let found = matches(&[swipe("a", "b", true, 1), swipe("a", "b", false, 2), swipe("b", "a", true, 3), swipe("a", "b", true, 4)]);
        assert_eq!(found, [("a".into(), "b".into(), 4)]);
    }

    #[test]
    fn duplicates_and_late_swipes_do_no_harm() {
        // The nope of 1 came after the like of 2; the like came twice.
        let found = matches(&[swipe("a", "b", true, 2), swipe("a", "b", false, 1), swipe("a", "b", true, 2), swipe("b", "a", true, 5)]);
        assert_eq!(found, [("b".into(), "a".into(), 5)]);
    }

    #[test]
    fn the_filter_lets_the_completing_swipe_through() {
        let swipes = [swipe("a", "b", true, 1), swipe("b", "a", true, 2), swipe("a", "b", true, 3)];
        assert_eq!(Job::<CompletesMatch>::default().rows(&swipes).expect("taken").passed(), [1]);
    }
}
