//! Which embedded store holds the local tree: CPU per million updates, bytes on disk, time of a restart.
//!
//! Measured: batches of changes as the tree's thread writes them (sorted, a batch is atomic and not synced, the last one is), over random
//! keys; then the store is closed, opened and read whole, as a restart does. fjall through [`Tree`] with its checksums, redb as it comes.
//! Not measured: reads of single keys, and what the changelog costs. RocksDB is not built here: it is C++, and its figures were taken
//! by the same workload in C++.
//!
//! `cargo run --release --example local_store [MILLION_UPDATES] [MILLION_KEYS]`

use kindling::output::Change;
use kindling::state::tree::Tree;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;
use std::time::Instant;

/// Changes of a batch: what the tree's thread gathers.
const BATCH: usize = 100_000;
/// Bytes of an encoded key with its pane, and of a partial state.
const KEY: usize = 40;
const STATE: usize = 24;
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");

/// A store under test.
trait Store {
    fn open(path: &Path) -> Self;
    fn apply(&mut self, changes: &[Change], sync: bool);
    /// Entries.
    fn read(&self) -> usize;
}

impl Store for Tree {
    fn open(path: &Path) -> Self {
        Tree::open(path).expect("a tree")
    }

    fn apply(&mut self, changes: &[Change], sync: bool) {
        let changes = changes.iter().map(|c| (c.shard, c.key.as_slice(), c.value.as_deref()));
        Tree::apply(self, changes, &[("stored", b"meta")], sync).expect("applied");
    }

    fn read(&self) -> usize {
        let mut count = 0;
        self.entries(&mut |_| count += 1).expect("read");
        count
    }
}

impl Store for Database {
    fn open(path: &Path) -> Self {
        Database::builder().set_cache_size(32 << 20).create(path.join("redb")).expect("a database")
    }

    fn apply(&mut self, changes: &[Change], sync: bool) {
        let mut write = self.begin_write().expect("begun");
        write.set_durability(if sync { Durability::Immediate } else { Durability::None }).expect("set");
        {
            let mut table = write.open_table(TABLE).expect("a table");
            for change in changes {
                table.insert(change.key.as_slice(), change.value.as_deref().unwrap_or_default()).expect("put");
            }
        }
        write.commit().expect("committed");
    }

    fn read(&self) -> usize {
        let read = self.begin_read().expect("begun");
        let table = read.open_table(TABLE).expect("a table");
        let entries = table.iter().expect("an iterator").map(|e| e.expect("an entry"));
        let mut count = 0;
        for (key, value) in entries {
            std::hint::black_box((key.value().to_vec(), value.value().to_vec()));
            count += 1;
        }
        count
    }
}

/// Makes all batches, and gives each away.
fn batches(updates: usize, keys: u64, mut each: impl FnMut(&[Change], bool)) {
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 20) % keys
    };
    for batch in 0..updates / BATCH {
        let mut changes: Vec<Change> = (0..BATCH)
            .map(|n| {
                let mut key = vec![7; KEY];
                // Keys are spread, as encoded user ids are.
                key[KEY - 8..].copy_from_slice(&next().wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
                Change { shard: 0, key, value: Some(vec![n as u8; STATE]) }
            })
            .collect();
        changes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        each(&changes, batch + 1 == updates / BATCH);
    }
}

fn run<S: Store>(name: &str, updates: usize, keys: u64) {
    let cpu = kindling::time::cpu_seconds;
    // What the keys alone cost.
    let before = cpu();
    batches(updates, keys, |changes, _| {
        std::hint::black_box(changes);
    });
    let keys_alone = cpu() - before;
    let dir = tempfile::tempdir().expect("a folder");
    let (started, before) = (Instant::now(), cpu());
    let mut store = S::open(dir.path());
    batches(updates, keys, |changes, last| store.apply(changes, last));
    let wall = started.elapsed();
    drop(store);
    // With what threads of the store do beside.
    let spent = cpu() - before - keys_alone;
    let bytes = size(dir.path());
    let opening = Instant::now();
    let store = S::open(dir.path());
    let opened = opening.elapsed();
    let entries = store.read();
    println!(
        "{name:8} {:.2} CPU s per million updates, {:.1} s in all, {} MiB for {entries} entries, restart {:.2} s (open {:.2} s)",
        spent * 1e6 / updates as f64,
        wall.as_secs_f64(),
        bytes >> 20,
        opening.elapsed().as_secs_f64(),
        opened.as_secs_f64()
    );
}

fn size(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).expect("a folder").flatten();
    entries.map(|e| if e.path().is_dir() { size(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) }).sum()
}

fn main() {
    let million = |n: usize, default: f64| std::env::args().nth(n).map_or(default, |a| a.parse().expect("millions")) * 1e6;
    let (updates, keys) = (million(1, 5.0) as usize, million(2, 1.0) as u64);
    println!("{updates} updates of {keys} keys, {KEY} + {STATE} bytes, {BATCH} a batch");
    run::<Tree>("fjall", updates, keys);
    run::<Database>("redb", updates, keys);
}
