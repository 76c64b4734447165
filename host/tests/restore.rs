//! A changelog that is read whole: large enough for several bulks of the tree, keys written many times and removed, a restore that is interrupted.
//! What comes back is what a plain map has.
//!
//! Needs KINDLING_BROKERS=host:port (`tests/run` sets it).

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use kindling::config::spec::{SinkSpec, SourceSpec};
use kindling::output::replay;
use kindling::output::{Change, CommitSpec, EpochCommit, Meta, RestoreStep};
use kindling::state::tree::Tree;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use support::{brokers, unique};

type Entries = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

const KEYS: u64 = 40_000;
const EPOCHS: u64 = 6;
/// So that all values together are several bulks, and one epoch is one transaction of Kafka with room to spare.
const VALUE: usize = 500;

fn properties() -> BTreeMap<String, String> {
    [("bootstrap.servers".to_owned(), brokers())].into()
}

fn spec(name: &str, dir: &Path) -> CommitSpec {
    CommitSpec {
        team: "test".into(),
        name: name.into(),
        source: SourceSpec::Stdin,
        partitions: Vec::new(),
        sink: SinkSpec::Kafka { properties: properties(), topic: format!("{name}-out") },
        outputs: Vec::new(),
        late: None,
        rejects: None,
        data_dir: dir.to_path_buf(),
        state_memory: kindling::limits::STATE_MEMORY_BYTES,
    }
}

/// Epoch `epoch` sets two keys of three; of those each fifth is removed again.
fn changes(epoch: u64) -> Vec<Change> {
    let change = |n: u64| {
        let key = [&1_000u64.to_be_bytes()[..], &[n as u8 % 3; 8], &n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()].concat();
        let value = (!(n + epoch).is_multiple_of(5)).then(|| [epoch.to_be_bytes(), n.to_be_bytes()].concat().repeat(VALUE / 16));
        Change { shard: (n % 4) as u16, key, value }
    };
    (0..KEYS).filter(|n| !(n + epoch).is_multiple_of(3)).map(change).collect()
}

fn take(entries: &mut Entries, change: Change) {
    let key = (change.shard, change.key);
    match change.value {
        Some(value) => drop(entries.insert(key, value)),
        None => drop(entries.remove(&key)),
    }
}

#[test]
fn what_a_changelog_says_is_in_table_and_tree() {
    let name = unique("restore");
    let machines: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut committer = kindling::output::open(spec(&name, machines[0].path())).unwrap();
    committer.restore(&mut |_| panic!("it is new")).unwrap();
    let mut expected = Entries::new();
    for epoch in 1..=EPOCHS {
        changes(epoch).into_iter().for_each(|c| take(&mut expected, c));
        let meta = Meta { epoch, ..Meta::default() };
        committer
            .commit(EpochCommit { epoch, changes: changes(epoch).into_iter().collect(), meta, ..EpochCommit::default() })
            .unwrap();
    }
    drop(committer);
    // On a machine that has nothing: the log as it is read, its progress, and the tree that is left.
    let steps = Arc::new(Mutex::new(Vec::new()));
    let mut committer = kindling::output::open(spec(&name, machines[1].path())).unwrap();
    let told = Arc::clone(&steps);
    committer.watch(Box::new(move |p| told.lock().unwrap().push(*p)));
    let (mut entries, mut given) = (Entries::new(), 0);
    let meta = committer.restore_log(&mut |c| {
        given += 1;
        take(&mut entries, c);
    });
    assert_eq!(meta.unwrap().map(|m| m.epoch), Some(EPOCHS));
    assert_eq!((entries.len(), entries == expected), (expected.len(), true));
    let last = *steps.lock().unwrap().last().unwrap();
    assert_eq!((last.step, last.share, last.done), (RestoreStep::Changelog, Some(1.0), true));
    assert_eq!(last.records, given + EPOCHS, "each epoch has a record of its position");
    drop(committer);
    let stored = |dir: &Path| {
        let mut entries = Entries::new();
        let tree = Tree::open(&spec(&name, dir).tree_path()).unwrap();
        tree.entries(&mut |c| assert!(entries.insert((c.shard, c.key), c.value.unwrap()).is_none())).unwrap();
        entries
    };
    assert!(stored(machines[1].path()) == expected);
    // Each key once, for who can't take the log.
    let mut entries = Entries::new();
    let mut committer = kindling::output::open(spec(&name, machines[2].path())).unwrap();
    let once = &mut |c: Change| assert!(entries.insert((c.shard, c.key), c.value.unwrap()).is_none());
    committer.restore(once).unwrap();
    assert!(entries == expected);
    // A restore that was interrupted when a part of it was written.
    let path = spec(&name, machines[3].path()).tree_path();
    let tree = Tree::open(&path).unwrap();
    let changelog = format!("kindling-test-{name}-changelog");
    let mut left = given * 9 / 10;
    let mut stop = |_| {
        left -= 1;
        assert!(left > 0, "interrupted");
    };
    let properties = properties();
    let interrupted = catch_unwind(AssertUnwindSafe(|| {
        drop(replay::read_all(&properties, &changelog, &tree, &mut |_| {}, Some(&mut stop)));
    }));
    assert!(interrupted.is_err());
    let mut part = 0;
    tree.entries(&mut |_| part += 1).unwrap();
    assert!(part > 0 && tree.note("stored").unwrap().is_some(), "{part}");
    drop(tree);
    let mut entries = Entries::new();
    let mut committer = kindling::output::open(spec(&name, machines[3].path())).unwrap();
    committer.restore_log(&mut |c| take(&mut entries, c)).unwrap();
    drop(committer);
    assert!(entries == expected && stored(machines[3].path()) == expected);
}
