//! A changelog topic that is deleted or made anew, while the job is stopped or runs. State is never taken for none: it is written anew from the local
//! tree, or the job says what is lost and what to do.

use crate::support::own_broker::OwnBroker;
use crate::support::*;
use crate::topics::{delete, results, stretch};
use crate::{counted, says, send_events};
use kindling::output::{replay, topics};
use kindling::state::tree::Tree;
use rdkafka::producer::{BaseRecord, Producer};
use std::collections::BTreeSet;
use std::process::{Child, Command};
use std::time::Duration;

const REBUILT: &str = "It is written anew from the local tree";

fn changelog(topic: &str) -> String {
    format!("kindling-default-{topic}-changelog")
}

/// A job over `topic` that has given the first 30 windows and counts on.
fn running(topic: &str) -> (Job, Child) {
    create_topic(topic, 1);
    send_events(topic, 0, &stretch(0, 65));
    let job = Job::new(&counts_pipeline(topic, topic, ""));
    let child = job.start(&["--idle-after", "5min"]);
    eventually("the first windows", || results(topic).len() == 30);
    (job, child)
}

/// As [`running`], and stopped.
fn stopped(name: &str) -> (Job, String) {
    let topic = unique(name);
    let (job, child) = running(&topic);
    job.stop(child);
    (job, topic)
}

/// Runs to the end on a machine without a tree: the changelog must have everything.
fn ends_elsewhere(job: &Job, topic: &str, seconds: i64) {
    let child = job.start_in("elsewhere", &["--until-end"]);
    assert_eq!(job.exit_code(child), Some(0), "{}", job.log_text());
    assert_same(&counts(&results(topic)), &counted(stretch(0, seconds)));
}

fn lost(job: &Job, child: Child, topic: &str, parts: &[&str]) {
    assert_eq!(job.exit_code(child), Some(5), "{}", job.log_text());
    says(job, &[&format!("job default/{topic}: "), "--restore SAVEPOINT --replace", "--drop-state window_aggregate"]);
    says(job, parts);
    assert_eq!(results(topic).len(), 30, "nothing is given that is not known");
}

#[test]
fn deleted_while_the_job_is_stopped_it_is_written_anew_from_a_tree_that_has_all() {
    let _alone = alone();
    let (job, topic) = stopped("log-tree");
    delete(&changelog(&topic));
    send_events(&topic, 0, &stretch(65, 30));
    let child = job.start(&["--idle-after", "5min"]);
    eventually("the next windows", || results(&topic).len() == 45);
    job.stop(child);
    says(&job, &[&changelog(&topic), REBUILT]);
    ends_elsewhere(&job, &topic, 95);
}

#[test]
fn deleted_while_the_job_is_stopped_and_without_a_tree_it_is_told_as_lost() {
    let _alone = alone();
    let (job, topic) = stopped("log-gone");
    let kindling = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
        assert!(command.current_dir(job.dir.path()).args(args).status().expect("it runs").success(), "{args:?}");
    };
    kindling(&["savepoint", "pipeline.yaml", "--to", "before.savepoint"]);
    delete(&changelog(&topic));
    std::fs::remove_dir_all(job.dir.path().join("data")).expect("removed");
    let gone = format!("topic {}, the log of its state, has nothing, but its consumer group's offsets", changelog(&topic));
    // Again as a supervisor would, with the empty topic that the first start has made.
    for _ in 0..2 {
        lost(&job, job.start(&["--until-end"]), &topic, &[&gone, "there is no local tree in data/default"]);
    }
    // A place in the input alone says nothing of the state.
    lost(&job, job.start(&["--until-end", "--from", "earliest", "--keep-state"]), &topic, &[]);
    let child = job.start(&["--until-end", "--restore", "before.savepoint", "--replace"]);
    assert_eq!(job.exit_code(child), Some(0), "{}", job.log_text());
    assert_same(&counts(&results(&topic)), &counted(stretch(0, 65)));
}

#[test]
fn deleted_while_the_job_is_stopped_a_tree_that_is_behind_is_a_savepoint() {
    let _alone = alone();
    let (job, topic) = stopped("log-behind");
    let (data, aside) = (job.dir.path().join("data"), job.dir.path().join("aside"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("copied").success());
    };
    copy(&data, &aside);
    send_events(&topic, 0, &stretch(65, 1));
    let child = job.start(&["--idle-after", "5min"]);
    job.wait_for("restored", 2);
    std::thread::sleep(Duration::from_secs(2));
    job.stop(child);
    std::fs::remove_dir_all(&data).expect("removed");
    copy(&aside, &data);
    delete(&changelog(&topic));
    lost(&job, job.start(&["--until-end"]), &topic, &["and may be behind", "--from-tree"]);
    let mut savepoint = Command::new(env!("CARGO_BIN_EXE_kindling"));
    savepoint.current_dir(job.dir.path()).args(["savepoint", "pipeline.yaml", "--to", "tree.savepoint", "--data-dir", "data"]);
    assert!(!savepoint.status().expect("it runs").success(), "the changelog has nothing");
    assert!(savepoint.arg("--from-tree").status().expect("it runs").success());
    let child = job.start(&["--until-end", "--restore", "tree.savepoint", "--replace"]);
    assert_eq!(job.exit_code(child), Some(0), "{}", job.log_text());
    assert_same(&counts(&results(&topic)), &counted(stretch(0, 66)));
}

#[test]
fn without_state_it_begins_anew_where_it_is_told() {
    let _alone = alone();
    let (job, topic) = stopped("log-drop");
    delete(&changelog(&topic));
    std::fs::remove_dir_all(job.dir.path().join("data")).expect("removed");
    let child = job.start(&["--until-end", "--from", "earliest", "--drop-state", "window_aggregate"]);
    assert_eq!(job.exit_code(child), Some(0), "{}", job.log_text());
    let all = results(&topic);
    let different: BTreeSet<&String> = all.iter().collect();
    // What was given before came once more.
    assert_eq!(all.len(), different.len() + 30);
    assert_same(&counts(&different.into_iter().cloned().collect::<Vec<_>>()), &counted(stretch(0, 65)));
}

#[test]
fn deleted_while_the_job_runs_it_is_written_anew_and_the_job_goes_on() {
    let _alone = alone();
    let topic = unique("log-under");
    let (job, child) = running(&topic);
    delete(&changelog(&topic));
    send_events(&topic, 0, &stretch(65, 30));
    eventually("the next windows", || results(&topic).len() == 45);
    job.stop(child);
    says(&job, &[&changelog(&topic), REBUILT]);
    ends_elsewhere(&job, &topic, 95);
}

/// Runs `run` where the broker that all tests share is that of the thread.
fn on_the_shared_broker<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(run).join().expect("it went well"))
}

#[test]
fn with_a_source_on_another_cluster_it_is_written_anew_or_told_as_lost_all_the_same() {
    let _alone = alone();
    let source = brokers();
    let _sinks = OwnBroker::start(&[]);
    let topic = unique("log-apart");
    let send = |from, seconds| on_the_shared_broker(|| send_events(&topic, 0, &stretch(from, seconds)));
    on_the_shared_broker(|| create_topic(&topic, 1));
    send(0, 65);
    let here = format!("brokers: '{}', topic: {topic},", brokers());
    let text = counts_pipeline(&topic, &topic, "");
    assert!(text.contains(&here), "{text}");
    let job = Job::new(&text.replace(&here, &format!("brokers: '{source}', topic: {topic},")));
    let child = job.start(&["--idle-after", "5min"]);
    eventually("the first windows", || results(&topic).len() == 30);
    job.stop(child);
    let (data, aside) = (job.dir.path().join("data"), job.dir.path().join("aside"));

    // Without a tree nobody has the state: told, again and again.
    std::fs::rename(&data, &aside).expect("moved");
    delete(&changelog(&topic));
    let gone = format!("topic {}, the log of its state, has nothing, but its consumer group's offsets", changelog(&topic));
    for _ in 0..2 {
        lost(&job, job.start(&["--until-end"]), &topic, &[&gone, "there is no local tree in data/default"]);
    }
    // With the tree, which has all, it is written anew, and then does without.
    std::fs::remove_dir_all(&data).expect("removed");
    std::fs::rename(&aside, &data).expect("moved back");
    send(65, 30);
    let child = job.start(&["--idle-after", "5min"]);
    eventually("the next windows", || results(&topic).len() == 45);
    job.stop(child);
    says(&job, &[&changelog(&topic), REBUILT]);
    ends_elsewhere(&job, &topic, 95);
}

#[test]
fn made_anew_by_a_broker_that_makes_topics_by_itself_it_is_refused_until_it_is_deleted() {
    let _alone = alone();
    let _broker = OwnBroker::start(&["auto.create.topics.enable=true"]);
    let topic = unique("log-auto");
    let (job, mut child) = running(&topic);
    let log = changelog(&topic);
    delete(&log);
    let mut seconds = 65;
    eventually("it ends, or has written its log anew", || {
        send_events(&topic, 0, &stretch(seconds, 10));
        seconds += 10;
        std::thread::sleep(Duration::from_millis(500));
        child.try_wait().expect("a status").is_some() || job.log_text().contains(REBUILT)
    });
    if child.try_wait().expect("a status").is_some() {
        assert_eq!(job.exit_code(child), Some(2), "{}", job.log_text());
        says(&job, &[&log, "cleanup.policy is delete and must be compact"]);
        delete(&log);
        child = job.start(&["--idle-after", "5min"]);
        job.wait_for(REBUILT, 1);
    }
    job.stop(child);
    ends_elsewhere(&job, &topic, seconds);
}

#[test]
fn made_anew_while_the_job_runs_it_is_written_anew_and_the_job_goes_on() {
    let _alone = alone();
    let topic = unique("log-anew");
    let (job, child) = running(&topic);
    let process = child.id().to_string();
    signal(&process, "-STOP");
    delete(&changelog(&topic));
    let properties = [("bootstrap.servers".to_owned(), brokers())].into_iter().collect();
    let settings = [("cleanup.policy", "compact"), ("delete.retention.ms", "86400000")];
    eventually("the topic is gone, and made anew", || {
        topics::create_with(&properties, &changelog(&topic), Some(4), &settings).is_ok_and(|made| made)
    });
    send_events(&topic, 0, &stretch(65, 30));
    signal(&process, "-CONT");
    eventually("the next windows", || results(&topic).len() == 45);
    job.stop(child);
    says(&job, &[&changelog(&topic), REBUILT]);
    ends_elsewhere(&job, &topic, 95);
}

#[test]
fn a_changelog_that_has_lost_a_part_of_the_state_is_told() {
    let _alone = alone();
    let (job, topic) = stopped("log-part");
    // One key of the state, by a record that no epoch wrote.
    let log = changelog(&topic);
    let (partition, key) = entry_of(&log);
    let producer = producer();
    let removal: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&log).partition(partition).key(&key);
    assert!(producer.send(removal).is_ok());
    producer.flush(Duration::from_secs(30)).expect("delivered");
    let child = job.start_in("elsewhere", &["--until-end"]);
    lost(&job, child, &topic, &["5 entries of state were committed, and its log has 4"]);
}

/// Partition and key of an entry of the state in a changelog.
fn entry_of(log: &str) -> (i32, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a folder");
    let tree = Tree::open(dir.path()).expect("a tree");
    let properties = [("bootstrap.servers".to_owned(), brokers())].into_iter().collect();
    replay::read_all(&properties, log, &tree, &mut |_| {}, None).expect("read");
    let mut last = None;
    tree.entries(&mut |change| last = Some((i32::from(change.shard), change.key))).expect("read");
    last.expect("the windows that are open")
}
