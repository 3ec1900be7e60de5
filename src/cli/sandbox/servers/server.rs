//! One server: its process, and what can be done to it.

use super::folder;
use super::group::{Login, Member};
use super::process::{Place, Process, STOP_TIMEOUT, on_free_port};
use super::query::{self, Rows, Session, quote};
use super::{Cluster, client_config, wait_until};
use anyhow::{Context, Result, bail};
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

/// The line of `postmaster.pid` that tells the state, counted from 0.
const STATE_LINE: usize = 7;

/// How a server is stopped, in the words of `pg_ctl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Waits until the last client has gone.
    Smart,
    /// Ends sessions (57P01), writes a checkpoint.
    Fast,
    /// As a crash, but told to the clients (57P02).
    Immediate,
}

/// One PostgreSQL server. All methods block, and may be called from any thread.
pub struct Server {
    process: Process,
    pub data_dir: PathBuf,
    /// Folder of the Unix socket, where `postgres` needs no password.
    pub socket_dir: PathBuf,
    /// `primary_conninfo` while the receiver is cut.
    cut_conninfo: Mutex<Option<String>>,
}

impl Server {
    /// Starts a new server on a free port.
    pub(super) fn start_new(place: Place) -> Result<Server> {
        let log = place.log_path();
        let mut server = Server {
            data_dir: place.data.clone(),
            socket_dir: place.folder.path().to_path_buf(),
            process: Process::new(place),
            cut_conninfo: Mutex::new(None),
        };
        on_free_port(&log, |port| {
            server.process.port = port;
            server.start()
        })?;
        Ok(server)
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&self) -> Result<()> {
        let mut command = self.place.binaries.server();
        command.arg("-D").arg(&self.data_dir).arg("-k").arg(&self.socket_dir);
        // A replica's name among the synchronous standbys of its primary.
        command.arg(format!("--cluster_name={}", self.name));
        command.args(["-p", &self.port.to_string()]);
        self.spawn(command, || self.is_ready())
    }

    /// Stops the server and waits until its process has gone.
    pub fn stop(&self, mode: Mode) -> Result<()> {
        let signal = match mode {
            Mode::Smart => "TERM",
            Mode::Fast => "INT",
            Mode::Immediate => "QUIT",
        };
        self.end_by(signal)
    }

    /// Runs SQL as superuser in the database `postgres`; several statements are one transaction.
    pub fn query(&self, sql: &str) -> Result<Rows> {
        self.query_in("postgres", sql)
    }

    pub fn query_in(&self, database: &str, sql: &str) -> Result<Rows> {
        query::query(&self.socket_dir, self.port, database, sql)
    }

    pub fn execute(&self, sql: &str) -> Result<()> {
        self.query(sql).map(drop)
    }

    /// The first column of the first row; empty for NULL.
    pub fn value(&self, sql: &str) -> Result<String> {
        self.value_in("postgres", sql)
    }

    pub fn value_in(&self, database: &str, sql: &str) -> Result<String> {
        let rows = self.query_in(database, sql)?;
        let first = rows.into_iter().next().and_then(|row| row.into_iter().next());
        first.map(Option::unwrap_or_default).with_context(|| format!("no row: {sql}"))
    }

    /// Changes a setting (`ALTER SYSTEM`) and reloads. `value` is written as SQL.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        self.execute(&format!("ALTER SYSTEM SET {name} = {value}"))?;
        self.reload()
    }

    /// Reads the configuration files again.
    pub fn reload(&self) -> Result<()> {
        self.execute("SELECT pg_reload_conf()")
    }

    /// Replaces the TCP lines of `pg_hba.conf` and reloads.
    pub fn set_hba(&self, lines: &[String]) -> Result<()> {
        self.place.write("pg_hba.conf", &hba(lines))?;
        self.reload()
    }

    /// Replica: applies each commit this many milliseconds after the primary made it.
    pub fn set_apply_delay(&self, ms: u64) -> Result<()> {
        self.set("recovery_min_apply_delay", &format!("'{ms}ms'"))
    }

    /// Replica: goes on receiving and applies nothing.
    pub fn pause_replay(&self) -> Result<()> {
        self.execute("SELECT pg_wal_replay_pause()")?;
        wait_until(STOP_TIMEOUT, || {
            self.value("SELECT pg_get_wal_replay_pause_state()").is_ok_and(|word| word == "paused")
        })
        .context("pause replay")?;
        Ok(())
    }

    pub fn resume_replay(&self) -> Result<()> {
        self.execute("SELECT pg_wal_replay_resume()")
    }

    /// Replica: ends its receiver and keeps it away from the primary.
    pub fn cut_receiver(&self) -> Result<()> {
        let conninfo = self.value("SHOW primary_conninfo")?;
        if !conninfo.is_empty() {
            *self.cut_conninfo() = Some(conninfo);
        }
        self.set("primary_conninfo", "''")?;
        wait_until(STOP_TIMEOUT, || {
            self.query("SELECT 1 FROM pg_stat_wal_receiver").is_ok_and(|rows| rows.is_empty())
        })
        .context("cut the receiver")?;
        Ok(())
    }

    /// Replica: streams again after [`Server::cut_receiver`].
    pub fn restore_receiver(&self) -> Result<()> {
        let conninfo = self.cut_conninfo().take().context("the receiver is not cut")?;
        self.set("primary_conninfo", &quote(&conninfo))
    }

    /// A stopped server: takes back what `source` does not have.
    pub(super) fn rewind(&self, source: &str) -> Result<()> {
        let mut command = self.place.binaries.command("pg_rewind");
        command.arg("--target-pgdata").arg(&self.data_dir).args(["--source-server", source]);
        command.arg("--no-sync");
        folder::run(command.current_dir(&self.data_dir))
            .with_context(|| format!("rewind {}", self.name))
    }

    /// A stopped server: starts again as a replica that streams by this connection string.
    pub(super) fn start_as_replica(&self, conninfo: &str) -> Result<()> {
        let conf = fs::read_to_string(self.data_dir.join("postgresql.auto.conf"))?;
        let conninfo = quote(conninfo);
        let slot = quote(&self.name);
        let lines = format!("primary_conninfo = {conninfo}\nprimary_slot_name = {slot}\n");
        self.place.write("postgresql.auto.conf", &(conf + &lines))?;
        self.place.write("standby.signal", "")?;
        self.start()
    }

    /// Makes a replica the primary of a new timeline and waits until it takes writes.
    pub fn promote(&self) -> Result<()> {
        if self.value("SELECT pg_promote(true, 60)")? != "t" {
            bail!("{} was not promoted", self.name);
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let state = fs::read_to_string(self.data_dir.join("postmaster.pid")).unwrap_or_default();
        let pid = self.pid().map(|pid| pid.to_string());
        state.lines().next().map(str::to_string) == pid
            && state.lines().nth(STATE_LINE).is_some_and(|word| word.trim() == "ready")
    }

    fn cut_conninfo(&self) -> MutexGuard<'_, Option<String>> {
        self.cut_conninfo.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Member for Server {
    type Session = Session;

    const OWN_PORT: &'static str = "inet_server_port()";

    fn session(port: u16, login: &Login) -> Result<Session> {
        Session::connect(&client_config(port, login))
    }

    fn stop_in_order(&self) -> Result<()> {
        self.stop(Mode::Fast)
    }

    fn take_over(&self) -> Result<()> {
        self.promote()
    }

    fn apply_late(&self, seconds: u32) -> Result<()> {
        self.set_apply_delay(u64::from(seconds) * 1_000)
    }

    fn wait_caught_up(&self, cluster: &Cluster) -> Result<()> {
        cluster.wait_caught_up(self)
    }

    fn follow(&self, cluster: &Cluster, upstream: &Server) -> Result<()> {
        cluster.follow(self, upstream)
    }

    fn rejoin(&self, cluster: &Cluster, upstream: &Server) -> Result<()> {
        cluster.rejoin(self, upstream)
    }
}

impl Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// The text of `pg_hba.conf` with these lines for TCP.
pub(super) fn hba(lines: &[String]) -> String {
    let always = "local all all trust\n\
                  host replication replicator 127.0.0.1/32 scram-sha-256\n";
    format!("{always}{}\n", lines.join("\n"))
}
