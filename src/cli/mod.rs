//! The command line: one file per command.
//!
//! Only here and in `main.rs` are errors `anyhow` and is anything printed. A command ends with
//! a [`Exit`]; what it has to say is a sentence.

mod check;
mod check_mysql;
mod explain;
mod facts;
mod findings;
mod maintain;
mod remote;
mod run;
pub mod sandbox;
mod status;
mod watch;

use crate::config::{Config, Loaded, Problems};
use clap::{Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;

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

const SANDBOX_EXAMPLES: &str = "\
Examples:
  tiffin sandbox                              the tour; stays up until Ctrl-C
  tiffin sandbox --no-tour --replicas 3       only the servers and the proxy
  tiffin sandbox --port 6432 --keep /tmp/box  on a port of your choice, files kept";

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration, and every node that it names
    #[command(long_about = check::ABOUT, after_help = check::EXAMPLES)]
    Check(check::CheckArgs),
    /// Explain what statements are and where they go
    #[command(long_about = explain::ABOUT, after_help = explain::EXAMPLES)]
    Explain(explain::ExplainArgs),
    /// Take a node out of service, or send a cluster's clients away
    #[command(long_about = maintain::DRAIN, after_help = maintain::EXAMPLES)]
    Drain(maintain::NodeArgs),
    /// Put a drained node or cluster back into service
    #[command(after_help = maintain::EXAMPLES)]
    Undrain(maintain::NodeArgs),
    /// Hold all requests of a cluster, or those that need one node
    #[command(long_about = maintain::PAUSE, after_help = maintain::EXAMPLES)]
    Pause(maintain::NodeArgs),
    /// Let the requests of a paused cluster or node go on
    #[command(after_help = maintain::EXAMPLES)]
    Resume(maintain::NodeArgs),
    /// Make a replica the primary in the place of the one that there is
    #[command(long_about = status::SWITCHOVER, after_help = status::EXAMPLES)]
    Switchover(status::SwitchoverArgs),
    /// Show a running proxy's clusters, and what was done to change their primaries
    #[command(long_about = status::ABOUT, after_help = status::EXAMPLES)]
    Status(status::StatusArgs),
    /// Run the proxy
    #[command(long_about = run::ABOUT, after_help = run::EXAMPLES)]
    Run(run::RunArgs),
    /// Start a primary, replicas and the proxy on this machine, and show what the proxy does
    #[command(after_help = SANDBOX_EXAMPLES)]
    /// Start real servers and the proxy on this machine, and show what the proxy does
    #[command(long_about = sandbox::ABOUT, after_help = sandbox::EXAMPLES)]
    Sandbox(sandbox::SandboxArgs),
}

/// Reads the configuration and prints its warnings; `None` after its problems were printed.
fn load(path: &Path) -> Option<Config> {
    match Config::load_with_warnings(path) {
        Ok(Loaded { config, warnings }) => {
            if !warnings.is_empty() {
                eprintln!("{}", warnings.lines("warning: "));
            }
            Some(config)
        }
        Err(problems) => {
            refuse(&problems);
            None
        }
    }
}

/// Prints what is wrong with the configuration.
fn refuse(problems: &Problems) -> Exit {
    let many = match problems.count() {
        1 => "one mistake".to_owned(),
        count => format!("{count} mistakes"),
    };
    eprintln!("{problems}\ntiffin: the configuration has {many}.");
    Exit::Usage
}

/// Rows under a line of titles, in columns of equal width.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(&format!("  {}\n", line.trim_end()));
    }
    out
}

/// Runs the command that the arguments name.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let exit = match arguments.command {
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Drain(args) => maintain::drain(&args),
        Command::Undrain(args) => maintain::undrain(&args),
        Command::Pause(args) => maintain::pause(&args),
        Command::Resume(args) => maintain::resume(&args),
        Command::Switchover(args) => status::switch_over(&args),
        Command::Status(args) => status::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Sandbox(args) => sandbox::run(&args),
    };
    Ok(ExitCode::from(exit?.code()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent_and_every_command_shows_examples() {
        let mut command = Arguments::command();
        command.clone().debug_assert();
        for command in command.get_subcommands_mut().filter(|command| command.get_name() != "help")
        {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{} has no examples", command.get_name());
        }
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for line in ["", "check", "explain --config x", "explain --config x --file f SQL", "chek"] {
            let words = std::iter::once("tiffin").chain(line.split_whitespace());
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
        for line in
            ["check --example", "check -c x --offline", "explain -c x SQL", "explain -c x -f -"]
        {
            let words = std::iter::once("tiffin").chain(line.split_whitespace());
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [["a", "bbb"], ["cc", "d"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "  a   bbb\n  cc  d\n");
    }
}
