//! What a memory budget of the state table costs: CPU per million updates, unlimited, with half of the state in memory, and with a tenth.
//!
//! Measured: epochs that read the state of each of their keys, as a merge does, and set it anew; keys uniform and Zipf (exponent 1) over a number
//! of keys that all exist by then. CPU of all threads, the store's own among them; the least memory of the process is that of the table. Not measured:
//! decoding, merging, the changelog.
//!
//! `cargo run --release --example state_memory [MILLION_UPDATES] [MILLION_KEYS] [KEYS_OF_AN_EPOCH]`

use kindling::limits::StateLimit;
use kindling::size::format_size;
use kindling::state::bulk::Bulk;
use kindling::state::store::{PaneId, Place, Store, Update};
use kindling::time::cpu_seconds;
use std::error::Error;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PANE: PaneId = PaneId { start: 0, from: 0 };
/// Bytes of an encoded key and of a partial state: a user's id, a count and a sum.
const KEY: usize = 24;
const STATE: usize = 18;

/// A generator with one number as its state (PCG's multiplier).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 20
    }

    /// A number below `n`; with `zipf` the number `i` about as often as 1 in `i`.
    fn key(&mut self, n: u64, zipf: bool) -> u64 {
        let random = self.next();
        if !zipf {
            return random % n;
        }
        let share = (random % (1 << 40)) as f64 / (1u64 << 40) as f64;
        ((n as f64).powf(share) as u64 - 1).min(n - 1)
    }
}

fn key(number: u64) -> Box<[u8]> {
    let mut key = vec![b'u'; KEY];
    // Keys are spread, as encoded user ids are.
    key[KEY - 8..].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key.into()
}

fn updates(keys: impl Iterator<Item = u64>) -> Vec<Update> {
    keys.map(|k| Update::new(PANE, &key(k), &[k as u8; STATE])).collect()
}

struct Case {
    updates: u64,
    keys: u64,
    epoch: u64,
    zipf: bool,
    budget: Option<usize>,
}

/// Gives the bytes of memory that the table takes.
fn run(case: &Case) -> Result<usize, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let limit = case.budget.map(|memory_bytes| StateLimit { memory_bytes, spill: Some(dir.path().join("spill")) });
    let mut store = Store::default().within(limit.unwrap_or_default());
    for from in (0..case.keys).step_by(case.epoch as usize) {
        store.apply(updates(from..(from + case.epoch).min(case.keys)), &[], &mut Bulk::default())?;
    }
    let mut random = Random(42);
    let (before, cpu, started) = (store.sizes(), cpu_seconds(), Instant::now());
    let mut done = 0;
    while done < case.updates {
        let mut keys: Vec<u64> = (0..case.epoch).map(|_| random.key(case.keys, case.zipf)).collect();
        keys.sort_unstable();
        keys.dedup();
        done += keys.len() as u64;
        let updates = updates(keys.into_iter());
        store.fetch(updates.iter().map(|u| (u.pane, u.key())))?;
        let mut places: Vec<Option<Place>> = Vec::with_capacity(updates.len());
        let slots = updates.iter().map(|u| (u.pane, store.hash(u.key()), u.key()));
        store.find_all(slots, |found| places.push(found.and_then(|(_, place)| place)))?;
        store.apply(
            updates.into_iter().zip(places).map(|(update, place)| update.at(place)).collect(),
            &[],
            &mut Bulk::default(),
        )?;
    }
    let sizes = store.sizes();
    let million = done as f64 / 1e6;
    println!(
        "{:8} {:>10} {:6.2} CPU s and {:6.2} s per million updates, {:6.3} reads and {:6.3} writes an update; {} in memory, {} keys of {} on disk, process {}",
        if case.zipf { "zipf" } else { "uniform" },
        case.budget.map_or("unlimited".into(), format_size),
        (cpu_seconds() - cpu) / million,
        started.elapsed().as_secs_f64() / million,
        (sizes.disk_reads - before.disk_reads) as f64 / done as f64,
        (sizes.disk_writes - before.disk_writes) as f64 / done as f64,
        format_size(sizes.memory_bytes),
        sizes.disk_slots,
        sizes.slots,
        format_size(resident()),
    );
    Ok(sizes.memory_bytes)
}

/// Bytes of memory of this process, now.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4_096
}

fn main() -> Result<(), Box<dyn Error>> {
    let number = |n: usize, default: f64| std::env::args().nth(n).map_or(Ok(default), |a| a.parse::<f64>());
    let (million, million_keys, epoch) = (number(1, 2.0)?, number(2, 2.0)?, number(3, 10_000.0)?);
    let (updates, keys, epoch) = ((million * 1e6) as u64, (million_keys * 1e6) as u64, epoch as u64);
    println!("{updates} updates of {keys} keys, {KEY} + {STATE} bytes, epochs of {epoch}");
    for zipf in [false, true] {
        let case = Case { updates, keys, epoch, zipf, budget: None };
        let whole = run(&case)?;
        for share in [2, 10] {
            run(&Case { budget: Some(whole / share), ..case })?;
        }
    }
    Ok(())
}
