//! Records that nobody would wish for: of ten megabytes, without a value, without a key, broken by the hundred thousand.

use crate::support::*;
use crate::{counted, says};
use kindling::output::topics;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use std::time::{Duration, Instant};

const START: i64 = 1_760_000_000_000;
const LARGE: usize = 10 << 20;

/// Key and value.
type Raw<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Sends records as they are, to partition 0.
fn send_raw(topic: &str, records: &[Raw<'_>]) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("message.max.bytes", "20000000");
    let producer: BaseProducer = config.create().expect("a producer");
    for (key, value) in records {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(0);
        (record.key, record.payload) = (*key, *value);
        assert!(producer.send(record).is_ok());
        producer.flush(Duration::from_secs(30)).expect("delivered");
    }
}

/// Rejects by their offset.
fn rejects_of(topic: &str) -> Vec<Value> {
    let records = read_committed(&format!("{topic}-rejects"));
    let mut rejects: Vec<Value> = records.iter().map(|r| serde_json::from_str(r).expect("JSON")).collect();
    rejects.sort_by_key(|r| r["offset"].as_i64());
    rejects
}

#[test]
fn records_of_ten_megabytes_come_in_and_go_to_the_rejects_whole_or_with_their_place() {
    let _alone = alone();
    let topic = unique("large");
    let properties = [("bootstrap.servers".to_owned(), brokers())].into_iter().collect();
    topics::create_with(&properties, &topic, Some(1), &[("max.message.bytes", "12000000")]).expect("made");
    let pad = "x".repeat(LARGE);
    let event =
        |more: &str| format!(r#"{{"st":{START},"experimentGroup":"g","experimentName":"n","experimentBucket":"b0"{more}}}"#);
    let good = event(&format!(r#","pad":"{pad}""#));
    let broken = format!(r#"{{"st":"{pad}"#);
    let bytes = vec![0xfe_u8; LARGE];
    let small = event("");
    send_raw(
        &topic,
        &[
            (Some(b"k"), Some(small.as_bytes())),
            (Some(b"k"), Some(good.as_bytes())),
            (Some(b"k"), Some(broken.as_bytes())),
            (None, Some(&bytes)),
            (None, Some(good.as_bytes())),
            (None, Some(small.as_bytes())),
        ],
    );
    // What the connection does not let through is left out and told with its place; the job goes on.
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    job.run_to_end();
    assert_same(&counts(&read_committed(&format!("{topic}-out"))), &counted([(START, 0); 4]));
    let rejects = rejects_of(&topic);
    assert_eq!(rejects.len(), 2, "{}", job.log_text());
    for (reject, (offset, length)) in rejects.iter().zip([(2, broken.len()), (3, LARGE)]) {
        assert_eq!(
            (&reject["topic"], &reject["partition"], &reject["offset"]),
            (&topic.as_str().into(), &0.into(), &offset.into())
        );
        assert_eq!((&reject["value"], &reject["valueBytes"]), (&Value::Null, &length.into()));
        assert!(reject["leftOut"].as_str().expect("text").contains("message.max.bytes of the connection, 1000000"), "{reject}");
        assert!(reject["reason"].as_str().is_some_and(|r| !r.is_empty() && r.len() < 500), "{reject}");
    }
    // A connection that lets them through has topics made that do, too.
    let connection = format!("brokers: '{}', properties: {{ message.max.bytes: '16000000' }}", brokers());
    let other = unique("large-whole");
    let pipeline = counts_pipeline_over(&connection, &other, &topic, "");
    let job = Job::new(&pipeline.replace(&format!("{topic}-"), &format!("{other}-")));
    job.run_to_end();
    assert_same(&counts(&read_committed(&format!("{other}-out"))), &counted([(START, 0); 4]));
    let rejects = rejects_of(&other);
    assert!(rejects[0]["value"] == broken.as_str() && rejects[0]["key"] == "k", "the raw text is in the reject");
    let coded = rejects[1]["valueBase64"].as_str().expect("bytes");
    assert_eq!(coded, "/v7+".repeat(LARGE / 3) + "/g==", "the raw bytes are in the reject");
}

#[test]
fn tombstones_empty_values_and_null_keys_are_rows_like_others() {
    let _alone = alone();
    let topic = unique("empty");
    create_topic(&topic, 1);
    let small = crate::event(START, 0);
    let long = vec![b'k'; 100_000];
    let of = |value: &'static [u8]| (None, Some(value));
    send_raw(
        &topic,
        &[
            (Some(b"k"), None),
            (None, None),
            (Some(b""), Some(b"")),
            of(b""),
            of(b" "),
            of(b"null"),
            of(b"{}"),
            of(b"[]"),
            of(b"\0"),
            (Some(b"\xff\0"), Some(small.as_bytes())),
            (Some(&long), Some(small.as_bytes())),
            (None, Some(small.as_bytes())),
        ],
    );
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    job.run_to_end();
    assert_same(&counts(&read_committed(&format!("{topic}-out"))), &counted([(START, 0); 3]));
    let rejects = rejects_of(&topic);
    let seen: Vec<(i64, Value, Value)> =
        rejects.iter().map(|r| (r["offset"].as_i64().expect("an offset"), r["key"].clone(), r["value"].clone())).collect();
    let null = || Value::Null;
    let row = |offset: i64, value: &str| (offset, null(), Value::from(value));
    let want = [
        (0, "k".into(), null()),
        (1, null(), null()),
        (2, "".into(), "".into()),
        row(3, ""),
        row(4, " "),
        row(5, "null"),
        row(6, "{}"),
        row(7, "[]"),
        row(8, "\0"),
    ];
    assert_eq!(seen, want);
    assert!(rejects.iter().all(|r| r["reason"].as_str().is_some_and(|t| !t.is_empty())), "{rejects:?}");
}

/// Runs to the end of the topic; the peak of the process's memory in MiB.
fn peak_of_run(job: &Job) -> u64 {
    let mut child = job.start(&["--until-end"]);
    let (mut peak, status) = (0, format!("/proc/{}/status", child.id()));
    while child.try_wait().expect("a status").is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let kib = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) >> 10);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(job.exit_code(child), Some(0), "{}", job.log_text());
    peak
}

#[test]
fn a_hundred_thousand_broken_rows_in_a_row_stall_nothing_and_each_is_there() {
    let _alone = alone();
    let topic = unique("broken");
    create_topic(&topic, 4);
    let producer = producer();
    let good: Vec<(i64, i64)> = (0..100_000).map(|n| (START + n, n % 5)).collect();
    for (n, (time, bucket)) in good.iter().enumerate() {
        if n == 50_000 {
            // All kinds, and nothing else for a long while.
            for b in 0..100_000 {
                let value = match b % 4 {
                    0 => format!(r#"{{"st":{START},"experimentGroup":{b}"#),
                    1 => format!(r#"{{"st":"{b}","experimentGroup":"g"}}"#),
                    2 => format!("{b} is not JSON"),
                    _ => format!(r#"{{"st":{START},"experimentGroup":{{"b":{b}}}}}"#),
                };
                send(&producer, &topic, b % 4, value.as_bytes());
            }
        }
        send(&producer, &topic, n % 4, crate::event(*time, *bucket).as_bytes());
    }
    producer.flush(Duration::from_secs(60)).expect("delivered");
    let job = Job::new(&counts_pipeline(&topic, &topic, ""));
    let started = Instant::now();
    let peak = peak_of_run(&job);
    let took = started.elapsed();
    println!("200,000 rows, half of them broken: {took:?}, peak {peak} MiB");
    assert_same(&counts(&read_committed(&format!("{topic}-out"))), &counted(good));
    let mut offsets: Vec<(i64, i64)> = rejects_of(&topic)
        .iter()
        .map(|r| (r["partition"].as_i64().expect("a partition"), r["offset"].as_i64().expect("an offset")))
        .collect();
    offsets.sort_unstable();
    let want: Vec<(i64, i64)> = (0..4).flat_map(|p| (12_500..37_500).map(move |o| (p, o))).collect();
    assert!(offsets == want, "{} rejects", offsets.len());
    says(&job, &["rejects=100000"]);
    assert!(job.log_text().len() < 20_000, "a line for each broken row helps nobody: {}", &job.log_text()[..2_000]);
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(peak < 400, "{peak} MiB");
}
