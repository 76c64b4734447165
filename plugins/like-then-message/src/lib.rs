//! A like, then a message from the other within a day, and no unmatch between: a talk that began with a like.
//!
//! Keyed by the pair: `keyBy: ["least(fromId, toId)", "greatest(fromId, toId)"]`.

use kindling_guest::pattern::{Matcher, Sequence, Step, step};
use kindling_guest::{Timestamp, output, plugin, row};
use serde::{Deserialize, Serialize};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

row! {
    /// Something that `from_id` did to `to_id`.
    struct Act<'a> { kind: &'a str, from_id: &'a str, to_id: &'a str }
}

output! {
    /// `liker` liked, and `writer` wrote back.
    struct Talk { liker: String, writer: String, liked_at: Timestamp, wrote_at: Timestamp }
}

#[derive(Clone, Serialize, Deserialize)]
struct Event {
    kind: String,
    from: String,
}

struct LikeThenMessage;

impl Sequence for LikeThenMessage {
    type Row<'a> = Act<'a>;
    type Event = Event;
    type Output = Talk;
    const NAME: &'static str = "like_then_message";
    const WITHIN_MS: i64 = DAY_MS;
    const STEPS: &'static [Step<Event>] = &[
        step(|e: &Event, _| e.kind == "like"),
        step(|e: &Event, seen: &[Event]| e.kind == "message" && e.from != seen[0].from).without(|e, _| e.kind == "unmatch"),
    ];

    fn event(row: Act<'_>, _: Timestamp) -> Option<Event> {
        ["like", "message", "unmatch"].contains(&row.kind).then(|| Event { kind: row.kind.into(), from: row.from_id.into() })
    }

    fn found(events: &[(Timestamp, Event)]) -> Talk {
        let [(liked_at, like), (wrote_at, message)] = events else { unreachable!("a match has two steps") };
        Talk { liker: like.from.clone(), writer: message.from.clone(), liked_at: *liked_at, wrote_at: *wrote_at }
    }
}

plugin! {
    name: "like_then_message",
    version: env!("CARGO_PKG_VERSION"),
    processes: [
        /// A like that was answered by a message within a day.
        like_then_message: Matcher<LikeThenMessage>,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::process::Job;

    fn talks(acts: &[(i64, &str, &str)]) -> Vec<(String, i64, i64)> {
        let mut job = Job::<Matcher<LikeThenMessage>>::default();
        let rows: Vec<_> = acts.iter().map(|(time, kind, from_id)| ("pair", *time, Act { kind, from_id, to_id: "" })).collect();
        let given = job.rows(&rows).expect("taken");
        given.rows::<Talk>("results").into_iter().map(|(_, t)| (t.writer, t.liked_at.0, t.wrote_at.0)).collect()
    }

    #[test]
    fn an_answer_within_a_day() {
        assert_eq!(talks(&[(0, "like", "a"), (1, "visit", "b"), (DAY_MS, "message", "b")]), [("b".into(), 0, DAY_MS)]);
        assert!(talks(&[(0, "like", "a"), (DAY_MS + 1, "message", "b")]).is_empty());
        assert!(talks(&[(0, "like", "a"), (5, "message", "a")]).is_empty(), "one's own message is no answer");
        assert!(talks(&[(0, "like", "a"), (5, "unmatch", "b"), (6, "message", "b")]).is_empty());
    }
}
