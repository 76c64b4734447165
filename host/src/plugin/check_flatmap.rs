//! Whether what a guest says of its flat maps can be so.

use super::FunctionKind;
use super::abi::FlatMapFunctionOut;
use super::check::{Exports, STATE_FIELDS, columns, function_faults, guest_type, printable};
use super::signature::{FunctionSignature, GuestType, ResultColumn};

/// Columns that a flat map gives at most.
const RESULTS: usize = STATE_FIELDS;

/// The signature of a flat map; what is wrong with it is added to `faults`.
pub(super) fn signature(function: FlatMapFunctionOut, exports: Exports, faults: &mut Vec<String>) -> FunctionSignature {
    let results = function.results.into_iter().map(|c| ResultColumn { name: c.name, data_type: guest_type(c.data_type) });
    let signature = FunctionSignature {
        name: function.name.into(),
        kind: FunctionKind::FlatMap,
        doc: function.doc,
        arguments: function.arguments.into_iter().map(guest_type).collect(),
        result: GuestType::Boolean,
        results: results.collect(),
        process: None,
        state: Vec::new(),
    };
    let mut found = Vec::new();
    function_faults(&signature, exports, &mut found);
    results_faults(&signature.results, &mut found);
    let shown = printable(&signature.name);
    faults.extend(found.into_iter().map(|f| format!("function `{shown}`: {f}")));
    signature
}

fn results_faults(results: &[ResultColumn], faults: &mut Vec<String>) {
    if results.is_empty() {
        faults.push("a flat map gives at least one column".into());
    }
    columns(results.iter().map(|c| &c.name), "", RESULTS, faults);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::abi::{DatatypeOut, ResultColumnOut};

    fn faults(names: &[&str], exported: bool) -> String {
        let results = names.iter().map(|n| ResultColumnOut { name: (*n).into(), data_type: DatatypeOut::Utf8 }).collect();
        let (name, doc, arguments) = ("split".into(), "splits".into(), vec![DatatypeOut::Utf8]);
        let exports = Exports { filter: false, scalar: false, flatmap: exported, accumulate: false, merge: false, finish: false };
        let mut faults = Vec::new();
        let made = signature(FlatMapFunctionOut { name, doc, arguments, results }, exports, &mut faults);
        assert_eq!(made.kind, FunctionKind::FlatMap);
        faults.join("; ")
    }

    #[test]
    fn every_fault_is_told() {
        assert_eq!(faults(&["tag", "position", "_x", "userId"], true), "");
        assert_eq!(faults(&[], true), "function `split`: a flat map gives at least one column");
        assert!(faults(&["a"; 65], true).starts_with("function `split`: 65 columns, 64 are allowed"));
        for name in ["", "9", "a b", "__row", "tag\n"] {
            assert!(faults(&[name], true).contains("a column is called"), "{name}");
        }
        assert_eq!(faults(&["a", "b", "a"], true), "function `split`: two columns are called `a`");
        let text = faults(&["a"], false);
        assert_eq!(text, "function `split`: is a flat map, but the guest does not export `flatmap`");
    }

    #[test]
    fn the_header_has_the_columns() {
        let columns = ["tag", "position"].map(|n| ResultColumn { name: n.into(), data_type: GuestType::Utf8 });
        let signature = FunctionSignature {
            name: "split".into(),
            kind: FunctionKind::FlatMap,
            doc: String::new(),
            arguments: vec![GuestType::Utf8],
            result: GuestType::Boolean,
            results: columns.into(),
            process: None,
            state: Vec::new(),
        };
        assert_eq!(signature.header(), "split(utf8) -> rows of (tag utf8, position utf8)");
    }
}
