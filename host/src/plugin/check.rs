//! Whether what a guest says of itself can be so: everything that is wrong, not only the first.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::abi::{DatatypeOut, DescriptionOut, FieldOut, FlatMapFunctionOut, FunctionOut, KindOut};
use super::check_flatmap;
use super::instance::Instance;
use super::signature::{FunctionSignature, GuestType, StateField};
use super::{FunctionKind, Version};
use crate::limits::HIDDEN_PREFIX;

/// Functions of a plugin at most.
pub const FUNCTIONS: usize = 64;
/// Arguments of a function at most.
pub const ARGUMENTS: usize = 16;
/// Fields of a partial state at most.
pub const STATE_FIELDS: usize = 64;
/// Bytes of a name at most.
const NAME_BYTES: usize = 64;
/// Bytes of a line for people, or of a layout, at most.
const LINE_BYTES: usize = 1_024;

/// A description that holds.
pub(super) struct Checked {
    pub(super) name: Arc<str>,
    pub(super) version: Version,
    pub(super) sdk: String,
    pub(super) functions: Vec<FunctionSignature>,
}

/// Which of the interface's exports a guest has.
#[derive(Clone, Copy)]
pub(super) struct Exports {
    pub(super) filter: bool,
    pub(super) scalar: bool,
    pub(super) flatmap: bool,
    pub(super) accumulate: bool,
    pub(super) merge: bool,
    pub(super) finish: bool,
}

impl Exports {
    pub(super) fn of(instance: &Instance) -> Self {
        Self {
            filter: instance.filter.is_some(),
            scalar: instance.scalar.is_some(),
            flatmap: instance.flatmap.is_some(),
            accumulate: instance.accumulate.is_some(),
            merge: instance.merge.is_some(),
            finish: instance.finish.is_some(),
        }
    }

    /// Exports that a function of `kind` needs and that are not there.
    fn missing(self, kind: FunctionKind) -> Vec<&'static str> {
        let needed: &[(&'static str, bool)] = match kind {
            FunctionKind::Filter => &[("filter", self.filter)],
            FunctionKind::Scalar => &[("scalar", self.scalar)],
            FunctionKind::FlatMap => &[("flatmap", self.flatmap)],
            FunctionKind::Aggregate => &[("accumulate", self.accumulate), ("merge", self.merge), ("finish", self.finish)],
            // Known by its own `describe`, without which it is none.
            FunctionKind::Process => &[],
        };
        needed.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect()
    }
}

/// Checks a description against the rules and the guest's exports. Flat maps are numbered on from the other functions.
///
/// # Errors
/// Everything that is wrong.
pub(super) fn description(
    description: DescriptionOut,
    flatmaps: Vec<FlatMapFunctionOut>,
    exports: Exports,
) -> Result<Checked, Vec<String>> {
    let mut faults = Vec::new();
    let names = description.functions.iter().map(|f| &f.name).chain(flatmaps.iter().map(|f| &f.name));
    let version = header((&description.name, &description.version, &description.sdk), names, "functions", &mut faults);
    let mut functions: Vec<_> = description.functions.into_iter().map(|f| function_signature(f, exports, &mut faults)).collect();
    functions.extend(flatmaps.into_iter().map(|f| check_flatmap::signature(f, exports, &mut faults)));
    match version {
        Some(version) if faults.is_empty() => {
            Ok(Checked { name: description.name.into(), version, sdk: description.sdk, functions })
        }
        _ => Err(faults),
    }
}

/// What is wrong with what every description has: name, version and SDK of the plugin, and names of its functions; `what` these are called. Gives
/// the version.
pub(super) fn header<'a>(
    (plugin, version, sdk): (&str, &str, &str),
    functions: impl Iterator<Item = &'a String>,
    what: &str,
    faults: &mut Vec<String>,
) -> Option<Version> {
    name(plugin, "the plugin's name", faults);
    let version = Version::parse(version).map_err(|e| faults.push(e)).ok();
    line(sdk, "`sdk`", faults);
    let (mut names, mut count) = (BTreeSet::new(), 0);
    let mut twice = Vec::new();
    for name in functions {
        count += 1;
        if !names.insert(name) {
            twice.push(format!("two {what} are called `{}`", printable(name)));
        }
    }
    match count {
        0 => faults.push(format!("it has no {what}")),
        n if n > FUNCTIONS => faults.push(format!("it has {n} {what}, {FUNCTIONS} are allowed")),
        _ => {}
    }
    faults.append(&mut twice);
    version
}

/// What is wrong with the names of columns; each fault begins with `what`.
pub(super) fn columns<'a>(names: impl ExactSizeIterator<Item = &'a String>, what: &str, most: usize, faults: &mut Vec<String>) {
    if names.len() > most {
        faults.push(format!("{what}{} columns, {most} are allowed", names.len()));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut known = BTreeSet::new();
    for name in names {
        let shown = printable(name);
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts || name.len() > NAME_BYTES || !name.chars().all(is_plain) {
            faults.push(format!(
                "{what}a column is called `{shown}`: use letters, digits and _, no digit first, at most {NAME_BYTES}"
            ));
        }
        if name.starts_with(HIDDEN_PREFIX) {
            faults.push(format!(
                "{what}a column is called `{shown}`: `{shown}` starts with `{HIDDEN_PREFIX}`, which is kept for Kindling"
            ));
        }
        if !known.insert(name) {
            faults.push(format!("{what}two columns are called `{shown}`"));
        }
    }
}

/// Fields of a state.
pub(super) fn fields(state: Vec<FieldOut>) -> Vec<StateField> {
    let field = |f: FieldOut| StateField { name: f.name, data_type: guest_type(f.data_type), layout: f.layout };
    state.into_iter().map(field).collect()
}

fn function_signature(function: FunctionOut, exports: Exports, faults: &mut Vec<String>) -> FunctionSignature {
    let kind = match function.kind {
        KindOut::Filter => FunctionKind::Filter,
        KindOut::Scalar => FunctionKind::Scalar,
        KindOut::Aggregate => FunctionKind::Aggregate,
    };
    let signature = FunctionSignature {
        name: function.name.into(),
        kind,
        doc: function.doc,
        arguments: function.arguments.into_iter().map(guest_type).collect(),
        result: guest_type(function.result),
        results: Vec::new(),
        state: fields(function.state),
        process: None,
    };
    let mut found = Vec::new();
    function_faults(&signature, exports, &mut found);
    let shown = printable(&signature.name);
    faults.extend(found.into_iter().map(|f| format!("function `{shown}`: {f}")));
    signature
}

/// What is wrong with a function of any kind.
pub(super) fn function_faults(f: &FunctionSignature, exports: Exports, faults: &mut Vec<String>) {
    name(&f.name, "its name", faults);
    line(&f.doc, "its doc", faults);
    if f.arguments.len() > ARGUMENTS {
        faults.push(format!("{} arguments, {ARGUMENTS} are allowed", f.arguments.len()));
    }
    if f.kind == FunctionKind::Filter && f.result != GuestType::Boolean {
        faults.push(format!("a filter's result is boolean, not {}", f.result));
    }
    match (f.kind, f.state.len()) {
        (FunctionKind::Aggregate, 0) => faults.push("an aggregate needs at least one state field".into()),
        (FunctionKind::Aggregate, n) if n > STATE_FIELDS => faults.push(format!("{n} state fields, {STATE_FIELDS} are allowed")),
        (FunctionKind::Filter | FunctionKind::Scalar | FunctionKind::FlatMap, 1..) => {
            faults.push(format!("a {} function has no state", f.kind))
        }
        _ => {}
    }
    state_fields(&f.state, faults);
    for export in exports.missing(f.kind) {
        faults.push(format!("is a{} {}, but the guest does not export `{export}`", article(f.kind), f.kind));
    }
}

/// What is wrong with the fields of a state.
pub(super) fn state_fields(state: &[StateField], faults: &mut Vec<String>) {
    let mut fields = BTreeSet::new();
    for field in state {
        name(&field.name, "a state field's name", faults);
        line(&field.layout, "a state field's layout", faults);
        if !fields.insert(&field.name) {
            faults.push(format!("two state fields are called `{}`", printable(&field.name)));
        }
        if !field.layout.is_empty() && field.data_type != GuestType::Binary {
            faults.push(format!("state field `{}` has a layout, which only binary fields have", printable(&field.name)));
        }
    }
}

fn article(kind: FunctionKind) -> &'static str {
    if kind == FunctionKind::Aggregate { "n" } else { "" }
}

pub(super) fn guest_type(datatype: DatatypeOut) -> GuestType {
    match datatype {
        DatatypeOut::Boolean => GuestType::Boolean,
        DatatypeOut::Int64 => GuestType::Int64,
        DatatypeOut::Float64 => GuestType::Float64,
        DatatypeOut::Timestamp => GuestType::Timestamp,
        DatatypeOut::Utf8 => GuestType::Utf8,
        DatatypeOut::Binary => GuestType::Binary,
    }
}

/// Lower case letters, digits and `_`, a letter first: what SQL takes without quotes.
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

pub(super) fn name(text: &str, what: &str, faults: &mut Vec<String>) {
    if !is_name(text) {
        faults.push(format!(
            "{what} is `{}`: use lower case letters, digits and _, a letter first, at most {NAME_BYTES}",
            printable(text)
        ));
    }
}

pub(super) fn line(text: &str, what: &str, faults: &mut Vec<String>) {
    if text.len() > LINE_BYTES || text.chars().any(char::is_control) {
        faults.push(format!("{what} must be one line of at most {LINE_BYTES} bytes"));
    }
}

/// A guest's text as it may stand in an error: short and without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(NAME_BYTES).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Exports = Exports { filter: true, scalar: true, flatmap: true, accumulate: true, merge: true, finish: true };

    fn function(name: &str, kind: KindOut) -> FunctionOut {
        let state = match kind {
            KindOut::Aggregate => vec![FieldOut { name: "n".into(), data_type: DatatypeOut::Int64, layout: String::new() }],
            _ => vec![],
        };
        let result = DatatypeOut::Boolean;
        FunctionOut { name: name.into(), kind, doc: "what it does".into(), arguments: vec![DatatypeOut::Int64], result, state }
    }

    fn plugin(functions: Vec<FunctionOut>) -> DescriptionOut {
        DescriptionOut { name: "p".into(), version: "1.2.3".into(), sdk: "by hand".into(), functions }
    }

    fn faults(change: impl FnOnce(&mut DescriptionOut)) -> String {
        let mut d =
            plugin(vec![function("f", KindOut::Filter), function("s", KindOut::Scalar), function("a", KindOut::Aggregate)]);
        change(&mut d);
        description(d, Vec::new(), ALL).err().unwrap_or_default().join("; ")
    }

    #[test]
    fn a_right_description_has_no_faults() {
        assert_eq!(faults(|_| ()), "");
    }

    type Change = Box<dyn FnOnce(&mut DescriptionOut)>;

    #[test]
    fn every_fault_is_told() {
        let cases: Vec<(&str, Change)> = vec![
            ("the plugin's name is `Bad Name`", Box::new(|d| d.name = "Bad\nName".into())),
            ("`1.0` is not a semantic version", Box::new(|d| d.version = "1.0".into())),
            ("it has no functions", Box::new(|d| d.functions.clear())),
            (
                "it has 65 functions",
                Box::new(|d| d.functions = (0..65).map(|i| function(&format!("f{i}"), KindOut::Scalar)).collect()),
            ),
            ("two functions are called `f`", Box::new(|d| d.functions[1].name = "f".into())),
            ("function `9x`: its name is `9x`", Box::new(|d| d.functions[0].name = "9x".into())),
            ("function `s`: its doc must be one line", Box::new(|d| d.functions[1].doc = "a\nb".into())),
            ("17 arguments", Box::new(|d| d.functions[1].arguments = vec![DatatypeOut::Utf8; 17])),
            ("a filter's result is boolean, not int64", Box::new(|d| d.functions[0].result = DatatypeOut::Int64)),
            ("an aggregate needs at least one state field", Box::new(|d| d.functions[2].state.clear())),
            (
                "two state fields are called `n`",
                Box::new(|d| {
                    let again = FieldOut { name: "n".into(), data_type: DatatypeOut::Binary, layout: "x".into() };
                    d.functions[2].state.push(again);
                }),
            ),
            ("`n` has a layout, which only binary fields have", Box::new(|d| d.functions[2].state[0].layout = "x".into())),
            (
                "a scalar function has no state",
                Box::new(|d| {
                    let field = FieldOut { name: "n".into(), data_type: DatatypeOut::Binary, layout: String::new() };
                    d.functions[1].state.push(field);
                }),
            ),
        ];
        for (expect, change) in cases {
            let text = faults(change);
            assert!(text.contains(expect), "expected {expect:?} in {text:?}");
        }
    }

    #[test]
    fn exports_that_are_missing_are_told() {
        let exports = Exports { merge: false, filter: false, ..ALL };
        let d = plugin(vec![function("f", KindOut::Filter), function("a", KindOut::Aggregate)]);
        let text = description(d, Vec::new(), exports).err().unwrap().join("; ");
        assert!(text.contains("function `f`: is a filter, but the guest does not export `filter`"), "{text}");
        assert!(text.contains("function `a`: is an aggregate, but the guest does not export `merge`"), "{text}");
    }
}
