//! Whether a new version of a plugin can go on with the state and the plan of the old one.

use super::{FunctionSignature, Plugin};

/// Whether `new` can take over from `old` for the functions in `used`: their signatures and state layouts must be equal.
///
/// # Errors
/// Each function that does not fit, and what differs.
pub fn compatible(old: &Plugin, new: &Plugin, used: &[String]) -> Result<(), String> {
    let find = |plugin: &Plugin, name: &str| plugin.functions.iter().find(|f| &*f.name == name).cloned();
    let mut faults = Vec::new();
    for name in used {
        // A function that the old version does not have is another plugin's.
        let Some(before) = find(old, name) else { continue };
        match find(new, name) {
            None => faults.push(format!("function `{name}` is used, but {} {} does not have it", new.name, new.version)),
            Some(after) => faults.extend(differences(&before, &after).into_iter().map(|d| format!("function `{name}`: {d}"))),
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} {} can't take over from {}: {}. Give the changed function another name, or start the pipeline anew under another version",
        new.name,
        new.version,
        old.version,
        faults.join("; ")
    ))
}

fn differences(before: &FunctionSignature, after: &FunctionSignature) -> Vec<String> {
    let mut found = Vec::new();
    if before.kind != after.kind {
        found.push(format!("was a {}, is a {}", before.kind, after.kind));
    }
    match (&before.process, &after.process) {
        // What a process gives may change: the plan says whether the pipeline can go on with it.
        (Some(old), Some(new)) if old.arguments != new.arguments => {
            found.push(format!("its rows were ({}), are ({})", old.rows(), new.rows()));
        }
        (Some(_), Some(_)) => {}
        _ if before.arguments != after.arguments || before.result != after.result || before.results != after.results => {
            found.push(format!("was {}, is {}", before.header(), after.header()));
        }
        _ => {}
    }
    if before.state != after.state {
        found.push(format!("its state was ({}), is ({})", before.state_layout(), after.state_layout()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{FunctionKind, GuestType, StateField};

    fn avg() -> FunctionSignature {
        FunctionSignature {
            name: "avg".into(),
            kind: FunctionKind::Aggregate,
            doc: "mean".into(),
            arguments: vec![GuestType::Float64],
            result: GuestType::Float64,
            results: Vec::new(),
            state: vec![StateField { name: "top".into(), data_type: GuestType::Binary, layout: "msgpack:T:1".into() }],
            process: None,
        }
    }

    #[test]
    fn what_differs_is_told() {
        let same = FunctionSignature { doc: "arithmetic mean".into(), ..avg() };
        assert!(differences(&avg(), &same).is_empty());
        let mut layout = avg();
        layout.state[0].layout = "msgpack:T:2".into();
        assert_eq!(differences(&avg(), &layout), ["its state was (top binary [msgpack:T:1]), is (top binary [msgpack:T:2])"]);
        let arguments = FunctionSignature { arguments: vec![GuestType::Int64], ..avg() };
        assert_eq!(differences(&avg(), &arguments), ["was avg(float64) -> float64, is avg(int64) -> float64"]);
        let kind = FunctionSignature { kind: FunctionKind::Scalar, ..avg() };
        assert_eq!(differences(&avg(), &kind), ["was a aggregate, is a scalar"]);
    }
}
