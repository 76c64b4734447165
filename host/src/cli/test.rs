//! `kindling test`: scenario files, each run in several ways.

use crate::error::{Error, Kind};
use crate::limits::GuestLimits;
use crate::plugin::{GuestEngine, Plugin, PluginSet};
use crate::runtime::scenario::Scenario;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `kindling test`.
#[derive(Args)]
#[command(after_help = "\
Example:
  kindling test tests/scenarios/*.yaml --plugins plugins

Each scenario is run as written, at batch size 1, in epochs of one row, over several partitions, and with a crash and a restore at
every epoch; all must give the expected output.")]
pub struct TestArgs {
    /// Scenario files.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Folders of plugins; the first holds those that are loaded, all are searched for swaps.
    #[arg(long, default_value = "plugins")]
    pub plugins: Vec<PathBuf>,
    /// One line a run as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `kindling test`.
///
/// # Errors
/// When a scenario fails.
pub fn test(args: &TestArgs) -> Result<(), Error> {
    // Guests that never end are among what is tested, and each waits for its deadline many times.
    let limits = GuestLimits { call_time: std::time::Duration::from_millis(250), ..GuestLimits::default() };
    let engine = GuestEngine::new(limits, None).map_err(|e| Error::new(e.kind(), e.to_string()))?;
    let mut plugins = PluginSet::empty();
    if let Some(dir) = args.plugins.first().filter(|d| d.is_dir()) {
        let (set, problems) = PluginSet::open_dir(&engine, dir);
        for problem in problems {
            tracing::warn!(file = %problem.path.display(), "{}", problem.text);
        }
        plugins = set;
    }
    let load = |name: &str| {
        let path =
            args.plugins.iter().map(|d| d.join(name)).find(|p| p.is_file()).ok_or_else(|| format!("no plugin file {name}"))?;
        Plugin::load(&engine, &path).map_err(|e| e.to_string())
    };
    let (mut runs, mut failures) = (0, 0);
    for file in &args.files {
        let scenario = Scenario::load(file).map_err(|e| Error::new(Kind::Config, e))?;
        for mode in scenario.modes() {
            runs += 1;
            let outcome = scenario.run(file, mode, &plugins, &load);
            failures += usize::from(outcome.is_err());
            let error = outcome.err();
            if args.json {
                say!("{}", serde_json::json!({"file": file.display().to_string(), "mode": mode.name, "error": error}));
            } else if let Some(error) = error {
                say!("FAILED {} ({})\n  {error}", file.display(), mode.name);
            }
        }
    }
    if failures > 0 {
        return Err(Error::new(Kind::Config, format!("{failures} of {runs} scenario runs failed")));
    }
    if !args.json {
        say!("{} scenarios, {runs} runs: all as expected", args.files.len());
    }
    Ok(())
}
