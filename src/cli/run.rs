//! `tiffin run`: the proxy itself.
//!
//! Here: the configuration is read, logging set up; everything else is the server's.

use crate::config::{Config, Log, LogFormat};
use std::path::Path;
use tracing_subscriber::EnvFilter;

/// Overrides `log.level` when it is set.
const LOG_VARIABLE: &str = "RUST_LOG";

/// Sets up logging to standard error as the configuration says. Call once.
pub fn start_logging(log: &Log) -> anyhow::Result<()> {
    let directives = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| log.level.clone());
    let filter = EnvFilter::builder()
        .parse(&directives)
        .map_err(|error| anyhow::anyhow!("{LOG_VARIABLE} is not understood: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match log.format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("cannot set up logging: {error}"))
}

/// Reads the configuration and starts logging with it; `None` after the problems of the file
/// were printed. Warnings are logged.
pub fn prepare(path: &Path) -> anyhow::Result<Option<Config>> {
    let loaded = match Config::load_with_warnings(path) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(None);
        }
    };
    start_logging(&loaded.config.log)?;
    for warning in loaded.warnings.lines("").lines() {
        tracing::warn!("{warning}");
    }
    Ok(Some(loaded.config))
}
