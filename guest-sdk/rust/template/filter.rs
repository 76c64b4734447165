//! Plugin `{{name}}`: keeps texts of some length, as a start for a filter of your own.

use kindling_guest::plugin;

/// Whether to keep a row. Its arguments are those of the filter in YAML; rows with a null in one of them are dropped.
fn keep(text: &str, characters_max: i64) -> Result<bool, String> {
    if characters_max < 0 {
        return Err(format!("no text has at most {characters_max} characters")); // the row goes to the rejects, with this text
    }
    Ok(text.chars().count() as i64 <= characters_max)
}

plugin! {
    name: "{{name}}",
    version: env!("CARGO_PKG_VERSION"),
    filters: [
        /// Keeps texts of at most so many characters.
        {{name}}: keep,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{self, Rows};

    #[test]
    fn keeps_short_texts() {
        let rows = Rows::of([Some("tea"), Some("coffee"), None]).constant(4);
        assert_eq!(testing::filter(plugin(), "{{name}}", &rows), Ok(vec![true, false, false]));
    }
}
