//! Plugins of the runs: a hostile one, and versions of one that are swapped in.

use kindling::limits::GuestLimits;
use kindling::plugin::{GuestEngine, Plugin, PluginSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

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
    pub victim: PluginSet,
    pub accounts: PluginSet,
    pub swaps: Vec<Swap>,
}

/// Loaded once a process: compiling takes a while.
pub fn loaded() -> &'static Loaded {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    LOADED.get_or_init(|| {
        let guests = std::env::var("KINDLING_TEST_GUESTS");
        let guests = guests.expect("KINDLING_TEST_GUESTS is not set: run tests/run, or tests/guests/build DIR and set it to DIR");
        // No guest here runs for long. A call that a busy machine interrupts would make a run another one.
        let limits = GuestLimits { call_time: Duration::from_secs(60), ..GuestLimits::default() };
        let engine = GuestEngine::new(limits, None).expect("an engine");
        let load = |name: &str| {
            let path = PathBuf::from(&guests).join("evil").join(format!("{name}.wasm"));
            Plugin::load(&engine, &path).unwrap_or_else(|e| panic!("{e}"))
        };
        let set = |name: &str| PluginSet::empty().with(load(name)).expect("one plugin");
        let swap = |name: &str, fails_on_any, fails_in_merge| Swap { plugin: load(name), fails_on_any, fails_in_merge };
        Loaded {
            hostile: set("hostile"),
            victim: set("victim_1_0_0"),
            accounts: set("accounts"),
            swaps: vec![
                swap("victim_1_1_0", false, false),
                swap("victim_2_poison_traps", false, false),
                swap("victim_2_signature_changed", false, false),
                swap("victim_2_state_changed", false, false),
                swap("victim_2_update_traps", true, false),
                swap("victim_2_merge_traps", true, true),
            ],
        }
    })
}
