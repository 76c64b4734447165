//! The `kindling` command: arguments, logs, exit codes. Each subcommand is a file.

/// A line on standard output. Where nobody reads it any more (`kindling ... | head`) it is dropped: that is no error of ours.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout().lock(), $($text)*);
    }};
}

mod ask;
mod check;
mod demo;
mod demo_events;
mod demo_matches;
mod demo_view;
mod endpoint;
mod plugin;
mod plugin_sdk;
mod run;
mod savepoint;
mod state;
mod state_ls;
mod stored;
mod table;
mod test;
mod why;

use crate::error::{Error, Kind};
use clap::{Parser, Subcommand, ValueEnum};
use std::io::IsTerminal;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  kindling demo                                   see a pipeline run: no broker needed
  kindling check pipeline.yaml                    everything wrong with a file, by line
  kindling run pipeline.yaml --metrics 127.0.0.1:9400
  kindling run pipeline.yaml --set source.parameters.topic=other --until-end
  kindling why experiment-counts                  what a running job waits for
  kindling plugin new my_count --kind aggregate   a guest to start from

Exit codes: 0 well, 1 a defect of Kindling, 2 a pipeline or flag is wrong, 3 a plugin is wrong, 4 a broker or disk is away, 5 stored data does not read back.";

/// A stream processor for Kafka whose logic is WebAssembly.
#[derive(Parser)]
#[command(name = "kindling", version, about, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written (to standard error; RUST_LOG sets the level).
    #[arg(long, global = true, value_enum, default_value = "text")]
    log: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run a pipeline.
    Run(run::RunArgs),
    /// Generate events and run two pipelines over them, experiment counts and matches, with their plugins swapped half-way.
    Demo(demo::DemoArgs),
    /// Say everything that is wrong with pipeline files.
    Check(check::CheckArgs),
    /// Show a pipeline's plan: what is decoded, where each guest runs, panes, state.
    Explain(check::ExplainArgs),
    /// Run scenario files: a pipeline, its input, the expected output; in several ways that must agree.
    Test(test::TestArgs),
    /// Make, build and check a plugin.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Show a job's state by key, from a running job and from a stopped one.
    #[command(subcommand)]
    State(state::StateCommand),
    /// Write a job's state, offsets and watermarks to a file, for `kindling run --restore`.
    Savepoint(savepoint::SavepointArgs),
    /// List plugins: name, version, hash, functions, state, and what a running job made of them.
    Plugins(plugin::PluginsArgs),
    /// Say what a running job waits for: which partition holds its watermark back, since when, and what would unblock it.
    Why(why::WhyArgs),
}

/// Runs the command line; the whole of `main`.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // What these print is for people; what the parts below have to say to a job's log is not.
    logging(cli.log, matches!(cli.command, Command::Demo(_) | Command::State(_) | Command::Savepoint(_)));
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Check(args) => check::check(&args),
        Command::Explain(args) => check::explain(&args),
        Command::Test(args) => test::test(&args),
        Command::State(command) => state::state(&command),
        Command::Savepoint(args) => savepoint::savepoint(&args),
        Command::Plugin(command) => plugin::plugin(&command),
        Command::Plugins(args) => plugin::plugins(&args),
        Command::Why(args) => why::why(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kindling: {error}");
            if error.kind == Kind::Internal {
                eprintln!("This is a defect of Kindling; please report it with the lines above.");
            }
            ExitCode::from(error.kind.exit_code())
        }
    }
}

/// Logs go to standard error, so that standard output is the pipeline's.
fn logging(format: LogFormat, quiet: bool) {
    // The stores and clients below tell of their own affairs at info.
    let default = if quiet { "error" } else { "info,fjall=warn,lsm_tree=warn,rdkafka=warn" };
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// `path=value`.
fn parse_set(text: &str) -> Result<(String, String), String> {
    let (path, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` is not path=value, for example source.parameters.topic=other"))?;
    Ok((path.trim().to_owned(), value.to_owned()))
}

/// Stops the job at the first SIGINT or SIGTERM; ends the process at the second.
fn stop_on_signal(control: &std::sync::Arc<crate::runtime::job::Control>) -> Result<(), Error> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let broken = |e: std::io::Error| Error::new(Kind::Internal, format!("signals can't be handled: {e}"));
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(broken)?;
    let control = std::sync::Arc::clone(control);
    std::thread::spawn(move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 {
                std::process::exit(128 + signal);
            }
            tracing::info!("finishing the epoch, then leaving; once more ends at once");
            control.stop();
        }
    });
    Ok(())
}
