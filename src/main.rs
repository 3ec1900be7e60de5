//! Arguments in, command run, exit status out.

use clap::Parser;
use std::process::ExitCode;
use tiffin::cli::{self, Exit};

fn main() -> ExitCode {
    // clap ends with status 2 on wrong arguments and 0 after --help.
    match cli::run(cli::Arguments::parse()) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("tiffin: {error:#}");
            ExitCode::from(Exit::Failure.code())
        }
    }
}
