//! One WebAssembly engine a process: how guests are compiled, where compiled code is kept, and the ticks that end a call in time.
//!
//! A guest's call must give the same output for the same input, always: NaNs are canonical, relaxed SIMD is deterministic, there are no
//! threads, no shared memory and no imports.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Config, Engine};

use super::PluginError;
use super::artefact::Artefact;
use super::cache::CompileCache;
use super::encode;
use super::instance::Guard;
use crate::limits::GuestLimits;

/// Distance between two deadline ticks: a call ends at most this much after its limit.
const TICK: Duration = Duration::from_millis(5);

/// Frames of a guest's backtrace that are kept.
const BACKTRACE_FRAMES: usize = 16;

/// Compiles guests and bounds what they may use. One is enough for a process.
pub struct GuestEngine {
    engine: Engine,
    limits: GuestLimits,
    cache: Option<CompileCache>,
}

/// Compiled code that can be instantiated any number of times; nothing of it has run yet.
pub struct CompiledGuest {
    /// Keeps the limits with the code, and the ticks going.
    pub(super) engine: Arc<GuestEngine>,
    pub(super) pre: InstancePre<Guard>,
}

impl GuestEngine {
    /// An engine whose guests have `limits`. Compiled code is kept in `cache_dir`, which is made where it is missing and must not be
    /// writable by others: what is in it is run. Without it, guests are compiled anew by each process.
    ///
    /// Calls run on the caller's stack, so a thread that calls guests needs `limits.stack_bytes` and about 256 KiB beyond.
    ///
    /// # Errors
    /// [`PluginError::Engine`] where this machine can't run WebAssembly so, [`PluginError::Folder`] for the cache.
    pub fn new(limits: GuestLimits, cache_dir: Option<PathBuf>) -> Result<Arc<Self>, PluginError> {
        let engine = Engine::new(&config(&limits)).map_err(|e| PluginError::Engine(format!("{e:#}")))?;
        let cache = cache_dir.map(|dir| CompileCache::open(dir, &engine)).transpose()?;
        start_ticks(&engine)?;
        Ok(Arc::new(Self { engine, limits, cache }))
    }

    /// Bounds of each guest.
    pub fn limits(&self) -> &GuestLimits {
        &self.limits
    }

    /// Deadline ticks after which a call has taken longer than its limit.
    pub(super) fn call_ticks(&self) -> u64 {
        let ticks = self.limits.call_time.as_nanos() / TICK.as_nanos();
        // One more, since the first tick may come at once.
        u64::try_from(ticks).unwrap_or(u64::MAX / 2).min(u64::MAX / 2) + 1
    }

    /// The engine of wasmtime.
    pub(super) fn wasmtime(&self) -> &Engine {
        &self.engine
    }

    /// Compiles an artefact, or takes its compiled code from the cache.
    ///
    /// # Errors
    /// Where the artefact is damaged, imports something, does not fit the interface or does not compile.
    pub fn compile(self: &Arc<Self>, artefact: &Artefact) -> Result<CompiledGuest, PluginError> {
        let cached = self.cache.as_ref().and_then(|c| c.load(&self.engine, artefact.sha256()));
        let component = match cached {
            Some(component) => component,
            None => {
                let bytes = encode::component(artefact)?;
                let component = Component::from_binary(&self.engine, &bytes)
                    .map_err(|e| PluginError::Compile { path: artefact.path().to_owned(), detail: format!("{e:#}") })?;
                if let Some(cache) = &self.cache {
                    cache.store(artefact.sha256(), &component);
                }
                component
            }
        };
        self.refuse_imports(artefact, &component)?;
        let pre = Linker::new(&self.engine)
            .instantiate_pre(&component)
            .map_err(|e| PluginError::Interface { path: artefact.path().to_owned(), detail: format!("{e:#}") })?;
        Ok(CompiledGuest { engine: Arc::clone(self), pre })
    }

    fn refuse_imports(&self, artefact: &Artefact, component: &Component) -> Result<(), PluginError> {
        let import = component.component_type().imports(&self.engine).find_map(|(name, item)| match item.ty {
            ComponentItem::Type(_) => None,
            // An interface of types alone gives nothing to a guest.
            ComponentItem::ComponentInstance(instance) => {
                let what = instance.exports(&self.engine).find(|(_, e)| !matches!(e.ty, ComponentItem::Type(_)));
                what.map(|(inner, _)| format!("{name}#{inner}"))
            }
            _ => Some(name.to_owned()),
        });
        match import {
            None => Ok(()),
            Some(import) => Err(PluginError::Import {
                path: artefact.path().to_owned(),
                hint: encode::import_hint(&import).to_owned(),
                import,
            }),
        }
    }
}

fn config(limits: &GuestLimits) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .epoch_interruption(true)
        .max_wasm_stack(limits.stack_bytes)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES))
        // A swap compiles while a job runs: one core is enough to take from it.
        .parallel_compilation(false);
    config
}

/// Starts the thread that makes the ticks; it ends when the engine is gone.
fn start_ticks(engine: &Engine) -> Result<(), PluginError> {
    let weak = engine.weak();
    let ticks = move || {
        loop {
            std::thread::sleep(TICK);
            match weak.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => break,
            }
        }
    };
    std::thread::Builder::new()
        .name("deadline-ticks".into())
        .spawn(ticks)
        .map(|_| ())
        .map_err(|e| PluginError::Engine(format!("no thread for the deadline ticks: {e}")))
}
