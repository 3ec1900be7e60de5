//! What all kinds of servers have: a place on disk, a process, a port.

use super::binaries::Binaries;
use super::folder::Folder;
use super::wait_until;
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A server that recovers a few megabytes on a busy machine starts well within this.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A server that is stopped in order writes what it holds, and its last bytes to the replicas.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Ports are tried until one server starts; a collision is rare, several in a row are not chance.
const PORT_TRIES: usize = 8;
/// Below the range that the kernel gives to outgoing connections, so that a server which is
/// started again finds its port still free.
const PORTS: std::ops::Range<u16> = 15_000..32_000;
/// Up to which files may be written on a disk that is full: less than any log is long.
const FULL_DISK_BYTES: u32 = 4096;
/// Lines of the log that an error quotes.
const LOG_LINES_QUOTED: usize = 15;

/// Where a server lives, before and while it runs.
pub struct Place {
    pub binaries: Arc<Binaries>,
    pub folder: Arc<Folder>,
    /// `pg0`, `pg1` …; also the name of its replication slot. `my0`, `my1` … for MySQL.
    pub name: String,
    pub data: PathBuf,
    /// See `Options`.
    pub preload: Option<PathBuf>,
}

impl Place {
    pub fn new(
        binaries: Arc<Binaries>,
        folder: Arc<Folder>,
        name: String,
        preload: Option<PathBuf>,
    ) -> Result<Place> {
        let home = folder.path().join(&name);
        fs::create_dir(&home).with_context(|| format!("make {}", home.display()))?;
        if let Some((uid, gid)) = binaries.run_as {
            chown(&home, Some(uid), Some(gid))?;
        }
        Ok(Place { data: home.join("data"), binaries, folder, name, preload })
    }

    /// Writes a file of the data directory, readable by the servers' user alone.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        self.write_to(&self.data.join(name), text)
    }

    /// Writes a file that is readable by the servers' user alone.
    pub fn write_to(&self, path: &Path, text: &str) -> Result<()> {
        let write = || -> Result<()> {
            // The mode is only used for a new file, and a key must never have been readable.
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
            if let Some((uid, gid)) = self.binaries.run_as {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            std::io::Write::write_all(&mut &file, text.as_bytes())?;
            Ok(())
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// The data directory's parent, where the log is.
    pub fn home(&self) -> &Path {
        self.data.parent().unwrap_or(&self.data)
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.home().join("log")
    }
}

/// A server's process. All methods block, and may be called from any thread.
pub struct Process {
    pub name: String,
    /// On 127.0.0.1; the same after each start.
    pub port: u16,
    pub(super) place: Place,
    child: Mutex<Option<Child>>,
}

impl Process {
    pub(super) fn new(place: Place) -> Process {
        Process { name: place.name.clone(), port: 0, place, child: Mutex::new(None) }
    }

    /// Starts the server's program, and waits until it is ready.
    pub(super) fn spawn(&self, mut command: Command, is_ready: impl Fn() -> bool) -> Result<()> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.place.log_path())
            .context("open the server's log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(library) = &self.place.preload {
            // Where the servers' user can read it.
            let copy = self.place.home().join("preload.so");
            fs::copy(library, &copy).with_context(|| format!("copy {}", library.display()))?;
            self.slow_disk(Duration::ZERO)?;
            command.env("LD_PRELOAD", copy).env("TIFFIN_DISK", self.disk_path());
        }
        // Ctrl-C on the terminal is for the one who holds the cluster.
        command.current_dir(&self.place.data).process_group(0);
        let mut child = self.child();
        if child.is_some() {
            bail!("{} is already running", self.name);
        }
        *child = Some(command.spawn().with_context(|| format!("start {}", self.name))?);
        drop(child);
        wait_until(START_TIMEOUT, || !self.is_running() || is_ready()).ok();
        if !is_ready() {
            self.kill9().ok();
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_QUOTED)..];
            bail!("{} did not start; its log ends with:\n{}", self.name, last.join("\n"));
        }
        Ok(())
    }

    /// Sends a signal that ends the server, and waits until its process has gone.
    pub(super) fn end_by(&self, signal: &str) -> Result<()> {
        self.end_within(signal, STOP_TIMEOUT)
    }

    pub(super) fn end_within(&self, signal: &str, bound: Duration) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} is not running", self.name))?;
        send(signal, &[pid])?;
        wait_until(bound, || !self.is_running())
            .with_context(|| format!("stop {} ({signal})", self.name))?;
        Ok(())
    }

    /// Kills every process of the server at once, as a host that loses its power. Connections
    /// are reset by the kernel; nothing is said to the clients.
    pub fn kill9(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // The first one first and alone: PostgreSQL's would restart what is killed before it.
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

    /// Lets none of its files grow any more, as on a disk that is full, until it is started again
    /// (`prlimit` of util-linux; servers are told EFBIG, where a full disk says ENOSPC).
    pub fn fill_disk(&self) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} is not running", self.name))?;
        // The first one first: the others have the limit from it.
        for pid in std::iter::once(pid).chain(children(pid)) {
            let limits = [format!("--pid={pid}"), format!("--fsize={FULL_DISK_BYTES}")];
            let mut command = Command::new("prlimit");
            if let Some((uid, gid)) = self.place.binaries.run_as {
                // Another user's limits even root may not change everywhere (CAP_SYS_RESOURCE).
                command.uid(uid).gid(gid);
            }
            let done = command.args(limits).output().context("prlimit")?;
            let told = String::from_utf8_lossy(&done.stderr).into_owned();
            if !done.status.success() && Path::new(&format!("/proc/{pid}")).exists() {
                bail!("prlimit: {told}");
            }
        }
        Ok(())
    }

    /// Each write of one of its files takes this much longer from now on, until it is started again.
    /// It must have been started with a library that reads this (`Options::preload`): milliseconds,
    /// as four bytes.
    pub fn slow_disk(&self, delay: Duration) -> Result<()> {
        let ms = u32::try_from(delay.as_millis())?;
        // In place: servers have it mapped.
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(self.disk_path()).context("what the disk is like")?;
        file.write_all_at(&ms.to_ne_bytes(), 0)?;
        Ok(())
    }

    fn disk_path(&self) -> PathBuf {
        self.place.home().join("disk")
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
        let mut child = self.child();
        let ended = child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            *child = None;
        }
        child.is_some()
    }

    /// The id of the server's first process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        if self.is_running() { self.child().as_ref().map(Child::id) } else { None }
    }

    /// Takes the exit status of a process that is being ended.
    pub(super) fn reap(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.wait();
        }
    }

    /// Everything that the server has logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.place.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

/// Starts a new server whose log is this file on one free port after the other until none else
/// has taken it meanwhile.
pub(super) fn on_free_port(log: &Path, mut start: impl FnMut(u16) -> Result<()>) -> Result<()> {
    for _ in 1..PORT_TRIES {
        let result = start(free_port()?);
        let said = || fs::read_to_string(log).unwrap_or_default();
        if result.is_ok() || !said().contains("Address already in use") {
            return result;
        }
        fs::remove_file(log)?;
    }
    start(free_port()?)
}

/// A port that nobody listens on now, and that nobody else who asks here is given while this
/// process runs: tests in many processes start servers at once, stop them and start them again.
/// A stranger may still take it before the server does: the caller tries again then.
pub fn free_port() -> Result<u16> {
    let random = u64::from_str_radix(&super::folder::random_hex(4)?, 16)?;
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

/// Process ids of the direct children; a server has no others.
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
