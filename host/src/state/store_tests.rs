//! The table against a plain map, with all of it in memory, some, and none; and with a disk that loses or changes what it has.

use super::*;
use crate::state::files::files_below;
use std::path::Path;

/// A generator with one number as its state (PCG's multiplier).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

type Plain = BTreeMap<Slot, Vec<u8>>;

/// All slots, pane by pane.
fn all(store: &Store) -> Plain {
    let mut found = Plain::new();
    for pane in store.panes() {
        for entry in store.sorted(pane) {
            let (key, state) = entry.unwrap();
            assert!(found.insert((pane, key.as_ref().into()), state.into_owned()).is_none(), "a slot comes twice");
        }
    }
    found
}

fn limit(folder: &Path, memory_bytes: usize) -> StateLimit {
    StateLimit { memory_bytes, spill: Some(folder.join("spill")) }
}

fn update(start: i64, key: &str, state: &str) -> Update {
    Update::new(PaneId { start, from: start }, key.as_bytes(), state.as_bytes())
}

/// Timers so long after the start of a slot's pane.
fn after(lag: i64) -> FirstTimer {
    Box::new(move |pane, _| Some(pane.start + lag))
}

#[test]
fn what_the_log_holds_is_what_the_table_holds() {
    let mut store = Store::default();
    let mut log = Bulk::default();
    store.apply(vec![update(-5, "a", "1"), update(10, "b", "22"), update(10, "a", "3")], &[], &mut log).unwrap();
    store.apply(vec![update(10, "b", "4")], &[PaneId { start: -5, from: -5 }], &mut log).unwrap();
    let mut again = Store::default();
    for entry in log.iter() {
        again.load(entry.into()).unwrap();
    }
    assert_eq!(all(&again), all(&store));
    assert_eq!((store.slots(), store.bytes()), (2, 4));
    assert_eq!((again.slots(), again.bytes()), (2, 4));
    assert_eq!(store.get(PaneId { start: 10, from: 10 }, b"b").unwrap(), Some(&b"4"[..]));
    assert!(again.load(Change { shard: 0, key: vec![1, 2], value: None }).is_err());
}

#[test]
fn each_slot_has_one_timer() {
    let mut store = Store::new(Some(after(5)));
    store.apply(vec![update(0, "a", "1"), update(10, "b", "2")], &[], &mut Bulk::default()).unwrap();
    store.apply(vec![update(0, "a", "3")], &[], &mut Bulk::default()).unwrap();
    let due = |store: &Store, now: i64| -> Vec<String> {
        store.timers_until(now).unwrap().iter().map(|(_, key)| String::from_utf8_lossy(key).into_owned()).collect()
    };
    assert_eq!((due(&store, 4).len(), due(&store, 5), due(&store, 15)), (0, vec!["a".to_owned()], vec!["a".into(), "b".into()]));
    store.rearm(5, vec![(7, PaneId { start: 0, from: 0 }, b"a"[..].into())]).unwrap();
    assert_eq!((due(&store, 6).len(), due(&store, 7)), (0, vec!["a".to_owned()]));
    let mut removed = Bulk::default();
    store.remove(&[(PaneId { start: 0, from: 0 }, b"a"[..].into())], &mut removed).unwrap();
    let values: Vec<_> = removed.iter().map(|(_, _, value)| value).collect();
    assert_eq!((values, store.slots(), store.bytes()), (vec![None], 1, 2));
    store.rearm(i64::MAX, Vec::new()).unwrap();
    assert_eq!(due(&store, i64::MAX).len(), 0);
}

/// One random epoch: of the table, and of a plain map. The log of both must be the same.
fn epoch(random: &mut Random, store: &mut Store, plain: &mut Plain) {
    let pane = |random: &mut Random| PaneId { start: random.below(6) as i64 - 3, from: random.below(2) as i64 };
    let slot = |random: &mut Random| -> Slot { (pane(random), format!("key {}", random.below(40)).into_bytes().into()) };
    let mut want: BTreeMap<Slot, Option<Vec<u8>>> = BTreeMap::new();
    // As the close of an epoch does: it reads, and then changes.
    for _ in 0..random.below(20) {
        let (pane, key) = slot(random);
        assert_eq!(store.get(pane, &key).unwrap(), plain.get(&(pane, key.clone())).map(Vec::as_slice));
        assert_eq!(store.has(pane, &key).unwrap(), plain.contains_key(&(pane, key)));
    }
    let mut removed_slots: Vec<Slot> = (0..random.below(6)).map(|_| slot(random)).collect();
    removed_slots.sort_unstable();
    removed_slots.dedup();
    removed_slots.retain(|s| store.has(s.0, &s.1).unwrap());
    let removed: Vec<PaneId> = if random.below(5) == 0 { vec![pane(random)] } else { Vec::new() };
    let mut updates = Vec::new();
    let mut fetched: Vec<Slot> = (0..random.below(30)).map(|_| slot(random)).collect();
    if random.below(2) == 0 {
        store.fetch(fetched.iter().map(|(pane, key)| (*pane, key.as_ref()))).unwrap();
    }
    fetched.sort_unstable();
    fetched.dedup();
    for (pane, key) in fetched {
        // Where it was found, where another slot is, where none is.
        let place = match random.below(4) {
            0 => store.find(pane, store.hash(&key), &key).unwrap().and_then(|(_, place)| place),
            1 => Some(Place::Number(random.below(30) as u32)),
            2 => Some(Place::of_hash(store.hash(&key))),
            _ => None,
        };
        updates.push(Update::new(pane, &key, &vec![b'x'; random.below(20) as usize]).at(place));
    }
    for slot in &removed_slots {
        plain.remove(slot);
        want.insert(slot.clone(), None);
    }
    plain.retain(|slot, _| {
        let gone = removed.contains(&slot.0);
        if gone {
            want.insert(slot.clone(), None);
        }
        !gone
    });
    for update in &updates {
        plain.insert((update.pane, update.key().into()), update.state().to_vec());
        want.insert((update.pane, update.key().into()), Some(update.state().to_vec()));
    }
    let mut changes = Bulk::default();
    store.remove(&removed_slots, &mut changes).unwrap();
    store.apply(updates, &removed, &mut changes).unwrap();
    let mut got: BTreeMap<Slot, Option<Vec<u8>>> = BTreeMap::new();
    for (_, key, value) in changes.iter() {
        let (pane, key) = split(key).unwrap();
        got.insert((pane, key.into()), value.map(<[u8]>::to_vec));
    }
    assert_eq!(got, want, "changes for the log");
}

fn check(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let folder = tempfile::tempdir().unwrap();
    let memory = [0, 2_000, 8_000, 1 << 20][random.below(4) as usize];
    let mut store = Store::new(Some(after(3))).within(limit(folder.path(), memory));
    let mut plain = Plain::new();
    for _ in 0..12 {
        epoch(&mut random, &mut store, &mut plain);
        assert_eq!(all(&store), plain);
        let bytes: usize = plain.iter().map(|((_, key), state)| key.len() + state.len()).sum();
        assert_eq!((store.slots(), store.bytes()), (plain.len(), bytes));
        let sizes = store.sizes();
        let panes = store.panes().count();
        assert!(memory > 0 || sizes.disk_slots == plain.len(), "{sizes:?}");
        assert!(sizes.memory_bytes <= memory.max(panes * PANE_COST + memory / 4), "{sizes:?} of {memory}");
        for pane in store.panes() {
            let mut some: Plain = Plain::new();
            store.entries(pane).unwrap().for_each(|(key, state)| drop(some.insert((pane, key.into()), state.to_vec())));
            assert!(some.iter().all(|(slot, state)| plain.get(slot) == Some(state)));
            assert_eq!(some.len(), plain.keys().filter(|(p, _)| *p == pane).count());
        }
        let mut copy = Vec::new();
        assert_eq!(store.copy(&[], None, usize::MAX, &mut copy).unwrap(), Some(plain.len() as u64));
        let of_key = plain.keys().filter(|(_, key)| key.as_ref() == b"key 7").count() as u64;
        assert_eq!(store.copy(&[], Some(b"key 7"), usize::MAX, &mut copy).unwrap(), Some(of_key));
    }
    let panes: Vec<PaneId> = store.panes().collect();
    store.apply(Vec::new(), &panes, &mut Bulk::default()).unwrap();
    assert_eq!((store.memory, store.slots(), store.bytes(), store.cold, store.cold_bytes), (0, 0, 0, 0, 0), "nothing is left");
    // Back from the log, with as little memory.
    let mut again = Store::new(Some(after(3))).within(limit(&folder.path().join("again"), memory));
    let mut log = Bulk::default();
    plain.iter().for_each(|((pane, key), state)| change(&mut log, *pane, key, Some(state)));
    log.iter().for_each(|entry| again.load(entry.into()).unwrap());
    assert_eq!(all(&again), plain);
    let timers: std::collections::BTreeSet<Slot> =
        again.timers_until(i64::MAX).unwrap().into_iter().map(|(pane, key)| (pane, key.into())).collect();
    assert_eq!(timers, plain.keys().cloned().collect(), "each slot has its timer");
}

#[test]
fn with_little_memory_it_is_the_same_table() {
    match std::env::var("KINDLING_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => check(seed),
        None => (0..150).for_each(|seed| {
            println!("KINDLING_SEED={seed}");
            check(seed);
        }),
    }
}

fn key(n: usize) -> Box<[u8]> {
    format!("a key of some length, number {n:06}").into_bytes().into()
}

/// A table of `count` slots, all of them on disk.
fn on_disk(folder: &Path, count: usize) -> Store {
    let mut store = Store::default().within(limit(folder, 0));
    let pane = PaneId { start: 0, from: 0 };
    let updates = (0..count).map(|n| Update::new(pane, &key(n), &n.to_le_bytes())).collect();
    store.apply(updates, &[], &mut Bulk::default()).unwrap();
    assert_eq!(store.sizes().disk_slots, count);
    store
}

/// Many slots at once go past journal and memory of the store below: written, replaced, removed.
#[test]
fn many_slots_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let count = 10_000;
    let mut store = on_disk(folder.path(), count);
    let pane = PaneId { start: 0, from: 0 };
    let half: Vec<Update> = (0..count / 2).map(|n| Update::new(pane, &key(n * 2), b"changed")).collect();
    store.apply(half, &[], &mut Bulk::default()).unwrap();
    assert_eq!((store.slots(), store.sizes().disk_slots), (count, count));
    let gone: Vec<Slot> = (0..5_000).map(|n| (pane, key(n))).collect();
    store.remove(&gone, &mut Bulk::default()).unwrap();
    assert_eq!(store.slots(), 5_000);
    let found = all(&store);
    assert_eq!(found.len(), 5_000);
    for ((_, key), state) in &found {
        let n: usize = String::from_utf8_lossy(&key[key.len() - 6..]).parse().unwrap();
        assert!(n >= 5_000);
        let want = if n.is_multiple_of(2) { b"changed".to_vec() } else { n.to_le_bytes().to_vec() };
        assert_eq!(*state, want);
    }
    let mut changes = Bulk::default();
    store.apply(Vec::new(), &[pane], &mut changes).unwrap();
    assert_eq!(changes.len(), 5_000);
    assert_eq!((store.slots(), store.bytes(), store.sizes().disk_slots, store.sizes().disk_bytes), (0, 0, 0, 0));
    drop(store);
    assert!(!folder.path().join("spill").exists(), "the folder goes with the table");
}

#[test]
fn what_is_changed_often_stays_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::default().within(limit(folder.path(), 200_000));
    let pane = PaneId { start: 0, from: 0 };
    let update = |n: usize| Update::new(pane, &key(n), &n.to_le_bytes());
    for round in 0..40 {
        let cold = (100 + round * 100..200 + round * 100).map(update);
        store.apply((0..100).map(update).chain(cold).collect(), &[], &mut Bulk::default()).unwrap();
        assert!(store.sizes().memory_bytes <= 200_000);
    }
    assert_eq!(store.slots(), 4_100);
    assert!(store.sizes().disk_slots > 2_000);
    let reads = store.sizes().disk_reads;
    (0..100).for_each(|n| assert!(store.has(pane, &key(n)).unwrap()));
    assert_eq!(store.sizes().disk_reads, reads, "those that each epoch changes are in memory");
    // So far back that it has gone.
    assert!(store.has(pane, &key(150)).unwrap());
    assert_eq!(store.sizes().disk_reads, reads + 1);
}

#[test]
fn long_keys_stay_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::default().within(limit(folder.path(), 0));
    let long: Box<[u8]> = vec![b'k'; 100_000].into();
    let pane = PaneId { start: 0, from: 0 };
    let update = |key: Box<[u8]>| Update::new(pane, &key, b"s");
    store.apply(vec![update(long.clone()), update(key(1))], &[], &mut Bulk::default()).unwrap();
    assert_eq!((store.slots(), store.sizes().disk_slots), (2, 1));
    assert_eq!(store.get(pane, &long).unwrap(), Some(&b"s"[..]));
}

/// Timers beyond their share of the budget are on disk, and go off all the same.
#[test]
fn timers_on_disk_go_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::new(Some(after(10))).within(limit(folder.path(), 20_000));
    for start in 0..500 {
        let pane = PaneId { start, from: 0 };
        store.apply(vec![Update::new(pane, &key(start as usize), b"s")], &[], &mut Bulk::default()).unwrap();
    }
    assert!(store.timers.as_ref().unwrap().memory() <= 5_000 + 200);
    let due = |store: &Store, now: i64| -> Vec<i64> {
        let mut due: Vec<i64> = store.timers_until(now).unwrap().into_iter().map(|(pane, _)| pane.start).collect();
        due.sort_unstable();
        due
    };
    assert!(due(&store, 9).is_empty());
    assert_eq!(due(&store, 309), (0..300).collect::<Vec<_>>());
    store.rearm(309, vec![(700, PaneId { start: 7, from: 0 }, key(7))]).unwrap();
    assert!(due(&store, 309).is_empty());
    assert_eq!(due(&store, 400), (300..391).collect::<Vec<_>>());
    store.rearm(600, Vec::new()).unwrap();
    assert_eq!(due(&store, i64::MAX), [7]);
}

/// Reads all slots, one by one or pane by pane; how many were wrong without a word.
fn wrong(store: &Store, count: usize) -> (usize, Option<SpillError>) {
    let pane = PaneId { start: 0, from: 0 };
    let (mut wrong, mut told) = (0, None);
    for n in 0..count {
        match store.get(pane, &key(n)) {
            Ok(state) => wrong += usize::from(state != Some(&n.to_le_bytes()[..])),
            Err(error) => told = Some(error),
        }
    }
    let whole: Result<Vec<_>, _> = store.sorted(pane).collect();
    match whole {
        Ok(entries) => assert_eq!(entries.len(), count, "a pane is whole, or an error"),
        Err(error) => told = Some(error),
    }
    (wrong, told)
}

#[test]
fn a_file_that_was_changed_is_told_or_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let count = 6_000;
    let mut told = 0;
    for place in 0..24 {
        let store = on_disk(folder.path(), count);
        let below = folder.path().join("spill/keyspaces");
        let tables: Vec<_> = files_below(&below)
            .into_iter()
            .map(|f| below.join(f))
            .filter(|f| f.parent().is_some_and(|p| p.ends_with("tables")))
            .collect();
        assert!(!tables.is_empty());
        for table in &tables {
            let mut bytes = std::fs::read(table).unwrap();
            let at = place * bytes.len() / 24;
            bytes[at] ^= 0x10;
            // In place: the store has the file open.
            let file = std::fs::OpenOptions::new().write(true).open(table).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
        }
        let (wrong, error) = wrong(&store, count);
        assert_eq!(wrong, 0, "byte {place} of 24");
        if let Some(error) = error {
            assert!(matches!(error, SpillError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("spill") && error.to_string().contains("--data-dir"), "{error}");
            told += 1;
        }
    }
    println!("{told} of 24 changes told");
    assert!(told > 12);
}

#[test]
fn what_the_disk_has_lost_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = on_disk(folder.path(), 50);
    let pane = PaneId { start: 0, from: 0 };
    // As if the store below had lost an entry.
    store.disk.as_mut().unwrap().write(1, [(pane, key(7).as_ref(), None)].into_iter()).unwrap();
    let whole: Result<Vec<_>, _> = store.sorted(pane).collect();
    assert!(matches!(whole, Err(SpillError::Damaged { why, .. }) if why.contains("49 entries")));
    assert!(store.entries(pane).is_err());
    assert!(matches!(store.apply(Vec::new(), &[pane], &mut Bulk::default()), Err(SpillError::Damaged { .. })));
}

#[test]
fn a_disk_that_can_not_be_written_to_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let limit = StateLimit { memory_bytes: 0, spill: Some(folder.path().join("file/spill")) };
    let mut store = Store::default().within(limit);
    let update = Update::new(PaneId { start: 0, from: 0 }, &key(1), b"s");
    let error = store.apply(vec![update], &[], &mut Bulk::default()).unwrap_err();
    assert!(matches!(error, SpillError::Io { .. }), "{error}");
    assert!(error.to_string().contains("file/spill") && error.to_string().contains("--state-memory"), "{error}");
}
