//! Topics that change under a running job: more partitions, deleted ones, records that retention took.

use crate::support::*;
use crate::{admin, counted, says, send_events, wait};
use rdkafka::admin::NewPartitions;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const START: i64 = 1_760_000_000_000;

/// An event each 10 ms of `seconds` seconds from `from`, in five buckets.
pub fn stretch(from: i64, seconds: i64) -> Vec<(i64, i64)> {
    (0..seconds * 100).map(|n| (START + from * 1_000 + n * 10, n % 5)).collect()
}

fn grow(topic: &str, partitions: usize) {
    let (admin, options) = admin();
    let grown = wait(admin.create_partitions([&NewPartitions::new(topic, partitions)], &options)).expect("an answer");
    assert!(grown.iter().all(Result::is_ok), "{grown:?}");
}

pub fn delete(topic: &str) {
    let (admin, options) = admin();
    let deleted = wait(admin.delete_topics(&[topic], &options)).expect("an answer");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

pub fn results(topic: &str) -> Vec<String> {
    read_committed(&format!("{topic}-out"))
}

#[test]
fn partitions_that_a_topic_is_given_are_read_by_the_running_job_and_by_the_next() {
    let _alone = alone();
    let topic = unique("grown");
    create_topic(&topic, 2);
    let pipeline = counts_pipeline(&topic, &topic, "");
    // Only a new job begins at the end: what is in a new partition of an old one was not there to be passed over.
    let job = Job::new(&pipeline.replace("failOnDataLoss: false", "failOnDataLoss: false, startingOffsets: latest"));
    let child = job.start(&["--idle-after", "5min"]);
    job.wait_for("restored", 1);
    let mut sent = Vec::new();
    let mut to = |partition: usize, events: Vec<(i64, i64)>| {
        send_events(&topic, partition, &events);
        sent.extend(events);
    };
    to(0, stretch(0, 60));
    to(1, stretch(0, 60));
    eventually("windows of the first two partitions", || results(&topic).len() >= 25);
    grow(&topic, 4);
    to(2, stretch(50, 20));
    to(3, stretch(50, 20));
    job.wait_for("2 more partitions", 1);
    (0..4).for_each(|p| to(p, stretch(70, 60)));
    eventually("windows of all four", || results(&topic).len() >= 60);
    job.stop(child);
    grow(&topic, 5);
    to(4, stretch(130, 30));
    job.run_to_end();
    says(&job, &[&format!("{topic}/4 is new since the job last ran: it is read from offset 0")]);
    assert_same(&counts(&results(&topic)), &counted(sent));
    assert_eq!(read_committed(&format!("{topic}-late")).len(), 0);
}

#[test]
fn a_source_topic_that_is_deleted_ends_the_job_which_goes_on_with_one_made_anew() {
    let _alone = alone();
    let topic = unique("source-gone");
    create_topic(&topic, 1);
    send_events(&topic, 0, &stretch(0, 65));
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    let child = job.start(&["--idle-after", "5min"]);
    eventually("the first windows", || results(&topic).len() == 30);
    delete(&topic);
    assert_eq!(job.exit_code(child), Some(2), "{}", job.log_text());
    says(&job, &[&format!("topic `{topic}` is gone: was it deleted while the job ran?"), "--from earliest", "--keep-state"]);
    create_topic(&topic, 1);
    send_events(&topic, 0, &stretch(65, 40));
    let child = job.start(&["--until-end", "--from", "earliest", "--keep-state"]);
    assert_eq!(job.exit_code(child), Some(0), "{}", job.log_text());
    // What was read of the deleted one is counted with what is in the new one.
    assert_same(&counts(&results(&topic)), &counted(stretch(0, 105)));
}

#[test]
fn a_result_topic_that_is_deleted_is_made_anew_and_has_all_that_comes_after() {
    let _alone = alone();
    let topic = unique("sink-gone");
    create_topic(&topic, 1);
    send_events(&topic, 0, &stretch(0, 65));
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    let child = job.start(&["--idle-after", "5min"]);
    eventually("the first windows", || results(&topic).len() == 30);
    let before = counts(&results(&topic));
    delete(&format!("{topic}-out"));
    send_events(&topic, 0, &stretch(65, 60));
    let made = format!("made topic {topic}-out for the job's sink");
    eventually("the topic is made anew", || job.log_text().matches(&made).count() == 2);
    eventually("the next windows", || results(&topic).len() >= 30);
    job.stop(child);
    job.run_to_end();
    let mut all = counts(&results(&topic));
    for (key, count) in before {
        assert_eq!(all.insert(key.clone(), count), None, "{key:?} was given before and again");
    }
    assert_same(&all, &counted(stretch(0, 125)));
}

#[test]
fn unread_records_that_retention_took_are_told_and_skipped_only_where_the_pipeline_says_so() {
    let _alone = alone();
    let topic = unique("retention");
    create_topic(&topic, 2);
    (0..2).for_each(|p| send_events(&topic, p, &stretch(0, 20)));
    let lenient = counts_pipeline(&topic, &topic, "");
    let job = Job::new(&lenient.replace("failOnDataLoss: false", "failOnDataLoss: true"));
    job.run_to_end();
    (0..2).for_each(|p| send_events(&topic, p, &stretch(100, 50)));
    // 2,000 were read of partition 1; the next 1,500 go unread.
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 1, Offset::Offset(3_500)).expect("an offset");
    let (admin, options) = admin();
    wait(admin.delete_records(&list, &options)).expect("deleted");
    let child = job.start(&["--until-end"]);
    assert_eq!(job.exit_code(child), Some(5), "{}", job.log_text());
    let gone = format!("{topic}/1: offset 2000 is gone, 1500 records with it");
    says(&job, &[&gone, "the partition now holds offsets 3500 to 7000", "Set `failOnDataLoss: false`"]);
    std::fs::write(job.dir.path().join("pipeline.yaml"), lenient).expect("written");
    job.run_to_end();
    says(&job, &[&format!("{gone}; going on from 3500 (`failOnDataLoss: false`)")]);
    let all = stretch(0, 20).into_iter().chain(stretch(0, 20)).chain(stretch(100, 50)).chain(stretch(100, 50).split_off(1_500));
    assert_same(&counts(&results(&topic)), &counted(all));
}
