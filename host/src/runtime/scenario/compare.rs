//! What came out against what must come out.

use crate::output::OutRecord;
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) fn values(records: &[OutRecord]) -> Result<Vec<Value>, String> {
    records.iter().map(|r| serde_json::from_slice(&r.value).map_err(|e| format!("output is not JSON: {e}"))).collect()
}

/// What a reader of upserts has in the end: the last record of each key. A final one must be the last.
pub(super) fn table(records: Vec<OutRecord>) -> Result<Vec<OutRecord>, String> {
    let mut rows: BTreeMap<Option<Vec<u8>>, OutRecord> = BTreeMap::new();
    for record in records {
        let text = String::from_utf8_lossy(&record.value).into_owned();
        if let Some(old) = rows.get(&record.key)
            && serde_json::from_slice::<Value>(&old.value).is_ok_and(|v| v["isFinal"] == Value::Bool(true))
        {
            return Err(format!("after a final result came another of its key: {text}"));
        }
        match record.is_tombstone {
            true => drop(rows.remove(&record.key)),
            false => drop(rows.insert(record.key.clone(), record)),
        }
    }
    Ok(rows.into_values().collect())
}

pub(super) fn in_order(want: &[Value], got: &[Value], tolerance: f64) -> Result<(), String> {
    if want.len() == got.len() && want.iter().zip(got).all(|(w, g)| same(w, g, tolerance)) {
        return Ok(());
    }
    let lines = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>().join("\n    ");
    Err(format!("revisions: expected\n    {}\n  got\n    {}", lines(want), lines(got)))
}

/// Equal, numbers within a relative tolerance.
pub(super) fn same(want: &Value, got: &Value, tolerance: f64) -> bool {
    match (want, got) {
        (Value::Number(a), Value::Number(b)) => {
            let (x, y) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            a == b || (x - y).abs() <= tolerance * x.abs() || x == y
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, tolerance)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b, tolerance)))
        }
        _ => want == got,
    }
}

/// Each wanted value has one of its own among those that came, and none is left over.
pub(super) fn matched(
    what: &str,
    want: &[Value],
    mut got: Vec<Value>,
    fits: impl Fn(&Value, &Value) -> bool,
) -> Result<(), String> {
    let mut missing = Vec::new();
    for value in want {
        match got.iter().position(|g| fits(value, g)) {
            Some(i) => drop(got.swap_remove(i)),
            None => missing.push(value.to_string()),
        }
    }
    if missing.is_empty() && got.is_empty() {
        return Ok(());
    }
    let extra: Vec<String> = got.iter().map(Value::to_string).collect();
    Err(format!("{what}: missing [{}], not expected [{}]", missing.join("\n    "), extra.join("\n    ")))
}
