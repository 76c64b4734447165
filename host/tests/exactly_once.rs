//! The pipeline on a real broker: the counts of an independent computation, whatever happens to the process or the broker meanwhile.

mod support;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};
use support::*;

const WINDOW: i64 = 10_000;
const OUT_OF_ORDERNESS: i64 = 3_000;
const GUEST: &str = "      - { reducer: assignment_count, inputColumns: [experimentBucket], outputColumn: guestCount, where: experimentBucket IS NOT NULL }";

fn check(topic: &str, spec: &kindling::config::spec::GenerateSpec) {
    let (want, late, rejected) = expected(spec, WINDOW, OUT_OF_ORDERNESS);
    assert_same(&counts(&read_committed(&format!("{topic}-out"))), &want);
    assert_eq!(read_committed(&format!("{topic}-late")).len() as u64, late, "late rows");
    assert_eq!(read_committed(&format!("{topic}-rejects")).len() as u64, rejected, "rejects");
    assert!(late > 0 && rejected > 0, "the events must have late and broken ones");
}

#[test]
fn a_million_events_are_counted_as_by_hand() {
    let _alone = alone();
    let (topic, spec) = (unique("million"), events(1_000_000, 5_000));
    create_topic(&topic, 4);
    produce(&spec, &topic, 0, 1_000_000);
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    job.run_to_end();
    check(&topic, &spec);
    // Nothing more to do: a second run commits no result again.
    job.run_to_end();
    check(&topic, &spec);
}

#[test]
fn a_process_killed_twenty_times_gives_what_an_undisturbed_one_gives() {
    let _alone = alone();
    let (topic, spec) = (unique("killed"), events(400_000, 2_000));
    create_topic(&topic, 4);
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    for kill in 0..20u64 {
        // A part for each kill, in small epochs: many boundaries to be killed at, on a fast machine too.
        produce(&spec, &topic, kill * 20_000, (kill + 1) * 20_000);
        let mut child = job.start(&["--epoch-rows", "100", "--epoch", "5ms"]);
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        job.wait_for("restored", kill as usize + 1);
        std::thread::sleep(Duration::from_millis((random >> 33) % 400));
        if kill % 5 == 4 {
            // Now and then the local tree is lost too: the changelog has everything.
            child.kill().expect("killed");
            child.wait().expect("gone");
            std::fs::remove_dir_all(job.dir.path().join("data")).expect("removed");
        } else {
            child.kill().expect("killed");
            child.wait().expect("gone");
        }
    }
    job.run_to_end();
    check(&topic, &spec);
}

#[test]
fn a_process_that_died_within_a_commit_holds_nothing_up() {
    let _alone = alone();
    let (topic, spec) = (unique("within"), events(20_000, 1_000));
    create_topic(&topic, 4);
    produce(&spec, &topic, 0, 20_000);
    // What the job's process has done when it dies between its offsets and its commit.
    let id = format!("kindling-default-{topic}");
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("group.id", &id);
    let group: BaseConsumer = config.create().expect("a consumer");
    let producer: BaseProducer = config.set("transactional.id", &id).create().expect("a producer");
    let patience = Duration::from_secs(10);
    producer.init_transactions(patience).expect("ready");
    producer.begin_transaction().expect("begun");
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&topic, 0, Offset::Offset(5)).expect("an offset");
    let group = group.group_metadata().expect("metadata");
    producer.send_offsets_to_transaction(&offsets, &group, patience).expect("sent");
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    let started = Instant::now();
    job.run_to_end();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}: {}", started.elapsed(), job.log_text());
    check(&topic, &spec);
}

#[test]
fn a_stopped_process_leaves_nothing_half_done() {
    let _alone = alone();
    let (topic, spec) = (unique("stopped"), events(200_000, 2_000));
    create_topic(&topic, 4);
    produce(&spec, &topic, 0, 200_000);
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    for _ in 0..3 {
        let mut child = job.start(&["--epoch-rows", "3000"]);
        std::thread::sleep(Duration::from_millis(700));
        let id = child.id().to_string();
        std::process::Command::new("kill").args(["-TERM", &id]).status().expect("signalled");
        let started = Instant::now();
        let status = child.wait().expect("it ends");
        assert!(status.success(), "{status}: {}", job.log_text());
        assert!(started.elapsed() < Duration::from_secs(5), "SIGTERM finishes the epoch and leaves");
    }
    job.run_to_end();
    check(&topic, &spec);
}

#[test]
fn a_swap_every_second_under_load_loses_nothing_and_counts_nothing_twice() {
    let _alone = alone();
    let (topic, spec) = (unique("swapped"), events(300_000, 30_000));
    create_topic(&topic, 4);
    let job = Job::new(&counts_pipeline(&topic, &topic, GUEST));
    let versions = [artefact("experiment_count.wasm"), artefact("demo/experiment_count_v2.wasm")];
    job.drop_in(&versions[0], "experiment_count.wasm");
    let mut child = job.start(&[]);
    job.wait_for("restored", 1);
    let started = Instant::now();
    let mut swaps = 0;
    for second in 0..10u64 {
        job.drop_in(&versions[(second as usize + 1) % 2], "experiment_count.wasm");
        swaps += 1;
        for tenth in second * 10..(second + 1) * 10 {
            produce(&spec, &topic, tenth * 3_000, (tenth + 1) * 3_000);
            std::thread::sleep(Duration::from_millis((tenth + 1) * 100).saturating_sub(started.elapsed()));
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("signalled");
    assert!(child.wait().expect("it ends").success(), "{}", job.log_text());
    let taken = job.log_text().matches("has taken over").count();
    assert!(taken >= swaps - 2, "{taken} of {swaps} versions took over\n{}", job.log_text());
    job.run_to_end();
    check(&topic, &spec);
}

#[test]
fn a_broker_restarted_in_between_delays_and_loses_nothing() {
    let _alone = alone();
    let Ok(script) = std::env::var("KINDLING_BROKER_SCRIPT") else {
        assert!(std::env::var("CI").is_err(), "KINDLING_BROKER_SCRIPT must be set in CI");
        eprintln!("a broker of somebody else is not restarted");
        return;
    };
    let (topic, spec) = (unique("restarted"), events(300_000, 3_000));
    create_topic(&topic, 4);
    produce(&spec, &topic, 0, 300_000);
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    let mut child = job.start(&["--epoch-rows", "1500", "--until-end"]);
    std::thread::sleep(Duration::from_millis(900));
    let restarted = std::process::Command::new("bash").args([&script, "restart"]).status().expect("the script runs");
    assert!(restarted.success());
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{status}: {}", job.log_text());
    check(&topic, &spec);
}

#[test]
fn a_second_process_of_the_same_job_takes_over_and_the_first_ends() {
    let _alone = alone();
    let (topic, spec) = (unique("fenced"), events(100_000, 1_000));
    create_topic(&topic, 4);
    produce(&spec, &topic, 0, 100_000);
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    let mut first = job.start_in("elsewhere", &["--epoch-rows", "500"]);
    job.wait_for("restored", 1);
    job.run_to_end();
    // The first learns of it with its next commit.
    let producer = producer();
    send(&producer, &topic, 0, b"{}");
    producer.flush(Duration::from_secs(10)).expect("delivered");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = first.try_wait().expect("a status") {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "the fenced process must end: {}", job.log_text());
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(4), "{}", job.log_text());
    let (want, ..) = expected(&spec, WINDOW, OUT_OF_ORDERNESS);
    assert_same(&counts(&read_committed(&format!("{topic}-out"))), &want);
}
