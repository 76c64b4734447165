//! A guest for unit tests, so that they need no toolchain for WebAssembly; see `testing.wat`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Artefact, GuestEngine, Plugin};
use crate::limits::GuestLimits;

const START: usize = 1_024;

/// Bytes with pointers, as the canonical ABI lays them out in memory from `START` on.
struct Layout {
    fixed: Vec<u8>,
    variable: Vec<u8>,
    fixed_bytes: usize,
}

impl Layout {
    fn new(fixed_bytes: usize) -> Self {
        Self { fixed: Vec::new(), variable: Vec::new(), fixed_bytes }
    }

    fn pointer(&mut self, bytes: &[u8], len: usize) {
        while !self.variable.len().is_multiple_of(4) {
            self.variable.push(0);
        }
        let at = START + self.fixed_bytes + self.variable.len();
        self.variable.extend_from_slice(bytes);
        self.fixed.extend((at as u32).to_le_bytes());
        self.fixed.extend((len as u32).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.pointer(text.as_bytes(), text.len());
    }

    fn byte(&mut self, byte: u8) {
        self.fixed.extend([byte, 0, 0, 0]);
    }
}

/// Kinds and types as numbered in the interface.
const FILTER: u8 = 0;
const SCALAR: u8 = 1;
const AGGREGATE: u8 = 2;
const BOOLEAN: u8 = 0;
const INT64: u8 = 1;

fn description(name: &str, version: &str, functions: &[(&str, u8)]) -> Vec<u8> {
    const RECORD: usize = 32;
    const FUNCTION: usize = 40;
    const FIELD: usize = 20;
    // Functions first and the rest behind, so that each place is known when it is pointed to.
    let fields_at = START + RECORD + FUNCTION * functions.len();
    let mut layout = Layout::new(RECORD + FUNCTION * functions.len() + FIELD);
    layout.text(name);
    layout.text(version);
    layout.text("by hand");
    layout.fixed.extend(((START + RECORD) as u32).to_le_bytes());
    layout.fixed.extend((functions.len() as u32).to_le_bytes());
    for (function, kind) in functions {
        layout.text(function);
        layout.byte(*kind);
        layout.text("for tests");
        layout.pointer(&[INT64], 1);
        layout.byte(if *kind == FILTER { BOOLEAN } else { INT64 });
        layout.fixed.extend((fields_at as u32).to_le_bytes());
        layout.fixed.extend(u32::from(*kind == AGGREGATE).to_le_bytes());
    }
    layout.text("sum");
    layout.byte(INT64);
    layout.text("");
    layout.fixed.extend(layout.variable);
    layout.fixed
}

/// The test guest with a name, a version, and its functions' names prefixed.
pub(crate) fn wasm(name: &str, version: &str, prefix: &str) -> Vec<u8> {
    let names: Vec<String> = ["even", "twice", "sum", "fails"].iter().map(|n| format!("{prefix}{n}")).collect();
    let functions = [(&*names[0], FILTER), (&*names[1], SCALAR), (&*names[2], AGGREGATE), (&*names[3], SCALAR)];
    let data = description(name, version, &functions);
    let base = (START + data.len()).next_multiple_of(16).to_string();
    let data: String = data.iter().map(|b| format!("\\{b:02x}")).collect();
    wat::parse_str(include_str!("testing.wat").replace("{BASE}", &base).replace("{DATA}", &data)).unwrap()
}

/// An engine with small limits.
pub(crate) fn engine() -> Arc<GuestEngine> {
    let limits = GuestLimits { memory_bytes: 8 << 20, call_time: Duration::from_millis(200), ..GuestLimits::default() };
    GuestEngine::new(limits, None).unwrap()
}

/// The test guest, loaded.
pub(crate) fn plugin(engine: &Arc<GuestEngine>, name: &str, version: &str, prefix: &str) -> Arc<Plugin> {
    let path = format!("{name}-{version}.wasm");
    Plugin::from_artefact(engine, &Artefact::from_bytes(Path::new(&path), wasm(name, version, prefix)).unwrap()).unwrap()
}
