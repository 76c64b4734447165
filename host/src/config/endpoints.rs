//! Sources, sinks, and the connections that they name.

use crate::config::decode::{Fields, text};
use crate::config::fault::{Fault, suggest};
use crate::config::spec::{GenerateSpec, KafkaSourceSpec, PaceSpec, Place, Placed, SinkSpec, SourceSpec, StartingOffsets};
use crate::config::yaml::{Node, NodeValue};
use std::collections::BTreeMap;

/// A connection declared in `kindling.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub enum Connection {
    /// librdkafka properties.
    Kafka(BTreeMap<String, String>),
    /// A path.
    File(String),
}

/// Connections by name.
pub type Connections = BTreeMap<String, Connection>;

/// Reads `kindling.yaml`.
pub fn connections(node: Node, faults: &mut Vec<Fault>) -> Connections {
    let mut all = Connections::new();
    let mut fields = Fields::new(node, "kindling.yaml", faults);
    if let Some(Node { value, place }) = fields.need("connections", faults) {
        let NodeValue::Map(members) = value else {
            faults.push(Fault::new(place, format!("`connections` must be a mapping of names, not {}", value.kind())));
            return all;
        };
        for (name, node) in members {
            let mut fields = Fields::new(node, "a connection", faults);
            match fields.text("type", faults) {
                Some(kind) if kind.value == "kafka" => {
                    if let Some(properties) = kafka_properties(&mut fields, None, faults) {
                        all.insert(name.value, Connection::Kafka(properties));
                    }
                }
                Some(kind) if kind.value == "file" => {
                    if let Some(path) = fields.text("path", faults) {
                        all.insert(name.value, Connection::File(path.value));
                    }
                }
                Some(kind) => {
                    let near = suggest(&kind.value, ["kafka", "file"]);
                    faults.push(Fault::new(kind.place, format!("unknown type `{}` of a connection{near}", kind.value)));
                }
                None => {}
            }
            fields.finish(faults);
        }
    }
    fields.finish(faults);
    all
}

/// `brokers` and `properties`, over those of a connection.
fn kafka_properties(
    fields: &mut Fields<'_>,
    of: Option<&BTreeMap<String, String>>,
    faults: &mut Vec<Fault>,
) -> Option<BTreeMap<String, String>> {
    let mut properties = of.cloned().unwrap_or_default();
    let brokers = if of.is_some() { fields.text_opt("brokers", faults) } else { fields.text("brokers", faults) };
    if let Some(brokers) = brokers {
        properties.insert("bootstrap.servers".into(), brokers.value);
    }
    match fields.take("properties") {
        None => {}
        Some(Node { value: NodeValue::Map(members), .. }) => {
            for (name, node) in members {
                if let Some(value) = text(node, &name.value, faults) {
                    properties.insert(name.value, value.value);
                }
            }
        }
        Some(other) => faults.push(Fault::new(other.place, "`properties` must be a mapping of librdkafka's properties")),
    }
    properties.contains_key("bootstrap.servers").then_some(properties)
}

/// What a source or sink names.
enum Named {
    Kafka(Option<BTreeMap<String, String>>),
    File(Option<String>),
    Other(String),
}

fn named(name: &Placed<String>, built_in: &[&str], connections: &Connections, faults: &mut Vec<Fault>) -> Option<Named> {
    match (name.value.as_str(), connections.get(&name.value)) {
        (_, Some(Connection::Kafka(properties))) => Some(Named::Kafka(Some(properties.clone()))),
        (_, Some(Connection::File(path))) => Some(Named::File(Some(path.clone()))),
        ("kafka", None) => Some(Named::Kafka(None)),
        ("file", None) => Some(Named::File(None)),
        (other, None) if built_in.contains(&other) => Some(Named::Other(other.to_owned())),
        (other, None) => {
            let near = suggest(other, connections.keys().map(String::as_str).chain(built_in.iter().copied()));
            let text = format!(
                "no connection `{other}`{near}; declare it under `connections` in kindling.yaml beside the pipeline (or give --connections FILE), or use \
                 one of {}",
                built_in.join(", ")
            );
            faults.push(Fault::new(name.place, text));
            None
        }
    }
}

fn parameters(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Fields<'static> {
    let empty = Node { place: fields.place(), value: NodeValue::Map(Vec::new()) };
    let node = fields.take("parameters").filter(|n| n.value != NodeValue::Null).unwrap_or(empty);
    Fields::new(node, "parameters", faults)
}

/// `source`.
pub fn source(node: Node, connections: &Connections, faults: &mut Vec<Fault>) -> Option<(SourceSpec, PaceSpec)> {
    let mut fields = Fields::new(node, "source", faults);
    let name = fields.text("name", faults);
    let mut parameters = parameters(&mut fields, faults);
    fields.finish(faults);
    let spec = match named(&name?, &["kafka", "file", "stdin", "generate"], connections, faults)? {
        Named::Kafka(of) => kafka_source(&mut parameters, of.as_ref(), faults),
        Named::File(of) => file_path(&mut parameters, of, faults).map(|path| SourceSpec::File { path }),
        Named::Other(name) if name == "stdin" => Some(SourceSpec::Stdin),
        Named::Other(_) => Some(SourceSpec::Generate(generate(&mut parameters, faults))),
    };
    let pace = pace(&mut parameters, faults);
    parameters.finish(faults);
    spec.map(|spec| (spec, pace))
}

/// `idleAfter` and `maxDrift`, which every source takes.
fn pace(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> PaceSpec {
    let idle_after = fields.duration_opt("idleAfter", faults).map(|d| d.value);
    let max_drift = fields.duration_opt("maxDrift", faults);
    if let Some(drift) = max_drift.as_ref().filter(|d| d.value.is_zero()) {
        faults.push(Fault::new(drift.place, "`maxDrift` must be longer than 0: partitions are never exactly equal"));
    }
    PaceSpec { idle_after, max_drift: max_drift.map(|d| d.value) }
}

fn kafka_source(fields: &mut Fields<'_>, of: Option<&BTreeMap<String, String>>, faults: &mut Vec<Fault>) -> Option<SourceSpec> {
    let properties = kafka_properties(fields, of, faults);
    let topic = fields.text("topic", faults);
    let fail_on_data_loss = fields.bool_or("failOnDataLoss", true, faults);
    let starting_offsets = match fields.text_opt("startingOffsets", faults) {
        None => StartingOffsets::default(),
        Some(o) if o.value == "earliest" => StartingOffsets::Earliest,
        Some(o) if o.value == "latest" => StartingOffsets::Latest,
        Some(o) => {
            let near = suggest(&o.value, ["earliest", "latest"]);
            faults.push(Fault::new(o.place, format!("`startingOffsets` is earliest or latest, not `{}`{near}", o.value)));
            StartingOffsets::default()
        }
    };
    Some(SourceSpec::Kafka(KafkaSourceSpec { properties: properties?, topic: topic?.value, fail_on_data_loss, starting_offsets }))
}

fn file_path(fields: &mut Fields<'_>, of: Option<String>, faults: &mut Vec<Fault>) -> Option<String> {
    let own = if of.is_some() { fields.text_opt("path", faults) } else { fields.text("path", faults) };
    own.map(|p| p.value).or(of)
}

fn generate(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> GenerateSpec {
    let default = GenerateSpec::default();
    GenerateSpec {
        rows_per_second: fields.count_or("rowsPerSecond", default.rows_per_second, faults),
        rows: fields.count_opt("rows", faults),
        seed: fields.count_or("seed", default.seed, faults),
        partitions: usize::try_from(fields.count_or("partitions", default.partitions as u64, faults).clamp(1, 1_024))
            .unwrap_or(1),
        disorder: fields.duration_opt("disorder", faults).map_or(default.disorder, |d| d.value),
        late_share: fields.share_or("lateShare", default.late_share, faults),
        broken_share: fields.share_or("brokenShare", default.broken_share, faults),
        start_ms: start(fields, faults),
    }
}

fn start(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Option<i64> {
    let start = fields.text_opt("start", faults)?;
    let millis = start.value.parse().ok().or_else(|| {
        let nanos = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(&start.value).ok()?;
        Some(nanos.div_euclid(1_000_000))
    });
    if millis.is_none() {
        faults.push(Fault::new(start.place, "`start` is a time: milliseconds since 1970 UTC, or RFC 3339 text"));
    }
    millis
}

/// `sink`, or one of `sideOutputs`.
pub fn sink(node: Node, what: &str, connections: &Connections, faults: &mut Vec<Fault>) -> Option<SinkSpec> {
    let mut fields = Fields::new(node, what, faults);
    let name = fields.text("name", faults);
    let mut parameters = parameters(&mut fields, faults);
    fields.finish(faults);
    let spec = match named(&name?, &["kafka", "file", "stdout", "discard"], connections, faults)? {
        Named::Kafka(of) => {
            let properties = kafka_properties(&mut parameters, of.as_ref(), faults);
            let topic = parameters.text("topic", faults);
            properties.zip(topic).map(|(properties, topic)| SinkSpec::Kafka { properties, topic: topic.value })
        }
        Named::File(of) => file_path(&mut parameters, of, faults).map(|path| SinkSpec::File { path }),
        Named::Other(name) if name == "stdout" => Some(SinkSpec::Stdout),
        Named::Other(_) => Some(SinkSpec::Discard),
    };
    parameters.finish(faults);
    spec
}

/// Fills `${NAME}` and `${NAME:-default}` in all text from the environment.
pub fn fill(node: &mut Node, env: &dyn Fn(&str) -> Option<String>, faults: &mut Vec<Fault>) {
    match &mut node.value {
        NodeValue::Str(text) if text.contains("${") => match filled(text, env) {
            Ok(value) => *text = value,
            Err(why) => faults.push(Fault::new(node.place, why)),
        },
        NodeValue::List(items) => items.iter_mut().for_each(|n| fill(n, env, faults)),
        NodeValue::Map(members) => members.iter_mut().for_each(|(_, n)| fill(n, env, faults)),
        _ => {}
    }
}

fn filled(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let (inside, behind) = after.split_once('}').ok_or("`${` without `}`")?;
        let (name, default) = inside.split_once(":-").map_or((inside, None), |(n, d)| (n, Some(d)));
        match env(name).or_else(|| default.map(str::to_owned)) {
            Some(value) => out.push_str(&value),
            None => return Err(format!("the environment has no variable {name}; set it, or write ${{{name}:-a default}}")),
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

/// A place for values that the command line gave.
pub const COMMAND_LINE: Place = Place { line: 0, column: 0 };
