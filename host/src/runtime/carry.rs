//! Whether a pipeline can go on with stored state: operator by operator, found by name.
//!
//! In: the layouts that were stored with the state, those of a plan. Out: what differs, for people.

use crate::output::Meta;
use crate::plan::Plan;
use std::collections::BTreeMap;

/// The layout of what a pipeline without state stores.
const STATELESS: &str = "stateless";

/// An operator whose stored state the pipeline can't go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Name of the operator.
    pub operator: String,
    /// What differs, line by line.
    pub text: String,
}

/// The operators that have stored state. What was stored before operators had names belongs to the one that `plan` has.
pub fn stored(meta: &Meta, plan: &Plan) -> BTreeMap<String, String> {
    if meta.operators.is_empty() && !meta.layout.is_empty() && meta.layout != STATELESS {
        return [(plan.operator.clone(), meta.layout.clone())].into();
    }
    meta.operators.clone()
}

/// What a pipeline with the operators `now` can't go on with.
pub fn differences(stored: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<Difference> {
    let differ = |(name, layout): (&String, &String)| match now.get(name) {
        Some(same) if same == layout => None,
        Some(other) => Some(Difference { operator: name.clone(), text: lines(layout, other) }),
        None => Some(Difference { operator: name.clone(), text: gone(name, layout, now) }),
    };
    stored.iter().filter_map(differ).collect()
}

fn gone(name: &str, layout: &str, now: &BTreeMap<String, String>) -> String {
    let renamed = now.iter().find(|(_, l)| *l == layout);
    match (renamed, now.keys().next()) {
        (Some((other, _)), _) => {
            format!(
                "  the pipeline has no operator of this name; `{other}` has the same state: if it was renamed, give it the old name back (`name: {name}`)"
            )
        }
        (None, Some(other)) => format!("  the pipeline has no operator of this name (it has `{other}`)"),
        (None, None) => "  the pipeline has no operator with state".to_owned(),
    }
}

/// Lines that one layout has and the other has not.
fn lines(stored: &str, now: &str) -> String {
    let only = |a: &str, b: &str, mark: &str| -> Vec<String> {
        let b: Vec<&str> = b.lines().collect();
        a.lines().filter(|l| !b.contains(l)).map(|l| format!("  {mark} {l}")).collect()
    };
    let mut all = only(stored, now, "stored:  ");
    all.extend(only(now, stored, "pipeline:"));
    if all.is_empty() {
        // The same lines in another order: aggregates are stored by their place.
        all.push(format!("  the same in another order: stored `{stored}`, pipeline `{now}`"));
    }
    all.join("\n")
}

/// Differences as an error's text.
pub fn refusal(differences: &[Difference]) -> String {
    let mut text = "the stored state was made by another pipeline".to_owned();
    for Difference { operator, text: what } in differences {
        text += &format!("\noperator `{operator}`:\n{what}");
    }
    let drop: Vec<String> = differences.iter().map(|d| format!("--drop-state {}", d.operator)).collect();
    text + &format!(
        "\nto go on without that state, from where the job stands: kindling run ... {}. To keep it: run the pipeline that made it, let it close \
         its windows first (--until-end), or give this one another name",
        drop.join(" ")
    )
}

/// Refuses what a pipeline can't go on with.
///
/// # Errors
/// All that differs, and what to do.
pub fn check(meta: &Meta, plan: &Plan) -> Result<(), String> {
    match differences(&stored(meta, plan), &plan.operators()).as_slice() {
        [] => Ok(()),
        some => Err(refusal(some)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operators(named: &[(&str, &str)]) -> BTreeMap<String, String> {
        named.iter().map(|(n, l)| ((*n).to_owned(), (*l).to_owned())).collect()
    }

    #[test]
    fn an_operator_is_compared_with_the_one_of_its_name() {
        let stored = operators(&[("counts", "keys: a Utf8\ncount: count() state Int64")]);
        assert_eq!(differences(&stored, &stored), []);
        let text = |now: &[(&str, &str)]| refusal(&differences(&stored, &operators(now)));
        let changed = text(&[("counts", "keys: a Utf8 b Int64\ncount: count() state Int64")]);
        assert!(
            changed.contains("operator `counts`:\n  stored:   keys: a Utf8\n  pipeline: keys: a Utf8 b Int64\n"),
            "{changed}"
        );
        assert!(changed.contains("--drop-state counts"), "{changed}");
        let renamed = text(&[("other", "keys: a Utf8\ncount: count() state Int64")]);
        assert!(renamed.contains("give it the old name back (`name: counts`)"), "{renamed}");
        assert!(text(&[]).contains("no operator with state"));
        let turned = text(&[("counts", "count: count() state Int64\nkeys: a Utf8")]);
        assert!(turned.contains("in another order"), "{turned}");
    }
}
