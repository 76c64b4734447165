//! Whether what a guest of keyed processes says of itself can be so.

use std::collections::BTreeSet;

use super::FunctionKind;
use super::abi::{AttributeOut, OutputOut, ProcessOut, ProcessesOut};
use super::check::{self, ARGUMENTS, Checked, STATE_FIELDS, fields, guest_type, header, line, name, printable, state_fields};
use super::signature::{Attribute, FunctionSignature, GuestType, ProcessOutput, ProcessSignature};

/// Outputs of a process at most.
const OUTPUTS: usize = 16;
/// Columns of an output at most.
const COLUMNS: usize = 64;

/// Checks a description.
///
/// # Errors
/// Everything that is wrong.
pub(super) fn description(description: ProcessesOut) -> Result<Checked, Vec<String>> {
    let mut faults = Vec::new();
    let names = description.processes.iter().map(|p| &p.name);
    let version = header((&description.name, &description.version, &description.sdk), names, "processes", &mut faults);
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
    let state = fields(process.state);
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
    check::columns(attributes.iter().map(|a| &a.name), &format!("{what}: "), most, faults);
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
