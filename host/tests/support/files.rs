//! What is in a folder; also of the library's own tests.

use std::path::{Path, PathBuf};

/// All files below a folder, by their path within it, in order; none where there is no folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.strip_prefix(folder) {
                Ok(within) if path.is_file() => found.push(within.to_path_buf()),
                _ => folders.push(path),
            }
        }
    }
    found.sort();
    found
}
