//! Stand-in until the commands land.
use crate::error::Error;
#[derive(clap::Subcommand)]
pub enum PluginCommand {
    /// x
    New,
}
#[derive(clap::Args)]
pub struct PluginsArgs {}
pub fn plugin(_: &PluginCommand) -> Result<(), Error> {
    Ok(())
}
pub fn plugins(_: &PluginsArgs) -> Result<(), Error> {
    Ok(())
}
