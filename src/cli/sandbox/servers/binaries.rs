//! Where the servers' programs are, and as which user they run.

use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian and Ubuntu keep the programs of each major version apart.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// The servers refuse to run as root; the first of these users that exists runs them then.
const UNPRIVILEGED: &[&str] = &["postgres", "mysql", "nobody"];

#[derive(Debug)]
pub struct Binaries {
    /// Each program is in one of them, the server itself in the first.
    folders: Vec<PathBuf>,
    /// The server's program: `postgres`, `mysqld`, `mariadbd`.
    server: &'static str,
    /// User and group to run as, if this process is root.
    pub run_as: Option<(u32, u32)>,
}

impl Binaries {
    /// Looks at `TIFFIN_PG_BIN`, then for the newest version under `/usr/lib/postgresql`, then
    /// in `PATH`.
    ///
    /// # Errors
    /// A sentence that says what to install.
    pub fn find() -> Result<Binaries> {
        match std::env::var_os("TIFFIN_PG_BIN") {
            Some(folder) => Binaries::at(Path::new(&folder)),
            None => Binaries::first(
                debian_folders().into_iter().chain(path_folders()).collect(),
                "this machine",
            ),
        }
    }

    /// The programs in this folder.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn at(folder: &Path) -> Result<Binaries> {
        Binaries::first(vec![folder.to_path_buf()], &folder.display().to_string())
    }

    fn first(candidates: Vec<PathBuf>, place: &str) -> Result<Binaries> {
        let complete = |folder: &PathBuf| {
            ["postgres", "initdb", "pg_basebackup"].iter().all(|name| folder.join(name).is_file())
        };
        let Some(folder) = candidates.into_iter().find(complete) else {
            bail!(
                "{place} has no PostgreSQL server: install the package `postgresql`, or set \
                 TIFFIN_PG_BIN to the folder that has postgres, initdb and pg_basebackup"
            );
        };
        Binaries::of("postgres", vec![folder])
    }

    /// These folders, whose first has the server's program.
    pub(super) fn of(server: &'static str, folders: Vec<PathBuf>) -> Result<Binaries> {
        Ok(Binaries { folders, server, run_as: unprivileged_user()? })
    }

    /// A command of this name that runs as the servers' user.
    pub fn command(&self, name: &str) -> Command {
        let mut paths = self.folders.iter().map(|folder| folder.join(name));
        let path = paths.find(|path| path.is_file()).unwrap_or_else(|| self.folder().join(name));
        let mut command = Command::new(path);
        // What the caller has set for its own psql must not reach the servers.
        for (key, _) in std::env::vars_os().filter(|(key, _)| is_libpq_variable(key)) {
            command.env_remove(key);
        }
        command.env("LC_ALL", "C");
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// `postgres-15.18`: what a data directory that it made is called.
    pub(super) fn title(&self) -> Result<String> {
        Ok(format!("{}-{}", self.server, self.version()?))
    }

    /// `15.18` of `postgres (PostgreSQL) 15.18 (Debian …)`, `9.7.4-2` of
    /// `…/mysqld  Ver 9.7.4-2 for Linux …`.
    pub fn version(&self) -> Result<String> {
        let output = self.server().arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_whitespace().nth(2).context("the server's --version")?;
        Ok(version.to_string())
    }

    /// A command that runs the server itself.
    pub(super) fn server(&self) -> Command {
        self.command(self.server)
    }

    /// The folder of the server's program.
    pub fn folder(&self) -> &Path {
        &self.folders[0]
    }
}

fn is_libpq_variable(key: &std::ffi::OsStr) -> bool {
    key.as_encoded_bytes().starts_with(b"PG")
}

/// `/usr/lib/postgresql/<version>/bin`, newest first.
fn debian_folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(DEBIAN_ROOT).into_iter().flatten().flatten();
    let mut versions: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.iter().map(|version| Path::new(DEBIAN_ROOT).join(format!("{version}/bin"))).collect()
}

pub(super) fn path_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// `None` when this process is not root and may run the servers itself.
fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    let status = fs::read_to_string("/proc/self/status").context("/proc is needed (Linux)")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1))
        .context("/proc/self/status has no Uid")?;
    if effective != "0" {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    for user in UNPRIVILEGED {
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, uid, gid, ..] = fields[..]
                && name == *user
            {
                return Ok(Some((uid.parse()?, gid.parse()?)));
            }
        }
    }
    bail!("the servers do not run as root, and there is none of the users {UNPRIVILEGED:?}")
}
