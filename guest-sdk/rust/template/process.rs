//! Plugin `{{name}}`: the second of two likes between two people makes a match; a start for a keyed process of your own.
//!
//! Timers, several outputs and sequences are in `kindling-guest/README.md`.

use kindling_guest::{Context, Process, Refusal, Timestamp, output, plugin, row, state};

// The columns it reads, by name; what is stored of a pair; the rows it gives.
row! { struct Swipe<'a> { user_id: &'a str, other_id: &'a str, like: bool, ts: Timestamp } }
state! { #[derive(Default)] struct Pair { low_likes: bool, high_likes: bool, is_match: bool } }
output! { struct Match { swiper: String, swipee: String, ts: Timestamp } }

struct MatchDetector;

impl Process for MatchDetector {
    type State = Pair;
    type Row<'a> = Swipe<'a>;
    type Output = Match;

    fn on_row(pair: &mut Pair, swipe: Swipe<'_>, context: &mut Context<Match>) -> Result<(), Refusal> {
        let (own, other) = if swipe.user_id < swipe.other_id {
            (&mut pair.low_likes, pair.high_likes)
        } else {
            (&mut pair.high_likes, pair.low_likes)
        };
        *own = swipe.like;
        if swipe.like && other && !std::mem::replace(&mut pair.is_match, true) {
            context.emit(Match { swiper: swipe.user_id.into(), swipee: swipe.other_id.into(), ts: swipe.ts });
        }
        Ok(())
    }
}

plugin! { name: "{{name}}", version: env!("CARGO_PKG_VERSION"), processes: [{{name}}: MatchDetector] }

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::process::Job;

    fn matches(swipes: &[(&'static str, &'static str, bool)]) -> Vec<(String, String)> {
        let mut job = Job::<MatchDetector>::default();
        let swipe = |(at, (user_id, other_id, like)): (usize, &(&'static str, &'static str, bool))| {
            let ts = at as i64;
            ("pair", ts, Swipe { user_id, other_id, like: *like, ts: Timestamp(ts) })
        };
        let rows: Vec<_> = swipes.iter().enumerate().map(swipe).collect();
        let given = job.rows(&rows).expect("taken");
        given.rows::<Match>("results").into_iter().map(|(_, m)| (m.swiper, m.swipee)).collect()
    }

    #[test]
    fn the_second_like_makes_one_match() {
        assert_eq!(matches(&[("b", "a", true), ("a", "b", true), ("b", "a", true)]), [("a".into(), "b".into())]);
    }

    #[test]
    fn a_nope_takes_a_like_back() {
        assert!(matches(&[("a", "b", true), ("a", "b", false), ("b", "a", true)]).is_empty());
    }
}
