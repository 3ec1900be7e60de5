//! Where MySQL's and MariaDB's programs are, and how they make a data directory.

use super::super::binaries::{Binaries, path_folders};
use super::Engine;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Where Debian keeps servers, which is not in everybody's `PATH`.
const SERVER_FOLDER: &str = "/usr/sbin";

pub struct Programs {
    pub binaries: Arc<Binaries>,
    engine: Engine,
    /// Above the folder of the server's program.
    base: PathBuf,
}

impl Programs {
    /// Looks in `folder` if it is given, else at `TIFFIN_MYSQL_BIN` or `TIFFIN_MARIADB_BIN`, in
    /// `/usr/sbin` and in `PATH`, and for MySQL where `scripts/mysql-9.sh` puts it.
    ///
    /// # Errors
    /// A sentence that says what to install.
    pub fn find(engine: Engine, folder: Option<&Path>) -> Result<Programs> {
        let (program, variable) = match engine {
            Engine::MySql => ("mysqld", "TIFFIN_MYSQL_BIN"),
            Engine::MariaDb => ("mariadbd", "TIFFIN_MARIADB_BIN"),
        };
        let candidates = match (folder.map(Path::to_path_buf), std::env::var_os(variable)) {
            (Some(folder), _) => vec![folder],
            (None, Some(folder)) => vec![folder.into()],
            (None, None) => {
                let mut folders = vec![PathBuf::from(SERVER_FOLDER)];
                folders.extend(path_folders());
                if engine == Engine::MySql {
                    folders.extend(unpacked());
                }
                folders
            }
        };
        let Some(folder) = candidates.into_iter().find(|folder| is_engine(engine, folder)) else {
            bail!("{}", what_to_install(engine, variable));
        };
        let base = folder.parent().unwrap_or(&folder).to_path_buf();
        let folders = vec![folder, base.join("bin"), base.join("scripts")];
        let binaries = Arc::new(Binaries::of(program, folders)?);
        Ok(Programs { binaries, engine, base })
    }

    /// The server itself.
    pub fn server(&self) -> Command {
        self.binaries.server()
    }

    /// Settings that say where the programs' other files are, which otherwise are looked for where
    /// the server was built for.
    pub fn folders(&self) -> Vec<String> {
        let mut lines = vec![format!("basedir = {}", self.base.display())];
        let plugins = self.base.join("lib/mysql/plugin");
        if plugins.is_dir() {
            lines.push(format!("plugin_dir = {}", plugins.display()));
        }
        lines
    }

    /// The command that makes a data directory in which `root` has no password on the socket.
    pub fn initialise(&self, data: &Path) -> Command {
        let mut command = match self.engine {
            Engine::MySql => {
                let mut command = self.server();
                command.args(["--no-defaults", "--initialize-insecure", "--mysqlx=OFF"]);
                command.args(["--innodb-redo-log-capacity=16M", "--log-error-verbosity=1"]);
                command.arg(format!("--basedir={}", self.base.display()));
                command
            }
            Engine::MariaDb => {
                let mut command = self.binaries.command("mariadb-install-db");
                command.args(["--no-defaults", "--skip-test-db", "--skip-name-resolve"]);
                command.args(["--auth-root-authentication-method=normal"]);
                command.arg("--innodb-log-file-size=16M");
                command.arg(format!("--basedir={}", self.base.display()));
                command
            }
        };
        command.args(["--innodb-flush-method=nosync", "--innodb-doublewrite=OFF"]);
        command.arg("--innodb-autoextend-increment=8");
        command.arg(format!("--datadir={}", data.display()));
        if let Some(home) = data.parent() {
            command.arg(tmpdir(home));
        }
        command
    }
}

/// A folder for temporary tables of its own: a server that starts removes all that it finds there
/// (`mysql_rm_tmp_tables`, `sql/sql_base.cc`), also another server's.
pub(super) fn tmpdir(home: &Path) -> String {
    format!("--tmpdir={}", home.display())
}

/// Whether this folder has the engine's server: MariaDB also calls itself `mysqld`.
fn is_engine(engine: Engine, folder: &Path) -> bool {
    match engine {
        Engine::MariaDb => folder.join("mariadbd").is_file(),
        Engine::MySql => {
            let path = folder.join("mysqld");
            let said = path.is_file().then(|| Command::new(path).arg("--version").output());
            said.and_then(Result::ok)
                .is_some_and(|said| !String::from_utf8_lossy(&said.stdout).contains("MariaDB"))
        }
    }
}

/// The cache folders of `scripts/mysql-9.sh`.
fn unpacked() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let user = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home);
    let user = user.map(|folder| folder.join("tiffin"));
    let caches = [std::env::var_os("TIFFIN_CACHE").map(PathBuf::from), user];
    let caches = caches.into_iter().flatten().chain([PathBuf::from("/var/cache/tiffin")]);
    caches.map(|cache| cache.join("mysql-9/usr/sbin")).collect()
}

fn what_to_install(engine: Engine, variable: &str) -> String {
    match engine {
        Engine::MySql => format!(
            "this machine has no MySQL server: install MySQL 8.4 or 9, run scripts/mysql-9.sh, or \
             set {variable} to the folder that has mysqld"
        ),
        Engine::MariaDb => format!(
            "this machine has no MariaDB server: install the package `mariadb-server-core`, or \
             set {variable} to the folder that has mariadbd"
        ),
    }
}
