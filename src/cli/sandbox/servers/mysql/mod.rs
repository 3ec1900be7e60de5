//! Real MySQL and MariaDB servers: one primary, and replicas that follow it by GTID.
//!
//! As the clusters of PostgreSQL beside it, with the same logins. All servers start at once from
//! copies of one fresh data directory; what the primary is told afterwards (accounts, the database
//! `app`) reaches the replicas as any write does.
//!
//! - [`Cluster`], in this file: start all, who follows whom.
//! - [`server`]: one server: start, stop, promote, lag, SQL.
//! - [`query`]: SQL as text, by mysql_async.

mod programs;
pub mod query;
pub mod server;

pub use query::{Session, client_opts, errno};
pub use server::Server;

use super::folder::{self, Folder};
use super::group::{Group, Login, Logins};
use super::process::Place;
use super::query::quote;
use super::{CATCH_UP_TIMEOUT, Tls, copy, from_template, join, wait_until};
use anyhow::{Context, Result};
use programs::Programs;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    MySql,
    MariaDb,
}

impl Engine {
    /// As in the proxy's configuration.
    pub fn word(self) -> &'static str {
        match self {
            Engine::MySql => "mysql",
            Engine::MariaDb => "mariadb",
        }
    }
}

/// Settings that make a server small and quick to start. Durability is not wanted: the folder is
/// deleted at the end.
const SETTINGS: &[(&str, &str)] = &[
    ("bind_address", "127.0.0.1"),
    ("skip_name_resolve", "ON"),
    ("log_bin", "binlog"),
    ("sync_binlog", "0"),
    ("relay_log", "relay"),
    ("innodb_flush_log_at_trx_commit", "2"),
    ("innodb_flush_method", "nosync"),
    ("innodb_doublewrite", "OFF"),
    ("innodb_buffer_pool_size", "24M"),
    ("max_connections", "300"),
    ("character_set_server", "utf8mb4"),
    ("default_time_zone", "+00:00"),
];

const MYSQL_SETTINGS: &[(&str, &str)] = &[
    ("gtid_mode", "ON"),
    // A dead upstream is noticed within as many seconds.
    ("replica_net_timeout", "4"),
    ("enforce_gtid_consistency", "ON"),
    ("innodb_redo_log_capacity", "16M"),
    // By default a server takes half a gigabyte, most of it for these.
    ("performance_schema", "OFF"),
    ("innodb_log_buffer_size", "2M"),
    ("table_open_cache", "400"),
    ("mysqlx", "OFF"),
    ("log_error_verbosity", "3"),
];

const MARIADB_SETTINGS: &[(&str, &str)] = &[
    ("gtid_strict_mode", "ON"),
    ("slave_net_timeout", "4"),
    ("log_slave_updates", "ON"),
    ("binlog_format", "ROW"),
    ("innodb_log_file_size", "16M"),
];

/// What a cluster is to look like; [`Options::of`] is one primary and two replicas.
#[derive(Debug, Clone)]
pub struct Options {
    pub engine: Engine,
    pub replicas: u16,
    /// Names and values for the server's option file, after the ones that every cluster gets.
    pub settings: Vec<(String, String)>,
    /// Certificates. Without them MySQL makes its own, and MariaDB has no TLS.
    pub tls: Option<Tls>,
    /// SQL that runs on the new primary before anything else is asked of it.
    pub init_sql: Vec<String>,
    /// Where a fresh data directory is kept from one run to the next: making it is the slowest
    /// part of a start. `None`: not kept.
    pub template_cache: Option<PathBuf>,
    /// Where the servers live, to stay there afterwards. `None`: a temporary folder.
    pub keep: Option<PathBuf>,
    /// The folder of the server's program. `None`: where it is found.
    pub binaries: Option<PathBuf>,
    /// A library that each server is started with (`LD_PRELOAD`), for `Process::slow_disk`.
    pub preload: Option<PathBuf>,
}

impl Options {
    pub fn of(engine: Engine) -> Options {
        Options {
            engine,
            replicas: 2,
            settings: Vec::new(),
            tls: None,
            init_sql: Vec::new(),
            template_cache: None,
            keep: None,
            binaries: None,
            preload: None,
        }
    }
}

/// One primary and the replicas that follow it by GTID.
pub type Cluster = Group<Server>;

impl Cluster {
    /// Starts all servers and waits until the replicas have what the primary was told. Takes
    /// about three seconds with a cached template.
    ///
    /// # Errors
    /// Says what is missing when the engine is not installed, and quotes the server's log when
    /// one does not start. Nothing stays behind.
    pub fn start(options: Options) -> Result<Cluster> {
        let programs = Arc::new(Programs::find(options.engine, options.binaries.as_deref())?);
        let folder = Arc::new(Folder::create(&programs.binaries, options.keep.as_deref())?);
        let logins = Logins::random("admin")?;
        let cache = options.template_cache.clone();
        let cache = cache.unwrap_or_else(|| folder.path().join("template"));
        let starts = |number: u16| {
            let name = format!("my{number}");
            let (binaries, preload) = (programs.binaries.clone(), options.preload.clone());
            let place = Place::new(binaries, folder.clone(), name, preload)?;
            make_data_directory(&place, &programs, &cache)?;
            Server::start_new(place, programs.clone(), &options, number)
        };
        let servers = std::thread::scope(|scope| {
            let tasks: Vec<_> = (0..=options.replicas)
                .map(|number| {
                    let starts = &starts;
                    scope.spawn(move || starts(number))
                })
                .collect();
            tasks.into_iter().map(join).collect::<Result<Vec<Server>>>()
        })?;
        if options.template_cache.is_none() {
            fs::remove_dir_all(&cache)?;
        }
        let cluster = Group::new(servers, logins, folder);
        let primary = cluster.primary();
        for login in cluster.logins.all() {
            accounts(options.engine, login).iter().try_for_each(|sql| primary.execute(sql))?;
        }
        options.init_sql.iter().try_for_each(|sql| primary.execute(sql))?;
        for replica in cluster.replicas() {
            cluster.follow(replica, primary)?;
        }
        cluster.wait_caught_up(primary)?;
        Ok(cluster)
    }

    /// Waits until every running replica of the servers has applied what `from` has written
    /// until now.
    pub fn wait_caught_up(&self, from: &Server) -> Result<()> {
        let target = from.executed()?;
        for replica in self.servers().iter().filter(|server| server.port != from.port) {
            if replica.is_running() && replica.replicates()? {
                wait_until(CATCH_UP_TIMEOUT, || replica.has_executed(&target).unwrap_or(false))
                    .with_context(|| format!("{} does not catch up to {target}", replica.name))?;
            }
        }
        Ok(())
    }

    /// Makes a running server replicate from `upstream`, which may be a server that was promoted,
    /// and read-only.
    pub fn follow(&self, replica: &Server, upstream: &Server) -> Result<()> {
        replica.replicate_from(upstream.port, &self.logins.replicator)
    }

    /// Starts a stopped server as a replica of `upstream`. It must not have written anything
    /// that `upstream` has not: a former primary, stopped in order before the promotion.
    pub fn rejoin(&self, server: &Server, upstream: &Server) -> Result<()> {
        server.start_read_only()?;
        self.follow(server, upstream)
    }

    /// Makes a server anew, with nothing of its own, as a replica of the one that it reaches at
    /// `port`: from a copy of this replica of that one, which is stopped for it, or from nothing but
    /// that one's binary logs. `template_cache` is as in [`Options`].
    pub fn rebuild(
        &self,
        server: &Server,
        replica: Option<&Server>,
        port: u16,
        template_cache: &Path,
    ) -> Result<()> {
        if server.is_running() {
            server.kill9()?;
        }
        fs::remove_dir_all(&server.place.data)?;
        match replica {
            Some(replica) => {
                replica.stop_or_kill()?;
                copy(&replica.place.data, &server.place.data)?;
                forget_uuid(&server.place)?;
                replica.start_read_only()?;
            }
            None => make_data_directory(&server.place, &server.programs, template_cache)?,
        }
        server.take_another_id();
        server.start_copy()?;
        server.replicate_from(port, &self.logins.replicator)
    }
}

/// How the accounts of each login are made. Nothing is said about the plugin: the server's default
/// is `caching_sha2_password` in MySQL, `mysql_native_password` in MariaDB.
fn accounts(engine: Engine, login: &Login) -> Vec<String> {
    let Login { user, password } = login;
    let create = format!("CREATE USER '{user}'@'%' IDENTIFIED BY {}", quote(password));
    let grants: &[&str] = match (user.as_str(), engine) {
        ("admin", _) => &["GRANT ALL ON *.* TO 'admin'@'%' WITH GRANT OPTION"],
        ("replicator", _) => &["GRANT REPLICATION SLAVE ON *.* TO 'replicator'@'%'"],
        ("tiffin", Engine::MySql) => &[
            "GRANT REPLICATION CLIENT, REPLICATION SLAVE, SELECT, SHOW VIEW, TRIGGER ON *.* \
             TO 'tiffin'@'%'",
            "GRANT SHOW_ROUTINE, CONNECTION_ADMIN ON *.* TO 'tiffin'@'%'",
        ],
        ("tiffin", Engine::MariaDb) => {
            &["GRANT SLAVE MONITOR, BINLOG MONITOR, REPLICATION SLAVE, CONNECTION ADMIN, SELECT, \
             SHOW VIEW, TRIGGER ON *.* TO 'tiffin'@'%'"]
        }
        _ => &["CREATE DATABASE app", "GRANT ALL ON app.* TO 'app'@'%'"],
    };
    std::iter::once(create).chain(grants.iter().map(ToString::to_string)).collect()
}

/// A copy of the data directory that was made for the first server, or an earlier cluster.
fn make_data_directory(place: &Place, programs: &Programs, cache: &Path) -> Result<()> {
    from_template(place, cache, || {
        folder::run(programs.initialise(&place.data).current_dir(place.folder.path()))?;
        forget_uuid(place)
    })
}

/// Each copy of a data directory makes a UUID of its own; MariaDB has none.
fn forget_uuid(place: &Place) -> Result<()> {
    match fs::remove_file(place.data.join("auto.cnf")) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The server's option file.
fn option_file(options: &Options, programs: &Programs, place: &Place) -> Result<String> {
    let own = match options.engine {
        Engine::MySql => MYSQL_SETTINGS,
        Engine::MariaDb => MARIADB_SETTINGS,
    };
    let mut lines = vec!["[mysqld]".to_string()];
    lines.extend(SETTINGS.iter().chain(own).map(|(name, value)| format!("{name} = {value}")));
    lines.extend(programs.folders());
    // Debian's folder for it is not there.
    lines.push(format!("secure_file_priv = {}", place.home().display()));
    if let Some(tls) = &options.tls {
        let files = [
            ("ssl_cert", "server.crt", Some(&tls.certificate)),
            ("ssl_key", "server.key", Some(&tls.key)),
            ("ssl_ca", "client-ca.crt", tls.client_ca.as_ref()),
        ];
        for (setting, name, text) in files {
            let Some(text) = text else { continue };
            let path = place.home().join(name);
            place.write_to(&path, text)?;
            lines.push(format!("{setting} = {}", path.display()));
        }
    }
    lines.extend(options.settings.iter().map(|(name, value)| format!("{name} = {value}")));
    Ok(lines.join("\n") + "\n")
}
