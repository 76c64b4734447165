//! The wanted paths of a document as a trie, and what was found at each of them.
//!
//! Invariant: slots are numbered in depth-first order, so those below a node are one range: a member that comes twice clears its
//! range, and the last one wins.

use super::json::Slot;
use super::unescape;
use crate::plan::PathStep;
use std::ops::Range;

/// The node of the whole document.
pub(super) const ROOT: u32 = 0;

#[derive(Default)]
struct Node {
    /// Bit `n % 64` is set when a wanted name has `n` bytes: most names are dismissed by their length alone.
    lengths: u64,
    members: Vec<Member>,
    elements: Vec<(usize, u32)>,
    /// Slots of this very path.
    own: Range<u32>,
    /// Slots of this path and all below.
    subtree: Range<u32>,
    /// The document in which this node was last seen.
    seen: u64,
}

/// A wanted member of an object.
struct Member {
    name: Box<str>,
    /// Its first [`HEAD`] bytes in the lowest places, zeros behind.
    head: u128,
    /// Ones where `head` has bytes of the name.
    mask: u128,
    child: u32,
}

/// Bytes of a name that are compared at once.
const HEAD: usize = size_of::<u128>();

impl Member {
    fn new(name: &str, child: u32) -> Self {
        let mut head = [0; HEAD];
        let length = name.len().min(HEAD);
        head[..length].copy_from_slice(&name.as_bytes()[..length]);
        let mask = if length == HEAD { u128::MAX } else { (1 << (8 * length)) - 1 };
        Self { name: name.into(), head: u128::from_le_bytes(head), mask, child }
    }

    /// Whether this is the name of the first `length` bytes of `text`.
    #[inline(always)]
    fn is(&self, text: &[u8], length: usize) -> bool {
        if self.name.len() != length {
            return false;
        }
        match text.first_chunk::<HEAD>() {
            // Mostly more follows than the name, and then a call for so few bytes is saved.
            Some(head) if length <= HEAD => u128::from_le_bytes(*head) & self.mask == self.head,
            _ => text.get(..length) == Some(self.name.as_bytes()),
        }
    }
}

/// The trie and the slots.
pub(super) struct Paths {
    nodes: Vec<Node>,
    slots: Vec<Slot>,
    /// Slot of each wanted path, in the order they were given.
    slot_of: Vec<u32>,
    document: u64,
    /// An unescaped name.
    name: String,
}

impl Paths {
    pub(super) fn new(wanted: &[&[PathStep]]) -> Self {
        let mut nodes = vec![Node::default()];
        let mut ends: Vec<Vec<usize>> = vec![Vec::new()];
        for (i, path) in wanted.iter().enumerate() {
            let mut at = ROOT as usize;
            for step in path.iter() {
                at = child(&mut nodes, at, step);
                ends.resize_with(nodes.len(), Vec::new);
            }
            ends[at].push(i);
        }
        let mut slot_of = vec![0; wanted.len()];
        number(&mut nodes, &ends, ROOT as usize, &mut 0, &mut slot_of);
        Self { nodes, slots: vec![Slot::MISSING; wanted.len()], slot_of, document: 0, name: String::new() }
    }

    /// What was found at wanted path `i`.
    #[inline]
    pub(super) fn slot(&self, i: usize) -> Slot {
        self.slots[self.slot_of[i] as usize]
    }

    pub(super) fn start_document(&mut self) {
        self.document += 1;
        self.slots.fill(Slot::MISSING);
    }

    #[inline]
    pub(super) fn has_members(&self, node: u32) -> bool {
        !self.nodes[node as usize].members.is_empty()
    }

    #[inline]
    pub(super) fn has_elements(&self, node: u32) -> bool {
        !self.nodes[node as usize].elements.is_empty()
    }

    #[inline]
    pub(super) fn found(&mut self, node: u32, slot: Slot) {
        for s in self.nodes[node as usize].own.clone() {
            self.slots[s as usize] = slot;
        }
    }

    /// The node of the member whose name (without escapes) is the first `length` bytes of `text`, if anything below it is wanted.
    #[inline(always)]
    pub(super) fn member(&mut self, node: u32, text: &[u8], length: usize) -> Option<u32> {
        let node = &self.nodes[node as usize];
        if node.lengths >> (length % 64) & 1 == 0 {
            return None;
        }
        let child = node.members.iter().find(|m| m.is(text, length))?.child;
        Some(self.enter(child))
    }

    /// The same for a name with escapes.
    #[cold]
    pub(super) fn escaped_member(&mut self, node: u32, name: &[u8]) -> Option<u32> {
        let mut text = std::mem::take(&mut self.name);
        text.clear();
        // A name with half a surrogate pair is no text, so it equals no wanted name.
        let child = match std::str::from_utf8(name).map(|name| unescape::append(name, &mut text)) {
            Ok(Ok(())) => self.member(node, text.as_bytes(), text.len()),
            _ => None,
        };
        self.name = text;
        child
    }

    /// The node of element `index`, if anything below it is wanted.
    #[inline]
    pub(super) fn element(&mut self, node: u32, index: usize) -> Option<u32> {
        let (_, child) = self.nodes[node as usize].elements.iter().find(|(wanted, _)| *wanted == index)?;
        Some(self.enter(*child))
    }

    #[inline]
    fn enter(&mut self, child: u32) -> u32 {
        let node = &mut self.nodes[child as usize];
        if node.seen == self.document {
            let again = node.subtree.start as usize..node.subtree.end as usize;
            self.slots[again].fill(Slot::MISSING);
        } else {
            node.seen = self.document;
        }
        child
    }
}

/// The child of node `at` by `step`, made where there is none.
fn child(nodes: &mut Vec<Node>, at: usize, step: &PathStep) -> usize {
    let next = nodes.len();
    let node = &mut nodes[at];
    let known = match step {
        PathStep::Member(name) => node.members.iter().find(|m| *m.name == **name).map(|m| m.child),
        PathStep::Index(index) => node.elements.iter().find(|(i, _)| i == index).map(|(_, c)| *c),
    };
    if let Some(known) = known {
        return known as usize;
    }
    match step {
        PathStep::Member(name) => {
            node.lengths |= 1 << (name.len() % 64);
            node.members.push(Member::new(name, next as u32));
        }
        PathStep::Index(index) => node.elements.push((*index, next as u32)),
    }
    nodes.push(Node::default());
    next
}

/// Numbers the slots at and below `node` depth first. Recursion is as deep as the longest path of the pipeline.
fn number(nodes: &mut [Node], ends: &[Vec<usize>], node: usize, next: &mut u32, slot_of: &mut [u32]) {
    let start = *next;
    for &wanted in &ends[node] {
        slot_of[wanted] = *next;
        *next += 1;
    }
    nodes[node].own = start..*next;
    let children: Vec<u32> =
        nodes[node].members.iter().map(|m| m.child).chain(nodes[node].elements.iter().map(|(_, c)| *c)).collect();
    for child in children {
        number(nodes, ends, child as usize, next, slot_of);
    }
    nodes[node].subtree = start..*next;
}
