//! Real servers: one primary and its replicas in a folder that vanishes. Here PostgreSQL's, in
//! [`mysql`] those of MySQL and MariaDB.
//!
//! `tiffin sandbox` shows the proxy with them, the integration tests break them on purpose.
//! Everything here blocks and works inside and outside of an async runtime. Nothing here knows
//! the proxy.
//!
//! - [`Cluster`], in this file: start all, what they have replayed; [`group`]: who they are.
//! - [`server`]: one server — start, stop, promote, lag, SQL.
//! - [`process`]: what any server has — freeze, kill, log, a port.
//! - [`folder`]: the folder and the watchdog that ends everything, also after `kill -9`.
//! - [`binaries`]: where PostgreSQL is installed and which user may run it.
//! - [`query`]: SQL over the server's Unix socket.

pub mod binaries;
pub mod folder;
pub mod group;
pub mod mysql;
pub mod process;
pub mod query;
pub mod server;

pub use group::{Group, Login};
pub use query::Session;
pub use server::{Mode, Server};

use anyhow::{Context, Result, bail};
use binaries::Binaries;
use folder::Folder;
use group::Logins;
use process::Place;
use query::quote;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at a condition: short beside everything that is waited for here, long
/// beside the cost of one look.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A replica that is not told to lag has applied everything well within this, also on a machine
/// that builds something else at the same time.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// Loopback; a login waits for SCRAM and, at the worst, for the proxy's gate.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings that make a server small and quick to start. Durability is not wanted: the folder is
/// deleted at the end. `mmap` keeps shared memory segments inside the folder as well.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "'127.0.0.1'"),
    ("fsync", "off"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    ("wal_keep_size", "'256MB'"),
    // pg_rewind copies all that there is.
    ("max_wal_size", "'256MB'"),
    ("hot_standby", "on"),
    ("hot_standby_feedback", "on"),
    ("wal_receiver_status_interval", "'1s'"),
    ("wal_retrieve_retry_interval", "'200ms'"),
    ("shared_buffers", "'32MB'"),
    ("dynamic_shared_memory_type", "mmap"),
    ("max_connections", "300"),
    ("max_prepared_transactions", "10"),
    ("password_encryption", "'scram-sha-256'"),
    ("autovacuum_naptime", "'10min'"),
    ("log_line_prefix", "'%m [%p] %q%u@%d %a '"),
    ("timezone", "'UTC'"),
];

/// What a cluster is to look like. `Options::default()` is one primary, two replicas, SCRAM.
#[derive(Debug, Clone)]
pub struct Options {
    pub replicas: u16,
    /// Lines of `pg_hba.conf` for TCP, the first that matches counts. The Unix socket inside the
    /// cluster's folder (open only to the servers' user and root) and the replication user are
    /// always let in before them.
    pub hba: Vec<String>,
    /// Lines `name = value` for `postgresql.conf`, after the ones that every cluster gets.
    pub settings: Vec<(String, String)>,
    /// Certificates; `ssl = on` if given.
    pub tls: Option<Tls>,
    /// SQL that runs on the new primary before the replicas are made.
    pub init_sql: Vec<String>,
    /// Where a fresh data directory is kept from one run to the next: `initdb` is the slowest
    /// part of a start. `None`: not kept.
    pub template_cache: Option<PathBuf>,
    /// Where the servers live, to stay there afterwards. `None`: a temporary folder.
    pub keep: Option<PathBuf>,
    /// The folder of the server's programs. `None`: where [`Binaries::find`] finds them.
    pub binaries: Option<PathBuf>,
    /// A library that each server is started with (`LD_PRELOAD`), for `Process::slow_disk`.
    pub preload: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            replicas: 2,
            hba: vec!["host all all 127.0.0.1/32 scram-sha-256".into()],
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

/// PEM texts for the servers.
#[derive(Debug, Clone)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
    /// Client certificates are verified against this.
    pub client_ca: Option<String>,
}

/// One primary and its streaming replicas.
pub type Cluster = Group<Server>;

impl Cluster {
    /// Starts the primary, copies it to the replicas with `pg_basebackup`, starts them and waits
    /// until all answer. Takes about three seconds, one less with a cached template.
    ///
    /// # Errors
    /// Says what is missing when PostgreSQL is not installed, and quotes the server's log when
    /// one does not start. Nothing stays behind.
    pub fn start(options: Options) -> Result<Cluster> {
        let binaries = match &options.binaries {
            Some(folder) => Binaries::at(folder),
            None => Binaries::find(),
        };
        let binaries = Arc::new(binaries?);
        let folder = Arc::new(Folder::create(&binaries, options.keep.as_deref())?);
        let logins = Logins::random("postgres")?;

        let place = |number| {
            let name = format!("pg{number}");
            Place::new(binaries.clone(), folder.clone(), name, options.preload.clone())
        };
        let primary = place(0)?;
        make_data_directory(&primary, options.template_cache.as_deref())?;
        configure(&primary, &options)?;
        let primary = Server::start_new(primary)?;
        for login in logins.all() {
            primary.execute(&role_sql(login))?;
        }
        primary.execute("CREATE DATABASE app OWNER app")?;
        primary.execute("GRANT SELECT ON pg_catalog.pg_authid TO tiffin")?;
        for sql in &options.init_sql {
            primary.execute(sql)?;
        }

        let replicas = std::thread::scope(|scope| {
            let tasks: Vec<_> = (1..=options.replicas)
                .map(|number| (place(number), &primary, &logins.replicator))
                .map(|(place, primary, replicator)| {
                    scope.spawn(move || make_replica(place?, primary, replicator))
                })
                .collect();
            tasks.into_iter().map(join).collect::<Result<Vec<Server>>>()
        })?;
        let mut servers = vec![primary];
        servers.extend(replicas);
        Ok(Group::new(servers, logins, folder))
    }

    /// Waits until every running replica has applied what `from` has written until now.
    pub fn wait_caught_up(&self, from: &Server) -> Result<()> {
        // Not the insert position: at a page start that is behind the page's header, which nobody
        // applies while nothing more is written. What was committed is flushed.
        let target = from.value("SELECT pg_current_wal_flush_lsn()")?;
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= {}", quote(&target));
        for replica in self.servers().iter().filter(|server| server.port != from.port) {
            if replica.is_running() && replica.value("SELECT pg_is_in_recovery()")? == "t" {
                wait_until(CATCH_UP_TIMEOUT, || replica.value(&sql).is_ok_and(|word| word == "t"))
                    .with_context(|| format!("{} does not catch up to {target}", replica.name))?;
            }
        }
        Ok(())
    }

    /// Makes a replica stream from `upstream`, which may be a server that was promoted.
    pub fn follow(&self, replica: &Server, upstream: &Server) -> Result<()> {
        make_slot(upstream, &replica.name)?;
        replica.set("primary_conninfo", &quote(&self.conninfo(upstream)))
    }

    /// Starts a stopped server as a replica of `upstream`. It must not have written anything
    /// that `upstream` has not: a former primary, stopped in order before the promotion.
    pub fn rejoin(&self, server: &Server, upstream: &Server) -> Result<()> {
        make_slot(upstream, &server.name)?;
        server.start_as_replica(&self.conninfo(upstream))
    }

    /// Makes a former primary, whatever it has written since, a replica of `upstream`: what the
    /// other does not have is taken back (`pg_rewind`; needs `wal_log_hints`).
    pub fn rewind(&self, server: &Server, upstream: &Server) -> Result<()> {
        if server.is_running() {
            server.sigcont()?;
            server.stop(Mode::Fast)?;
        }
        // It compares the control files, and the promotion is in there from the next checkpoint on.
        upstream.execute("CHECKPOINT")?;
        let Login { user, password } = &self.superuser;
        let port = upstream.port;
        let source =
            format!("host=127.0.0.1 port={port} user={user} password={password} dbname=postgres");
        server.rewind(&source)?;
        self.rejoin(server, upstream)
    }

    fn conninfo(&self, upstream: &Server) -> String {
        let Login { user, password } = &self.logins.replicator;
        let port = upstream.port;
        format!("host=127.0.0.1 port={port} user={user} password={password}")
    }

    /// A connection to one server as this user, not through the proxy.
    pub fn config(&self, server: &Server, login: &Login) -> tokio_postgres::Config {
        client_config(server.port, login)
    }
}

/// Looks at `condition` again and again until it holds.
///
/// # Errors
/// When it does not hold within `bound`.
pub fn wait_until(bound: Duration, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    let started = Instant::now();
    loop {
        if condition() {
            return Ok(started.elapsed());
        }
        if started.elapsed() > bound {
            bail!("waited {bound:?} in vain");
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// How this user connects to 127.0.0.1; the database is the user's own.
pub fn client_config(port: u16, login: &Login) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user(&login.user).password(&login.password);
    config.connect_timeout(CONNECT_TIMEOUT);
    config
}

fn make_slot(upstream: &Server, name: &str) -> Result<()> {
    let name = quote(name);
    upstream.execute(&format!(
        "SELECT pg_create_physical_replication_slot({name}, true)
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {name})"
    ))
}

fn role_sql(login: &Login) -> String {
    let Login { user, password } = login;
    let password = quote(password);
    match user.as_str() {
        "postgres" => format!("ALTER ROLE postgres PASSWORD {password}"),
        "replicator" => format!("CREATE ROLE replicator LOGIN REPLICATION PASSWORD {password}"),
        "tiffin" => format!("CREATE ROLE tiffin LOGIN PASSWORD {password} IN ROLE pg_monitor"),
        _ => format!("CREATE ROLE {user} LOGIN PASSWORD {password}"),
    }
}

/// Runs `initdb`, or copies what it made for an earlier cluster.
fn make_data_directory(place: &Place, cache: Option<&Path>) -> Result<()> {
    let initdb = || {
        let mut command = place.binaries.command("initdb");
        command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        command.args(["--no-sync", "--no-instructions", "-D"]).arg(&place.data);
        folder::run(command.current_dir(place.folder.path()))
    };
    match cache {
        None => initdb(),
        Some(cache) => from_template(place, cache, initdb),
    }
}

/// Copies a data directory out of this folder, after putting there what `make` makes, if it is
/// not there yet.
fn from_template(place: &Place, cache: &Path, make: impl Fn() -> Result<()>) -> Result<()> {
    fs::create_dir_all(cache).with_context(|| format!("{}", cache.display()))?;
    let template = cache.join(place.binaries.title()?);
    // Tests start at the same time in several processes: the first makes it, the others wait.
    let lock = fs::File::create(template.with_extension("lock"))?;
    lock.lock()?;
    if !template.exists() {
        make()?;
        let half = template.with_extension("half");
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        copy(&place.data, &half)?;
        return fs::rename(&half, &template).context("keep the data directory");
    }
    drop(lock);
    copy(&template, &place.data)
}

/// Copies a folder with owners and modes, sharing the blocks where the file system can.
fn copy(from: &Path, to: &Path) -> Result<()> {
    folder::run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to))
}

/// Writes `postgresql.conf` and `pg_hba.conf`; replicas inherit both with the copy.
fn configure(place: &Place, options: &Options) -> Result<()> {
    let mut lines = vec![String::new()];
    lines.extend(SETTINGS.iter().map(|(name, value)| format!("{name} = {value}")));
    if let Some(tls) = &options.tls {
        place.write("server.crt", &tls.certificate)?;
        place.write("server.key", &tls.key)?;
        lines.push("ssl = on".into());
        if let Some(ca) = &tls.client_ca {
            place.write("client-ca.crt", ca)?;
            lines.push("ssl_ca_file = 'client-ca.crt'".into());
        }
    }
    lines.extend(options.settings.iter().map(|(name, value)| format!("{name} = {value}")));
    let path = place.data.join("postgresql.conf");
    let conf = fs::read_to_string(&path)? + &lines.join("\n") + "\n";
    place.write("postgresql.conf", &conf)?;
    place.write("pg_hba.conf", &server::hba(&options.hba))
}

fn make_replica(place: Place, primary: &Server, replicator: &Login) -> Result<Server> {
    let mut command = place.binaries.command("pg_basebackup");
    command.args(["-h", "127.0.0.1", "-U", &replicator.user, "-p", &primary.port.to_string()]);
    command.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"]);
    command.args(["--write-recovery-conf", "--create-slot", "--slot", &place.name, "-D"]);
    command.arg(&place.data).env("PGPASSWORD", &replicator.password).env("PGSSLMODE", "prefer");
    folder::run(command.current_dir(place.folder.path()))
        .with_context(|| format!("copy the primary to {}", place.name))?;
    Server::start_new(place)
}

fn join<T>(task: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    task.join().unwrap_or_else(|_| bail!("a thread that starts a server panicked"))
}
