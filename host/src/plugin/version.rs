//! Semantic versions of plugins: reading and ordering (semver.org 2.0.0, sections 2, 9, 10 and 11).

use std::cmp::Ordering;
use std::fmt;

/// A semantic version. Ordered by precedence; what follows `+` is kept but does not count.
#[derive(Clone, Debug)]
pub struct Version {
    core: [u64; 3],
    pre: Vec<Identifier>,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    // The order of the variants is that of precedence: numbers before words.
    Number(u64),
    Word(String),
}

/// Bytes of a version's text at most.
const TEXT_BYTES: usize = 64;

impl Version {
    /// Reads `MAJOR.MINOR.PATCH[-PRE][+BUILD]`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a semantic version: write for example `1.0.0`");
        if text.len() > TEXT_BYTES {
            return Err(format!("a version has at most {TEXT_BYTES} bytes"));
        }
        let (rest, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
        let (numbers, pre) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
        let mut core = [0; 3];
        let mut parts = numbers.split('.');
        for slot in &mut core {
            *slot = parts.next().and_then(number).ok_or_else(bad)?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !build.is_none_or(|b| b.split('.').all(word)) {
            return Err(bad());
        }
        let mut identifiers = Vec::new();
        for part in pre.iter().flat_map(|p| p.split('.')) {
            match (number(part), word(part), part.bytes().all(|b| b.is_ascii_digit())) {
                (Some(n), ..) => identifiers.push(Identifier::Number(n)),
                (None, true, false) => identifiers.push(Identifier::Word(part.to_owned())),
                _ => return Err(bad()),
            }
        }
        Ok(Self { core, pre: identifiers, text: text.to_owned() })
    }

    /// The text it was read from.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A number without leading zeros.
fn number(text: &str) -> Option<u64> {
    let plain = text == "0" || (!text.starts_with('0') && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    plain.then(|| text.parse().ok()).flatten()
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // A version before its release has the lower precedence, so the absence of `pre` counts as the greatest.
        self.core
            .cmp(&other.core)
            .then_with(|| self.pre.is_empty().cmp(&other.pre.is_empty()))
            .then_with(|| self.pre.cmp(&other.pre))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence_is_that_of_the_standard() {
        let ascending = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1 1.10.0 2.0.0";
        let versions: Vec<Version> = ascending.split(' ').map(|v| Version::parse(v).unwrap()).collect();
        assert!(versions.windows(2).all(|w| w[0] < w[1]), "{versions:?}");
        assert_eq!(Version::parse("1.0.0+a").unwrap(), Version::parse("1.0.0+b").unwrap());
    }

    #[test]
    fn what_is_not_a_version() {
        for text in [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "01.0.0",
            "1.0.-1",
            "1.0.0-",
            "1.0.0-01",
            "1.0.0+",
            "v1.0.0",
            "1.0.0-ä",
            "99999999999999999999.0.0",
        ] {
            assert!(Version::parse(text).is_err(), "{text}");
        }
    }
}
