//! What `kindling plugin new` writes compiles, and its tests pass.

use std::{fs, path::Path, process::Command};

#[test]
fn what_the_templates_make_passes_its_own_tests() {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for kind in ["aggregate", "filter", "scalar", "flatmap", "process"] {
        let made = scratch.join(kind);
        fs::create_dir_all(made.join("src")).expect("the scratch folder can be written");
        let dependency = format!("{{ path = {:?} }}", sdk);
        for (template, file) in [("Cargo.toml.in", "Cargo.toml".to_owned()), (&format!("{kind}.rs"), "src/lib.rs".to_owned())] {
            let text = fs::read_to_string(sdk.join("template").join(template)).expect("there is a template");
            let text = text.replace("{{name}}", &format!("my_{kind}")).replace("{{sdk}}", &dependency);
            assert!(!text.contains("{{"), "{template} has a placeholder that nothing fills");
            fs::write(made.join(file), text).expect("the scratch folder can be written");
        }
        // The versions that this crate was built with are at hand, also without a network.
        fs::copy(sdk.join("Cargo.lock"), made.join("Cargo.lock")).expect("the crate has a lock file");
        let output = Command::new(env!("CARGO"))
            .args(["test", "--offline", "--quiet", "--manifest-path"])
            .arg(made.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", scratch.join("target"))
            .env("RUSTFLAGS", "-Dwarnings")
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{kind}:\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("passed"), "{kind} has tests");
    }
}
