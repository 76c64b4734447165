//! `--set path=value`: fields of a pipeline overridden from the command line.

use crate::config::endpoints::COMMAND_LINE;
use crate::config::fault::{Fault, suggest};
use crate::config::path;
use crate::config::spec::Placed;
use crate::config::yaml::{self, Node, NodeValue};
use crate::plan::PathStep;

/// Sets `path` in `root` to `value` (a YAML value). Members that are not there are added; items of lists are not.
pub fn set(root: &mut Node, path: &str, value: &str, faults: &mut Vec<Fault>) {
    let outcome = path::parse(path).and_then(|steps| {
        let mut value = yaml::parse(value).map_err(|f| format!("`{path}`: {}", f.first().map_or("", |f| f.message.as_str())))?;
        at_command_line(&mut value);
        put(root, &steps, value, path)
    });
    if let Err(why) = outcome {
        faults.push(Fault::new(COMMAND_LINE, why));
    }
}

/// Nothing of the value stands in the file.
fn at_command_line(node: &mut Node) {
    node.place = COMMAND_LINE;
    match &mut node.value {
        NodeValue::List(items) => items.iter_mut().for_each(at_command_line),
        NodeValue::Map(members) => members.iter_mut().for_each(|(_, n)| at_command_line(n)),
        _ => {}
    }
}

fn put(mut node: &mut Node, steps: &[PathStep], value: Node, path: &str) -> Result<(), String> {
    for step in steps {
        if node.value == NodeValue::Null {
            node.value = NodeValue::Map(Vec::new());
        }
        node = match (step, &mut node.value) {
            (PathStep::Member(name), NodeValue::Map(members)) => {
                let at = members.iter().position(|(k, _)| k.value == *name).unwrap_or_else(|| {
                    let key = Placed { value: name.clone(), place: COMMAND_LINE };
                    members.push((key, Node { place: COMMAND_LINE, value: NodeValue::Null }));
                    members.len() - 1
                });
                &mut members[at].1
            }
            (PathStep::Index(i), NodeValue::List(items)) => {
                let count = items.len();
                items.get_mut(*i).ok_or_else(|| format!("`{path}`: the list has {count} items, counted from 0"))?
            }
            (PathStep::Member(name), other) => {
                let near = suggest(name, std::iter::empty());
                return Err(format!("`{path}` leads nowhere: `{name}` is asked of {}{near}", other.kind()));
            }
            (PathStep::Index(i), other) => return Err(format!("`{path}` leads nowhere: [{i}] is asked of {}", other.kind())),
        };
    }
    *node = value;
    Ok(())
}
