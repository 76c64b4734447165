//! `kindling plugin new|build|check` and `kindling plugins`: from an idea to an artefact, and what became of it.

use super::plugin_sdk;
use super::table::table;
use crate::error::{Error, Kind};
use crate::limits::GuestLimits;
use crate::plugin::{GuestEngine, Plugin, PluginSet, PluginStatus, fetch_status};
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const TARGET: &str = "wasm32-unknown-unknown";

/// `kindling plugin ...`.
#[derive(Subcommand)]
pub enum PluginCommand {
    /// Make the crate of a new plugin, with one function and its tests.
    New(NewArgs),
    /// Compile a plugin for WebAssembly, check it, and drop it into the plugins' folder.
    Build(BuildArgs),
    /// Say what a plugin is, or everything that is wrong with it.
    Check(CheckArgs),
}

/// What the first function of a new plugin is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum NewKind {
    /// Partial states: update, merge, finish.
    Aggregate,
    /// Rows to keep or drop.
    Filter,
    /// One value a row.
    Scalar,
    /// None, one or many rows a row.
    Flatmap,
    /// Something that is remembered of each key, with timers; with a pipeline that runs it.
    Process,
}

/// Arguments of `kindling plugin new`.
#[derive(Args)]
#[command(after_help = "\
Example:
  kindling plugin new my_mean --kind aggregate
  cd my_mean && cargo test && kindling plugin build --plugins ../plugins

  kindling plugin new my_match --kind process     with a pipeline.yaml that runs it over generated events")]
pub struct NewArgs {
    /// Name of the plugin and its function: lower case letters, digits and _.
    pub name: String,
    /// What its first function is.
    #[arg(long, value_enum)]
    pub kind: NewKind,
    /// Folder in which the crate's folder is made.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
}

/// Arguments of `kindling plugin build`.
#[derive(Args)]
pub struct BuildArgs {
    /// Folder of the plugin's crate.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Folder that the artefact is dropped into.
    #[arg(long, default_value = "plugins")]
    pub plugins: PathBuf,
}

/// Arguments of `kindling plugin check`.
#[derive(Args)]
pub struct CheckArgs {
    /// The artefact: a component or a core module.
    pub file: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `kindling plugins`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  kindling plugins                              what is in plugins/
  kindling plugins --from 127.0.0.1:9400        what a running job made of them (its --metrics address)")]
pub struct PluginsArgs {
    /// Folder of plugins.
    #[arg(long, default_value = "plugins")]
    pub plugins: PathBuf,
    /// Ask the job that serves its metrics here.
    #[arg(long, value_name = "ADDR")]
    pub from: Option<String>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `kindling plugin ...`.
///
/// # Errors
/// What is wrong, and who must act.
pub fn plugin(command: &PluginCommand) -> Result<(), Error> {
    match command {
        PluginCommand::New(args) => new(args),
        PluginCommand::Build(args) => build(args),
        PluginCommand::Check(args) => check(args),
    }
}

fn config(text: String) -> Error {
    Error::new(Kind::Config, text)
}

fn engine() -> Result<Arc<GuestEngine>, Error> {
    GuestEngine::new(GuestLimits::default(), None).map_err(|e| Error::new(e.kind(), e.to_string()))
}

fn new(args: &NewArgs) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !args.name.starts_with(|c: char| c.is_ascii_lowercase()) || !args.name.chars().all(plain) || args.name.len() > 64 {
        return Err(config(format!(
            "`{}`: a name is up to 64 of a-z, 0-9 and _, a letter first: it is the function's name in SQL",
            args.name
        )));
    }
    let folder = args.dir.join(&args.name);
    if folder.exists() {
        return Err(config(format!("{} is there already; name another, or remove it", folder.display())));
    }
    plugin_sdk::scaffold(&folder, &args.name, args.kind)
        .map_err(|e| Error::new(Kind::External, format!("{}: {e}", folder.display())))?;
    let run = if let NewKind::Process = args.kind { "\n  kindling run pipeline.yaml --plugins ../plugins" } else { "" };
    say!(
        "{} is made. Next:\n  cd {}\n  cargo test\n  kindling plugin build --plugins ../plugins{run}",
        folder.display(),
        folder.display()
    );
    Ok(())
}

fn build(args: &BuildArgs) -> Result<(), Error> {
    if !args.dir.join("Cargo.toml").is_file() {
        return Err(config(format!(
            "{} has no Cargo.toml; `kindling plugin new NAME --kind aggregate` makes a crate",
            args.dir.display()
        )));
    }
    // The artefact of exactly this build, wherever the target folder is.
    let output = Command::new("cargo")
        .args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"])
        .current_dir(&args.dir)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|e| config(format!("cargo can't be run: {e}; install Rust from https://rustup.rs")))?;
    if !output.status.success() {
        return Err(Error::new(
            Kind::Plugin,
            format!(
                "the guest does not compile; if std for {TARGET} is missing: rustup target add {TARGET} (or set RUSTC to a rustc that has it)"
            ),
        ));
    }
    let artefact = artefact(&output.stdout).ok_or_else(|| {
        Error::new(Kind::Plugin, "the build made no .wasm file: has Cargo.toml `crate-type = [\"cdylib\"]` under [lib]?")
    })?;
    let plugin = Plugin::load(&engine()?, &artefact).map_err(|e| Error::new(e.kind(), e.to_string()))?;
    let file = args.plugins.join(format!("{}.wasm", plugin.name));
    let beside = args.plugins.join(format!(".{}.part", plugin.name));
    std::fs::create_dir_all(&args.plugins)
        .and_then(|()| std::fs::copy(&artefact, &beside))
        .and_then(|_| std::fs::rename(&beside, &file))
        .map_err(|e| Error::new(Kind::External, format!("{}: {e}", file.display())))?;
    say!("{} {} is in {}", plugin.name, plugin.version, file.display());
    print_functions(&PluginStatus::of(&plugin, "loaded", Vec::new()));
    Ok(())
}

/// The .wasm file that cargo says it made last.
fn artefact(messages: &[u8]) -> Option<PathBuf> {
    let text = String::from_utf8_lossy(messages);
    let files = text
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
        .filter(|m| m["reason"] == "compiler-artifact");
    let files = files.flat_map(|m| m["filenames"].as_array().cloned().unwrap_or_default());
    files.filter_map(|f| f.as_str().map(PathBuf::from)).rfind(|f| f.extension().is_some_and(|e| e == "wasm"))
}

fn check(args: &CheckArgs) -> Result<(), Error> {
    let loaded = Plugin::load(&engine()?, &args.file);
    if args.json {
        let value = match &loaded {
            Ok(plugin) => serde_json::json!({"well": true, "plugin": PluginStatus::of(plugin, "loaded", Vec::new())}),
            Err(error) => serde_json::json!({"well": false, "error": error.to_string()}),
        };
        say!("{value}");
    }
    let plugin = loaded.map_err(|e| Error::new(e.kind(), e.to_string()))?;
    if !args.json {
        let status = PluginStatus::of(&plugin, "loaded", Vec::new());
        say!("{} {} ({}), made by {}", status.name, status.version, &status.hash[..12], status.sdk);
        print_functions(&status);
    }
    Ok(())
}

fn print_functions(status: &PluginStatus) {
    let mut table = table(["function", "kind", "state", "what it is"], 0..0);
    for function in &status.functions {
        table.add_row([&function.signature, &function.kind, &function.state, &function.doc]);
    }
    say!("{table}");
}

/// `kindling plugins`.
///
/// # Errors
/// When the folder or the job can't be asked.
pub fn plugins(args: &PluginsArgs) -> Result<(), Error> {
    let statuses = match &args.from {
        Some(from) => fetch_status(from).map_err(|text| Error::new(Kind::External, text))?,
        None => in_folder(&args.plugins)?,
    };
    if args.json {
        let text = serde_json::to_string_pretty(&statuses).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        say!("{text}");
        return Ok(());
    }
    let mut table = table(["plugin", "version", "hash", "functions", "state", "uses", "calls", "time", "errors"], 0..0);
    for status in &statuses {
        let functions: Vec<&str> = status.functions.iter().map(|f| f.name.as_str()).collect();
        table.add_row([
            status.name.clone(),
            status.version.clone(),
            status.hash.chars().take(12).collect(),
            functions.join("\n"),
            status.state.clone(),
            status.uses.join("\n"),
            status.stats.calls.to_string(),
            format!("{:.1} ms", status.stats.nanos as f64 / 1e6),
            status.stats.failures().to_string(),
        ]);
    }
    say!("{table}");
    for (status, problem) in statuses.iter().filter_map(|s| Some((s, s.problem.as_ref()?))) {
        say!("{}: {problem}", status.name);
    }
    Ok(())
}

fn in_folder(dir: &Path) -> Result<Vec<PluginStatus>, Error> {
    let (set, problems) = PluginSet::open_dir(&engine()?, dir);
    for problem in &problems {
        eprintln!("{problem}");
    }
    Ok(set.plugins().map(|p| PluginStatus::of(p, "loaded", Vec::new())).collect())
}
