//! The plugins that a plan stands on: one version of each name, each function from one of them. Immutable: a swap makes another set.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion_expr::{AggregateUDF, ScalarUDF};

use super::udaf::GuestAggregate;
use super::udf::GuestScalar;
use super::{FunctionKind, GuestEngine, GuestFlatMap, Plugin, PluginError};

/// What is wrong with a plugin's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginProblem {
    /// File or folder.
    pub path: PathBuf,
    /// What, and what to do; without the file's name.
    pub text: String,
}

impl PluginProblem {
    pub(super) fn of(path: &Path, error: &PluginError) -> Self {
        Self { path: path.to_owned(), text: error.without_path() }
    }
}

impl fmt::Display for PluginProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.text)
    }
}

/// Plugins by name, and their functions by name.
#[derive(Clone, Debug, Default)]
pub struct PluginSet {
    plugins: BTreeMap<String, Arc<Plugin>>,
    functions: BTreeMap<String, (Arc<Plugin>, usize)>,
}

impl PluginSet {
    /// No plugins.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The plugins in `*.wasm` directly in a folder, and what is wrong with those that are left out. Where two files are the same plugin
    /// or export a function of the same name, the higher version is in the set and the other is a problem.
    pub fn open_dir(engine: &Arc<GuestEngine>, dir: &Path) -> (Self, Vec<PluginProblem>) {
        let mut problems = Vec::new();
        let files = match plugin_files(dir) {
            Ok(files) => files,
            Err(e) => {
                let text = format!("the folder of plugins can't be read: {e}; make it, or name another with --plugins");
                return (Self::empty(), vec![PluginProblem { path: dir.to_owned(), text }]);
            }
        };
        let mut loaded = Vec::new();
        for path in files {
            match Plugin::load(engine, &path) {
                Ok(plugin) => loaded.push(plugin),
                Err(error) => problems.push(PluginProblem::of(&path, &error)),
            }
        }
        // The sort is stable, so of two equal versions the first by the file's name is taken.
        loaded.sort_by(|a, b| b.version.cmp(&a.version));
        let mut set = Self::empty();
        for plugin in loaded {
            match set.conflict(&plugin, true) {
                None => set.insert(plugin),
                Some(problem) => problems.push(problem),
            }
        }
        (set, problems)
    }

    /// This set with one more plugin; it replaces the one of the same name.
    ///
    /// # Errors
    /// Another plugin exports a function of the same name.
    pub fn with(&self, plugin: Arc<Plugin>) -> Result<Self, PluginProblem> {
        let mut set = self.without(&plugin.name);
        match set.conflict(&plugin, false) {
            Some(problem) => Err(problem),
            None => {
                set.insert(plugin);
                Ok(set)
            }
        }
    }

    /// This set without a plugin.
    pub fn without(&self, name: &str) -> Self {
        let mut set = self.clone();
        set.plugins.remove(name);
        set.functions.retain(|_, (plugin, _)| &*plugin.name != name);
        set
    }

    fn insert(&mut self, plugin: Arc<Plugin>) {
        for (i, function) in plugin.functions.iter().enumerate() {
            self.functions.insert(function.name.to_string(), (plugin.clone(), i));
        }
        self.plugins.insert(plugin.name.to_string(), plugin);
    }

    /// Why the plugin can't be in this set, if it can't.
    fn conflict(&self, plugin: &Plugin, names_too: bool) -> Option<PluginProblem> {
        let problem = |what: String, other: &Plugin| PluginProblem {
            path: plugin.path.clone(),
            text: format!(
                "{what} is also in {} (plugin {} {}), which is used; remove or rename one of them",
                other.path.display(),
                other.name,
                other.version
            ),
        };
        if let Some(other) = self.plugins.get(&*plugin.name).filter(|_| names_too) {
            return Some(problem(format!("plugin {} {}", plugin.name, plugin.version), other));
        }
        let functions = plugin.functions.iter().filter_map(|f| Some((f, self.functions.get(&*f.name)?)));
        functions.map(|(f, (other, _))| problem(format!("function `{}` of plugin {}", f.name, plugin.name), other)).next()
    }

    /// The plugins, by name.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.plugins.values()
    }

    /// The plugin of that name.
    pub fn plugin(&self, name: &str) -> Option<&Arc<Plugin>> {
        self.plugins.get(name)
    }

    /// The plugin that exports a function, and the function's number there.
    pub fn function(&self, name: &str) -> Option<(Arc<Plugin>, usize)> {
        self.functions.get(name).cloned()
    }

    /// Names of all functions, in order.
    pub fn function_names(&self) -> Vec<String> {
        self.functions.keys().cloned().collect()
    }

    /// State fields of an aggregate, their types and layouts, as text: two plugins whose texts are equal can go on with each other's
    /// state. None where there is no such aggregate.
    pub fn layout_of(&self, function: &str) -> Option<String> {
        let (plugin, number) = self.functions.get(function)?;
        let signature = &plugin.functions[*number];
        (signature.kind == FunctionKind::Aggregate).then(|| format!("{} ({})", signature.header(), signature.state_layout()))
    }

    /// Filters and scalar functions for DataFusion's registry.
    pub fn scalar_udfs(&self) -> Vec<Arc<ScalarUDF>> {
        let of_kind = |(plugin, i): &&(Arc<Plugin>, usize)| {
            matches!(plugin.functions[*i].kind, FunctionKind::Filter | FunctionKind::Scalar)
        };
        let functions = self.functions.values().filter(of_kind);
        functions.map(|(plugin, i)| Arc::new(ScalarUDF::new_from_impl(GuestScalar::new(plugin.clone(), *i)))).collect()
    }

    /// The flat map of that name.
    pub fn flat_map(&self, name: &str) -> Option<GuestFlatMap> {
        let (plugin, number) = self.function(name)?;
        (plugin.functions[number].kind == FunctionKind::FlatMap).then(|| GuestFlatMap::new(plugin, number))
    }

    /// Aggregates for DataFusion's registry.
    pub fn aggregate_udfs(&self) -> Vec<Arc<AggregateUDF>> {
        let of_kind = |(plugin, i): &&(Arc<Plugin>, usize)| plugin.functions[*i].kind == FunctionKind::Aggregate;
        let functions = self.functions.values().filter(of_kind);
        functions.map(|(plugin, i)| Arc::new(AggregateUDF::new_from_impl(GuestAggregate::new(plugin.clone(), *i)))).collect()
    }
}

/// `*.wasm` directly in a folder, by name; hidden files are those that somebody is still writing.
pub(super) fn plugin_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|e| e == "wasm") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::{engine, plugin, wasm};

    fn texts(problems: &[PluginProblem]) -> String {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn of_two_files_the_higher_version_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("a.wasm", &wasm("p", "1.9.0", ""));
        write("b.wasm", &wasm("p", "1.10.0", ""));
        write("c.wasm", &wasm("q", "3.0.0-rc.1", "q_"));
        write("d.wasm", &wasm("r", "2.0.0", "q_"));
        write("e.wasm", b"not wasm");
        write(".f.wasm", b"being written");
        write("g.txt", b"notes");
        let (set, problems) = PluginSet::open_dir(&engine(), dir.path());
        let names: Vec<String> = set.plugins().map(|p| format!("{} {}", p.name, p.version)).collect();
        assert_eq!(names, ["p 1.10.0", "q 3.0.0-rc.1"]);
        assert_eq!(set.function_names(), ["even", "fails", "q_even", "q_fails", "q_sum", "q_twice", "sum", "twice"]);
        let text = texts(&problems);
        assert_eq!(problems.len(), 3, "{text}");
        assert!(text.contains("a.wasm: plugin p 1.9.0 is also in"), "{text}");
        assert!(text.contains("d.wasm: function `q_even` of plugin r is also in"), "{text}");
        assert!(text.contains("e.wasm: not WebAssembly"), "{text}");
        assert!(!PluginSet::open_dir(&engine(), &dir.path().join("none")).1.is_empty());
    }

    #[test]
    fn a_set_is_changed_by_making_another() {
        let engine = engine();
        let first = PluginSet::empty().with(plugin(&engine, "p", "1.0.0", "")).unwrap();
        let second = first.with(plugin(&engine, "p", "0.9.0", "")).unwrap();
        assert_eq!(first.plugin("p").unwrap().version.as_str(), "1.0.0");
        assert_eq!(second.function("sum").unwrap().0.version.as_str(), "0.9.0");
        let conflict = second.with(plugin(&engine, "q", "9.0.0", "")).unwrap_err();
        assert!(conflict.text.contains("function `even` of plugin q is also in p-0.9.0.wasm"), "{conflict}");
        assert_eq!(second.layout_of("sum").unwrap(), "sum(int64) -> int64 (sum int64)");
        assert_eq!(second.layout_of("twice"), None);
        assert!(second.without("p").function_names().is_empty());
        assert_eq!((second.scalar_udfs().len(), second.aggregate_udfs().len()), (3, 1));
        let used = ["sum".to_owned()];
        assert_eq!(crate::plugin::compatible(first.plugin("p").unwrap(), second.plugin("p").unwrap(), &used), Ok(()));
        let other = plugin(&engine, "p", "2.0.0", "x_");
        let text = crate::plugin::compatible(first.plugin("p").unwrap(), &other, &used).unwrap_err();
        assert!(
            text.contains("p 2.0.0 can't take over from 1.0.0: function `sum` is used, but p 2.0.0 does not have it"),
            "{text}"
        );
    }
}
