//! Writes `src/bindings.rs` of the SDK from `wit/plugin.wit`; `--check` only says whether it is up to date.
//!
//! The bindings are kept in the tree, so that an author's first build takes seconds: `wit_bindgen::generate!` would make each of
//! them compile a WIT parser and a component encoder (a minute of CPU) for the same text.

use std::{path::Path, process::ExitCode};

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator as _};

const HEAD: &str = "\
//! The interface of `wit/plugin.wit` as Rust types, and the macro that exports it from a module.
//!
//! Made by `guest-sdk/rust/bindgen`: don't edit, run `cargo run --release` there.
//! The code is wit-bindgen's: its raw memory accesses are the canonical ABI of the component model.
#![allow(unsafe_code, missing_docs, unused_qualifications, clippy::all, clippy::pedantic, clippy::unwrap_used)]
";

fn bindings(wit: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit)?;
    let world = resolve.select_world(&[package], Some("plugin"))?;
    let options = wit_bindgen_rust::Opts {
        format: true,
        runtime_path: Some("wit_bindgen::rt".into()),
        default_bindings_module: Some("kindling_guest::bindings".into()),
        export_macro_name: Some("export_plugin".into()),
        pub_export_macro: true,
        additional_derive_attributes: vec!["PartialEq".into()],
        ..Default::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files)?;
    let (_, text) = files.iter().next().ok_or("wit-bindgen made no file")?;
    // Inner attributes must stand at the top of a module, after its documentation.
    Ok(format!("{HEAD}{}", std::str::from_utf8(text)?))
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no parent folder")?;
    let (target, made) = (sdk.join("src/bindings.rs"), bindings(&sdk.join("wit"))?);
    if std::env::args().any(|a| a == "--check") {
        let same = std::fs::read_to_string(&target).is_ok_and(|old| old == made);
        if !same {
            eprintln!("{} does not fit wit/plugin.wit: run `cargo run --release` in guest-sdk/rust/bindgen", target.display());
        }
        return Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    std::fs::write(&target, made)?;
    Ok(ExitCode::SUCCESS)
}
