//! Hot swap: a new version of a plugin is loaded, checked and planned beside the running one; the job takes it at an epoch's end.
//!
//! In: events of the plugins' folder. Out: at most one [`Candidate`] that waits for the job, and notes for people.
//! **Invariant**: the data path only ever takes a finished plan out of a lock; everything slow happens on the swapper's thread.

use crate::config::spec::Pipeline;
use crate::plan::Plan;
use crate::plugin::{Plugin, PluginEvent, PluginSet, PluginStatus, compatible};
use arrow::datatypes::Schema;
use crossbeam_channel::Receiver;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Notes kept for `kindling plugins` and the log of a demo; older ones are dropped.
const NOTES: usize = 64;

/// A plan that may take over.
#[derive(Clone)]
pub struct Candidate {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The plugins that it was made with.
    pub plugins: PluginSet,
    /// Plugin and version that are new in it.
    pub new: (String, String),
}

/// What happened to a plugin, in words.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Note {
    /// Plugin, or file.
    pub plugin: String,
    /// What happened.
    pub text: String,
    /// The running version goes on although a newer one is there.
    pub refused: bool,
}

struct Inner {
    plugins: PluginSet,
    /// The plugins of the plan that the job runs now.
    running: PluginSet,
    plan: Arc<Plan>,
    candidate: Option<Candidate>,
    /// Versions that were rolled back: what was prepared beside one that fell meanwhile is prepared again.
    rollbacks: u64,
    notes: VecDeque<Note>,
}

/// Shared between the job and the thread that prepares candidates.
pub struct Swapper {
    pipeline: Pipeline,
    inner: Mutex<Inner>,
}

impl Swapper {
    /// For a pipeline that runs `plan`, made with `plugins`.
    pub fn new(pipeline: Pipeline, plan: Arc<Plan>, plugins: PluginSet) -> Arc<Self> {
        Arc::new(Self {
            pipeline,
            inner: Mutex::new(Inner {
                running: plugins.clone(),
                plugins,
                plan,
                candidate: None,
                rollbacks: 0,
                notes: VecDeque::new(),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves whole values behind this lock: each is replaced in one assignment.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan that waits, if any; it is the job's from now on.
    pub fn take(&self) -> Option<Candidate> {
        self.lock().candidate.take()
    }

    /// The job goes on with `candidate`; gives the plugins of the plan before it.
    pub fn replaced(&self, candidate: &Candidate) -> PluginSet {
        std::mem::replace(&mut self.lock().running, candidate.plugins.clone())
    }

    /// The plugins as last loaded and fit.
    pub fn plugins(&self) -> PluginSet {
        self.lock().plugins.clone()
    }

    /// The plugins for `kindling plugins`: `live` where the pipeline calls them, else `loaded`; with the last reason why a newer version
    /// was not taken.
    pub fn statuses(&self) -> Vec<PluginStatus> {
        let inner = self.lock();
        let job = format!("{}/{}", self.pipeline.team, self.pipeline.name);
        let status = |plugin: &Arc<Plugin>| {
            let used = inner.plan.guests.iter().any(|g| g.plugin == *plugin.name);
            let (state, uses) = if used { ("live", vec![job.clone()]) } else { ("loaded", Vec::new()) };
            let last = inner.notes.iter().rev().find(|n| n.plugin == *plugin.name);
            PluginStatus { problem: last.filter(|n| n.refused).map(|n| n.text.clone()), ..PluginStatus::of(plugin, state, uses) }
        };
        inner.running.plugins().map(status).collect()
    }

    /// Notes, oldest first.
    pub fn notes(&self) -> Vec<Note> {
        self.lock().notes.iter().cloned().collect()
    }

    /// Notes something that happened to a plugin.
    pub fn note(&self, plugin: &str, text: String, refused: bool) {
        if refused {
            tracing::warn!(plugin, "{text}");
        } else {
            tracing::info!(plugin, "{text}");
        }
        let mut inner = self.lock();
        if inner.notes.len() == NOTES {
            inner.notes.pop_front();
        }
        inner.notes.push_back(Note { plugin: plugin.into(), text, refused });
    }

    /// The job went back to `plan` and `plugins` because `new` failed. What waits stays, without the version that failed.
    pub fn rolled_back(&self, plan: Arc<Plan>, plugins: PluginSet, new: &(String, String), why: &str) {
        let waiting = {
            let mut inner = self.lock();
            inner.plan = plan;
            inner.running = plugins.clone();
            inner.plugins = plugins.clone();
            inner.rollbacks += 1;
            inner.candidate.take()
        };
        self.note(&new.0, format!("version {} failed in its first epochs and was rolled back: {why}", new.1), true);
        let Some(waiting) = waiting else { return };
        match self.without(&waiting, &plugins, &new.0) {
            Ok(candidate) => {
                let mut inner = self.lock();
                inner.plan = Arc::clone(&candidate.plan);
                inner.plugins = candidate.plugins.clone();
                inner.candidate = Some(candidate);
            }
            Err(why) => {
                let (name, version) = &waiting.new;
                self.note(name, format!("version {version} was not taken: {why}; the running version goes on"), true);
            }
        }
    }

    /// A candidate with `name` as it is in `plugins`; one that is a newer version of it stays as it is.
    fn without(&self, candidate: &Candidate, plugins: &PluginSet, name: &str) -> Result<Candidate, String> {
        let Some(old) = plugins.plugin(name).filter(|_| candidate.new.0 != name) else { return Ok(candidate.clone()) };
        let plugins = candidate.plugins.with(Arc::clone(old)).map_err(|p| p.text)?;
        let plan = Arc::new(crate::plan::build(&self.pipeline, &plugins).map_err(|e| e.to_string())?);
        Ok(Candidate { plan, plugins, new: candidate.new.clone() })
    }

    /// Prepares candidates until `events` closes.
    pub fn run(&self, events: &Receiver<PluginEvent>) {
        for event in events {
            match event {
                PluginEvent::Loaded(plugin) => {
                    let (name, version) = (plugin.name.to_string(), plugin.version.to_string());
                    match self.prepare(&plugin) {
                        Ok(true) => {
                            self.note(&name, format!("version {version} is ready and takes over at the next epoch"), false)
                        }
                        Ok(false) => {
                            self.note(&name, format!("version {version} is loaded; the pipeline does not use it"), false)
                        }
                        Err(why) => {
                            self.note(&name, format!("version {version} was not taken: {why}; the running version goes on"), true)
                        }
                    }
                }
                PluginEvent::Removed { name, path } => self.removed(&name, &path.display().to_string()),
                PluginEvent::Problem(problem) => {
                    self.note(&problem.path.display().to_string(), format!("{}; what runs goes on", problem.text), true);
                }
            }
        }
    }

    /// Makes a candidate of a plugin; whether the pipeline uses it.
    fn prepare(&self, plugin: &Arc<Plugin>) -> Result<bool, String> {
        loop {
            if let Some(used) = self.prepare_once(plugin)? {
                return Ok(used);
            }
        }
    }

    /// None where another version was rolled back meanwhile, and may be in what was prepared.
    fn prepare_once(&self, plugin: &Arc<Plugin>) -> Result<Option<bool>, String> {
        let (plugins, plan, rollbacks) = {
            let inner = self.lock();
            (inner.plugins.clone(), Arc::clone(&inner.plan), inner.rollbacks)
        };
        let used: Vec<String> = plan.guests.iter().filter(|g| g.plugin == *plugin.name).map(|g| g.function.clone()).collect();
        if let Some(old) = plugins.plugin(&plugin.name) {
            compatible(old, plugin, &used)?;
        }
        let plugins = plugins.with(Arc::clone(plugin)).map_err(|p| p.text)?;
        if used.is_empty() {
            let mut inner = self.lock();
            let fresh = inner.rollbacks == rollbacks;
            if fresh {
                inner.plugins = plugins;
            }
            return Ok(fresh.then_some(false));
        }
        let next = crate::plan::build(&self.pipeline, &plugins).map_err(|e| e.to_string())?;
        if let Some((new, old)) = next.chain().zip(plan.chain()).find(|(new, old)| new.layout != old.layout) {
            return Err(format!("its state is laid out differently: `{}` instead of `{}`", new.layout, old.layout));
        }
        // A process may give more than before: what readers know of its rows must still be there.
        let (old, new) = (&plan.last().output, &next.last().output);
        let has_grown = plan.last().process.is_some() && old.fields().iter().all(|f| new.fields().iter().any(|n| n == f));
        if old != new && !has_grown {
            return Err(format!("its results have other columns: ({}) instead of ({})", columns(new), columns(old)));
        }
        let next = Arc::new(next);
        let new = (plugin.name.to_string(), plugin.version.to_string());
        let mut inner = self.lock();
        if inner.rollbacks != rollbacks {
            return Ok(None);
        }
        inner.plan = Arc::clone(&next);
        inner.plugins = plugins.clone();
        inner.candidate = Some(Candidate { plan: next, plugins, new });
        Ok(Some(true))
    }

    fn removed(&self, name: &str, path: &str) {
        let mut inner = self.lock();
        if inner.plan.guests.iter().any(|g| g.plugin == name) {
            drop(inner);
            self.note(
                name,
                format!("{path} is gone; the pipeline uses it, so the loaded version goes on until the job ends"),
                true,
            );
        } else {
            inner.plugins = inner.plugins.without(name);
            drop(inner);
            self.note(name, format!("{path} is gone; unloaded"), false);
        }
    }
}

fn columns(schema: &Schema) -> String {
    schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, load_str};
    use crate::plugin::testing;

    const FILE: &str = "
source: { name: stdin }
pipeline:
  - operation: parse
    parse:
      parameters:
        - { jsonPath: a, outputType: long, outputCol: a }
  - operation: project
    columns: { a: a_twice(a), b: b_twice(a) }
";

    #[test]
    fn what_waits_goes_on_without_a_version_that_was_rolled_back() {
        let engine = testing::engine();
        let versions = |set: &PluginSet| -> Vec<String> { set.plugins().map(|p| format!("{}@{}", p.name, p.version)).collect() };
        let plugin = |name: &str, version| testing::plugin(&engine, name, version, &format!("{name}_"));
        let plugins = PluginSet::empty().with(plugin("a", "1.0.0")).unwrap().with(plugin("b", "1.0.0")).unwrap();
        let pipeline = load_str(FILE, "swap.yaml", &LoadOptions::default()).unwrap();
        let old = Arc::new(crate::plan::build(&pipeline, &plugins).unwrap());
        let swapper = Swapper::new(pipeline, Arc::clone(&old), plugins);

        assert_eq!(swapper.prepare(&plugin("a", "2.0.0")), Ok(true));
        let bad = swapper.take().unwrap();
        let before = swapper.replaced(&bad);
        assert_eq!(swapper.prepare(&plugin("b", "2.0.0")), Ok(true));
        swapper.rolled_back(Arc::clone(&old), before.clone(), &bad.new, "it trapped");
        let next = swapper.take().unwrap();
        assert_eq!(versions(&next.plugins), ["a@1.0.0", "b@2.0.0"]);

        // A newer version of the plugin that fell is not held up by its fall.
        swapper.replaced(&next);
        assert_eq!(swapper.prepare(&plugin("a", "3.0.0")), Ok(true));
        swapper.rolled_back(old, before, &bad.new, "it trapped");
        assert_eq!(versions(&swapper.take().unwrap().plugins)[0], "a@3.0.0");
    }
}
