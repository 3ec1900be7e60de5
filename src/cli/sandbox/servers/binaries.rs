//! Where PostgreSQL's programs are, and as which user they run.

use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian and Ubuntu keep the programs of each major version apart.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// PostgreSQL refuses to run as root; the first of these users that exists runs it then.
const UNPRIVILEGED: &[&str] = &["postgres", "nobody"];

#[derive(Debug)]
pub struct Binaries {
    folder: PathBuf,
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
        Ok(Binaries { folder, run_as: unprivileged_user()? })
    }

    /// A command of this name that runs as the servers' user.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.folder.join(name));
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

    /// `15.18` of `postgres (PostgreSQL) 15.18 (Debian …)`.
    pub fn version(&self) -> Result<String> {
        let output = self.command("postgres").arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_whitespace().nth(2).context("postgres --version")?;
        Ok(version.to_string())
    }

    /// The folder of the programs.
    pub fn folder(&self) -> &Path {
        &self.folder
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

fn path_folders() -> Vec<PathBuf> {
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
    bail!("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")
}
