//! A task's rows for a keyed process: kept as they are, with the watermark before each.

use super::EpochTask;
use crate::config::spec::Order;
use crate::element::RawBatch;
use crate::operator::columns::row_numbers;
use crate::operator::epoch::{KeyedRows, LateRow, RejectedRow, RowError};
use crate::operator::watermark::EventClock;
use crate::plan::ProcessPlan;
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMillisecondType;
use datafusion_common::Result;
use std::sync::Arc;

/// What keeping rows needs to know of the plan.
pub(super) struct ProcessTask {
    pub(super) clock: EventClock,
    event_time: usize,
    is_decoded: bool,
    order: Order,
}

impl ProcessTask {
    pub(super) fn new(plan: &ProcessPlan) -> Self {
        Self {
            clock: EventClock::of_process(plan),
            event_time: plan.event_time,
            is_decoded: plan.decoded_event_time.is_some(),
            order: plan.order,
        }
    }
}

impl EpochTask<'_> {
    /// Keeps the rows of a batch. Those without a possible event time are rejected; where rows are given in the order of event time, late ones
    /// are set aside.
    pub(super) fn keep(
        &mut self,
        process: &ProcessTask,
        batch: RecordBatch,
        number: usize,
        raw: &RawBatch,
        before: Option<&(usize, Vec<i64>)>,
    ) -> Result<()> {
        let rows = batch.num_rows();
        let times = batch.column(process.event_time).as_primitive::<TimestampMillisecondType>();
        let numbers = row_numbers(&batch);
        let mut watermarks = Vec::with_capacity(rows);
        let mut keep = vec![true; rows];
        let moves = !process.is_decoded && !self.is_behind;
        for i in 0..rows {
            let (row, time) = (numbers[i] as usize, times.value(i));
            let judged = (!times.is_null(i)).then_some(time);
            let watermark = match self.watermark_before(process.clock, raw, row, judged, before, moves) {
                Ok(watermark) => watermark,
                Err(reason) => {
                    let error = Arc::new(RowError { reason, guest: None });
                    self.out.rejects.push(RejectedRow { batch: number, row, error });
                    keep[i] = false;
                    continue;
                }
            };
            let judged = watermark.max(self.out.start.closed);
            if time < judged {
                self.out.lateness.behind.behind(judged - time);
                if process.order == Order::EventTime {
                    let late_by = judged.saturating_sub(time);
                    // Of the rows that a flat map made of a record, one takes it to the late rows.
                    if self.out.late.last().is_none_or(|l| (l.batch, l.row) != (number, row)) {
                        self.out.late.push(LateRow { batch: number, row, event_time: time, watermark: judged, late_by });
                    }
                    keep[i] = false;
                    continue;
                }
            }
            watermarks.push(watermark);
        }
        self.out.lateness.behind.saw(rows);
        let rows = if watermarks.len() == rows { batch } else { filter_record_batch(&batch, &BooleanArray::from(keep))? };
        if rows.num_rows() > 0 {
            self.out.keyed.push(KeyedRows { rows, watermarks, partition: raw.partition, batch: number });
        }
        Ok(())
    }
}
