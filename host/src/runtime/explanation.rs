//! A [`Why`] in sentences: which partition holds the watermark back, at which offset, since when, and what would unblock it.

use crate::runtime::status::Phase;
use crate::runtime::why::{OperatorLateness, PartitionWhy, Why};
use crate::time::{format_duration, format_span, write_rfc3339};
use std::time::Duration;

/// An epoch that takes longer than this is worth a word.
const STUCK_MS: i64 = 5_000;
/// A watermark that moved within this moves.
const MOVES_MS: i64 = 2_000;
/// A lead of the furthest partition over the one that holds the watermark that is worth a word.
const FAR_AHEAD_MS: i64 = 3_600_000;
/// Partitions that a sentence names.
const NAMED: usize = 5;

/// What there is to say, the most important first.
pub(super) fn sentences(why: &Why, phase: &Phase) -> Vec<String> {
    let mut say = Vec::new();
    job(why, phase, &mut say);
    if why.settings.out_of_orderness_ms.is_none() {
        say.push("The pipeline has no window: nothing in it waits for a watermark.".into());
        return say;
    }
    if why.partitions.is_empty() {
        return say;
    }
    match why.held_back_by.map(|i| &why.partitions[i]) {
        Some(partition) => {
            holder(why, partition, &mut say);
            say.push(way_out(why, partition));
            others(why, partition, &mut say);
        }
        None => nobody(why, &mut say),
    }
    lateness(why, &mut say);
    say
}

/// `2026-01-31T23:59:59.123Z`
pub(super) fn at(ms: i64) -> String {
    let mut text = String::new();
    write_rfc3339(ms, &mut text);
    text
}

fn name(partition: &PartitionWhy) -> String {
    format!("{}/{}", partition.topic, partition.partition)
}

fn names(partitions: &[&PartitionWhy]) -> String {
    let shown: Vec<String> = partitions.iter().take(NAMED).map(|p| name(p)).collect();
    let more = partitions.len().saturating_sub(NAMED);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// What the job as a whole is at, where that is not its epochs.
fn job(why: &Why, phase: &Phase, say: &mut Vec<String>) {
    let span = format_span(why.phase_ms);
    match phase {
        Phase::Starting => say.push(format!("The job is being set up, since {span}.")),
        Phase::Restoring => say.push(format!("The job takes its state and offsets back from the last committed epoch, since {span}.")),
        Phase::BackingOff(reason) => say.push(format!(
            "An epoch could not be committed; the job goes back to the last committed one and tries again ({span} ago). {reason}"
        )),
        Phase::Committing if why.phase_ms >= STUCK_MS => say.push(format!(
            "The job waits for the commit of an epoch since {span}: the broker of its sink, or its disk, does not answer. Nothing moves until \
             then."
        )),
        Phase::Running | Phase::Committing => {
            if let Some(age) = why.epoch_age_ms.filter(|age| *age >= STUCK_MS) {
                say.push(format!("The last epoch was closed {} ago: the job is busy with a long one.", format_span(age)));
            }
        }
    }
}

fn holder(why: &Why, partition: &PartitionWhy, say: &mut Vec<String>) {
    let (name, position) = (name(partition), partition.position);
    let Some(watermark) = partition.watermark else {
        say.push(format!(
            "{name} holds the watermark back, at offset {position}: no row with an event time has come from it yet."
        ));
        return;
    };
    if partition.still_ms < MOVES_MS {
        say.push(format!(
            "Nothing is stuck: the watermark follows {name}, which is the furthest behind, at {} and offset {position}; it moved {} ago.",
            at(watermark),
            format_span(partition.still_ms)
        ));
    } else {
        say.push(format!(
            "{name} holds the watermark back, at offset {position}: its own is {} and has not moved for {} (since {}).",
            at(watermark),
            format_span(partition.still_ms),
            at(why.at - partition.still_ms)
        ));
    }
    if let Some(closed) = why.watermark.filter(|closed| *closed > watermark) {
        say.push(format!(
            "It was idle before: windows have been closed up to {} without it, so its rows of those are late, and the watermark waits until \
             it is past that.",
            at(closed)
        ));
    }
}

/// What would let the watermark go on.
fn way_out(why: &Why, partition: &PartitionWhy) -> String {
    let idle_after = why.settings.idle_after_ms;
    let moves = match (partition.watermark, why.settings.out_of_orderness_ms) {
        (Some(watermark), Some(behind)) => format!("a record with an event time after {}", at(watermark.saturating_add(behind))),
        _ => "a record with an event time".to_owned(),
    };
    if let Some(end) = partition.unread_end {
        return format!(
            "All that may be read of it was read, but the broker says that it ends at offset {end}: records of a transaction that is still \
             open, or on their way. It is not idle; it goes on when the transaction ends."
        );
    }
    if let Some(at_end) = partition.at_end_ms {
        let last = partition.record_age_ms.map_or_else(
            || "no record of it has come since the job started".to_owned(),
            |age| format!("its last record came {} ago", format_span(age)),
        );
        if at_end > idle_after + STUCK_MS {
            return format!(
                "It stands at what was its end {} ago, longer than idleAfter ({}), but the broker that leads it does not say that this is still \
                 its end: records may be waiting. It goes on when that broker answers.",
                format_span(at_end),
                format_span(idle_after)
            );
        }
        return format!(
            "It stands at its end, and {last}. In {} it is idle (idleAfter is {}) and holds nobody back; or {moves} moves it.",
            format_span((idle_after - at_end).max(0)),
            format_span(idle_after)
        );
    }
    let stale = partition.record_age_ms.is_none_or(|age| age >= STUCK_MS);
    match partition.lag {
        Some(lag) if lag > 0 && stale => format!(
            "{lag} records of it wait on the broker, and none has come{}: is the broker that leads it reachable?",
            partition.record_age_ms.map_or_else(String::new, |age| format!(" for {}", format_span(age)))
        ),
        Some(lag) if lag > 0 => {
            let rate = partition.rows_per_second;
            let left = if rate >= 1.0 {
                format!(", about {} left", format_span((lag as f64 / rate * 1e3) as i64))
            } else {
                String::new()
            };
            let still = if partition.still_ms >= MOVES_MS {
                format!(" Its rows move the watermark no more, though: what moves it is {moves}.")
            } else {
                String::new()
            };
            format!("It is being read: {lag} records behind its end, {rate} a second{left}.{still}")
        }
        _ if partition.still_ms >= MOVES_MS => format!("Its records are read as they come; what moves it is {moves}."),
        _ => "Its records are read as they come.".into(),
    }
}

/// What the holder does to the others, and who does not count.
fn others(why: &Why, holder: &PartitionWhy, say: &mut Vec<String>) {
    let waiting: Vec<&PartitionWhy> = why.partitions.iter().filter(|p| p.state == "waiting").collect();
    if !waiting.is_empty() {
        let drift = format_span(why.settings.max_drift_ms.unwrap_or(0));
        say.push(format!(
            "For it wait {}: more than maxDrift ({drift}) ahead, they are not read until it comes near.",
            names(&waiting)
        ));
    } else if let (Some(least), Some(most)) = (holder.watermark, why.partitions.iter().filter_map(|p| p.watermark).max()) {
        let ahead = most.saturating_sub(least);
        if ahead >= FAR_AHEAD_MS && why.settings.max_drift_ms.is_none() {
            say.push(format!(
                "The furthest partition is {} ahead of it, and all windows in between stay open. `maxDrift: 1.hour` among the source's parameters \
                 would make such partitions wait.",
                format_span(ahead)
            ));
        }
    }
    let idle: Vec<&PartitionWhy> = why.partitions.iter().filter(|p| p.state == "idle").collect();
    if !idle.is_empty() {
        say.push(format!("Idle, so that nobody waits for them: {}.", names(&idle)));
    }
}

/// All are idle or finished.
fn nobody(why: &Why, say: &mut Vec<String>) {
    if why.partitions.iter().all(|p| p.state == "finished") {
        say.push("The input has ended; all windows close.".into());
        return;
    }
    let idle_after = format_span(why.settings.idle_after_ms);
    say.push(match why.partitions.iter().filter(|p| p.state == "idle").filter_map(|p| p.watermark).max() {
        Some(greatest) => format!(
            "No partition holds the watermark back: all have stood at their end for idleAfter ({idle_after}). It stands at the greatest of \
             them, {}; the next record with a later event time moves it. Windows that end after it stay open until then.",
            at(greatest)
        ),
        None => format!("All partitions have stood at their end for idleAfter ({idle_after}), and no row with an event time has come."),
    });
}

/// Of the rows that come in, and of the results that later operators are given.
fn lateness(why: &Why, say: &mut Vec<String>) {
    let operators = why.lateness.operators.iter().enumerate();
    say.extend(operators.filter_map(|(place, operator)| how_late(operator, place == 0)));
}

fn how_late(operator: &OperatorLateness, is_first: bool) -> Option<String> {
    let seen = &operator.rows;
    let (keeps_99, keeps_999) = (seen.keeps_99?, seen.keeps_999?);
    let (place, what) =
        if is_first { (String::new(), "rows") } else { (format!("{}, behind it: ", operator.operator), "results") };
    if seen.behind == 0 {
        return Some(format!("{place}Of {} {what} none came behind the watermark.", seen.rows));
    }
    let share = seen.behind as f64 / seen.rows as f64 * 100.0;
    let max = format_span(seen.max_ms);
    let (late, way_out) = match operator.allowed_lateness_ms {
        Some(allowed) => (
            format!("{} were late for all their windows (allowedLateness is {})", seen.late, span(allowed)),
            format!(
                "An allowedLateness of {} would have kept 99 % of all {what} for certain, {} 99.9 %.",
                span(keeps_99),
                span(keeps_999)
            ),
        ),
        None => (
            format!("{} were set aside as late", seen.late),
            format!(
                "A watermark {} longer would have 99 % of all {what} on time, {} longer 99.9 %.",
                span(keeps_99),
                span(keeps_999)
            ),
        ),
    };
    Some(format!(
        "{place}Of {} {what} {} ({share:.2} %) came behind the watermark, by {max} at most; {late}. {way_out}",
        seen.rows, seen.behind
    ))
}

/// As it would be written in a pipeline: never less, and above ten seconds in whole ones.
fn span(ms: i64) -> String {
    let ms = if ms > 10_000 { ms.saturating_add(999) / 1_000 * 1_000 } else { ms };
    if ms == 0 { "0s".into() } else { format_duration(Duration::from_millis(ms.unsigned_abs())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::why::{LatenessWhy, RowsBehind, Settings};

    fn partition(number: i32, state: &str, watermark: Option<i64>) -> PartitionWhy {
        PartitionWhy {
            topic: "t".into(),
            partition: number,
            position: 70,
            watermark,
            state: state.into(),
            still_ms: 61_000,
            record_age_ms: Some(62_000),
            ..PartitionWhy::default()
        }
    }

    /// A job at 1970-01-01T01:00:00Z with a window, an out-of-orderness of 2 s and idleAfter of 5 s.
    fn told(partitions: Vec<PartitionWhy>, held_back_by: Option<usize>, phase: Phase) -> String {
        let settings = Settings { out_of_orderness_ms: Some(2_000), idle_after_ms: 5_000, ..Settings::default() };
        let why = Why { at: 3_600_000, partitions, held_back_by, settings, ..Why::default() };
        sentences(&why, &phase).join("\n")
    }

    fn check(text: &str, wanted: &[&str]) {
        for part in wanted {
            assert!(text.contains(part), "`{part}` is missing in\n{text}");
        }
    }

    #[test]
    fn a_partition_at_its_end() {
        let holder = PartitionWhy { at_end_ms: Some(2_000), lag: Some(0), ..partition(3, "at end", Some(100_000)) };
        let text = told(vec![partition(0, "reading", Some(200_000)), holder], Some(1), Phase::Running);
        check(
            &text,
            &[
                "t/3 holds the watermark back, at offset 70: its own is 1970-01-01T00:01:40.000Z and has not moved for 1m1s (since \
                 1970-01-01T00:58:59.000Z)",
                "its last record came 1m2s ago. In 3s it is idle (idleAfter is 5s)",
                "a record with an event time after 1970-01-01T00:01:42.000Z moves it",
            ],
        );
    }

    #[test]
    fn what_the_broker_says_or_does_not() {
        let silent = PartitionWhy { at_end_ms: Some(11_000), ..partition(3, "at end", Some(1)) };
        check(&told(vec![silent], Some(0), Phase::Running), &["does not say that this is still its end"]);
        let open = PartitionWhy { at_end_ms: Some(11_000), unread_end: Some(72), ..partition(3, "at end", Some(1)) };
        check(&told(vec![open], Some(0), Phase::Running), &["it ends at offset 72", "a transaction that is still open"]);
        let away = PartitionWhy { lag: Some(9), ..partition(3, "reading", Some(1)) };
        check(&told(vec![away], Some(0), Phase::Running), &["9 records of it wait on the broker, and none has come for 1m2s"]);
    }

    #[test]
    fn who_is_read_and_who_waits() {
        let read = PartitionWhy {
            lag: Some(6_000),
            rows_per_second: 100.0,
            record_age_ms: Some(5),
            still_ms: 10,
            ..partition(3, "reading", Some(1))
        };
        let text =
            told(vec![read.clone(), partition(1, "waiting", Some(9)), partition(2, "idle", Some(0))], Some(0), Phase::Running);
        check(
            &text,
            &[
                "Nothing is stuck: the watermark follows t/3",
                "6000 records behind its end, 100 a second, about 1m left",
                "For it wait t/1",
                "nobody waits for them: t/2",
            ],
        );
        let ahead = told(vec![read, partition(1, "reading", Some(9_000_000))], Some(0), Phase::Running);
        check(&ahead, &["The furthest partition is 2h29m ahead of it", "maxDrift"]);
    }

    #[test]
    fn nobody_holds_it_back() {
        let idle = vec![partition(0, "idle", Some(4_000)), partition(1, "idle", Some(9_000)), partition(2, "idle", None)];
        check(
            &told(idle, None, Phase::Running),
            &["all have stood at their end", "the greatest of them, 1970-01-01T00:00:09.000Z"],
        );
        check(&told(vec![partition(0, "idle", None)], None, Phase::Running), &["no row with an event time has come"]);
        check(&told(vec![partition(0, "finished", Some(1))], None, Phase::Running), &["The input has ended"]);
        check(
            &told(vec![partition(0, "reading", None)], Some(0), Phase::Running),
            &["no row with an event time has come from it yet"],
        );
    }

    #[test]
    fn a_job_that_waits_for_something_else() {
        check(&told(Vec::new(), None, Phase::Restoring), &["takes its state and offsets back"]);
        check(&told(Vec::new(), None, Phase::BackingOff("no broker".into())), &["tries again", "no broker"]);
        let settings = Settings { out_of_orderness_ms: Some(0), ..Settings::default() };
        let stuck = Why { phase_ms: 65_000, settings, ..Why::default() };
        check(&sentences(&stuck, &Phase::Committing).join(" "), &["waits for the commit of an epoch since 1m5s"]);
        let busy = Why { epoch_age_ms: Some(7_000), settings, ..Why::default() };
        check(&sentences(&busy, &Phase::Running).join(" "), &["The last epoch was closed 7s ago"]);
        assert!(sentences(&Why::default(), &Phase::Running).join(" ").contains("has no window"));
    }

    #[test]
    fn lateness_says_what_to_write() {
        let rows = RowsBehind {
            rows: 10_000,
            behind: 200,
            late: 120,
            max_ms: 100_001,
            keeps_99: Some(3_000),
            keeps_999: Some(100_001),
            buckets: Vec::new(),
        };
        let operator = |name: &str, allowed_lateness_ms, rows: &RowsBehind| OperatorLateness {
            operator: name.into(),
            allowed_lateness_ms,
            rows: rows.clone(),
            ..OperatorLateness::default()
        };
        let on_time = RowsBehind { rows: 7, keeps_99: Some(0), keeps_999: Some(0), ..RowsBehind::default() };
        let none = RowsBehind::default();
        let operators = vec![
            operator("first", Some(0), &rows),
            operator("second", None, &rows),
            operator("third", Some(2_000), &rows),
            operator("fourth", Some(0), &on_time),
            operator("fifth", Some(0), &none),
        ];
        let lateness = LatenessWhy { rows, operators };
        let settings = Settings { out_of_orderness_ms: Some(0), ..Settings::default() };
        let partitions = vec![partition(0, "reading", Some(1))];
        let why = Why { lateness, settings, partitions, held_back_by: Some(0), ..Why::default() };
        let told = sentences(&why, &Phase::Running);
        let text = told.join("\n");
        check(
            &text,
            &[
                "\nOf 10000 rows 200 (2.00 %) came behind the watermark, by 1m40s at most; 120 were late",
                "(allowedLateness is 0s). An allowedLateness of 3s would have kept 99 % of all rows for certain, 1m41s 99.9 %.",
                "\nsecond, behind it: Of 10000 results 200 (2.00 %) came behind",
                "120 were set aside as late. A watermark 3s longer would have 99 % of all results on time, 1m41s longer 99.9 %.",
                "\nthird, behind it: Of 10000 results 200",
                "(allowedLateness is 2s). An allowedLateness of 3s would have kept 99 % of all results",
                "\nfourth, behind it: Of 7 results none came behind the watermark.",
            ],
        );
        assert!(!text.contains("fifth"), "{text}");
    }
}
