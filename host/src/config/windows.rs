//! `window_aggregate`: its windows, when their results are given, and what does not fit together.

use crate::config::decode::{Fields, duration, text};
use crate::config::fault::{Fault, suggest};
use crate::config::operations::aggregation;
use crate::config::spec::{CalendarUnit, Emit, OutputMode, Place, Placed, WindowAggregateSpec, WindowKind};
use crate::config::yaml::{Node, NodeValue};
use crate::limits::MAX_FUTURE;
use chrono_tz::Tz;
use std::time::Duration;

/// Panes that one window may have.
const PANES_MAX: u64 = 100_000;
/// Windows over one row of a pipeline that gives results before they are final: each row changes all of them.
const CHANGED_WINDOWS_MAX: u64 = 100;
const TYPES: [&str; 6] = ["tumbling", "hopping", "session", "cumulative", "count", "global"];

/// `window_aggregate`.
pub fn window_aggregate(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Option<WindowAggregateSpec> {
    let window = fields.need("window", faults);
    let keys = fields.texts("groupByKeys", faults);
    let emit = emit(fields, faults);
    let output = output(fields, &emit, faults);
    let ttl = fields.duration_opt("ttl", faults);
    let place = fields.place();
    let aggregations = fields.list("aggregations", faults);
    if aggregations.is_empty() {
        faults.push(Fault::new(place, "window_aggregate needs `aggregations`: a list of reducer and outputColumn"));
    }
    let aggregations: Vec<_> = aggregations.into_iter().filter_map(|n| aggregation(n, faults)).collect();
    let window = window?;
    let place = window.place;
    let mut window = Fields::new(window, "window", faults);
    let kind = kind(&mut window, faults);
    // Event time opens and closes none of these.
    let is_timeless = kind.as_ref().is_some_and(|k| matches!(k.value, WindowKind::Global | WindowKind::Count { .. }));
    let offset = match kind.as_ref().map(|k| k.value) {
        Some(WindowKind::Session { .. } | WindowKind::Global | WindowKind::Count { .. }) => Duration::ZERO,
        _ => window.duration_opt("offset", faults).map_or(Duration::ZERO, |d| d.value),
    };
    let processing_time = time(&mut window, faults);
    let mut timestamp_column = None;
    let (mut watermark, mut allowed_lateness, mut max_future) = (Some(Duration::ZERO), Duration::ZERO, MAX_FUTURE);
    if processing_time {
        no_event_time(&mut window, faults);
    } else {
        timestamp_column = window.text("timestampColumn", faults);
        max_future = window.duration_opt("maxFuture", faults).map_or(MAX_FUTURE, |d| d.value);
        watermark = match is_timeless {
            true => Some(window.duration_opt("watermark", faults).map_or(Duration::ZERO, |d| d.value)),
            false => window.duration("watermark", faults).map(|d| d.value),
        };
        if !is_timeless {
            allowed_lateness = window.duration_opt("allowedLateness", faults).map_or(Duration::ZERO, |d| d.value);
        }
    }
    if let Some(node) = window.take("ttl") {
        faults.push(Fault::new(node.place, "`ttl` stands beside `window`, not in it"));
    }
    window.finish(faults);
    let kind = Placed { place, value: kind?.value };
    fits(&kind, &emit, &output, keys.is_empty(), faults);
    ends(&kind.value, place, ttl.as_ref(), keys.is_empty(), faults);
    let watermark = watermark?;
    if timestamp_column.is_none() && !processing_time {
        return None;
    }
    Some(WindowAggregateSpec {
        kind,
        processing_time,
        timestamp_column,
        offset,
        watermark,
        max_future,
        allowed_lateness,
        ttl: ttl.map(|t| t.value),
        emit,
        output,
        keys,
        aggregations,
    })
}

/// `emit: final | onUpdate | {early: DURATION}`.
fn emit(fields: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Placed<Emit> {
    let what = "`emit` is final, onUpdate, or { early: 10.seconds }";
    let place = fields.place();
    let Some(node) = fields.take("emit") else { return Placed { value: Emit::Final, place } };
    let place = node.place;
    let value = match node.value {
        NodeValue::Str(name) if name == "final" => Emit::Final,
        NodeValue::Str(name) if name == "onUpdate" => Emit::OnUpdate,
        NodeValue::Map(members) => {
            let mut inner = Fields::new(Node { value: NodeValue::Map(members), place }, "emit", faults);
            let early = inner.duration("early", faults);
            inner.finish(faults);
            match early {
                Some(every) if every.value.is_zero() => {
                    faults.push(Fault::new(every.place, "`early` must be longer than 0; `emit: onUpdate` gives each change"));
                    Emit::OnUpdate
                }
                Some(every) => Emit::Early(every.value),
                None => Emit::OnUpdate,
            }
        }
        NodeValue::Str(name) => {
            let near = suggest(&name, ["final", "onUpdate", "early"]);
            faults.push(Fault::new(place, format!("{what}, not `{name}`{near}")));
            Emit::Final
        }
        other => {
            faults.push(Fault::new(place, format!("{what}, not {}", other.kind())));
            Emit::Final
        }
    };
    Placed { value, place }
}

/// `output: append | upsert`; upsert where results are given before they are final.
fn output(fields: &mut Fields<'_>, emit: &Placed<Emit>, faults: &mut Vec<Fault>) -> Placed<OutputMode> {
    let default = if emit.value == Emit::Final { OutputMode::Append } else { OutputMode::Upsert };
    let Some(name) = fields.text_opt("output", faults) else { return Placed { value: default, place: emit.place } };
    let value = match name.value.as_str() {
        "append" => OutputMode::Append,
        "upsert" => OutputMode::Upsert,
        other => {
            let near = suggest(other, ["append", "upsert"]);
            faults.push(Fault::new(name.place, format!("`output` is append or upsert, not `{other}`{near}")));
            default
        }
    };
    Placed { value, place: name.place }
}

/// `time: event | processing`.
fn time(window: &mut Fields<'_>, faults: &mut Vec<Fault>) -> bool {
    let Some(name) = window.text_opt("time", faults) else { return false };
    if !["event", "processing"].contains(&name.value.as_str()) {
        let near = suggest(&name.value, ["event", "processing"]);
        faults.push(Fault::new(name.place, format!("`time` is event or processing, not `{}`{near}", name.value)));
    }
    name.value == "processing"
}

/// Over processing time nothing is out of order or late.
fn no_event_time(window: &mut Fields<'_>, faults: &mut Vec<Fault>) {
    for name in ["timestampColumn", "watermark", "allowedLateness", "maxFuture"] {
        if let Some(node) = window.take(name) {
            let text = format!("`{name}` is of event time; with `time: processing` no row is late: leave it out");
            faults.push(Fault::new(node.place, text));
        }
    }
}

/// The kind of window, by `type` or by what is there.
fn kind(window: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Option<Placed<WindowKind>> {
    let place = window.place();
    let name = window.text_opt("type", faults);
    let value = match name.as_ref().map(|n| n.value.as_str()) {
        None => fixed(window, true, faults)?,
        Some("tumbling") => fixed(window, false, faults)?,
        Some("hopping") => {
            let kind = fixed(window, true, faults)?;
            if matches!(kind, WindowKind::Hopping { duration, slide } if duration == slide) {
                // Also where it is written as long as the window: that is tumbling, and right.
                if !window.has_taken("slideDuration") {
                    faults.push(Fault::new(place, "a hopping window needs `slideDuration`; without it, it is a tumbling one"));
                }
            }
            kind
        }
        Some("session") => WindowKind::Session { gap: positive(window.duration("gap", faults)?, "gap", faults)? },
        Some("cumulative") => cumulative(window, faults)?,
        Some("count") => count(window, faults)?,
        Some("global") => WindowKind::Global,
        Some(other) => {
            let near = suggest(other, TYPES);
            let place = name.as_ref().map_or(place, |n| n.place);
            faults.push(Fault::new(place, format!("unknown type of window `{other}`{near}; there are {}", TYPES.join(", "))));
            return None;
        }
    };
    Some(Placed { value, place })
}

/// A duration of at least a millisecond.
pub(super) fn positive(written: Placed<Duration>, name: &str, faults: &mut Vec<Fault>) -> Option<Duration> {
    if written.value.as_millis() == 0 {
        faults.push(Fault::new(written.place, format!("`{name}` must be longer than 0")));
        return None;
    }
    Some(written.value)
}

/// Tumbling and hopping windows, by the clocks of a time zone where there is one.
fn fixed(window: &mut Fields<'_>, may_slide: bool, faults: &mut Vec<Fault>) -> Option<WindowKind> {
    let zone = window.text_opt("timezone", faults);
    let node = window.need("duration", faults);
    // Read before a fault of the duration ends this, so that both are told.
    let slide = if may_slide { window.duration_opt("slideDuration", faults) } else { None };
    let place = node.as_ref().map(|n| n.place)?;
    let written = text(node?, "duration", faults)?;
    let units = calendar_units(&written.value);
    let months = matches!(units, Some((CalendarUnit::Month, _)));
    if zone.is_some() || months {
        return calendar(zone, units, place, slide.as_ref(), faults);
    }
    let length = duration(Node { value: NodeValue::Str(written.value), place }, "duration", faults)?;
    check_fixed(&length, slide.as_ref(), faults);
    let slide = slide.map_or(length.value, |s| s.value);
    Some(WindowKind::Hopping { duration: length.value, slide })
}

fn calendar(
    zone: Option<Placed<String>>,
    units: Option<(CalendarUnit, u32)>,
    place: Place,
    slide: Option<&Placed<Duration>>,
    faults: &mut Vec<Fault>,
) -> Option<WindowKind> {
    let mut fault = |place: Place, text: String| faults.push(Fault::new(place, text));
    if let Some(slide) = slide {
        fault(slide.place, "windows by a time zone's calendar follow each other; leave `slideDuration` out".into());
    }
    let zone = match zone {
        None => Tz::UTC,
        Some(name) => match name.value.parse() {
            Ok(zone) => zone,
            Err(_) => {
                let near = suggest(&name.value, chrono_tz::TZ_VARIANTS.iter().map(|t| t.name()));
                let text = format!("unknown time zone `{}`{near}; write for example Europe/Berlin or UTC", name.value);
                fault(name.place, text);
                return None;
            }
        },
    };
    let Some((unit, count)) = units else {
        let text = "with `timezone` a window is whole days, weeks or months: `1.day`, `1.week`, `3.months`; shorter ones need no time zone";
        fault(place, text.into());
        return None;
    };
    Some(WindowKind::Calendar { unit, count, zone })
}

/// `1.day`, `2w`, `3 months`, `1.year`; none for what is no such thing.
fn calendar_units(text: &str) -> Option<(CalendarUnit, u32)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let count: u32 = text[..digits].parse().ok()?;
    let (unit, times) = match text[digits..].trim_start_matches(['.', ' ', '_']).to_ascii_lowercase().as_str() {
        "d" | "day" | "days" => (CalendarUnit::Day, 1),
        "w" | "week" | "weeks" => (CalendarUnit::Week, 1),
        "month" | "months" => (CalendarUnit::Month, 1),
        "year" | "years" => (CalendarUnit::Month, 12),
        _ => return None,
    };
    // Beyond a century there is no use, and no date far enough to count on.
    count.checked_mul(times).filter(|c| (1..=36_525).contains(c)).map(|c| (unit, c))
}

fn check_fixed(duration: &Placed<Duration>, slide: Option<&Placed<Duration>>, faults: &mut Vec<Fault>) {
    let millis = |d: &Placed<Duration>| d.value.as_millis() as u64;
    if millis(duration) == 0 {
        faults.push(Fault::new(duration.place, "`duration` must be longer than 0"));
        return;
    }
    let Some(slide) = slide else { return };
    let mut fault = |place: Place, text: String| faults.push(Fault::new(place, text));
    if millis(slide) == 0 {
        fault(slide.place, "`slideDuration` must be longer than 0".into());
    } else if slide.value > duration.value {
        fault(slide.place, "`slideDuration` is longer than `duration`: rows between two windows would count nowhere".into());
    } else if millis(duration) / gcd(millis(duration), millis(slide)) > PANES_MAX {
        fault(
            slide.place,
            format!("a window would have more than {PANES_MAX} panes; make `slideDuration` longer, or a divisor of `duration`"),
        );
    }
}

fn cumulative(window: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Option<WindowKind> {
    let (size, step) = (window.duration("size", faults), window.duration("step", faults));
    let (size, step) = (size?, step?);
    let place = step.place;
    let (size, step) = (positive(size, "size", faults)?, positive(step, "step", faults)?);
    if size.as_millis() % step.as_millis() != 0 {
        faults.push(Fault::new(place, "`step` must divide `size`, so that the last result of a window is the whole of it"));
        return None;
    }
    if size.as_millis() / step.as_millis() > u128::from(PANES_MAX) {
        faults.push(Fault::new(place, format!("a window would have more than {PANES_MAX} panes; make `step` longer")));
        return None;
    }
    Some(WindowKind::Cumulative { size, step })
}

fn count(window: &mut Fields<'_>, faults: &mut Vec<Fault>) -> Option<WindowKind> {
    let place = window.place();
    let (every, slide) = (window.count_opt("every", faults), window.count_opt("slide", faults));
    let mut fault = |text: String| faults.push(Fault::new(place, text));
    let Some(every) = every else {
        fault("a count window needs `every`: how many rows of a key it has".into());
        return None;
    };
    let slide = slide.unwrap_or(every);
    if every == 0 || slide == 0 || slide > every || every > i64::MAX as u64 / 4 {
        fault("`every` is from 1, and `slide` from 1 to `every`: how many rows are between two results".into());
        return None;
    }
    if every / gcd(every, slide) > PANES_MAX {
        fault(format!("a window would have more than {PANES_MAX} panes; make `slide` longer, or a divisor of `every`"));
        return None;
    }
    Some(WindowKind::Count { every, slide })
}

/// What is right by itself and wrong together.
fn fits(kind: &Placed<WindowKind>, emit: &Placed<Emit>, output: &Placed<OutputMode>, no_keys: bool, faults: &mut Vec<Fault>) {
    let mut fault = |place: Place, text: String| faults.push(Fault::new(place, text));
    let windows = match kind.value {
        WindowKind::Hopping { duration, slide } if !slide.is_zero() => duration.as_millis() / slide.as_millis().max(1),
        WindowKind::Cumulative { size, step } => size.as_millis() / step.as_millis(),
        _ => 1,
    };
    if emit.value != Emit::Final && windows > u128::from(CHANGED_WINDOWS_MAX) {
        let text = format!(
            "each row would change {windows} windows, more than {CHANGED_WINDOWS_MAX}; give only final results, or fewer windows a row"
        );
        fault(emit.place, text);
    }
    if matches!(kind.value, WindowKind::Count { .. }) {
        if emit.value != Emit::Final {
            fault(emit.place, "a count window has a result when it is full; leave `emit` out".into());
        } else if output.value == OutputMode::Upsert {
            fault(
                output.place,
                "count windows of a key may begin at the same time, so nothing tells them apart; leave `output` out".into(),
            );
        }
    }
    if kind.value == WindowKind::Global {
        if emit.value == Emit::Final {
            let text = "a global window never closes, so it has no final result: give it `emit: onUpdate`, or `emit: { early: 10.seconds }`";
            fault(kind.place, text.into());
        }
        if output.value == OutputMode::Upsert && no_keys {
            let text =
                "a global window without `groupByKeys` has no key to be upserted by: give it `output: append`, or group keys";
            fault(output.place, text.into());
        }
    }
}

/// State must not grow without end: it ends with the window, or with the idle time of its key.
fn ends(kind: &WindowKind, place: Place, ttl: Option<&Placed<Duration>>, no_keys: bool, faults: &mut Vec<Fault>) {
    let endless = match kind {
        WindowKind::Global => Some("global"),
        WindowKind::Count { .. } => Some("count"),
        WindowKind::Hopping { .. } | WindowKind::Cumulative { .. } | WindowKind::Calendar { .. } | WindowKind::Session { .. } => {
            None
        }
    };
    match (endless, ttl) {
        (Some(_), Some(ttl)) => drop(positive(ttl.clone(), "ttl", faults)),
        (Some(name), None) if !no_keys => {
            let text = format!(
                "the state of a {name} window grows with each new key and never ends: add `ttl: 7.days` beside `window`, after which an idle \
                 key is forgotten, or use a window that closes, such as `{{ type: session, gap: 7.days }}`"
            );
            faults.push(Fault::new(place, text));
        }
        (None, Some(ttl)) => {
            let text = "`ttl` is for global and count windows, which never close; the state of this window ends when it closes: leave `ttl` \
                        out, or write `allowedLateness` to keep the window open longer";
            faults.push(Fault::new(ttl.place, text));
        }
        (Some(_) | None, None) => {}
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
