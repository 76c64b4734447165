//! The committer on a real broker: an epoch is there whole or not at all, and what was committed comes back, whatever was lost meanwhile.
//!
//! Longer than 500 lines, since all of it is one harness: a job, its machines, its changelog.
//!
//! Needs KINDLING_BROKERS=host:port (`tests/run` sets it); KINDLING_BROKER_SCRIPT lets the broker be restarted.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "support/files.rs"]
mod files;

use files::files_below;
use kindling::config::spec::{KafkaSourceSpec, SinkSpec, SourceSpec, StartingOffsets};
use kindling::element::PartitionName;
use kindling::output::replay::Place;
use kindling::output::transaction::Transactions;
use kindling::output::{Change, CommitError, CommitSpec, Committer, EpochCommit, Meta, OutRecord, topics};
use kindling::state::tree::Tree;
use kindling::time::now_ms;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Held for writing by the test that restarts the broker.
static BROKER: RwLock<()> = RwLock::new(());

type Entries = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

/// One job, its topics, and folders of the machines that it runs on.
struct Job {
    name: String,
    machines: Vec<TempDir>,
    _broker: Option<RwLockReadGuard<'static, ()>>,
}

fn properties() -> BTreeMap<String, String> {
    let brokers = std::env::var("KINDLING_BROKERS")
        .expect("KINDLING_BROKERS is not set: run tests/run, or set it to host:port of a broker");
    [("bootstrap.servers".to_owned(), brokers)].into()
}

impl Job {
    fn new(name: &str) -> Self {
        Self { _broker: Some(BROKER.read().unwrap_or_else(PoisonError::into_inner)), ..Self::without_lock(name) }
    }

    fn without_lock(name: &str) -> Self {
        let name = format!("{name}-{}-{}", std::process::id(), now_ms());
        let machines = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
        topics::create(&properties(), &format!("{name}-in"), Some(2)).unwrap();
        Self { name, machines, _broker: None }
    }

    fn topic(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }

    fn changelog(&self) -> String {
        format!("kindling-test-{}-changelog", self.name)
    }

    fn id(&self) -> String {
        format!("kindling-test-{}", self.name)
    }

    fn data(&self, machine: usize) -> &Path {
        self.machines[machine].path()
    }

    fn spec(&self, machine: usize) -> CommitSpec {
        let topic = self.topic("in");
        CommitSpec {
            team: "test".into(),
            name: self.name.clone(),
            partitions: (0..2).map(|partition| PartitionName { topic: topic.as_str().into(), partition }).collect(),
            source: SourceSpec::Kafka(KafkaSourceSpec {
                properties: properties(),
                topic,
                fail_on_data_loss: true,
                starting_offsets: StartingOffsets::Earliest,
            }),
            sink: SinkSpec::Kafka { properties: properties(), topic: self.topic("out") },
            outputs: Vec::new(),
            late: None,
            rejects: Some(SinkSpec::Kafka { properties: properties(), topic: self.topic("rejects") }),
            data_dir: self.data(machine).to_path_buf(),
            state_memory: kindling::limits::STATE_MEMORY_BYTES,
        }
    }

    fn open(&self, machine: usize) -> (Box<dyn Committer>, Entries, Option<Meta>) {
        let mut committer = kindling::output::open(self.spec(machine)).unwrap();
        let (entries, meta) = restore(&mut *committer).unwrap();
        (committer, entries, meta)
    }

    fn outputs(&self) -> Vec<String> {
        read(&self.topic("out"), "read_committed")
    }
}

fn restore(committer: &mut dyn Committer) -> Result<(Entries, Option<Meta>), CommitError> {
    let mut entries = Entries::new();
    let meta = committer.restore(&mut |change| {
        let value = change.value.expect("removals are not passed on");
        assert!(entries.insert((change.shard, change.key), value).is_none(), "a key was given twice");
    })?;
    Ok((entries, meta))
}

/// Values of all partitions, sorted.
fn read(topic: &str, isolation: &str) -> Vec<String> {
    let mut config = topics::client(&properties());
    config.set("group.id", "reader").set("isolation.level", isolation).set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let partitions = topics::leaders(&consumer, topic).expect("the topic is there");
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition as i32, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut values, mut ended, started) = (Vec::new(), 0, Instant::now());
    while ended < partitions {
        assert!(started.elapsed() < Duration::from_secs(30), "{topic} does not end");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => values.push(String::from_utf8(message.payload().unwrap_or_default().to_vec()).unwrap()),
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            _ => {}
        }
    }
    values.sort();
    values
}

fn epoch(epoch: u64, changes: &[(&str, Option<&str>)]) -> EpochCommit {
    let change = |(key, value): &(&str, Option<&str>)| Change {
        shard: u16::from(key.as_bytes()[0] % 4),
        key: (*key).into(),
        value: value.map(Into::into),
    };
    EpochCommit {
        epoch,
        outputs: vec![OutRecord { key: None, value: format!("o{epoch:04}").into(), ..OutRecord::default() }],
        changes: changes.iter().map(change).collect(),
        positions: vec![epoch as i64, epoch as i64 * 2],
        meta: Meta { epoch, ..Meta::default() },
        ..EpochCommit::default()
    }
}

fn keys(entries: &Entries) -> Vec<(&str, &str)> {
    let text = |bytes: &'static [u8]| std::str::from_utf8(bytes).unwrap();
    let mut keys: Vec<_> = entries.iter().map(|((_, k), v)| (text(k.clone().leak()), text(v.clone().leak()))).collect();
    keys.sort_unstable();
    keys
}

fn epoch_of(meta: Option<Meta>) -> Option<u64> {
    meta.map(|m| m.epoch)
}

#[test]
fn an_epoch_is_there_with_its_offsets() {
    let job = Job::new("whole");
    let (mut committer, entries, meta) = job.open(0);
    assert!(entries.is_empty() && meta.is_none());
    let rejects = vec![OutRecord { key: Some(b"k".to_vec()), value: b"bad".to_vec(), ..OutRecord::default() }];
    committer.commit(EpochCommit { rejects, late: vec![OutRecord::default()], ..epoch(3, &[("a", Some("1"))]) }).unwrap();
    assert_eq!(job.outputs(), ["o0003"]);
    assert_eq!(read(&job.topic("rejects"), "read_committed"), ["bad"]);
    // Positions alone are committed too.
    committer.commit(EpochCommit { outputs: vec![], ..epoch(4, &[]) }).unwrap();
    let mut config = topics::client(&properties());
    let consumer: BaseConsumer = config.set("group.id", job.id()).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&job.topic("in"), 0, 1);
    let committed = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
    let offsets: Vec<_> =
        committed.elements().iter().map(rdkafka::topic_partition_list::TopicPartitionListElem::offset).collect();
    assert_eq!(offsets, [Offset::Offset(4), Offset::Offset(8)]);
}

#[test]
fn what_a_dead_process_left_open_is_never_seen() {
    let job = Job::new("open");
    drop(job.open(0));
    let dead = Transactions::open(&properties(), &job.id(), &job.changelog()).unwrap();
    dead.begin().unwrap();
    dead.send(&job.topic("out"), None, None, Some(b"half")).unwrap();
    dead.send(&job.changelog(), Some(1), Some(b"half"), Some(b"half")).unwrap();
    let started = Instant::now();
    while read(&job.topic("out"), "read_uncommitted") != ["half"] {
        assert!(started.elapsed() < Duration::from_secs(10), "the record reaches the broker");
        dead.poll();
    }
    // Not dropped: a process that is killed says nothing.
    let (mut committer, entries, meta) = job.open(0);
    assert!(entries.is_empty() && meta.is_none());
    committer.commit(epoch(1, &[("a", Some("1"))])).unwrap();
    assert_eq!(job.outputs(), ["o0001"]);
    assert!(matches!(dead.commit(None).map_err(|why| dead.abort(why)), Err(CommitError::Fenced(_))));
    drop(committer);
    assert_eq!(keys(&job.open(1).1), [("a", "1")]);
}

#[test]
fn a_record_that_is_refused_takes_its_epoch_with_it() {
    let job = Job::new("refused");
    let (mut committer, ..) = job.open(0);
    committer.commit(epoch(1, &[("a", Some("1"))])).unwrap();
    let mut large = epoch(2, &[("a", Some("2"))]);
    large.rejects.push(OutRecord { key: None, value: vec![b'x'; 3_000_000], ..OutRecord::default() });
    let error = committer.commit(large).unwrap_err();
    assert!(matches!(&error, CommitError::Config(text) if text.contains("message.max.bytes")), "{error}");
    let (entries, meta) = restore(&mut *committer).unwrap();
    assert_eq!((keys(&entries), epoch_of(meta)), (vec![("a", "1")], Some(1)));
    committer.commit(epoch(2, &[("a", Some("3"))])).unwrap();
    assert_eq!(job.outputs(), ["o0001", "o0002"]);
}

#[test]
fn the_later_of_two_processes_goes_on() {
    let job = Job::new("fenced");
    let (mut first, ..) = job.open(0);
    first.commit(epoch(1, &[("a", Some("1"))])).unwrap();
    let (mut second, entries, _) = job.open(1);
    assert_eq!(keys(&entries), [("a", "1")]);
    // More than once: an error of the second kind must not be taken for one that a restore mends.
    for _ in 0..2 {
        let error = first.commit(epoch(2, &[("a", Some("wrong"))])).unwrap_err();
        assert!(matches!(&error, CommitError::Fenced(text) if text.contains("another process")), "{error:?}");
    }
    second.commit(epoch(2, &[("b", Some("2"))])).unwrap();
    drop(first);
    drop(second);
    assert_eq!(keys(&job.open(1).1), [("a", "1"), ("b", "2")]);
    assert_eq!(job.outputs(), ["o0001", "o0002"]);
}

#[test]
fn a_second_process_on_the_same_folder_ends_and_leaves_the_first_alone() {
    let job = Job::new("folder");
    let (mut first, ..) = job.open(0);
    let error = restore(&mut *kindling::output::open(job.spec(0)).unwrap()).unwrap_err();
    assert!(matches!(&error, CommitError::Config(text) if text.contains("--data-dir")), "{error:?}");
    first.commit(epoch(1, &[])).unwrap();
}

#[test]
fn state_comes_back_from_tree_and_changelog() {
    let job = Job::new("restore");
    let (mut committer, ..) = job.open(0);
    committer.commit(epoch(1, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1")), ("d", Some("1"))])).unwrap();
    committer.commit(epoch(2, &[("a", Some("2")), ("b", None)])).unwrap();
    drop(committer);
    let (committer, entries, meta) = job.open(0);
    assert_eq!((keys(&entries), epoch_of(meta)), (vec![("a", "2"), ("c", "1"), ("d", "1")], Some(2)));
    drop(committer);
    // Another machine has no tree; it goes on.
    let (mut committer, entries, _) = job.open(1);
    assert_eq!(keys(&entries), [("a", "2"), ("c", "1"), ("d", "1")]);
    committer.commit(epoch(3, &[("c", None), ("e", Some("3"))])).unwrap();
    drop(committer);
    // The first one has a tree that is behind.
    let (committer, entries, meta) = job.open(0);
    assert_eq!((keys(&entries), epoch_of(meta)), (vec![("a", "2"), ("d", "1"), ("e", "3")], Some(3)));
    drop(committer);
    // A tree that is gone, and one that is damaged.
    std::fs::remove_dir_all(job.data(0)).unwrap();
    assert_eq!(keys(&job.open(0).1), [("a", "2"), ("d", "1"), ("e", "3")]);
    std::fs::write(job.spec(0).tree_path().join("version"), "").unwrap();
    assert_eq!(keys(&job.open(0).1), [("a", "2"), ("d", "1"), ("e", "3")]);
}

#[test]
fn an_old_tree_does_not_bring_removed_keys_back() {
    let job = Job::new("old");
    let (mut committer, ..) = job.open(0);
    committer.commit(epoch(1, &[("a", Some("1"))])).unwrap();
    drop(committer);
    let ghost = || {
        // As if the removal of `ghost` had been forgotten by the topic while this machine was away for days.
        let tree = Tree::open(&job.spec(0).tree_path()).unwrap();
        let mut place: Place = serde_json::from_slice(&tree.note("place").unwrap().unwrap()).unwrap();
        place.time = Some(now_ms() - 5 * 86_400_000);
        let ghost = (1, &b"ghost"[..], Some(&b"1"[..]));
        tree.apply([ghost], &[("place", &serde_json::to_vec(&place).unwrap())], true).unwrap();
    };
    ghost();
    // Nothing happened meanwhile: the tree is as good as it was.
    assert_eq!(keys(&job.open(0).1), [("a", "1"), ("ghost", "1")]);
    ghost();
    let (mut elsewhere, ..) = job.open(1);
    elsewhere.commit(epoch(2, &[("b", Some("2"))])).unwrap();
    drop(elsewhere);
    assert_eq!(keys(&job.open(0).1), [("a", "1"), ("b", "2")]);
}

#[test]
fn a_changelog_that_was_deleted_is_written_anew_from_a_tree_that_has_all_or_told_as_lost() {
    let job = Job::new("anew");
    let (mut committer, ..) = job.open(0);
    committer.commit(epoch(1, &[("a", Some("1")), ("b", Some("1"))])).unwrap();
    drop(committer);
    drop(job.open(1));
    let admin: AdminClient<DefaultClientContext> = topics::client(&properties()).create().unwrap();
    let delete = || {
        let future = admin.delete_topics(&[job.changelog().leak() as &str], &AdminOptions::new());
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future).unwrap();
        std::thread::sleep(Duration::from_secs(2));
    };
    delete();
    let (mut committer, entries, meta) = job.open(0);
    assert_eq!((keys(&entries), epoch_of(meta)), (vec![("a", "1"), ("b", "1")], Some(1)));
    // Also when the new one is already longer than the other tree's place in the old one: only the lineage tells them apart then.
    for n in 2..20 {
        committer.commit(epoch(n, &[("b", None), ("c", Some("1"))])).unwrap();
    }
    drop(committer);
    let (committer, entries, meta) = job.open(1);
    assert_eq!((keys(&entries), epoch_of(meta)), (vec![("a", "1"), ("c", "1")], Some(19)));
    drop(committer);
    // One machine has no tree, the tree of the other is behind.
    let (mut committer, ..) = job.open(0);
    committer.commit(epoch(20, &[])).unwrap();
    drop(committer);
    std::fs::remove_dir_all(job.data(0)).unwrap();
    delete();
    for (machine, says) in [(0, "there is no local tree in"), (1, "has epoch 19, and may be behind")] {
        let mut committer = kindling::output::open(job.spec(machine)).unwrap();
        // Whatever was begun by the first attempt, the second says the same.
        for _ in 0..2 {
            let Err(CommitError::Lost(text)) = restore(&mut *committer) else { panic!("machine {machine}") };
            for says in ["has nothing, but its consumer group's offsets were committed with epoch 20", &job.changelog(), says] {
                assert!(text.contains(says), "`{says}` is not in: {text}");
            }
        }
    }
    let mut committer = kindling::output::open(job.spec(1)).unwrap();
    committer.accept_loss();
    let (entries, meta) = restore(&mut *committer).unwrap();
    assert!(entries.is_empty() && meta.is_none());
    committer.commit(epoch(1, &[("d", Some("1"))])).unwrap();
    drop(committer);
    assert_eq!(keys(&job.open(0).1), [("d", "1")]);
}

#[test]
fn a_changelog_that_is_made_anew_under_a_running_job_is_found_by_its_offsets() {
    let job = Job::new("under");
    let (mut committer, ..) = job.open(0);
    committer.commit(epoch(1, &[("a", Some("1"))])).unwrap();
    committer.commit(epoch(2, &[("b", Some("1"))])).unwrap();
    let admin: AdminClient<DefaultClientContext> = topics::client(&properties()).create().unwrap();
    let future = admin.delete_topics(&[job.changelog().leak() as &str], &AdminOptions::new());
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let settings = [("cleanup.policy", "compact"), ("delete.retention.ms", "86400000")];
    topics::create_with(&properties(), &job.changelog(), Some(4), &settings).unwrap();
    let mut next = 3;
    let started = Instant::now();
    loop {
        match committer.commit(epoch(next, &[("c", Some("1"))])) {
            Err(CommitError::Aborted(why)) if why.contains("was made anew while the job ran") => break,
            Err(CommitError::Aborted(_)) => {}
            other => panic!("epoch {next}: {other:?}"),
        }
        assert!(started.elapsed() < Duration::from_secs(60));
        next = restore(&mut *committer).unwrap().1.unwrap().epoch + 1;
    }
    // By the next process, too, where this one ends before it has mended it.
    drop(committer);
    let want = vec![("a", "1"), ("b", "1"), ("c", "1")];
    let (committer, entries, meta) = job.open(0);
    assert_eq!((keys(&entries), epoch_of(meta)), (want.clone(), Some(next)));
    drop(committer);
    assert_eq!(keys(&job.open(1).1), want);
}

#[test]
fn a_changelog_that_would_lose_state_is_refused() {
    let job = Job::new("wrong");
    topics::create_with(&properties(), &job.changelog(), Some(4), &[("cleanup.policy", "delete")]).unwrap();
    let error = restore(&mut *kindling::output::open(job.spec(0)).unwrap()).unwrap_err();
    assert!(
        matches!(&error, CommitError::Config(text) if text.contains("cleanup.policy is delete and must be compact")),
        "{error:?}"
    );
    let job = Job::new("wrong2");
    topics::create_with(&properties(), &job.changelog(), Some(3), &[("cleanup.policy", "compact")]).unwrap();
    let error = restore(&mut *kindling::output::open(job.spec(0)).unwrap()).unwrap_err();
    assert!(matches!(&error, CommitError::Config(text) if text.contains("3 partitions")), "{error:?}");
}

#[test]
fn a_file_follows_the_transaction() {
    let job = Job::new("file");
    let path = job.data(0).join("out.jsonl");
    let spec = || CommitSpec { sink: SinkSpec::File { path: path.display().to_string() }, ..job.spec(0) };
    let mut committer = kindling::output::open(spec()).unwrap();
    restore(&mut *committer).unwrap();
    let mut large = epoch(1, &[]);
    large.rejects.push(OutRecord { key: None, value: vec![b'x'; 3_000_000], ..OutRecord::default() });
    committer.commit(large.clone()).unwrap_err();
    // The process dies before any epoch was committed.
    drop(committer);
    let mut committer = kindling::output::open(spec()).unwrap();
    restore(&mut *committer).unwrap();
    committer.commit(epoch(1, &[])).unwrap();
    large.outputs[0].value = b"never".to_vec();
    committer.commit(large).unwrap_err();
    restore(&mut *committer).unwrap();
    committer.commit(epoch(2, &[])).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "o0001\no0002\n");
}

#[test]
fn a_commit_takes_tens_of_milliseconds() {
    let job = Job::new("time");
    let (mut committer, ..) = job.open(0);
    let mut times: Vec<Duration> = (1..=40u64)
        .map(|n| {
            let started = Instant::now();
            committer.commit(epoch(n, &[("a", Some("1")), ("b", Some("2"))])).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    println!("commit: p50 {:?}, max {:?}", times[20], times[39]);
    assert!(times[20] < Duration::from_millis(90), "the client library's defaults take 100 ms and more: {times:?}");
}

#[test]
fn a_broker_restarted_meanwhile_is_survived() {
    let _alone = BROKER.write().unwrap_or_else(PoisonError::into_inner);
    let Ok(script) = std::env::var("KINDLING_BROKER_SCRIPT") else {
        assert!(std::env::var("CI").is_err(), "KINDLING_BROKER_SCRIPT must be set in CI");
        eprintln!("not run: KINDLING_BROKER_SCRIPT is not set, and a broker of somebody else is not restarted");
        return;
    };
    let job = Job::without_lock("restart");
    let (mut committer, ..) = job.open(0);
    let restart = std::thread::spawn(move || {
        for kill in [&["stop", "--kill"][..], &["stop"]] {
            std::thread::sleep(Duration::from_millis(700));
            assert!(Command::new("bash").arg(&script).args(kill).status().unwrap().success());
            assert!(Command::new("bash").args([script.as_str(), "restart"]).status().unwrap().success());
        }
    });
    let (mut next, mut aborted, started) = (1u64, 0, Instant::now());
    while !(restart.is_finished() && next > 100) {
        assert!(started.elapsed() < Duration::from_secs(180), "at epoch {next} after {aborted} aborts");
        let key = format!("k{next:04}");
        match committer.commit(epoch(next, &[(&key, Some("1"))])) {
            Ok(()) => next += 1,
            Err(CommitError::Aborted(why)) => {
                aborted += 1;
                eprintln!("epoch {next}: {why}");
                // As the job does: back to what was committed, which may be this epoch or the one before.
                while let Err(error) = restore(&mut *committer).map(|(_, meta)| next = meta.map_or(1, |m| m.epoch + 1)) {
                    assert!(matches!(error, CommitError::Aborted(_)), "{error:?}");
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
            Err(error) => panic!("epoch {next}: {error:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    restart.join().unwrap();
    let want: Vec<String> = (1..next).map(|n| format!("o{n:04}")).collect();
    assert_eq!(job.outputs(), want, "each epoch once");
    drop(committer);
    assert_eq!(job.open(1).1.len() as u64, next - 1);
}

/// Records of the changelog that a restore reads, and what it gives.
fn replayed(job: &Job, machine: usize) -> (u64, Entries) {
    let mut committer = kindling::output::open(job.spec(machine)).unwrap();
    let records = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(u64::MAX));
    let seen = std::sync::Arc::clone(&records);
    committer.watch(Box::new(move |progress| {
        if progress.done && progress.step == kindling::output::RestoreStep::Changelog {
            assert_eq!(progress.share, Some(1.0));
            seen.store(progress.records, std::sync::atomic::Ordering::SeqCst);
        }
    }));
    let (entries, _) = restore(&mut *committer).unwrap();
    (records.load(std::sync::atomic::Ordering::SeqCst), entries)
}

#[test]
fn a_restart_with_a_local_tree_reads_only_the_rest_of_the_changelog() {
    let job = Job::new("rest");
    let (mut committer, ..) = job.open(0);
    let epochs = |committer: &mut dyn Committer, numbers: std::ops::Range<u64>| {
        for n in numbers {
            let names: Vec<String> = (0..100).map(|k| format!("{}key{n:03}-{k:03}", ["a", "b", "c", "d"][k % 4])).collect();
            let changes: Vec<(&str, Option<&str>)> = names.iter().map(|k| (k.as_str(), Some("1"))).collect();
            committer.commit(epoch(n, &changes)).unwrap();
        }
    };
    epochs(&mut *committer, 1..31);
    drop(committer);
    // The last record of each partition is read again: it shows that the tree has the topic's history.
    let (records, entries) = replayed(&job, 0);
    assert!((1..=4).contains(&records), "{records} records are read where none is new");
    assert_eq!(entries.len(), 3_000);
    // Another machine has no tree: all 3,000 changes and the positions of 30 epochs.
    let (records, entries) = replayed(&job, 1);
    assert_eq!((records, entries.len()), (3_030, 3_000));
    // Five epochs that the first machine has not seen.
    let (mut committer, ..) = job.open(1);
    epochs(&mut *committer, 31..36);
    drop(committer);
    let (records, entries) = replayed(&job, 0);
    assert!((505..=509).contains(&records), "{records} records are read where 505 are new");
    assert_eq!(entries.len(), 3_500);
}

#[test]
fn everything_wrong_with_a_changelog_is_told_at_once_with_the_command_that_mends_it() {
    let job = Job::new("settings");
    let settings = [("cleanup.policy", "compact,delete"), ("delete.retention.ms", "60000")];
    topics::create_with(&properties(), &job.changelog(), Some(4), &settings).unwrap();
    let CommitError::Config(text) = restore(&mut *kindling::output::open(job.spec(0)).unwrap()).unwrap_err() else { panic!() };
    for says in [
        job.changelog().as_str(),
        "cleanup.policy is compact,delete and must be compact",
        "delete.retention.ms is 60000 and must be at least 86400000",
        "--add-config cleanup.policy=compact,delete.retention.ms=86400000",
    ] {
        assert!(text.contains(says), "`{says}` is not in: {text}");
    }
    // Larger records, where the connection asks for them.
    let job = Job::new("large");
    drop(job.open(0));
    let mut spec = job.spec(0);
    let SinkSpec::Kafka { properties, .. } = &mut spec.sink else { panic!() };
    properties.insert("message.max.bytes".into(), "4000000".into());
    let rejects = spec.rejects.take();
    let CommitError::Config(text) = restore(&mut *kindling::output::open(spec.clone()).unwrap()).unwrap_err() else { panic!() };
    assert!(text.contains("max.message.bytes is 1048588 and must be at least 4000000"), "{text}");
    drop(rejects);
    // A changelog that is made is made so.
    let job = Job::new("larger");
    let mut spec = job.spec(0);
    spec.rejects = None;
    let SinkSpec::Kafka { properties, .. } = &mut spec.sink else { panic!() };
    properties.insert("message.max.bytes".into(), "4000000".into());
    let mut committer = kindling::output::open(spec).unwrap();
    restore(&mut *committer).unwrap();
    committer.commit(epoch(1, &[("a", Some(&"x".repeat(2_000_000)))])).unwrap();
}

#[test]
fn a_tree_that_was_changed_on_the_disk_is_made_anew_from_the_changelog() {
    let job = Job::new("changed");
    let (mut committer, ..) = job.open(0);
    let names: Vec<String> = (0..2_000).map(|k| format!("{}{k:05}", ["a", "b", "c", "d"][k % 4])).collect();
    let changes: Vec<(&str, Option<&str>)> = names.iter().map(|k| (k.as_str(), Some("a state of some length"))).collect();
    committer.commit(epoch(1, &changes)).unwrap();
    drop(committer);
    let want = job.open(1).1;
    let folder = job.spec(0).tree_path();
    let files = files_below(&folder).into_iter().map(|f| folder.join(f));
    let whole: Vec<_> = files.map(|f| (f.clone(), std::fs::read(f).unwrap())).collect();
    for (file, bytes) in whole.iter().filter(|(_, b)| !b.is_empty()) {
        for at in [0, bytes.len() / 3, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            std::fs::write(file, changed).unwrap();
            let mut committer = kindling::output::open(job.spec(0)).unwrap();
            // As the job does: where it is told to go back to the last epoch, it does.
            let entries = match restore(&mut *committer) {
                Err(CommitError::Aborted(_)) => restore(&mut *committer).unwrap().0,
                first => first.unwrap().0,
            };
            assert!(entries == want, "{} byte {at}: {} entries of {}", file.display(), entries.len(), want.len());
            drop(committer);
        }
    }
}
