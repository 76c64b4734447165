//! `kindling check` and `kindling explain`: what is wrong with pipeline files, and what a pipeline does.

use super::parse_set;
use crate::config::fault::ConfigErrors;
use crate::config::{self, LoadOptions, spec::Pipeline};
use crate::error::{Error, Kind};
use crate::limits::GuestLimits;
use crate::plan::{self, Explanation, Plan};
use crate::plugin::{GuestEngine, PluginProblem, PluginSet};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Arguments of `kindling check`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  kindling check pipeline.yaml
  kindling check pipelines/*.yaml --plugins plugins --json")]
pub struct CheckArgs {
    /// Pipeline files.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Where plugins and connections are, and what is overridden.
    #[command(flatten)]
    pub context: Context,
}

/// Arguments of `kindling explain`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  kindling explain pipeline.yaml
  kindling explain pipeline.yaml --json")]
pub struct ExplainArgs {
    /// The pipeline file.
    pub file: PathBuf,
    /// Where plugins and connections are, and what is overridden.
    #[command(flatten)]
    pub context: Context,
}

/// What a pipeline file is read with.
#[derive(Args)]
pub struct Context {
    /// Folder of plugins.
    #[arg(long, default_value = "plugins")]
    pub plugins: PathBuf,
    /// File of connections [default: kindling.yaml beside the pipeline].
    #[arg(long)]
    pub connections: Option<PathBuf>,
    /// Override a field, for example source.parameters.topic=other; may be repeated.
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = parse_set)]
    pub sets: Vec<(String, String)>,
    /// Write JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

impl Context {
    /// The pipeline in `file` and its plan; what is wrong with plugins that it does not use is only told.
    ///
    /// # Errors
    /// What is wrong with the pipeline.
    pub fn plan_of(&self, file: &Path) -> Result<(Pipeline, Plan), Error> {
        let (plugins, problems) = self.open_plugins()?;
        warn(&problems);
        self.plan(file, &plugins).map_err(|e| Error::new(Kind::Config, e.to_string()))
    }

    fn open_plugins(&self) -> Result<(PluginSet, Vec<PluginProblem>), Error> {
        if !self.plugins.is_dir() {
            return Ok((PluginSet::empty(), Vec::new()));
        }
        let engine = GuestEngine::new(GuestLimits::default(), None).map_err(|e| Error::new(e.kind(), e.to_string()))?;
        Ok(PluginSet::open_dir(&engine, &self.plugins))
    }

    fn plan(&self, file: &Path, plugins: &PluginSet) -> Result<(Pipeline, Plan), ConfigErrors> {
        let options = LoadOptions { connections: self.connections.clone(), sets: self.sets.clone(), ..LoadOptions::default() };
        let pipeline = config::load(file, &options)?;
        let plan = plan::build(&pipeline, plugins)?;
        Ok((pipeline, plan))
    }
}

/// Says what is wrong with files, all of it.
///
/// # Errors
/// When anything is; the faults have been printed then.
pub fn check(args: &CheckArgs) -> Result<(), Error> {
    let (plugins, problems) = args.context.open_plugins()?;
    warn(&problems);
    let mut bad = 0;
    let mut report = Vec::new();
    for file in &args.files {
        let outcome = args.context.plan(file, &plugins);
        bad += usize::from(outcome.is_err());
        match outcome {
            Ok(_) if args.context.json => report.push(json!({ "file": file, "ok": true, "faults": [] })),
            Ok((_, plan)) => say!("{}: well; {}", file.display(), summary(&plan)),
            Err(errors) if args.context.json => report.push(json!({ "file": file, "ok": false, "faults": errors.to_json() })),
            Err(errors) => say!("{}", errors.to_string().trim_end()),
        }
    }
    if args.context.json {
        say!("{:#}", Value::Array(report));
    }
    match bad {
        0 => Ok(()),
        1 if args.files.len() == 1 => Err(Error::new(Kind::Config, "the file can't be run as it is; see above")),
        bad => Err(Error::new(Kind::Config, format!("{bad} of {} files can't be run as they are; see above", args.files.len()))),
    }
}

/// Shows a pipeline's plan.
///
/// # Errors
/// When the pipeline is at fault.
pub fn explain(args: &ExplainArgs) -> Result<(), Error> {
    let (plugins, problems) = args.context.open_plugins()?;
    warn(&problems);
    let planned = args.context.plan(&args.file, &plugins);
    let (pipeline, plan) = planned.map_err(|e| Error::new(Kind::Config, e.to_string()))?;
    if args.context.json {
        let text = serde_json::to_string_pretty(&Explanation::of(&plan, &pipeline));
        say!("{}", text.map_err(|e| Error::new(Kind::Internal, e.to_string()))?);
    } else {
        print!("{}", plan::explain(&plan, &pipeline));
    }
    Ok(())
}

/// A plugin at fault need not be one that the pipeline uses.
fn warn(problems: &[PluginProblem]) {
    for problem in problems {
        tracing::warn!(file = %problem.path.display(), "{}", problem.text);
    }
}

fn summary(plan: &Plan) -> String {
    let columns: Vec<&str> = plan.last().output.fields().iter().map(|f| f.name().as_str()).collect();
    let guests = match plan.guests.len() {
        0 => "no guests".to_owned(),
        1 => "1 guest".to_owned(),
        n => format!("{n} guests"),
    };
    format!("{guests}, gives {}", columns.join(", "))
}
