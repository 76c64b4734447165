//! Stored formats of released versions: fixtures in `tests/fixtures/formats` are read, and gone on from, as when they were written; changed or cut
//! ones are told, or read as what a whole epoch left, never half.
//!
//! One test needs KINDLING_BROKERS=host:port (`tests/run` sets it).

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "support/files.rs"]
mod files;

use files::files_below;
use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use kindling::config::spec::{KafkaSourceSpec, SinkSpec, SourceSpec, StartingOffsets};
use kindling::config::{LoadOptions, load_str};
use kindling::element::{OwnedRecord, OwnedRecords, PartitionName, RawBatch};
use kindling::ingest::decode::Decoder;
use kindling::limits::JobLimits;
use kindling::operator::FaultPolicy;
use kindling::output::replay::{META_KEY, Place, Stored};
use kindling::output::{Change, CommitSpec, EpochCommit, Meta, topics};
use kindling::plan::{self, Plan};
use kindling::plugin::PluginSet;
use kindling::runtime::core::{JobCore, Outcome, OutputFormat, Progress};
use kindling::state::savepoint::{Header, Savepoint, Writer};
use kindling::state::tree::{Tree, TreeError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Formats that this program writes.
const TREE: &str = "tree-4";
const SAVEPOINT: &str = "savepoint-1";
const CHANGELOG: &str = "changelog-1.jsonl";
/// All trees that there are.
const TREES: [&str; 4] = ["tree-1", "tree-2", "tree-3", TREE];
/// Rows of the input that the fixtures have seen, and of an epoch.
const STORED_ROWS: usize = 40;
const EPOCH_ROWS: usize = 5;

/// State by shard and key of the log.
type Entries = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// The pipeline of the fixtures, as it runs.
struct Running {
    plan: Arc<Plan>,
    partitions: Vec<PartitionName>,
    core: JobCore,
}

impl Running {
    fn new() -> Self {
        let pipeline = load_str(&text("pipeline.yaml"), "pipeline.yaml", &LoadOptions::default()).unwrap();
        let plan = Arc::new(plan::build(&pipeline, &PluginSet::empty()).unwrap());
        let partitions = vec![PartitionName { topic: "in".into(), partition: 0 }];
        let core = JobCore::new(Arc::clone(&plan), partitions.clone(), OutputFormat::default(), JobLimits::default()).unwrap();
        Self { plan, partitions, core }
    }

    fn epoch(&mut self, rows: &[String], first: usize, is_last: bool) -> Result<EpochCommit, String> {
        let record = |(i, row): (usize, &String)| OwnedRecord {
            offset: (first + i) as i64,
            value: Some(row.clone().into_bytes()),
            ..OwnedRecord::default()
        };
        let rows = rows.iter().enumerate().map(record).collect();
        let batch = RawBatch { partition: 0, records: Box::new(OwnedRecords { rows }) };
        let mut decoder = Decoder::of_plan(&self.plan, &self.partitions);
        let start = self.core.start(FaultPolicy::Fail);
        let task = JobCore::run_task(&self.plan, &mut decoder, vec![batch], start, &JobLimits::default())
            .map_err(|e| e.0.to_string())?;
        let progress = Progress { idle: vec![false], finished: vec![is_last] };
        match self.core.close(&[task], &progress, FaultPolicy::Fail).map_err(|e| e.to_string())? {
            Outcome::Commit(commit) => Ok(*commit),
            Outcome::Rerun(_) => Err("run again".into()),
        }
    }

    fn epochs(&mut self, from: usize, to: usize) -> Result<Vec<EpochCommit>, String> {
        let rows: Vec<String> = text("input.jsonl").lines().map(str::to_owned).collect();
        let to = to.min(rows.len());
        let starts: Vec<usize> = (from..to).step_by(EPOCH_ROWS).collect();
        starts.iter().map(|s| self.epoch(&rows[*s..(s + EPOCH_ROWS).min(to)], *s, s + EPOCH_ROWS >= rows.len())).collect()
    }
}

/// What a job that goes on from stored state gives for the rest of the rows.
fn gone_on(meta: &Meta, entries: &Entries) -> Result<Vec<Value>, String> {
    let mut running = Running::new();
    for ((shard, key), value) in entries {
        let entry = Change { shard: *shard, key: key.clone(), value: Some(value.clone()) };
        running.core.load(entry).map_err(|e| e.to_string())?;
    }
    running.core.restore(meta)?;
    let from = running.core.positions()[0] as usize;
    let outputs = running.epochs(from, usize::MAX)?.into_iter().flat_map(|e| e.outputs);
    Ok(sorted(outputs.map(|o| serde_json::from_slice(&o.value).unwrap())))
}

fn sorted(rows: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut rows: Vec<Value> = rows.collect();
    rows.sort_by_key(Value::to_string);
    rows
}

fn expected() -> Vec<Value> {
    sorted(text("expected.jsonl").lines().map(|l| serde_json::from_str(l).unwrap()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// The changelog's epochs: what each changes, and its meta record.
fn changelog() -> Vec<(Vec<Change>, Stored)> {
    let mut epochs = Vec::new();
    let mut changes = Vec::new();
    for line in text(CHANGELOG).lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let (key, value) = (unhex(record["key"].as_str().unwrap()), record["value"].as_str().map(unhex));
        if key == META_KEY {
            epochs.push((std::mem::take(&mut changes), serde_json::from_slice(&value.unwrap()).unwrap()));
        } else {
            changes.push(Change { shard: record["partition"].as_u64().unwrap() as u16, key, value });
        }
    }
    assert!(changes.is_empty(), "the last epoch has its meta record");
    epochs
}

/// The state after each epoch of the changelog, by the epoch's number.
fn states() -> BTreeMap<u64, Entries> {
    let mut entries = Entries::new();
    let mut states = BTreeMap::new();
    for (changes, stored) in changelog() {
        for change in changes {
            match change.value {
                Some(value) => drop(entries.insert((change.shard, change.key), value)),
                None => drop(entries.remove(&(change.shard, change.key))),
            }
        }
        states.insert(stored.meta.epoch, entries.clone());
    }
    states
}

fn read_tree(path: &Path) -> Result<(Option<Meta>, Entries), TreeError> {
    let tree = Tree::open(path)?;
    let mut entries = Entries::new();
    tree.entries(&mut |e| drop(entries.insert((e.shard, e.key), e.value.unwrap())))?;
    let meta = tree.note("meta")?;
    Ok((meta.map(|m| serde_json::from_slice(&m).unwrap()), entries))
}

/// A tree is written as it is opened: a fixture is read from a copy.
fn copy_of(name: &str, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    for file in files_below(&folder().join(name)) {
        let to = to.join(&file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(folder().join(name).join(&file), to).unwrap();
    }
}

#[test]
fn every_stored_format_is_read_and_gone_on_from() {
    let states = states();
    let (last, want) = states.last_key_value().unwrap();
    assert!(want.len() > 10 && expected().len() > 10, "{} entries", want.len());
    let dir = tempfile::tempdir().unwrap();
    for name in TREES {
        copy_of(name, dir.path());
        let (meta, entries) = read_tree(dir.path()).unwrap();
        let meta = meta.unwrap();
        assert_eq!((meta.epoch, &entries), (*last, want), "{name}");
        assert_eq!(gone_on(&meta, &entries).unwrap(), expected(), "{name}");
    }
    let mut savepoint = Savepoint::open(&folder().join(SAVEPOINT)).unwrap();
    let mut entries = Entries::new();
    savepoint.entries(&mut |e| drop(entries.insert((e.shard, e.key), e.value.unwrap()))).unwrap();
    assert_eq!((savepoint.header().meta.epoch, &entries), (*last, want));
    assert_eq!((savepoint.header().team.as_str(), savepoint.header().name.as_str()), ("default", "formats"));
    assert_eq!(gone_on(&savepoint.header().meta, &entries).unwrap(), expected());
    let (_, stored) = changelog().pop().unwrap();
    assert_eq!((stored.lineage.as_str(), stored.meta.positions["in/0"]), ("0123456789abcdef01234567", STORED_ROWS as i64));
    assert_eq!(gone_on(&stored.meta, want).unwrap(), expected());
}

/// The fixtures are small: each version adds to them.
#[test]
fn the_fixtures_are_small() {
    let bytes: u64 = files_below(&folder()).iter().map(|f| std::fs::metadata(folder().join(f)).unwrap().len()).sum();
    assert!(bytes < 130_000, "{bytes} bytes");
}

/// Bytes are changed and files are cut at many places, one at a time.
#[test]
fn a_tree_that_was_changed_is_told_or_is_what_an_epoch_left() {
    let states = states();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    for name in TREES {
        let (mut told, mut unharmed) = (0, 0);
        // Before format 3 nothing told that a journal had lost what a table has: that is why there is a format 3.
        let is_told = |file: &PathBuf| ["tree-3", TREE].contains(&name) || file.extension().is_none_or(|e| e != "jnl");
        for file in files_below(&folder().join(name)).into_iter().filter(is_told) {
            let whole = std::fs::read(folder().join(name).join(&file)).unwrap();
            let step = (whole.len() / 60).max(1);
            let flipped = (0..whole.len()).step_by(step).map(|at| {
                let mut changed = whole.clone();
                changed[at] ^= 1 << (at % 8);
                changed
            });
            let cut = (0..whole.len()).step_by((whole.len() / 12).max(1)).map(|length| whole[..length].to_vec());
            for (i, changed) in flipped.chain(cut).enumerate() {
                copy_of(name, &copy);
                std::fs::write(copy.join(&file), changed).unwrap();
                let what = format!("{name}, {}, change {i}", file.display());
                match std::panic::catch_unwind(|| read_tree(&copy)) {
                    // The state with the meta of the same batch, or nothing at all.
                    Ok(Ok((Some(meta), entries))) => {
                        assert_eq!(Some(&entries), states.get(&meta.epoch), "{what}: epoch {}", meta.epoch);
                        unharmed += 1;
                    }
                    Ok(Ok((None, entries))) => {
                        assert!(entries.is_empty(), "{what}: {} entries without a position", entries.len());
                        told += 1;
                    }
                    Ok(Err(TreeError::Damaged { .. } | TreeError::Format { .. })) => told += 1,
                    Ok(Err(error)) => panic!("{what}: {error}"),
                    Err(_) => panic!("{what}: the store panics"),
                }
            }
        }
        println!("{name}: {told} changes told, {unharmed} without harm");
        assert!(told > 0 && unharmed > 0, "{name}: {told} told, {unharmed} not");
    }
}

#[test]
fn a_savepoint_that_was_changed_is_refused() {
    let whole = std::fs::read(folder().join(SAVEPOINT)).unwrap();
    Savepoint::of_bytes("whole", whole.clone()).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(Savepoint::of_bytes("changed", changed).is_err(), "byte {at}");
        assert!(Savepoint::of_bytes("cut", whole[..at].to_vec()).is_err(), "cut at {at}");
    }
}

/// Kafka has checksums of its batches; what comes through all the same must not be half read.
#[test]
fn states_that_were_cut_are_told() {
    let (_, stored) = changelog().pop().unwrap();
    let states = states();
    let whole = states.last_key_value().unwrap().1;
    let last = *stored.meta.watermarks.values().next().unwrap();
    let mut told = 0;
    for slot in whole.keys() {
        let mut cut = whole.clone();
        let state = cut.get_mut(slot).unwrap();
        state.pop();
        let error = gone_on(&stored.meta, &cut).unwrap_err();
        assert!(error.contains("state"), "{error}");
        told += 1;
    }
    assert!(told > 10 && last > 0);
}

/// Where Kafka is the truth, a damaged tree is made anew by itself.
#[test]
fn a_damaged_tree_is_made_anew_from_the_changelog() {
    let brokers = std::env::var("KINDLING_BROKERS")
        .expect("KINDLING_BROKERS is not set: run tests/run, or set it to host:port of a broker");
    let properties: BTreeMap<String, String> = [("bootstrap.servers".to_owned(), brokers)].into();
    let name = format!("formats-{}-{}", std::process::id(), kindling::time::now_ms());
    topics::create(&properties, &name, Some(1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let spec = || CommitSpec {
        team: "test".into(),
        name: name.clone(),
        partitions: vec![PartitionName { topic: name.as_str().into(), partition: 0 }],
        source: SourceSpec::Kafka(KafkaSourceSpec {
            properties: properties.clone(),
            topic: name.clone(),
            fail_on_data_loss: true,
            starting_offsets: StartingOffsets::Earliest,
        }),
        sink: SinkSpec::Discard,
        outputs: Vec::new(),
        late: None,
        rejects: None,
        data_dir: dir.path().to_path_buf(),
        state_memory: kindling::limits::STATE_MEMORY_BYTES,
    };
    let path = spec().tree_path();
    let mut committer = kindling::output::open(spec()).unwrap();
    committer.restore(&mut |_| {}).unwrap();
    for (epoch, (changes, stored)) in (1..).zip(changelog()) {
        committer
            .commit(EpochCommit {
                epoch,
                changes: changes.into_iter().collect(),
                meta: stored.meta,
                positions: vec![0],
                ..EpochCommit::default()
            })
            .unwrap();
    }
    drop(committer);
    let states = states();
    let want = states.last_key_value().unwrap().1;
    let whole: Vec<(PathBuf, Vec<u8>)> =
        files_below(&path).into_iter().map(|f| (f.clone(), std::fs::read(path.join(f)).unwrap())).collect();
    let mut made_anew = 0;
    for (file, bytes) in whole.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        // A byte changed; the file cut off.
        let used = bytes.iter().rposition(|b| *b != 0).unwrap_or_default();
        let mut changed = bytes.clone();
        changed[used / 2] ^= 0x11;
        for (part, changed) in [changed, bytes[..used / 2].to_vec()].into_iter().enumerate() {
            std::fs::remove_dir_all(&path).unwrap();
            for (file, bytes) in &whole {
                std::fs::create_dir_all(path.join(file).parent().unwrap()).unwrap();
                std::fs::write(path.join(file), bytes).unwrap();
            }
            std::fs::write(path.join(file), changed).unwrap();
            let mut committer = kindling::output::open(spec()).unwrap();
            let mut entries = Entries::new();
            let mut restored = committer.restore(&mut |e| drop(entries.insert((e.shard, e.key), e.value.unwrap())));
            if restored.is_err() {
                // Told as an epoch that did not happen: the job restores once more.
                made_anew += 1;
                entries.clear();
                restored = committer.restore(&mut |e| drop(entries.insert((e.shard, e.key), e.value.unwrap())));
            }
            let meta = restored.unwrap_or_else(|e| panic!("{} part {part}: {e}", file.display()));
            assert_eq!((meta.map(|m| m.epoch), &entries), (states.last_key_value().map(|s| *s.0), want), "{}", file.display());
        }
    }
    println!("{} files, {made_anew} changes seen only as entries were read", whole.len());
}

/// Moves the state from the journal into a table, as happens in a job that has run for a while.
fn to_table(path: &Path) {
    let database = Database::builder(path).worker_threads(1).open().unwrap();
    let state = database.keyspace("state", KeyspaceCreateOptions::default).unwrap();
    state.rotate_memtable_and_wait().unwrap();
}

/// A tree as it was written before batches had numbers; before 2 neither entries nor notes had checksums.
fn old_tree(path: &Path, epochs: &[EpochCommit], checked: bool) {
    let seal = |key: &[u8], value: &[u8]| {
        let length = (key.len() as u64).to_le_bytes();
        let bytes = length.iter().chain(key).chain(value);
        let h = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
        let sum = ((h ^ (h >> 32)) as u32).to_le_bytes();
        [value, &sum[..if checked { 4 } else { 0 }]].concat()
    };
    let database = Database::builder(path).worker_threads(1).open().unwrap();
    let open = |name: &str| database.keyspace(name, KeyspaceCreateOptions::default).unwrap();
    let (state, notes) = (open("state"), open("notes"));
    notes.insert("format", if checked { &b"kindling-tree 2"[..] } else { b"1" }).unwrap();
    for (i, epoch) in epochs.iter().enumerate() {
        if i == epochs.len() / 2 {
            state.rotate_memtable_and_wait().unwrap();
        }
        let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
        for (shard, key, value) in epoch.changes.iter() {
            let key = [&shard.to_be_bytes()[..], key].concat();
            match value {
                Some(value) => batch.insert(&state, key.as_slice(), seal(&key, value)),
                None => batch.remove(&state, key),
            }
        }
        batch.insert(&notes, "meta", seal(b"meta", &serde_json::to_vec(&epoch.meta).unwrap()));
        batch.commit().unwrap();
    }
    drop((state, notes, database));
    cut_journal(path);
}

/// The store makes its journal 64 MiB long at once: zeros behind what is written say nothing.
fn cut_journal(path: &Path) {
    for file in files_below(path).iter().filter(|f| f.extension().is_some_and(|e| e == "jnl")) {
        let bytes = std::fs::read(path.join(file)).unwrap();
        let length = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        std::fs::write(path.join(file), &bytes[..length]).unwrap();
    }
}

/// Writes the fixtures of the formats that this program writes, where they are not there yet: see the folder's README.
#[test]
#[ignore = "writes the fixtures"]
fn write_fixtures() {
    let mut running = Running::new();
    let epochs = running.epochs(0, STORED_ROWS).unwrap();
    let to = folder();
    if !to.join(CHANGELOG).exists() {
        let mut lines = String::new();
        for epoch in &epochs {
            let stored = Stored { lineage: "0123456789abcdef01234567".into(), meta: epoch.meta.clone() };
            let mut line = |partition: u16, key: &[u8], value: Option<&[u8]>| {
                lines.push_str(&json!({ "partition": partition, "key": hex(key), "value": value.map(hex) }).to_string());
                lines.push('\n');
            };
            for (shard, key, value) in epoch.changes.iter() {
                line(shard, key, value);
            }
            line(0, META_KEY, Some(&serde_json::to_vec(&stored).unwrap()));
        }
        std::fs::write(to.join(CHANGELOG), lines).unwrap();
    }
    if !to.join(SAVEPOINT).exists() {
        let header = Header::new("default", "formats", 1_700_000_000_000, epochs.last().unwrap().meta.clone());
        let mut writer = Writer::create(&to.join(SAVEPOINT), &header).unwrap();
        let states = states();
        for ((shard, key), value) in states.last_key_value().unwrap().1 {
            writer.entry(&Change { shard: *shard, key: key.clone(), value: Some(value.clone()) }).unwrap();
        }
        writer.finish().unwrap();
    }
    let place = serde_json::to_vec(&Place { offsets: [(0, 7)].into(), time: Some(1_700_000_000_000) }).unwrap();
    if !to.join(TREE).exists() {
        let (first, rest) = epochs.split_at(epochs.len() / 2);
        for part in [first, rest] {
            let tree = Tree::open(&to.join(TREE)).unwrap();
            for epoch in part {
                let meta = serde_json::to_vec(&epoch.meta).unwrap();
                tree.apply(epoch.changes.iter(), &[("meta", &meta), ("place", &place)], true).unwrap();
            }
            drop(tree);
            if part.len() == first.len() && part[0].epoch == 1 {
                to_table(&to.join(TREE));
            }
        }
        cut_journal(&to.join(TREE));
    }
    for (name, checked) in [("tree-1", false), ("tree-2", true)].into_iter().filter(|(name, _)| !to.join(name).exists()) {
        old_tree(&to.join(name), &epochs, checked);
    }
    if !to.join("expected.jsonl").exists() {
        let rest = running.epochs(STORED_ROWS, usize::MAX).unwrap();
        let lines: Vec<String> =
            rest.iter().flat_map(|e| &e.outputs).map(|o| String::from_utf8(o.value.clone()).unwrap()).collect();
        std::fs::write(to.join("expected.jsonl"), lines.join("\n") + "\n").unwrap();
    }
}
