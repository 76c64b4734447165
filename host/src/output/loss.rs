//! Whether the changelog has all that was committed.
//!
//! A topic can be deleted, made anew or cut; the job's consumer group and its local tree outlive that. Offsets are committed with a [`Mark`] of
//! their epoch, in the transaction that writes the epoch to the changelog, so the three can be compared. Where the source is on another cluster
//! than that, or is not Kafka, the group has no offsets of it there: it gets one of a sink's topic, which is only there for its mark.
//!
//! In: what group, changelog and tree say of the last epoch. Out: which of them is believed. **Invariant**: where the group says that rows were
//! counted, a changelog that ends before that is never taken for the job's state.

use crate::output::CommitSpec;
use crate::output::replay::Stored;

/// Names an epoch of a history of the changelog.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    /// See [`Stored::lineage`].
    pub lineage: String,
    /// Number of the epoch.
    pub epoch: u64,
}

impl Mark {
    /// Of what was stored with an epoch.
    pub fn of(stored: &Stored) -> Self {
        Self { lineage: stored.lineage.clone(), epoch: stored.meta.epoch }
    }

    /// Whether it is of the same history, and not before `other`.
    fn reaches(&self, other: &Self) -> bool {
        self.lineage == other.lineage && self.epoch >= other.epoch
    }
}

/// What the consumer group says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Group {
    /// Nothing: the job has committed nothing.
    #[default]
    Silent,
    /// It has offsets; of which epoch, where a job of this version committed them.
    Offsets(Option<Mark>),
}

/// What is known of the last epoch.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// By the consumer group.
    pub group: Group,
    /// By the changelog.
    pub changelog: Option<Mark>,
    /// By the local tree.
    pub tree: Option<Mark>,
    /// The changelog ends before the tree's place in it: records are gone that were there.
    pub is_short: bool,
    /// The changelog was made anew while this process wrote to it.
    pub is_half: bool,
}

/// What is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// The changelog.
    Changelog,
    /// The local tree, which has all that was committed; the changelog has not.
    Tree,
    /// Neither has it.
    Lost,
}

impl Evidence {
    /// What is to be believed.
    pub fn belief(&self) -> Belief {
        let changelog = self.changelog.as_ref().filter(|_| !self.is_half);
        let (Group::Offsets(Some(committed)), tree) = (&self.group, self.tree.as_ref()) else {
            let is_new = changelog.is_none() && self.tree.is_none() && self.group == Group::Silent && !self.is_half;
            return if changelog.is_some() || is_new { Belief::Changelog } else { Belief::Lost };
        };
        let has_all = changelog.is_some_and(|c| c.reaches(committed));
        let tree_has_all = tree.is_some_and(|t| t.reaches(committed) && changelog.is_none_or(|c| c == t || !c.reaches(t)));
        match (has_all && !self.is_short, tree_has_all) {
            (true, _) => Belief::Changelog,
            (false, true) => Belief::Tree,
            // Also a copy of the topic is shorter: its entries are counted.
            (false, false) if has_all => Belief::Changelog,
            (false, false) => Belief::Lost,
        }
    }

    /// What is lost, for people.
    pub fn text(&self, spec: &CommitSpec, changelog: &str) -> String {
        let committed = match &self.group {
            Group::Offsets(mark) => mark.as_ref(),
            Group::Silent => None,
        };
        let has = match &self.changelog {
            None => "has nothing".to_owned(),
            Some(mark) if self.is_half => {
                format!("was made anew while the job ran, and has up to epoch {} only what has changed since", mark.epoch)
            }
            Some(mark) if committed.is_some_and(|c| c.lineage != mark.lineage) => {
                format!("ends with epoch {} of another history", mark.epoch)
            }
            Some(mark) => format!("ends with epoch {}", mark.epoch),
        };
        let said = match (&self.group, &self.tree) {
            (Group::Offsets(Some(mark)), _) => format!("its consumer group's offsets were committed with epoch {}", mark.epoch),
            (Group::Offsets(None), _) => "its consumer group has committed offsets".to_owned(),
            (Group::Silent, Some(mark)) => format!("epoch {} was committed", mark.epoch),
            (Group::Silent, None) => "more was committed".to_owned(),
        };
        let path = spec.tree_path();
        let tree = match &self.tree {
            Some(mark) => format!("the local tree {} has epoch {}, and may be behind", path.display(), mark.epoch),
            None => format!("there is no local tree in {}", path.display()),
        };
        format!(
            "job {}/{}: topic {changelog}, the log of its state, {has}, but {said}. Was the topic deleted, made anew or cut? The state of the rows \
             that were counted is gone with it; {tree}",
            spec.team, spec.name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(of: &str, epoch: u64) -> Option<Mark> {
        Some(Mark { lineage: of.into(), epoch })
    }

    fn belief(group: Option<Option<Mark>>, changelog: Option<Mark>, tree: Option<Mark>) -> Belief {
        Evidence { group: group.map_or(Group::Silent, Group::Offsets), changelog, tree, ..Evidence::default() }.belief()
    }

    #[test]
    fn the_changelog_is_believed_where_it_has_what_the_group_says() {
        let group = || Some(mark("a", 5));
        assert_eq!(belief(None, None, None), Belief::Changelog, "a new job");
        assert_eq!(belief(group(), mark("a", 5), mark("a", 4)), Belief::Changelog);
        assert_eq!(belief(group(), mark("a", 5), mark("b", 9)), Belief::Changelog, "a tree of an older history");
        assert_eq!(belief(Some(None), mark("a", 5), None), Belief::Changelog, "offsets that were set by hand");
        assert_eq!(belief(group(), mark("a", 6), mark("a", 5)), Belief::Changelog, "a while without the group");
    }

    #[test]
    fn the_tree_is_believed_where_only_it_has_what_the_group_says() {
        let group = || Some(mark("a", 5));
        assert_eq!(belief(group(), None, mark("a", 5)), Belief::Tree);
        assert_eq!(belief(group(), mark("a", 3), mark("a", 5)), Belief::Tree, "a changelog that was cut");
        let group = Group::Offsets(mark("a", 5));
        let same = Evidence { group, changelog: mark("a", 5), tree: mark("a", 5), ..Evidence::default() };
        assert_eq!(same.belief(), Belief::Changelog);
        assert_eq!(Evidence { is_short: true, ..same.clone() }.belief(), Belief::Tree);
        assert_eq!(Evidence { is_half: true, ..same.clone() }.belief(), Belief::Tree);
        let behind = Evidence { tree: mark("a", 4), ..same };
        assert_eq!(Evidence { is_short: true, ..behind.clone() }.belief(), Belief::Changelog, "its entries are counted");
        assert_eq!(Evidence { is_half: true, ..behind }.belief(), Belief::Lost);
    }

    #[test]
    fn state_that_nobody_has_is_lost() {
        let group = || Some(mark("a", 5));
        assert_eq!(belief(group(), None, None), Belief::Lost);
        assert_eq!(belief(group(), None, mark("a", 4)), Belief::Lost);
        assert_eq!(belief(group(), mark("b", 7), mark("c", 7)), Belief::Lost);
        assert_eq!(belief(Some(None), None, mark("a", 5)), Belief::Lost, "whether the tree is behind can't be told");
        assert_eq!(belief(None, None, mark("a", 5)), Belief::Lost);
    }
}
