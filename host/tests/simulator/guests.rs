//! Plugins of the runs: a hostile one, and versions of one that are swapped in.

use kindling::limits::GuestLimits;
use kindling::plugin::{GuestEngine, Plugin, PluginSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A call that a busy machine interrupts would make a run another one.
const CALL_TIME: Duration = Duration::from_secs(60);
/// Of guests that never return; each of their calls takes as long.
const CALL_TIME_ENDLESS: Duration = Duration::from_millis(100);

/// A version that is swapped in.
pub struct Swap {
    pub plugin: Arc<Plugin>,
    /// Where it takes over after all it may fail on any row, not only on poisoned ones.
    pub fails_on_any: bool,
    /// It fails when states are merged: a result over several panes could not be made.
    pub fails_in_merge: bool,
}

/// All of them.
pub struct Loaded {
    pub hostile: PluginSet,
    pub hostile_plugin: Arc<Plugin>,
    /// The same, with little time for a call.
    pub endless: PluginSet,
    pub victim: PluginSet,
    pub swaps: Vec<Swap>,
    /// A keyed process.
    pub ledger: Arc<Plugin>,
    pub ledger_swaps: Vec<Swap>,
}

/// Loaded once a process: compiling takes a while.
pub fn loaded() -> &'static Loaded {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    LOADED.get_or_init(|| {
        let guests = std::env::var("KINDLING_TEST_GUESTS");
        let guests = guests.expect("KINDLING_TEST_GUESTS is not set: run tests/run, or tests/guests/build DIR and set it to DIR");
        let engine = |call_time| GuestEngine::new(GuestLimits { call_time, ..GuestLimits::default() }, None).expect("an engine");
        let (patient, hasty) = (engine(CALL_TIME), engine(CALL_TIME_ENDLESS));
        let load_by = |engine: &Arc<GuestEngine>, name: &str| {
            let path = PathBuf::from(&guests).join("evil").join(format!("{name}.wasm"));
            Plugin::load(engine, &path).unwrap_or_else(|e| panic!("{e}"))
        };
        let load = |name: &str| load_by(&patient, name);
        let one = |plugin| PluginSet::empty().with(plugin).expect("one plugin");
        let set = |name: &str| one(load(name));
        let swap = |name: &str, fails_on_any, fails_in_merge| Swap { plugin: load(name), fails_on_any, fails_in_merge };
        Loaded {
            hostile: set("hostile"),
            hostile_plugin: load("hostile"),
            endless: one(load_by(&hasty, "hostile")),
            victim: set("victim_1_0_0"),
            swaps: vec![
                swap("victim_1_1_0", false, false),
                swap("victim_2_poison_traps", false, false),
                swap("victim_2_signature_changed", false, false),
                swap("victim_2_state_changed", false, false),
                swap("victim_2_update_traps", true, false),
                swap("victim_2_merge_traps", true, true),
            ],
            ledger: load("ledger_1_0_0"),
            ledger_swaps: vec![
                swap("ledger_1_1_0", false, false),
                swap("ledger_2_state_changed", false, false),
                swap("ledger_2_traps", true, false),
            ],
        }
    })
}
