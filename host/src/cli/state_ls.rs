//! `kindling state ls`: how much each operator of a job keeps, by pane.

use super::state::{LsArgs, time};
use super::table::table;
use crate::config::spec::TimestampFormat;
use crate::error::{Error, Kind};
use crate::operator::assigner::Assigner;
use crate::operator::assigner::idle::LIVE;
use crate::runtime::restoring::grouped;
use crate::state::store::{PaneId, split};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Panes that a table shows; the rest is summed up.
const PANES_SHOWN: usize = 40;

/// Keys and bytes of a pane.
#[derive(Default)]
struct Size {
    slots: u64,
    bytes: u64,
}

impl Size {
    fn add(&mut self, bytes: u64) {
        self.slots += 1;
        self.bytes += bytes;
    }
}

/// Rows of a process that wait for their turn: slots are keys by event time.
#[derive(Default)]
struct Waiting {
    size: Size,
    /// The least and the greatest event time.
    times: Option<(i64, i64)>,
}

impl Waiting {
    fn add(&mut self, time: i64, bytes: u64) {
        self.size.add(bytes);
        let (from, to) = self.times.unwrap_or((time, time));
        self.times = Some((from.min(time), to.max(time)));
    }
}

/// `kindling state ls`.
///
/// # Errors
/// What is wrong, and who must act.
pub fn ls(args: &LsArgs) -> Result<(), Error> {
    let (pipeline, plan) = args.stored.plan()?;
    let mut stored = args.stored.open(&pipeline, &plan, None)?;
    let mut panes: BTreeMap<(i64, i64), Size> = BTreeMap::new();
    let mut waiting = Waiting::default();
    stored.entries(&mut |entry| {
        let (pane, key) = split(&entry.key).map_err(|e| Error::new(Kind::Data, e.to_string()))?;
        let bytes = (key.len() + entry.value.as_ref().map_or(0, Vec::len)) as u64;
        if plan.process.is_some() && pane != LIVE {
            waiting.add(pane.start, bytes);
        } else {
            panes.entry((pane.start, pane.from)).or_default().add(bytes);
        }
        Ok(())
    })?;
    let meta = &stored.meta;
    let assigner = plan.window.as_ref().map(|w| w.assigner());
    let end = |start: i64, from: i64| assigner.as_ref().map_or(start, |a| a.pane_bounds(PaneId { start, from }).1);
    let (slots, bytes) = panes.values().fold((0, 0), |(s, b), size| (s + size.slots, b + size.bytes));
    let bytes = bytes + waiting.size.bytes;
    let job = format!("{}/{}", pipeline.team, pipeline.name);
    let operators = plan.operators();
    let shown = |ms: i64| if pipeline.timestamp_format == TimestampFormat::Millis { json!(ms) } else { json!(time(ms)) };
    // Of count windows a pane is a run of row numbers; what all panes of a key share has no bounds, nor has a global window.
    let is_counted = matches!(assigner, Some(Assigner::Count(_)));
    let bound = |at: i64| match at {
        i64::MIN | i64::MAX => String::new(),
        row if is_counted => format!("row {row}"),
        ms => time(ms),
    };
    let bound_json = |at: i64| match at {
        i64::MIN | i64::MAX => Value::Null,
        row if is_counted => json!(row),
        ms => shown(ms),
    };
    if args.stored.context.json {
        let panes: Vec<Value> = panes
            .iter()
            .map(|((start, from), s)| json!({ "start": bound_json(*start), "end": bound_json(end(*start, *from)), "from": bound_json(*from), "keys": s.slots, "bytes": s.bytes }))
            .collect();
        let waiting =
            waiting.times.map(|(from, to)| json!({ "slots": waiting.size.slots, "bytes": waiting.size.bytes, "from": shown(from), "to": shown(to) }));
        let operators: Vec<Value> = operators
            .keys()
            .map(|o| json!({ "operator": o, "keys": slots, "bytes": bytes, "panes": panes, "waiting": waiting }))
            .collect();
        let watermark = if meta.closed == i64::MIN { Value::Null } else { shown(meta.closed) };
        say!(
            "{:#}",
            json!({ "job": job, "from": stored.origin, "epoch": meta.epoch, "watermark": watermark, "positions": meta.positions, "operators": operators })
        );
        return Ok(());
    }
    say!("{job} after epoch {}, watermark {}; from {}", meta.epoch, time(meta.closed), stored.origin);
    for operator in operators.keys() {
        if plan.process.is_some() {
            say!("{operator}: {} keys, {} bytes", grouped(slots), grouped(bytes));
            if let Some((from, to)) = waiting.times {
                let Size { slots, bytes } = waiting.size;
                let (slots, bytes) = (grouped(slots), grouped(bytes));
                say!(
                    "rows wait for their turn: {slots} keys by event time, from {} to {}, {bytes} bytes of it",
                    time(from),
                    time(to)
                );
            }
            continue;
        }
        say!("{operator}: {} keys in {} panes, {} bytes", grouped(slots), panes.len(), grouped(bytes));
        let mut table = table(["pane from", "to", "keys", "bytes"], 0..0);
        for ((start, from), size) in panes.iter().take(PANES_SHOWN) {
            let part = if from > start { format!(" (rows for windows from {})", time(*from)) } else { String::new() };
            table.add_row([
                format!("{}{part}", bound(*start)),
                bound(end(*start, *from)),
                grouped(size.slots),
                grouped(size.bytes),
            ]);
        }
        if !panes.is_empty() {
            say!("{table}");
        }
        if panes.len() > PANES_SHOWN {
            say!("and {} more panes; --json has all", panes.len() - PANES_SHOWN);
        }
    }
    if operators.is_empty() {
        say!("the pipeline has no operator with state");
    }
    Ok(())
}
