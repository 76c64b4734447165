//! Decoding by example, and against serde_json over random documents and mutations of them.

use super::*;
use crate::element::{OwnedRecord, OwnedRecords};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType};
use serde_json::Value;

fn field(name: &str, path: &str, output: OutputType) -> DecodeField {
    let path = path
        .split('.')
        .filter(|p| !p.is_empty())
        .map(|p| p.parse().map_or_else(|_| PathStep::Member(p.into()), PathStep::Index))
        .collect();
    DecodeField { name: name.into(), from: FieldSource::Json { in_key: false, path, output } }
}

fn raw(values: &[&[u8]]) -> RawBatch {
    let rows =
        values.iter().enumerate().map(|(i, v)| OwnedRecord { offset: i as i64, value: Some(v.to_vec()), ..Default::default() });
    RawBatch { partition: 0, records: Box::new(OwnedRecords { rows: rows.collect() }) }
}

fn partitions() -> Vec<PartitionName> {
    vec![PartitionName { topic: "events".into(), partition: 7 }]
}

fn decode(fields: &[DecodeField], raw: &RawBatch) -> (RecordBatch, Vec<RowFault>) {
    let mut faults = Vec::new();
    let batch = Decoder::new(fields, &partitions()).decode(raw, 0..raw.records.len(), &mut faults).unwrap();
    (batch, faults)
}

/// One value through one column: what is in the column, or the fault.
fn one(output: OutputType, path: &str, json: &[u8]) -> Result<String, String> {
    let (batch, faults) = decode(&[field("c", path, output)], &raw(&[json]));
    match faults.into_iter().next() {
        Some(fault) => {
            assert_eq!(batch.num_rows(), 0);
            Err(fault.reason)
        }
        None => Ok(cell_text(&batch, 0, 0)),
    }
}

fn cell_text(batch: &RecordBatch, column: usize, row: usize) -> String {
    let c = batch.column(column);
    if c.is_null(row) {
        return "null".into();
    }
    match c.data_type() {
        arrow::datatypes::DataType::Utf8 => format!("'{}'", c.as_string::<i32>().value(row)),
        arrow::datatypes::DataType::Int64 => c.as_primitive::<Int64Type>().value(row).to_string(),
        arrow::datatypes::DataType::Float64 => c.as_primitive::<Float64Type>().value(row).to_string(),
        arrow::datatypes::DataType::Boolean => c.as_boolean().value(row).to_string(),
        _ => c.as_primitive::<TimestampMillisecondType>().value(row).to_string(),
    }
}

#[test]
fn values_of_every_type() {
    use OutputType::*;
    for (output, json, expected) in [
        (String, r#"{"a":"x"}"#, "'x'"),
        (String, r#"{"a":"\u00e9\n\"\\\/\ud83d\ude00z"}"#, "'é\n\"\\/😀z'"),
        (String, r#"{"a":""}"#, "''"),
        (String, r#"{"a":1.50}"#, "'1.50'"),
        (String, r#"{"a":-12345678901234567890123}"#, "'-12345678901234567890123'"),
        (String, r#"{"a":true}"#, "'true'"),
        (String, r#"{"a":null}"#, "null"),
        (String, r#"{"b":1}"#, "null"),
        (String, r#"{"\u0061":"x"}"#, "'x'"),
        (String, r#"{"a":"x","a":"y"}"#, "'y'"),
        (String, r#"{"a":"x","a":null}"#, "null"),
        (String, r#"{"a":{},"a":"y"}"#, "'y'"),
        (String, "5", "null"),
        (String, "null", "null"),
        (String, "[1]", "null"),
        (Long, r#"{"a":12}"#, "12"),
        (Long, r#"{"a":12.0}"#, "12"),
        (Long, r#"{"a":-1.2e1}"#, "-12"),
        (Long, r#"{"a":9223372036854775807}"#, "9223372036854775807"),
        (Long, r#"{"a":-9223372036854775808}"#, "-9223372036854775808"),
        (Double, r#"{"a":12}"#, "12"),
        (Double, r#"{"a":-0.1e-2}"#, "-0.001"),
        (Double, r#"{"a":18446744073709551616}"#, "18446744073709552000"),
        (Boolean, r#"{"a":false}"#, "false"),
        (Timestamp, r#"{"a":"2024-02-29T12:34:56.789Z"}"#, "1709210096789"),
        (Timestamp, r#"{"a":"2024-02-29T12:34:56.789\u005a"}"#, "1709210096789"),
        (MilliToTimestamp, r#"{"a":1760000040123}"#, "1760000040123"),
        (MilliToTimestamp, r#"{"a":-0.5}"#, "-1"),
        (SecondToTimestamp, r#"{"a":1.001}"#, "1001"),
        (SecondToTimestamp, r#"{"a":1760000040}"#, "1760000040000"),
        (MicroToTimestamp, r#"{"a":1760000040123999}"#, "1760000040123"),
        (MicroToTimestamp, r#"{"a":-1}"#, "-1"),
        (Json, r#"{"a":{"b":[1, 2]}}"#, "'{\"b\":[1, 2]}'"),
        (Json, r#"{"a":"x\n"}"#, r#"'"x\n"'"#),
        (Json, r#"{"a": 1e2 }"#, "'1e2'"),
        (Json, r#"{"a":null}"#, "null"),
    ] {
        assert_eq!(one(output, "a", json.as_bytes()).as_deref(), Ok(expected), "{output:?} {json}");
    }
    assert_eq!(one(Json, "", b" {\"a\":1} ").as_deref(), Ok("'{\"a\":1}'"));
}

#[test]
fn paths_through_objects_and_arrays() {
    let doc = br#"{"a":{"b":[10,{"c":"x"},[1,2,3]],"a":1},"b":[[[5]]],"c":"s"}"#;
    for (path, expected) in [
        ("a.b.0", "'10'"),
        ("a.b.1.c", "'x'"),
        ("a.b.2.2", "'3'"),
        ("a.b.3", "null"),
        ("a.a", "'1'"),
        ("a.a.a", "null"),
        ("b.0.0.0", "'5'"),
        ("c.0", "null"),
        ("c.x", "null"),
        ("a.0", "null"),
        ("b.x", "null"),
    ] {
        assert_eq!(one(OutputType::String, path, doc).as_deref(), Ok(expected), "{path}");
    }
    // The last `a` wins as a whole: what only an earlier one had is gone.
    assert_eq!(one(OutputType::Long, "a.b", br#"{"a":{"b":1},"a":{"c":2}}"#).as_deref(), Ok("null"));
    assert_eq!(one(OutputType::Long, "a.b", br#"{"a":{"b":1},"a":5}"#).as_deref(), Ok("null"));
    assert_eq!(one(OutputType::Long, "a.b", br#"{"a":[1],"a":{"b":1},"x":{"b":2}}"#).as_deref(), Ok("1"));
}

#[test]
fn a_path_and_one_below_it() {
    let fields = [
        field("whole", "a", OutputType::Json),
        field("part", "a.b", OutputType::Long),
        field("again", "a.b", OutputType::String),
        field("all", "", OutputType::Json),
    ];
    let (batch, faults) = decode(&fields, &raw(&[br#"{"a":{"b":7,"c":[]}}"#]));
    assert!(faults.is_empty(), "{faults:?}");
    let cells: Vec<_> = (0..4).map(|c| cell_text(&batch, c, 0)).collect();
    assert_eq!(cells, ["'{\"b\":7,\"c\":[]}'", "7", "'7'", "'{\"a\":{\"b\":7,\"c\":[]}}'"]);
}

#[test]
fn faults_say_path_expectation_and_finding() {
    use OutputType::*;
    for (output, json, expected) in [
        (String, r#"{"a":{"x":1}}"#, "`a`: expected a string, found an object"),
        (String, r#"{"a":[]}"#, "`a`: expected a string, found an array"),
        (String, r#"{"a":"\ud800"}"#, r#"`a`: expected a string, found the string "\ud800", which has half of a surrogate pair"#),
        (Long, r#"{"a":"12"}"#, r#"`a`: expected an integer (long), found the string "12""#),
        (Long, r#"{"a":1.5}"#, "`a`: expected an integer (long), found the number 1.5, which has a fraction"),
        (Long, r#"{"a":9223372036854775808}"#, "found the number 9223372036854775808, which is out of range"),
        (Double, r#"{"a":1e999}"#, "found the number 1e999, which is out of range"),
        (Double, r#"{"a":true}"#, "expected a number (double), found true"),
        (Boolean, r#"{"a":0}"#, "expected true or false (boolean), found the number 0"),
        (Timestamp, r#"{"a":"soon"}"#, r#"found the string "soon", which is none: RFC 3339"#),
        (Timestamp, r#"{"a":1760000040123}"#, "expected a timestamp as text, found the number"),
        (MilliToTimestamp, r#"{"a":1760000040123000}"#, "not within the years 0 to 9999: is the unit right?"),
        (String, r#"{"a":"x""#, "broken JSON in the value at byte 8: the text ends in the middle of a value"),
        (String, r#"{"a":"x"} x"#, "broken JSON in the value at byte 10: something follows the JSON value"),
        (String, r#"{"a":"x","b":tru}"#, "broken JSON in the value at byte 13"),
        (String, r#"{"a":"x","b":"\uZZZZ"}"#, "four hexadecimal digits"),
        (String, "", "broken JSON in the value at byte 0: the text ends"),
    ] {
        let fault = one(output, "a", json.as_bytes()).unwrap_err();
        assert!(fault.contains(expected), "{output:?} {json}: {fault}");
    }
    assert!(one(String, "a", b"{\"a\":\"x\",\"b\":\"\xff\"}").unwrap_err().contains("not UTF-8 at byte 14"));
    let long = format!(r#"{{"{}":"é{}"}}"#, "ü".repeat(500), "é".repeat(500));
    let fault = one(Long, &"ü".repeat(500), long.as_bytes()).unwrap_err();
    assert!(fault.len() <= FAULT_TEXT_BYTES && fault.contains("expected an integer"), "{fault}");
}

#[test]
fn a_row_at_fault_leaves_no_trace() {
    let fields = [field("a", "a", OutputType::String), field("n", "n", OutputType::Long), field("b", "b", OutputType::String)];
    let rows: [&[u8]; 5] = [
        br#"{"a":"one","n":1,"b":"x\n"}"#,
        br#"{"a":"two","n":"2","b":"y"}"#,
        br#"{"a":"three","n":3,"b":"z"}garbage"#,
        br#"{"a":"fo\u0075r","n":4}"#,
        br#"{"a":"five","n":5,"b":{}}"#,
    ];
    let (batch, faults) = decode(&fields, &raw(&rows));
    assert_eq!(faults.iter().map(|f| f.row).collect::<Vec<_>>(), [1, 2, 4]);
    let rows: Vec<Vec<_>> = (0..batch.num_rows()).map(|r| (0..3).map(|c| cell_text(&batch, c, r)).collect()).collect();
    assert_eq!(rows, [["'one'", "1", "'x\n'"], ["'four'", "4", "null"]]);
    assert_eq!(batch.column(3).as_primitive::<arrow::datatypes::UInt32Type>().values(), &[0, 3]);
}

#[test]
fn deep_nesting_is_a_fault_wherever_it_is() {
    for open in ["[", "{\"a\":"] {
        for (before, fine) in [(120, true), (1_000_000, false)] {
            let close = if open == "[" { "]" } else { "}" };
            let deep = open.repeat(before) + "1" + &close.repeat(before);
            for (doc, whole) in [(deep.clone(), true), (format!("{{\"x\":{deep}}}"), true), (open.repeat(before), false)] {
                let got = one(OutputType::Json, "a.b.0", doc.as_bytes());
                assert_eq!(got.is_ok(), fine && whole, "{doc:.40}");
            }
        }
    }
}

#[test]
fn columns_of_the_record_itself() {
    let meta = |name: &str, from| DecodeField { name: name.into(), from };
    let fields = [
        meta("key", FieldSource::Key),
        meta("value", FieldSource::Value),
        meta("topic", FieldSource::Topic),
        meta("partition", FieldSource::Partition),
        meta("offset", FieldSource::Offset),
        meta("timestamp", FieldSource::Timestamp),
        meta("headers", FieldSource::Headers),
    ];
    let record = OwnedRecord {
        offset: 42,
        timestamp: Some(5),
        key: Some(b"k".to_vec()),
        value: Some(b"not json".to_vec()),
        headers: vec![("h".into(), Some(b"1\"".to_vec())), ("n".into(), None), ("h".into(), Some(b"\xff".to_vec()))],
    };
    let rows =
        vec![record.clone(), OwnedRecord { offset: 43, ..Default::default() }, OwnedRecord { key: Some(vec![0xff]), ..record }];
    let (batch, faults) = decode(&fields, &RawBatch { partition: 0, records: Box::new(OwnedRecords { rows }) });
    assert_eq!(faults, [RowFault { row: 2, reason: "the key is not UTF-8 at byte 0".into() }]);
    let row = |r| (0..7).map(|c| cell_text(&batch, c, r)).collect::<Vec<_>>();
    assert_eq!(row(0), ["'k'", "'not json'", "'events'", "7", "42", "5", "'{\"h\":\"\u{fffd}\",\"n\":null}'"]);
    assert_eq!(row(1), ["null", "null", "'events'", "7", "43", "null", "'{}'"]);
}

#[test]
fn json_of_keys_and_values_and_what_has_none() {
    let key = DecodeField {
        name: "k".into(),
        from: FieldSource::Json { in_key: true, path: vec![PathStep::Member("id".into())], output: OutputType::String },
    };
    let fields = [key, field("v", "id", OutputType::String), DecodeField { name: "value".into(), from: FieldSource::Value }];
    let both = OwnedRecord {
        key: Some(br#"{"id":"\u006bk"}"#.to_vec()),
        value: Some(br#"{"id":"v\u0076"}"#.to_vec()),
        ..Default::default()
    };
    let rows = vec![both.clone(), OwnedRecord { value: None, ..both.clone() }, OwnedRecord { key: None, ..both }];
    let (batch, faults) = decode(&fields, &RawBatch { partition: 0, records: Box::new(OwnedRecords { rows }) });
    assert_eq!((0..3).map(|c| cell_text(&batch, c, 0)).collect::<Vec<_>>(), ["'kk'", "'vv'", r#"'{"id":"v\u0076"}'"#]);
    assert_eq!(faults.iter().map(|f| &*f.reason).collect::<Vec<_>>(), ["the record has no value", "the record has no key"]);
}

#[test]
fn a_decoder_is_used_again() {
    let fields = [field("a", "a", OutputType::Long)];
    let mut decoder = Decoder::new(&fields, &partitions());
    let (batch, mut faults) = (raw(&[b"{\"a\":1}", b"x", b"{\"a\":3}"]), Vec::new());
    assert_eq!(decoder.decode(&batch, 0..1, &mut faults).unwrap().num_rows(), 1);
    assert_eq!(decoder.decode(&batch, 1..3, &mut faults).unwrap().column(1).len(), 1);
    assert_eq!(faults.len(), 1);
    assert_eq!(decoder.decode(&batch, 0..0, &mut faults).unwrap().num_rows(), 0);
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A JSON text with odd spaces, escapes, numbers, duplicate names and nesting.
fn random_json(rng: &mut Rng, depth: u32, out: &mut String) {
    let space = rng.pick(&["", "", "", " ", "\n\t", "    "]);
    out.push_str(space);
    match rng.below(if depth < 5 { 9 } else { 6 }) {
        0 => out.push_str(rng.pick(&["null", "true", "false"])),
        1 | 2 => out.push_str(rng.pick(&[
            "0",
            "-0",
            "12",
            "-7",
            "3.25",
            "1e3",
            "-2.5E-3",
            "9223372036854775807",
            "9223372036854775808",
            "1760000040123",
            "0.1",
            "123456789012345678",
            "1e15",
            "100.000",
        ])),
        3..=5 => random_string(rng, out),
        6 => {
            out.push('[');
            for i in 0..rng.below(4) {
                if i > 0 {
                    out.push(',');
                }
                random_json(rng, depth + 1, out);
            }
            out.push_str("]");
        }
        _ => {
            out.push('{');
            for i in 0..rng.below(6) {
                if i > 0 {
                    out.push_str(rng.pick(&[",", ", "]));
                }
                match rng.below(6) {
                    0 => random_string(rng, out),
                    _ => out.push_str(rng.pick(&["\"a\"", "\"b\"", "\"\\u0061\"", "\"bb\"", "\"c\""])),
                }
                out.push_str(rng.pick(&[":", " : "]));
                random_json(rng, depth + 1, out);
            }
            out.push('}');
        }
    }
    out.push_str(space);
}

fn random_string(rng: &mut Rng, out: &mut String) {
    out.push('"');
    for _ in 0..rng.below(12) {
        out.push_str(rng.pick(&[
            "a",
            "b",
            "xyz0123",
            "é",
            "日本",
            "😀",
            "\\n",
            "\\\"",
            "\\\\",
            "\\/",
            "\\u00e9",
            "\\uD83D\\uDE00",
            " ",
            "{",
            "]",
            ",",
        ]));
    }
    out.push('"');
}

fn mutate(rng: &mut Rng, text: &mut Vec<u8>) {
    for _ in 0..rng.below(3) {
        let at = rng.below(text.len() as u64 + 1) as usize;
        match rng.below(5) {
            0 => text.truncate(at),
            1 if at < text.len() => drop(text.remove(at)),
            2 if at < text.len() => text[at] = rng.pick(b"{}[]\",:\\0u1-+.eE \n\x01\xff\xc3tn"),
            3 => text.insert(at, rng.pick(b"{}[]\",:\\0u1-+.eE \n\x01\xfftn")),
            _ => {
                let again = text.clone();
                text.extend_from_slice(&again[..at.min(again.len())]);
            }
        }
    }
}

/// What serde_json finds at `path`; it takes the last of duplicate members too.
fn at<'a>(value: &'a Value, path: &[PathStep]) -> &'a Value {
    path.iter().fold(value, |v, step| match step {
        PathStep::Member(name) => v.as_object().and_then(|o| o.get(name)).unwrap_or(&Value::Null),
        PathStep::Index(i) => v.as_array().and_then(|a| a.get(*i)).unwrap_or(&Value::Null),
    })
}

#[test]
fn random_documents_as_serde_json_reads_them() {
    let fields = [
        field("json", "a", OutputType::Json),
        field("nested", "a.b", OutputType::Json),
        field("element", "b.1", OutputType::Json),
        field("deep", "c.0.a", OutputType::Json),
        field("name of two", "bb", OutputType::Json),
    ];
    let paths: Vec<_> =
        fields.iter().map(|f| if let FieldSource::Json { path, .. } = &f.from { path.clone() } else { vec![] }).collect();
    let mut decoder = Decoder::new(&fields, &partitions());
    let (mut rng, mut accepted) = (Rng(7), 0);
    for round in 0..200_000 {
        let mut text = String::new();
        random_json(&mut rng, 0, &mut text);
        let mut bytes = text.into_bytes();
        if round % 2 == 0 {
            mutate(&mut rng, &mut bytes);
        }
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let mut faults = Vec::new();
        let batch = decoder.decode(&raw(&[&bytes]), 0..1, &mut faults).unwrap();
        let grammar = std::str::from_utf8(&bytes).is_ok_and(|t| serde_json::from_str::<serde::de::IgnoredAny>(t).is_ok());
        assert_eq!(faults.is_empty(), grammar, "round {round}: {shown}\n{faults:?}");
        // serde_json's Value refuses lone surrogates and numbers past 1e308; only JSON's grammar counts here.
        let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { continue };
        accepted += 1;
        for (column, path) in paths.iter().enumerate() {
            let expected = at(&value, path);
            let got = batch.column(column).as_string::<i32>();
            let got = if got.is_null(0) { Value::Null } else { serde_json::from_str(got.value(0)).unwrap() };
            assert_eq!(&got, expected, "round {round}, column {column}: {shown}");
        }
    }
    assert!(accepted > 100_000, "{accepted}");
}

#[test]
fn random_scalars_as_serde_json_reads_them() {
    let fields = [
        field("s", "a", OutputType::String),
        field("l", "a", OutputType::Long),
        field("d", "a", OutputType::Double),
        field("b", "a", OutputType::Boolean),
    ];
    let mut rng = Rng(11);
    for _ in 0..100_000 {
        let mut text = String::from("{\"a\":");
        match rng.below(4) {
            0 => random_json(&mut rng, 9, &mut text),
            1 => text.push_str(&(rng.next() as i64 >> rng.below(64)).to_string()),
            2 => text.push_str(&Value::from(f64::from_bits(rng.next())).to_string()),
            _ => text.push_str(&format!("{}.{:03}", rng.next() as i32, rng.below(1000))),
        }
        text.push('}');
        let Ok(value) = serde_json::from_str::<Value>(&text) else { continue };
        let value = &value["a"];
        let column = |i: usize| {
            let (batch, faults) = decode(&fields[i..=i], &raw(&[text.as_bytes()]));
            faults.is_empty().then(|| cell_text(&batch, 0, 0))
        };
        let or_null = |v: Option<String>| if value.is_null() { Some("null".into()) } else { v };
        if let Some(s) = value.as_str() {
            assert_eq!(column(0), Some(format!("'{s}'")), "{text}");
        }
        // serde_json's own reading of decimals may be off by one in the last place; std's is the nearest.
        let double = value.as_f64().map(|_| text[5..text.len() - 1].trim().parse::<f64>().unwrap());
        assert_eq!(column(2), or_null(double.map(|d| d.to_string())), "{text}");
        // Beyond 2^52 a double can't say whether there was a fraction; `long` can.
        let long = value.as_i64().or_else(|| double.filter(|f| f.fract() == 0.0).map(|f| f as i64));
        if value.is_i64() || double.is_none_or(|f| f.abs() < 4e15) {
            assert_eq!(column(1), or_null(long.map(|l| l.to_string())), "{text}");
        }
        assert_eq!(column(3), or_null(value.as_bool().map(|b| b.to_string())), "{text}");
    }
}
