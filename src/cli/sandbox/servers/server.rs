//! One server: its process, and what can be done to it.

use super::binaries::Binaries;
use super::folder::Folder;
use super::query::{self, Rows, quote};
use super::wait_until;
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A server that recovers a few megabytes on a busy machine starts well within this.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A fast stop waits for a checkpoint and for the last bytes to reach the replicas.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Ports are tried until one server starts; a collision is rare, several in a row are not chance.
const PORT_TRIES: usize = 8;
/// Below the range that the kernel gives to outgoing connections, so that a server which is
/// started again finds its port still free.
const PORTS: std::ops::Range<u16> = 15_000..32_000;
/// Lines of the log that an error quotes.
const LOG_LINES_QUOTED: usize = 15;
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

/// Where a server lives, before and while it runs.
pub struct Place {
    pub binaries: Arc<Binaries>,
    pub folder: Arc<Folder>,
    /// `pg0`, `pg1` …; also the name of its replication slot.
    pub name: String,
    pub data: PathBuf,
}

impl Place {
    pub fn new(binaries: Arc<Binaries>, folder: Arc<Folder>, number: u16) -> Result<Place> {
        let name = format!("pg{number}");
        let home = folder.path().join(&name);
        fs::create_dir(&home).with_context(|| format!("make {}", home.display()))?;
        if let Some((uid, gid)) = binaries.run_as {
            chown(&home, Some(uid), Some(gid))?;
        }
        Ok(Place { data: home.join("data"), binaries, folder, name })
    }

    /// Writes a file of the data directory, readable by the servers' user alone.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.data.join(name);
        let write = || -> Result<()> {
            // The mode is only used for a new file, and a key must never have been readable.
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            if let Some((uid, gid)) = self.binaries.run_as {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            std::io::Write::write_all(&mut &file, text.as_bytes())?;
            Ok(())
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    fn home(&self) -> &Path {
        self.data.parent().unwrap_or(&self.data)
    }

    fn log_path(&self) -> PathBuf {
        self.home().join("log")
    }
}

/// One PostgreSQL server. All methods block, and may be called from any thread.
pub struct Server {
    pub name: String,
    /// On 127.0.0.1; the same after each start.
    pub port: u16,
    pub data_dir: PathBuf,
    /// Folder of the Unix socket, where `postgres` needs no password.
    pub socket_dir: PathBuf,
    place: Place,
    process: Mutex<Option<Child>>,
    /// `primary_conninfo` while the receiver is cut.
    cut_conninfo: Mutex<Option<String>>,
}

impl Server {
    /// Starts a new server on a free port.
    pub(super) fn start_new(place: Place) -> Result<Server> {
        let mut server = Server {
            name: place.name.clone(),
            port: 0,
            data_dir: place.data.clone(),
            socket_dir: place.folder.path().to_path_buf(),
            place,
            process: Mutex::new(None),
            cut_conninfo: Mutex::new(None),
        };
        for _ in 1..PORT_TRIES {
            server.port = free_port()?;
            match server.start() {
                Err(_) if server.log().contains("Address already in use") => {
                    fs::remove_file(server.place.log_path())?;
                }
                result => return result.map(|()| server),
            }
        }
        server.port = free_port()?;
        server.start().map(|()| server)
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&self) -> Result<()> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.place.log_path())
            .context("open the server's log")?;
        let mut command = self.place.binaries.command("postgres");
        command.arg("-D").arg(&self.data_dir).arg("-k").arg(&self.socket_dir);
        // A replica's name among the synchronous standbys of its primary.
        command.arg(format!("--cluster_name={}", self.name));
        command.args(["-p", &self.port.to_string()]).current_dir(&self.data_dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C on the terminal is for the one who holds the cluster.
        command.process_group(0);
        let mut process = self.process();
        if process.is_some() {
            bail!("{} is already running", self.name);
        }
        *process = Some(command.spawn().context("start postgres")?);
        drop(process);
        wait_until(START_TIMEOUT, || !self.is_running() || self.is_ready()).ok();
        if !self.is_ready() {
            self.kill9().ok();
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_QUOTED)..];
            bail!("{} did not start; its log ends with:\n{}", self.name, last.join("\n"));
        }
        Ok(())
    }

    /// Stops the server and waits until its process has gone.
    pub fn stop(&self, mode: Mode) -> Result<()> {
        let signal = match mode {
            Mode::Smart => "TERM",
            Mode::Fast => "INT",
            Mode::Immediate => "QUIT",
        };
        let pid = self.pid().with_context(|| format!("{} is not running", self.name))?;
        send(signal, &[pid])?;
        wait_until(STOP_TIMEOUT, || !self.is_running())
            .with_context(|| format!("stop {} ({mode:?})", self.name))?;
        Ok(())
    }

    /// Kills every process of the server at once, as a host that loses its power. Connections
    /// are reset by the kernel; nothing is said to the clients.
    pub fn kill9(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // The postmaster first and alone: it would restart what is killed before it.
        send("STOP", &[pid])?;
        let mut pids = children(pid);
        pids.push(pid);
        send("KILL", &pids)?;
        self.reap();
        let gone = |pid: &u32| !Path::new(&format!("/proc/{pid}")).exists();
        wait_until(STOP_TIMEOUT, || pids.iter().all(gone)).context("killed processes stay")?;
        Ok(())
    }

    /// Freezes every process of the server: connections stay open and nothing answers.
    pub fn sigstop(&self) -> Result<()> {
        self.signal_all("STOP")
    }

    /// Lets a frozen server go on.
    pub fn sigcont(&self) -> Result<()> {
        self.signal_all("CONT")
    }

    fn signal_all(&self, signal: &str) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} is not running", self.name))?;
        send(signal, &[pid])?;
        match children(pid) {
            pids if pids.is_empty() => Ok(()),
            pids => send(signal, &pids),
        }
    }

    /// Whether the process exists, frozen or not.
    pub fn is_running(&self) -> bool {
        let mut process = self.process();
        let ended = process.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            *process = None;
        }
        process.is_some()
    }

    /// The postmaster's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        if self.is_running() { self.process().as_ref().map(Child::id) } else { None }
    }

    /// Takes the exit status of a process that is being ended.
    pub(super) fn reap(&self) {
        if let Some(mut child) = self.process().take() {
            let _ = child.wait();
        }
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

    /// Everything that the server has logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.place.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
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
        let pid = self.process().as_ref().map(|child| child.id().to_string());
        state.lines().next().map(str::to_string) == pid
            && state.lines().nth(STATE_LINE).is_some_and(|word| word.trim() == "ready")
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn cut_conninfo(&self) -> MutexGuard<'_, Option<String>> {
        self.cut_conninfo.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

/// The text of `pg_hba.conf` with these lines for TCP.
pub(super) fn hba(lines: &[String]) -> String {
    let always = "local all all trust\n\
                  host replication replicator 127.0.0.1/32 scram-sha-256\n";
    format!("{always}{}\n", lines.join("\n"))
}

/// A port that nobody listens on now, and that nobody else who asks here is given while this
/// process runs: tests in many processes start servers at once, stop them and start them again.
/// A stranger may still take it before the server does: the caller tries again then.
pub fn free_port() -> Result<u16> {
    let random = u64::from_str_radix(&super::random_hex(4)?, 16)?;
    let span = u64::from(PORTS.end - PORTS.start);
    let first = u16::try_from(random % span)?;
    (0..PORTS.end - PORTS.start)
        .map(|step| PORTS.start + (first + step) % (PORTS.end - PORTS.start))
        .find(|port| reserve(*port))
        .context("no free port")
}

/// Keeps [`free_port`] from giving this port to anybody while this process runs; false if it is
/// taken. The mark is an abstract Unix socket: it belongs to the same network namespace as the
/// port, and goes with the process however that ends.
pub fn reserve(port: u16) -> bool {
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let name = SocketAddr::from_abstract_name(format!("tiffin-port-{port}"));
    let Ok(mark) = name.and_then(|name| UnixListener::bind_addr(&name)) else { return false };
    let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    if is_free {
        RESERVED.lock().unwrap_or_else(|poison| poison.into_inner()).push(mark);
    }
    is_free
}

/// Process ids of the direct children; PostgreSQL has no others.
fn children(pid: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|child| parent(*child) == Some(pid))
        .collect()
}

/// The fourth field of `/proc/PID/stat`; the second is a name in parentheses that may hold
/// anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Sends a signal by the shell's `kill`, which every machine has.
pub(in crate::cli::sandbox) fn send(signal: &str, pids: &[u32]) -> Result<()> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let script = format!("kill -{signal} {} 2>/dev/null; true", pids.join(" "));
    Command::new("sh").args(["-c", &script]).status().context("sh")?;
    Ok(())
}
