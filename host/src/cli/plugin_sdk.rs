//! The crate of a new plugin: its template, and the SDK, which comes with the binary so that nothing need be downloaded.

use super::plugin::NewKind;
use std::path::Path;

const MANIFEST: &str = include_str!("../../../guest-sdk/rust/template/Cargo.toml.in");
const AGGREGATE: &str = include_str!("../../../guest-sdk/rust/template/aggregate.rs");
const FLATMAP: &str = include_str!("../../../guest-sdk/rust/template/flatmap.rs");
const FILTER: &str = include_str!("../../../guest-sdk/rust/template/filter.rs");
const PROCESS: &str = include_str!("../../../guest-sdk/rust/template/process.rs");
/// A pipeline to see a process at work: the name alone doesn't say what it needs, as those of functions do.
const PROCESS_PIPELINE: &str = include_str!("../../../guest-sdk/rust/template/process.yaml");
const SCALAR: &str = include_str!("../../../guest-sdk/rust/template/scalar.rs");

/// The files of `guest-sdk/rust`.
const SDK: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../guest-sdk/rust/Cargo.toml")),
    ("README.md", include_str!("../../../guest-sdk/rust/README.md")),
    ("src/aggregate.rs", include_str!("../../../guest-sdk/rust/src/aggregate.rs")),
    ("src/bindings.rs", include_str!("../../../guest-sdk/rust/src/bindings.rs")),
    ("src/flatmap.rs", include_str!("../../../guest-sdk/rust/src/flatmap.rs")),
    ("src/keyed.rs", include_str!("../../../guest-sdk/rust/src/keyed.rs")),
    ("src/lib.rs", include_str!("../../../guest-sdk/rust/src/lib.rs")),
    ("src/pattern.rs", include_str!("../../../guest-sdk/rust/src/pattern.rs")),
    ("src/plugin.rs", include_str!("../../../guest-sdk/rust/src/plugin.rs")),
    ("src/process.rs", include_str!("../../../guest-sdk/rust/src/process.rs")),
    ("src/process_bindings.rs", include_str!("../../../guest-sdk/rust/src/process_bindings.rs")),
    ("src/processes.rs", include_str!("../../../guest-sdk/rust/src/processes.rs")),
    ("src/read.rs", include_str!("../../../guest-sdk/rust/src/read.rs")),
    ("src/rowwise.rs", include_str!("../../../guest-sdk/rust/src/rowwise.rs")),
    ("src/state.rs", include_str!("../../../guest-sdk/rust/src/state.rs")),
    ("src/testing.rs", include_str!("../../../guest-sdk/rust/src/testing.rs")),
    ("src/testing/process.rs", include_str!("../../../guest-sdk/rust/src/testing/process.rs")),
    ("src/text.rs", include_str!("../../../guest-sdk/rust/src/text.rs")),
    ("src/write.rs", include_str!("../../../guest-sdk/rust/src/write.rs")),
    ("wit/plugin.wit", include_str!("../../../guest-sdk/rust/wit/plugin.wit")),
    ("wit/process.wit", include_str!("../../../guest-sdk/rust/wit/process.wit")),
];

/// What stands before the SDK's own workspace, which ends its manifest.
const OWN_WORKSPACE: &str = "\n# A workspace of its own";

/// Folder of the SDK within the new crate.
const SDK_FOLDER: &str = "kindling-guest";

/// Writes the crate of a plugin to `folder`.
///
/// # Errors
/// What the disk says.
pub fn scaffold(folder: &Path, name: &str, kind: NewKind) -> std::io::Result<()> {
    let source = match kind {
        NewKind::Aggregate => AGGREGATE,
        NewKind::Filter => FILTER,
        NewKind::Scalar => SCALAR,
        NewKind::Flatmap => FLATMAP,
        NewKind::Process => PROCESS,
    };
    let write = |path: &str, text: &str| {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)
    };
    let sdk = format!("{{ path = \"{SDK_FOLDER}\" }}");
    write("Cargo.toml", &MANIFEST.replace("{{name}}", name).replace("{{sdk}}", &sdk))?;
    write("src/lib.rs", &source.replace("{{name}}", name))?;
    if let NewKind::Process = kind {
        write("pipeline.yaml", &PROCESS_PIPELINE.replace("{{name}}", name))?;
    }
    write(".gitignore", "/target\n")?;
    for (path, text) in SDK {
        // Within the new crate the SDK is part of its workspace.
        let text = if *path == "Cargo.toml" { text.split(OWN_WORKSPACE).next().unwrap_or_default() } else { text };
        write(&format!("{SDK_FOLDER}/{path}"), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use clap::ValueEnum;

    #[test]
    fn the_new_crate_is_one_workspace() {
        let dir = tempfile::tempdir().unwrap();
        for kind in NewKind::value_variants() {
            let name = &format!("my_{kind:?}").to_lowercase();
            let folder = dir.path().join(name);
            scaffold(&folder, name, *kind).unwrap();
            let sdk = std::fs::read_to_string(folder.join("kindling-guest/Cargo.toml")).unwrap();
            assert!(sdk.contains("name = \"kindling-guest\"") && !sdk.contains("\n[workspace]"), "{sdk}");
            let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            assert!(
                manifest.contains("kindling-guest = { path = \"kindling-guest\" }") && !manifest.contains("{{"),
                "{manifest}"
            );
        }
    }

    #[test]
    fn the_pipeline_of_a_new_process_is_well() {
        let dir = tempfile::tempdir().unwrap();
        scaffold(dir.path(), "quiet", NewKind::Process).unwrap();
        let text = std::fs::read_to_string(dir.path().join("pipeline.yaml")).unwrap();
        let pipeline = config::load_str(&text, "pipeline.yaml", &config::LoadOptions::default()).unwrap();
        assert_eq!(pipeline.name, "quiet");
    }

    #[test]
    fn the_new_crate_has_all_of_the_sdk() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk/rust");
        for folder in ["src", "src/testing", "wit"] {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let entry = entry.unwrap();
                let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
                let known = SDK.iter().any(|(file, _)| *file == path);
                assert!(known || entry.file_type().unwrap().is_dir(), "{path} is missing");
            }
        }
    }
}
