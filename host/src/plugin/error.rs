//! Why a plugin can't be loaded: what, in which file, what to do.

use std::path::PathBuf;

use crate::error::Kind;

/// Why an artefact is not a plugin that can be used, or why plugins can't be had at all.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The file can't be read.
    #[error("{}: can't be read: {source}", path.display())]
    Unreadable {
        /// File.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file is larger than an artefact may be.
    #[error("{}: {size} bytes, but a plugin has at most {limit}: build it for release and strip it, or raise the limit", path.display())]
    TooLarge {
        /// File.
        path: PathBuf,
        /// Its size, bytes.
        size: u64,
        /// The limit, bytes.
        limit: u64,
    },
    /// The file is not WebAssembly.
    #[error("{}: not WebAssembly: {found}; a plugin is a component or a core module, as `kindling plugin build` makes", path.display())]
    NotWasm {
        /// File.
        path: PathBuf,
        /// What it seems to be.
        found: String,
    },
    /// The file is WebAssembly, but ends too early or is damaged.
    #[error("{}: damaged WebAssembly: {detail}; the file is truncated or was not written whole: copy it again", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// What the parser says, with the offset.
        detail: String,
    },
    /// The guest wants something from outside.
    #[error("{}: imports `{import}`, but a plugin gets nothing from outside (no clock, randomness, files, network): {hint}", path.display())]
    Import {
        /// File.
        path: PathBuf,
        /// Module and name of the import.
        import: String,
        /// What to do.
        hint: String,
    },
    /// The exports are not those of the interface.
    #[error("{}: does not fit the interface kindling:plugin@{}: {detail}", path.display(), super::encode::INTERFACE_VERSION)]
    Interface {
        /// File.
        path: PathBuf,
        /// What does not fit, and what to do.
        detail: String,
    },
    /// The code does not compile.
    #[error("{}: can't be compiled: {detail}", path.display())]
    Compile {
        /// File.
        path: PathBuf,
        /// What the compiler says.
        detail: String,
    },
    /// The guest failed before it had said what it is.
    #[error("{}: fails {stage}: {detail}", path.display())]
    Start {
        /// File.
        path: PathBuf,
        /// At its start, or in `describe`.
        stage: &'static str,
        /// How it failed.
        detail: String,
    },
    /// What `describe` says can't be so.
    #[error("{}: its description is wrong: {}", path.display(), faults.join("; "))]
    Description {
        /// File.
        path: PathBuf,
        /// Everything that is wrong.
        faults: Vec<String>,
    },
    /// The folder of plugins can't be watched.
    #[error("plugins in {}: {detail}", path.display())]
    Folder {
        /// Folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// The engine itself does not start.
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
}

impl PluginError {
    /// Who must act.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unreadable { .. } | Self::Folder { .. } => Kind::Config,
            Self::Engine(_) => Kind::Internal,
            _ => Kind::Plugin,
        }
    }

    /// The text without the file's name, for tables that have it in a column of its own.
    pub fn without_path(&self) -> String {
        let text = self.to_string();
        let path = match self {
            Self::Unreadable { path, .. }
            | Self::TooLarge { path, .. }
            | Self::NotWasm { path, .. }
            | Self::Damaged { path, .. }
            | Self::Import { path, .. }
            | Self::Interface { path, .. }
            | Self::Compile { path, .. }
            | Self::Start { path, .. }
            | Self::Description { path, .. } => path,
            Self::Folder { .. } | Self::Engine(_) => return text,
        };
        text.strip_prefix(&format!("{}: ", path.display())).map_or(text.clone(), str::to_owned)
    }
}

impl From<PluginError> for crate::error::Error {
    fn from(error: PluginError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
