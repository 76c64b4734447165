//! What decoding costs: ns of CPU a row (least and median of the repeats) over rows of about 200 bytes, four of nine fields wanted.
//!
//! Measured: bytes in memory to columns (`Decoder`), beside serde_json's check of the same rows, and
//! UTF-8 validation alone. Not measured: fetching, filtering. One thread; `cargo run --release --example decode_cost [rows]`.

use kindling::element::{OwnedRecord, OwnedRecords, PartitionName, RawBatch};
use kindling::ingest::decode::Decoder;
use kindling::plan::{DecodeField, FieldSource, OutputType, PathStep};
use rows::row;
use std::hint::black_box;

mod rows;

const BATCH_ROWS: usize = 8_192;
const REPEATS: usize = 9;
fn main() {
    let rows: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(200_000);
    let values: Vec<Vec<u8>> = (0..rows as u64).map(row).collect();
    let bytes: usize = values.iter().map(Vec::len).sum();
    println!("{rows} rows of {:.0} bytes: {}", bytes as f64 / rows as f64, String::from_utf8_lossy(&values[0]));

    let json = |path: &[&str], output| FieldSource::Json {
        in_key: false,
        path: path.iter().map(|p| PathStep::Member((*p).into())).collect(),
        output,
    };
    let field = |name: &str, from| DecodeField { name: name.into(), from };
    let four = [
        field("name", json(&["name"], OutputType::String)),
        field("experiment", json(&["experiment"], OutputType::String)),
        field("variant", json(&["variant"], OutputType::String)),
        field("ts", json(&["ts"], OutputType::MilliToTimestamp)),
    ];
    let one = [field("ts", json(&["ts"], OutputType::MilliToTimestamp))];
    let all = [
        field("eventId", json(&["eventId"], OutputType::String)),
        field("name", json(&["name"], OutputType::String)),
        field("userId", json(&["userId"], OutputType::Long)),
        field("experiment", json(&["experiment"], OutputType::String)),
        field("variant", json(&["variant"], OutputType::String)),
        field("ts", json(&["ts"], OutputType::MilliToTimestamp)),
        field("platform", json(&["platform"], OutputType::String)),
        field("screen", json(&["properties", "screen"], OutputType::String)),
        field("build", json(&["properties", "build"], OutputType::Long)),
        field("premium", json(&["properties", "premium"], OutputType::Boolean)),
    ];
    let meta = [field("value", FieldSource::Value), field("offset", FieldSource::Offset)];

    let batches: Vec<RawBatch> = values.chunks(BATCH_ROWS).map(raw).collect();
    for (name, fields) in [
        ("decode 4 fields", &four[..]),
        ("decode 1 field", &one),
        ("decode all 10 values", &all),
        ("value and offset only", &meta),
    ] {
        let mut decoder = Decoder::new(fields, &[PartitionName { topic: "events".into(), partition: 0 }]);
        measure(name, rows, || {
            let mut faults = Vec::new();
            for raw in &batches {
                black_box(decoder.decode(raw, 0..raw.records.len(), &mut faults).expect("decodes"));
            }
            assert!(faults.is_empty());
        });
    }
    measure("serde_json, check only", rows, || {
        for v in &values {
            black_box(serde_json::from_slice::<serde::de::IgnoredAny>(v).expect("parses"));
        }
    });
    measure("UTF-8 validation", rows, || {
        for v in &values {
            black_box(std::str::from_utf8(v).expect("is UTF-8"));
        }
    });
}

fn raw(values: &[Vec<u8>]) -> RawBatch {
    let rows = values.iter().map(|v| OwnedRecord { value: Some(v.clone()), ..Default::default() }).collect();
    RawBatch { partition: 0, records: Box::new(OwnedRecords { rows }) }
}

fn measure(name: &str, rows: usize, mut run: impl FnMut()) {
    let mut ns: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let before = cpu_ns();
            run();
            (cpu_ns() - before) as f64 / rows as f64
        })
        .collect();
    ns.sort_by(f64::total_cmp);
    println!("{name:<36} {:>6.0} ns/row least, {:>6.0} median", ns[0], ns[REPEATS / 2]);
}

/// CPU time of this thread so far (Linux), so that a busy machine disturbs less.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|t| t.parse().ok()).unwrap_or(0)
}
