//! `tiffin check`: is the configuration right, and are the nodes ready for it?

use super::{ConfigArg, Exit};
use crate::config::Config;
use clap::Args;

pub(super) const ABOUT: &str = "\
Checks a configuration file and tells every problem at once, each with its line and key.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tiffin check --config /etc/tiffin/config.yaml
  tiffin check --config config.yaml --offline    only the file, no connection";

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Check the file only; connect to nothing
    #[arg(long)]
    offline: bool,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let path = &args.config.config;
    let loaded = match Config::load_with_warnings(path) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(Exit::Usage);
        }
    };
    if !loaded.warnings.is_empty() {
        eprintln!("{}", loaded.warnings);
    }
    println!("{}: the configuration is valid.", path.display());
    Ok(Exit::Ok)
}
