//! Watermarks on the real broker: idle by the broker's word, alignment, what survives a restart, and `kindling why` about all of it.

mod support;

use kindling::config::{self, LoadOptions};
use kindling::limits::{GuestLimits, JobLimits};
use kindling::runtime::job::{self, Control, End};
use kindling::runtime::setup::{SetupOptions, set_up};
use kindling::runtime::why::Why;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use support::*;

/// Event time of second 0; any past time does.
const START: i64 = 1_760_000_000_000;
const PATIENCE: Duration = Duration::from_secs(30);

fn pipeline(name: &str, topic: &str, source: &str, window: &str) -> String {
    let brokers = format!("brokers: '{}'", brokers());
    format!(
        "
name: {name}
source: {{ name: kafka, parameters: {{ {brokers}, topic: {topic}, {source} }} }}
pipeline:
  - operation: parse
    parse:
      parameters:
        - {{ jsonPath: st, outputType: milliToTimestamp, outputCol: st }}
        - {{ jsonPath: k, outputType: long, outputCol: k }}
  - operation: window_aggregate
    window: {{ timestampColumn: st, duration: {window} }}
    groupByKeys: [k]
    aggregations:
      - {{ reducer: count, outputColumn: count }}
timestampFormat: millis
sink: {{ name: kafka, parameters: {{ {brokers}, topic: {name}-out }} }}
sideOutputs:
  late: {{ name: kafka, parameters: {{ {brokers}, topic: {name}-late }} }}
  rejects: {{ name: kafka, parameters: {{ {brokers}, topic: {name}-rejects }} }}
"
    )
}

/// Sends events of these seconds to a partition.
fn events_at(topic: &str, partition: usize, seconds: &[i64]) {
    let producer = producer();
    for second in seconds {
        send(&producer, topic, partition, format!(r#"{{"st":{},"k":1}}"#, START + second * 1_000).as_bytes());
    }
    producer.flush(PATIENCE).expect("delivered");
}

fn kindling(dir: &Path, args: &[&str]) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_kindling")).current_dir(dir).args(args).output().expect("kindling runs");
    let text = String::from_utf8_lossy(if out.status.success() { &out.stdout } else { &out.stderr }).into_owned();
    (out.status.success(), text)
}

/// Asks the job with `kindling why` until it says what is wanted.
fn why_when(job: &Job, name: &str, wanted: impl Fn(&Why) -> bool) -> Why {
    let started = Instant::now();
    loop {
        let (well, text) = kindling(job.dir.path(), &["why", name, "--data-dir", "data", "--json"]);
        let why: Option<Why> = well.then(|| serde_json::from_str(&text).expect("JSON"));
        match why {
            Some(why) if wanted(&why) => return why,
            _ => {}
        }
        assert!(started.elapsed() < PATIENCE, "it did not come to that: {text}\n{}", job.log_text());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn states(why: &Why) -> Vec<&str> {
    why.partitions.iter().map(|p| p.state.as_str()).collect()
}

fn start(job: &Job) -> Child {
    job.start(&["--metrics", "127.0.0.1:0"])
}

fn end(mut child: Child, signal: &str) {
    Command::new("kill").args([signal, &child.id().to_string()]).status().expect("signalled");
    child.wait().expect("it ends");
}

/// Seconds of window starts and counts, sorted.
fn results(topic: &str) -> Vec<(i64, i64)> {
    let row = |text: &String| {
        let row: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let number = |name: &str| row[name].as_i64().expect("a number");
        ((number("window_start") - START) / 1_000, number("count"))
    };
    let mut rows: Vec<(i64, i64)> = read_committed(topic).iter().map(row).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn why_says_who_holds_the_watermark_back_and_idle_partitions_let_it_go_on_over_a_restart() {
    let _alone = alone();
    let name = unique("why");
    create_topic(&name, 3);
    // Partition 2 never has a record; a single event of 2036 in partition 0.
    events_at(&name, 0, &[1, 11, 320_000_000, 100]);
    events_at(&name, 1, &[2, 20]);
    let job = Job::new(&pipeline(&name, &name, "idleAfter: 4.seconds", "10.seconds, watermark: 3.seconds"));
    let (well, text) = kindling(job.dir.path(), &["why", &name, "--data-dir", "data"]);
    assert!(!well && text.contains("no job has run there"), "{text}");
    let child = start(&job);
    let why = why_when(&job, &name, |w| states(w) == ["at end", "at end", "at end"]);
    assert_eq!((why.held_back_by, why.watermark), (Some(2), None), "{why:?}");
    let text = why.explanation.join("\n");
    assert!(text.contains(&format!("{name}/2 holds the watermark back, at offset 0: no row")), "{text}");
    assert!(text.contains("no record of it has come since the job started") && text.contains("idleAfter is 4s"), "{text}");
    assert_eq!((why.partitions[0].position, why.partitions[0].end, why.partitions[0].lag), (4, Some(4), Some(0)));
    assert_eq!(why.partitions[0].watermark, Some(START + 97_000), "the event of 2036 moves nothing");

    // All idle: the greatest counts.
    let closed = |w: &Why| w.windows.is_some_and(|open| open.panes == 1);
    let why = why_when(&job, &name, |w| states(w) == ["idle", "idle", "idle"] && w.watermark.is_some() && closed(w));
    assert_eq!((why.held_back_by, why.watermark), (None, Some(START + 97_000)));
    assert!(why.explanation.join("\n").contains("No partition holds the watermark back"), "{why:?}");
    let windows = why.windows.expect("a window");
    assert_eq!((windows.panes, windows.slots), (1, 1), "{windows:?}");
    let (well, text) = kindling(job.dir.path(), &["why", &name, "--data-dir", "data"]);
    assert!(well && text.contains("2025-10-09T08:54:57.000Z") && text.contains(&format!("{name}/1")), "{text}");

    // Killed inside the idle spell; what was closed stays closed, and everybody counts until idle again.
    end(child, "-KILL");
    let (well, text) = kindling(job.dir.path(), &["why", &name, "--data-dir", "data"]);
    assert!(!well && text.contains("has ended or does not answer"), "{text}");
    let child = start(&job);
    let why = why_when(&job, &name, |w| !w.partitions.is_empty());
    assert_eq!(why.watermark, Some(START + 97_000), "it never goes back");
    assert_eq!(
        why.partitions.iter().map(|p| p.watermark).collect::<Vec<_>>(),
        [Some(97), Some(17), None].map(|s| s.map(|s: i64| START + s * 1_000))
    );
    // Late for what was closed, and in time for what is open.
    events_at(&name, 2, &[15, 99]);
    events_at(&name, 1, &[98]);
    let why =
        why_when(&job, &name, |w| w.partitions[2].position == 2 && w.partitions[1].position == 3 && w.lateness.rows.rows == 3);
    let rows = &why.lateness.rows;
    assert_eq!((rows.behind, rows.late, rows.max_ms), (1, 1, 82_000), "{why:?}");
    assert_eq!((rows.keeps_99, why.watermark), (Some(82_000), Some(START + 97_000)));
    let [operator] = why.lateness.operators.as_slice() else { panic!("one operator: {why:?}") };
    let windows: Vec<_> = operator.windows.iter().map(|w| (w.start, w.rows, w.after_end, w.max_ms, w.keeps_99)).collect();
    // The row of second 15 came 77 s after its window had ended at 20.
    assert_eq!(
        windows,
        [(Some(START + 10_000), 1, 1, 77_001, Some(77_001)), (Some(START + 90_000), 2, 0, 0, Some(0))],
        "{operator:?}"
    );
    assert_eq!((operator.kind.as_str(), operator.older.is_none()), ("tumbling windows of 10s", true));
    assert_eq!(operator.windows[0].buckets, [(Some(90_000), 1)]);
    let (well, text) = kindling(job.dir.path(), &["why", &name, "--data-dir", "data"]);
    assert!(well && text.contains("rows came after the end of 1 of the last 2 windows") && text.contains("1m17s"), "{text}");
    end(child, "-TERM");
    let (well, text) = kindling(job.dir.path(), &["why", &name, "--data-dir", "data"]);
    assert!(!well && text.contains("is not running"), "{text}");
    job.run_to_end();
    assert_eq!(results(&format!("{name}-out")), [(0, 2), (10, 1), (20, 1), (90, 2), (100, 1)]);
    assert_eq!(read_committed(&format!("{name}-late")).len(), 1);
    let rejects = read_committed(&format!("{name}-rejects"));
    assert!(rejects.len() == 1 && rejects[0].contains("after its record's timestamp"), "{rejects:?}");
}

#[test]
fn a_partition_with_an_open_transaction_is_not_idle() {
    let _alone = alone();
    let name = unique("open");
    create_topic(&name, 2);
    events_at(&name, 0, &[1, 100]);
    events_at(&name, 1, &[2]);
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("transactional.id", unique("writer"));
    let writer: BaseProducer = config.create().expect("a producer");
    writer.init_transactions(PATIENCE).expect("ready");
    writer.begin_transaction().expect("begun");
    let value = format!(r#"{{"st":{},"k":1}}"#, START + 5_000);
    writer.send(BaseRecord::<[u8], [u8]>::to(&name).partition(1).payload(value.as_bytes())).expect("sent");
    // On the broker, and not committed.
    writer.flush(PATIENCE).expect("delivered");
    let job = Job::new(&pipeline(&name, &name, "idleAfter: 1.seconds", "10.seconds, watermark: 3.seconds"));
    let child = start(&job);
    let why = why_when(&job, &name, |w| w.partitions.get(1).is_some_and(|p| p.unread_end.is_some()));
    assert_eq!((states(&why), why.partitions[1].unread_end), (vec!["idle", "at end"], Some(2)), "{why:?}");
    assert_eq!((why.held_back_by, why.watermark), (Some(1), Some(START - 1_000)));
    assert!(why.explanation.join("\n").contains("records of a transaction that is still open"), "{why:?}");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(why_when(&job, &name, |_| true).watermark, Some(START - 1_000), "not after three times idleAfter either");
    writer.commit_transaction(PATIENCE).expect("committed");
    let why = why_when(&job, &name, |w| w.partitions[1].state == "idle");
    assert_eq!((why.lateness.rows.behind, why.watermark), (0, Some(START + 97_000)), "its row was on time: {why:?}");
    end(child, "-TERM");
    job.run_to_end();
    assert_eq!(results(&format!("{name}-out")), [(0, 3), (100, 1)]);
    assert_eq!(read_committed(&format!("{name}-late")).len(), 0);
}

#[test]
fn why_says_how_late_the_rows_of_a_later_operator_come() {
    let _alone = alone();
    let name = unique("later");
    create_topic(&name, 1);
    events_at(&name, 0, &[1, 100]);
    let outer = "  - operation: window_aggregate\n    name: outer\n    window: { timestampColumn: window_end, duration: 10.seconds, watermark: 0s }\n    \
                 groupByKeys: [k]\n    aggregations: [{ reducer: count, outputColumn: results }]\ntimestampFormat";
    // Each two rows of a key give a result, a millisecond after the later one.
    let text = pipeline(&name, &name, "idleAfter: 1.hour", "T, watermark: 0s")
        .replace("duration: T", "type: count, every: 2")
        .replace("    groupByKeys", "    ttl: 7.days\n    name: pairs\n    groupByKeys")
        .replace("timestampFormat", outer);
    let job = Job::new(&text);
    let child = start(&job);
    why_when(&job, &name, |w| w.watermark == Some(START + 100_000));
    // A pair that is older than what has been closed.
    events_at(&name, 0, &[3, 4]);
    let why = why_when(&job, &name, |w| w.lateness.operators.get(1).is_some_and(|outer| outer.rows.rows == 2));
    let [pairs, outer] = why.lateness.operators.as_slice() else { panic!("two operators: {why:?}") };
    assert_eq!(
        (&pairs.rows, pairs.windows.as_slice()),
        (&why.lateness.rows, [].as_slice()),
        "count windows wait for no watermark"
    );
    assert_eq!((pairs.rows.rows, pairs.rows.behind, pairs.rows.late), (4, 2, 0), "{pairs:?}");
    assert_eq!((outer.operator.as_str(), outer.kind.as_str()), ("outer", "tumbling windows of 10s"));
    let rows = &outer.rows;
    assert_eq!((rows.behind, rows.late, rows.max_ms, rows.keeps_99), (1, 1, 95_999, Some(95_999)), "{outer:?}");
    let windows: Vec<_> = outer.windows.iter().map(|w| (w.start, w.rows, w.after_end, w.max_ms, w.keeps_999)).collect();
    // The result of second 4 came 90 s after its window had ended at 10.
    assert_eq!(windows, [(Some(START), 1, 1, 90_001, Some(90_001)), (Some(START + 100_000), 1, 0, 0, Some(0))], "{outer:?}");
    let (well, text) = kindling(job.dir.path(), &["why", &name, "--data-dir", "data"]);
    for part in [
        "outer, behind it: Of 2 results 1 (50.00 %) came behind the watermark, by 1m35s at most; 1 were late for all their windows",
        "outer: behind the watermark by",
        "outer, tumbling windows of 10s: rows came after the end of 1 of the last 2 windows",
    ] {
        assert!(well && text.contains(part), "`{part}` is missing in\n{text}");
    }
    assert!(!text.contains("pairs, "), "nothing by window of count windows: {text}");
    end(child, "-TERM");
    assert_eq!(read_committed(&format!("{name}-late")).len(), 1);
}

/// A process that is stopped until this is dropped.
struct Stopped(String);

impl Stopped {
    fn new(process: String) -> Self {
        assert!(Command::new("kill").args(["-STOP", &process]).status().expect("signalled").success());
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.0]).status();
    }
}

#[test]
fn a_watermark_that_only_idleness_moved_does_not_go_back_either() {
    let _alone = alone();
    let name = unique("moved");
    create_topic(&name, 2);
    events_at(&name, 0, &[1, 100]);
    // Windows of an hour: nothing closes, no record comes, and yet the watermark moves when both are idle.
    let job = Job::new(&pipeline(&name, &name, "idleAfter: 2.seconds", "1.hour, watermark: 3.seconds"));
    let child = start(&job);
    why_when(&job, &name, |w| w.watermark == Some(START + 97_000));
    std::thread::sleep(Duration::from_secs(1));
    end(child, "-KILL");
    std::fs::remove_file(job.dir.path().join("data/default").join(&name).join("endpoint.json"))
        .expect("the file of the killed process");
    let child = start(&job);
    let why = why_when(&job, &name, |w| !w.partitions.is_empty());
    assert_eq!((why.watermark, why.held_back_by), (Some(START + 97_000), Some(1)), "{why:?}");
    end(child, "-TERM");
}

#[test]
fn a_job_answers_while_its_broker_hangs_and_no_partition_is_idle_by_time_alone() {
    let _alone = alone();
    let Ok(dir) = std::env::var("KINDLING_BROKER_DIR") else {
        assert!(std::env::var("CI").is_err(), "KINDLING_BROKER_DIR must be set in CI");
        eprintln!("a broker of somebody else is not stopped");
        return;
    };
    let broker = std::fs::read_to_string(Path::new(&dir).join("pid")).expect("the broker's process").trim().to_owned();
    let name = unique("hangs");
    create_topic(&name, 2);
    events_at(&name, 0, &[1, 100]);
    events_at(&name, 1, &[2]);
    let job = Job::new(&pipeline(&name, &name, "idleAfter: 4.seconds", "10.seconds, watermark: 3.seconds"));
    let child = start(&job);
    why_when(&job, &name, |w| states(w) == ["at end", "at end"]);
    let stopped = Stopped::new(broker);
    // Past idleAfter, and long enough that the silence is worth a word.
    std::thread::sleep(Duration::from_secs(11));
    let asked = Instant::now();
    let why = why_when(&job, &name, |_| true);
    let took = asked.elapsed();
    drop(stopped);
    assert!(took < Duration::from_secs(2), "it answers at once: {took:?}");
    assert_eq!((states(&why), why.held_back_by, why.watermark), (vec!["at end", "at end"], Some(1), Some(START - 1_000)));
    assert!(why.explanation.join("\n").contains("does not say that this is still its end"), "{why:?}");
    why_when(&job, &name, |w| states(w) == ["idle", "idle"] && w.watermark == Some(START + 97_000));
    end(child, "-TERM");
}

/// Runs to the end of the topic; gives the most slots of state that an epoch left.
fn peak_of_state(dir: &Path, pipeline: &str, workers: usize) -> usize {
    let pipeline = config::load_str(pipeline, "drift.yaml", &LoadOptions::default()).expect("a pipeline");
    let options = SetupOptions {
        plugins: &dir.join("none"),
        data_dir: dir,
        until_end: true,
        limits: JobLimits { epoch_rows: 2_000, ..JobLimits::default() },
        guest_limits: GuestLimits::default(),
        workers,
        observe_outputs: false,
    };
    let setup = set_up(pipeline, &options).expect("set up");
    let mut peak = 0;
    let run = job::run(setup.spec, &Control::default(), &mut |epoch| peak = peak.max(epoch.sizes.slots)).expect("it runs");
    assert_eq!((run.0, run.1.rows, run.1.late), (End::Finished, 60_000, 0));
    peak
}

#[test]
fn a_partition_far_ahead_waits_so_that_state_stays_small() {
    let _alone = alone();
    let topic = unique("drift");
    create_topic(&topic, 2);
    // As many rows in each, but a hundred times the time in partition 0: 300,000 s against 3,000 s.
    let producer = producer();
    for n in 0..30_000i64 {
        for (partition, step) in [(0, 10_000), (1, 100)] {
            send(&producer, &topic, partition, format!(r#"{{"st":{},"k":{}}}"#, START + n * step, n % 6).as_bytes());
        }
    }
    producer.flush(Duration::from_secs(60)).expect("delivered");
    let mut peaks = Vec::new();
    for (run, source, workers) in
        [("free", "failOnDataLoss: true", 2), ("one", "maxDrift: 10.minutes", 1), ("two", "maxDrift: 10.minutes", 2)]
    {
        let (name, dir) = (format!("{topic}-{run}"), tempfile::tempdir().expect("a folder"));
        let started = Instant::now();
        let peak = peak_of_state(dir.path(), &pipeline(&name, &topic, source, "1.minute, watermark: 3.seconds"), workers);
        eprintln!("{run}: at most {peak} keys of state, {:?}", started.elapsed());
        peaks.push((peak, results(&format!("{name}-out"))));
    }
    let [(free, results), (one, of_one), (two, of_two)] = peaks.as_slice() else { panic!("three runs") };
    assert!(of_one == results && of_two == results, "waiting changes no result");
    assert_eq!(results.iter().map(|r| r.1).sum::<i64>(), 60_000);
    // Ten minutes and an epoch's rows against most of the partition.
    assert!(
        *one < 3_000 && *two < 3_000 && *free > 4 * one && *free > 4 * two,
        "{free} without maxDrift, {one} and {two} with it"
    );
}
