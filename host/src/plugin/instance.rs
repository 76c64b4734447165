//! A running guest: one wasmtime store with its memory limit, its deadline and its exports. A call that failed leaves it in an unknown
//! state, so it is thrown away then.

use wasmtime::component::{ComponentNamedList, Func, Lift, Lower};
use wasmtime::{ResourceLimiter, Store, Trap, WasmBacktrace};

use super::engine::CompiledGuest;
use super::{FailureKind, PluginError, abi, artefact::Artefact};

/// Elements of all tables of an instance at most: functions of a guest that are called indirectly.
const TABLE_ELEMENTS: usize = 1 << 20;
/// Core instances of a component at most (guest, adapter, shims).
const CORE_INSTANCES: usize = 64;
/// Tables and memories of an instance at most, each.
const TABLES_AND_MEMORIES: usize = 16;
/// Frames of a guest's backtrace that are shown.
const SHOWN_FRAMES: usize = 4;

/// What a store may use.
pub(super) struct Guard {
    memory_bytes: usize,
    used_bytes: usize,
    table_elements: usize,
}

/// The memory limit was met.
#[derive(Debug, thiserror::Error)]
#[error("wants {wanted} bytes of memory, the limit is {limit}")]
struct MemoryLimit {
    wanted: usize,
    limit: usize,
}

impl ResourceLimiter for Guard {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        // All memories of a store count together.
        let wanted = self.used_bytes.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_bytes {
            return Err(wasmtime::Error::new(MemoryLimit { wanted, limit: self.memory_bytes }));
        }
        self.used_bytes = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.table_elements.saturating_add(desired.saturating_sub(current));
        if wanted > TABLE_ELEMENTS {
            return Ok(false);
        }
        self.table_elements = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES
    }
    fn tables(&self) -> usize {
        TABLES_AND_MEMORIES
    }
    fn memories(&self) -> usize {
        TABLES_AND_MEMORIES
    }
}

/// How a call ended that the guest did not end by itself.
#[derive(Debug)]
pub(super) struct Crash {
    pub(super) kind: FailureKind,
    pub(super) message: String,
}

/// A running guest.
pub(super) struct Instance {
    store: Store<Guard>,
    call_ticks: u64,
    /// `describe`, or `describeprocesses` of a guest of keyed processes.
    pub(super) describe: Func,
    pub(super) process: Option<Func>,
    pub(super) filter: Option<Func>,
    pub(super) scalar: Option<Func>,
    pub(super) describe_flatmaps: Option<Func>,
    pub(super) flatmap: Option<Func>,
    pub(super) accumulate: Option<Func>,
    pub(super) merge: Option<Func>,
    pub(super) finish: Option<Func>,
}

impl Instance {
    /// Instantiates a guest; its start function runs within the limits of a call.
    pub(super) fn start(guest: &CompiledGuest) -> Result<Self, Crash> {
        let engine = &guest.engine;
        let limits = engine.limits();
        let guard = Guard { memory_bytes: limits.memory_bytes, used_bytes: 0, table_elements: 0 };
        let mut store = Store::new(engine.wasmtime(), guard);
        store.limiter(|guard| guard);
        store.set_hostcall_fuel(limits.result_bytes);
        let call_ticks = engine.call_ticks();
        store.set_epoch_deadline(call_ticks);
        let instance = guest.pre.instantiate(&mut store).map_err(|e| crash(&e, limits))?;
        let mut export = |name: &str| instance.get_func(&mut store, name);
        let (describe, process) = export("describeprocesses").zip(export("process")).unzip();
        let Some(describe) = describe.or_else(|| export("describe")) else {
            let message = "exports no function `describe`, nor `describeprocesses` with `process`".into();
            return Err(Crash { kind: FailureKind::Nonsense, message });
        };
        let (filter, scalar) = (export("filter"), export("scalar"));
        let (describe_flatmaps, flatmap) = (export("describeflatmaps"), export("flatmap"));
        let (accumulate, merge, finish) = (export("accumulate"), export("merge"), export("finish"));
        Ok(Self { store, call_ticks, describe, process, filter, scalar, describe_flatmaps, flatmap, accumulate, merge, finish })
    }

    /// Names of the exports whose types are not those of the interface, with what differs.
    pub(super) fn mistyped_exports(&self) -> Vec<String> {
        fn check<P, R>(store: &Store<Guard>, name: &str, func: Option<Func>, faults: &mut Vec<String>)
        where
            P: ComponentNamedList + Lower,
            R: ComponentNamedList + Lift,
        {
            if let Some(Err(e)) = func.map(|f| f.typed::<P, R>(store)) {
                faults.push(format!("`{name}` has another type: {e:#}"));
            }
        }
        let mut faults = Vec::new();
        let store = &self.store;
        if self.process.is_some() {
            check::<(), (abi::ProcessesOut,)>(store, "describeprocesses", Some(self.describe), &mut faults);
            check::<abi::ProcessParams<'_>, abi::EffectResult>(store, "process", self.process, &mut faults);
            return faults;
        }
        check::<(), (abi::DescriptionOut,)>(store, "describe", Some(self.describe), &mut faults);
        check::<abi::RowsParams<'_>, abi::BitmapResult>(store, "filter", self.filter, &mut faults);
        check::<abi::RowsParams<'_>, abi::ColumnResult>(store, "scalar", self.scalar, &mut faults);
        check::<(), (Vec<abi::FlatMapFunctionOut>,)>(store, "describeflatmaps", self.describe_flatmaps, &mut faults);
        check::<abi::RowsParams<'_>, abi::FlatRowsResult>(store, "flatmap", self.flatmap, &mut faults);
        check::<abi::GroupsParams<'_>, abi::ColumnsResult>(store, "accumulate", self.accumulate, &mut faults);
        check::<abi::GroupsParams<'_>, abi::ColumnsResult>(store, "merge", self.merge, &mut faults);
        check::<abi::RowsParams<'_>, abi::ColumnResult>(store, "finish", self.finish, &mut faults);
        faults
    }

    /// Calls an export within the limits. After an error the instance must not be used again.
    pub(super) fn call<P, R>(&mut self, func: Func, params: P, limits: &crate::limits::GuestLimits) -> Result<R, Crash>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift + 'static,
    {
        self.store.set_epoch_deadline(self.call_ticks);
        let typed = func.typed::<P, R>(&self.store).map_err(|e| crash(&e, limits))?;
        typed.call(&mut self.store, params).map_err(|e| crash(&e, limits))
    }
}

/// Starts a guest that was never started before, with errors for the people who load it.
pub(super) fn first_start(guest: &CompiledGuest, artefact: &Artefact) -> Result<Instance, PluginError> {
    let path = || artefact.path().to_owned();
    let instance = Instance::start(guest).map_err(|crash| match crash.kind {
        FailureKind::Nonsense => PluginError::Interface { path: path(), detail: crash.message },
        _ => PluginError::Start { path: path(), stage: "at its start", detail: crash.message },
    })?;
    match instance.mistyped_exports() {
        faults if faults.is_empty() => Ok(instance),
        faults => {
            let detail = format!("{}; build it against the files in wit/ of this version", faults.join("; "));
            Err(PluginError::Interface { path: path(), detail })
        }
    }
}

/// What happened, from wasmtime's error.
fn crash(error: &wasmtime::Error, limits: &crate::limits::GuestLimits) -> Crash {
    let trace = error.downcast_ref::<WasmBacktrace>().map(backtrace).unwrap_or_default();
    if let Some(limit) = error.downcast_ref::<MemoryLimit>() {
        return Crash { kind: FailureKind::Memory, message: format!("{limit}{trace}") };
    }
    let (kind, what) = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => (FailureKind::Timeout, format!("ran longer than {:?}", limits.call_time)),
        Some(Trap::StackOverflow) => {
            (FailureKind::Trap, format!("stack overflow (endless recursion, or more than {} bytes of stack)", limits.stack_bytes))
        }
        Some(trap) => (FailureKind::Trap, format!("trapped: {trap}")),
        None => {
            let text = without_trace(error);
            // wasmtime has no type of its own for this one.
            match text.contains("fuel allocated for hostcalls") {
                true => (FailureKind::Excess, format!("returned more than {} bytes", limits.result_bytes)),
                false => (FailureKind::Nonsense, format!("its answer can't be read: {text}")),
            }
        }
    };
    Crash { kind, message: format!("{what}{trace}") }
}

/// The causes of an error without the backtrace, which wasmtime puts first.
fn without_trace(error: &wasmtime::Error) -> String {
    let causes: Vec<String> =
        error.chain().map(ToString::to_string).filter(|c| !c.starts_with("error while executing at")).collect();
    causes.join(": ")
}

fn backtrace(trace: &WasmBacktrace) -> String {
    let names: Vec<String> = trace
        .frames()
        .iter()
        .take(SHOWN_FRAMES)
        .map(|f| match f.func_name() {
            Some(name) => function_name(name),
            None => format!("function {}", f.func_index()),
        })
        .collect();
    match names.len() {
        0 => String::new(),
        _ => format!(", in {}", names.join(" < ")),
    }
}

/// `alloc::vec::Vec::push::h0123456789abcdef` without the hash, and not longer than a line.
fn function_name(name: &str) -> String {
    const NAME_CHARS: usize = 80;
    let name = match name.rsplit_once("::h") {
        Some((head, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => head,
        _ => name,
    };
    name.chars().take(NAME_CHARS).collect()
}
