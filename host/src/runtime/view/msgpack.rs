//! States that guests keep as MessagePack, as JSON text.
//!
//! Structs are lists there: names of fields are the guest's own affair. What is no MessagePack is shown as hexadecimal digits, as bytes are.

use arrow::array::{ArrayRef, AsArray, BinaryArray, StringArray};
use arrow::datatypes::DataType;
use rmpv::Value as Packed;
use serde_json::Value;
use std::sync::Arc;

/// Nesting that is followed; past it bytes are shown as they are.
const DEPTH_MAX: usize = 64;

/// Whether a state field of this type and layout is MessagePack.
pub(super) fn is(data_type: &DataType, layout: &str) -> bool {
    *data_type == DataType::Binary && layout.starts_with("msgpack:")
}

/// A column of states as it is shown: MessagePack as texts.
pub(super) fn shown(state: ArrayRef, is_msgpack: bool) -> ArrayRef {
    match state.as_binary_opt() {
        Some(states) if is_msgpack => Arc::new(texts(states)),
        _ => state,
    }
}

fn texts(states: &BinaryArray) -> StringArray {
    states.iter().map(|state| state.map(text)).collect()
}

fn text(state: &[u8]) -> String {
    let mut rest = state;
    match rmpv::decode::read_value_with_max_depth(&mut rest, DEPTH_MAX) {
        Ok(value) if rest.is_empty() => json(value).to_string(),
        _ => hex(state),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn json(value: Packed) -> Value {
    match value {
        Packed::Nil => Value::Null,
        Packed::Boolean(b) => b.into(),
        Packed::Integer(n) => n.as_i64().map_or_else(|| n.as_u64().into(), Value::from),
        Packed::F32(x) => f64::from(x).into(),
        Packed::F64(x) => x.into(),
        Packed::String(s) => String::from_utf8_lossy(s.as_bytes()).into(),
        Packed::Binary(bytes) | Packed::Ext(_, bytes) => hex(&bytes).into(),
        Packed::Array(items) => items.into_iter().map(json).collect(),
        Packed::Map(entries) => entries.into_iter().map(|(key, value)| (name(key), json(value))).collect(),
    }
}

/// A key of a map: text as it is, all else as JSON.
fn name(key: Packed) -> String {
    match json(key) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_as_json() {
        let map = Packed::Map(vec![
            (Packed::from("a"), Packed::Array(vec![Packed::from(-1), Packed::from(u64::MAX), Packed::Nil])),
            (Packed::from(7), Packed::Binary(vec![0, 255])),
            (Packed::from(true), Packed::F64(0.5)),
        ]);
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &map).unwrap();
        assert_eq!(text(&bytes), r#"{"7":"00ff","a":[-1,18446744073709551615,null],"true":0.5}"#);
        // Cut off, or with something behind it.
        assert_eq!(text(&[0x92, 0x01]), "9201");
        assert_eq!(text(&[0xc0, 0xc0]), "c0c0");
        assert_eq!(text(&[0x91; 200]), "91".repeat(200));
        assert_eq!(text(&[0xdd, 0xff, 0xff, 0xff, 0xff]), "ddffffffff");
        assert_eq!(texts(&BinaryArray::from_opt_vec(vec![Some(&[0xc3]), None])), StringArray::from(vec![Some("true"), None]));
    }
}
