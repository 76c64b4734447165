//! What is stored of a job, and taken back: entries of the operators' state by their number, and what stands beside it.
//!
//! An entry of the first operator with state begins with its pane. Those of the later ones begin with a mark before that: seven bytes that no
//! start of a pane has (it would be past the year 292,000,000), and the operator's number.

use super::JobCore;
use crate::config::spec::Emit;
use crate::output::{BehindMeta, Change, Meta};
use crate::runtime::carry;
use crate::state::savepoint::{self, Header};
use crate::state::spill::SpillError;
use crate::state::store::LoadError;
use std::collections::BTreeMap;

/// Version of [`Meta`].
const META_FORMAT: u32 = 1;
/// Before the operator's number.
const MARK: [u8; 7] = [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

/// The number of the operator that an entry is of, and what follows it; none where it is the first.
pub fn operator_of(key: &[u8]) -> Option<(u8, &[u8])> {
    key.strip_prefix(&MARK).and_then(<[u8]>::split_first).map(|(number, key)| (*number, key))
}

impl JobCore {
    /// What stands before the keys of this operator's entries.
    pub(super) fn prefix(&self) -> Vec<u8> {
        if self.number == 0 { Vec::new() } else { [&MARK[..], &[self.number]].concat() }
    }

    fn behind_meta(&self) -> BehindMeta {
        let first = |of: &[i64], without: i64| of.first().copied().unwrap_or(without);
        BehindMeta {
            operator: self.plan.operator.clone(),
            rows: first(&self.positions, 0),
            watermark: first(&self.watermarks, i64::MIN),
            closed: self.closed,
        }
    }

    /// Takes back one entry of the committed state.
    ///
    /// # Errors
    /// When it does not read back, or there is no room for it.
    pub fn load(&mut self, entry: Change) -> Result<(), LoadError> {
        let Some((number, key)) = operator_of(&entry.key) else { return self.store.load(entry) };
        let entry = Change { key: key.to_vec(), ..entry };
        let mut core = Some(&mut *self);
        while let Some(one) = core {
            if one.number == number {
                return one.store.load(entry);
            }
            core = one.next.as_mut().map(|next| &mut next.core);
        }
        // Told with what was stored beside it: see [`JobCore::restore`].
        self.has_foreign = true;
        Ok(())
    }

    /// Begins at `positions`, one a partition.
    pub fn start_at(&mut self, positions: Vec<i64>) {
        self.positions = positions;
    }

    /// Takes back what was stored with the state; partitions that it does not know keep their position.
    ///
    /// # Errors
    /// When the state was made by a pipeline whose state is another.
    pub fn restore(&mut self, meta: &Meta) -> Result<(), String> {
        if meta.format > META_FORMAT {
            return Err(format!(
                "the stored state has format {}, this program reads up to {META_FORMAT}: use a newer one",
                meta.format
            ));
        }
        if self.has_foreign || self.operators().any(|core| core.store.slots() > 0) {
            carry::check(meta, &self.plan)?;
        }
        for (i, name) in self.partitions.iter().enumerate() {
            let name = name.to_string();
            self.positions[i] = meta.positions.get(&name).copied().unwrap_or(self.positions[i]);
            self.watermarks[i] = meta.watermarks.get(&name).copied().unwrap_or(i64::MIN);
        }
        self.closed = meta.closed;
        self.take_back(meta)?;
        let mut next = self.next.as_mut();
        while let Some(one) = next {
            let core = &mut one.core;
            if let Some(stored) = meta.behind.iter().find(|b| b.operator == core.plan.operator) {
                (core.positions, core.watermarks, core.closed) = (vec![stored.rows], vec![stored.watermark], stored.closed);
            }
            core.take_back(meta)?;
            next = core.next.as_mut();
        }
        Ok(())
    }

    /// What all operators share of what was stored; after that their own.
    fn take_back(&mut self, meta: &Meta) -> Result<(), String> {
        self.now = meta.now;
        self.epoch = meta.epoch;
        if let Some(closer) = self.closer.as_ref().filter(|c| matches!(c.window().emit, Emit::Early(_))) {
            self.emission.apply(closer.all_changed(&self.store, self.closed).map_err(|e| e.to_string())?);
        }
        Ok(())
    }

    /// What is stored with the state of how the process was told to begin: see [`Meta::begun`].
    pub fn begun(&mut self, how: Option<String>) {
        self.begun = how;
    }

    /// Appends the state as of the last epoch to `savepoint` (see [`crate::state::savepoint`]), all of it or one key's (encoded); gives
    /// the number of entries, none where `bytes_max` would be passed.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn copy(
        &self,
        header: impl FnOnce(Meta) -> Header,
        key: Option<&[u8]>,
        bytes_max: usize,
        savepoint: &mut Vec<u8>,
    ) -> Result<Option<u64>, SpillError> {
        savepoint::begin(&header(self.meta()), savepoint);
        let mut count = 0;
        for core in self.operators() {
            let Some(entries) = core.store.copy(&core.prefix(), key, bytes_max, savepoint)? else { return Ok(None) };
            count += entries;
        }
        Ok(Some(count))
    }

    pub(super) fn meta(&self) -> Meta {
        let named = |values: &[i64], known: fn(i64) -> bool| -> BTreeMap<String, i64> {
            self.partitions.iter().zip(values).filter(|(_, v)| known(**v)).map(|(n, v)| (n.to_string(), *v)).collect()
        };
        Meta {
            format: META_FORMAT,
            epoch: self.epoch,
            positions: named(&self.positions, |_| true),
            watermarks: named(&self.watermarks, |w| w != i64::MIN),
            closed: self.closed,
            now: self.now,
            layout: self.plan.layout.clone(),
            operators: self.plan.operators(),
            behind: self.operators().skip(1).map(Self::behind_meta).collect(),
            begun: self.begun.clone(),
            entries: Some(self.operators().map(|core| core.store.slots() as u64).sum()),
            files: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_first_operator_have_no_mark() {
        let first = [&crate::operator::assigner::EVENT_TIME_MAX.to_be_bytes()[..], b"rest of a key"].concat();
        assert_eq!(operator_of(&first), None);
        assert_eq!(operator_of(&[&MARK[..], &[2], b"key"].concat()), Some((2, &b"key"[..])));
        assert_eq!(operator_of(&MARK), None);
        assert_eq!(operator_of(b""), None);
    }
}
