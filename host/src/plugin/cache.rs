//! Compiled code on disk, by the content it was compiled from.
//!
//! An entry is a file `SHA256-COMPATIBILITY.cwasm`: a magic line, the SHA-256 of what follows, and the code as wasmtime writes it. What
//! is cut off, damaged or written by another engine is compiled again. Files are written beside and renamed, so that a reader never
//! sees half of one, and several processes may share a folder.
//!
//! `unsafe`: wasmtime can't check that compiled code is its own. The checksum tells an accident; against malice the folder must not be
//! writable by others, so it is made with mode 0700.
#![allow(unsafe_code)]

use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::PluginError;

/// Entries that are kept; past it the ones written first go.
const ENTRIES: usize = 128;
/// Bytes that are kept; past it the entries written first go.
const BYTES: u64 = 1 << 30;

const MAGIC: &[u8; 17] = b"kindling-cwasm 1\n";
const HEADER: usize = MAGIC.len() + 32;

/// A folder of compiled code.
pub(super) struct CompileCache {
    dir: PathBuf,
    /// Hash of everything about this engine that compiled code depends on.
    compatibility: u64,
}

impl CompileCache {
    pub(super) fn open(dir: PathBuf, engine: &Engine) -> Result<Self, PluginError> {
        make_private(&dir).map_err(|e| PluginError::Folder {
            path: dir.clone(),
            detail: format!("the cache of compiled code can't be made: {e}; name a folder that can be written"),
        })?;
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { dir, compatibility: hasher.finish() })
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("{sha256}-{:016x}.cwasm", self.compatibility))
    }

    /// The compiled code of the artefact with this hash, where there is an entry that holds.
    pub(super) fn load(&self, engine: &Engine, sha256: &str) -> Option<Component> {
        let path = self.path(sha256);
        let bytes = fs::read(&path).ok()?;
        let component = Self::checked(&bytes).and_then(|code| {
            // SAFETY: the checksum says that these are the bytes that `store` wrote, and the file's name that an engine of the same
            // compatibility made them.
            unsafe { Component::deserialize(engine, code) }.ok()
        });
        if component.is_none() {
            tracing::warn!(path = %path.display(), "compiled code in the cache is damaged; it is compiled again");
            let _ = fs::remove_file(&path);
        }
        component
    }

    fn checked(bytes: &[u8]) -> Option<&[u8]> {
        let (header, code) = bytes.split_at_checked(HEADER)?;
        let (magic, sum) = header.split_at(MAGIC.len());
        (magic == MAGIC && sum == Sha256::digest(code).as_slice()).then_some(code)
    }

    /// Keeps compiled code. A cache that can't be written costs time, nothing else, so a failure is only logged.
    pub(super) fn store(&self, sha256: &str, component: &Component) {
        let path = self.path(sha256);
        let written = component.serialize().map_err(io::Error::other).and_then(|code| {
            let mut bytes = Vec::with_capacity(HEADER + code.len());
            bytes.extend_from_slice(MAGIC);
            bytes.extend_from_slice(Sha256::digest(&code).as_slice());
            bytes.extend_from_slice(&code);
            write_atomically(&path, &bytes)
        });
        match written {
            Ok(()) => self.evict(&path),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled code can't be kept; it is compiled again next time")
            }
        }
    }

    /// Removes what was written first until the bounds hold; never `newest`.
    fn evict(&self, newest: &Path) {
        let Ok(dir) = fs::read_dir(&self.dir) else { return };
        let mut entries: Vec<_> = dir
            .filter_map(|e| {
                let e = e.ok()?;
                let meta = e.metadata().ok()?;
                let path = e.path();
                (path.extension()? == "cwasm").then(|| (meta.modified().ok(), meta.len(), path))
            })
            .collect();
        entries.sort();
        let mut bytes: u64 = entries.iter().map(|e| e.1).sum();
        let mut count = entries.len();
        for (_, len, path) in entries {
            if count <= ENTRIES && bytes <= BYTES {
                break;
            }
            if path != newest && fs::remove_file(&path).is_ok() {
                count -= 1;
                bytes -= len;
            }
        }
    }
}

/// Writes a file beside `path` and renames it there, so that nobody sees half of it.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.{unique}.tmp", std::process::id()));
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

fn make_private(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// SHA-256 as a hasher: unlike the default one's, its result may be stored.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Engine {
        Engine::default()
    }

    fn component(engine: &Engine) -> Component {
        Component::from_binary(engine, &wat::parse_str("(component (core module (func (export \"f\"))))").unwrap()).unwrap()
    }

    #[test]
    fn what_was_kept_comes_back_and_what_is_damaged_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine();
        let cache = CompileCache::open(dir.path().join("cache"), &engine).unwrap();
        assert!(cache.load(&engine, "aa").is_none());
        cache.store("aa", &component(&engine));
        assert!(cache.load(&engine, "aa").is_some());
        let path = cache.path("aa");
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bad in
            [&whole[..whole.len() - 1], &whole[..10], b"", b"something else entirely, long enough to have a header", &flipped]
        {
            fs::write(&path, bad).unwrap();
            assert!(cache.load(&engine, "aa").is_none());
            assert!(!path.exists(), "a damaged entry is removed");
        }
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine();
        let cache = CompileCache::open(dir.path().to_owned(), &engine).unwrap();
        for i in 0..ENTRIES + 5 {
            fs::write(dir.path().join(format!("{i}.cwasm")), b"x").unwrap();
        }
        cache.store("newest", &component(&engine));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), ENTRIES);
        assert!(cache.load(&engine, "newest").is_some());
    }
}
