//! YAML text to a tree whose every node knows its line and column.
//!
//! Plain scalars are typed by the YAML 1.2 core schema; quoted ones are text. Keys are text. Duplicate keys, several documents and
//! depths or sizes beyond the bounds are faults.

use crate::config::fault::Fault;
use crate::config::spec::{Place, Placed};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::HashMap;

/// Largest file, bytes.
const SIZE_MAX: usize = 1 << 20;
/// Deepest nesting.
const DEPTH_MAX: usize = 64;
/// Nodes in all, aliases counted as what they stand for: a file of a few lines can otherwise expand without bound.
const NODES_MAX: usize = 200_000;

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub place: Place,
    /// What it is.
    pub value: NodeValue,
}

/// A YAML value.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeValue {
    /// `null`, `~`, or nothing.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Str(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Placed<String>, Node)>),
}

impl NodeValue {
    /// What to call it in an error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Str(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Parses a file of one document.
///
/// # Errors
/// The first fault of the syntax, or all duplicate keys.
pub fn parse(text: &str) -> Result<Node, Vec<Fault>> {
    let start = Place { line: 1, column: 1 };
    if text.len() > SIZE_MAX {
        return Err(vec![Fault::new(start, format!("the file is larger than {} KiB", SIZE_MAX >> 10))]);
    }
    let mut builder = Builder { anchors: HashMap::new(), faults: Vec::new(), nodes: 0 };
    let mut events = Parser::new_from_str(text);
    let mut root = None;
    loop {
        match events.next() {
            None | Some(Ok((Event::StreamEnd, _))) => break,
            Some(Err(e)) => {
                return Err(vec![Fault::new(place_of(e.marker().line(), e.marker().col()), format!("not YAML: {}", e.info()))]);
            }
            Some(Ok((Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _))) => {}
            Some(Ok((_, span))) if root.is_some() => {
                return Err(vec![Fault::new(place(&span), "a second document; a file holds one")]);
            }
            Some(Ok((event, span))) => root = Some(builder.node(event, &span, &mut events, 0).map_err(|f| vec![f])?),
        }
    }
    if builder.faults.is_empty() {
        Ok(root.unwrap_or(Node { place: start, value: NodeValue::Null }))
    } else {
        Err(builder.faults)
    }
}

/// YAML as a JSON value, places forgotten.
///
/// # Errors
/// What is wrong with the text, with its line.
pub fn to_json(text: &str) -> Result<serde_json::Value, String> {
    let node = parse(text).map_err(|f| f.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(json(node))
}

fn json(node: Node) -> serde_json::Value {
    use serde_json::Value;
    match node.value {
        NodeValue::Null => Value::Null,
        NodeValue::Bool(b) => Value::Bool(b),
        NodeValue::Int(i) => i.into(),
        NodeValue::Float(f) => f.into(),
        NodeValue::Str(s) => Value::String(s),
        NodeValue::List(items) => Value::Array(items.into_iter().map(json).collect()),
        NodeValue::Map(members) => Value::Object(members.into_iter().map(|(k, v)| (k.value, json(v))).collect()),
    }
}

fn place_of(line: usize, column: usize) -> Place {
    Place { line, column: column + 1 }
}

fn place(span: &Span) -> Place {
    place_of(span.start.line(), span.start.col())
}

struct Builder {
    anchors: HashMap<usize, Node>,
    faults: Vec<Fault>,
    nodes: usize,
}

impl Builder {
    fn node<'a>(
        &mut self,
        event: Event<'a>,
        span: &Span,
        events: &mut Parser<'a, saphyr_parser::StrInput<'a>>,
        depth: usize,
    ) -> Result<Node, Fault> {
        let place = place(span);
        if depth > DEPTH_MAX {
            return Err(Fault::new(place, format!("nested more than {DEPTH_MAX} deep")));
        }
        self.count(1, place)?;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, scalar(&text, style)),
            Event::SequenceStart(anchor, _) => (anchor, self.list(events, depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.map(events, depth)?),
            Event::Alias(anchor) => {
                let node = self
                    .anchors
                    .get(&anchor)
                    .cloned()
                    .ok_or_else(|| Fault::new(place, "an alias without an anchor before it"))?;
                self.count(size(&node), place)?;
                return Ok(Node { place, value: node.value });
            }
            other => return Err(Fault::new(place, format!("not expected here: {other:?}"))),
        };
        let node = Node { place, value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Fault> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX { Err(Fault::new(place, format!("the file has more than {NODES_MAX} values"))) } else { Ok(()) }
    }

    fn next<'a>(events: &mut Parser<'a, saphyr_parser::StrInput<'a>>) -> Result<(Event<'a>, Span), Fault> {
        match events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(e)) => Err(Fault::new(place_of(e.marker().line(), e.marker().col()), format!("not YAML: {}", e.info()))),
            None => Err(Fault::new(Place { line: 1, column: 1 }, "the file ends in the middle of a value")),
        }
    }

    fn list<'a>(&mut self, events: &mut Parser<'a, saphyr_parser::StrInput<'a>>, depth: usize) -> Result<NodeValue, Fault> {
        let mut items = Vec::new();
        loop {
            match Self::next(events)? {
                (Event::SequenceEnd, _) => return Ok(NodeValue::List(items)),
                (event, span) => items.push(self.node(event, &span, events, depth + 1)?),
            }
        }
    }

    fn map<'a>(&mut self, events: &mut Parser<'a, saphyr_parser::StrInput<'a>>, depth: usize) -> Result<NodeValue, Fault> {
        let mut members: Vec<(Placed<String>, Node)> = Vec::new();
        loop {
            let (key, at) = match Self::next(events)? {
                (Event::MappingEnd, _) => return Ok(NodeValue::Map(members)),
                (Event::Scalar(text, ..), span) => (text.into_owned(), place(&span)),
                (_, span) => return Err(Fault::new(place(&span), "a key must be text")),
            };
            let (event, span) = Self::next(events)?;
            let value = self.node(event, &span, events, depth + 1)?;
            if let Some((first, _)) = members.iter().find(|(k, _)| k.value == key) {
                let text = format!("`{key}` stands here a second time (first in line {})", first.place.line);
                self.faults.push(Fault::new(at, text));
            } else {
                members.push((Placed { value: key, place: at }, value));
            }
        }
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        NodeValue::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        NodeValue::Map(members) => 1 + members.iter().map(|(_, n)| size(n)).sum::<usize>(),
        _ => 1,
    }
}

/// A scalar by the core schema.
fn scalar(text: &str, style: ScalarStyle) -> NodeValue {
    if style != ScalarStyle::Plain {
        return NodeValue::Str(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return NodeValue::Null,
        "true" | "True" | "TRUE" => return NodeValue::Bool(true),
        "false" | "False" | "FALSE" => return NodeValue::Bool(false),
        _ => {}
    }
    if let Ok(i) = text.parse::<i64>() {
        return NodeValue::Int(i);
    }
    let numeric =
        text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) && text.contains(|c: char| c.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(f) if numeric => NodeValue::Float(f),
        _ => NodeValue::Str(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_places() {
        let node = parse("a: [1, 2.5, x]\nb:\n  c: 'true'\n").unwrap();
        let NodeValue::Map(members) = &node.value else { panic!("{node:?}") };
        assert_eq!(members[1].0, Placed { value: "b".into(), place: Place { line: 2, column: 1 } });
        let NodeValue::Map(inner) = &members[1].1.value else { panic!() };
        assert_eq!(inner[0].1, Node { place: Place { line: 3, column: 6 }, value: NodeValue::Str("true".into()) });
        assert_eq!(to_json("a: [1, 2.5, x]\nb: ~").unwrap(), serde_json::json!({"a": [1, 2.5, "x"], "b": null}));
        assert_eq!(to_json("a: 5.minutes\nb: -\n").unwrap_err().lines().count(), 1);
        assert_eq!(to_json("a: 5.minutes").unwrap(), serde_json::json!({"a": "5.minutes"}));
    }

    #[test]
    fn faults_of_the_text() {
        assert!(to_json("a: 1\na: 2").unwrap_err().contains("2:1: `a` stands here a second time (first in line 1)"));
        assert!(to_json("a: [").is_err());
        assert!(to_json("---\na\n---\nb").is_err());
        assert!(to_json(&"[".repeat(100_000)).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 8].join(", "));
        }
        assert!(to_json(&bomb).unwrap_err().contains("more than"));
    }
}
