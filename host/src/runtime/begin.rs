//! How a job is told to begin: from a savepoint, at another place of its input, without the state of an operator.
//!
//! In: what was committed, and the flags. Out: one commit that puts the new state in the place of the old one, whole or not at all; then
//! the job goes on as after any restart. **Invariant**: what was told is done once. A process that is started again with the same flags
//! (by a supervisor, after a crash) finds in its state that it has been done, and goes on.

use super::carry;
use crate::element::PartitionName;
use crate::error::{Error, Kind};
use crate::ingest::Source;
use crate::ingest::start::StartFrom;
use crate::output::{Change, Committer, EpochCommit, Meta};
use crate::plan::Plan;
use crate::runtime::core::operator_of;
use crate::runtime::job::{Break, commit_break, ingest_break};
use crate::state::bulk::Bulk;
use crate::state::codec::stable_hash;
use crate::state::savepoint::Savepoint;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// What the user asks for.
#[derive(Clone, Debug, Default)]
pub struct Begin {
    /// A savepoint whose state is taken.
    pub restore: Option<PathBuf>,
    /// Replace the state that the job has by the savepoint's.
    pub replace: bool,
    /// Where to read from, with the words of the user.
    pub from: Option<(StartFrom, String)>,
    /// Operators whose state is dropped.
    pub drop: Vec<String>,
    /// Keep state although the input is read from another place.
    pub keep: bool,
    /// Do it once more, although it has been done.
    pub again: bool,
}

/// A state to begin with.
#[derive(Default)]
struct Base {
    entries: Vec<Change>,
    meta: Option<Meta>,
}

/// What a job begins with.
pub struct Begun {
    /// Its state.
    pub entries: Vec<Change>,
    /// Its position.
    pub meta: Option<Meta>,
    /// Goes into [`Meta::begun`].
    pub how: Option<String>,
}

/// What is committed, and what it is put in the place of.
pub struct Around<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The source.
    pub source: &'a mut dyn Source,
    /// The committer, restored.
    pub committer: &'a mut dyn Committer,
    /// Next offset of each partition where nothing else is known.
    pub starts: &'a [i64],
}

fn config(text: String) -> Break {
    Break::Fatal(Error::new(Kind::Config, text))
}

impl Begin {
    /// Whether anything is asked for.
    pub fn is_empty(&self) -> bool {
        self.restore.is_none() && self.from.is_none() && self.drop.is_empty()
    }

    /// Whether it says what becomes of state that is lost.
    pub(super) fn replaces_state(&self, plan: &Plan) -> bool {
        let all_dropped = !self.drop.is_empty() && plan.operators().keys().all(|name| self.drop.contains(name));
        self.restore.is_some() || all_dropped || (self.from.is_some() && self.drop.is_empty() && !self.keep)
    }

    /// What is asked for, as a text that is the same for the same; `id` is the savepoint's.
    fn how(&self, id: &str, plan: &Plan) -> String {
        let mut drop = self.drop.clone();
        drop.sort_unstable();
        let from = self.from.as_ref().map_or("", |(_, text)| text);
        format!(
            "restore={id} from={from} drop={} keep={} layout={:016x}",
            drop.join(","),
            self.keep,
            stable_hash(plan.chain().map(|p| p.layout.as_str()).collect::<Vec<_>>().join("\n").as_bytes())
        )
    }

    /// Whether `begun` tells of all that is asked for, with whichever savepoint.
    fn is_done(&self, begun: &str, plan: &Plan) -> bool {
        let id = begun.strip_prefix("restore=").and_then(|b| b.split(' ').next());
        id.is_some_and(|id| !id.is_empty() && begun == self.how(id, plan))
    }

    /// Does what is asked for with the state that was committed.
    ///
    /// # Errors
    /// What is ambiguous or can't be; nothing has changed then.
    pub(super) fn apply(&self, old: Vec<Change>, meta: Option<Meta>, around: Around<'_>) -> Result<Begun, Break> {
        let before = meta.as_ref().and_then(|m| m.begun.clone()).filter(|_| !self.again);
        let mut savepoint = match &self.restore {
            // A file that is gone by now is not needed where it has been restored.
            Some(path) if path.exists() || !before.as_ref().is_some_and(|b| self.is_done(b, around.plan)) => {
                Some(Savepoint::open(path).map_err(|e| Break::Fatal(Error::new(e.kind(), e.to_string())))?)
            }
            _ => None,
        };
        let id = savepoint.as_ref().map(Savepoint::id);
        let how = match (id, before.as_deref()) {
            (None, Some(before)) if self.restore.is_some() => before.to_owned(),
            (id, _) => self.how(&id.unwrap_or_default(), around.plan),
        };
        if before.as_ref() == Some(&how) {
            tracing::info!(
                "this start's --restore, --from and --drop-state have been done before: going on from where the job stands (--again does them once more)"
            );
            return Ok(Begun { entries: old, meta, how: Some(how) });
        }
        let old_epoch = meta.as_ref().map_or(0, |m| m.epoch);
        let base = match &mut savepoint {
            Some(savepoint) => self.restored(savepoint, meta.as_ref())?,
            None => Base { entries: old.clone(), meta },
        };
        let Around { plan, source, committer, starts } = around;
        let partitions = source.partitions().to_vec();
        let base = self.carried(base, plan)?;
        let asked = match &self.from {
            Some((from, _)) => source.positions_at(from).map_err(ingest_break)?,
            None => vec![None; partitions.len()],
        };
        self.check_state(&base, plan)?;
        self.check_partitions(&base, &partitions, &asked)?;
        let mut new = self.meta(base.meta.unwrap_or_default(), &partitions, &asked, base.entries.is_empty());
        new.epoch = new.epoch.max(old_epoch) + 1;
        new.layout.clone_from(&plan.layout);
        new.operators = plan.operators();
        new.begun = Some(how.clone());
        new.entries = Some(base.entries.len() as u64);
        let positions = positions(&mut new, &partitions, starts);
        let changes = changes(old, &base.entries);
        tracing::info!(epoch = new.epoch, entries = base.entries.len(), changes = changes.len(), "beginning as told: {how}");
        let commit = EpochCommit { epoch: new.epoch, changes, positions, meta: new.clone(), ..EpochCommit::default() };
        committer.commit(commit).map_err(commit_break)?;
        Ok(Begun { entries: base.entries, meta: Some(new), how: Some(how) })
    }

    /// The state of a savepoint.
    fn restored(&self, savepoint: &mut Savepoint, meta: Option<&Meta>) -> Result<Base, Break> {
        if let (Some(meta), false) = (meta, self.replace) {
            return Err(config(format!(
                "the job has state of its own (it stands after epoch {}), which --restore would replace by the savepoint of {}, epoch {}: add \
                 --replace to do that (take a savepoint first, if in doubt), or give the job another name",
                meta.epoch,
                savepoint.header().job(),
                savepoint.header().meta.epoch
            )));
        }
        let mut entries = Vec::new();
        savepoint.entries(&mut |e| entries.push(e)).map_err(|e| Break::Fatal(Error::new(e.kind(), e.to_string())))?;
        Ok(Base { entries, meta: Some(savepoint.header().meta.clone()) })
    }

    /// `base` without the state that is dropped; refused where the pipeline can't go on with what is left.
    fn carried(&self, mut base: Base, plan: &Plan) -> Result<Base, Break> {
        let mut stored = base.meta.as_ref().map(|m| carry::stored(m, plan)).unwrap_or_default();
        let now = plan.operators();
        if let Some(unknown) = self.drop.iter().find(|d| !stored.contains_key(*d) && !now.contains_key(*d)) {
            let known: BTreeMap<_, _> = stored.iter().chain(&now).collect();
            let known = crate::config::operators::unknown(unknown, known.keys().copied());
            return Err(config(format!("--drop-state {unknown}: no operator has this name; {known}")));
        }
        let dropped: Vec<&String> = stored.keys().filter(|name| self.drop.contains(name)).collect();
        if !dropped.is_empty() {
            let behind = base.meta.as_ref().map_or(&[][..], |m| m.behind.as_slice());
            let count = base.entries.len();
            // The first operator is the one that stands behind none.
            let is_dropped = |number: u8| match usize::from(number).checked_sub(1) {
                Some(at) => behind.get(at).is_none_or(|b| self.drop.contains(&b.operator)),
                None => dropped.iter().any(|name| behind.iter().all(|b| b.operator != **name)),
            };
            base.entries.retain(|entry| !is_dropped(operator_of(&entry.key).map_or(0, |(number, _)| number)));
            tracing::warn!(
                entries = count - base.entries.len(),
                "the state of {} is dropped: windows that were open count only what comes from now on",
                self.drop.join(", ")
            );
            stored.retain(|name, _| !self.drop.contains(name));
        }
        if !base.entries.is_empty() {
            let differences = carry::differences(&stored, &now);
            if !differences.is_empty() {
                return Err(config(carry::refusal(&differences)));
            }
        }
        Ok(base)
    }

    /// Another place of the input with state: what of it counts twice, or is missing, must be the user's word.
    fn check_state(&self, base: &Base, plan: &Plan) -> Result<(), Break> {
        let Some((_, from)) = &self.from else { return Ok(()) };
        if base.entries.is_empty() || self.keep {
            return Ok(());
        }
        let names = |between: &str| plan.chain().map(|p| p.operator.as_str()).collect::<Vec<_>>().join(between);
        Err(config(format!(
            "--from {from}: the job has state ({} entries of `{}`) of the rows before. Say what becomes of it: --drop-state {} begins all windows \
             anew, and results that went out before may come again; --keep-state goes on with it, and rows that are read again count again, \
             and rows that are skipped are missing",
            base.entries.len(),
            names("`, `"),
            names(" --drop-state ")
        )))
    }

    /// A savepoint of another input.
    fn check_partitions(&self, base: &Base, partitions: &[PartitionName], asked: &[Option<i64>]) -> Result<(), Break> {
        let Some(meta) = &base.meta else { return Ok(()) };
        let known: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        let foreign: Vec<&str> = meta.positions.keys().filter(|p| !known.contains(p)).map(String::as_str).collect();
        if foreign.is_empty() || asked.iter().all(Option::is_some) {
            return Ok(());
        }
        Err(config(format!(
            "the state goes with {}, which the pipeline's source has not (it has {}): name that source, or say with --from where in this one to \
             begin",
            foreign.join(", "),
            known.join(", ")
        )))
    }

    /// The position to begin at. Watermarks go with the state: without it they begin anew where the input does.
    fn meta(&self, mut meta: Meta, partitions: &[PartitionName], asked: &[Option<i64>], empty: bool) -> Meta {
        if meta.format == 0 {
            meta = Meta { format: 1, closed: i64::MIN, ..meta };
        }
        let names = partitions.iter().map(ToString::to_string).zip(asked);
        let anew = self.from.is_some() && empty && !self.keep;
        for (name, position) in names.filter_map(|(n, p)| Some((n, (*p)?))) {
            if anew {
                meta.watermarks.remove(&name);
            }
            meta.positions.insert(name, position);
        }
        if anew {
            meta.closed = i64::MIN;
            meta.behind.clear();
        }
        meta
    }
}

/// Next offset of each partition; partitions that are new begin where the source says, those that are gone are forgotten.
fn positions(meta: &mut Meta, partitions: &[PartitionName], starts: &[i64]) -> Vec<i64> {
    let names: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    let position = |(name, start): (&String, &i64)| meta.positions.get(name).copied().unwrap_or(*start);
    let positions: Vec<i64> = names.iter().zip(starts).map(position).collect();
    meta.positions = names.iter().cloned().zip(positions.iter().copied()).collect();
    meta.watermarks.retain(|name, _| names.contains(name));
    positions
}

/// From the state `old` to the state `new`.
fn changes(old: Vec<Change>, new: &[Change]) -> Bulk {
    let mut before: HashMap<(u16, Vec<u8>), Option<Vec<u8>>, ahash::RandomState> =
        old.into_iter().map(|c| ((c.shard, c.key), c.value)).collect();
    let mut changes = Bulk::default();
    for entry in new {
        if before.remove(&(entry.shard, entry.key.clone())).as_ref() != Some(&entry.value) {
            changes.push(entry.shard, &entry.key, entry.value.as_deref());
        }
    }
    before.into_keys().for_each(|(shard, key)| changes.push(shard, &key, None));
    changes
}
