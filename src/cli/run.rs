//! `tiffin run`: the proxy itself.

use super::{Exit, refuse};
use crate::config::{Config, Loaded, Log, LogFormat};
use crate::server;
use anyhow::Context;
use std::io::IsTerminal;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

pub const ABOUT: &str = "\
Run the proxy in the foreground until SIGTERM or SIGINT. SIGHUP loads the configuration again; a
file that is refused leaves the running one in force. On SIGTERM no new clients are let in, idle
ones are told (57P01), and transactions may end within shutdown.drain_timeout.";

pub const EXAMPLES: &str = "\
Examples:
  tiffin run --config /etc/tiffin/config.yaml
  RUST_LOG=tiffin=debug tiffin run --config config.yaml";

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The configuration file (`tiffin check --example` prints one with every key)
    #[arg(short, long, value_name = "FILE", env = "TIFFIN_CONFIG", hide_env_values = true)]
    config: PathBuf,
}

pub fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let Loaded { config, warnings } = match Config::load_with_warnings(&args.config) {
        Ok(loaded) => loaded,
        Err(problems) => return Ok(refuse(&problems)),
    };
    start_log(&config.log)?;
    for warning in warnings.lines("").lines() {
        tracing::warn!("{warning}");
    }
    server::run(&args.config, config)?;
    Ok(Exit::Ok)
}

/// `RUST_LOG` wins over the file: it is what one sets in a hurry.
fn start_log(log: &Log) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(level) => EnvFilter::try_new(level).context("RUST_LOG")?,
        Err(_) => EnvFilter::try_new(&log.level).context("log.level")?,
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("the log cannot be started: {error}"))
}
