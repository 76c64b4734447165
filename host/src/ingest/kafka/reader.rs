//! A worker's share of a topic's partitions.
//!
//! Out: records of one partition a batch, in offset order; where a partition stands at its end or has passed its bound; offsets that
//! were gone. A broker that is away is no error: there are no records then, and librdkafka goes on when it is back.

use super::client::{Client, lasting};
use super::queue::{KafkaRecords, PartitionQueue, Waker};
use crate::element::RawBatch;
use crate::ingest::{IngestError, Polled, Reader};
use crate::messages::Message;
use rdkafka::error::RDKafkaErrorCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many rows are taken of one partition before the next has its turn: smaller batches cost more a row.
const TURN_ROWS: usize = 2_048;
/// Events of the client are served at least this often while a reader waits.
const NAP: Duration = Duration::from_millis(100);
/// Between two looks at a partition whose offset the broker refused, while the broker does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One partition of a reader.
pub(super) struct Place {
    /// Index among the source's partitions.
    pub index: usize,
    /// Number within the topic.
    pub partition: i32,
    /// Offset of the next record.
    pub position: i64,
    /// Records from this offset on are not wanted.
    pub bound: Option<i64>,
    /// Gone offsets that were skipped at the start.
    pub skipped: i64,
    /// None when the partition is past its bound.
    pub queue: Option<PartitionQueue>,
    told_finished: bool,
    at_end: bool,
    /// The broker refused the offset; looked into at this time.
    refused: Option<Instant>,
}

impl Place {
    pub(super) fn new(index: usize, partition: i32, position: i64, bound: Option<i64>, skipped: i64) -> Self {
        Self { index, partition, position, bound, skipped, queue: None, told_finished: false, at_end: false, refused: None }
    }
}

/// Reads its partitions' queues in turn.
pub(super) struct KafkaReader {
    /// Before `client`: queues are dropped first.
    places: Vec<Place>,
    waker: Arc<Waker>,
    client: Arc<Client>,
    fail_on_data_loss: bool,
    next: usize,
    /// By index among the source's partitions: their queues are left as they are, and librdkafka stops fetching where they are full.
    held: Vec<bool>,
}

impl KafkaReader {
    pub(super) fn new(places: Vec<Place>, waker: Arc<Waker>, client: Arc<Client>, fail_on_data_loss: bool) -> Self {
        Self { places, waker, client, fail_on_data_loss, next: 0, held: Vec::new() }
    }

    /// One round over the partitions, without waiting.
    fn sweep(&mut self, rows: usize) -> Result<Polled, IngestError> {
        let mut polled = Polled::default();
        let count = self.places.len();
        let turn = rows.div_ceil(count.max(1)).max(TURN_ROWS).min(rows);
        let mut left = rows;
        let mut served = 0;
        for i in 0..count {
            let place = &mut self.places[(self.next + i) % count];
            if left > 0 && self.held.get(place.index) != Some(&true) {
                let records = place.take(turn.min(left), &self.client)?;
                served = i + 1;
                left -= records.messages.len();
                if !records.messages.is_empty() {
                    polled.batches.push(RawBatch { partition: place.index, records: Box::new(records) });
                }
            }
            place.look_into_refusal(&self.client, self.fail_on_data_loss)?;
            place.report(&mut polled, &self.client)?;
        }
        self.next = (self.next + served) % count.max(1);
        Ok(polled)
    }
}

impl Reader for KafkaReader {
    fn poll(&mut self, rows: usize, wait: Duration) -> Result<Polled, IngestError> {
        let deadline = Instant::now() + wait;
        loop {
            self.client.serve()?;
            let polled = self.sweep(rows)?;
            let left = deadline.saturating_duration_since(Instant::now());
            let news = !polled.batches.is_empty()
                || !polled.at_end.is_empty()
                || !polled.finished.is_empty()
                || polled.skipped_offsets > 0;
            if !news {
                self.client.check_topic()?;
            }
            if news || left.is_zero() {
                return Ok(polled);
            }
            self.waker.wait(left.min(NAP));
        }
    }

    fn hold(&mut self, held: &[bool]) {
        self.held = held.to_vec();
    }
}

impl Place {
    /// Takes up to `rows` records; events among them change this place's state.
    fn take(&mut self, rows: usize, client: &Arc<Client>) -> Result<KafkaRecords, IngestError> {
        let mut messages = Vec::new();
        if let Some(queue) = &self.queue {
            queue.take(rows, &mut messages);
        }
        let (mut bytes, mut failed) = (0, None);
        messages.retain(|message| match message.event() {
            None if self.is_past_bound() => false,
            None if self.bound.is_some_and(|bound| message.offset() >= bound) => {
                self.position = message.offset();
                false
            }
            None => {
                self.position = message.offset() + 1;
                self.at_end = false;
                bytes += message.bytes();
                true
            }
            Some(event) => {
                failed = self.event(event, message, client).err().or(failed.take());
                false
            }
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(KafkaRecords { messages, bytes, _client: Arc::clone(client) }),
        }
    }

    /// Whether a record at or after the bound was seen, or the end of a log without such.
    fn is_past_bound(&self) -> bool {
        self.bound.is_some_and(|bound| self.position >= bound)
    }

    fn event(&mut self, event: RDKafkaErrorCode, message: &Message, client: &Client) -> Result<(), IngestError> {
        let say = |what: &str| format!("{}/{}: {what}: {}", client.topic(), self.partition, message.event_text());
        match event {
            RDKafkaErrorCode::PartitionEOF => {
                // Behind the last record may stand marks of transactions and aborted records: the end counts, not the record.
                self.position = self.position.max(message.offset());
                self.at_end = true;
                Ok(())
            }
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                self.refused = Some(Instant::now());
                Ok(())
            }
            code if lasting(code) => Err(IngestError::Config(say("the broker refuses"))),
            // Bytes that don't read back: going on would leave them out in silence.
            RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::BadCompression | RDKafkaErrorCode::InvalidMessage => {
                Err(IngestError::DataLoss(say("a record does not read back")))
            }
            RDKafkaErrorCode::NotImplemented => Err(IngestError::Config(say("this build can't read the records"))),
            _ => {
                client.trouble(&say("trouble"));
                Ok(())
            }
        }
    }

    /// The broker refused the offset: it is gone, or the log is not the one it was.
    fn look_into_refusal(&mut self, client: &Client, fail_on_data_loss: bool) -> Result<(), IngestError> {
        if self.refused.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        let Some((first, end)) = client.watermarks_now(self.partition) else {
            self.refused = Some(Instant::now() + LOOK_AGAIN);
            return Ok(());
        };
        self.refused = None;
        let (position, skipped) = in_range(client.topic(), self.partition, self.position, (first, end), fail_on_data_loss)?;
        self.position = position;
        self.skipped += skipped;
        self.at_end = false;
        client.restart(self.partition, position)
    }

    fn report(&mut self, polled: &mut Polled, client: &Client) -> Result<(), IngestError> {
        polled.skipped_offsets += u64::try_from(std::mem::take(&mut self.skipped)).unwrap_or(0);
        if self.told_finished {
            return Ok(());
        }
        if self.is_past_bound() {
            self.told_finished = true;
            polled.finished.push(self.index);
            if self.queue.take().is_some() {
                client.stop(self.partition)?;
            }
        } else if std::mem::take(&mut self.at_end) {
            polled.at_end.push(self.index);
            polled.end_offsets.push((self.index, self.position));
        }
        Ok(())
    }
}

/// Where to go on from `position` in a log of `(first, end)`, and how many offsets are skipped by that.
///
/// # Errors
/// [`IngestError::DataLoss`] when records are gone and that must not be.
pub(super) fn in_range(
    topic: &str,
    partition: i32,
    position: i64,
    (first, end): (i64, i64),
    fail_on_data_loss: bool,
) -> Result<(i64, i64), IngestError> {
    if (first..=end).contains(&position) {
        return Ok((position, 0));
    }
    let what = if position < first {
        format!("offset {position} is gone, {} records with it", first - position)
    } else {
        format!("offset {position} is past the end: the topic was cut or made anew")
    };
    if fail_on_data_loss {
        return Err(IngestError::DataLoss(format!(
            "{topic}/{partition}: {what}; the partition now holds offsets {first} to {end}. Set `failOnDataLoss: false` to go on from \
             {first} without them"
        )));
    }
    tracing::warn!("{topic}/{partition}: {what}; going on from {first} (`failOnDataLoss: false`)");
    Ok((first, (first - position).max(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gone_offsets_stop_the_job_or_are_counted() {
        assert_eq!(in_range("t", 0, 5, (5, 5), true).unwrap(), (5, 0));
        assert_eq!(in_range("t", 0, 3, (5, 9), false).unwrap(), (5, 2));
        assert_eq!(in_range("t", 0, 12, (5, 9), false).unwrap(), (5, 0));
        let error = in_range("t", 7, 3, (5, 9), true).unwrap_err();
        assert!(
            matches!(&error, IngestError::DataLoss(text) if text.contains("t/7: offset 3 is gone, 2 records with it")),
            "{error}"
        );
        assert!(in_range("t", 0, 10, (5, 9), true).is_err());
    }
}
