//! Pipeline files as people write them, right and wrong.

use super::spec::{CalendarUnit, Emit, KafkaSourceSpec, Operation, OutputMode, SourceSpec, WindowAggregateSpec, WindowKind};
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
    let five_minutes = Duration::from_secs(300);
    assert_eq!(window.kind.value, WindowKind::Hopping { duration: five_minutes, slide: five_minutes });
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
fn state_has_a_budget_of_memory() {
    let memory = |sets: &[(&str, &str)]| load_text(PRINTED, sets).map(|p| p.state.memory);
    assert_eq!(memory(&[]), Ok(None));
    assert_eq!(memory(&[("state.memory", "256MiB")]), Ok(Some(256 << 20)));
    assert_eq!(memory(&[("state", "{ memory: unlimited }")]), Ok(Some(usize::MAX)));
    for (value, says) in
        [("12 parsecs", "`memory`: `12 parsecs` is not a size"), ("64KiB", "at least 1.0 MiB"), ("[1]", "must be text")]
    {
        let error = memory(&[("state.memory", value)]).unwrap_err();
        assert!(error.contains(says), "{value}: {error}");
    }
    let error = memory(&[("state.memori", "1GiB")]).unwrap_err();
    assert!(error.contains("did you mean `memory`?"), "{error}");
}

#[test]
fn windows_that_cannot_be() {
    for (slide, says) in [("0s", "longer than 0"), ("6.minutes", "rows between two windows"), ("7ms", "more than 100000 panes")] {
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

/// The windows of a pipeline whose `window` and fields beside it are given.
fn windows(window: &str, beside: &str) -> Result<WindowAggregateSpec, String> {
    let text = format!(
        "source: {{ name: stdin }}\npipeline:\n  - operation: window_aggregate\n    window: {window}\n    {beside}\n    \
         groupByKeys: [k]\n    aggregations: [{{ reducer: count, outputColumn: n }}]\n"
    );
    load_text(&text, &[]).map(|p| match p.operations.into_iter().next().unwrap().value {
        Operation::WindowAggregate(spec) => spec,
        other => panic!("{other:?}"),
    })
}

#[test]
fn every_kind_of_window_is_read() {
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    let berlin = chrono_tz::Tz::Europe__Berlin;
    for (text, kind) in [
        ("duration: 1.hour", WindowKind::Hopping { duration: hour, slide: hour }),
        ("type: tumbling, duration: 1.hour", WindowKind::Hopping { duration: hour, slide: hour }),
        ("type: hopping, duration: 1.hour, slideDuration: 1.minute", WindowKind::Hopping { duration: hour, slide: minute }),
        ("type: session, gap: 1.minute", WindowKind::Session { gap: minute }),
        ("type: cumulative, size: 1.hour, step: 1.minute", WindowKind::Cumulative { size: hour, step: minute }),
        ("duration: 1.day, timezone: Europe/Berlin", WindowKind::Calendar { unit: CalendarUnit::Day, count: 1, zone: berlin }),
        (
            "duration: 2.weeks, timezone: UTC",
            WindowKind::Calendar { unit: CalendarUnit::Week, count: 2, zone: chrono_tz::Tz::UTC },
        ),
        ("duration: 1.year", WindowKind::Calendar { unit: CalendarUnit::Month, count: 12, zone: chrono_tz::Tz::UTC }),
    ] {
        let spec = windows(&format!("{{ {text}, timestampColumn: t, watermark: 1s }}"), "").unwrap();
        assert_eq!((spec.kind.value, spec.emit.value, spec.output.value), (kind, Emit::Final, OutputMode::Append), "{text}");
    }
    let spec = windows("{ type: count, every: 100, slide: 10, timestampColumn: t }", "ttl: 7.days").unwrap();
    assert_eq!((spec.kind.value, spec.ttl), (WindowKind::Count { every: 100, slide: 10 }, Some(24 * 7 * hour)));
    let spec = windows("{ type: global, timestampColumn: t }", "emit: onUpdate\n    ttl: 1.minute").unwrap();
    assert_eq!((spec.ttl, spec.processing_time), (Some(minute), false));
    assert_eq!((spec.kind.value, spec.emit.value, spec.output.value), (WindowKind::Global, Emit::OnUpdate, OutputMode::Upsert));
    let spec = windows("{ duration: 1m, time: processing }", "emit: { early: 10.seconds }\n    output: append").unwrap();
    assert!(spec.processing_time && spec.timestamp_column.is_none());
    assert_eq!((spec.emit.value, spec.output.value), (Emit::Early(Duration::from_secs(10)), OutputMode::Append));
}

#[test]
fn what_does_not_fit_together_is_told_with_its_line() {
    let event = "timestampColumn: t, watermark: 1s";
    for (window, beside, line, says) in [
        (format!("{{ type: sesion, {event} }}"), "", 4, "unknown type of window `sesion`; did you mean `session`?"),
        (format!("{{ type: session, gap: 0s, {event} }}"), "", 4, "`gap` must be longer than 0"),
        (format!("{{ type: session, {event} }}"), "", 4, "window needs `gap`"),
        (format!("{{ type: session, gap: 1m, duration: 1m, {event} }}"), "", 4, "unknown field `duration` in window"),
        (format!("{{ type: tumbling, duration: 1m, slideDuration: 1m, {event} }}"), "", 4, "unknown field `slideDuration`"),
        (format!("{{ type: hopping, duration: 1m, {event} }}"), "", 4, "a hopping window needs `slideDuration`"),
        (format!("{{ type: cumulative, size: 1h, step: 7m, {event} }}"), "", 4, "`step` must divide `size`"),
        (format!("{{ type: cumulative, size: 7d, step: 1ms, {event} }}"), "", 4, "more than 100000 panes"),
        ("{ type: global, timestampColumn: t }".into(), "ttl: 1d", 4, "a global window never closes"),
        ("{ type: global, timestampColumn: t }".into(), "emit: onUpdate", 4, "never ends: add `ttl: 7.days` beside `window`"),
        ("{ type: count, every: 2, timestampColumn: t }".into(), "", 4, "the state of a count window grows with each new key"),
        ("{ type: count, every: 2, timestampColumn: t }".into(), "ttl: 0s", 5, "`ttl` must be longer than 0"),
        ("{ type: count, every: 2, timestampColumn: t, ttl: 1d }".into(), "", 4, "`ttl` stands beside `window`"),
        (format!("{{ duration: 1m, {event} }}"), "ttl: 1d", 5, "the state of this window ends when it closes"),
        (format!("{{ type: session, gap: 1m, {event} }}"), "ttl: 1d", 5, "leave `ttl` out"),
        ("{ type: count, timestampColumn: t }".into(), "", 4, "a count window needs `every`"),
        ("{ type: count, every: 2, slide: 3, timestampColumn: t }".into(), "", 4, "`slide` from 1 to `every`"),
        (
            "{ type: count, every: 2, timestampColumn: t }".into(),
            "emit: onUpdate",
            5,
            "a count window has a result when it is full",
        ),
        (format!("{{ duration: 1h, timezone: Europe/Berlin, {event} }}"), "", 4, "whole days, weeks or months"),
        (format!("{{ duration: 1d, timezone: Europe/Berlim, {event} }}"), "", 4, "did you mean `Europe/Berlin`?"),
        (format!("{{ duration: 1d, slideDuration: 1h, timezone: UTC, {event} }}"), "", 4, "leave `slideDuration` out"),
        ("{ duration: 1m, time: processing, watermark: 1s }".into(), "", 4, "`watermark` is of event time"),
        ("{ duration: 1m, time: proccessing, timestampColumn: t, watermark: 1s }".into(), "", 4, "did you mean `processing`?"),
        (format!("{{ duration: 1m, {event} }}"), "emit: onupdate", 5, "did you mean `onUpdate`?"),
        (format!("{{ duration: 1m, {event} }}"), "emit: { early: 0s }", 5, "`early` must be longer than 0"),
        (format!("{{ duration: 1m, {event} }}"), "output: apend", 5, "did you mean `append`?"),
        (format!("{{ duration: 1d, slideDuration: 1s, {event} }}"), "emit: onUpdate", 5, "each row would change 86400 windows"),
    ] {
        let error = windows(&window, beside).unwrap_err();
        assert!(error.contains(says) && error.contains(&format!("p.yaml:{line}:")), "{window} {beside}: {error}");
    }
}

#[test]
fn operators_have_names_of_their_own() {
    let load = |first: &str, second: &str, third: &str| {
        let window = |name: &str| {
            format!(
                "  - operation: window_aggregate\n    window: {{ timestampColumn: st, duration: 1m, watermark: 0s }}\n    {name}\n    \
                 aggregations: [{{ reducer: count, outputColumn: n }}]\n"
            )
        };
        load_text(&format!("source: {{ name: stdin }}\npipeline:\n{}{}{}", window(first), window(second), window(third)), &[])
    };
    assert_eq!(load("", "name: hours", "").unwrap().operators, ["window_aggregate", "hours", "window_aggregate_2"]);
    let twice = load("name: hours", "", "name: hours").unwrap_err();
    assert!(twice.contains("there are two operators `hours`"), "{twice}");
}

#[test]
fn two_processes_have_outputs_of_different_names() {
    let process = "  - operation: process\n    plugin: p\n    keyBy: [a]\n    timestampColumn: ts\n    ttl: 1d\n    outputs: { quiet: { name: discard } }\n";
    let text = load_text(&format!("source: {{ name: stdin }}\npipeline:\n{process}{process}"), &[]).unwrap_err();
    assert!(text.contains("another process has an output `quiet`"), "{text}");
}
