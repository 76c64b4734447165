//! What a window of 24 hours that slides each second costs over 10,000 keys, against a tumbling one of a second.
//!
//! Measured: CPU of closing epochs (merge, finish, apply to the table), a slide an epoch, in steady state. Not measured: reading, decoding,
//! folding rows, JSON, commits: they are the same for both. "Panes one by one" is what the same window costs without blocks: it is counted
//! (slots in the window), times the tumbling window's cost of a slot.

use arrow::array::{ArrayRef, Int64Array, StringArray};
use kindling::config::{LoadOptions, load_str};
use kindling::operator::FaultPolicy;
use kindling::operator::blocks::Blocks;
use kindling::operator::close::{Closer, Closing};
use kindling::operator::emission::Emission;
use kindling::operator::fold::Partial;
use kindling::operator::isolate::Budget;
use kindling::plan;
use kindling::plugin::PluginSet;
use kindling::state::bulk::Bulk;
use kindling::state::store::{PaneId, Store};
use kindling::time::cpu_seconds;
use std::error::Error;
use std::sync::Arc;

const KEYS: i64 = 10_000;
const SECOND: i64 = 1_000;
const DAY: i64 = 86_400;
/// Slides that are measured.
const SLIDES: i64 = 120;

struct Case {
    name: &'static str,
    window: &'static str,
    /// Windows over a pane, which is a second.
    windows: i64,
    /// Each key has a row in every so many panes.
    every: i64,
}

const CASES: [Case; 4] = [
    Case { name: "tumbling, each key each second", window: "duration: 1s", windows: 1, every: 1 },
    Case { name: "24 h by 1 s, each key each 10 minutes", window: "duration: 1d, slideDuration: 1s", windows: DAY, every: 600 },
    Case { name: "24 h by 1 s, each key each 4 minutes", window: "duration: 1d, slideDuration: 1s", windows: DAY, every: 240 },
    Case { name: "5 min by 1 s, each key each second", window: "duration: 5m, slideDuration: 1s", windows: 300, every: 1 },
];

/// Partial states of the pane at `second`: keys in turn.
fn partial(second: i64, windows: i64, every: i64) -> Partial {
    let keys: Vec<i64> = (0..KEYS).filter(|k| (k + second).rem_euclid(every) == 0).collect();
    let pane = PaneId { start: second * SECOND, from: (second - windows + 1) * SECOND };
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(keys.iter().map(|k| format!("user-{k}"))));
    let ones: ArrayRef = Arc::new(Int64Array::from(vec![1; keys.len()]));
    Partial { panes: vec![pane; keys.len()], keys: vec![names], states: vec![Arc::clone(&ones), ones] }
}

fn run(case: &Case) -> Result<(), Box<dyn Error>> {
    let pipeline = format!(
        "source: {{ name: stdin }}
pipeline:
  - operation: parse
    parse:
      parameters:
        - {{ jsonPath: ts, outputType: milliToTimestamp, outputCol: ts }}
        - {{ jsonPath: user, outputType: string, outputCol: user }}
        - {{ jsonPath: n, outputType: long, outputCol: n }}
  - operation: window_aggregate
    window: {{ timestampColumn: ts, {}, watermark: 0s }}
    groupByKeys: [user]
    aggregations:
      - {{ reducer: count, outputColumn: count }}
      - {{ reducer: max, inputColumns: [n], outputColumn: most }}
",
        case.window
    );
    let pipeline = load_str(&pipeline, "sliding.yaml", &LoadOptions::default())?;
    let plan = plan::build(&pipeline, &PluginSet::empty())?;
    let closer = Closer::new(plan.window.as_ref().ok_or("no window")?, plan.input())?;
    let (mut store, mut blocks, emission) = (Store::default(), Blocks::default(), Emission::default());
    let mut close = |second: i64, before: i64, now: i64| -> Result<usize, Box<dyn Error>> {
        let partial = partial(second, case.windows, case.every);
        let closing = Closing {
            store: &store,
            partials: &[&partial],
            before,
            now,
            reached: now,
            emission: &emission,
            is_firing: false,
            policy: FaultPolicy::Fail,
            results_max: usize::MAX,
        };
        let closed = closer.close(&closing, &mut blocks, &mut Budget::for_rows(0))?;
        let rows = closed.results.iter().map(|b| b.num_rows()).sum();
        store.apply(closed.updates, &closed.removed, &mut Bulk::default())?;
        Ok(rows)
    };
    // A full window's panes without closing any, then one close that makes the blocks.
    let full = case.windows;
    for second in 0..full {
        close(second, i64::MIN, -DAY * SECOND)?;
    }
    let before = (full - 1) * SECOND;
    let begun = cpu_seconds();
    close(full, before, full * SECOND)?;
    let first = cpu_seconds() - begun;
    let begun = cpu_seconds();
    let mut results = 0;
    for slide in 1..=SLIDES {
        results += close(full + slide, (full + slide - 1) * SECOND, (full + slide) * SECOND)?;
    }
    let cpu = (cpu_seconds() - begun) / SLIDES as f64;
    println!(
        "{:42} {:>6} results a slide, {:8.2} ms CPU, {:6.2} us a result; first close {:.2} s; {} slots, {} in blocks",
        case.name,
        results / SLIDES as usize,
        cpu * 1e3,
        cpu * 1e6 * SLIDES as f64 / results.max(1) as f64,
        first,
        store.slots(),
        blocks.entries()
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    CASES.iter().try_for_each(run)
}
