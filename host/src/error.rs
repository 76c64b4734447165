//! Who must act on an error, and how a process says so when it ends.

/// Who must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The user: a pipeline, a flag, a file's name.
    Config,
    /// The author of a plugin.
    Plugin,
    /// Nobody yet: a broker or disk is away; a retry may help.
    External,
    /// The operator: stored state or input does not read back.
    Data,
    /// Us: a defect of Kindling.
    Internal,
}

impl Kind {
    /// The exit code of `kindling` for this kind. 1 is a defect of ours; 2 is also what a wrong flag gives.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Internal => 1,
            Kind::Config => 2,
            Kind::Plugin => 3,
            Kind::External => 4,
            Kind::Data => 5,
        }
    }
}

/// An error that ends what was asked for: what, where, what to do, and who must act.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// Who must act.
    pub kind: Kind,
    /// What, where, what to do.
    pub text: String,
}

impl Error {
    /// An error of `kind` that says `text`.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}
