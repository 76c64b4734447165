//! Side outputs: late rows and rejects as JSON records that carry the raw bytes, so that they can be replayed.
//!
//! `value` and `key` are text where the bytes are UTF-8; else `valueBase64` and `keyBase64` stand in their place.

use crate::element::{PartitionName, Record};
use crate::output::OutRecord;
use crate::plugin::GuestError;
use serde_json::{Map, Value, json};

/// Where a row came from.
#[derive(Clone, Copy, Debug)]
pub enum From<'a> {
    /// A partition of the input.
    Partition(&'a PartitionName),
    /// It is a result that this operator was given, as JSON.
    Given(&'a str),
    /// There is no single row.
    Nowhere,
}

/// A row that came when all its windows had closed.
pub struct LateRow<'a> {
    /// Where it came from.
    pub from: From<'a>,
    /// The raw record.
    pub record: Record<'a>,
    /// Milliseconds since 1970 UTC.
    pub event_time: i64,
    /// The watermark that it came after: milliseconds since 1970 UTC.
    pub watermark: i64,
    /// How long before that its last window had closed, milliseconds.
    pub late_by: i64,
}

/// A row (or a result, where there is no partition) that was set aside.
pub struct Reject<'a> {
    /// Where it came from.
    pub from: From<'a>,
    /// The raw record.
    pub record: Option<Record<'a>>,
    /// Why.
    pub reason: &'a str,
    /// The guest that failed on it, if one did.
    pub guest: Option<&'a GuestError>,
}

impl LateRow<'_> {
    /// `topic`, `partition`, `offset`, `timestamp` (or `operator`), `eventTime`, `watermark` (milliseconds since 1970 UTC), `lateByMs`, `key`, `value`.
    pub fn to_record(&self) -> OutRecord {
        let mut members = origin(self.from, Some(&self.record));
        members.insert("eventTime".into(), json!(self.event_time));
        members.insert("watermark".into(), json!(self.watermark));
        members.insert("lateByMs".into(), json!(self.late_by));
        record(members, Some(&self.record))
    }
}

impl Reject<'_> {
    /// `topic`, `partition`, `offset`, `timestamp` (or `operator`), `reason`, `plugin`, `version`, `hash`, `function`, `key`, `value`.
    pub fn to_record(&self) -> OutRecord {
        let mut members = origin(self.from, self.record.as_ref());
        members.insert("reason".into(), json!(self.reason));
        if let Some(guest) = self.guest {
            members.insert("plugin".into(), json!(&*guest.plugin));
            members.insert("version".into(), json!(&*guest.version));
            members.insert("hash".into(), json!(&*guest.hash));
            members.insert("function".into(), json!(&*guest.function));
        }
        record(members, self.record.as_ref())
    }
}

fn origin(from: From<'_>, record: Option<&Record<'_>>) -> Map<String, Value> {
    let mut members = Map::new();
    match from {
        From::Partition(partition) => {
            members.insert("topic".into(), json!(&*partition.topic));
            members.insert("partition".into(), json!(partition.partition));
            members.insert("offset".into(), json!(record.map(|r| r.offset)));
            members.insert("timestamp".into(), json!(record.and_then(|r| r.timestamp)));
        }
        From::Given(operator) => drop(members.insert("operator".into(), json!(operator))),
        From::Nowhere => {}
    }
    members
}

fn record(mut members: Map<String, Value>, raw: Option<&Record<'_>>) -> OutRecord {
    let mut put = |name: &str, bytes: Option<&[u8]>| match bytes.map(std::str::from_utf8) {
        None => drop(members.insert(name.into(), Value::Null)),
        Some(Ok(text)) => drop(members.insert(name.into(), json!(text))),
        Some(Err(_)) => drop(members.insert(format!("{name}Base64"), json!(base64(bytes.unwrap_or_default())))),
    };
    put("key", raw.and_then(|r| r.key));
    put("value", raw.and_then(|r| r.value));
    OutRecord {
        key: raw.and_then(|r| r.key).map(<[u8]>::to_vec),
        value: Value::Object(members).to_string().into_bytes(),
        ..OutRecord::default()
    }
}

/// A side record without the raw bytes, where it is larger than `largest` bytes (key and value); none where it fits. `valueBytes` says how many
/// were left out, `leftOut` why; topic, partition and offset say where they are.
pub fn cut(side: &OutRecord, largest: usize) -> Option<OutRecord> {
    if side.value.len() + side.key.as_ref().map_or(0, Vec::len) <= largest {
        return None;
    }
    let Ok(Value::Object(mut members)) = serde_json::from_slice(&side.value) else { return None };
    for name in ["value", "key"] {
        // Three bytes in four digits, less the padding.
        let coded = |text: &str| text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count();
        let bytes = match (members.remove(&format!("{name}Base64")), members.get(name)) {
            (Some(Value::String(text)), _) => coded(&text),
            (_, Some(Value::String(text))) => text.len(),
            _ => continue,
        };
        members.insert(name.into(), Value::Null);
        members.insert(format!("{name}Bytes"), json!(bytes));
    }
    members.insert("leftOut".into(), json!(format!("key and value: more than message.max.bytes of the connection, {largest}")));
    Some(OutRecord { key: None, value: Value::Object(members).to_string().into_bytes(), ..OutRecord::default() })
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = if i <= chunk.len() { DIGITS[(bits >> (18 - 6 * i) & 63) as usize] } else { b'=' };
            text.push(char::from(digit));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_record_that_is_too_large_says_where_its_bytes_are() {
        let partition = PartitionName { topic: "t".into(), partition: 3 };
        for (value, bytes) in [(vec![b'"'; 1_000], 1_000), (vec![0xff; 1_001], 1_001), (vec![0xff; 1_000], 1_000)] {
            let record = Record { offset: 7, timestamp: Some(1), key: Some(b"k"), value: Some(&value) };
            let whole = Reject { from: From::Partition(&partition), record: Some(record), reason: "no", guest: None }.to_record();
            assert_eq!(cut(&whole, whole.value.len() + 1), None);
            let cut = cut(&whole, whole.value.len()).unwrap();
            let json: Value = serde_json::from_slice(&cut.value).unwrap();
            let (value, key) = ((&json["value"], &json["valueBytes"]), (&json["key"], &json["keyBytes"]));
            assert_eq!((value, key), ((&Value::Null, &json!(bytes)), (&Value::Null, &json!(1))));
            assert_eq!((&json["offset"], &json["reason"], &json["valueBase64"]), (&json!(7), &json!("no"), &Value::Null));
            assert!(json["leftOut"].as_str().unwrap().contains("message.max.bytes") && cut.value.len() < 300);
        }
    }

    #[test]
    fn bytes_that_are_no_text_can_be_replayed() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\xfc", "//79/A==")]
        {
            assert_eq!(base64(bytes), text);
        }
        let partition = PartitionName { topic: "t".into(), partition: 3 };
        let record = Record { offset: 7, timestamp: Some(1), key: Some(b"k"), value: Some(b"\xff") };
        let reject = Reject { from: From::Partition(&partition), record: Some(record), reason: "no", guest: None }.to_record();
        let json: Value = serde_json::from_slice(&reject.value).unwrap();
        assert_eq!(json["valueBase64"], "/w==");
        assert_eq!(
            (&json["topic"], &json["partition"], &json["offset"], &json["reason"]),
            (&json!("t"), &json!(3), &json!(7), &json!("no"))
        );
    }
}
