//! A pipeline file and `kindling.yaml`: typed, and what is wrong with them by line and column, all at once.

pub mod decode;
pub mod endpoints;
pub mod fault;
mod operations;
pub mod operators;
mod overrides;
pub mod path;
mod processes;
pub mod spec;
#[cfg(test)]
mod tests;
mod windows;
pub mod yaml;

pub use fault::{ConfigErrors, Fault};

use crate::limits::STATE_MEMORY_BYTES_MIN;
use crate::size::format_size;
use decode::Fields;
use endpoints::Connections;
use spec::{Pipeline, Place, Placed, SinkSpec, TimestampFormat};
use std::path::{Path, PathBuf};
use yaml::Node;

/// How a pipeline is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// File of connections; none: `kindling.yaml` beside the pipeline, else in the current folder, if it is there.
    pub connections: Option<PathBuf>,
    /// Overridden fields: path and YAML value.
    pub sets: Vec<(String, String)>,
    /// Where `${NAME}` comes from.
    pub env: fn(&str) -> Option<String>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { connections: None, sets: Vec::new(), env: |name| std::env::var(name).ok() }
    }
}

/// Loads a pipeline from a file.
///
/// # Errors
/// All that is wrong with it, or with the file of connections.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Pipeline, ConfigErrors> {
    let text = read(path)?;
    let beside = path.parent().unwrap_or(Path::new("")).join("kindling.yaml");
    let connections = options.connections.clone().or_else(|| [beside, "kindling.yaml".into()].into_iter().find(|p| p.is_file()));
    load_from(&text, &path.display().to_string(), connections.as_deref(), options)
}

/// Loads a pipeline from its text; connections only from [`LoadOptions::connections`].
///
/// # Errors
/// As [`load`].
pub fn load_str(text: &str, file_name: &str, options: &LoadOptions) -> Result<Pipeline, ConfigErrors> {
    load_from(text, file_name, options.connections.as_deref(), options)
}

fn read(path: &Path) -> Result<String, ConfigErrors> {
    let file = path.display().to_string();
    std::fs::read_to_string(path)
        .map_err(|e| ConfigErrors::new(&file, "", vec![Fault::new(Place { line: 1, column: 1 }, e.to_string())]))
}

fn load_from(text: &str, file: &str, connections: Option<&Path>, options: &LoadOptions) -> Result<Pipeline, ConfigErrors> {
    let connections = match connections {
        None => Connections::new(),
        Some(path) => {
            let text = read(path)?;
            let name = path.display().to_string();
            let mut faults = Vec::new();
            let mut node = yaml::parse(&text).map_err(|f| ConfigErrors::new(&name, &text, f))?;
            endpoints::fill(&mut node, &options.env, &mut faults);
            let connections = endpoints::connections(node, &mut faults);
            if !faults.is_empty() {
                return Err(ConfigErrors::new(&name, &text, faults));
            }
            connections
        }
    };
    let mut faults = Vec::new();
    let mut node = yaml::parse(text).map_err(|f| ConfigErrors::new(file, text, f))?;
    for (path, value) in &options.sets {
        overrides::set(&mut node, path, value, &mut faults);
    }
    endpoints::fill(&mut node, &options.env, &mut faults);
    match pipeline(node, file, text, &connections, &mut faults) {
        Some(pipeline) if faults.is_empty() => Ok(pipeline),
        _ => Err(ConfigErrors::new(file, text, faults)),
    }
}

fn pipeline(node: Node, file: &str, text: &str, connections: &Connections, faults: &mut Vec<Fault>) -> Option<Pipeline> {
    let mut fields = Fields::new(node, "the pipeline", faults);
    let name = fields.text_opt("name", faults);
    let team = fields.text_opt("team", faults);
    for label in [&name, &team].into_iter().flatten() {
        check_label(label, faults);
    }
    let version = fields.text_opt("version", faults).map_or_else(String::new, |v| v.value);
    let source = fields.need("source", faults).and_then(|n| endpoints::source(n, connections, faults));
    let (source, pace) = source.map_or((None, spec::PaceSpec::default()), |(source, pace)| (Some(source), pace));
    let place = fields.place();
    let mut nodes = fields.list("pipeline", faults);
    let operators = operators::take_names(&mut nodes, faults);
    let operations: Vec<_> = nodes.into_iter().filter_map(|n| operations::operation(n, connections, faults)).collect();
    if operations.is_empty() && faults.is_empty() {
        faults.push(Fault::new(place, "the pipeline needs `pipeline`: a list of operations"));
    }
    processes::check_outputs(&operations, faults);
    let sink = fields.take("sink").map(|n| endpoints::sink(n, "sink", connections, faults));
    let (mut late, mut rejects) = (None, None);
    if let Some(node) = fields.take("sideOutputs") {
        let mut side = Fields::new(node, "sideOutputs", faults);
        late = side.take("late").and_then(|n| endpoints::sink(n, "late", connections, faults));
        rejects = side.take("rejects").and_then(|n| endpoints::sink(n, "rejects", connections, faults));
        side.finish(faults);
    }
    let timestamp_format = match fields.text_opt("timestampFormat", faults) {
        None => TimestampFormat::default(),
        Some(f) if f.value == "rfc3339" => TimestampFormat::Rfc3339,
        Some(f) if f.value == "millis" => TimestampFormat::Millis,
        Some(f) => {
            let near = fault::suggest(&f.value, ["rfc3339", "millis"]);
            faults.push(Fault::new(f.place, format!("`timestampFormat` is rfc3339 or millis, not `{}`{near}", f.value)));
            TimestampFormat::default()
        }
    };
    let state = fields.take("state").map(|n| state(n, faults)).unwrap_or_default();
    let include_plugin_version = fields.bool_or("includePluginVersion", false, faults);
    fields.finish(faults);
    Some(Pipeline {
        file: file.to_owned(),
        text: text.to_owned(),
        name: name.map_or_else(|| stem(file), |n| n.value),
        team: team.map_or_else(|| "default".into(), |t| t.value),
        version,
        source: source?,
        pace,
        state,
        operations,
        operators,
        sink: sink.unwrap_or(Some(SinkSpec::Stdout))?,
        late,
        rejects,
        timestamp_format,
        include_plugin_version,
    })
}

fn state(node: Node, faults: &mut Vec<Fault>) -> spec::StateSpec {
    let mut fields = Fields::new(node, "state", faults);
    let memory = fields.size_opt("memory", faults);
    if let Some(memory) = memory.as_ref().filter(|m| m.value < STATE_MEMORY_BYTES_MIN) {
        let least = format_size(STATE_MEMORY_BYTES_MIN);
        faults.push(Fault::new(memory.place, format!("`memory` must be at least {least}: less holds no epoch's changes")));
    }
    fields.finish(faults);
    spec::StateSpec { memory: memory.map(|m| m.value) }
}

/// Names become parts of topics, groups and folders.
fn check_label(label: &Placed<String>, faults: &mut Vec<Fault>) {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let starts = label.value.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !starts || !label.value.chars().all(plain) || label.value.len() > 100 {
        let text = format!("`{}` must be up to 100 of a-z, 0-9, `.`, `_`, `-`: it becomes a part of topic names", label.value);
        faults.push(Fault::new(label.place, text));
    }
}

fn stem(file: &str) -> String {
    let stem = Path::new(file).file_stem().map_or_else(|| "job".into(), |s| s.to_string_lossy().to_lowercase());
    let plain = stem.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c) { c } else { '-' });
    plain.collect::<String>().trim_start_matches(['.', '_', '-']).to_owned()
}
