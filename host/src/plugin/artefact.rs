//! The bytes of a plugin's file: read within a size limit, told apart by form, and hashed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::PluginError;

/// What a file of WebAssembly holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtefactForm {
    /// A component.
    Component,
    /// A core module, to be made a component by the host.
    Module,
}

/// A file's bytes that look like WebAssembly as far as its first eight bytes go.
pub struct Artefact {
    path: PathBuf,
    bytes: Vec<u8>,
    form: ArtefactForm,
    sha256: String,
}

const WASM_MAGIC: &[u8] = b"\0asm";

impl Artefact {
    /// Reads `path`, unless it has more than `limit` bytes.
    ///
    /// # Errors
    /// The file can't be read, is too large, or is not WebAssembly.
    pub fn read(path: &Path, limit: u64) -> Result<Self, PluginError> {
        let unreadable = |source| PluginError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(unreadable(std::io::Error::other("not a regular file")));
        }
        let too_large = |size| PluginError::TooLarge { path: path.to_owned(), size, limit };
        if meta.len() > limit {
            return Err(too_large(meta.len()));
        }
        let mut bytes = Vec::new();
        // The file may grow while it is read.
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > limit {
            return Err(too_large(bytes.len() as u64));
        }
        Self::from_bytes(path, bytes)
    }

    /// An artefact from bytes; `path` is for people.
    ///
    /// # Errors
    /// [`PluginError::NotWasm`], or [`PluginError::Damaged`] where not even the first eight bytes are there.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, PluginError> {
        let form = form(path, &bytes)?;
        let sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self { path: path.to_owned(), bytes, form, sha256 })
    }

    /// Where it was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Component or core module.
    pub fn form(&self) -> ArtefactForm {
        self.form
    }

    /// SHA-256 of the bytes, 64 hex digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

fn form(path: &Path, bytes: &[u8]) -> Result<ArtefactForm, PluginError> {
    let not_wasm = |found: &str| PluginError::NotWasm { path: path.to_owned(), found: found.to_owned() };
    if bytes.is_empty() {
        return Err(not_wasm("the file is empty"));
    }
    if !bytes.starts_with(&WASM_MAGIC[..bytes.len().min(4)]) {
        let text = bytes.trim_ascii_start();
        return Err(match () {
            () if text.starts_with(b"(module") || text.starts_with(b"(component") => not_wasm("it is the text form (.wat)"),
            () if bytes.starts_with(b"\x7fELF") => not_wasm("it is a native (ELF) program or library, built for this machine"),
            () => not_wasm("the first bytes are not `\\0asm`"),
        });
    }
    let damaged = |detail: &str| PluginError::Damaged { path: path.to_owned(), detail: detail.to_owned() };
    match bytes.get(4..8) {
        None => Err(damaged("it ends within its first 8 bytes")),
        Some([1, 0, 0, 0]) => Ok(ArtefactForm::Module),
        Some([0x0d, 0, 1, 0]) => Ok(ArtefactForm::Component),
        Some(version) => Err(not_wasm(&format!("it has the unknown version {version:?} of the format"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        match Artefact::from_bytes(Path::new("x.wasm"), bytes.to_vec()) {
            Ok(a) => format!("{:?}", a.form()),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn forms_are_told_apart() {
        for (bytes, expect) in [
            (&b"\0asm\x01\0\0\0"[..], "Module"),
            (b"\0asm\x0d\0\x01\0", "Component"),
            (b"", "the file is empty"),
            (b"\0as", "it ends within its first 8 bytes"),
            (b"\0asm\x01\0", "it ends within its first 8 bytes"),
            (b"\0asm\x02\0\0\0", "unknown version"),
            (b"  (module)", "text form"),
            (b"\x7fELF\x02", "built for this machine"),
            (b"hello", "not `\\0asm`"),
        ] {
            assert!(text(bytes).contains(expect), "{}", text(bytes));
        }
    }

    #[test]
    fn a_large_file_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.wasm");
        File::create(&path).unwrap().set_len(100 << 20).unwrap();
        let error = Artefact::read(&path, 32 << 20).err().unwrap().to_string();
        assert!(error.contains("104857600 bytes, but a plugin has at most 33554432"), "{error}");
        assert!(matches!(Artefact::read(dir.path(), 1), Err(PluginError::Unreadable { .. })));
    }
}
