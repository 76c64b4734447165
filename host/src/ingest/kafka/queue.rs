//! Messages of librdkafka, held as it gave them, and the queue of one partition that they come from.
//!
//! `unsafe` because rust-rdkafka has no batches: `rd_kafka_consume_batch_queue` halves the CPU of a poll a row, and keeping the
//! message's pointer means that nothing is copied. What makes it sound: a [`Message`] is the only owner of its pointer; queues and
//! messages are dropped before the client they came from, which each holder keeps alive by its `Arc`; librdkafka's functions
//! used here may be called from any thread.
#![allow(unsafe_code)]

use super::client::Client;
use crate::element::{Record, Records};
use crate::ingest::IngestError;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// One message: a record, or an event of its partition.
#[repr(transparent)]
pub(super) struct Message(NonNull<sys::rd_kafka_message_t>);

// SAFETY: a message belongs to whoever holds it; librdkafka keeps no reference to it.
unsafe impl Send for Message {}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: the pointer came from librdkafka and is destroyed once, here.
        unsafe { sys::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

impl Message {
    fn raw(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the pointer is valid until `drop`, and nobody writes to what it points at.
        unsafe { self.0.as_ref() }
    }

    /// The error or event that this is, if it is no record.
    #[inline]
    pub(super) fn event(&self) -> Option<RDKafkaErrorCode> {
        let code = self.raw().err;
        (code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
    }

    /// What librdkafka says about the event.
    pub(super) fn event_text(&self) -> String {
        // SAFETY: the text lives as long as the message, and ends with a 0.
        let text = unsafe { sys::rd_kafka_message_errstr(self.raw()) };
        if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
    }

    #[inline]
    pub(super) fn offset(&self) -> i64 {
        self.raw().offset
    }

    /// Bytes of key and value.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.raw().len + self.raw().key_len
    }

    fn record(&self) -> Record<'_> {
        let raw = self.raw();
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: both are only read or written during the call.
        let timestamp = unsafe { sys::rd_kafka_message_timestamp(raw, &mut kind) };
        Record {
            offset: raw.offset,
            timestamp: (timestamp >= 0).then_some(timestamp),
            // SAFETY: librdkafka gives pointer and length of bytes that live as long as the message.
            key: unsafe { slice(raw.key, raw.key_len) },
            value: unsafe { slice(raw.payload, raw.len) },
        }
    }

    fn headers(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let mut found = Vec::new();
        let mut headers = ptr::null_mut();
        // SAFETY: names end with a 0; names and values live as long as the message, and are copied here.
        unsafe {
            let ok = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            if sys::rd_kafka_message_headers(self.raw(), &mut headers) != ok {
                return found;
            }
            let (mut name, mut value, mut size): (*const c_char, *const c_void, usize) = (ptr::null(), ptr::null(), 0);
            while sys::rd_kafka_header_get_all(headers, found.len(), &mut name, &mut value, &mut size) == ok {
                let text = CStr::from_ptr(name).to_string_lossy().into_owned();
                found.push((text, slice(value, size).map(<[u8]>::to_vec)));
            }
        }
        found
    }
}

/// # Safety
/// `data` is null or points at `len` bytes that live as long as `'a`.
unsafe fn slice<'a>(data: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) })
}

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
    queue: NonNull<sys::rd_kafka_queue_t>,
    _waker: Arc<Waker>,
    _client: Arc<Client>,
}

// SAFETY: librdkafka locks its queues.
unsafe impl Send for PartitionQueue {}

impl PartitionQueue {
    /// The queue of `partition`. Must be there before the partition is assigned, else records go to the common queue.
    pub(super) fn new(client: &Arc<Client>, partition: i32, waker: &Arc<Waker>) -> Result<Self, IngestError> {
        let failed = || IngestError::External(format!("topic `{}`: no queue for partition {partition}", client.topic()));
        let topic = CString::new(client.topic()).map_err(|_| failed())?;
        // SAFETY: client and topic are valid during the calls; the waker's address is stable and outlives the callback (see `drop`).
        // Forwarding to nowhere marks the queue as the application's: librdkafka leaves it alone at every later assignment.
        let queue = unsafe {
            let queue =
                NonNull::new(sys::rd_kafka_queue_get_partition(client.native(), topic.as_ptr(), partition)).ok_or_else(failed)?;
            sys::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            sys::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(wake), Arc::as_ptr(waker).cast::<c_void>().cast_mut());
            queue
        };
        Ok(Self { queue, _waker: Arc::clone(waker), _client: Arc::clone(client) })
    }

    /// Takes what is there, at most `rows`, without waiting, to the end of `messages`.
    pub(super) fn take(&self, rows: usize, messages: &mut Vec<Message>) {
        messages.reserve(rows);
        let room = messages.spare_capacity_mut();
        // SAFETY: `Message` is a non-null pointer; librdkafka fills the first `n` of at least `rows` places with such.
        unsafe {
            let n = sys::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, room.as_mut_ptr().cast(), rows);
            messages.set_len(messages.len() + usize::try_from(n).unwrap_or(0));
        }
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is valid until here. Taking the callback off waits for one that runs (it runs under the queue's lock).
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
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
