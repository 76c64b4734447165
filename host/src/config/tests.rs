//! Pipeline files as people write them, right and wrong.

use super::spec::{KafkaSourceSpec, Operation, SourceSpec};
use super::*;
use std::time::Duration;

/// As it comes from analysts' hands.
const PRINTED: &str = include_str!("../../../tests/pipelines/experiment_counts.yaml");
const CONNECTIONS: &str = include_str!("../../../tests/pipelines/kindling.yaml");

fn options(dir: &Path, sets: &[(&str, &str)]) -> LoadOptions {
    std::fs::write(dir.join("kindling.yaml"), CONNECTIONS).unwrap();
    LoadOptions {
        connections: Some(dir.join("kindling.yaml")),
        sets: sets.iter().map(|(p, v)| ((*p).to_owned(), (*v).to_owned())).collect(),
        env: |name| (name == "KAFKA_PASSWORD").then(|| "hidden".to_owned()),
    }
}

fn load_text(text: &str, sets: &[(&str, &str)]) -> Result<Pipeline, String> {
    let dir = tempfile::tempdir().unwrap();
    load_str(text, "p.yaml", &options(dir.path(), sets)).map_err(|e| e.to_string())
}

#[test]
fn the_printed_file_works() {
    let pipeline = load_text(PRINTED, &[]).unwrap();
    let SourceSpec::Kafka(KafkaSourceSpec { topic, fail_on_data_loss, properties, .. }) = &pipeline.source else { panic!() };
    assert_eq!((topic.as_str(), *fail_on_data_loss), ("quickfire-Experiment.Assignment", false));
    assert_eq!(properties["sasl.password"], "hidden");
    let [Operation::Parse(parse), Operation::WindowAggregate(window)] =
        [&pipeline.operations[0].value, &pipeline.operations[1].value]
    else {
        panic!()
    };
    assert_eq!(parse.columns.len(), 4);
    assert_eq!(
        (window.duration.value, window.slide.as_ref().unwrap().value),
        (Duration::from_secs(300), Duration::from_secs(300))
    );
    assert_eq!((pipeline.name.as_str(), pipeline.team.as_str(), &pipeline.sink), ("p", "default", &SinkSpec::Stdout));
}

#[test]
fn parameters_may_stand_one_level_out() {
    let outside = PRINTED.replace("      parameters:\n        - jsonPath: st", "    parameters:\n        - jsonPath: st");
    assert_ne!(outside, PRINTED);
    assert_eq!(format!("{:?}", load_text(&outside, &[]).unwrap().operations.len()), "2");
}

#[test]
fn fields_are_overridden() {
    let sets = [
        ("source.parameters.topic", "other"),
        ("pipeline[1].window.duration", "10.seconds"),
        ("pipeline[1].window.slideDuration", "5s"),
    ];
    let pipeline = load_text(PRINTED, &[sets.as_slice(), &[("sink.name", "discard")]].concat()).unwrap();
    assert_eq!(pipeline.sink, SinkSpec::Discard);
    let SourceSpec::Kafka(kafka) = &pipeline.source else { panic!() };
    assert_eq!(kafka.topic, "other");
    for (path, value, says) in [
        ("pipeline[7].window", "1", "--set: `pipeline[7].window`: the list has 2 items"),
        ("source.name.x", "1", "--set: `source.name.x` leads nowhere: `x` is asked of text"),
        ("source..x", "1", "is not a JSON path"),
    ] {
        let error = load_text(PRINTED, &[(path, value)]).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn every_fault_is_reported_at_once_with_its_place() {
    let text = "\
name: Bad Name
source:
  name: kafka-data-prd
  parameters: {}
pipeline:
  - operation: parse
    parse:
      inputCol: value
      parameters:
        - jsonPath: st
          outputTyp: long
          outputCol: st
        - { jsonPath: 'a..b', outputType: strin, outputCol: b }
  - operation: windowaggregate
  - operation: window_aggregate
    window: { timestampColumn: st, duration: 5.minuts, slideDuration: 0s, watermark: 1m }
    groupByKeys: [a]
    aggregations: [ { reducer: count } ]
extra: 1
";
    let error = load_text(text, &[]).unwrap_err();
    for says in [
        "p.yaml:1:7: `Bad Name` must be up to 100 of a-z",
        "  | name: Bad Name\n  |       ^",
        "p.yaml:3:9: no connection `kafka-data-prd`; did you mean `kafka-data-prod`?",
        "p.yaml:11:11: unknown field `outputTyp` in a column of parse; did you mean `outputType`?",
        "p.yaml:13:23: `a..b` is not a JSON path: a step is empty",
        "unknown outputType `strin`; did you mean `string`?",
        "p.yaml:14:16: unknown operation `windowaggregate`; did you mean `window_aggregate`?",
        "`duration`: `5.minuts` is not a duration: write for example `5.minutes`",
        "p.yaml:18:21: an aggregation needs `outputColumn`",
        "p.yaml:19:1: unknown field `extra` in the pipeline",
    ] {
        assert!(error.contains(says), "missing: {says}\n{error}");
    }
}

#[test]
fn secrets_come_from_the_environment_and_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), &[]);
    options.env = |_| None;
    let error = load_str(PRINTED, "p.yaml", &options).unwrap_err().to_string();
    assert!(error.contains("the environment has no variable KAFKA_PASSWORD"), "{error}");
    let error = load_text(&PRINTED.replace("topic:", "topik: ${KAFKA_PASSWORD} #"), &[]).unwrap_err();
    assert!(error.contains("unknown field `topik`") && !error.contains("hidden"), "{error}");
}

#[test]
fn how_partitions_wait_for_each_other() {
    let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
    let future = |p: &Pipeline| match &p.operations[1].value {
        Operation::WindowAggregate(window) => window.max_future,
        _ => panic!(),
    };
    let pipeline = load_text(PRINTED, &[]).unwrap();
    assert_eq!((pipeline.pace, future(&pipeline)), (spec::PaceSpec::default(), day));
    let sets = [
        ("source.parameters.idleAfter", "1.minute"),
        ("source.parameters.maxDrift", "1.day"),
        ("pipeline[1].window.maxFuture", "0s"),
    ];
    let pipeline = load_text(PRINTED, &sets).unwrap();
    assert_eq!((pipeline.pace.idle_after, pipeline.pace.max_drift), (Some(minute), Some(day)));
    assert_eq!(future(&pipeline), Duration::ZERO);
    let error = load_text(PRINTED, &[("source.parameters.maxDrift", "0s")]).unwrap_err();
    assert!(error.contains("`maxDrift` must be longer than 0"), "{error}");
    let error = load_text(PRINTED, &[("source.parameters.idleafter", "1s")]).unwrap_err();
    assert!(error.contains("did you mean `idleAfter`?"), "{error}");
}

#[test]
fn windows_that_cannot_be() {
    for (slide, says) in [("0s", "longer than 0"), ("6.minutes", "rows between two windows"), ("7ms", "more than 10000 panes")] {
        let error = load_text(PRINTED, &[("pipeline[1].window.slideDuration", slide)]).unwrap_err();
        assert!(error.contains(says), "{slide}: {error}");
    }
}

#[test]
fn no_bytes_make_it_panic() {
    for end in 0..PRINTED.len() {
        let _ = load_text(&PRINTED[..end], &[]);
    }
    let mut random = 1u64;
    for _ in 0..500 {
        let mut bytes = PRINTED.as_bytes().to_vec();
        for _ in 0..4 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 33) as usize % bytes.len();
            bytes[at] = b"\n :-[]{}'\"&*#|>%@`\x00\xc3"[(random >> 20) as usize % 20];
        }
        let _ = load_text(&String::from_utf8_lossy(&bytes), &[]);
    }
}
