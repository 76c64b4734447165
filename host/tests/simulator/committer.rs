//! Commits of a process: one transaction an epoch, and the changelog back at a restart. Where the protocol can fail, it does.

use crate::broker::{META_KEY, Produced, position};
use crate::disk::Disk;
use crate::mutants::Mutant;
use crate::world::{Refusal, Shared, State};
use kindling::limits::STATE_SHARDS;
use kindling::output::replay::{Place, Stored};
use kindling::output::{Change, CommitError, Committer, EpochCommit, Meta, OutRecord};
use kindling::runtime::core::operator_of;
use std::collections::BTreeMap;

/// The committer of one process.
pub struct SimCommitter {
    pub shared: Shared,
    pub process: usize,
    /// Of the producer, from the last restore.
    pub epoch: Option<u64>,
    /// The local tree; a run without one is much quicker.
    pub disk: Option<Disk>,
}

pub fn commit_error(what: &str, refusal: Refusal) -> CommitError {
    match refusal {
        Refusal::Fenced => CommitError::Fenced(format!("{what}: another process runs this job now")),
        Refusal::Dead | Refusal::Away | Refusal::Failed => CommitError::Aborted(format!("{what}: {refusal:?}")),
    }
}

impl State {
    /// A step of the producer with this epoch.
    fn producer(&mut self, process: usize, epoch: Option<u64>, what: &str) -> Result<(), Refusal> {
        self.io(process, what)?;
        let ignored = self.mutant == Some(Mutant::FenceIgnored);
        if epoch == Some(self.broker.epoch) || ignored {
            return Ok(());
        }
        self.processes[process].may_fail = true;
        self.note(process, format!("{what}: fenced"));
        Err(Refusal::Fenced)
    }

    fn begins(&mut self, process: usize) -> Result<u64, Refusal> {
        self.io(process, "init of the producer")?;
        let epoch = self.broker.init_producer();
        self.note(process, format!("fences others: epoch {epoch} of the producer"));
        Ok(epoch)
    }

    fn produce(&mut self, topic: &'static str, records: &[OutRecord]) {
        let times = if self.mutant == Some(Mutant::OutputsTwice) && self.random.one_in(3) { 2 } else { 1 };
        let value = |r: &OutRecord| (!r.is_tombstone).then(|| r.value.clone());
        let produced = records.iter().map(|r| Produced { topic, key: r.key.clone(), value: value(r) });
        for record in produced {
            let open = self.broker.open.get_or_insert_default();
            open.produced.extend(std::iter::repeat_n(record, times));
        }
    }

    /// The last step of a transaction: takes effect, or not, and is told, or not.
    fn commits(&mut self, process: usize, epoch: Option<u64>, number: u64) -> Result<(), Refusal> {
        self.producer(process, epoch, "commit")?;
        let lost = self.mutant == Some(Mutant::CommitLost) && self.random.one_in(4);
        if self.fault(25) || lost {
            self.broker.abort();
            self.note(process, format!("commit of epoch {number} fails"));
            return if lost { Ok(()) } else { Err(Refusal::Failed) };
        }
        match self.broker.commit() {
            Ok(()) => self.committed(process),
            Err(why) => self.fail(why),
        }
        if self.fault(25) {
            self.note(process, format!("commit of epoch {number} took effect, and is told as failed"));
            return Err(Refusal::Failed);
        }
        if self.fault(40) {
            self.crash(process, "commit, which took effect");
            return Err(Refusal::Dead);
        }
        Ok(())
    }
}

impl SimCommitter {
    fn transact(&self, commit: &EpochCommit, stored: &[u8]) -> Result<Place, Refusal> {
        let mut state = self.shared.lock();
        state.producer(self.process, self.epoch, "begin")?;
        state.produce("sink", &commit.outputs);
        for (_, rows) in &commit.named {
            // The one that there is.
            state.produce("quiet", rows);
        }
        state.produce("late", &commit.late);
        state.produce("rejects", &commit.rejects);
        let time = state.now_ms();
        let mut place = Place { offsets: BTreeMap::new(), time: Some(time) };
        let later_lost = state.mutant == Some(Mutant::LaterChangesLost) && state.random.one_in(6);
        for (shard, key, value) in commit.changes.iter() {
            let lost =
                state.mutant == Some(Mutant::ChangeLost) && state.random.one_in(20) || later_lost && operator_of(key).is_some();
            if !lost {
                let offset = state.broker.log(usize::from(shard), key, value, time);
                place.offsets.insert(i32::from(shard), offset);
            }
        }
        place.offsets.insert(0, state.broker.log(0, META_KEY, Some(stored), time));
        state.producer(self.process, self.epoch, "records")?;
        if state.mutant != Some(Mutant::OffsetsLeftOut) || !state.random.one_in(3) {
            state.broker.open.get_or_insert_default().offsets = Some(commit.positions.clone());
        }
        state.commits(self.process, self.epoch, commit.epoch)?;
        Ok(place)
    }

    /// The committed state by way of the disk: it must be the same.
    fn by_disk(&mut self, table: &BTreeMap<(usize, Vec<u8>), Vec<u8>>) -> Result<(), CommitError> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let mut state = self.shared.lock();
        let now = state.now_ms();
        let entries = disk.restore(&state.broker, now)?;
        let of = |c: Change| ((usize::from(c.shard), c.key), c.value.unwrap_or_default());
        let entries: BTreeMap<(usize, Vec<u8>), Vec<u8>> = entries.into_iter().map(of).collect();
        if entries != *table {
            state.fail(format!(
                "the local tree gives back {} slots that are others than the changelog's {}",
                entries.len(),
                table.len()
            ));
        }
        Ok(())
    }
}

impl Committer for SimCommitter {
    fn restore(&mut self, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, CommitError> {
        let (table, meta) = {
            let mut state = self.shared.lock();
            self.epoch = Some(state.begins(self.process).map_err(|r| commit_error("init", r))?);
            state.io(self.process, "replay").map_err(|r| commit_error("replay", r))?;
            if state.random.one_in(4) {
                let now = state.now_ms();
                (0..usize::from(STATE_SHARDS)).for_each(|shard| state.broker.compact(shard, now));
            }
            let last = state.broker.changelog[0].records.iter().rev().find(|r| r.key == META_KEY);
            let meta = last.and_then(|r| r.value.as_deref()).map(position).transpose().map_err(CommitError::Corrupt)?;
            let meta = meta.map(|meta| spoiled(meta, &mut state));
            let (table, at) = (state.broker.table(), meta.as_ref().map(|m| (m.epoch, m.positions.clone())));
            state.note(self.process, format!("restores {} slots, {at:?}", table.len()));
            (table, meta)
        };
        self.by_disk(&table)?;
        let later_lost = self.shared.lock().mutant == Some(Mutant::LaterStateLost);
        for ((shard, key), value) in table.into_iter().filter(|((_, key), _)| !later_lost || operator_of(key).is_none()) {
            each(Change { shard: shard as u16, key, value: Some(value) });
        }
        Ok(meta)
    }

    fn commit(&mut self, commit: EpochCommit) -> Result<(), CommitError> {
        let stored = Stored { lineage: "one".into(), meta: commit.meta.clone() };
        let stored = serde_json::to_vec(&stored).map_err(|e| CommitError::Corrupt(e.to_string()))?;
        let outcome = self.transact(&commit, &stored);
        let mut state = self.shared.lock();
        match outcome {
            Ok(place) => {
                let (is_full, writes) = (state.fault(200), state.random.one_in(3));
                if let Some(disk) = &mut self.disk {
                    if is_full {
                        disk.fill();
                    }
                    disk.follow(commit.changes, stored, place, writes);
                }
                Ok(())
            }
            Err(refusal) => {
                // What can't be aborted now is aborted by the next producer.
                if refusal == Refusal::Failed && self.epoch == Some(state.broker.epoch) {
                    state.broker.abort();
                }
                Err(commit_error("commit", refusal))
            }
        }
    }
}

impl Drop for SimCommitter {
    fn drop(&mut self) {
        let is_dead = self.shared.lock().processes[self.process].is_dead;
        if let Some(disk) = &mut self.disk {
            disk.close(!is_dead);
        }
    }
}

/// The position as the mutants give it back.
pub fn spoiled(mut meta: Meta, state: &mut State) -> Meta {
    match state.mutant {
        Some(Mutant::WatermarksLost) => meta.watermarks.clear(),
        Some(Mutant::ClosedLost) => meta.closed = i64::MIN,
        Some(Mutant::RowAgain) => meta.positions.values_mut().take(1).for_each(|p| *p = (*p - 1).max(0)),
        Some(Mutant::RowSkipped) => meta.positions.values_mut().take(1).for_each(|p| *p += 1),
        _ => {}
    }
    meta
}
