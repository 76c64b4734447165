//! The functions of plugins, as planning asks for them.

use crate::plugin::{FunctionKind, GuestFlatMap, GuestUse, Plugin, PluginSet};
use datafusion_expr::{AggregateUDF, ScalarUDF};
use std::sync::Arc;

/// Digits of a plugin's hash that are shown.
const HASH_DIGITS: usize = 12;

/// What planning asks of a set of plugins.
pub(super) trait Functions {
    /// Filters (boolean) and scalar functions.
    fn scalar_udfs(&self) -> Vec<Arc<ScalarUDF>>;
    /// Aggregates.
    fn aggregate_udfs(&self) -> Vec<Arc<AggregateUDF>>;
    /// A flat map.
    fn flat_map(&self, function: &str) -> Option<GuestFlatMap>;
    /// What a function is and where it comes from; none where no plugin has it.
    fn guest(&self, function: &str) -> Option<(FunctionKind, GuestUse)>;
    /// How an aggregate's state is laid out, as text.
    fn layout_of(&self, function: &str) -> Option<String>;
    /// The plugin with a keyed process of that name, and the process's number there.
    fn process(&self, name: &str) -> Option<(Arc<Plugin>, usize)>;
    /// Names of all functions.
    fn function_names(&self) -> Vec<String>;
}

impl Functions for PluginSet {
    fn scalar_udfs(&self) -> Vec<Arc<ScalarUDF>> {
        PluginSet::scalar_udfs(self)
    }

    fn aggregate_udfs(&self) -> Vec<Arc<AggregateUDF>> {
        PluginSet::aggregate_udfs(self)
    }

    fn flat_map(&self, function: &str) -> Option<GuestFlatMap> {
        PluginSet::flat_map(self, function)
    }

    fn guest(&self, function: &str) -> Option<(FunctionKind, GuestUse)> {
        let (plugin, number) = self.function(function)?;
        let hash = plugin.hash.chars().take(HASH_DIGITS).collect();
        let (function, name) = (function.to_owned(), plugin.name.to_string());
        let used = GuestUse { function, plugin: name, version: plugin.version.to_string(), hash };
        Some((plugin.functions.get(number)?.kind, used))
    }

    fn layout_of(&self, function: &str) -> Option<String> {
        PluginSet::layout_of(self, function)
    }

    fn process(&self, name: &str) -> Option<(Arc<Plugin>, usize)> {
        self.function(name).filter(|(plugin, number)| plugin.functions[*number].process.is_some())
    }

    fn function_names(&self) -> Vec<String> {
        PluginSet::function_names(self)
    }
}
