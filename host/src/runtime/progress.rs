//! What the clock says of each partition: idle, finished, or waiting because it is far ahead of the others.
//!
//! In: what workers saw, watermarks, the broker's word for where partitions end. Out: a [`Progress`] for the close of an epoch, and which
//! partitions are not to be read. Times come in as arguments.
//!
//! **Idle** is a partition whose position was its end for `idle_after`, and of which the broker then said that this is still its end. Time alone
//! makes none idle: one whose leader is away may be getting records. Records of an open transaction are records: they will come.
//! Once idle, a partition stays so until it has records.
//!
//! **Held** is one whose watermark is more than `max_drift` ahead of the least. The least one is never held, nor does one that is idle or
//! finished hold others, so somebody always goes on. What is held is decided once an epoch: a partition is ahead by `max_drift` and the
//! rows of one epoch at most.

use super::core::Progress;
use super::worker::Ran;
use crate::ingest::EndQuery;
use crate::limits::{IDLE_QUESTIONS, JobLimits};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two questions about the same partition.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A round of questions ends after this long; what was not asked is asked in the next.
const ROUND: Duration = Duration::from_secs(3);
/// Between two looks for new partitions.
const LOOK_FOR_NEW: Duration = Duration::from_secs(10);

/// Partitions and the offsets that they are thought to end at.
type Question = Vec<(usize, i64)>;
/// The same, with the end that the broker says; none where it did not answer.
type Answer = Vec<(usize, i64, Option<i64>)>;
/// What the broker said.
pub(super) enum Word {
    /// Of the ends that it was asked for.
    Ends(Answer),
    /// That there are so many partitions more than the job knows.
    Added(usize),
}
/// The job's side of the way to the thread that asks.
pub(super) type Asking = (Sender<Question>, Receiver<Word>);
/// That thread's side.
pub(super) type Answering = (Receiver<Question>, Sender<Word>);

/// One round of questions on its way, and one of answers.
pub(super) fn channels() -> (Asking, Answering) {
    let ((question, questions), (answer, answers)) = (bounded(1), bounded(1));
    ((question, answers), (questions, answer))
}

/// A partition at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtEnd {
    /// Since when.
    pub since: Instant,
    /// The offset of the end, where the source has such.
    pub offset: Option<i64>,
    /// The broker said that it is still the end.
    pub confirmed: bool,
    asked: Option<Instant>,
    /// Another end that the broker told of: records that did not come yet.
    pub told: Option<i64>,
}

/// One partition.
#[derive(Clone, Debug)]
pub(super) struct PartitionState {
    /// At its end.
    pub at_end: Option<AtEnd>,
    /// Will never have more records.
    pub finished: bool,
    /// Not read for now.
    pub held: bool,
    /// When it last had records, in this process.
    pub records: Option<Instant>,
    /// Watermark after the last epoch.
    pub watermark: i64,
    /// When the watermark last moved, or the process started.
    pub moved: Instant,
}

/// All partitions of a job.
pub(super) struct PartitionClock {
    partitions: Vec<PartitionState>,
    idle_after: Duration,
    /// Milliseconds.
    max_drift: Option<i64>,
    broker: Option<Asking>,
    /// Partitions that the source has been given meanwhile.
    added: usize,
}

impl PartitionClock {
    /// Partitions with these watermarks; `broker` is the way to a thread in [`answer`], where ends must be asked for.
    pub(super) fn new(watermarks: &[i64], limits: &JobLimits, broker: Option<Asking>, now: Instant) -> Self {
        let state =
            |w: &i64| PartitionState { at_end: None, finished: false, held: false, records: None, watermark: *w, moved: now };
        Self {
            partitions: watermarks.iter().map(state).collect(),
            idle_after: limits.idle_after,
            max_drift: limits.max_drift.map(|d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)),
            broker,
            added: 0,
        }
    }

    /// How many partitions there are more than these; they are read once the job has begun anew with them.
    pub(super) fn added(&self) -> usize {
        self.added
    }

    /// The partitions.
    pub(super) fn partitions(&self) -> &[PartitionState] {
        &self.partitions
    }

    /// Takes in what a worker saw in an epoch.
    pub(super) fn see(&mut self, ran: &Ran, now: Instant) {
        for partition in &ran.active {
            let state = &mut self.partitions[*partition];
            (state.at_end, state.records) = (None, Some(now));
        }
        for partition in &ran.at_end {
            self.stands_at_end(*partition, ran.end_offsets.get(partition).copied(), now);
        }
        for partition in &ran.finished {
            self.partitions[*partition].finished = true;
        }
    }

    fn stands_at_end(&mut self, partition: usize, offset: Option<i64>, now: Instant) {
        let at_end = &mut self.partitions[partition].at_end;
        // Another end: something was there in between, if only the marks of a transaction.
        if at_end.is_none_or(|a| a.offset != offset) {
            *at_end = Some(AtEnd { since: now, offset, confirmed: false, asked: None, told: None });
        }
    }

    /// Takes in the watermarks after an epoch.
    pub(super) fn moved(&mut self, watermarks: &[i64], now: Instant) {
        for (state, watermark) in self.partitions.iter_mut().zip(watermarks) {
            if state.watermark != *watermark {
                (state.watermark, state.moved) = (*watermark, now);
            }
        }
    }

    /// Asks the broker about partitions that would be idle, and takes in what it said. Never waits.
    pub(super) fn ask(&mut self, now: Instant) {
        let Some((questions, answers)) = self.broker.take() else { return };
        while let Ok(word) = answers.try_recv() {
            match word {
                Word::Ends(answer) => self.hear(&answer, now),
                Word::Added(added) => self.added = added,
            }
        }
        let mut due: Vec<(Option<Instant>, usize, i64)> = Vec::new();
        for (i, state) in self.partitions.iter().enumerate() {
            let Some(AtEnd { since, offset: Some(offset), confirmed: false, asked, .. }) = state.at_end else { continue };
            let again = asked.is_none_or(|at| now.duration_since(at) >= ASK_AGAIN);
            if !state.finished && again && now.duration_since(since) >= self.idle_after {
                due.push((asked, i, offset));
            }
        }
        if !due.is_empty() {
            due.sort_unstable();
            due.truncate(IDLE_QUESTIONS);
            // Where a round is on its way still, or the thread is gone, nobody becomes idle.
            let sent = questions.try_send(due.iter().map(|(_, i, offset)| (*i, *offset)).collect()).is_ok();
            for (_, i, _) in due.iter().filter(|_| sent) {
                if let Some(at_end) = &mut self.partitions[*i].at_end {
                    at_end.asked = Some(now);
                }
            }
        }
        self.broker = Some((questions, answers));
    }

    fn hear(&mut self, answer: &Answer, now: Instant) {
        for (partition, asked_for, end) in answer {
            let Some(at_end) = &mut self.partitions[*partition].at_end else { continue };
            if at_end.offset != Some(*asked_for) {
                continue;
            }
            match end {
                Some(end) if end == asked_for => (at_end.confirmed, at_end.told) = (true, None),
                // It has not stood at its end: it must from now on.
                Some(end) => (at_end.since, at_end.told) = (now, Some(*end)),
                None => {}
            }
        }
    }

    /// Whether a partition is idle.
    pub(super) fn is_idle(&self, partition: usize, now: Instant) -> bool {
        let sure = |a: &AtEnd| a.confirmed || a.offset.is_none() || self.broker.is_none();
        let state = &self.partitions[partition];
        state.at_end.is_some_and(|a| now.duration_since(a.since) >= self.idle_after && sure(&a))
    }

    /// For the close of an epoch.
    pub(super) fn progress(&self, now: Instant) -> Progress {
        let idle = (0..self.partitions.len()).map(|p| self.is_idle(p, now)).collect();
        Progress { idle, finished: self.partitions.iter().map(|p| p.finished).collect() }
    }

    /// Whether no partition will have records any more.
    pub(super) fn all_finished(&self) -> bool {
        self.partitions.iter().all(|p| p.finished)
    }

    /// Decides which partitions are not read in the next epoch; empty where none is held. `watermarks` are the latest there are.
    pub(super) fn hold(&mut self, watermarks: &[i64], now: Instant) -> Arc<[bool]> {
        let Some(drift) = self.max_drift else { return Arc::default() };
        let counts: Vec<bool> =
            (0..self.partitions.len()).map(|p| !self.partitions[p].finished && !self.is_idle(p, now)).collect();
        // A partition of which no row had an event time would hold the others for ever; one that had no records yet will have some, or be
        // idle.
        let speaks = |p: &usize| counts[*p] && (watermarks[*p] != i64::MIN || self.partitions[*p].records.is_none());
        let least = (0..counts.len()).filter(speaks).map(|p| watermarks[p]).min();
        let bound = least.map_or(i64::MAX, |least| least.saturating_add(drift));
        for (p, state) in self.partitions.iter_mut().enumerate() {
            state.held = counts[p] && watermarks[p] > bound;
        }
        if self.partitions.iter().any(|p| p.held) { self.partitions.iter().map(|p| p.held).collect() } else { Arc::default() }
    }

    /// Whether worker `worker` of `workers` has nothing to read: some of its partitions are held, and the rest is finished.
    pub(super) fn rests(&self, worker: usize, workers: usize) -> bool {
        let mut own = self.partitions.iter().skip(worker).step_by(workers.max(1)).peekable();
        own.peek().is_some() && own.clone().any(|p| p.held) && own.all(|p| p.held || p.finished)
    }
}

/// The loop of the thread that asks the broker; ends when the job's side is gone.
pub(super) fn answer(query: &mut dyn EndQuery, (questions, answers): &Answering) {
    let mut looked = Instant::now();
    loop {
        let word = match questions.recv_timeout(LOOK_FOR_NEW.saturating_sub(looked.elapsed())) {
            Ok(question) => {
                let started = Instant::now();
                let mut end = |(partition, offset): (usize, i64)| {
                    let end = if started.elapsed() < ROUND { query.end(partition) } else { None };
                    (partition, offset, end)
                };
                Word::Ends(question.into_iter().map(&mut end).collect())
            }
            Err(RecvTimeoutError::Timeout) => {
                looked = Instant::now();
                match query.added() {
                    0 => continue,
                    added => Word::Added(added),
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if answers.send(word).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_AFTER: Duration = Duration::from_secs(5);
    const NONE: i64 = i64::MIN;

    fn limits(max_drift: Option<u64>) -> JobLimits {
        JobLimits { idle_after: IDLE_AFTER, max_drift: max_drift.map(Duration::from_millis), ..JobLimits::default() }
    }

    /// A clock that asks a broker, and the broker's side of it.
    fn asking(partitions: usize, now: Instant) -> (PartitionClock, Receiver<Question>, Sender<Word>) {
        let (asking, (questions, answers)) = channels();
        (PartitionClock::new(&vec![NONE; partitions], &limits(None), Some(asking), now), questions, answers)
    }

    #[test]
    fn time_alone_makes_none_idle_and_the_broker_s_word_does() {
        let start = Instant::now();
        let (mut clock, questions, answers) = asking(2, start);
        clock.stands_at_end(0, Some(7), start);
        clock.ask(start + Duration::from_secs(4));
        assert!(questions.try_recv().is_err(), "not before its time");
        let later = start + IDLE_AFTER;
        clock.ask(later);
        assert_eq!(questions.try_recv().unwrap(), [(0, 7)]);
        // The leader does not answer: asked again, a second later, and not idle for as long.
        answers.send(Word::Ends(vec![(0, 7, None)])).unwrap();
        clock.ask(later + Duration::from_millis(500));
        assert!(questions.try_recv().is_err() && !clock.is_idle(0, later + Duration::from_secs(3_600)));
        clock.ask(later + ASK_AGAIN);
        assert_eq!(questions.try_recv().unwrap(), [(0, 7)]);
        answers.send(Word::Ends(vec![(0, 7, Some(7))])).unwrap();
        clock.ask(later + ASK_AGAIN);
        assert_eq!(clock.progress(later + ASK_AGAIN).idle, [true, false]);
    }

    #[test]
    fn records_that_did_not_come_yet_keep_a_partition_awake() {
        let start = Instant::now();
        let (mut clock, questions, answers) = asking(1, start);
        clock.stands_at_end(0, Some(7), start);
        let later = start + IDLE_AFTER;
        clock.ask(later);
        questions.try_recv().unwrap();
        // Two records of an open transaction lie there.
        answers.send(Word::Ends(vec![(0, 7, Some(9))])).unwrap();
        clock.ask(later);
        assert!(!clock.is_idle(0, later) && clock.partitions()[0].at_end.unwrap().told == Some(9));
        // It is aborted: the end is 10 now, with the mark. An answer to the old question counts no more.
        clock.stands_at_end(0, Some(10), later + Duration::from_secs(1));
        answers.send(Word::Ends(vec![(0, 7, Some(7))])).unwrap();
        clock.ask(later + IDLE_AFTER);
        assert!(!clock.is_idle(0, later + IDLE_AFTER));
        let still = later + IDLE_AFTER + Duration::from_secs(1);
        clock.ask(still);
        assert_eq!(questions.try_recv().unwrap(), [(0, 10)]);
        answers.send(Word::Ends(vec![(0, 10, Some(10))])).unwrap();
        clock.ask(still);
        assert!(clock.is_idle(0, still));
    }

    #[test]
    fn a_source_without_offsets_is_believed() {
        let start = Instant::now();
        let mut clock = PartitionClock::new(&[NONE], &limits(None), None, start);
        clock.stands_at_end(0, None, start);
        // Told again: it is the same spell.
        clock.stands_at_end(0, None, start + Duration::from_secs(3));
        assert!(!clock.is_idle(0, start + Duration::from_secs(4)) && clock.is_idle(0, start + IDLE_AFTER));
    }

    #[test]
    fn the_one_that_is_far_ahead_waits_for_the_least() {
        let now = Instant::now();
        let mut clock = PartitionClock::new(&[NONE; 3], &limits(Some(100)), None, now);
        // Nothing has come yet.
        assert_eq!(clock.hold(&[NONE; 3], now).len(), 0);
        // The first records of one: the others must come first, or be idle.
        assert_eq!(*clock.hold(&[50, NONE, NONE], now), [true, false, false]);
        assert_eq!(*clock.hold(&[100, 0, 201], now), [false, false, true]);
        assert!(clock.rests(2, 3) && !clock.rests(0, 3) && !clock.rests(0, 1));
        // The slow one ends: the next holds.
        clock.partitions[1].finished = true;
        assert_eq!(clock.hold(&[101, 0, 201], now).len(), 0);
        // Or is idle.
        clock.partitions[1].finished = false;
        clock.stands_at_end(1, None, now);
        assert_eq!(*clock.hold(&[101, 0, 201], now), [true, false, true]);
        assert_eq!(clock.hold(&[101, 0, 201], now + IDLE_AFTER).len(), 0);
        // All ended or idle: none waits for nobody.
        (clock.partitions[0].finished, clock.partitions[2].finished) = (true, true);
        assert_eq!(clock.hold(&[101, 0, 2_001], now + IDLE_AFTER).len(), 0);
        assert!(!clock.rests(0, 3), "finished is not held");
    }

    #[test]
    fn a_partition_without_any_event_time_holds_nobody() {
        let now = Instant::now();
        let mut clock = PartitionClock::new(&[NONE; 2], &limits(Some(100)), None, now);
        clock.partitions[1].records = Some(now);
        assert_eq!(clock.hold(&[5_000, NONE], now).len(), 0);
    }

    #[test]
    fn nobody_waits_unless_asked_to() {
        let now = Instant::now();
        let mut clock = PartitionClock::new(&[NONE; 2], &limits(None), None, now);
        assert_eq!(clock.hold(&[i64::MAX, i64::MIN], now).len(), 0);
    }
}
