//! Values and counts as JSON.

use std::fmt::Write as _;

/// `[{"value":"a","count":12}, ...]`, without spaces.
pub fn counts(counts: &[(&String, &u64)]) -> String {
    let mut json = String::from("[");
    for (place, (value, count)) in counts.iter().enumerate() {
        json.push_str(if place == 0 { "{\"value\":\"" } else { ",{\"value\":\"" });
        value.chars().for_each(|c| escape(&mut json, c));
        // Writing to a String can't fail.
        let _ = write!(json, "\",\"count\":{count}}}");
    }
    json.push(']');
    json
}

fn escape(json: &mut String, c: char) {
    match c {
        '"' => json.push_str("\\\""),
        '\\' => json.push_str("\\\\"),
        '\u{0}'..='\u{1f}' => {
            let _ = write!(json, "\\u{:04x}", u32::from(c));
        }
        _ => json.push(c),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_needs_it_is_escaped() {
        let value = "a\"b\\c\nd\u{1}é".to_owned();
        assert_eq!(super::counts(&[(&value, &7)]), "[{\"value\":\"a\\\"b\\\\c\\u000ad\\u0001é\",\"count\":7}]");
    }
}
