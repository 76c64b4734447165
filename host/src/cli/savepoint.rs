//! `kindling savepoint`: a job's state and position to a file.

use super::stored::StoredArgs;
use crate::error::{Error, Kind};
use crate::output::Meta;
use crate::state::savepoint::{Header, Writer};
use crate::time::{now_ms, write_rfc3339};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `kindling savepoint`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  kindling savepoint pipeline.yaml --to counts.savepoint                         of a stopped job
  kindling savepoint pipeline.yaml --to counts.savepoint --from 127.0.0.1:9400   of a running one (its --metrics address)
  kindling run pipeline.yaml --restore counts.savepoint                          go on from it
  kindling state ls pipeline.yaml --from-savepoint counts.savepoint              what is in it

The file has the state of each operator, offsets and watermarks. The job goes on as if nothing had happened.")]
pub struct SavepointArgs {
    /// Which job, and where its state is read from.
    #[command(flatten)]
    pub stored: StoredArgs,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Of the local tree, where the changelog has been lost. It may be behind: results since its epoch come again.
    #[arg(long, conflicts_with_all = ["from", "from_changelog", "from_savepoint"])]
    pub from_tree: bool,
    /// Write over a file that is there.
    #[arg(long)]
    pub force: bool,
}

/// `kindling savepoint`.
///
/// # Errors
/// Where the job has no state, runs, or the file can't be written.
pub fn savepoint(args: &SavepointArgs) -> Result<(), Error> {
    if args.to.exists() && !args.force {
        let text = format!("{} is there already: name another file, or write over it with --force", args.to.display());
        return Err(Error::new(Kind::Config, text));
    }
    if args.stored.from_savepoint.is_some() {
        return Err(Error::new(Kind::Config, "--from-savepoint is for `kindling state`; a savepoint is copied as a file"));
    }
    if args.stored.operator.is_some() {
        return Err(Error::new(Kind::Config, "--operator is for `kindling state`; a savepoint has the state of all"));
    }
    let (pipeline, plan) = args.stored.whole_plan()?;
    let mut stored = if args.from_tree { args.stored.tree(&pipeline)? } else { args.stored.truth(&pipeline)? };
    let error = |e: crate::state::savepoint::SavepointError| Error::new(e.kind(), e.to_string());
    // What was stored before operators had names gets them here; the rest stays as the job that wrote it had it.
    let operators = crate::runtime::carry::stored(&stored.meta, &plan);
    let meta = Meta { operators, begun: None, files: std::collections::BTreeMap::new(), ..stored.meta.clone() };
    let header = Header::new(&pipeline.team, &pipeline.name, now_ms(), meta);
    let mut writer = Writer::create(&args.to, &header).map_err(error)?;
    stored.entries(&mut |entry| writer.entry(&entry).map_err(error))?;
    let (entries, bytes) = writer.finish().map_err(error)?;
    if let Some(committed) = stored.meta.entries.filter(|c| *c != entries) {
        let _ = std::fs::remove_file(&args.to);
        let text = format!("{committed} entries of state were committed, and {} has {entries}: the rest is lost", stored.origin);
        return Err(Error::new(Kind::Data, text));
    }
    let (to, epoch) = (args.to.display().to_string(), header.meta.epoch);
    if args.stored.context.json {
        let positions = &header.meta.positions;
        say!(
            "{:#}",
            json!({ "file": to, "job": header.job(), "epoch": epoch, "entries": entries, "bytes": bytes, "positions": positions })
        );
        return Ok(());
    }
    let mut watermark = String::new();
    match header.meta.closed {
        i64::MIN => watermark.push_str("none yet"),
        closed => write_rfc3339(closed, &mut watermark),
    }
    say!(
        "{to}: {} after epoch {epoch}, {entries} entries, {bytes} bytes, watermark {watermark}; from {}",
        header.job(),
        stored.origin
    );
    Ok(())
}
