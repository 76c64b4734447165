//! Plugin `{{name}}`: a row for each word of a text, as a start for a flat map of your own.

use kindling_guest::{Emit, output, plugin};

output! {
    /// The columns that it adds to a row.
    struct Word { word: String, position: i64 }
}

/// Gives none, one or many rows of a row. Its arguments are those of the flat map in YAML; rows with a null in one of them give none.
fn words(out: &mut Emit<Word>, text: &str) -> Result<(), String> {
    if text.len() > 10_000 {
        return Err("a text of more than 10,000 bytes".into()); // the row goes to the rejects, with this text
    }
    for (i, word) in text.split_whitespace().enumerate() {
        out.push(Word { word: word.into(), position: i as i64 });
    }
    Ok(())
}

plugin! {
    name: "{{name}}",
    version: env!("CARGO_PKG_VERSION"),
    flatmaps: [
        /// A row for each word.
        {{name}}: words,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{self, Rows};

    #[test]
    fn a_row_for_each_word() {
        let rows = Rows::of([Some("a cup"), None, Some("tea")]);
        let given = testing::flatmap::<Word>(plugin(), "{{name}}", &rows).expect("taken");
        let words: Vec<(usize, &str)> = given.iter().map(|(row, word)| (*row, word.word.as_str())).collect();
        assert_eq!(words, [(0, "a"), (0, "cup"), (2, "tea")]);
    }
}
