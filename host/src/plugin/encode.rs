//! Makes a component of what was dropped in: a component as it is, a core module by the interface's metadata and, for toolchains that
//! can't live without WASI preview 1, an adapter without imports.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;

use wasmparser::{ExternalKind, Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldKey};

use super::PluginError;
use super::artefact::{Artefact, ArtefactForm};

/// Version of `wit/plugin.wit`.
pub const INTERFACE_VERSION: &str = "0.1.0";

/// The interface between host and guest.
const WIT: &str = include_str!("../../../wit/plugin.wit");
/// Its part for keyed processes.
const PROCESS_WIT: &str = include_str!("../../../wit/process.wit");
const ADAPTER: &str = include_str!("adapter.wat");
const PREVIEW1: &str = "wasi_snapshot_preview1";

/// The bytes of a component that does what the artefact does. A component's imports are checked when it has been compiled.
///
/// # Errors
/// The artefact is damaged, a core module imports something, or its exports are not those of the interface.
pub(super) fn component(artefact: &Artefact) -> Result<Vec<u8>, PluginError> {
    let outline = Outline::read(artefact)?;
    match artefact.form() {
        ArtefactForm::Component => Ok(artefact.bytes().to_vec()),
        ArtefactForm::Module => encode_module(artefact, &outline),
    }
}

/// What to do about an import.
pub(super) fn import_hint(import: &str) -> &'static str {
    if import.starts_with("wasi:") || import.starts_with("wasi_") {
        "build without WASI (Rust: --target wasm32-unknown-unknown; componentize-py: --stub-wasi; componentize-js: --disable all)"
    } else if import.starts_with("__wbindgen") || import.starts_with("wbg") || import.contains("__wbindgen") {
        "a dependency uses wasm-bindgen, which needs JavaScript: turn off its feature for browsers (`js`, `wasmbind`)"
    } else if import == "env#abort" {
        "AssemblyScript: build with --use abort=assembly/index/abort"
    } else if import == "env#memory" {
        "let the guest export its own memory instead (AssemblyScript: without --importMemory)"
    } else {
        "take it out of the guest"
    }
}

/// What can be told of a module without compiling it.
#[derive(Default)]
struct Outline {
    imports: Vec<(String, String)>,
    functions: BTreeSet<String>,
    exports_memory: bool,
    has_metadata: bool,
}

impl Outline {
    fn read(artefact: &Artefact) -> Result<Self, PluginError> {
        let damaged = |e: wasmparser::Error| PluginError::Damaged { path: artefact.path().to_owned(), detail: e.to_string() };
        let mut outline = Self::default();
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(artefact.bytes()) {
            let payload = payload.map_err(damaged)?;
            match payload {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                // Only a core module's own sections are of interest here; what is nested is its component's business.
                _ if depth > 0 || artefact.form() == ArtefactForm::Component => {}
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import.map_err(damaged)?;
                        outline.imports.push((import.module.to_owned(), import.name.to_owned()));
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export.map_err(damaged)?;
                        match export.kind {
                            ExternalKind::Func => drop(outline.functions.insert(export.name.to_owned())),
                            ExternalKind::Memory => outline.exports_memory |= export.name == "memory",
                            _ => {}
                        }
                    }
                }
                Payload::CustomSection(section) => outline.has_metadata |= section.name().starts_with("component-type"),
                _ => {}
            }
        }
        Ok(outline)
    }
}

fn encode_module(artefact: &Artefact, outline: &Outline) -> Result<Vec<u8>, PluginError> {
    let path = artefact.path();
    let wasi = adapter_functions();
    let mut needs_adapter = false;
    for (module, name) in &outline.imports {
        if module == PREVIEW1 && wasi.1.contains(name) {
            needs_adapter = true;
        } else {
            let import = format!("{module}#{name}");
            return Err(PluginError::Import { path: path.to_owned(), hint: import_hint(&import).to_owned(), import });
        }
    }
    let does_not_fit = |detail: String| PluginError::Interface { path: path.to_owned(), detail };
    let mut bytes = artefact.bytes().to_vec();
    if !outline.has_metadata {
        embed_interface(&mut bytes, outline).map_err(does_not_fit)?;
    }
    let encode = || {
        let encoder = ComponentEncoder::default().validate(true).module(&bytes)?;
        let encoder = if needs_adapter { encoder.adapter(PREVIEW1, &wasi.0)? } else { encoder };
        { encoder }.encode()
    };
    encode().map_err(|e| does_not_fit(readable(&format!("{e:#}"), path)))
}

/// The bytes of the adapter and the names of its functions.
fn adapter_functions() -> &'static (Vec<u8>, BTreeSet<String>) {
    static ADAPTER_BINARY: OnceLock<(Vec<u8>, BTreeSet<String>)> = OnceLock::new();
    ADAPTER_BINARY.get_or_init(|| {
        let bytes = wat::parse_str(ADAPTER).expect("adapter.wat is part of this crate and is parsed by a test");
        let artefact = Artefact::from_bytes(Path::new("adapter.wat"), bytes).expect("wat makes modules");
        let outline = Outline::read(&artefact).expect("wat makes whole modules");
        (artefact.bytes().to_vec(), outline.functions)
    })
}

/// All of the interface as one text: both files are one package.
fn interface() -> String {
    let worlds = PROCESS_WIT.split_once(';').map_or(PROCESS_WIT, |(_, worlds)| worlds);
    format!("{WIT}{worlds}")
}

/// Adds the metadata of the interface to a module without any: of those of its functions that the module exports.
fn embed_interface(bytes: &mut Vec<u8>, outline: &Outline) -> Result<(), String> {
    let mut resolve = Resolve::default();
    let has = |name: &str| outline.functions.contains(name);
    let is_process = has("describeprocesses");
    let package = resolve.push_str("plugin.wit", &interface()).map_err(|e| format!("{e:#}"))?;
    let world = if is_process { "process" } else { "plugin" };
    let world = resolve.select_world(&[package], Some(world)).map_err(|e| format!("{e:#}"))?;
    let exports = &mut resolve.worlds[world].exports;
    exports.retain(|key, _| matches!(key, WorldKey::Name(name) if outline.functions.contains(name)));
    if !has("describe") && !is_process {
        let found: Vec<&str> = outline.functions.iter().map(String::as_str).take(8).collect();
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        return Err(format!(
            "it must export `describe` (or `describeprocesses`), but exports {found}: build it with the SDK's macro, as `kindling plugin new` does"
        ));
    }
    if !outline.exports_memory {
        return Err("it must export its memory as `memory`".into());
    }
    embed_component_metadata(bytes, &resolve, world, StringEncoding::UTF8).map_err(|e| format!("{e:#}"))
}

/// wit-component's words for the commonest mistake, and what to do about it.
fn readable(text: &str, path: &Path) -> String {
    let text = text.replace('\n', " ");
    match () {
        () if text.contains("cabi_realloc") => format!("{text}; export `cabi_realloc`, the allocator that the host calls"),
        () if text.contains("unexpected end") => format!("{text}; {} seems cut off", path.display()),
        () => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(wat: &str) -> Result<Vec<u8>, PluginError> {
        component(&Artefact::from_bytes(Path::new("x.wasm"), wat::parse_str(wat).unwrap()).unwrap())
    }

    fn error(wat: &str) -> String {
        encode(wat).err().map_or("no error".into(), |e| e.to_string())
    }

    #[test]
    fn the_adapter_imports_only_memory_and_has_all_of_preview1() {
        let (bytes, functions) = adapter_functions();
        let outline = Outline::read(&Artefact::from_bytes(Path::new("a"), bytes.clone()).unwrap()).unwrap();
        assert_eq!(outline.imports, [("env".to_owned(), "memory".to_owned())]);
        assert_eq!(functions.len(), 46);
    }

    #[test]
    fn other_imports_are_named() {
        let text = error(r#"(module (import "env" "now" (func)) (func (export "describe")))"#);
        assert!(text.contains("imports `env#now`"), "{text}");
        let text = error(r#"(module (import "wasi_snapshot_preview1" "fd_of_tomorrow" (func)))"#);
        assert!(text.contains("imports `wasi_snapshot_preview1#fd_of_tomorrow`") && text.contains("without WASI"), "{text}");
    }

    #[test]
    fn exports_that_are_missing_or_have_another_type_are_named() {
        let text = error(r#"(module (func (export "main")) (func (export "run")))"#);
        assert!(text.contains("must export `describe` (or `describeprocesses`), but exports main, run"), "{text}");
        let text = error(r#"(module (memory (export "memory") 1) (func (export "describe") (param i64)))"#);
        assert!(text.contains("describe"), "{text}");
    }

    #[test]
    fn a_module_that_is_cut_off_is_damaged() {
        let whole = wat::parse_str(r#"(module (func (export "describe") (result i32) i32.const 1))"#).unwrap();
        for end in 9..whole.len() {
            let artefact = Artefact::from_bytes(Path::new("x.wasm"), whole[..end].to_vec()).unwrap();
            let error = component(&artefact).err().unwrap();
            assert!(matches!(error, PluginError::Damaged { .. } | PluginError::Interface { .. }), "{end}: {error}");
        }
    }
}
