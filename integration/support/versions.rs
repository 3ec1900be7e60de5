//! The second server version: PostgreSQL 18 beside the one that is installed.
//!
//! [`on_postgres_18!`] runs tests of a file once more on it, as `postgres_18::name`. It is for
//! tests whose answer depends on the server: what it calls a read, what it sends, how it is
//! promoted. The others would only take their time twice.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

thread_local! {
    /// Tests of `cargo test` share a process, each on its own thread.
    static ON_POSTGRES_18: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test with clusters of PostgreSQL 18.
pub fn with_postgres_18(test: impl FnOnce()) {
    ON_POSTGRES_18.set(true);
    test();
}

pub fn is_postgres_18() -> bool {
    ON_POSTGRES_18.get()
}

/// The folder of the programs that this test is to use, if not those that are found.
pub fn binaries() -> Option<PathBuf> {
    ON_POSTGRES_18.get().then(postgres_18)
}

/// The folder of PostgreSQL 18's programs.
pub fn postgres_18() -> PathBuf {
    unpacked("postgresql-18.sh").join("usr/lib/postgresql/18/bin")
}

/// Where this script has put a server.
pub fn unpacked(script: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let output = Command::new(&script).arg("path").output().expect("run the script");
    let root = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim());
    assert!(root.join("complete").is_file(), "a server is missing: run {}", script.display());
    root
}

/// Names tests of this file that are to run on PostgreSQL 18 as well.
macro_rules! on_postgres_18 {
    ($($name:ident),+ $(,)?) => {
        mod postgres_18 {
            $(
                #[test]
                fn $name() {
                    crate::support::versions::with_postgres_18(super::$name);
                }
            )+
        }
    };
}
pub(crate) use on_postgres_18;
