//! What is wrong with a file: every fault at once, each with its line, its column and a way out.

use crate::config::spec::Place;
use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What, and what to do.
    pub message: String,
}

impl Fault {
    /// A fault at `place`.
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place.line, self.place.column, self.message)
    }
}

/// All that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file.
    pub file: String,
    /// Its text, for the lines that are shown.
    source: String,
    /// The faults, by place.
    pub faults: Vec<Fault>,
}

impl ConfigErrors {
    /// Faults of `file`, whose text is `source`.
    pub fn new(file: &str, source: &str, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|f| (f.place.line, f.place.column));
        faults.dedup();
        Self { file: file.to_owned(), source: source.to_owned(), faults }
    }

    /// The faults as `{"file", "line", "column", "message"}`.
    pub fn to_json(&self) -> Vec<serde_json::Value> {
        let one = |f: &Fault| serde_json::json!({"file": self.file, "line": f.place.line, "column": f.place.column, "message": f.message});
        self.faults.iter().map(one).collect()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            if fault.place.line == 0 {
                write!(f, "--set: {}", fault.message)?;
                continue;
            }
            write!(f, "{}:{fault}", self.file)?;
            if let Some(line) = self.source.lines().nth(fault.place.line - 1) {
                let line: String = line.chars().take(160).collect();
                write!(f, "\n  | {line}\n  | {}^", " ".repeat(fault.place.column.saturating_sub(1).min(160)))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// `; did you mean ...?`, where a candidate is near; else nothing.
pub fn suggest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let folded = name.to_lowercase();
    let near =
        candidates.into_iter().map(|c| (strsim::damerau_levenshtein(&folded, &c.to_lowercase()), c)).min_by_key(|(d, _)| *d);
    match near {
        Some((distance, candidate)) if distance <= 1 + name.chars().count() / 4 => format!("; did you mean `{candidate}`?"),
        _ => String::new(),
    }
}
