//! Gives librdkafka's build what it looks for: `include` with aws-lc's headers, and `lib` with archives by the names of OpenSSL's.
//!
//! The archives are empty: librdkafka's build only asks whether they are there, and the linker finds the functions in this crate and
//! in aws-lc-sys.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

const EMPTY_ARCHIVE: &[u8] = b"!<arch>\n";

fn main() -> io::Result<()> {
    // The name has aws-lc-sys's version in it: DEP_AWS_LC_0_47_0_INCLUDE.
    let headers = env::vars().find(|(name, _)| name.starts_with("DEP_AWS_LC_") && name.ends_with("_INCLUDE"));
    let (_, headers) = headers.ok_or_else(|| io::Error::other("aws-lc-sys does not say where its headers are"))?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?);
    copy(Path::new(&headers), &out.join("include"))?;
    fs::create_dir_all(out.join("lib"))?;
    for name in ["libcrypto.a", "libssl.a"] {
        fs::write(out.join("lib").join(name), EMPTY_ARCHIVE)?;
    }
    // Becomes DEP_OPENSSL_ROOT in rdkafka-sys.
    println!("cargo:root={}", out.display());
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
