//! How long a restart takes: state from the changelog on a machine that never had it, and from a local tree that is up to date.
//!
//! Measured: [`Committer::restore_log`](kindling::output::Committer::restore_log) on a real broker into a [`Store`], as a job does it, from the call
//! to its end; CPU of all threads of this process. Not measured: the broker's CPU.
//!
//! `KINDLING_BROKERS=host:port cargo run --release --example restore_cost [MILLION_KEYS]`

use kindling::config::spec::{SinkSpec, SourceSpec};
use kindling::output::{Change, CommitSpec, EpochCommit, Meta};
use kindling::state::store::Store;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Changes of one epoch.
const EPOCH: usize = 100_000;

fn spec(name: &str, data_dir: &Path) -> CommitSpec {
    let brokers = std::env::var("KINDLING_BROKERS").expect("KINDLING_BROKERS=host:port of a broker");
    let properties = BTreeMap::from([("bootstrap.servers".to_owned(), brokers)]);
    CommitSpec {
        team: "bench".into(),
        name: name.into(),
        source: SourceSpec::Stdin,
        partitions: Vec::new(),
        sink: SinkSpec::Kafka { properties, topic: format!("{name}-out") },
        outputs: Vec::new(),
        late: None,
        rejects: None,
        data_dir: data_dir.to_path_buf(),
        state_memory: kindling::limits::STATE_MEMORY_BYTES,
    }
}

/// Panes that the keys lie in.
const PANES: u64 = 20;

/// A slot of 40 bytes, pane and key, and its state of 24.
fn change(n: u64) -> Change {
    let start = (1_760_000_400_000 + n % PANES * 60_000).to_be_bytes();
    let key = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    Change { shard: (key[7] % 4).into(), key: [start, start, [1; 8], [2; 8], key].concat(), value: Some(vec![n as u8; 24]) }
}

/// Restores, and says what it took.
fn restore(what: &str, spec: CommitSpec) {
    let mut committer = kindling::output::open(spec).expect("a committer");
    let (started, cpu) = (Instant::now(), kindling::time::cpu_seconds());
    let mut store = Store::default();
    committer.restore_log(&mut |entry| store.load(entry).expect("loaded")).expect("restored");
    let entries = store.slots();
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), kindling::time::cpu_seconds() - cpu);
    println!(
        "{what}: {entries} keys in {seconds:.1} s, {:.0} keys/s, {:.2} CPU s per million",
        entries as f64 / seconds,
        cpu * 1e6 / entries as f64
    );
}

fn main() {
    let keys = std::env::args().nth(1).map_or(1.0, |a| a.parse::<f64>().expect("millions")) * 1e6;
    let name = format!("restore-{}", std::process::id());
    let (first, second) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut committer = kindling::output::open(spec(&name, first.path())).expect("a committer");
    committer.restore(&mut |_| {}).expect("restored");
    for epoch in 0..keys as u64 / EPOCH as u64 {
        let changes = (epoch * EPOCH as u64..(epoch + 1) * EPOCH as u64).map(change).collect();
        let meta = Meta { epoch: epoch + 1, ..Meta::default() };
        committer.commit(EpochCommit { epoch: epoch + 1, changes, meta, ..EpochCommit::default() }).expect("committed");
    }
    drop(committer);
    restore("from the changelog", spec(&name, second.path()));
    restore("from a local tree ", spec(&name, second.path()));
}
