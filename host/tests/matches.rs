//! Swipes to matches on a real broker, with processes killed and the plugin swapped on the way: exactly the matches of an independent
//! computation.
//!
//! KINDLING_SWIPES, KINDLING_PAIRS, KINDLING_KILLS, KINDLING_SWAPS and KINDLING_RATE (swipes a second) set the sizes;
//! `tests/bench/run matches --kills 10 --swaps 20` does.

mod support;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::Producer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::swipes::{Matches, Random, Swipe, Swipes, add, expected, pipeline};
use support::*;

const PARTITIONS: usize = 4;
const SEED: u64 = 11;
/// Between two looks at how far the job is.
const LOOK: Duration = Duration::from_millis(10);

/// A number of the environment, or `default`.
fn size(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a whole number"))
}

/// Sends swipes at a pace, in portions: a tenth of it where more than `portions` allow were sent. So rows flow until the last fault is over, and
/// a new version, which takes over with the next epoch that has any, never waits for them.
fn feed(topic: &str, swipes: Swipes, per_second: f64, portion: u64, portions: &AtomicU64) {
    let (producer, mut value, mut last, mut due) = (producer(), Vec::new(), Instant::now(), 0.0);
    for (n, swipe) in swipes.enumerate() {
        while due < 1.0 {
            producer.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_millis(2));
            let is_ahead = n as u64 >= portion * portions.load(Ordering::Relaxed);
            due += last.elapsed().as_secs_f64() * if is_ahead { per_second / 10.0 } else { per_second };
            last = Instant::now();
        }
        due -= 1.0;
        value.clear();
        swipe.write(&mut value).expect("a Vec takes it");
        send(&producer, topic, swipe.partition(PARTITIONS), &value);
    }
    producer.flush(Duration::from_secs(120)).expect("delivered");
}

/// How far a job has committed.
struct Progress {
    consumer: BaseConsumer,
    partitions: TopicPartitionList,
}

impl Progress {
    fn of(topic: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers()).set("group.id", format!("kindling-default-{topic}"));
        // Not to wait for the end of each transaction.
        let consumer = config.set("isolation.level", "read_uncommitted").create().expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_range(topic, 0, PARTITIONS as i32 - 1);
        Self { consumer, partitions }
    }

    /// Rows; None while the broker does not say.
    fn rows(&self) -> Option<u64> {
        let offsets = self.consumer.committed_offsets(self.partitions.clone(), Duration::from_secs(10)).ok()?;
        let rows = |offset: Offset| if let Offset::Offset(n) = offset { n as u64 } else { 0 };
        Some(offsets.elements().iter().map(|e| rows(e.offset())).sum())
    }

    fn wait_for(&self, rows: u64, job: &Job) {
        let started = Instant::now();
        while self.rows().unwrap_or(0) < rows {
            assert!(started.elapsed() < Duration::from_secs(600), "row {rows} is not reached: {}", job.log_text());
            std::thread::sleep(LOOK);
        }
    }
}

/// The artefact as its version `n`: other bytes (a custom section), the same behaviour.
fn version(artefact: &Path, n: u64, beside: &Path) {
    let mut bytes = std::fs::read(artefact).expect("an artefact");
    // Section 0 of 13 bytes: a name of 4, and 8 of its own.
    bytes.extend([0, 13, 4, b'r', b'u', b'n', b'#']);
    bytes.extend(n.to_le_bytes());
    std::fs::write(beside, bytes).expect("written");
}

#[test]
fn matches_are_exactly_those_of_a_plain_computation_whatever_is_killed_or_swapped() {
    let _alone = alone();
    let swipes = size("KINDLING_SWIPES", 200_000);
    let pairs = size("KINDLING_PAIRS", swipes / 2);
    let (kills, swaps) = (size("KINDLING_KILLS", 3), size("KINDLING_SWAPS", 4));
    let topic = unique("matches");
    create_topic(&topic, PARTITIONS);
    let faults = kills + swaps;
    let (to, rate, portion) = (topic.clone(), size("KINDLING_RATE", 20_000), swipes / (faults + 2));
    let portions = Arc::new(AtomicU64::new(2));
    let allowed = Arc::clone(&portions);
    let feeding = std::thread::spawn(move || feed(&to, Swipes::new(SEED, swipes, pairs), rate as f64, portion, &allowed));

    let job = Job::new(&pipeline(&brokers(), &topic, "    watermark: 5.seconds\ntimestampFormat: millis"));
    // The second version's rows have a column more, so there is no way back: the first half of the swaps are among copies of the first.
    let drop_in = |n: u64| {
        let name = if n <= swaps / 2 { "match_detection.wasm" } else { "demo/match_detection_v2.wasm" };
        let beside = job.dir.path().join("next.wasm");
        version(&artefact(name), n, &beside);
        job.drop_in(&beside, "match_detection.wasm");
    };
    drop_in(0);
    let progress = Progress::of(&topic);
    let mut random = Random(SEED);
    let (mut swapped, mut killed) = (0, 0);
    // A version that comes while a process starts takes nothing over: it is what the process starts with.
    let start = |starts: u64| {
        let child = job.start(&[]);
        job.wait_for("restored", starts as usize);
        child
    };
    let mut child = start(1);
    for fault in 0..faults {
        progress.wait_for(portion * (fault + 1), &job);
        // Kills are spread among the swaps.
        if (fault + 1) * kills / faults > killed {
            killed += 1;
            std::thread::sleep(Duration::from_millis(random.below(200)));
            child.kill().expect("killed");
            child.wait().expect("gone");
            child = start(killed + 1);
        } else {
            swapped += 1;
            let before = job.log_text().matches("has taken over").count();
            drop_in(swapped);
            job.wait_for("has taken over", before + 1);
        }
        portions.fetch_add(1, Ordering::Relaxed);
    }
    portions.store(u64::MAX / portion.max(1), Ordering::Relaxed);
    assert_eq!((killed, swapped), (kills, swaps));
    let rows = progress.rows().unwrap_or(swipes);
    assert!(child.try_wait().expect("a status").is_none(), "{}", job.log_text());
    feeding.join().expect("all swipes are sent");
    job.stop(child);
    let started = Instant::now();
    job.run_to_end();

    let mut matches = Matches::new();
    for row in read_committed(&format!("{topic}-out")) {
        add(&mut matches, row.as_bytes()).expect("a match that did not come before");
    }
    let want = expected(Swipes::new(SEED, swipes, pairs));
    let missing: Vec<_> = want.iter().filter(|(k, ts)| matches.get(*k) != Some(ts)).take(5).collect();
    let more: Vec<_> = matches.keys().filter(|k| !want.contains_key(*k)).take(5).collect();
    let (found, wanted) = (matches.len(), want.len());
    assert!(missing.is_empty() && more.is_empty(), "{found} matches of {wanted}; missing {missing:?}; too many {more:?}");
    println!(
        "{swipes} swipes over {pairs} pairs, {kills} kills, {swaps} swaps (the last fault past row {rows}): exactly the {wanted} matches, none twice; \
         the last run took {:.1} s",
        started.elapsed().as_secs_f64()
    );
}

#[test]
fn the_plain_computation_finds_what_the_definition_says() {
    let swipe = |user, other, like, ts| Swipe { user, other, like, ts, st: ts };
    let matches = |swipes: &[Swipe]| expected(swipes.iter().copied()).into_values().collect::<Vec<_>>();
    let (one, two) = (|like, ts| swipe(1, 2, like, ts), |like, ts| swipe(2, 1, like, ts));
    assert_eq!(matches(&[one(true, 1), two(true, 2), one(true, 3), two(true, 4)]), [2], "once for a pair");
    assert_eq!(matches(&[one(true, 1), one(false, 2), two(true, 3)]), [0; 0], "a nope takes a like back");
    assert_eq!(matches(&[one(true, 2), one(false, 1), two(true, 3), one(true, 2)]), [3], "what comes late or again does no harm");
    assert_eq!(matches(&[one(true, 1), swipe(3, 1, true, 2), swipe(1, 3, true, 3)]), [3], "pairs are apart");
}

#[test]
fn swipes_are_disordered_and_the_same_for_a_seed() {
    let swipes: Vec<_> = Swipes::new(SEED, 20_000, 10_000).collect();
    assert!(swipes.iter().copied().eq(Swipes::new(SEED, 20_000, 10_000)));
    let share = |of: &dyn Fn(&Swipe) -> bool| swipes.iter().filter(|s| of(s)).count() as f64 / swipes.len() as f64;
    let (nopes, late) = (share(&|s| !s.like), share(&|s| s.st - s.ts > 5_000));
    assert!((0.18..0.22).contains(&nopes) && (0.08..0.15).contains(&late), "{nopes} nopes, {late} late ones");
    // Whoever takes no care of order finds other matches.
    let careless = expected(swipes.iter().enumerate().map(|(n, s)| Swipe { ts: n as i64, ..*s }));
    let wrong = |(pair, at): (&String, &i64)| careless.get(pair).is_none_or(|n| swipes[*n as usize].ts != *at);
    assert!(expected(swipes.iter().copied()).iter().any(wrong));
}
