//! Watches a folder of plugins: what was dropped in, replaced or taken away, loaded on a thread of its own.
//!
//! A file counts when its size and time have not changed for a while; one that can't be loaded is tried again for a while, since it may
//! not be whole yet. The system's notices only make this quick: the folder is also looked through every second.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};
use notify::{RecursiveMode, Watcher};

use super::artefact::Artefact;
use super::set::plugin_files;
use super::{GuestEngine, Plugin, PluginError, PluginProblem, PluginSet};

/// A file is whole when its size and time stood still this long.
const SETTLED: Duration = Duration::from_millis(100);
/// A file that can't be loaded is tried again this long before it is reported.
const RETRY: Duration = Duration::from_secs(2);
/// Time between two such tries.
const RETRY_STEP: Duration = Duration::from_millis(250);
/// A file that is gone may be on its way back (`rm` and `cp`): it is reported after this long.
const GONE: Duration = Duration::from_millis(500);
/// The folder is looked through at least this often.
const LOOK: Duration = Duration::from_secs(1);
/// Events that wait at most. At it the watcher waits too: nothing is lost, it only sees later what happened meanwhile.
const EVENTS: usize = 64;

/// What happened in the folder.
#[derive(Debug)]
pub enum PluginEvent {
    /// A plugin whose content was not there before. It may have the name of one that is used.
    Loaded(Arc<Plugin>),
    /// The file of a loaded plugin is gone. It says nothing of a plugin of the same name that was loaded from another file.
    Removed {
        /// Name of the plugin.
        name: String,
        /// File that is gone.
        path: PathBuf,
    },
    /// A file is no plugin that can be used. Told once each time that its file changes.
    Problem(PluginProblem),
}

/// Watches until it is dropped.
pub struct PluginWatcher {
    stop: Arc<AtomicBool>,
    wake: Sender<()>,
    thread: Option<JoinHandle<()>>,
    /// Gives its notices until it is dropped.
    _notices: Option<notify::RecommendedWatcher>,
}

impl PluginWatcher {
    /// Watches `dir`. The plugins in `known` are those that the caller has loaded from there: their files make no event until they
    /// change. A file in the folder that is not among them is loaded, or reported, at once.
    ///
    /// # Errors
    /// [`PluginError::Folder`] where there is no such folder.
    pub fn start(engine: Arc<GuestEngine>, dir: &Path, known: &PluginSet) -> Result<(Self, Receiver<PluginEvent>), PluginError> {
        let fault = |detail: String| PluginError::Folder { path: dir.to_owned(), detail };
        plugin_files(dir).map_err(|e| fault(format!("can't be read: {e}; make the folder, or name another with --plugins")))?;
        let (events, receiver) = bounded(EVENTS);
        let (wake, woken) = bounded(1);
        let notices = notices(dir, wake.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let files = known.plugins().map(|p| (p.path.clone(), Seen::known(p))).collect();
        let folder = Folder { engine, dir: dir.to_owned(), files, events, stop: stop.clone(), unreadable: false };
        let thread = std::thread::Builder::new()
            .name("plugin-watch".into())
            .spawn(move || folder.run(&woken))
            .map_err(|e| fault(format!("no thread to watch it: {e}")))?;
        Ok((Self { stop, wake, thread: Some(thread), _notices: notices }, receiver))
    }
}

impl Drop for PluginWatcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Wakes the watcher when the system notices something. Without notices (a network drive, no handles left) it looks every second.
fn notices(dir: &Path, wake: Sender<()>) -> Option<notify::RecommendedWatcher> {
    let notice = move |event: notify::Result<notify::Event>| {
        // Our own reading is noticed too, and would wake us for ever.
        if !event.is_ok_and(|e| e.kind.is_access()) {
            // A full channel means that it is about to wake anyway.
            let _ = wake.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(notice).and_then(|mut watcher| {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| tracing::warn!(dir = %dir.display(), %error, "no notices of changed plugins; looking every second"))
        .ok()
}

/// What can be told of a file without reading it. Two contents may share it only within the clock's resolution, and then not the inode
/// if the file was replaced by a rename.
type Stamp = (u64, Option<SystemTime>, u64);

fn stamp(meta: &Metadata) -> Stamp {
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(meta);
    #[cfg(not(unix))]
    let inode = 0;
    (meta.len(), meta.modified().ok(), inode)
}

/// A file that was seen.
struct Seen {
    /// As it was last seen; none: not yet.
    stamp: Option<Stamp>,
    /// Since when it is so.
    since: Instant,
    /// When it is to be read next; none: it was read and stands.
    read_at: Option<Instant>,
    /// Name and content of the plugin that was loaded from it last.
    plugin: Option<(Arc<str>, Arc<str>)>,
    /// Since when it is gone.
    gone: Option<Instant>,
}

impl Seen {
    fn new(now: Instant) -> Self {
        Self { stamp: None, since: now, read_at: None, plugin: None, gone: None }
    }

    fn known(plugin: &Plugin) -> Self {
        Self { plugin: Some((plugin.name.clone(), plugin.hash.clone())), ..Self::new(Instant::now()) }
    }
}

/// The receiver is gone, or the watcher is to stop.
struct Stopped;

struct Folder {
    engine: Arc<GuestEngine>,
    dir: PathBuf,
    files: BTreeMap<PathBuf, Seen>,
    events: Sender<PluginEvent>,
    stop: Arc<AtomicBool>,
    /// Whether it was told that the folder itself can't be read.
    unreadable: bool,
}

impl Folder {
    fn run(mut self, woken: &Receiver<()>) {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(next) = self.look(Instant::now()) else { return };
            let wait = next.saturating_duration_since(Instant::now()).min(LOOK);
            if let Err(RecvTimeoutError::Disconnected) = woken.recv_timeout(wait) {
                // Only the notices are gone; the watcher itself holds the other end, so this is the end.
                return;
            }
        }
    }

    /// Looks through the folder, and says when to look again.
    fn look(&mut self, now: Instant) -> Result<Instant, Stopped> {
        let files = match plugin_files(&self.dir) {
            Ok(files) => files,
            Err(e) => {
                // A folder that can't be read says nothing of its plugins: they stay.
                if !std::mem::replace(&mut self.unreadable, true) {
                    let text = format!("the folder of plugins can't be read: {e}; its plugins stay as they are");
                    self.tell(PluginEvent::Problem(PluginProblem { path: self.dir.clone(), text }))?;
                }
                return Ok(now + LOOK);
            }
        };
        self.unreadable = false;
        for path in &files {
            let Ok(meta) = std::fs::metadata(path) else { continue };
            let seen = self.files.entry(path.clone()).or_insert_with(|| Seen::new(now));
            seen.gone = None;
            let stamp = Some(stamp(&meta));
            if seen.stamp != stamp {
                (seen.stamp, seen.since, seen.read_at) = (stamp, now, Some(now + SETTLED));
            }
        }
        for path in &files {
            if self.files.get(path).is_some_and(|seen| seen.read_at.is_some_and(|at| at <= now)) {
                self.read(path)?;
            }
        }
        self.take_away(&files, now)?;
        let due = self.files.values().filter_map(|s| s.gone.map(|g| g + GONE).or(s.read_at));
        Ok(due.min().unwrap_or(now + LOOK))
    }

    /// Reads a file that stood still.
    fn read(&mut self, path: &Path) -> Result<(), Stopped> {
        let artefact = match Artefact::read(path, self.engine.limits().artefact_bytes) {
            Ok(artefact) => artefact,
            Err(error) => return self.failed(path, &error),
        };
        let is_this = |seen: &Seen| seen.plugin.as_ref().is_some_and(|(_, hash)| **hash == *artefact.sha256());
        if self.files.get(path).is_some_and(is_this) {
            self.settle(path, |_| ());
            return Ok(());
        }
        // The same content under another name, whose file is gone: it was renamed.
        let renamed = self.files.iter().find(|(other, seen)| is_this(seen) && !other.exists());
        if let Some(old) = renamed.map(|(old, _)| old.clone()) {
            let plugin = self.files.remove(&old).and_then(|seen| seen.plugin);
            self.settle(path, |seen| seen.plugin = plugin);
            return Ok(());
        }
        match Plugin::from_artefact(&self.engine, &artefact) {
            Ok(plugin) => {
                self.settle(path, |seen| seen.plugin = Some((plugin.name.clone(), plugin.hash.clone())));
                self.tell(PluginEvent::Loaded(plugin))
            }
            Err(error) => self.failed(path, &error),
        }
    }

    /// The file is no plugin: tries again for a while, then tells. What was loaded from it before stays loaded.
    fn failed(&mut self, path: &Path, error: &PluginError) -> Result<(), Stopped> {
        let now = Instant::now();
        let Some(seen) = self.files.get_mut(path) else { return Ok(()) };
        if now < seen.since + RETRY {
            seen.read_at = Some(now + RETRY_STEP);
            return Ok(());
        }
        self.settle(path, |_| ());
        self.tell(PluginEvent::Problem(PluginProblem::of(path, error)))
    }

    fn settle(&mut self, path: &Path, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.files.get_mut(path) {
            seen.read_at = None;
            change(seen);
        }
    }

    /// Files that are gone.
    fn take_away(&mut self, files: &[PathBuf], now: Instant) -> Result<(), Stopped> {
        let mut removed = Vec::new();
        for (path, seen) in &mut self.files {
            if files.binary_search(path).is_err() && *seen.gone.get_or_insert(now) + GONE <= now {
                removed.push(path.clone());
            }
        }
        for path in removed {
            let Some(seen) = self.files.remove(&path) else { continue };
            let copy = self.files.values().any(|other| other.plugin == seen.plugin && other.gone.is_none());
            if let (Some((name, _)), false) = (seen.plugin, copy) {
                self.tell(PluginEvent::Removed { name: name.to_string(), path })?;
            }
        }
        Ok(())
    }

    /// Hands over an event; waits while the receiver is behind.
    fn tell(&self, event: PluginEvent) -> Result<(), Stopped> {
        let mut event = event;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stopped);
            }
            match self.events.send_timeout(event, LOOK) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Timeout(back)) => event = back,
                Err(SendTimeoutError::Disconnected(_)) => return Err(Stopped),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::plugin::testing::{engine, wasm};

    struct Watched {
        dir: tempfile::TempDir,
        events: Receiver<PluginEvent>,
        _watcher: PluginWatcher,
    }

    impl Watched {
        /// Watches a folder with `p` 1.0.0 in it, known.
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("p.wasm"), wasm("p", "1.0.0", "")).unwrap();
            let engine = engine();
            let (set, problems) = PluginSet::open_dir(&engine, dir.path());
            assert!(problems.is_empty(), "{problems:?}");
            let (watcher, events) = PluginWatcher::start(engine, dir.path(), &set).unwrap();
            Self { dir, events, _watcher: watcher }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// The next event as text.
        fn next(&self) -> String {
            match self.events.recv_timeout(Duration::from_secs(10)) {
                Ok(PluginEvent::Loaded(p)) => format!("loaded {} {}", p.name, p.version),
                Ok(PluginEvent::Removed { name, .. }) => format!("removed {name}"),
                Ok(PluginEvent::Problem(p)) => format!("problem {p}"),
                Err(_) => "nothing".into(),
            }
        }

        fn silent(&self, ms: u64) {
            if let Ok(event) = self.events.recv_timeout(Duration::from_millis(ms)) {
                panic!("{event:?}");
            }
        }
    }

    #[test]
    fn files_come_change_and_go() {
        let w = Watched::start();
        w.silent(300);
        fs::write(w.path("q.wasm"), wasm("q", "1.0.0", "q_")).unwrap();
        assert_eq!(w.next(), "loaded q 1.0.0");
        // Atomic replacement, then the same content once more.
        fs::write(w.path(".new"), wasm("p", "1.1.0", "")).unwrap();
        fs::rename(w.path(".new"), w.path("p.wasm")).unwrap();
        assert_eq!(w.next(), "loaded p 1.1.0");
        fs::write(w.path("p.wasm"), wasm("p", "1.1.0", "")).unwrap();
        fs::rename(w.path("q.wasm"), w.path("r.wasm")).unwrap();
        w.silent(1_000);
        fs::remove_file(w.path("r.wasm")).unwrap();
        assert_eq!(w.next(), "removed q");
    }

    #[test]
    fn a_file_is_waited_for_until_it_is_whole() {
        let w = Watched::start();
        let bytes = wasm("p", "2.0.0", "");
        let mut part = Vec::new();
        for chunk in bytes.chunks(bytes.len() / 8) {
            part.extend_from_slice(chunk);
            fs::write(w.path("p.wasm"), &part).unwrap();
            std::thread::sleep(Duration::from_millis(130));
        }
        assert_eq!(w.next(), "loaded p 2.0.0");
        w.silent(500);
    }

    #[test]
    fn what_is_no_plugin_is_reported_once_and_the_old_one_stays() {
        let w = Watched::start();
        let start = Instant::now();
        fs::write(w.path("p.wasm"), &wasm("p", "2.0.0", "")[..500]).unwrap();
        let text = w.next();
        assert!(text.starts_with("problem") && text.contains("p.wasm: damaged WebAssembly"), "{text}");
        assert!(start.elapsed() >= RETRY);
        w.silent(1_200);
        // Back to what is loaded: nothing to tell.
        fs::write(w.path("p.wasm"), wasm("p", "1.0.0", "")).unwrap();
        w.silent(600);
        // Taken away for a moment.
        fs::remove_file(w.path("p.wasm")).unwrap();
        std::thread::sleep(Duration::from_millis(150));
        fs::write(w.path("p.wasm"), wasm("p", "1.0.0", "")).unwrap();
        w.silent(1_000);
    }
}
