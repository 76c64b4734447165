//! `kindling state ls|get|export`: a job's state as people see it.

use super::stored::{Stored, StoredArgs};
use super::table::{bare, table};
use crate::config::spec::TimestampFormat;
use crate::error::{Error, Kind};
use crate::output::Change;
use crate::output::encode::Encoder;
use crate::plan::Plan;
use crate::runtime::restoring::grouped;
use crate::runtime::view::View;
use crate::state::store::split;
use crate::time::write_rfc3339;
use arrow::array::RecordBatch;
use clap::{Args, Subcommand, ValueEnum};
use datafusion_common::DataFusionError;
use serde_json::Value;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Rows that are rendered at once.
const BATCH: usize = 4_096;

/// `kindling state ...`.
#[derive(Subcommand)]
pub enum StateCommand {
    /// Operators and panes with keys and bytes.
    Ls(LsArgs),
    /// The open windows of one key, or what a process keeps of it.
    Get(GetArgs),
    /// Every entry, as lines of JSON or as CSV.
    Export(ExportArgs),
}

const SOURCES: &str = "
State is read from the local tree where there is one, else from the changelog topic. --from asks a running job, which answers with a copy of
one moment between two epochs.";

/// Arguments of `kindling state ls`.
#[derive(Args)]
#[command(after_help = format!("\
Examples:
  kindling state ls pipeline.yaml
  kindling state ls pipeline.yaml --from 127.0.0.1:9400
  kindling state ls pipeline.yaml --from-changelog --json
{SOURCES}"))]
pub struct LsArgs {
    /// Which state.
    #[command(flatten)]
    pub stored: StoredArgs,
}

/// Arguments of `kindling state get`.
#[derive(Args)]
#[command(after_help = format!("\
Examples:
  kindling state get pipeline.yaml --key control,onboarding-1
  kindling state get pipeline.yaml --key '[\"a, with a comma\", null]'
  kindling state get pipeline.yaml --key 42 --from 127.0.0.1:9400 --json
  kindling state get matches.yaml --key ann,bob          a pair's half-made match, keyed by least and greatest of their ids

Behind the finished values are the columns of the partial states, as name[part]; what a guest keeps as MessagePack is shown as JSON text.
Of a process: the guest's state by field, the last event time of the key's rows, its timers, and the watermark that
it is forgotten at; with order: eventTime also the rows that wait.
{SOURCES}"))]
pub struct GetArgs {
    /// Which state.
    #[command(flatten)]
    pub stored: StoredArgs,
    /// Values of groupByKeys or keyBy in their order, with commas between; or a JSON list.
    #[arg(long, value_name = "K1,K2", allow_hyphen_values = true)]
    pub key: String,
}

/// How an export is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// A JSON object a line.
    Jsonl,
    /// Comma-separated, with a line of names.
    Csv,
}

/// Arguments of `kindling state export`.
#[derive(Args)]
#[command(after_help = format!("\
Examples:
  kindling state export pipeline.yaml > state.jsonl
  kindling state export pipeline.yaml --format csv --to state.csv
  kindling state export pipeline.yaml --raw --from-savepoint counts.savepoint

A row is a key in a pane; a window of a tumbling aggregation is one pane. Columns: the keys, the pane, what the aggregates would give, and the
columns of their partial states, as name[part]. Of a process a row is a key, with the columns of `state get`; rows that wait are a row for each key
and event time.
{SOURCES}"))]
pub struct ExportArgs {
    /// Which state.
    #[command(flatten)]
    pub stored: StoredArgs,
    /// How it is written.
    #[arg(long, value_enum, default_value = "jsonl")]
    pub format: Format,
    /// The file to write [default: standard output].
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Only the partial states: no aggregate or guest is called, and their values are null.
    #[arg(long)]
    pub raw: bool,
}

/// `kindling state ...`.
///
/// # Errors
/// What is wrong, and who must act.
pub fn state(command: &StateCommand) -> Result<(), Error> {
    match command {
        StateCommand::Ls(args) => super::state_ls::ls(args),
        StateCommand::Get(args) => get(args),
        StateCommand::Export(args) => export(args),
    }
}

fn view(plan: &Plan) -> Result<View, Error> {
    let view = View::new(plan).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    view.ok_or_else(|| {
        Error::new(
            Kind::Config,
            "the pipeline has no operator whose state can be shown: it has no window_aggregate and no process",
        )
    })
}

fn of_rows(error: &DataFusionError) -> Error {
    Error::new(Kind::Data, format!("the state can't be shown: {}; --raw of `state export` calls no aggregate", error.find_root()))
}

/// A watermark, for people.
pub(super) fn time(ms: i64) -> String {
    let mut text = String::new();
    match ms {
        i64::MIN => text.push_str("none yet"),
        ms => write_rfc3339(ms, &mut text),
    }
    text
}

/// `a,b` or `["a", null]`.
fn key_values(text: &str) -> Result<Vec<Option<String>>, Error> {
    if !text.trim_start().starts_with('[') {
        return Ok(text.split(',').map(|v| Some(v.trim().to_owned())).collect());
    }
    let values: Vec<Value> = serde_json::from_str(text).map_err(|e| {
        Error::new(Kind::Config, format!("--key {text}: not a list of JSON: {e}; write for example '[\"a\", null]'"))
    })?;
    let value = |v: Value| match v {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    };
    Ok(values.into_iter().map(value).collect())
}

fn get(args: &GetArgs) -> Result<(), Error> {
    let (pipeline, plan) = args.stored.plan()?;
    let view = view(&plan)?;
    let key =
        view.encode_key(&key_values(&args.key)?).map_err(|e| Error::new(Kind::Config, format!("--key {}: {e}", args.key)))?;
    let mut stored = args.stored.open(&pipeline, &plan, Some(&key))?;
    let mut found = Vec::new();
    stored.entries(&mut |entry| {
        let (_, of) = split(&entry.key).map_err(|e| Error::new(Kind::Data, e.to_string()))?;
        if of == key {
            found.push(entry);
        }
        Ok(())
    })?;
    let batch = view.of_key(&found, stored.meta.closed).map_err(|e| of_rows(&e))?;
    let rows = Rows::new(&batch, pipeline.timestamp_format).json(&batch)?;
    if args.stored.context.json {
        say!("{:#}", Value::Array(rows));
        return Ok(());
    }
    if rows.is_empty() {
        let what = if plan.process.is_some() { "nothing is kept of" } else { "no open window has" };
        say!("{what} the key {}; from {}", args.key, describe(&stored));
        return Ok(());
    }
    let names: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
    let table = if plan.process.is_some() {
        // One row with many columns: one below the other.
        let mut table = bare();
        table.add_rows(names.iter().flat_map(|name| rows.iter().map(move |row| [name.clone(), cell(&row[name])])));
        table
    } else {
        let mut table = table(&names, 0..0);
        table.add_rows(rows.iter().map(|row| names.iter().map(|n| cell(&row[n])).collect::<Vec<_>>()));
        table
    };
    say!("{table}");
    say!("from {}", describe(&stored));
    Ok(())
}

fn describe(stored: &Stored) -> String {
    format!("{}, after epoch {}, watermark {}", stored.origin, stored.meta.epoch, time(stored.meta.closed))
}

/// A value without quotes where it is text, empty where it is null.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Batches to JSON.
struct Rows {
    encoder: Encoder,
}

impl Rows {
    fn new(batch: &RecordBatch, timestamps: TimestampFormat) -> Self {
        Self { encoder: Encoder::new(batch.schema(), Vec::new(), timestamps) }
    }

    fn lines(&mut self, batch: &RecordBatch) -> Result<Vec<Vec<u8>>, Error> {
        let lines = self.encoder.encode(batch).map_err(|e| Error::new(Kind::Data, format!("the state has no JSON: {e}")))?;
        Ok(lines.into_iter().map(|l| l.value).collect())
    }

    fn json(&mut self, batch: &RecordBatch) -> Result<Vec<Value>, Error> {
        let of = |line: &Vec<u8>| serde_json::from_slice(line).map_err(|e| Error::new(Kind::Internal, e.to_string()));
        self.lines(batch)?.iter().map(of).collect()
    }
}

fn export(args: &ExportArgs) -> Result<(), Error> {
    let (pipeline, plan) = args.stored.plan()?;
    let view = view(&plan)?;
    let mut stored = args.stored.open(&pipeline, &plan, None)?;
    let place = args.to.as_ref().map_or_else(|| "standard output".to_owned(), |p| p.display().to_string());
    let io = |e: std::io::Error| Error::new(Kind::External, format!("{place}: {e}"));
    let out: Box<dyn Write> = match &args.to {
        Some(path) => Box::new(std::fs::File::create(path).map_err(io)?),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut export = Export {
        out: BufWriter::new(out),
        view: &view,
        format: args.format,
        timestamps: pipeline.timestamp_format,
        finished: !args.raw,
        rows: 0,
    };
    let written = export.run(&mut stored);
    match written {
        // Nobody reads it any more (`kindling state export ... | head`): that is no error of ours.
        Err(Failure::Io(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        Err(Failure::Io(e)) => return Err(io(e)),
        Err(Failure::Other(error)) => return Err(error),
        Ok(()) => {}
    }
    eprintln!("{} rows; from {}", grouped(export.rows), describe(&stored));
    Ok(())
}

/// Why an export ended early.
enum Failure {
    Io(std::io::Error),
    Other(Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

struct Export<'a> {
    out: BufWriter<Box<dyn Write>>,
    view: &'a View,
    format: Format,
    timestamps: TimestampFormat,
    finished: bool,
    rows: u64,
}

impl Export<'_> {
    fn run(&mut self, stored: &mut Stored) -> Result<(), Failure> {
        let names: Vec<String> = self.view.schema().fields().iter().map(|f| f.name().clone()).collect();
        if matches!(self.format, Format::Csv) {
            let line: Vec<String> = names.iter().map(|n| csv(n)).collect();
            writeln!(self.out, "{}", line.join(","))?;
        }
        let mut batch = Vec::with_capacity(BATCH);
        // An error of the output is carried through the source as one of ours.
        let mut broken = None;
        let outcome = stored.entries(&mut |entry| {
            batch.push(entry);
            if batch.len() < BATCH || broken.is_some() {
                return Ok(());
            }
            match self.write(&std::mem::take(&mut batch), &names) {
                Ok(()) => Ok(()),
                Err(Failure::Other(error)) => Err(error),
                Err(Failure::Io(error)) => {
                    broken = Some(error);
                    Err(Error::new(Kind::External, "the output is gone"))
                }
            }
        });
        if let Some(error) = broken {
            return Err(error.into());
        }
        outcome?;
        self.write(&batch, &names)?;
        Ok(self.out.flush()?)
    }

    fn write(&mut self, entries: &[Change], names: &[String]) -> Result<(), Failure> {
        if entries.is_empty() {
            return Ok(());
        }
        let batch = self.view.slots(entries, self.finished).map_err(|e| of_rows(&e))?;
        let mut rows = Rows::new(&batch, self.timestamps);
        self.rows += entries.len() as u64;
        match self.format {
            Format::Jsonl => {
                for line in rows.lines(&batch)? {
                    self.out.write_all(&line)?;
                    self.out.write_all(b"\n")?;
                }
            }
            Format::Csv => {
                for row in rows.json(&batch)? {
                    let line: Vec<String> = names.iter().map(|n| csv(&cell(&row[n]))).collect();
                    writeln!(self.out, "{}", line.join(","))?;
                }
            }
        }
        Ok(())
    }
}

/// A field as RFC 4180 has it.
fn csv(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_people_write_them() {
        let text = |values: &[Option<&str>]| values.iter().map(|v| v.map(str::to_owned)).collect::<Vec<_>>();
        assert_eq!(key_values("a, b c").unwrap(), text(&[Some("a"), Some("b c")]));
        assert_eq!(key_values("").unwrap(), text(&[Some("")]));
        assert_eq!(key_values(r#"["a,b", null, 7, true]"#).unwrap(), text(&[Some("a,b"), None, Some("7"), Some("true")]));
        assert!(key_values("[a").unwrap_err().text.contains("not a list of JSON"));
    }

    #[test]
    fn fields_of_csv() {
        assert_eq!(["a", "a,b", "say \"no\"", "two\nlines"].map(csv), ["a", "\"a,b\"", "\"say \"\"no\"\"\"", "\"two\nlines\""]);
    }
}
