//! The committed state back, from changelog and local tree: whichever has it.

use super::{KafkaCommitter, SERVE_EVERY, to_json};
use crate::output::files::{CLAIMS, FileSinks};
use crate::output::local::roles;
use crate::output::loss::{Belief, Evidence, Group, Mark};
use crate::output::replay::{self, Followed, Known, Place, Replayed, Stored};
use crate::output::transaction::Transactions;
use crate::output::{Change, CommitError, Meta, RestoreProgress, RestoreStep, topics};
use crate::state::tree::Tree;
use crate::time::now_ms;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// Entries of the local tree between two looks at the clock.
const TELL_EVERY: u64 = 10_000;
/// Bytes of keys and states in one transaction of a changelog that is made anew: far less than `transaction.timeout.ms` allows.
const REBUILT_AT_ONCE: usize = 64 << 20;
/// How long the broker may take to give the group's offsets.
const ASK: Duration = Duration::from_secs(10);

impl KafkaCommitter {
    /// From the changelog to the tree to `each`; where all of the changelog is read and `as_read`, at once to both.
    pub(super) fn load(
        &mut self,
        transactions: &Transactions,
        tree: &mut Tree,
        as_read: bool,
        each: &mut dyn FnMut(Change),
    ) -> Result<Option<Meta>, CommitError> {
        let (offsets, group) = self.committed()?;
        let mut evidence = Evidence { group, is_half: self.is_half, ..Evidence::default() };
        let replayed = match self.followed(transactions, tree, &offsets, &mut evidence)? {
            Some(replayed) => replayed,
            None => {
                let taking = as_read.then_some(&mut *each);
                replay::read_all(&self.properties, &self.changelog, tree, &mut self.watch, taking)?
            }
        };
        let Replayed { stored, place, records, given } = replayed;
        tracing::info!(records, "replayed {}", self.changelog);
        evidence.changelog = stored.as_ref().map(Mark::of);
        if evidence.belief() == Belief::Lost {
            self.loses(&evidence)?;
        }
        self.is_half = false;
        if !given {
            self.load_tree(tree, each)?;
        }
        let meta = stored.as_ref().map(|s| s.meta.clone());
        self.lineage = stored.map_or_else(replay::new_lineage, |s| s.lineage);
        self.place = place;
        self.files = FileSinks::open(&roles(&self.spec), meta.as_ref().map(|m| &m.files), tree)?;
        Ok(meta)
    }

    /// Brings the tree to the end of the changelog, or the changelog to that of the tree. None: the tree is empty now, all is to be read.
    fn followed(
        &mut self,
        transactions: &Transactions,
        tree: &mut Tree,
        offsets: &[Option<i64>],
        evidence: &mut Evidence,
    ) -> Result<Option<Replayed>, CommitError> {
        let Some(known) = Known::of(tree)? else {
            tree.clear(&CLAIMS)?;
            return Ok(None);
        };
        evidence.tree = Some(Mark::of(&known.stored));
        match replay::catch_up(&self.properties, &self.changelog, tree, &known, now_ms(), &mut self.watch)? {
            Followed::Whole(replayed) if !self.is_half => return Ok(Some(*replayed)),
            Followed::Old if !self.is_half => {
                tracing::info!("the local tree is too far behind {}: reading all of it", self.changelog);
                tree.clear(&CLAIMS)?;
                return Ok(None);
            }
            Followed::Short => evidence.is_short = true,
            _ => {}
        }
        evidence.changelog = replay::last(&self.properties, &self.changelog)?.as_ref().map(Mark::of);
        match evidence.belief() {
            Belief::Tree => return self.rebuild(transactions, tree, &known.stored, offsets, evidence).map(Some),
            Belief::Changelog => {
                tracing::info!("the local tree has another history than {}: reading all of it", self.changelog);
            }
            Belief::Lost => self.loses(evidence)?,
        }
        tree.clear(&[])?;
        Ok(None)
    }

    /// The whole state from the tree to a changelog that has lost it, as another history: trees elsewhere follow the lost one.
    fn rebuild(
        &self,
        transactions: &Transactions,
        tree: &Tree,
        stored: &Stored,
        offsets: &[Option<i64>],
        evidence: &mut Evidence,
    ) -> Result<Replayed, CommitError> {
        let stored = Stored { lineage: replay::new_lineage(), meta: stored.meta.clone() };
        let (mark, json) = (Mark::of(&stored), to_json(&stored)?);
        let (mut place, mut records, mut bytes, mut failed) = (Place::default(), 0, 0, None);
        transactions.begin()?;
        let mut send = |Change { shard, key, value }: Change| -> Result<(), CommitError> {
            transactions.send(&self.changelog, Some(i32::from(shard)), Some(&key), value.as_deref())?;
            records += 1;
            bytes += key.len() + value.map_or(0, |v| v.len());
            if records % SERVE_EVERY as u64 == 0 {
                transactions.poll();
            }
            if bytes >= REBUILT_AT_ONCE {
                bytes = 0;
                place.advance(transactions.commit(None)?.last);
                transactions.begin()?;
            }
            Ok(())
        };
        tree.entries(&mut |entry| {
            if failed.is_none() {
                failed = send(entry).err();
            }
        })?;
        let written = match failed {
            Some(why) => Err(why),
            None => self.finish(transactions, offsets.iter().copied(), &mark, &json),
        };
        place.advance(written.map_err(|why| transactions.abort(why))?.last);
        replay::note(tree, [], &json, &place)?;
        tracing::warn!(
            entries = records,
            "topic {} of job {}/{} had lost the state: was it deleted, made anew or cut? It is written anew from the local tree, which has all that \
             was committed",
            self.changelog,
            self.spec.team,
            self.spec.name
        );
        evidence.group = Group::Offsets(Some(mark));
        (evidence.is_short, evidence.is_half) = (false, false);
        Ok(Replayed { stored: Some(stored), place, records, given: false })
    }

    /// State is lost: an error, where the user has not said what to begin with.
    fn loses(&self, evidence: &Evidence) -> Result<(), CommitError> {
        let text = evidence.text(&self.spec, &self.changelog);
        if !self.accepts_loss {
            return Err(CommitError::Lost(text));
        }
        tracing::warn!("{text}. The job begins as it was told, without it");
        Ok(())
    }

    /// The group's offset of each partition (of the witness, where there is one), and the mark that one of them has. After the fence: until then what an earlier process was
    /// about to commit is in the balance.
    fn committed(&self) -> Result<(Vec<Option<i64>>, Group), CommitError> {
        let partitions = self.witness.as_ref().map_or(self.spec.partitions.as_slice(), std::slice::from_ref);
        let mut list = TopicPartitionList::new();
        for name in partitions {
            list.add_partition(&name.topic, name.partition);
        }
        let bad = |e: KafkaError| topics::unreachable(&self.properties, &format!("offsets of group {}", self.id), &e);
        let list = self.group.0.committed_offsets(list, ASK).map_err(bad)?;
        let (mut offsets, mut mark) = (Vec::new(), None);
        for name in partitions {
            let found = list.find_partition(&name.topic, name.partition);
            found.as_ref().map_or(Ok(()), |f| f.error()).map_err(bad)?;
            let offset = found.as_ref().map(|f| f.offset());
            offsets.push(if let Some(Offset::Offset(at)) = offset { Some(at) } else { None });
            mark = mark.or_else(|| found.and_then(|f| serde_json::from_str(f.metadata()).ok()));
        }
        let is_silent = offsets.iter().all(Option::is_none);
        Ok((offsets, if is_silent { Group::Silent } else { Group::Offsets(mark) }))
    }

    /// All entries of the tree to `each`.
    fn load_tree(&mut self, tree: &Tree, each: &mut dyn FnMut(Change)) -> Result<(), CommitError> {
        let (started, mut records, mut told) = (Instant::now(), 0, Duration::ZERO);
        let step = RestoreStep::LocalTree;
        let watch = &mut self.watch;
        tree.entries(&mut |entry| {
            each(entry);
            records += 1;
            if records % TELL_EVERY == 0 && started.elapsed() > told + Duration::from_millis(250) {
                told = started.elapsed();
                watch(&RestoreProgress { step, records, share: None, elapsed: told, done: false });
            }
        })?;
        watch(&RestoreProgress { step, records, share: Some(1.0), elapsed: started.elapsed(), done: true });
        Ok(())
    }
}
