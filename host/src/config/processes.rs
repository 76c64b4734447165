//! `process`: a guest that keeps something of each key.

use crate::config::decode::Fields;
use crate::config::endpoints::{self, Connections};
use crate::config::fault::{Fault, suggest};
use crate::config::spec::{Operation, Order, Placed, ProcessSpec, SinkSpec};
use crate::config::windows::positive;
use crate::config::yaml::{Node, NodeValue};
use crate::limits::MAX_FUTURE;
use std::collections::HashSet;
use std::time::Duration;

/// `process`.
pub fn process(fields: &mut Fields<'_>, connections: &Connections, faults: &mut Vec<Fault>) -> Option<ProcessSpec> {
    let process = fields.text("plugin", faults);
    let place = fields.place();
    let keys = fields.texts("keyBy", faults);
    if keys.is_empty() {
        let text = "process needs `keyBy`: a list of SQL expressions; rows with the same values share a state";
        faults.push(Fault::new(place, text));
    }
    let timestamp_column = fields.text("timestampColumn", faults);
    let watermark = fields.duration_opt("watermark", faults).map_or(Duration::ZERO, |d| d.value);
    let max_future = fields.duration_opt("maxFuture", faults).map_or(MAX_FUTURE, |d| d.value);
    let ttl = fields.duration_opt("ttl", faults);
    if ttl.is_none() {
        let text = "the state of a process grows with each new key: add `ttl: 7.days`, after which an idle key is forgotten";
        faults.push(Fault::new(place, text));
    }
    let ttl = ttl.and_then(|ttl| positive(ttl, "ttl", faults));
    let order = order(fields, faults);
    let outputs = fields.take("outputs").map_or_else(Vec::new, |node| outputs(node, connections, faults));
    Some(ProcessSpec {
        process: process?,
        keys,
        timestamp_column: timestamp_column?,
        watermark,
        max_future,
        ttl: ttl?,
        order,
        outputs,
    })
}

/// `order: arrival | eventTime`.
fn order(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Order {
    let Some(name) = fields.text_opt("order", faults) else { return Order::Arrival };
    match name.value.as_str() {
        "arrival" => Order::Arrival,
        "eventTime" => Order::EventTime,
        other => {
            let near = suggest(other, ["arrival", "eventTime"]);
            faults.push(Fault::new(name.place, format!("`order` is arrival or eventTime, not `{other}`{near}")));
            Order::Arrival
        }
    }
}

/// `outputs`: names of outputs to sinks.
fn outputs(node: Node, connections: &Connections, faults: &mut Vec<Fault>) -> Vec<(Placed<String>, SinkSpec)> {
    let NodeValue::Map(members) = node.value else {
        faults.push(Fault::new(node.place, "`outputs` must be a mapping of the process's outputs to sinks"));
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, node) in members {
        if name.value == "results" {
            let text = "the output `results` goes on in the pipeline, to its `sink`; name only the others";
            faults.push(Fault::new(name.place, text));
        }
        found.extend(endpoints::sink(node, &name.value, connections, faults).map(|sink| (name, sink)));
    }
    found
}

/// A sink belongs to one process's output: its role is the output's name.
pub fn check_outputs(operations: &[Placed<Operation>], faults: &mut Vec<Fault>) {
    let mut names = HashSet::new();
    for operation in operations {
        let Operation::Process(process) = &operation.value else { continue };
        for (name, _) in process.outputs.iter().filter(|(name, _)| !names.insert(&name.value)) {
            let text =
                format!("another process has an output `{}` with a sink: of two processes these names must differ", name.value);
            faults.push(Fault::new(name.place, text));
        }
    }
}
