//! The store's lists of tables, one a keyspace: it writes a checksum of each and does not look at it, and a table that is on no list any more is
//! as if it had never been. So they are looked at here, before the store opens and deletes what is on no list.

use std::fs::File;
use std::path::Path;

/// Whether the lists below `path` are as they were written. What can't be read here the store will tell, and what another process has open is
/// left alone.
///
/// # Errors
/// What is wrong with one.
pub fn check(path: &Path) -> Result<(), String> {
    // Nobody may write a list meanwhile. It is given back before the store takes it.
    let Ok(lock) = File::open(path.join("lock")) else { return Ok(()) };
    if lock.try_lock().is_err() {
        return Ok(());
    }
    let Ok(keyspaces) = std::fs::read_dir(path.join("keyspaces")) else { return Ok(()) };
    for folder in keyspaces.flatten().map(|f| f.path()) {
        let Ok(current) = std::fs::read(folder.join("current")) else { continue };
        // Number of the list, its checksum, and which checksum: 0 is XXH3 of 128 bits.
        let (Some(number), Some(sum), Some(0)) = (current.first_chunk(), current.get(8..24), current.get(24)) else {
            return Err(format!("{}: what names its list of tables does not read back", folder.display()));
        };
        let list = folder.join(format!("v{}", u64::from_le_bytes(*number)));
        match std::fs::read(&list) {
            Ok(bytes) if xxhash_rust::xxh3::xxh3_128(&bytes).to_le_bytes() == sum => {}
            Ok(_) => return Err(format!("the list of tables {} has another checksum", list.display())),
            Err(_) => return Err(format!("the list of tables {} is gone", list.display())),
        }
    }
    Ok(())
}
