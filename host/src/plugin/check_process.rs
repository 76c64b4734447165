//! Whether what a guest of keyed processes says of itself can be so.

use std::collections::BTreeSet;

use super::abi::{AttributeOut, OutputOut, ProcessOut, ProcessesOut};
use super::check::{ARGUMENTS, Checked, FUNCTIONS, STATE_FIELDS, guest_type, line, name, printable, state_fields};
use super::signature::{Attribute, FunctionSignature, GuestType, ProcessOutput, ProcessSignature, StateField};
use super::{FunctionKind, Version};
use crate::limits::HIDDEN_PREFIX;

/// Outputs of a process at most.
const OUTPUTS: usize = 16;
/// Columns of an output at most.
const COLUMNS: usize = 64;
/// Bytes of a column's name at most.
const COLUMN_NAME_BYTES: usize = 64;

/// Checks a description.
///
/// # Errors
/// Everything that is wrong.
pub(super) fn description(description: ProcessesOut) -> Result<Checked, Vec<String>> {
    let mut faults = Vec::new();
    name(&description.name, "the plugin's name", &mut faults);
    let version = Version::parse(&description.version).map_err(|e| faults.push(e)).ok();
    line(&description.sdk, "`sdk`", &mut faults);
    match description.processes.len() {
        0 => faults.push("it has no processes".into()),
        n if n > FUNCTIONS => faults.push(format!("it has {n} processes, {FUNCTIONS} are allowed")),
        _ => {}
    }
    let mut names = BTreeSet::new();
    for process in &description.processes {
        if !names.insert(&process.name) {
            faults.push(format!("two processes are called `{}`", printable(&process.name)));
        }
    }
    let functions: Vec<_> = description.processes.into_iter().map(|p| signature(p, &mut faults)).collect();
    match version {
        Some(version) if faults.is_empty() => {
            Ok(Checked { name: description.name.into(), version, sdk: description.sdk, functions })
        }
        _ => Err(faults),
    }
}

fn signature(process: ProcessOut, faults: &mut Vec<String>) -> FunctionSignature {
    let mut found = Vec::new();
    name(&process.name, "its name", &mut found);
    line(&process.doc, "its doc", &mut found);
    let state: Vec<_> = process
        .state
        .into_iter()
        .map(|f| StateField { name: f.name, data_type: guest_type(f.data_type), layout: f.layout })
        .collect();
    if state.len() > STATE_FIELDS {
        found.push(format!("{} state fields, {STATE_FIELDS} are allowed", state.len()));
    }
    state_fields(&state, &mut found);
    let arguments = attributes(process.arguments, "its rows", ARGUMENTS, &mut found);
    if process.outputs.len() > OUTPUTS {
        found.push(format!("{} outputs, {OUTPUTS} are allowed", process.outputs.len()));
    }
    let mut names = BTreeSet::new();
    let outputs: Vec<_> = process.outputs.into_iter().map(|o| output(o, &mut names, &mut found)).collect();
    let shown = printable(&process.name);
    faults.extend(found.into_iter().map(|f| format!("process `{shown}`: {f}")));
    FunctionSignature {
        name: process.name.into(),
        kind: FunctionKind::Process,
        doc: process.doc,
        arguments: arguments.iter().map(|a| a.data_type).collect(),
        result: GuestType::Boolean,
        results: Vec::new(),
        state,
        process: Some(ProcessSignature { arguments, outputs }),
    }
}

fn output(output: OutputOut, names: &mut BTreeSet<String>, faults: &mut Vec<String>) -> ProcessOutput {
    name(&output.name, "an output's name", faults);
    let shown = printable(&output.name);
    if !names.insert(output.name.clone()) {
        faults.push(format!("two outputs are called `{shown}`"));
    }
    if output.columns.is_empty() && !output.passes {
        faults.push(format!("output `{shown}` has no columns"));
    }
    let columns = attributes(output.columns, &format!("output `{shown}`"), COLUMNS, faults);
    ProcessOutput { name: output.name, columns, passes: output.passes }
}

fn attributes(attributes: Vec<AttributeOut>, what: &str, most: usize, faults: &mut Vec<String>) -> Vec<Attribute> {
    if attributes.len() > most {
        faults.push(format!("{what}: {} columns, {most} are allowed", attributes.len()));
    }
    let mut names = BTreeSet::new();
    for attribute in &attributes {
        let shown = printable(&attribute.name);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts = attribute.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts || attribute.name.len() > COLUMN_NAME_BYTES || !attribute.name.chars().all(is_plain) {
            faults.push(format!(
                "{what}: a column is called `{shown}`: use letters, digits and _, no digit first, at most {COLUMN_NAME_BYTES}"
            ));
        }
        if attribute.name.starts_with(HIDDEN_PREFIX) {
            faults.push(format!("{what}: the column `{shown}` starts with `{HIDDEN_PREFIX}`, which is kept for Kindling"));
        }
        if !names.insert(&attribute.name) {
            faults.push(format!("{what}: two columns are called `{shown}`"));
        }
    }
    let attribute = |a: AttributeOut| Attribute { name: a.name, data_type: guest_type(a.data_type), nullable: a.nullable };
    attributes.into_iter().map(attribute).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::abi::{DatatypeOut, FieldOut};

    fn column(name: &str) -> AttributeOut {
        AttributeOut { name: name.into(), data_type: DatatypeOut::Int64, nullable: false }
    }

    fn process(name: &str) -> ProcessOut {
        ProcessOut {
            name: name.into(),
            doc: "what it does".into(),
            arguments: vec![column("userId")],
            state: vec![FieldOut { name: "n".into(), data_type: DatatypeOut::Int64, layout: String::new() }],
            outputs: vec![OutputOut { name: "results".into(), columns: vec![column("n")], passes: false }],
        }
    }

    fn faults(change: impl FnOnce(&mut ProcessesOut)) -> String {
        let mut d = ProcessesOut {
            name: "p".into(),
            version: "1.2.3".into(),
            sdk: "by hand".into(),
            processes: vec![process("a"), process("b")],
        };
        change(&mut d);
        description(d).err().unwrap_or_default().join("; ")
    }

    type Change = Box<dyn FnOnce(&mut ProcessesOut)>;

    #[test]
    fn every_fault_is_told() {
        assert_eq!(faults(|_| ()), "");
        let cases: Vec<(&str, Change)> = vec![
            ("the plugin's name is `P`", Box::new(|d| d.name = "P".into())),
            ("it has no processes", Box::new(|d| d.processes.clear())),
            ("two processes are called `a`", Box::new(|d| d.processes[1].name = "a".into())),
            ("process `b`: output `results` has no columns", Box::new(|d| d.processes[1].outputs[0].columns.clear())),
            (
                "process `a`: two outputs are called `results`",
                Box::new(|d| {
                    let again = OutputOut { name: "results".into(), columns: vec![column("n")], passes: false };
                    d.processes[0].outputs.push(again);
                }),
            ),
            (
                "process `a`: its rows: two columns are called `userId`",
                Box::new(|d| d.processes[0].arguments.push(column("userId"))),
            ),
            ("a column is called `a b`", Box::new(|d| d.processes[0].arguments[0] = column("a b"))),
            ("`__x` starts with `__`", Box::new(|d| d.processes[0].outputs[0].columns[0] = column("__x"))),
        ];
        for (expect, change) in cases {
            let text = faults(change);
            assert!(text.contains(expect), "expected {expect:?} in {text:?}");
        }
        let text = faults(|d| d.processes[0].arguments = (0..17).map(|i| column(&format!("c{i}"))).collect());
        assert!(text.contains("process `a`: its rows: 17 columns, 16 are allowed"), "{text}");
    }
}
