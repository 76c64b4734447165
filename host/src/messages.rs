//! Messages of librdkafka, held as it gave them, the queues that they come from, and the topics that they go to.
//!
//! `unsafe` because rust-rdkafka has no batches: `rd_kafka_consume_batch_queue` halves the CPU of a poll a row, and keeping the
//! message's pointer means that nothing is copied; `rd_kafka_produce_batch` looks at clocks and locks once a batch; of what it delivered
//! librdkafka tells by the batch, and rust-rdkafka record by record. What makes it sound: a [`Message`] is the only owner of its pointer;
//! queues, topics and messages are dropped before the client they came from, which each holder keeps alive; what is produced is copied within
//! the call, and what is told of it is borrowed from an event that lives as long; librdkafka's functions used here may be called from any thread.
#![allow(unsafe_code)]

use crate::element::Record;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka_sys as sys;
use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::time::Duration;

/// One message: a record, or an event of its partition.
#[repr(transparent)]
pub struct Message(NonNull<sys::rd_kafka_message_t>);

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
    pub fn event(&self) -> Option<RDKafkaErrorCode> {
        let code = self.raw().err;
        (code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
    }

    /// What librdkafka says about the event.
    pub fn event_text(&self) -> String {
        // SAFETY: the text lives as long as the message, and ends with a 0.
        unsafe { text(sys::rd_kafka_message_errstr(self.raw())) }.into_owned()
    }

    /// Offset within the partition; of the event of a partition's end the end.
    #[inline]
    pub fn offset(&self) -> i64 {
        self.raw().offset
    }

    /// Number of the partition within its topic.
    #[inline]
    pub fn partition(&self) -> i32 {
        self.raw().partition
    }

    /// Bytes of key and value.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.raw().len + self.raw().key_len
    }

    /// The record that this is, borrowed.
    pub fn record(&self) -> Record<'_> {
        let raw = self.raw();
        Record {
            offset: raw.offset,
            // SAFETY: the message is this one's.
            timestamp: unsafe { timestamp(raw) },
            // SAFETY: librdkafka gives pointer and length of bytes that live as long as the message.
            key: unsafe { slice(raw.key, raw.key_len) },
            value: unsafe { slice(raw.payload, raw.len) },
        }
    }

    /// Headers in their order, copied.
    pub fn headers(&self) -> Vec<(String, Option<Vec<u8>>)> {
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
                found.push((text(name).into_owned(), slice(value, size).map(<[u8]>::to_vec)));
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

/// A queue of messages; its holder drops it, and all messages from it, before the client.
pub struct Queue(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka locks its queues.
unsafe impl Send for Queue {}

impl Queue {
    /// The queue of `pointer`; none where that is null.
    ///
    /// # Safety
    /// The pointer is null or one that librdkafka gave, and is given up by this call: it is destroyed with the queue.
    pub unsafe fn of_raw(pointer: *mut sys::rd_kafka_queue_t) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    /// The queue that all partitions of a consumer share. Events of the client come through it too; those that are no message are
    /// logged by the client.
    pub fn of_consumer<C: ConsumerContext + ClientContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        // SAFETY: the client is valid during the call, and the reference to its queue is this one's.
        unsafe { Self::of_raw(sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr())) }
    }

    /// The queue of what a producer is told: of the client, and of its records.
    pub fn of_client<C: ClientContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the client is valid during the call, and the reference to its queue is this one's.
        unsafe { Self::of_raw(sys::rd_kafka_queue_get_main(client.native_ptr())) }
    }

    /// librdkafka's own.
    pub fn raw(&self) -> *mut sys::rd_kafka_queue_t {
        self.0.as_ptr()
    }

    /// Takes what is there, at most `rows`, without waiting, to the end of `messages`.
    pub fn take(&self, rows: usize, messages: &mut Vec<Message>) {
        // SAFETY: the queue is valid until `drop`.
        let there = unsafe { sys::rd_kafka_queue_length(self.raw()) };
        self.fill(rows.min(there), Duration::ZERO, messages);
    }

    /// As [`Self::take`]; where nothing is there, waits for a message at most `wait`.
    pub fn take_or_wait(&self, rows: usize, wait: Duration, messages: &mut Vec<Message>) {
        let before = messages.len();
        self.take(rows, messages);
        if messages.len() == before && rows > 0 {
            // More than one would be waited for until all are there.
            self.fill(1, wait, messages);
        }
    }

    /// Takes what a producer is told and is there, without waiting.
    pub fn take_told(&self, mut each: impl FnMut(Told<'_>)) {
        // SAFETY: the queue is valid until `drop`, and an event from here until it is destroyed; each is destroyed once.
        unsafe {
            while let Some(event) = NonNull::new(sys::rd_kafka_queue_poll(self.raw(), 0)) {
                match sys::rd_kafka_event_type(event.as_ptr()) {
                    sys::RD_KAFKA_EVENT_DR => deliveries(event.as_ptr(), &mut each),
                    sys::RD_KAFKA_EVENT_ERROR => {
                        let text = text(sys::rd_kafka_event_error_string(event.as_ptr()));
                        each(Told::Error(sys::rd_kafka_event_error(event.as_ptr()).into(), text));
                    }
                    _ => {}
                }
                sys::rd_kafka_event_destroy(event.as_ptr());
            }
        }
    }

    fn fill(&self, rows: usize, wait: Duration, messages: &mut Vec<Message>) {
        if rows == 0 {
            return;
        }
        messages.reserve(rows);
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is valid until `drop`. `Message` is a non-null pointer; librdkafka fills the first `n` of at least `rows`
        // places with such.
        unsafe {
            let room = messages.spare_capacity_mut();
            let n = sys::rd_kafka_consume_batch_queue(self.raw(), wait, room.as_mut_ptr().cast(), rows);
            messages.set_len(messages.len() + usize::try_from(n).unwrap_or(0));
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is valid until here.
        unsafe { sys::rd_kafka_queue_destroy(self.raw()) }
    }
}

/// What a producer is told.
pub enum Told<'a> {
    /// Of records that it queued.
    Delivery(Delivery<'a>),
    /// Of the client.
    Error(RDKafkaErrorCode, Cow<'a, str>),
}

/// Records of one partition that came back together, in the order in which they were queued.
pub struct Delivery<'a> {
    /// Topic.
    pub topic: Cow<'a, str>,
    /// Number of the partition within its topic.
    pub partition: i32,
    /// Least and greatest offset of those that were delivered; none where the broker did not tell.
    pub offsets: Option<(i64, i64)>,
    /// Time stamp of the last one: milliseconds since 1970 UTC.
    pub time: Option<i64>,
    /// Why the first one that failed did, and its bytes.
    pub failed: Option<(RDKafkaErrorCode, usize)>,
}

/// Gives what an event tells of records.
///
/// # Safety
/// `event` is valid, and of this kind.
unsafe fn deliveries(event: *mut sys::rd_kafka_event_t, each: &mut impl FnMut(Told<'_>)) {
    // SAFETY: messages, and the names of their topics, are valid as long as the event, which outlives this call.
    unsafe {
        // A batch is of one partition.
        let mut current: Option<(*mut sys::rd_kafka_topic_t, Delivery<'_>)> = None;
        let mut last = ptr::null();
        while let Some(message) = sys::rd_kafka_event_message_next(event).as_ref() {
            if let Some((_, done)) = current.take_if(|(topic, of)| *topic != message.rkt || of.partition != message.partition) {
                each(Told::Delivery(Delivery { time: timestamp(last), ..done }));
            }
            let (_, delivery) = current.get_or_insert_with(|| {
                let topic = text(sys::rd_kafka_topic_name(message.rkt));
                let delivery = Delivery { topic, partition: message.partition, offsets: None, time: None, failed: None };
                (message.rkt, delivery)
            });
            last = message;
            if message.err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                delivery.failed.get_or_insert((message.err.into(), message.len));
            } else if message.offset >= 0 {
                // A negative one is librdkafka's "unknown"; taken for a position it would mean "the end".
                let (first, last) = delivery.offsets.unwrap_or((message.offset, message.offset));
                delivery.offsets = Some((first.min(message.offset), last.max(message.offset)));
            }
        }
        if let Some((_, done)) = current {
            each(Told::Delivery(Delivery { time: timestamp(last), ..done }));
        }
    }
}

/// Milliseconds since 1970 UTC, where they are known.
///
/// # Safety
/// `message` is valid.
unsafe fn timestamp(message: *const sys::rd_kafka_message_t) -> Option<i64> {
    let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: both are only read or written during the call.
    let timestamp = unsafe { sys::rd_kafka_message_timestamp(message, &mut kind) };
    (timestamp >= 0).then_some(timestamp)
}

/// # Safety
/// `data` is null, or ends with a 0 and lives as long as `'a`.
unsafe fn text<'a>(data: *const c_char) -> Cow<'a, str> {
    // SAFETY: as the caller promises.
    if data.is_null() { Cow::default() } else { unsafe { CStr::from_ptr(data) }.to_string_lossy() }
}

/// A topic that a producer without opaques writes to; its holder drops it before the producer.
pub struct Topic(NonNull<sys::rd_kafka_topic_t>);

// SAFETY: librdkafka locks its topics.
unsafe impl Send for Topic {}

/// librdkafka's `RD_KAFKA_PARTITION_UA`: the partitioner says where a record goes.
const UNASSIGNED: i32 = -1;

/// Key and value of a record; none of a value is a tombstone.
pub type KeyValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

impl Topic {
    /// The topic of this name; none where librdkafka refuses the name.
    pub fn of_producer<C: ProducerContext<DeliveryOpaque = ()>>(producer: &BaseProducer<C>, name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the client is valid during the call; no configuration is the client's own for topics.
        let topic = unsafe { sys::rd_kafka_topic_new(producer.client().native_ptr(), name.as_ptr(), ptr::null_mut()) };
        NonNull::new(topic).map(Self)
    }

    /// Queues records to a partition, or to where the partitioner says. Gives those that were refused, and why; others may have gone behind them.
    pub fn produce<'a>(&self, partition: Option<i32>, records: &[KeyValue<'a>]) -> Vec<(KeyValue<'a>, RDKafkaErrorCode)> {
        let raw =
            |bytes: Option<&[u8]>| bytes.map_or((ptr::null_mut(), 0), |b| (b.as_ptr().cast_mut().cast::<c_void>(), b.len()));
        let message = |(key, value): &KeyValue<'_>| {
            let ((key, key_len), (payload, len)) = (raw(*key), raw(*value));
            sys::rd_kafka_message_t {
                err: sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
                rkt: ptr::null_mut(),
                partition: 0,
                payload,
                len,
                key,
                key_len,
                offset: 0,
                // What rust-rdkafka gives for an opaque of `()`.
                _private: ptr::null_mut(),
            }
        };
        let mut messages: Vec<_> = records.iter().map(message).collect();
        let partition = partition.unwrap_or(UNASSIGNED);
        let count = i32::try_from(messages.len()).unwrap_or(i32::MAX);
        // SAFETY: `count` is at most their number; keys and values are only read, and copied, during the call.
        unsafe {
            sys::rd_kafka_produce_batch(self.0.as_ptr(), partition, sys::RD_KAFKA_MSG_F_COPY, messages.as_mut_ptr(), count)
        };
        let ok = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        let refused = records.iter().zip(&messages).filter(|(_, message)| message.err != ok);
        refused.map(|(record, message)| (*record, message.err.into())).collect()
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the topic is valid until here.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) }
    }
}
