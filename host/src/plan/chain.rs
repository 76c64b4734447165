//! Operations with state behind each other: what the later one is given, and what can't stand there.

use super::ResultBound;
use super::aggregate::{VERSIONS, WINDOW_END};
use super::expression::Planner;
use super::stage::{Stage, StageColumn};
use crate::config::spec::{Emit, Operation, Order, OutputMode, Placed, WindowAggregateSpec, WindowKind};
use crate::limits::ROW_COLUMN;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::Result;
use std::sync::Arc;
use std::time::Duration;

/// Name of the scan of an operation's results.
const RESULT: &str = "result";

/// An operation with state that another stands behind.
#[derive(Clone, Copy)]
pub(super) enum Before<'a> {
    Window(&'a WindowAggregateSpec),
    Process,
}

impl Before<'_> {
    /// Whether its results are of windows that end by the watermark.
    pub fn has_windows_of_time(self) -> bool {
        matches!(self, Self::Window(w) if !matches!(w.kind.value, WindowKind::Count { .. } | WindowKind::Global))
    }
}

/// Results as the steps over them see them.
pub(super) fn scan_results(result: &SchemaRef, with_versions: bool) -> Result<Stage> {
    let column = |f: &Arc<Field>| StageColumn { name: f.name().clone(), origin: None, in_output: true };
    let carried = if with_versions { vec![VERSIONS.to_owned()] } else { Vec::new() };
    Stage::new(RESULT, Arc::clone(result), result.fields().iter().map(column).collect(), carried)
}

/// Results as the input of the next operation with state.
pub(super) fn scan_rows(result: &SchemaRef) -> Result<Stage> {
    let column = |f: &Arc<Field>| StageColumn { name: f.name().clone(), origin: Some(f.name().clone()), in_output: true };
    let columns = result.fields().iter().map(column).collect();
    let mut fields: Vec<Field> = result.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new(ROW_COLUMN, DataType::UInt32, false));
    Stage::new(RESULT, Arc::new(Schema::new(fields)), columns, vec![ROW_COLUMN.to_owned()])
}

/// The columns of results that the next operation reads.
pub(super) fn read_columns(result: &Schema, read: &Schema) -> Result<Vec<usize>> {
    let fields = read.fields().iter().filter(|f| f.name() != ROW_COLUMN);
    Ok(fields.map(|f| result.index_of(f.name())).collect::<std::result::Result<_, _>>()?)
}

/// Whether the event time is the end of the window before. What a window gives happened before its end: by a millisecond at least, so that
/// the hour that ends at midnight is of the day that ends there.
pub(super) fn is_window_end(stage: &Stage, time: &Placed<String>) -> bool {
    let origin = stage.columns.iter().find(|c| c.name == time.value).and_then(|c| c.origin.as_deref());
    stage.of_windows && origin == Some(WINDOW_END)
}

/// Faults what can't stand before another operation with state.
pub(super) fn check_before(planner: &mut Planner<'_>, before: Before<'_>) {
    let Before::Window(window) = before else { return };
    if window.emit.value != Emit::Final {
        planner.fault(
            window.emit.place,
            "an operation with state stands behind this window_aggregate and takes each result once: leave `emit` out here, and write it there",
        );
    } else if window.output.value == OutputMode::Upsert {
        let text = "the results go on to an operation with state, not to a sink: leave `output` out here, and write it there";
        planner.fault(window.output.place, text);
    }
    if window.kind.value == WindowKind::Global {
        planner.fault(
            window.kind.place,
            "a global window has no end, so no result of it would reach the operation with state behind it; give it a duration",
        );
    }
}

/// Faults what can't stand behind another operation with state, and says how late its rows can be.
pub(super) fn check_behind(planner: &mut Planner<'_>, before: Before<'_>, stage: &Stage, operation: &Operation) -> ResultBound {
    let time = match operation {
        Operation::Process(process) => {
            if process.order == Order::Arrival {
                planner.fault(
                    process.process.place,
                    "results come in an order that depends on where epochs are cut: a process behind another operation with state needs `order: eventTime`",
                );
            }
            Some(&process.timestamp_column)
        }
        Operation::WindowAggregate(window) => {
            if matches!(window.kind.value, WindowKind::Count { .. }) {
                planner.fault(
                    window.kind.place,
                    "results come in an order that depends on where epochs are cut, and so would what a count window behind another operation with \
                     state holds; use windows of time",
                );
            }
            window.timestamp_column.as_ref()
        }
        _ => None,
    };
    let (Before::Window(window), Some(time)) = (before, time) else { return ResultBound::Behind(Duration::ZERO) };
    match window.kind.value {
        WindowKind::Count { .. } | WindowKind::Global => ResultBound::Behind(Duration::ZERO),
        _ if is_window_end(stage, time) => ResultBound::Behind(window.allowed_lateness),
        WindowKind::Session { .. } => {
            let text = format!(
                "`{}` of a session can be any time before its end, so nothing says when all rows before a time are there; use \
                 `timestampColumn: {WINDOW_END}`",
                time.value
            );
            planner.fault(time.place, text);
            ResultBound::Behind(Duration::ZERO)
        }
        _ if window.processing_time && !is_own_time(stage, time) => {
            let text = format!(
                "the windows before are of processing time, and `{}` is not: use window_start or {WINDOW_END} as `timestampColumn`",
                time.value
            );
            planner.fault(time.place, text);
            ResultBound::OpenWindow
        }
        _ => ResultBound::OpenWindow,
    }
}

fn is_own_time(stage: &Stage, time: &Placed<String>) -> bool {
    let origin = stage.columns.iter().find(|c| c.name == time.value).and_then(|c| c.origin.as_deref());
    [Some(super::aggregate::WINDOW_START), Some(WINDOW_END)].contains(&origin)
}
