//! A tree of YAML to typed values, every fault noted and none fatal.

use crate::config::fault::{Fault, suggest};
use crate::config::spec::{Constant, Place, Placed};
use crate::config::yaml::{Node, NodeValue};
use std::time::Duration;

/// The members of a mapping, taken one by one; what is left at the end is unknown.
pub struct Fields<'a> {
    what: &'a str,
    place: Place,
    members: Vec<(Placed<String>, Node)>,
    asked: Vec<&'static str>,
    taken: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The members of `node`; a fault, and none, where it is no mapping. `what` names it in faults.
    pub fn new(node: Node, what: &'a str, faults: &mut Vec<Fault>) -> Self {
        let members = match node.value {
            NodeValue::Map(members) => members,
            other => {
                faults.push(Fault::new(node.place, format!("{what} must be a mapping, not {}", other.kind())));
                Vec::new()
            }
        };
        Self { what, place: node.place, members, asked: Vec::new(), taken: Vec::new() }
    }

    /// Where the mapping starts.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether the member `name` was there and has been taken.
    pub fn has_taken(&self, name: &str) -> bool {
        self.taken.contains(&name)
    }

    /// The member `name`, if it is there.
    pub fn take(&mut self, name: &'static str) -> Option<Node> {
        self.asked.push(name);
        let at = self.members.iter().position(|(k, _)| k.value == name)?;
        self.taken.push(name);
        Some(self.members.remove(at).1)
    }

    /// The member `name`; a fault where it is missing.
    pub fn need(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> Option<Node> {
        let node = self.take(name);
        if node.is_none() {
            let near = self.members.iter().map(|(k, _)| k.value.as_str());
            let near = suggest(name, near).replace("did you mean", "is it").replace('?', " that is meant?");
            faults.push(Fault::new(self.place, format!("{} needs `{name}`{near}", self.what)));
        }
        node
    }

    /// Text that must be there.
    pub fn text(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> Option<Placed<String>> {
        let node = self.need(name, faults)?;
        text(node, name, faults)
    }

    /// Text that may be there.
    pub fn text_opt(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> Option<Placed<String>> {
        text(self.take(name)?, name, faults)
    }

    /// A duration that may be there.
    pub fn duration_opt(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> Option<Placed<Duration>> {
        let node = self.take(name)?;
        duration(node, name, faults)
    }

    /// A duration that must be there.
    pub fn duration(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> Option<Placed<Duration>> {
        let node = self.need(name, faults)?;
        duration(node, name, faults)
    }

    /// A size in bytes that may be there.
    pub fn size_opt(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> Option<Placed<usize>> {
        let Placed { value, place } = text(self.take(name)?, name, faults)?;
        match crate::size::parse_size(&value) {
            Ok(value) => Some(Placed { value, place }),
            Err(why) => {
                faults.push(Fault::new(place, format!("`{name}`: {why}")));
                None
            }
        }
    }

    /// true or false; the default where it is missing.
    pub fn bool_or(&mut self, name: &'static str, default: bool, faults: &mut Vec<Fault>) -> bool {
        match self.take(name).map(|n| (n.place, n.value)) {
            None => default,
            Some((_, NodeValue::Bool(b))) => b,
            Some((place, other)) => {
                faults.push(Fault::new(place, format!("`{name}` must be true or false, not {}", other.kind())));
                default
            }
        }
    }

    /// An integer from 0; the default where it is missing.
    pub fn count_or(&mut self, name: &'static str, default: u64, faults: &mut Vec<Fault>) -> u64 {
        self.count_opt(name, faults).unwrap_or(default)
    }

    /// An integer from 0 that may be there.
    pub fn count_opt(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> Option<u64> {
        let node = self.take(name)?;
        match node.value {
            NodeValue::Int(i) if i >= 0 => Some(i.unsigned_abs()),
            other => {
                faults.push(Fault::new(node.place, format!("`{name}` must be an integer from 0, not {}", other.kind())));
                None
            }
        }
    }

    /// A number from 0 to 1; the default where it is missing.
    pub fn share_or(&mut self, name: &'static str, default: f64, faults: &mut Vec<Fault>) -> f64 {
        let Some(node) = self.take(name) else { return default };
        match node.value {
            NodeValue::Float(f) if (0.0..=1.0).contains(&f) => f,
            NodeValue::Int(i @ 0..=1) => i as f64,
            _ => {
                faults.push(Fault::new(node.place, format!("`{name}` must be a number from 0 to 1")));
                default
            }
        }
    }

    /// A list of text; one text alone is a list of one.
    pub fn texts(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> Vec<Placed<String>> {
        let items = self.list(name, faults);
        items.into_iter().filter_map(|n| text(n, name, faults)).collect()
    }

    /// A list of constants; one alone is a list of one.
    pub fn constants(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> Vec<Placed<Constant>> {
        let items = self.list(name, faults);
        items.into_iter().filter_map(|n| constant(n, faults)).collect()
    }

    /// A list; a single value is a list of one.
    pub fn list(&mut self, name: &'static str, _faults: &mut Vec<Fault>) -> Vec<Node> {
        match self.take(name) {
            None | Some(Node { value: NodeValue::Null, .. }) => Vec::new(),
            Some(Node { value: NodeValue::List(items), .. }) => items,
            Some(one) => vec![one],
        }
    }

    /// Members that nobody asked for are faults.
    pub fn finish(self, faults: &mut Vec<Fault>) {
        for (name, _) in self.members {
            let near = suggest(&name.value, self.asked.iter().copied());
            let text = format!("unknown field `{}` in {}{near}", name.value, self.what);
            faults.push(Fault::new(name.place, text));
        }
    }
}

/// A scalar as text; numbers and booleans are taken as written in YAML.
pub fn text(node: Node, name: &str, faults: &mut Vec<Fault>) -> Option<Placed<String>> {
    let value = match node.value {
        NodeValue::Str(s) => s,
        NodeValue::Int(i) => i.to_string(),
        NodeValue::Float(f) => f.to_string(),
        NodeValue::Bool(b) => b.to_string(),
        other => {
            faults.push(Fault::new(node.place, format!("`{name}` must be text, not {}", other.kind())));
            return None;
        }
    };
    Some(Placed { value, place: node.place })
}

/// A duration as people write it.
pub fn duration(node: Node, name: &str, faults: &mut Vec<Fault>) -> Option<Placed<Duration>> {
    let place = node.place;
    let written = text(node, name, faults)?;
    match crate::time::parse_duration(&written.value) {
        Ok(value) => Some(Placed { value, place }),
        Err(why) => {
            faults.push(Fault::new(place, format!("`{name}`: {why}")));
            None
        }
    }
}

fn constant(node: Node, faults: &mut Vec<Fault>) -> Option<Placed<Constant>> {
    let value = match node.value {
        NodeValue::Null => Constant::Null,
        NodeValue::Bool(b) => Constant::Boolean(b),
        NodeValue::Int(i) => Constant::Long(i),
        NodeValue::Float(f) => Constant::Double(f),
        NodeValue::Str(s) => Constant::String(s),
        other => {
            faults.push(Fault::new(node.place, format!("an argument must be a constant, not {}", other.kind())));
            return None;
        }
    };
    Some(Placed { value, place: node.place })
}
