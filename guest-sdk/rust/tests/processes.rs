//! Keyed processes natively: state, timers, outputs, what is refused; and the pattern helper against a matcher by brute force.

use kindling_guest::pattern::{Matcher, Sequence, Skip, Step, step};
use kindling_guest::testing::Random;
use kindling_guest::testing::process::Job;
use kindling_guest::{Context, Pass, Process, Refusal, Timestamp, output, outputs, plugin, row, state};

row! {
    /// Something that a key did.
    struct Act<'a> { what: &'a str, amount: Option<i64> }
}
output! { struct Sum { total: i64, at: Timestamp } }
output! { struct Quiet { since: Timestamp } }
outputs! { enum Said { Sum as "sums", Quiet as "quiet" } }
state! {
    #[derive(Default)]
    struct Account { total: i64, last: Option<Timestamp> }
}

struct Accounts;

impl Process for Accounts {
    type State = Account;
    type Row<'a> = Act<'a>;
    type Output = Said;

    fn on_row(account: &mut Account, row: Act<'_>, context: &mut Context<Said>) -> Result<(), Refusal> {
        match row.what {
            "add" => account.total += row.amount.unwrap_or(1),
            "say" => context.emit(Sum { total: account.total, at: context.time() }),
            "forget" => context.clear(),
            "wake" => context.set_processing_timer(Timestamp(context.now().0 + 5)),
            "loop" => context.set_timer(Timestamp(i64::MIN)),
            other => return Err(format!("`{other}` is unknown").into()),
        }
        if row.what == "add" {
            if let Some(last) = account.last.replace(context.time()) {
                context.clear_timer(Timestamp(last.0 + 10));
            }
            context.set_timer(Timestamp(context.time().0 + 10));
        }
        Ok(())
    }

    fn on_timer(account: &mut Account, context: &mut Context<Said>) -> Result<(), Refusal> {
        if context.time() == Timestamp(i64::MIN) {
            context.set_timer(Timestamp(i64::MIN));
        } else if context.is_processing_timer() {
            context.emit(Sum { total: -account.total, at: context.time() });
        } else {
            context.emit(Quiet { since: Timestamp(context.time().0 - 10) });
        }
        Ok(())
    }
}

state! {
    #[derive(Default)]
    struct Seen { before: bool }
}

struct First;

impl Process for First {
    type State = Seen;
    type Row<'a> = Act<'a>;
    type Output = Pass;
    fn on_row(seen: &mut Seen, _: Act<'_>, context: &mut Context<Pass>) -> Result<(), Refusal> {
        if !std::mem::replace(&mut seen.before, true) {
            context.emit(Pass);
        }
        Ok(())
    }
}

plugin! {
    name: "accounts",
    version: "1.0.0",
    processes: [
        /// Sums by key.
        account: Accounts,
        first: First,
    ],
}

fn act(what: &str) -> Act<'_> {
    Act { what, amount: None }
}

fn add(amount: i64) -> Act<'static> {
    Act { what: "add", amount: Some(amount) }
}

#[test]
fn what_a_plugin_says_of_its_processes() {
    let described = plugin().describe();
    assert_eq!((described.name.as_str(), described.version.as_str()), ("accounts", "1.0.0"));
    let account = &described.processes[0];
    assert_eq!((account.name.as_str(), account.doc.as_str()), ("account", "Sums by key."));
    let arguments: Vec<_> = account.arguments.iter().map(|a| (a.name.as_str(), a.nullable)).collect();
    assert_eq!(arguments, [("what", false), ("amount", true)]);
    assert_eq!(account.state.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["total", "last"]);
    assert_eq!(account.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["sums", "quiet"]);
    assert!(described.processes[1].outputs[0].passes);
}

#[test]
fn states_and_timers_are_kept_by_key() {
    let mut job = Job::<Accounts>::default();
    job.rows(&[("a", 1, add(2)), ("b", 2, add(5)), ("a", 3, add(4))]).expect("taken");
    let given = job.rows(&[("b", 4, act("say")), ("a", 5, act("say"))]).expect("taken");
    let sum = |total, at| Sum { total, at: Timestamp(at) };
    assert_eq!(given.rows::<Sum>("sums"), [("a".into(), sum(6, 5)), ("b".into(), sum(5, 4))]);
    assert!(given.rows::<Quiet>("quiet").is_empty());
    // a was last added to at 3, b at 2; the timer of 1 was taken back.
    let quiet = |since| Quiet { since: Timestamp(since) };
    assert_eq!(job.watermark(12).expect("fires").rows::<Quiet>("quiet"), [("b".into(), quiet(2))]);
    assert_eq!(job.watermark(13).expect("fires").rows::<Quiet>("quiet"), [("a".into(), quiet(3))]);
    assert!(job.watermark(100).expect("fires").rows::<Quiet>("quiet").is_empty());
    job.rows(&[("a", 101, act("forget"))]).expect("taken");
    assert_eq!(job.known(), ["b"]);
    assert_eq!(job.rows(&[("a", 102, act("say"))]).expect("taken").rows::<Sum>("sums"), [("a".into(), sum(0, 102))]);
    job.rows(&[("b", 103, act("wake"))]).expect("taken");
    assert!(job.now(4).expect("nothing").rows::<Sum>("sums").is_empty());
    assert_eq!(job.now(5).expect("fires").rows::<Sum>("sums"), [("b".into(), sum(-5, 5))]);
}

#[test]
fn a_timer_that_is_set_within_a_call_fires_before_the_next_row_that_is_behind_it() {
    let mut job = Job::<Accounts>::default();
    job.watermark(50).expect("nothing");
    // The row came late: its timer of 20 is due at once, before the row that follows.
    let given = job.rows(&[("a", 10, add(1)), ("a", 60, act("say"))]).expect("taken");
    assert_eq!(given.rows::<Quiet>("quiet"), [("a".into(), Quiet { since: Timestamp(10) })]);
}

#[test]
fn what_is_refused_has_changed_nothing() {
    let mut job = Job::<Accounts>::default();
    job.rows(&[("a", 1, add(2))]).expect("taken");
    let failure = job.rows(&[("a", 2, add(3)), ("a", 3, act("jump"))]).err().expect("refused");
    assert_eq!((failure.message.as_str(), failure.row), ("`jump` is unknown", Some(1)));
    let failure = job.rows(&[("a", 2, act("loop"))]).err().expect("refused");
    assert!(failure.message.contains("without end") && failure.row.is_none(), "{failure:?}");
    let given = job.rows(&[("a", 4, act("say"))]).expect("taken");
    assert_eq!(given.rows::<Sum>("sums"), [("a".into(), Sum { total: 2, at: Timestamp(4) })]);
}

#[test]
fn a_filter_that_remembers() {
    let mut job = Job::<First>::default();
    let given = job.rows(&[("b", 1, act("x")), ("a", 2, act("x")), ("b", 3, act("x")), ("c", 4, act("x"))]).expect("taken");
    assert_eq!(given.passed(), [0, 1, 3]);
    assert!(job.rows(&[("a", 5, act("x"))]).expect("taken").passed().is_empty());
}

row! { struct Letter<'a> { kind: &'a str } }
output! { struct Found { times: String } }

/// a, then b with no x between, then c; within 20.
struct Abc<const OVERLAP: bool>;

impl<const OVERLAP: bool> Sequence for Abc<OVERLAP> {
    type Row<'a> = Letter<'a>;
    type Event = String;
    type Output = Found;
    const NAME: &'static str = "abc";
    const WITHIN_MS: i64 = 20;
    const SKIP: Skip = if OVERLAP { Skip::ToNext } else { Skip::PastLast };
    const STEPS: &'static [Step<String>] =
        &[step(|e, _| e == "a"), step(|e: &String, _| e == "b").without(|e, _| e == "x"), step(|e, seen| e == "c" && seen.len() == 2)];

    fn event(row: Letter<'_>, _: Timestamp) -> Option<String> {
        Some(row.kind.to_owned())
    }

    fn found(events: &[(Timestamp, String)]) -> Found {
        Found { times: events.iter().map(|(time, _)| time.0.to_string()).collect::<Vec<_>>().join(",") }
    }
}

/// Where a match that begins at `from` ends, and the times of its events.
fn by_hand(events: &[(i64, &str)], from: usize) -> Option<(usize, Vec<i64>)> {
    let mut times = vec![events[from].0];
    for (at, (time, kind)) in events.iter().enumerate().skip(from + 1) {
        if time - times[0] > 20 || (times.len() == 1 && *kind == "x") {
            return None;
        }
        if *kind == ["b", "c"][times.len() - 1] {
            times.push(*time);
            if times.len() == 3 {
                return Some((at, times));
            }
        }
    }
    None
}

fn brute_force(events: &[(i64, &str)], overlap: bool) -> Vec<String> {
    let all: Vec<_> = (0..events.len()).filter(|i| events[*i].1 == "a").filter_map(|i| Some((i, by_hand(events, i)?))).collect();
    let mut found: Vec<(usize, usize, Vec<i64>)> = Vec::new();
    if overlap {
        found = all.into_iter().map(|(from, (to, times))| (to, from, times)).collect();
        found.sort();
    } else {
        let mut next = 0;
        while let Some((from, (to, times))) = all.iter().filter(|(from, _)| *from >= next).min_by_key(|(from, (to, _))| (*to, *from)) {
            found.push((*to, *from, times.clone()));
            next = to + 1;
        }
    }
    let text = |times: Vec<i64>| times.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    found.into_iter().map(|(_, _, times)| text(times)).collect()
}

fn matches<const OVERLAP: bool>(events: &[(i64, &str)], random: &mut Random) -> Vec<String> {
    let mut job = Job::<Matcher<Abc<OVERLAP>>>::default();
    let (mut found, mut rest) = (Vec::new(), events);
    while !rest.is_empty() {
        let (some, after) = rest.split_at(1 + random.below(rest.len()));
        let rows: Vec<_> = some.iter().map(|(time, kind)| ("k", *time, Letter { kind })).collect();
        found.extend(job.rows(&rows).expect("taken").rows::<Found>("results"));
        // Rows are in order of time here, so that the watermark may follow them.
        if random.below(2) == 0 {
            job.watermark(some[some.len() - 1].0).expect("fires");
        }
        rest = after;
    }
    job.watermark(i64::MAX).expect("fires");
    assert!(job.known().is_empty(), "what can't be completed is forgotten");
    found.into_iter().map(|(_, found)| found.times).collect()
}

#[test]
fn the_matcher_finds_what_a_search_by_brute_force_finds() {
    let mut several = 0;
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let mut time = 0;
        let events: Vec<(i64, &str)> = (0..random.below(40))
            .map(|_| {
                time += random.below(5) as i64;
                (time, ["a", "b", "c", "x", "y"][random.below(if seed % 2 == 0 { 3 } else { 5 })])
            })
            .collect();
        let (apart, overlapping) = (brute_force(&events, false), brute_force(&events, true));
        assert_eq!(matches::<false>(&events, &mut random), apart, "seed {seed}: {events:?}");
        assert_eq!(matches::<true>(&events, &mut random), overlapping, "seed {seed}: {events:?}");
        several += usize::from(overlapping.len() > apart.len() && apart.len() > 1);
    }
    assert!(several > 100, "{several} inputs tell the two ways to skip apart");
}
