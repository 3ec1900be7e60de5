//! psql as a client: what libpq thinks of the proxy, and TLS, which the Rust client here has not.
//! Also PostgreSQL's other programs.

use std::process::{Command, Output, Stdio};
use tiffin::cli::sandbox::servers::binaries::Binaries;

/// One of PostgreSQL's client programs, without what the caller has set for its own.
pub fn tool(name: &str) -> Command {
    let binaries = super::versions::binaries();
    let binaries = binaries.map_or_else(Binaries::find, |folder| Binaries::at(&folder));
    let mut command = Command::new(binaries.expect("PostgreSQL").folder().join(name));
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"PG"))
    {
        command.env_remove(key);
    }
    command.env("LC_ALL", "C");
    command
}

/// Runs statements with this connection string. Rows come unaligned, one per line.
pub fn psql(conninfo: &str, statements: &[&str]) -> Output {
    let mut command = tool("psql");
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]);
    for statement in statements {
        command.args(["-c", statement]);
    }
    command.arg(conninfo).stdin(Stdio::null()).output().expect("run psql")
}

/// What it printed; fails if psql did.
pub fn psql_ok(conninfo: &str, statements: &[&str]) -> String {
    let output = psql(conninfo, statements);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "psql {conninfo:?} {statements:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_string()
}

/// What it complained about; fails if psql did not.
pub fn psql_error(conninfo: &str, statements: &[&str]) -> String {
    let output = psql(conninfo, statements);
    assert!(!output.status.success(), "psql {conninfo:?} {statements:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
