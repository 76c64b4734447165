//! The local tree: what it keeps over restarts, what it says of damage, bulks beside batches.

use super::*;
use crate::state::bulk::Bulk;
use crate::state::files::files_below;

#[test]
fn what_was_applied_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let change = |key: &str, value: Option<&str>| Change { shard: 3, key: key.into(), value: value.map(Into::into) };
    {
        let tree = Tree::open(dir.path()).unwrap();
        tree.apply(Bulk::from_iter([change("a", Some("1")), change("b", Some("2"))]).iter(), &[("meta", b"m")], true).unwrap();
        tree.apply(Bulk::from_iter([change("a", None)]).iter(), &[], true).unwrap();
    }
    let mut tree = Tree::open(dir.path()).unwrap();
    let mut entries = Vec::new();
    tree.entries(&mut |e| entries.push(e)).unwrap();
    assert_eq!(entries, [change("b", Some("2"))]);
    assert_eq!(tree.note("meta").unwrap().as_deref(), Some(&b"m"[..]));
    tree.clear(&[]).unwrap();
    tree.entries(&mut |e| panic!("{e:?}")).unwrap();
    assert_eq!(tree.note("meta").unwrap(), None);
}

#[test]
fn a_tree_whose_making_broke_off_is_made_and_one_that_was_made_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("keyspaces")).unwrap();
    std::fs::write(dir.path().join("0.jnl"), "").unwrap();
    std::fs::write(dir.path().join("lock"), "").unwrap();
    Tree::open(dir.path()).unwrap().apply([], &[("meta", b"m")], true).unwrap();
    std::fs::remove_file(dir.path().join("version")).unwrap();
    assert!(Tree::open(dir.path()).is_err());
    assert!(dir.path().join("0.jnl").metadata().unwrap().len() > 0, "what it holds is not removed with its marker gone");
}

#[test]
fn what_is_kept_outlives_clearing() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = Tree::open(dir.path()).unwrap();
    tree.apply([], &[("stored", b"s"), ("file/sink", b"/a")], true).unwrap();
    tree.clear(&["file/sink", "file/late"]).unwrap();
    drop(tree);
    let tree = Tree::open(dir.path()).unwrap();
    assert_eq!(tree.note("stored").unwrap(), None);
    assert_eq!(tree.note("file/sink").unwrap().as_deref(), Some(&b"/a"[..]));
}

#[test]
fn who_must_act_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::open(dir.path()).unwrap();
    assert!(matches!(Tree::open(dir.path()), Err(TreeError::Locked { .. })));
    tree.apply([], &[("format", b"99")], true).unwrap();
    drop(tree);
    assert!(matches!(Tree::open(dir.path()), Err(TreeError::Format { found, .. }) if found == "99"));
    Tree::remove(dir.path()).unwrap();
    drop(Tree::open(dir.path()).unwrap());
    // A file of the store that was cut to nothing.
    std::fs::write(dir.path().join("version"), "").unwrap();
    let opened = Tree::open(dir.path()).err();
    assert!(matches!(opened, Some(TreeError::Damaged { .. })), "{opened:?}");
}

fn change(n: u32) -> Change {
    Change { shard: (n % 4) as u16, key: n.to_be_bytes().repeat(3), value: Some(format!("state of {n}").into_bytes()) }
}

/// Changes written in either way, cleared in between, and the tree opened again at any point.
#[test]
fn what_was_ingested_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let bulk = |keys: std::ops::Range<u32>, value: Option<u8>| {
        let mut bulk = Bulk::default();
        let value = value.map(|v| vec![v; 40]);
        keys.rev().for_each(|n| bulk.push((n % 3) as u16, &n.to_be_bytes(), value.as_deref()));
        bulk
    };
    let read = |tree: &Tree| {
        let mut entries = std::collections::BTreeMap::new();
        let take = |c: Change| {
            let key = u32::from_be_bytes(c.key.try_into().unwrap());
            assert_eq!(entries.insert(key, c.value.unwrap()[0]), None);
        };
        tree.entries(&mut { take }).unwrap();
        entries
    };
    let expected = |parts: &[(std::ops::Range<u32>, u8)]| -> std::collections::BTreeMap<u32, u8> {
        parts.iter().flat_map(|(keys, value)| keys.clone().map(|k| (k, *value))).collect()
    };
    let mut tree = Tree::open(dir.path()).unwrap();
    tree.ingest(bulk(0..2_000, Some(1)).sorted()).unwrap();
    // Over what was ingested in the usual way, over that by ingestion, with removals in both.
    let one = |n: u32, value: Option<u8>| Change {
        shard: (n % 3) as u16,
        key: n.to_be_bytes().to_vec(),
        value: value.map(|v| vec![v; 40]),
    };
    let changes: Bulk = (500..1_500).map(|n| one(n, (n >= 1_000).then_some(2))).collect();
    tree.apply(changes.iter(), &[], false).unwrap();
    tree.ingest(bulk(1_400..1_600, None).sorted()).unwrap();
    tree.ingest(bulk(400..600, Some(3)).sorted()).unwrap();
    let before = expected(&[(0..400, 1), (400..600, 3), (1_000..1_400, 2), (1_600..2_000, 1)]);
    for _ in 0..3 {
        assert_eq!(read(&tree), before);
        drop(tree);
        tree = Tree::open(dir.path()).unwrap();
    }
    tree.clear(&[]).unwrap();
    tree.apply(Bulk::from_iter([one(1, Some(4))]).iter(), &[], true).unwrap();
    tree.ingest(bulk(10..20, Some(5)).sorted()).unwrap();
    tree.apply(Bulk::from_iter([one(2, Some(6)), one(10, None)]).iter(), &[], true).unwrap();
    for _ in 0..3 {
        assert_eq!(read(&tree), expected(&[(1..2, 4), (2..3, 6), (11..20, 5)]));
        drop(tree);
        tree = Tree::open(dir.path()).unwrap();
        assert!(tree.can_ingest());
    }
    // A tree that an earlier program may have cleared.
    tree.notes.remove(UNMARKED_NOTE).unwrap();
    drop(tree);
    assert!(!Tree::open(dir.path()).unwrap().can_ingest());
}

/// A bulk is one file until it is merged, whatever is noted behind it; else files that hold a number would be merged as often as those of state.
#[test]
fn notes_alone_add_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::open(dir.path()).unwrap();
    tree.apply(Bulk::from_iter([change(0)]).iter(), &[("meta", b"0")], true).unwrap();
    for round in 1..8u8 {
        tree.ingest(Bulk::from_iter((0..100).map(change)).sorted()).unwrap();
        tree.apply([], &[("meta", &[round])], true).unwrap();
    }
    // The first bulk took what was applied before it along.
    assert_eq!(tree.state.table_count(), 8);
    drop(tree);
    let tree = Tree::open(dir.path()).unwrap();
    assert_eq!(tree.note("meta").unwrap(), Some(vec![7]));
    // The number goes on where state changes again.
    tree.apply(Bulk::from_iter([change(1)]).iter(), &[("meta", b"8")], true).unwrap();
    drop(tree);
    assert_eq!(all(dir.path()).unwrap().len(), 100);
}

fn all(path: &Path) -> Result<Vec<Change>, TreeError> {
    let tree = Tree::open(path)?;
    let mut entries = Vec::new();
    tree.entries(&mut |e| entries.push(e))?;
    tree.note("meta")?;
    Ok(entries)
}

#[test]
fn an_entry_that_is_another_than_was_written_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::open(dir.path()).unwrap();
    tree.apply(Bulk::from_iter([change(1)]).iter(), &[("meta", b"m")], true).unwrap();
    // As if memory or disk had changed a bit that the store below did not see.
    let key = [&1u16.to_be_bytes()[..], &change(1).key].concat();
    let stored = tree.state.get(&key).unwrap().unwrap().to_vec();
    for at in 0..stored.len() {
        let mut changed = stored.clone();
        changed[at] ^= 4;
        tree.state.insert(&key, changed).unwrap();
        assert!(matches!(tree.entries(&mut |_| {}), Err(TreeError::Damaged { .. })), "byte {at}");
    }
    // And a value under another's key.
    tree.state.insert(&key, &stored).unwrap();
    tree.entries(&mut |_| {}).unwrap();
    tree.state.insert([&1u16.to_be_bytes()[..], &change(2).key].concat(), &stored).unwrap();
    assert!(matches!(tree.entries(&mut |_| {}), Err(TreeError::Damaged { .. })));
    tree.notes.insert("meta", b"other").unwrap();
    assert!(matches!(tree.note("meta"), Err(TreeError::Damaged { .. })));
}

/// A tree as it was written before entries had checksums.
#[test]
fn a_tree_of_format_1_is_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    {
        let tree = Tree::open(dir.path()).unwrap();
        tree.notes.insert("format", b"1").unwrap();
        tree.notes.insert("meta", b"m").unwrap();
        tree.state.insert([0, 1, b'k'], b"v").unwrap();
        tree.notes.remove(BATCH_NOTE).unwrap();
        tree.state.remove(BATCH_KEY).unwrap();
        tree.database.persist(PersistMode::SyncAll).unwrap();
    }
    let tree = Tree::open(dir.path()).unwrap();
    assert_eq!(tree.note("meta").unwrap().as_deref(), Some(&b"m"[..]));
    tree.apply(Bulk::from_iter([change(1)]).iter(), &[("meta", b"n")], true).unwrap();
    drop(tree);
    let old = Change { shard: 1, key: b"k".to_vec(), value: Some(b"v".to_vec()) };
    assert_eq!(all(dir.path()).unwrap(), [change(1), old]);
}

/// Files of the tree are changed at many places, one at a time: what comes back is right, or a word that it is damaged.
#[test]
fn a_file_that_was_changed_is_told_or_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let want: Vec<Change> = {
        let tree = Tree::open(&whole).unwrap();
        for step in 0..4 {
            let changes: Bulk = (step * 500..step * 500 + 1_000).map(change).collect();
            tree.apply(changes.iter(), &[("meta", b"m")], true).unwrap();
            if step == 1 {
                tree.state.rotate_memtable_and_wait().unwrap();
            }
        }
        drop(tree);
        all(&whole).unwrap()
    };
    assert_eq!(want.len(), 2_500);
    let files = files_below(&whole);
    let (mut told, mut unharmed) = (0, 0);
    for file in &files {
        let bytes = std::fs::read(whole.join(file)).unwrap();
        let places = (0..24).map(|n| n * bytes.len() / 24).filter(|at| *at < bytes.len());
        for at in places {
            let copy = dir.path().join("copy");
            let _ = std::fs::remove_dir_all(&copy);
            for other in &files {
                let to = copy.join(other);
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(whole.join(other), to).unwrap();
            }
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            std::fs::write(copy.join(file), changed).unwrap();
            // The store may panic on what it takes for its own: that ends the process with a word, and does no harm either.
            match std::panic::catch_unwind(|| all(&copy)) {
                Ok(Ok(entries)) => {
                    // All of it, or what one of the batches before the last left: the end of a journal is cut off where it is torn.
                    let prefix = |steps: u32| (0..steps * 500 + 500).map(change).collect::<Vec<_>>();
                    let sorted = |mut e: Vec<Change>| {
                        e.sort_by(|a, b| (a.shard, &a.key).cmp(&(b.shard, &b.key)));
                        e
                    };
                    let right = (1..=4).any(|steps| sorted(prefix(steps)) == entries);
                    assert!(right, "{} byte {at}: {} entries", file.display(), entries.len());
                    unharmed += 1;
                }
                Ok(Err(TreeError::Damaged { .. } | TreeError::Format { .. })) => told += 1,
                Ok(Err(error)) => panic!("{} byte {at}: {error}", file.display()),
                Err(_) => panic!("{} byte {at}: the store panics", file.display()),
            }
        }
    }
    println!("{} files: {told} changes told, {unharmed} without harm", files.len());
    assert!(told > 0);
}
