//! A plugin that may be used: its file read, compiled, started once and asked what it is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::abi::{DescriptionOut, FlatMapFunctionOut, ProcessesOut};
use super::artefact::Artefact;
use super::check::{self, Exports};
use super::check_process;
use super::engine::{CompiledGuest, GuestEngine};
use super::instance::{Crash, first_start};
use super::pool::Pool;
use super::stats::PluginStats;
use super::{FunctionKind, FunctionSignature, GuestUse, PluginError, Version};
use crate::limits::GuestLimits;

/// Hex digits of a hash that people are shown.
const SHORT_HASH: usize = 12;

/// One version of a plugin, ready to be called. Immutable but for its counters and its pool of instances.
pub struct Plugin {
    /// Name of the plugin.
    pub name: Arc<str>,
    /// Semantic version.
    pub version: Version,
    /// SHA-256 of the artefact, 64 hex digits.
    pub hash: Arc<str>,
    /// Where it was loaded from.
    pub path: PathBuf,
    /// What made it.
    pub sdk: String,
    /// Its functions; their numbers in calls are their places here.
    pub functions: Vec<FunctionSignature>,
    /// What its calls cost and how they ended.
    pub stats: PluginStats,
    pub(super) version_text: Arc<str>,
    pub(super) short_hash: Arc<str>,
    pub(super) guest: CompiledGuest,
    pub(super) pool: Pool,
}

impl Plugin {
    /// Loads the plugin in a file. The guest's start function and `describe` run within the limits of a call.
    ///
    /// # Errors
    /// Why the file is not a plugin that can be used.
    pub fn load(engine: &Arc<GuestEngine>, path: &Path) -> Result<Arc<Self>, PluginError> {
        Self::from_artefact(engine, &Artefact::read(path, engine.limits().artefact_bytes)?)
    }

    /// Loads a plugin whose file has been read.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_artefact(engine: &Arc<GuestEngine>, artefact: &Artefact) -> Result<Arc<Self>, PluginError> {
        let path = || artefact.path().to_owned();
        let guest = engine.compile(artefact)?;
        let mut instance = first_start(&guest, artefact)?;
        let describe = instance.describe;
        let failed = |stage| move |crash: Crash| PluginError::Start { path: path(), stage, detail: crash.message };
        let checked = if instance.process.is_some() {
            let called = instance.call(describe, (), engine.limits());
            let (description,): (ProcessesOut,) = called.map_err(failed("in `describeprocesses`"))?;
            check_process::description(description)
        } else {
            let called = instance.call(describe, (), engine.limits());
            let (description,): (DescriptionOut,) = called.map_err(failed("in `describe`"))?;
            let flatmaps: Vec<FlatMapFunctionOut> = match instance.describe_flatmaps {
                None => Vec::new(),
                Some(describe) => {
                    let called = instance.call::<_, (Vec<FlatMapFunctionOut>,)>(describe, (), engine.limits());
                    called.map_err(failed("in `describeflatmaps`"))?.0
                }
            };
            check::description(description, flatmaps, Exports::of(&instance))
        };
        let checked = checked.map_err(|faults| PluginError::Description { path: path(), faults })?;
        let pool = Pool::default();
        pool.put(instance);
        let hash = artefact.sha256();
        Ok(Arc::new(Self {
            name: checked.name,
            version_text: checked.version.as_str().into(),
            version: checked.version,
            hash: hash.into(),
            short_hash: hash[..SHORT_HASH].into(),
            path: path(),
            sdk: checked.sdk,
            functions: checked.functions,
            stats: PluginStats::default(),
            guest,
            pool,
        }))
    }

    /// First 12 hex digits of [`Self::hash`].
    pub fn short_hash(&self) -> &str {
        &self.short_hash
    }

    /// The version as text.
    pub fn version_text(&self) -> &Arc<str> {
        &self.version_text
    }

    /// The number of the function of that name.
    pub fn function(&self, name: &str) -> Option<usize> {
        self.functions.iter().position(|f| &*f.name == name)
    }

    /// That a plan calls function number `function`.
    pub fn use_of(&self, function: usize) -> GuestUse {
        GuestUse {
            function: self.functions[function].name.to_string(),
            plugin: self.name.to_string(),
            version: self.version_text.to_string(),
            hash: self.short_hash.to_string(),
        }
    }

    /// Instances that are alive now, idle and busy.
    pub fn instances(&self) -> usize {
        self.pool.alive()
    }

    /// Whether any function is of that kind.
    pub fn has(&self, kind: FunctionKind) -> bool {
        self.functions.iter().any(|f| f.kind == kind)
    }

    pub(super) fn limits(&self) -> &GuestLimits {
        self.guest.engine.limits()
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.name, self.version, self.short_hash)
    }
}
