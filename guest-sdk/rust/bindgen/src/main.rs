//! Writes the SDK's bindings of the worlds in `wit/`; `--check` only says whether they are up to date.
//!
//! The bindings are kept in the tree, so that an author's first build takes seconds: `wit_bindgen::generate!` would make each of
//! them compile a WIT parser and a component encoder (a minute of CPU) for the same text.

use std::{path::Path, process::ExitCode};

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator as _};

const HEAD: &str = "\
//! The world `WORLD` of `wit/` as Rust types, and the macro that exports it from a module.
//!
//! Made by `guest-sdk/rust/bindgen`: don't edit, run `cargo run --release` there.
//! The code is wit-bindgen's: its raw memory accesses are the canonical ABI of the component model.
#![allow(unsafe_code, missing_docs, unused_qualifications, clippy::all, clippy::pedantic, clippy::unwrap_used)]
";

/// World, file, and the interface whose types are another file's.
const WORLDS: [(&str, &str, Option<(&str, &str)>); 2] = [
    ("plugin", "bindings", None),
    ("process", "process_bindings", Some(("kindling:plugin/types@0.1.0", "crate::bindings::kindling::plugin::types"))),
];

fn bindings(wit: &Path, world: &str, file: &str, types: Option<(&str, &str)>) -> Result<String, Box<dyn std::error::Error>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit)?;
    let id = resolve.select_world(&[package], Some(world))?;
    let options = wit_bindgen_rust::Opts {
        format: true,
        runtime_path: Some("wit_bindgen::rt".into()),
        default_bindings_module: Some(format!("kindling_guest::{file}")),
        export_macro_name: Some(format!("export_{}", world)),
        pub_export_macro: true,
        with: types.into_iter().map(|(from, to)| (from.into(), wit_bindgen_rust::WithOption::Path(to.into()))).collect(),
        additional_derive_attributes: vec!["PartialEq".into()],
        ..Default::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, id, &mut files)?;
    let (_, text) = files.iter().next().ok_or("wit-bindgen made no file")?;
    // Inner attributes must stand at the top of a module, after its documentation.
    Ok(format!("{}{}", HEAD.replace("WORLD", world), std::str::from_utf8(text)?))
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no parent folder")?;
    let check = std::env::args().any(|a| a == "--check");
    let mut stale = false;
    for (world, file, types) in WORLDS {
        let (target, made) = (sdk.join("src").join(file).with_extension("rs"), bindings(&sdk.join("wit"), world, file, types)?);
        if !check {
            std::fs::write(&target, made)?;
        } else if !std::fs::read_to_string(&target).is_ok_and(|old| old == made) {
            eprintln!("{} does not fit wit/: run `cargo run --release` in guest-sdk/rust/bindgen", target.display());
            stale = true;
        }
    }
    Ok(if stale { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
