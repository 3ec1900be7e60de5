//! The command line: one file per command.
//!
//! Only here and in `main.rs` are errors `anyhow` and is anything printed. A command ends with
//! a [`Exit`]; what it has to say is a sentence.

mod check;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// How the program ends, as shells see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok,
    /// The command did its work and found something wrong, or could not do it.
    Failure,
    /// The arguments or the configuration are wrong: nothing was tried.
    Usage,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
        }
    }
}

#[derive(Debug, Parser)]
#[command(name = "tiffin", version, about, long_about = ABOUT, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const ABOUT: &str = "\
A proxy that applications connect to instead of their PostgreSQL database: writes go to the
primary, each read to the best replica that is fresh enough, and everything is re-pointed at once
when the primary changes.";

const EXIT_CODES: &str = "\
Exit status: 0 all is well, 1 something failed or is missing, 2 wrong arguments or configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration, and every node that it names
    #[command(long_about = check::ABOUT, after_help = check::EXAMPLES)]
    Check(check::CheckArgs),
}

/// The configuration file, as every command takes it.
#[derive(Debug, Args)]
struct ConfigArg {
    /// The configuration file (see config.example.yaml for every key)
    #[arg(short, long, value_name = "FILE", env = "TIFFIN_CONFIG")]
    config: PathBuf,
}

/// Runs the command that the arguments name.
pub fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    match arguments.command {
        Command::Check(args) => check::run(&args),
    }
}
