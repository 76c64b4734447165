//! Where stored state is read from: a running job, its local tree, its changelog, or a savepoint. The same entries in each case.

use super::ask::ask;
use super::check::Context;
use crate::config::spec::Pipeline;
use crate::error::{Error, Kind};
use crate::limits::STATE_MEMORY_BYTES;
use crate::output::kafka::{Changelog, changelog};
use crate::output::local::read_meta;
use crate::output::{Change, CommitError, CommitSpec, Meta, RestoreProgress, replay, topics};
use crate::plan::Plan;
use crate::runtime::carry;
use crate::runtime::core::operator_of;
use crate::runtime::restoring::grouped;
use crate::state::savepoint::{Savepoint, SavepointError};
use crate::state::tree::{Tree, TreeError};
use clap::Args;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Which state is read.
#[derive(Args)]
pub struct StoredArgs {
    /// The job's pipeline file: it says how the state is to be read.
    pub pipeline: PathBuf,
    /// Ask the job that runs and serves its metrics here (`kindling run --metrics`).
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["from_changelog", "from_savepoint"])]
    pub from: Option<String>,
    /// Read the changelog topic, although there is a local tree.
    #[arg(long, conflicts_with = "from_savepoint")]
    pub from_changelog: bool,
    /// Read a savepoint.
    #[arg(long, value_name = "FILE")]
    pub from_savepoint: Option<PathBuf>,
    /// Folder of the local tree.
    #[arg(long, default_value = ".kindling")]
    pub data_dir: PathBuf,
    /// Show the state of this operator (`name` in the pipeline), where several have state.
    #[arg(long, value_name = "NAME")]
    pub operator: Option<String>,
    /// Where plugins and connections are, and what is overridden.
    #[command(flatten)]
    pub context: Context,
}

/// State that can be read.
pub struct Stored {
    /// Position, watermarks, layout.
    pub meta: Meta,
    /// Where it was read from, in words.
    pub origin: String,
    /// Number of the operator whose entries are given, as those of a job's first; none: all, as they are stored.
    number: Option<usize>,
    entries: Entries,
}

enum Entries {
    Savepoint(Box<Savepoint>),
    /// A tree, and the folder that is removed after it where it is a copy of a changelog.
    Tree(Tree, #[expect(dead_code, reason = "removes its folder when it is dropped")] Option<Scratch>),
}

impl StoredArgs {
    /// The pipeline, and the plan of the operator whose state is asked for.
    ///
    /// # Errors
    /// What is wrong with the file, or which operators there are.
    pub fn plan(&self) -> Result<(Pipeline, Plan), Error> {
        let (pipeline, plan) = self.whole_plan()?;
        let names: Vec<&String> = pipeline.operators.iter().collect();
        let chosen = match &self.operator {
            None if names.len() > 1 => {
                let names: Vec<String> = names.iter().map(|n| format!("--operator {n}")).collect();
                let text = format!("several operations of the pipeline have state: add {}", names.join(" or "));
                return Err(Error::new(Kind::Config, text));
            }
            None => Some(&plan),
            Some(name) => plan.chain().find(|p| p.has_state() && p.operator == *name),
        };
        let unknown = || {
            let name = self.operator.as_deref().unwrap_or_default();
            let known = crate::config::operators::unknown(name, names.iter().copied());
            Error::new(Kind::Config, format!("--operator {name}: no operator has this name; {known}"))
        };
        let chosen = Plan { next: None, ..chosen.ok_or_else(unknown)?.clone() };
        Ok((pipeline, chosen))
    }

    /// The pipeline and its plan.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn whole_plan(&self) -> Result<(Pipeline, Plan), Error> {
        if !self.pipeline.is_file() {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "{} is no file: name the pipeline file of the job, also with --from (it says how the state is to be read)",
                    self.pipeline.display()
                ),
            ));
        }
        self.context.plan_of(&self.pipeline)
    }

    /// Finds the state of an operator; of one key (encoded) where only that is needed and the source can tell it apart.
    ///
    /// # Errors
    /// Where there is none, or it can't be read.
    pub fn open(&self, pipeline: &Pipeline, plan: &Plan, key: Option<&[u8]>) -> Result<Stored, Error> {
        let mut stored = self.find(pipeline, key)?;
        let mut operators = carry::stored(&stored.meta, plan);
        let behind = stored.meta.behind.iter().position(|b| b.operator == plan.operator);
        if let Some(at) = behind {
            stored.meta.closed = stored.meta.behind[at].closed;
        }
        stored.number = Some(behind.map_or(0, |at| at + 1));
        // Of the others only where this one is missing: it may have another name.
        if operators.contains_key(&plan.operator) {
            operators.retain(|name, _| *name == plan.operator);
        }
        let differences = carry::differences(&operators, &plan.operators());
        match differences.as_slice() {
            [] => Ok(stored),
            some => {
                let mut text = format!("the state from {} was made by another pipeline, or by other plugins", stored.origin);
                for d in some {
                    let _ = write!(text, "\noperator `{}`:\n{}", d.operator, d.text);
                }
                Err(Error::new(Kind::Config, text))
            }
        }
    }

    fn find(&self, pipeline: &Pipeline, key: Option<&[u8]>) -> Result<Stored, Error> {
        if let Some(from) = &self.from {
            return running(from, pipeline, key);
        }
        if let Some(file) = &self.from_savepoint {
            let savepoint = Savepoint::open(file).map_err(of_savepoint)?;
            let origin = format!("savepoint {} of {}", file.display(), savepoint.header().job());
            return Ok(Stored {
                meta: savepoint.header().meta.clone(),
                origin,
                number: None,
                entries: Entries::Savepoint(Box::new(savepoint)),
            });
        }
        let spec = spec(pipeline, &self.data_dir);
        match changelog(&spec).map_err(of_commit)? {
            None if self.from_changelog => Err(Error::new(
                Kind::Config,
                "the job has no changelog: neither its source nor a sink is on Kafka; its log is the local tree",
            )),
            None => local(&spec.tree_path(), false),
            Some(_) if !self.from_changelog && spec.tree_path().is_dir() => local(&spec.tree_path(), true),
            Some(changelog) => replayed(&changelog, &self.data_dir, false),
        }
    }

    /// The local tree of a stopped job.
    ///
    /// # Errors
    /// As [`StoredArgs::open`].
    pub fn tree(&self, pipeline: &Pipeline) -> Result<Stored, Error> {
        let spec = spec(pipeline, &self.data_dir);
        local(&spec.tree_path(), changelog(&spec).map_err(of_commit)?.is_some())
    }

    /// The truth of a stopped job: its changelog, else its tree. Refused while the job commits.
    ///
    /// # Errors
    /// As [`StoredArgs::open`].
    pub fn truth(&self, pipeline: &Pipeline) -> Result<Stored, Error> {
        if let Some(from) = &self.from {
            return running(from, pipeline, None);
        }
        let spec = spec(pipeline, &self.data_dir);
        match changelog(&spec).map_err(of_commit)? {
            None => local(&spec.tree_path(), false),
            Some(changelog) => replayed(&changelog, &self.data_dir, true),
        }
    }
}

impl Stored {
    /// Gives all entries.
    ///
    /// # Errors
    /// Where one does not read back; what was given before counts for nothing then.
    pub fn entries(&mut self, each: &mut dyn FnMut(Change) -> Result<(), Error>) -> Result<(), Error> {
        // The sources give entries to a function that can't fail: what comes after a failure is passed over.
        let mut failed = None;
        let number = self.number;
        let mut take = |mut entry: Change| {
            if let Some(number) = number {
                let (of, key) = operator_of(&entry.key).map_or((0, &entry.key[..]), |(of, key)| (usize::from(of), key));
                if of != number {
                    return;
                }
                entry.key = key.to_vec();
            }
            if failed.is_none() {
                failed = each(entry).err();
            }
        };
        match &mut self.entries {
            Entries::Savepoint(savepoint) => savepoint.entries(&mut take).map(drop).map_err(of_savepoint)?,
            Entries::Tree(tree, _) => tree.entries(&mut take).map_err(of_tree)?,
        }
        failed.map_or(Ok(()), Err)
    }
}

fn spec(pipeline: &Pipeline, data_dir: &Path) -> CommitSpec {
    CommitSpec {
        team: pipeline.team.clone(),
        name: pipeline.name.clone(),
        source: pipeline.source.clone(),
        partitions: Vec::new(),
        sink: pipeline.sink.clone(),
        outputs: pipeline.outputs(),
        late: pipeline.late.clone(),
        rejects: pipeline.rejects.clone(),
        data_dir: data_dir.to_path_buf(),
        state_memory: STATE_MEMORY_BYTES,
    }
}

fn of_savepoint(error: SavepointError) -> Error {
    Error::new(error.kind(), error.to_string())
}

fn of_commit(error: CommitError) -> Error {
    Error::new(error.kind(), error.to_string())
}

fn of_tree(error: TreeError) -> Error {
    if let TreeError::Locked { path } = error {
        let text = format!(
            "the job runs here (it has {} open): ask it with --from host:port, the address given to `kindling run --metrics`, or stop it",
            path.display()
        );
        return Error::new(Kind::Config, text);
    }
    of_commit(error.into())
}

/// A job that has not committed anything.
fn nothing(what: &str) -> Error {
    Error::new(Kind::Config, format!("{what}: nothing has been committed; has the job run with this name and --data-dir?"))
}

fn running(from: &str, pipeline: &Pipeline, key: Option<&[u8]>) -> Result<Stored, Error> {
    let query = key.map_or_else(String::new, |key| {
        key.iter().fold("?key=".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    });
    let bytes = ask(from, &format!("/savepoint{query}"))?;
    let savepoint = Savepoint::of_bytes(from, bytes).map_err(of_savepoint)?;
    let (job, asked) = (savepoint.header().job(), format!("{}/{}", pipeline.team, pipeline.name));
    if job != asked {
        return Err(Error::new(Kind::Config, format!("{from} runs the job {job}, and the pipeline is {asked}")));
    }
    let origin = format!("the running job at {from}");
    Ok(Stored { meta: savepoint.header().meta.clone(), origin, number: None, entries: Entries::Savepoint(Box::new(savepoint)) })
}

fn local(path: &Path, has_changelog: bool) -> Result<Stored, Error> {
    let what = format!("the local tree {}", path.display());
    if !path.is_dir() {
        return Err(nothing(&what));
    }
    let tree = Tree::open(path).map_err(of_tree)?;
    let meta = if has_changelog {
        let stored = tree.note("stored").map_err(of_tree)?;
        let stored = stored.and_then(|bytes| serde_json::from_slice::<replay::Stored>(&bytes).ok());
        stored.map(|s| s.meta)
    } else {
        tree.note("meta").map_err(of_tree)?.map(|bytes| read_meta(&bytes)).transpose().map_err(of_commit)?
    };
    let meta = meta.ok_or_else(|| nothing(&what))?;
    let behind = if has_changelog { " (it may be behind: --from-changelog reads the truth)" } else { "" };
    Ok(Stored { meta, origin: format!("{what}{behind}"), number: None, entries: Entries::Tree(tree, None) })
}

/// The changelog, brought into a tree of its own that is thrown away. Where epochs were committed meanwhile it is of no one moment:
/// `strict` refuses that, else it is told.
fn replayed(changelog: &Changelog, data_dir: &Path, strict: bool) -> Result<Stored, Error> {
    let Changelog { properties, topic } = changelog;
    let probe: rdkafka::consumer::BaseConsumer =
        topics::client(properties).create().map_err(|e| Error::new(Kind::Config, format!("topic {topic}: {e}")))?;
    if topics::leaders(&probe, topic).is_none() {
        let brokers = properties.get("bootstrap.servers").map_or("?", String::as_str);
        let text =
            format!("there is no topic {topic} on {brokers}, or the broker does not answer: has the job run with this name?");
        return Err(Error::new(Kind::External, text));
    }
    let scratch = Scratch::new(data_dir).map_err(|e| Error::new(Kind::External, format!("{}: {e}", data_dir.display())))?;
    let tree = Tree::open(&scratch.0).map_err(of_tree)?;
    let before = replay::ends(properties, topic).map_err(of_commit)?;
    let mut told = false;
    let mut watch = |progress: &RestoreProgress| {
        if progress.elapsed.as_secs() >= 2 {
            told = true;
            eprint!("\rreading {topic}: {} records\x1b[K", grouped(progress.records));
        }
    };
    let replayed = replay::read_all(properties, topic, &tree, &mut watch, None);
    if told {
        eprintln!();
    }
    let replayed = replayed.map_err(of_commit)?;
    let moved = replay::ends(properties, topic).map_err(of_commit)? != before;
    if moved && strict {
        let text = format!(
            "the job runs: epochs were committed to {topic} while it was read. Ask the job with --from host:port (the address given to `kindling run \
             --metrics`), or stop it"
        );
        return Err(Error::new(Kind::Config, text));
    }
    let hint = if strict { " Where its topic was lost: --from-tree takes a local tree that is left" } else { "" };
    let nothing = || Error { text: format!("{}{hint}", nothing(&format!("the changelog {topic}"))), kind: Kind::Config };
    let meta = replayed.stored.ok_or_else(nothing)?.meta;
    let moving = if moved { " (the job runs, so this is not of one moment: --from asks it)" } else { "" };
    Ok(Stored {
        meta,
        origin: format!("the changelog {topic}{moving}"),
        number: None,
        entries: Entries::Tree(tree, Some(scratch)),
    })
}

/// A folder that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    /// Within the job's data, which has room for a tree.
    fn new(data_dir: &Path) -> std::io::Result<Self> {
        let path = data_dir.join(format!(".read-{}", std::process::id()));
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
