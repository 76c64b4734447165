//! The table of a plugin's functions, and the macro that fills it and exports it.

use crate::aggregate::{self, Finish, Merge};
use crate::flatmap::FlatMap;
use crate::rowwise::{self, Args, RowFunction, Update};
use crate::state::State;
use crate::types::{Column, Datatype, Description, Failure, Flatmapfunction, Flatrows, Kind};
use crate::write::{Returned, Value};

type RowsFn<T> = Box<dyn Fn(usize, &[Column]) -> Result<T, Failure> + Send + Sync>;
type GroupsFn = Box<dyn Fn(&[u32], u32, &[Column]) -> Result<Vec<Column>, Failure> + Send + Sync>;

enum Calls {
    Filter(RowsFn<Vec<u8>>),
    Scalar(RowsFn<Column>),
    Aggregate { accumulate: GroupsFn, merge: GroupsFn, finish: RowsFn<Column> },
}

/// One function of a plugin.
pub struct Function {
    description: crate::types::Function,
    calls: Calls,
}

impl Function {
    fn new(kind: Kind, name: &str, doc: &str, arguments: Vec<Datatype>, result: Datatype, calls: Calls) -> Self {
        let (name, doc) = (name.into(), doc.trim().into());
        Self { description: crate::types::Function { name, kind, doc, arguments, result, state: Vec::new() }, calls }
    }

    /// A filter.
    pub fn filter<M, F, R>(name: &str, doc: &str, keep: F) -> Self
    where
        F: RowFunction<M, Output = R> + Send + Sync + 'static,
        R: Returned<Value = bool>,
    {
        let calls = Calls::Filter(Box::new(move |rows, columns| rowwise::filter(&keep, rows, columns)));
        Self::new(Kind::Filter, name, doc, F::Args::types(), Datatype::Boolean, calls)
    }

    /// A scalar function.
    pub fn scalar<M, F, R>(name: &str, doc: &str, function: F) -> Self
    where
        F: RowFunction<M, Output = R> + Send + Sync + 'static,
        R: Returned,
    {
        let calls = Calls::Scalar(Box::new(move |rows, columns| rowwise::scalar(&function, rows, columns)));
        Self::new(Kind::Scalar, name, doc, F::Args::types(), <R::Value as Value>::TYPE, calls)
    }

    /// An aggregate with state `S`.
    pub fn aggregate<S, UM, MM, FM, U, M, F>(name: &str, doc: &str, update: U, merge: M, finish: F) -> Self
    where
        S: State + 'static,
        U: Update<S, UM> + Send + Sync + 'static,
        M: Merge<S, MM> + Send + Sync + 'static,
        F: Finish<S, FM> + Send + Sync + 'static,
    {
        let result = <<F::Output as Returned>::Value as Value>::TYPE;
        let calls = Calls::Aggregate {
            accumulate: Box::new(move |groups, count, columns| {
                aggregate::accumulate::<S, UM, U>(&update, groups, count, columns)
            }),
            merge: Box::new(move |groups, count, columns| aggregate::merge::<S, MM, M>(&merge, groups, count, columns)),
            finish: Box::new(move |rows, columns| aggregate::finish::<S, FM, F>(&finish, rows, columns)),
        };
        let mut function = Self::new(Kind::Aggregate, name, doc, U::Args::types(), result, calls);
        function.description.state = S::fields();
        function
    }
}

/// A plugin: what [`plugin!`](crate::plugin!) makes. Its methods are the exports of `wit/plugin.wit`.
pub struct Plugin {
    name: &'static str,
    version: &'static str,
    functions: Vec<Function>,
    flatmaps: Vec<FlatMap>,
}

impl Plugin {
    /// A plugin of these functions, numbered from 0; flat maps are numbered on from the others.
    pub fn new(name: &'static str, version: &'static str, functions: Vec<Function>, flatmaps: Vec<FlatMap>) -> Self {
        Self { name, version, functions, flatmaps }
    }

    /// What the plugin is and has.
    pub fn describe(&self) -> Description {
        Description {
            name: self.name.into(),
            version: self.version.into(),
            sdk: concat!("kindling-guest ", env!("CARGO_PKG_VERSION"), " (rust)").into(),
            functions: self.functions.iter().map(|function| function.description.clone()).collect(),
        }
    }

    /// What flat maps the plugin has.
    pub fn describe_flatmaps(&self) -> Vec<Flatmapfunction> {
        self.flatmaps.iter().map(FlatMap::describe).collect()
    }

    fn calls(&self, function: u32) -> Option<&Calls> {
        self.functions.get(function as usize).map(|function| &function.calls)
    }

    /// Bitmap of the rows to keep.
    ///
    /// # Errors
    /// The function is no filter, the columns don't fit, or a row was refused.
    pub fn filter(&self, function: u32, rows: u32, arguments: &[Column]) -> Result<Vec<u8>, Failure> {
        match self.calls(function) {
            Some(Calls::Filter(filter)) => filter(rows as usize, arguments),
            _ => Err(absent(function, "filter")),
        }
    }

    /// One value a row.
    ///
    /// # Errors
    /// The function is no scalar function, the columns don't fit, or a row was refused.
    pub fn scalar(&self, function: u32, rows: u32, arguments: &[Column]) -> Result<Column, Failure> {
        match self.calls(function) {
            Some(Calls::Scalar(scalar)) => scalar(rows as usize, arguments),
            _ => Err(absent(function, "scalar function")),
        }
    }

    /// None, one or many rows a row.
    ///
    /// # Errors
    /// The function is no flat map, the columns don't fit, or a row was refused.
    pub fn flatmap(&self, function: u32, rows: u32, arguments: &[Column]) -> Result<Flatrows, Failure> {
        let flatmap = (function as usize).checked_sub(self.functions.len()).and_then(|i| self.flatmaps.get(i));
        flatmap.ok_or_else(|| absent(function, "flat map"))?.call(rows as usize, arguments)
    }

    /// Rows to one partial state a group.
    ///
    /// # Errors
    /// The function is no aggregate, the columns don't fit, or a row was refused.
    pub fn accumulate(
        &self,
        function: u32,
        groups: &[u32],
        groupcount: u32,
        arguments: &[Column],
    ) -> Result<Vec<Column>, Failure> {
        match self.calls(function) {
            Some(Calls::Aggregate { accumulate, .. }) => accumulate(groups, groupcount, arguments),
            _ => Err(absent(function, "aggregate")),
        }
    }

    /// Partial states to one partial state a group.
    ///
    /// # Errors
    /// The function is no aggregate, the columns don't fit, or a state was refused.
    pub fn merge(&self, function: u32, groups: &[u32], groupcount: u32, states: &[Column]) -> Result<Vec<Column>, Failure> {
        match self.calls(function) {
            Some(Calls::Aggregate { merge, .. }) => merge(groups, groupcount, states),
            _ => Err(absent(function, "aggregate")),
        }
    }

    /// Partial states to results.
    ///
    /// # Errors
    /// The function is no aggregate, the columns don't fit, or a state was refused.
    pub fn finish(&self, function: u32, rows: u32, states: &[Column]) -> Result<Column, Failure> {
        match self.calls(function) {
            Some(Calls::Aggregate { finish, .. }) => finish(rows as usize, states),
            _ => Err(absent(function, "aggregate")),
        }
    }
}

#[cold]
fn absent(function: u32, kind: &str) -> Failure {
    rowwise::whole(format!("function {function} is no {kind} of this plugin"))
}

/// Names a plugin and its functions, and exports them when compiled for WebAssembly. Also makes `plugin()`, for tests.
///
/// - An aggregate is `name: State`, where `State` has `update`, `merge` and `finish`; another function in the place of `update` is given as
///   `name: State where update = State::update_number`, so that one state can serve several types of argument.
/// - A filter, scalar function or flat map is `name` if the function is called so, else `name: path::of::function`.
/// - The doc comment is the line that people see in a list of functions.
///
/// Lists that are empty may be left out, but their order is fixed. A plugin of keyed processes has `processes: [name: Type]` alone, where
/// `Type` is a [`Process`](crate::Process).
#[macro_export]
macro_rules! plugin {
    (
        name: $name:expr,
        version: $version:expr,
        processes: [$($(#[doc = $doc:expr])* $process:ident : $type:ty),* $(,)?] $(,)?
    ) => {
        /// This plugin: the processes as Kindling calls them.
        pub fn plugin() -> &'static $crate::Processes {
            static PLUGIN: std::sync::LazyLock<$crate::Processes> = std::sync::LazyLock::new(|| {
                $crate::Processes::new($name, $version, vec![
                    $($crate::processes::Entry::of::<$type>(stringify!($process), concat!($($doc),*)),)*
                ])
            });
            &PLUGIN
        }

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        const _: () = {
            use $crate::process_bindings::kindling::plugin::processing::{Batch, Effect, Processes};
            struct Exports;
            impl $crate::process_bindings::Guest for Exports {
                fn describeprocesses() -> Processes {
                    plugin().describe()
                }
                fn process(process: u32, batch: Batch) -> Result<Effect, $crate::types::Failure> {
                    plugin().process(process, &batch)
                }
            }
            $crate::process_bindings::export_process!(Exports with_types_in $crate::process_bindings);
        };
    };
    (
        name: $name:expr,
        version: $version:expr,
        $(aggregates: [$($(#[doc = $agg_doc:expr])* $agg:ident : $state:ty $(where update = $update:expr)?),* $(,)?] $(,)?)?
        $(filters: [$($(#[doc = $filter_doc:expr])* $filter:ident $(: $filter_fn:expr)?),* $(,)?] $(,)?)?
        $(scalars: [$($(#[doc = $scalar_doc:expr])* $scalar:ident $(: $scalar_fn:expr)?),* $(,)?] $(,)?)?
        $(flatmaps: [$($(#[doc = $flatmap_doc:expr])* $flatmap:ident $(: $flatmap_fn:expr)?),* $(,)?] $(,)?)?
    ) => {
        /// This plugin: the functions as Kindling calls them.
        pub fn plugin() -> &'static $crate::Plugin {
            static PLUGIN: std::sync::LazyLock<$crate::Plugin> = std::sync::LazyLock::new(|| {
                $crate::Plugin::new($name, $version, vec![
                    $($($crate::plugin::Function::aggregate::<$state, _, _, _, _, _, _>(
                        stringify!($agg),
                        concat!($($agg_doc),*),
                        $crate::__or!($($update)?, <$state>::update),
                        <$state>::merge,
                        <$state>::finish,
                    ),)*)?
                    $($($crate::plugin::Function::filter(
                        stringify!($filter),
                        concat!($($filter_doc),*),
                        $crate::__or!($($filter_fn)?, $filter),
                    ),)*)?
                    $($($crate::plugin::Function::scalar(
                        stringify!($scalar),
                        concat!($($scalar_doc),*),
                        $crate::__or!($($scalar_fn)?, $scalar),
                    ),)*)?
                ], vec![
                    $($($crate::flatmap::FlatMap::of(
                        stringify!($flatmap),
                        concat!($($flatmap_doc),*),
                        $crate::__or!($($flatmap_fn)?, $flatmap),
                    ),)*)?
                ])
            });
            &PLUGIN
        }

        // Natively there is nobody to export to, and the names (`merge`, `filter`) would clash with others.
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        const _: () = {
            use $crate::types::{Column, Description, Failure, Flatmapfunction, Flatrows};
            struct Exports;
            impl $crate::bindings::Guest for Exports {
                fn describe() -> Description {
                    plugin().describe()
                }
                fn filter(function: u32, rows: u32, arguments: Vec<Column>) -> Result<Vec<u8>, Failure> {
                    plugin().filter(function, rows, &arguments)
                }
                fn scalar(function: u32, rows: u32, arguments: Vec<Column>) -> Result<Column, Failure> {
                    plugin().scalar(function, rows, &arguments)
                }
                fn describeflatmaps() -> Vec<Flatmapfunction> {
                    plugin().describe_flatmaps()
                }
                fn flatmap(function: u32, rows: u32, arguments: Vec<Column>) -> Result<Flatrows, Failure> {
                    plugin().flatmap(function, rows, &arguments)
                }
                fn accumulate(function: u32, groups: Vec<u32>, groupcount: u32, arguments: Vec<Column>) -> Result<Vec<Column>, Failure> {
                    plugin().accumulate(function, &groups, groupcount, &arguments)
                }
                fn merge(function: u32, groups: Vec<u32>, groupcount: u32, states: Vec<Column>) -> Result<Vec<Column>, Failure> {
                    plugin().merge(function, &groups, groupcount, &states)
                }
                fn finish(function: u32, rows: u32, states: Vec<Column>) -> Result<Column, Failure> {
                    plugin().finish(function, rows, &states)
                }
            }
            $crate::bindings::export_plugin!(Exports with_types_in $crate::bindings);
        };
    };
}

/// The first that is there.
#[doc(hidden)]
#[macro_export]
macro_rules! __or {
    (, $default:expr) => {
        $default
    };
    ($given:expr, $default:expr) => {
        $given
    };
}
