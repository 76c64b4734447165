//! Keyed processes: at the close of an epoch a guest is given, for each key, its state, its rows in order and the timers that fell due.
//!
//! `rows` gathers the epoch's rows by key, `kept` is what is stored of a key, `calls` cuts the work into calls and takes apart those that fail,
//! `close` goes from the state before to what changes.
//!
//! **A row's watermark** is what timers fire by before it: that of its own partition before the row, but not past that of the other partitions at
//! the start of the epoch, nor before what the job had reached. So with one partition it does not depend on where epochs are cut; with several, rows
//! of different partitions come in some order anyway. In the order of event time it is the row's own time, and nothing depends on any cut.
//!
//! **A key's life** ends when the watermark is `ttl` past the greatest event time of its rows: its timers up to then fire, then state and timers are
//! forgotten. Lives are told apart row by row, so that a key whose life ends within an epoch begins anew within it.

mod calls;
mod close;
mod kept;
mod rows;

pub use close::{ProcessClosing, Processed, SetAside};
pub use kept::{Kept, WAITING};

use crate::config::spec::Order;
use crate::operator::assigner::idle::LIVE;
use crate::operator::epoch::KeyedRows;
use crate::plan::{Plan, ProcessPlan};
use crate::state::codec::{CodecError, RowCodec};
use crate::state::store::PaneId;
use crate::state::timers::FirstTimer;
use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, SchemaRef, TimestampMillisecondType};
use std::sync::Arc;

/// Closes epochs of a keyed process.
pub struct ProcessCloser {
    pub(super) plan: ProcessPlan,
    /// Of the rows that reach the process.
    pub(super) input: SchemaRef,
    pub(super) keys: RowCodec,
    pub(super) states: RowCodec,
    pub(super) waiting: RowCodec,
    /// How long a key lives after its last row, milliseconds.
    ttl: i64,
}

impl ProcessCloser {
    /// For a plan's process; none where it has none.
    pub fn new(plan: &Plan) -> Option<Self> {
        let process = plan.process.as_ref()?;
        let input = Arc::clone(plan.input());
        let keys = process.keys.iter().map(|k| input.field(*k).data_type().clone()).collect();
        let columns = input.fields().iter().take(input.fields().len() - 1).map(|f| f.data_type().clone());
        let waiting = [DataType::Int64, DataType::Int64].into_iter().chain(columns).collect();
        Some(Self {
            keys: RowCodec::new("key", keys),
            states: kept::codec(process.signature()),
            waiting: RowCodec::new("waiting row", waiting),
            ttl: i64::try_from(process.ttl.as_millis()).unwrap_or(i64::MAX),
            plan: process.clone(),
            input,
        })
    }

    /// The codec of keys.
    pub fn keys(&self) -> &RowCodec {
        &self.keys
    }

    /// The process.
    pub fn plan(&self) -> &ProcessPlan {
        &self.plan
    }

    /// The watermark at which a life ends whose greatest event time is `touched`.
    pub fn ends(&self, touched: i64) -> i64 {
        touched.saturating_add(self.ttl)
    }

    /// Reads slots of keys: what Kindling keeps of each, and a column a field of the guest's state.
    ///
    /// # Errors
    /// [`CodecError`] where bytes do not read back.
    pub fn read(&self, slots: &[&[u8]]) -> Result<(Vec<Kept>, Vec<ArrayRef>), CodecError> {
        kept::decode(&self.states, slots)
    }

    /// How many rows wait in a slot of [`WAITING`] rows.
    ///
    /// # Errors
    /// [`CodecError`] where bytes do not read back.
    pub fn waiting(&self, slot: &[u8]) -> Result<i64, CodecError> {
        let mut count = 0;
        rows::split(slot, |_| count += 1).map(|()| count)
    }

    /// Whether rows that were kept are late for what has been given since: then the epoch must be run again from that time.
    pub fn is_stale(&self, keyed: &[KeyedRows], closed: i64) -> bool {
        let is_late = |rows: &KeyedRows| {
            let times = rows.rows.column(self.plan.event_time).as_primitive::<TimestampMillisecondType>();
            times.values().iter().any(|time| *time < closed)
        };
        self.plan.order == Order::EventTime && keyed.iter().any(is_late)
    }

    /// When event time wakes a new slot.
    pub fn first_timer() -> FirstTimer {
        Box::new(|pane: PaneId, state: &[u8]| if pane == LIVE { Some(kept::armed(state).0) } else { None })
    }

    /// When processing time wakes a new slot.
    pub fn first_processing_timer() -> FirstTimer {
        let due = |state: &[u8]| Some(kept::armed(state).1).filter(|due| *due != i64::MAX);
        Box::new(move |pane: PaneId, state: &[u8]| if pane == LIVE { due(state) } else { None })
    }
}
