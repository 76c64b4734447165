//! JSON paths as people write them: `a.b[0].c`, `$.a`, `['odd key']`.

use crate::plan::PathStep;

/// The steps of a path.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Vec<PathStep>, String> {
    let bad = |why: &str| format!("`{text}` is not a JSON path: {why}; write for example `a.b[0].c`");
    let mut rest = text.trim();
    rest = rest.strip_prefix('$').unwrap_or(rest);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let quote = inside.chars().next().filter(|c| *c == '\'' || *c == '"');
            if let Some(quote) = quote {
                let end = inside[1..].find(quote).ok_or_else(|| bad("a quote is open"))?;
                steps.push(PathStep::Member(inside[1..=end].to_owned()));
                rest = inside[end + 2..].strip_prefix(']').ok_or_else(|| bad("`]` is missing"))?;
            } else {
                let end = inside.find(']').ok_or_else(|| bad("`]` is missing"))?;
                let index = inside[..end].trim().parse().map_err(|_| bad("an index must be a number from 0"))?;
                steps.push(PathStep::Index(index));
                rest = &inside[end + 1..];
            }
            continue;
        }
        if !steps.is_empty() || text.trim().starts_with('$') {
            rest = rest.strip_prefix('.').ok_or_else(|| bad("`.` or `[` is missing between two steps"))?;
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        if end == 0 {
            return Err(bad("a step is empty"));
        }
        steps.push(PathStep::Member(rest[..end].to_owned()));
        rest = &rest[end..];
    }
    if steps.is_empty() { Err(bad("it is empty")) } else { Ok(steps) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let member = |s: &str| PathStep::Member(s.into());
        for (text, steps) in [
            ("st", vec![member("st")]),
            ("$.a.b", vec![member("a"), member("b")]),
            ("a[0].b", vec![member("a"), PathStep::Index(0), member("b")]),
            ("[3]", vec![PathStep::Index(3)]),
            ("a['x.y']", vec![member("a"), member("x.y")]),
        ] {
            assert_eq!(parse(text), Ok(steps), "{text}");
        }
        for text in ["", "$", "a..b", "a[", "a[x]", "a['b", "a[0]b", ".a"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
