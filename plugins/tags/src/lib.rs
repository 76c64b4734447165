//! Flat maps over lists in a text: a row for each member.

use kindling_guest::{Emit, output, plugin};

/// A list of more tags than this is a client's mistake.
const TAGS_MAX: usize = 1_000;

output! {
    /// A tag, and its place among those of the row, from 1.
    struct Tag { tag: String, position: i64 }
}

/// A row for each tag of a text like `hiking, dogs`; none where there is no tag.
fn explode_tags(out: &mut Emit<Tag>, tags: &str) -> Result<(), String> {
    let tags = tags.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    for (i, tag) in tags.enumerate() {
        if i == TAGS_MAX {
            return Err(format!("more than {TAGS_MAX} tags"));
        }
        let tag = if cfg!(feature = "v2") { tag.to_lowercase() } else { tag.to_owned() };
        out.push(Tag { tag, position: i as i64 + 1 });
    }
    Ok(())
}

output! {
    /// A number of a series.
    struct Number { number: i64 }
}

/// The numbers from one up to another, both among them, by a step; none where the first is greater.
fn series(out: &mut Emit<Number>, from: i64, to: i64, step: i64) -> Result<(), String> {
    if step <= 0 {
        return Err(format!("a step of {step} comes to no end"));
    }
    let numbers = std::iter::successors(Some(from), |number| number.checked_add(step)).take_while(|number| *number <= to);
    out.extend(numbers.map(|number| Number { number }));
    Ok(())
}

plugin! {
    name: "tags",
    version: if cfg!(feature = "v2") { "1.1.0" } else { "1.0.0" },
    flatmaps: [
        /// A row for each tag of a comma separated list.
        explode_tags,
        /// A row for each number from one to another by a step.
        series,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{Rows, flatmap};

    fn tags(texts: &[Option<&str>]) -> Vec<(usize, String, i64)> {
        let given = flatmap::<Tag>(plugin(), "explode_tags", &Rows::of(texts.iter().copied())).expect("taken");
        given.into_iter().map(|(row, tag)| (row, tag.tag, tag.position)).collect()
    }

    #[test]
    fn none_one_or_many() {
        let found = tags(&[Some("hiking, dogs ,,wine"), None, Some(""), Some(" , "), Some("tea")]);
        let tag = |row, tag: &str, position| (row, tag.to_owned(), position);
        assert_eq!(found, [tag(0, "hiking", 1), tag(0, "dogs", 2), tag(0, "wine", 3), tag(4, "tea", 1)]);
    }

    #[test]
    fn a_list_without_end_is_refused() {
        let long = "a,".repeat(1_001);
        let refused = flatmap::<Tag>(plugin(), "explode_tags", &Rows::of(["a", &long])).err().expect("refused");
        assert_eq!((refused.row, refused.message.as_str()), (Some(1), "more than 1000 tags"));
    }

    #[test]
    fn numbers_of_a_series() {
        let series = |from: i64, to: i64, step: i64| {
            let rows = Rows::of([from]).and([to]).constant(step);
            flatmap::<Number>(plugin(), "series", &rows).map(|given| given.into_iter().map(|(_, n)| n.number).collect::<Vec<_>>())
        };
        assert_eq!(series(1, 7, 3).expect("taken"), [1, 4, 7]);
        assert_eq!(series(i64::MAX - 1, i64::MAX, 5).expect("taken"), [i64::MAX - 1]);
        assert!(series(2, 1, 1).expect("taken").is_empty());
        assert!(series(1, 2, 0).is_err());
    }
}
