//! The name of a pipeline's operator with state: what its state is found by when the pipeline has changed.

use crate::config::fault::{Fault, suggest};
use crate::config::yaml::{Node, NodeValue};

/// Name of the windowed aggregation where the file gives none.
pub const WINDOW_AGGREGATE: &str = "window_aggregate";
/// Name of the keyed process where the file gives none.
pub const PROCESS: &str = "process";

/// Takes `name` off an operation that has state; none of any other.
pub(super) fn take_name(node: &mut Node, faults: &mut Vec<Fault>) -> Option<String> {
    let NodeValue::Map(members) = &mut node.value else { return None };
    let has_state = |v: &NodeValue| matches!(v, NodeValue::Str(kind) if [WINDOW_AGGREGATE, PROCESS].contains(&kind.as_str()));
    if !members.iter().any(|(k, v)| k.value == "operation" && has_state(&v.value)) {
        return None;
    }
    let at = members.iter().position(|(k, _)| k.value == "name")?;
    let (_, node) = members.remove(at);
    match node.value {
        NodeValue::Str(name) if is_plain(&name) => Some(name),
        NodeValue::Str(name) => {
            let text = format!("the operator's name `{name}` must be up to 100 of a-z, A-Z, 0-9, `_`, `-`, a letter first");
            faults.push(Fault::new(node.place, text));
            None
        }
        other => {
            faults.push(Fault::new(node.place, format!("the operator's `name` must be text, not {}", other.kind())));
            None
        }
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    name.len() <= 100 && name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(plain)
}

/// ` (did you mean ...?)` for a name that nothing has, with the names that there are.
pub fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a String> + Clone) -> String {
    let all: Vec<&str> = known.map(String::as_str).collect();
    match all.as_slice() {
        [] => "no operator has state".to_owned(),
        all => format!("there is {}{}", all.join(", "), suggest(name, all.iter().copied())),
    }
}
