//! The names of a pipeline's operators with state: what their state is found by when the pipeline has changed.

use crate::config::fault::{Fault, suggest};
use crate::config::yaml::{Node, NodeValue};

/// Name of the windowed aggregation where the file gives none.
pub const WINDOW_AGGREGATE: &str = "window_aggregate";
/// Name of the keyed process where the file gives none.
pub const PROCESS: &str = "process";

/// Takes `name` off the operations that have state: their names, in order. Without one an operator is called as its kind, with a number where
/// that is taken.
pub(super) fn take_names(nodes: &mut [Node], faults: &mut Vec<Fault>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for node in nodes {
        let Some(kind) = kind_with_state(node) else { continue };
        let place = node.place;
        let name = match take_name(node, faults) {
            Some(name) if names.contains(&name) => {
                let text =
                    format!("there are two operators `{name}`: state is found by the name, so give this one another `name`");
                faults.push(Fault::new(place, text));
                continue;
            }
            Some(name) => name,
            None => {
                let numbered = (2..).map(|n| format!("{kind}_{n}"));
                std::iter::once(kind.to_owned()).chain(numbered).find(|n| !names.contains(n)).unwrap_or_default()
            }
        };
        names.push(name);
    }
    names
}

fn kind_with_state(node: &Node) -> Option<&'static str> {
    let NodeValue::Map(members) = &node.value else { return None };
    let kind = members.iter().find(|(k, _)| k.value == "operation").map(|(_, v)| &v.value);
    [WINDOW_AGGREGATE, PROCESS].into_iter().find(|name| matches!(kind, Some(NodeValue::Str(kind)) if kind == name))
}

fn take_name(node: &mut Node, faults: &mut Vec<Fault>) -> Option<String> {
    let NodeValue::Map(members) = &mut node.value else { return None };
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
