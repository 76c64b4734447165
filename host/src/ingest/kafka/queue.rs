//! The queue of one partition, kept apart from the consumer's, and the records that come from it.
//!
//! `unsafe` because rust-rdkafka can't keep a partition's queue apart without its own loop around it. See [`crate::messages`] for what makes
//! it sound; each holder of a message keeps its client alive by its `Arc`.
#![allow(unsafe_code)]

use super::client::Client;
use crate::element::{Record, Records};
use crate::ingest::IngestError;
use crate::messages::{Message, Queue};
use rdkafka_sys as sys;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Records of one partition.
pub(super) struct KafkaRecords {
    pub(super) messages: Vec<Message>,
    pub(super) bytes: usize,
    /// Outlives the messages: fields are dropped in this order.
    pub(super) _client: Arc<Client>,
}

impl Records for KafkaRecords {
    fn len(&self) -> usize {
        self.messages.len()
    }
    fn record(&self, i: usize) -> Record<'_> {
        self.messages[i].record()
    }
    fn headers(&self, i: usize) -> Vec<(String, Option<Vec<u8>>)> {
        self.messages[i].headers()
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Wakes a reader when one of its partitions' queues gets something.
#[derive(Default)]
pub(super) struct Waker {
    awake: Mutex<bool>,
    changed: Condvar,
}

impl Waker {
    /// Waits until something came since the last call, or `wait` is over.
    pub(super) fn wait(&self, wait: Duration) {
        let awake = self.awake.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut awake, _) = self.changed.wait_timeout_while(awake, wait, |a| !*a).unwrap_or_else(PoisonError::into_inner);
        *awake = false;
    }

    fn wake(&self) {
        *self.awake.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}

/// Called by librdkafka, under the queue's lock, when the queue was empty and gets something.
unsafe extern "C" fn wake(_: *mut sys::rd_kafka_t, waker: *mut c_void) {
    // SAFETY: `PartitionQueue` gave this pointer, and holds the waker until the callback is off.
    unsafe { &*waker.cast::<Waker>() }.wake();
}

/// The queue of one partition, kept apart from the consumer's common queue.
pub(super) struct PartitionQueue {
    queue: Queue,
    _waker: Arc<Waker>,
    /// Outlives the queue: fields are dropped in this order.
    _client: Arc<Client>,
}

impl PartitionQueue {
    /// The queue of `partition`. Must be there before the partition is assigned, else records go to the common queue.
    pub(super) fn new(client: &Arc<Client>, partition: i32, waker: &Arc<Waker>) -> Result<Self, IngestError> {
        let failed = || IngestError::External(format!("topic `{}`: no queue for partition {partition}", client.topic()));
        let topic = CString::new(client.topic()).map_err(|_| failed())?;
        // SAFETY: client and topic are valid during the calls; the waker's address is stable and outlives the callback (see `drop`).
        // Forwarding to nowhere marks the queue as the application's: librdkafka leaves it alone at every later assignment.
        let queue = unsafe {
            let queue = sys::rd_kafka_queue_get_partition(client.native(), topic.as_ptr(), partition);
            let queue = Queue::of_raw(queue).ok_or_else(failed)?;
            sys::rd_kafka_queue_forward(queue.raw(), ptr::null_mut());
            sys::rd_kafka_queue_cb_event_enable(queue.raw(), Some(wake), Arc::as_ptr(waker).cast::<c_void>().cast_mut());
            queue
        };
        Ok(Self { queue, _waker: Arc::clone(waker), _client: Arc::clone(client) })
    }

    /// Takes what is there, at most `rows`, without waiting, to the end of `messages`.
    pub(super) fn take(&self, rows: usize, messages: &mut Vec<Message>) {
        self.queue.take(rows, messages);
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is valid until its own drop, which comes after this. Taking the callback off waits for one that runs (it runs
        // under the queue's lock).
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.raw(), None, ptr::null_mut()) }
    }
}

/// The end offset of a partition as the last fetch told it; none before.
pub(super) fn cached_end(client: &Client, partition: i32) -> Option<i64> {
    let topic = CString::new(client.topic()).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: all pointers are valid during the call.
    let result = unsafe { sys::rd_kafka_get_watermark_offsets(client.native(), topic.as_ptr(), partition, &mut low, &mut high) };
    (result == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}
