//! Where others ask a running job for a copy of its state. The job's thread answers between two epochs, when the last one has committed, so
//! the copy is of one moment.
//!
//! In: a question, of all state or one key's. Out: a savepoint in memory. **Invariant**: one question at a time, an answer of at most
//! [`STATE_COPY_BYTES`]; whoever asks waits, the job never does.

use crate::limits::STATE_COPY_BYTES;
use crate::state::savepoint;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::time::Duration;

/// How long the job may take to come to the end of its epoch.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no copy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeskError {
    /// Somebody else asks.
    #[error("another copy of the job's state is being made; ask again in a moment")]
    Busy,
    /// The job is not at work.
    #[error("the job did not come to the end of an epoch within 20 s: is it still being restored?")]
    Silent,
    /// More than may be copied.
    #[error(
        "the job's state is larger than the {} MiB that are copied from a running job: stop the job, and take it from its changelog",
        STATE_COPY_BYTES >> 20
    )]
    Large,
}

/// A question.
pub(super) struct Ask {
    /// Encoded key; none: all.
    pub(super) key: Option<Vec<u8>>,
    /// Time of the question: milliseconds since 1970 UTC.
    pub(super) now_ms: i64,
    answer: Sender<Option<(Vec<u8>, u64)>>,
}

impl Ask {
    /// Answers with the bytes before a savepoint's end and the number of entries; none where they would be too many.
    pub(super) fn answer(self, copy: Option<(Vec<u8>, u64)>) {
        // Whoever asked may have lost patience.
        let _ = self.answer.send(copy);
    }
}

/// A desk with one seat.
pub struct Desk {
    asks: Sender<Ask>,
    asked: Receiver<Ask>,
}

impl Default for Desk {
    fn default() -> Self {
        let (asks, asked) = bounded(1);
        Self { asks, asked }
    }
}

impl Desk {
    /// A savepoint of the job's state as of its last committed epoch; of one encoded key, where it is given.
    ///
    /// # Errors
    /// [`DeskError`].
    pub fn savepoint(&self, key: Option<Vec<u8>>, now_ms: i64) -> Result<Vec<u8>, DeskError> {
        let (answer, answered) = bounded(1);
        self.asks.try_send(Ask { key, now_ms, answer }).map_err(|_| DeskError::Busy)?;
        let Ok(copy) = answered.recv_timeout(PATIENCE) else {
            // The question goes with the one who asked, if it is still there.
            let _ = self.asked.try_recv();
            return Err(DeskError::Silent);
        };
        let (mut bytes, entries) = copy.ok_or(DeskError::Large)?;
        savepoint::finish(entries, &mut bytes);
        Ok(bytes)
    }

    /// The question that waits.
    pub(super) fn waiting(&self) -> Option<Ask> {
        self.asked.try_recv().ok()
    }
}
