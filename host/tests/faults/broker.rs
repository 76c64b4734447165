//! A broker that dies, hangs, or gives up a transaction. Each test has a broker of its own.

use crate::support::own_broker::OwnBroker;
use crate::{says, support::*};
use kindling::config::spec::GenerateSpec;
use std::process::Child;
use std::time::Duration;

const WINDOW: i64 = 10_000;
const OUT_OF_ORDERNESS: i64 = 3_000;

fn check(topic: &str, spec: &GenerateSpec) {
    let (want, late, rejected) = expected(spec, WINDOW, OUT_OF_ORDERNESS);
    assert_eq!(read_committed(topic).len() as u64, spec.rows.expect("bounded"), "events in the topic");
    let late_and_rejects = ["late", "rejects"].map(|side| read_committed(&format!("{topic}-{side}")).len() as u64);
    assert_eq!(late_and_rejects, [late, rejected], "late rows and rejects");
    assert_same(&counts(&read_committed(&format!("{topic}-out"))), &want);
}

/// Events that come in parts, one for each fault: however fast the machine is, the job has epochs to commit when the fault comes.
struct Feed {
    topic: String,
    spec: GenerateSpec,
    produced: u64,
}

/// Rows of a part, in small epochs: two hundred of them.
const PART: u64 = 20_000;
const SMALL_EPOCHS: [&str; 4] = ["--epoch-rows", "100", "--epoch", "5ms"];

impl Feed {
    fn new(name: &str, parts: u64) -> Self {
        let (topic, spec) = (unique(name), events(parts * PART, 1_000));
        create_topic(&topic, 4);
        Self { topic, spec, produced: 0 }
    }

    /// One more part; waits until the job has committed the first of what comes of it.
    fn goes_on(&mut self, child: &mut Child, job: &Job) {
        let results = || read_committed(&format!("{}-out", self.topic)).len();
        let before = results();
        produce(&self.spec, &self.topic, self.produced, self.produced + PART);
        self.produced += PART;
        eventually("more results", || results() > before || child.try_wait().expect("a status").is_some());
        assert!(child.try_wait().expect("a status").is_none(), "it ended: {}", job.log_text());
    }

    /// What is left of the parts, to the end.
    fn ends(self, job: &Job) {
        produce(&self.spec, &self.topic, self.produced, self.spec.rows.expect("bounded"));
        job.run_to_end();
        check(&self.topic, &self.spec);
    }
}

#[test]
fn a_broker_killed_while_epochs_commit_loses_nothing_and_doubles_nothing() {
    let _alone = alone();
    let broker = OwnBroker::start(&[]);
    let mut feed = Feed::new("killed-broker", 5);
    let job = Job::new(&counts_pipeline(&feed.topic, &feed.topic, ""));
    let mut child = job.start(&SMALL_EPOCHS);
    job.wait_for("restored", 1);
    for _ in 0..3 {
        feed.goes_on(&mut child, &job);
        broker.kill();
        broker.restart();
    }
    feed.goes_on(&mut child, &job);
    job.stop(child);
    feed.ends(&job);
}

#[test]
fn a_broker_that_hangs_again_and_again_only_slows_the_job() {
    let _alone = alone();
    let broker = OwnBroker::start(&[]);
    let mut feed = Feed::new("slow-broker", 5);
    let job = Job::new(&counts_pipeline(&feed.topic, &feed.topic, ""));
    let mut child = job.start(&SMALL_EPOCHS);
    job.wait_for("restored", 1);
    // Short stops and one that is longer than any single answer should take.
    for stop in [300, 1_500, 4_000] {
        feed.goes_on(&mut child, &job);
        signal(&broker.process(), "-STOP");
        std::thread::sleep(Duration::from_millis(stop));
        signal(&broker.process(), "-CONT");
        std::thread::sleep(Duration::from_millis(300));
    }
    feed.goes_on(&mut child, &job);
    job.stop(child);
    feed.ends(&job);
}

#[test]
fn a_process_that_stood_still_for_longer_than_its_transaction_may_commits_nothing_twice() {
    let _alone = alone();
    let _broker = OwnBroker::start(&["transaction.abort.timed.out.transaction.cleanup.interval.ms=200"]);
    let mut feed = Feed::new("stood-still", 8);
    let connection = format!("brokers: '{}', properties: {{ transaction.timeout.ms: '2000' }}", brokers());
    let job = Job::new(&counts_pipeline_over(&connection, &feed.topic, &feed.topic, ""));
    let mut child = job.start(&SMALL_EPOCHS);
    job.wait_for("restored", 1);
    let process = child.id().to_string();
    // Stopped between two transactions it goes on as if nothing had been; within one, what it was about to commit is given up by the broker.
    let said = |text: &str| job.log_text().contains(text);
    for _ in 0..6 {
        feed.goes_on(&mut child, &job);
        signal(&process, "-STOP");
        std::thread::sleep(Duration::from_millis(3_500));
        signal(&process, "-CONT");
        std::thread::sleep(Duration::from_millis(1_000));
        if child.try_wait().expect("a status").is_some() || said("going back to the last committed epoch") {
            break;
        }
    }
    match child.try_wait().expect("a status") {
        // Records that had waited too long: the process itself notices, and does the epoch again.
        None => {
            assert!(said("going back to the last committed epoch"), "{}", job.log_text());
            feed.goes_on(&mut child, &job);
            job.stop(child);
        }
        // The broker has given its place away, as it does where another process takes over: nobody can tell the two apart.
        Some(status) => {
            assert_eq!(status.code(), Some(4), "{}", job.log_text());
            says(&job, &["another process runs this job now, or this one stood still for longer than `transaction.timeout.ms`"]);
        }
    }
    feed.ends(&job);
}
