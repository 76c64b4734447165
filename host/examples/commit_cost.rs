//! What one commit costs: one transaction of 100 results, changelog records and the offsets of 4 partitions, on a real broker.
//!
//! Measured: the time of `Committer::commit` (produce, offsets, commit, local tree), this process's CPU, and `restore` without and with
//! a local tree. Not measured: reading, computing, and the broker's CPU.
//!
//!     KINDLING_BROKERS=host:port cargo run --release --example commit_cost [EPOCHS]

use kindling::config::spec::{KafkaSourceSpec, SinkSpec, SourceSpec, StartingOffsets};
use kindling::element::PartitionName;
use kindling::output::{Change, CommitSpec, EpochCommit, Meta, OutRecord, open, topics};
use kindling::time::now_ms;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PARTITIONS: usize = 4;

fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[allow(unsafe_code)]
    // SAFETY: the pointer is to a local that outlives the call.
    unsafe {
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time);
    }
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn spec(name: &str, properties: &BTreeMap<String, String>, dir: &std::path::Path) -> CommitSpec {
    let topic = format!("{name}-in");
    CommitSpec {
        team: "bench".into(),
        name: name.into(),
        partitions: (0..PARTITIONS as i32).map(|partition| PartitionName { topic: topic.as_str().into(), partition }).collect(),
        source: SourceSpec::Kafka(KafkaSourceSpec {
            properties: properties.clone(),
            topic,
            fail_on_data_loss: true,
            starting_offsets: StartingOffsets::Earliest,
        }),
        sink: SinkSpec::Kafka { properties: properties.clone(), topic: format!("{name}-out") },
        outputs: Vec::new(),
        late: None,
        rejects: None,
        data_dir: dir.to_path_buf(),
        state_memory: kindling::limits::STATE_MEMORY_BYTES,
    }
}

fn epoch(n: u64, outputs: usize, changes: usize) -> EpochCommit {
    let change = |i: usize| Change {
        shard: (i % 4) as u16,
        key: format!("2026-11-23T00:00:00.000Z/experiment-{}/{}", i % 97, (i as u64 * 7919 + n) % 100_000).into(),
        value: Some(vec![(n % 251) as u8; 24]),
    };
    EpochCommit {
        epoch: n,
        outputs: (0..outputs)
            .map(|i| OutRecord { key: Some(format!("k{i}").into()), value: vec![b'x'; 150], ..OutRecord::default() })
            .collect(),
        changes: (0..changes).map(change).collect(),
        positions: vec![n as i64; PARTITIONS],
        meta: Meta { epoch: n, ..Meta::default() },
        ..EpochCommit::default()
    }
}

fn main() {
    let brokers = std::env::var("KINDLING_BROKERS").expect("set KINDLING_BROKERS to host:port of a broker");
    let epochs: u64 = std::env::args().nth(1).map_or(100, |n| n.parse().expect("EPOCHS is a number"));
    let properties: BTreeMap<String, String> = [("bootstrap.servers".to_owned(), brokers)].into();
    println!(
        "{epochs} epochs each; milliseconds\n{:<34}{:>7}{:>7}{:>7}{:>16}{:>22}",
        "epoch, changelog records", "p50", "p99", "max", "CPU an epoch", "restore new/tree/log"
    );
    for (every_ms, outputs, changes) in [(100, 100, 0), (100, 100, 10_000), (20, 100, 1_000)] {
        let name = format!("commit-cost-{}-{every_ms}-{changes}", now_ms());
        topics::create(&properties, &format!("{name}-in"), Some(PARTITIONS)).expect("the source topic can be made");
        let (here, elsewhere) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let restore = |dir: &std::path::Path| {
            let mut committer = open(spec(&name, &properties, dir)).expect("the settings are right");
            let started = Instant::now();
            committer.restore(&mut |_| {}).expect("restored");
            (committer, started.elapsed().as_millis())
        };
        let (mut committer, new) = restore(here.path());
        let mut times = Vec::new();
        let started = Instant::now();
        let mut busy = Duration::ZERO;
        for n in 1..=epochs {
            std::thread::sleep(Duration::from_millis(n * every_ms).saturating_sub(started.elapsed()));
            let commit = epoch(n, outputs, changes);
            let (before, at) = (cpu(), Instant::now());
            committer.commit(commit).expect("committed");
            times.push(at.elapsed().as_secs_f64() * 1_000.0);
            busy += cpu() - before;
        }
        drop(committer);
        let (committer, tree) = restore(here.path());
        drop(committer);
        let (_, log) = restore(elsewhere.path());
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "{:<34}{:>7.1}{:>7.1}{:>7.1}{:>16.1}{:>22}",
            format!("{every_ms} ms, {changes}"),
            at(0.5),
            at(0.99),
            at(1.0),
            busy.as_secs_f64() * 1_000.0 / epochs as f64,
            format!("{new}/{tree}/{log}")
        );
    }
}
