//! One MySQL or MariaDB server: its process, and what can be done to it.

use super::super::group::{Login, Member};
use super::super::process::{Place, Process, STOP_TIMEOUT, on_free_port};
use super::super::query::{Rows, quote};
use super::super::wait_until;
use super::programs::{Programs, tmpdir};
use super::query::{self, Session, client_opts};
use super::{Cluster, Engine, Options, option_file};
use anyhow::{Context, Result};
use std::io::Read;
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

/// A server that takes connections sends its greeting at once.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// A promotion waits for the relay log to be applied, in seconds.
const APPLY_TIMEOUT_S: u32 = 60;

/// A shutdown takes a second; a primary may wait for this replica meanwhile, and its clients for that.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

/// Between the ids of one server and the one that is made anew in its place.
const ID_STEP: u16 = 100;

/// One server. All methods block, and may be called from any thread.
pub struct Server {
    process: Process,
    pub engine: Engine,
    /// `server_id`, at first one more than the server's number.
    id: AtomicU16,
    /// Where `root` needs no password.
    pub socket: PathBuf,
    pub(super) programs: Arc<Programs>,
    /// Whether it is (super) read-only when it starts.
    read_only: AtomicBool,
}

impl Server {
    /// Starts a new server on a free port; the first is writable, the others are not.
    pub(super) fn start_new(
        place: Place,
        programs: Arc<Programs>,
        options: &Options,
        number: u16,
    ) -> Result<Server> {
        place.write_to(&place.home().join("my.cnf"), &option_file(options, &programs, &place)?)?;
        let log = place.log_path();
        let mut server = Server {
            engine: options.engine,
            id: AtomicU16::new(number + 1),
            socket: place.home().join("socket"),
            process: Process::new(place),
            programs,
            read_only: AtomicBool::new(number > 0),
        };
        on_free_port(&log, |port| {
            server.process.port = port;
            server.start()
        })?;
        Ok(server)
    }

    /// Starts the server and waits until it takes connections. It is as writable as it was.
    pub fn start(&self) -> Result<()> {
        self.start_with(&[])
    }

    fn start_with(&self, arguments: &[&str]) -> Result<()> {
        let home = self.place.home();
        let mut command = self.programs.server();
        command.arg(format!("--defaults-file={}", home.join("my.cnf").display()));
        command.arg(format!("--datadir={}", self.place.data.display()));
        command.arg(format!("--socket={}", self.socket.display()));
        command.arg(tmpdir(home));
        command.arg(format!("--pid-file={}", home.join("pid").display()));
        command
            .arg(format!("--port={}", self.port))
            .arg(format!("--server-id={}", self.id.load(Ordering::Relaxed)));
        // By what its replicas are told apart on the primary.
        command.arg("--report-host=127.0.0.1").arg(format!("--report-port={}", self.port));
        command.arg(format!("--{}={}", self.read_only_setting(), self.is_read_only()));
        command.args(arguments);
        self.spawn(command, || self.is_ready())
    }

    /// What was written under its old id it would take for its own, and not apply.
    pub(super) fn take_another_id(&self) {
        self.id.fetch_add(ID_STEP, Ordering::Relaxed);
    }

    pub(super) fn start_read_only(&self) -> Result<()> {
        self.read_only.store(true, Ordering::Relaxed);
        self.start()
    }

    /// The same of a copy, which leaves the channel of the server that it was copied from alone:
    /// MySQL may not answer to a STOP REPLICA while the channel is being started.
    pub(super) fn start_copy(&self) -> Result<()> {
        self.read_only.store(true, Ordering::Relaxed);
        let word = self.words().replica.to_lowercase();
        self.start_with(&[&format!("--skip-{word}-start")])
    }

    /// Stops the server in order and waits until its process has gone.
    pub fn stop(&self) -> Result<()> {
        self.end_by("TERM")
    }

    /// As [`Server::stop`]; MySQL's replicas hang for ever now and then if they have just begun to
    /// receive.
    pub fn stop_or_kill(&self) -> Result<()> {
        self.end_within("TERM", SHUTDOWN_PATIENCE).or_else(|_| self.kill9())
    }

    /// Runs SQL as `root`, whom read-only does not bind unless it is super read-only.
    pub fn query(&self, sql: &str) -> Result<Rows> {
        query::query(&self.socket, sql).with_context(|| self.name.clone())
    }

    pub fn execute(&self, sql: &str) -> Result<()> {
        self.query(sql).map(drop)
    }

    /// The first column of the first row; empty for NULL.
    pub fn value(&self, sql: &str) -> Result<String> {
        let first = self.query(sql)?.into_iter().next().and_then(|row| row.into_iter().next());
        first.map(Option::unwrap_or_default).with_context(|| format!("no row: {sql}"))
    }

    /// All GTIDs that it has executed: a set in MySQL, the newest of each domain in MariaDB.
    pub fn executed(&self) -> Result<String> {
        self.value(match self.engine {
            Engine::MySql => "SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')",
            Engine::MariaDb => "SELECT @@GLOBAL.gtid_current_pos",
        })
    }

    /// Whether this replica has applied these.
    pub fn has_executed(&self, gtids: &str) -> Result<bool> {
        let gtids = quote(gtids);
        let sql = match self.engine {
            Engine::MySql => format!("SELECT GTID_SUBSET({gtids}, @@GLOBAL.gtid_executed)"),
            Engine::MariaDb => format!("SELECT MASTER_GTID_WAIT({gtids}, 0) = 0"),
        };
        Ok(self.value(&sql)? == "1")
    }

    /// Whether it has been told to replicate from another server.
    pub fn replicates(&self) -> Result<bool> {
        Ok(!self.query(self.words().status)?.is_empty())
    }

    /// Replica: applies each commit this many seconds after the primary made it; MySQL counts up
    /// to the next full second.
    pub fn set_apply_delay(&self, seconds: u32) -> Result<()> {
        let Words { replica, change, prefix, .. } = self.words();
        // MySQL would do with a stopped SQL thread.
        self.execute(&format!("STOP {replica}"))?;
        self.execute(&format!("{change} {prefix}_DELAY = {seconds}"))?;
        self.resume()
    }

    /// Replica: goes on receiving and applies nothing, until [`Server::resume`].
    pub fn stop_applying(&self) -> Result<()> {
        self.execute(&format!("STOP {} SQL_THREAD", self.words().replica))
    }

    /// Replica: receives nothing and applies what it has, until [`Server::resume`].
    pub fn stop_receiving(&self) -> Result<()> {
        self.execute(&format!("STOP {} IO_THREAD", self.words().replica))
    }

    /// Replica: receives and applies.
    pub fn resume(&self) -> Result<()> {
        self.execute(&format!("START {}", self.words().replica))
    }

    /// Makes a replica a writable server that replicates from nobody, after it has applied what
    /// it had received.
    pub fn promote(&self) -> Result<()> {
        let Words { replica, .. } = self.words();
        self.stop_receiving()?;
        let received = match self.engine {
            Engine::MySql => {
                let set = quote(&self.status("Retrieved_Gtid_Set")?);
                format!("SELECT WAIT_FOR_EXECUTED_GTID_SET({set}, {APPLY_TIMEOUT_S})")
            }
            Engine::MariaDb => {
                let position = quote(&self.status("Gtid_IO_Pos")?);
                format!("SELECT MASTER_GTID_WAIT({position}, {APPLY_TIMEOUT_S})")
            }
        };
        self.value(&received)?;
        self.execute(&format!("STOP {replica}"))?;
        self.execute(&format!("RESET {replica} ALL"))?;
        self.set_read_only(false)
    }

    /// Refuses writes, also after a restart, or takes them. MySQL refuses those of administrators
    /// as well.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        self.read_only.store(read_only, Ordering::Relaxed);
        self.execute(&format!("SET GLOBAL {} = {read_only}", self.read_only_setting()))?;
        // Switching super_read_only off leaves read_only on.
        self.execute(&format!("SET GLOBAL read_only = {read_only}"))
    }

    /// One column of the replica's status; empty if there is none.
    pub fn status(&self, column: &str) -> Result<String> {
        query::column(&self.socket, self.words().status, column).with_context(|| self.name.clone())
    }

    /// Replicates from the server with this port, and is read-only.
    pub fn replicate_from(&self, port: u16, login: &Login) -> Result<()> {
        let Words { replica, change, prefix, by_gtid, .. } = self.words();
        let Login { user, password } = login;
        self.execute(&format!("STOP {replica}"))?;
        if self.engine == Engine::MariaDb {
            // What a former primary wrote itself counts as well.
            self.execute("SET GLOBAL gtid_slave_pos = @@GLOBAL.gtid_current_pos")?;
        }
        self.execute(&format!(
            "{change} {prefix}_HOST = '127.0.0.1', {prefix}_PORT = {port}, \
             {prefix}_USER = {}, {prefix}_PASSWORD = {}, {prefix}_CONNECT_RETRY = 1, \
             {prefix}_HEARTBEAT_PERIOD = 1, {by_gtid}",
            quote(user),
            quote(password)
        ))?;
        self.set_read_only(true)?;
        self.resume()?;
        let receives = || self.status(self.words().receives).is_ok_and(|word| word == "Yes");
        wait_until(STOP_TIMEOUT, receives)
            .with_context(|| format!("{} does not receive: {}", self.name, self.log()))?;
        Ok(())
    }

    /// MariaDB has no super_read_only.
    fn read_only_setting(&self) -> &'static str {
        match self.engine {
            Engine::MySql => "super_read_only",
            Engine::MariaDb => "read_only",
        }
    }

    fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// A server that is starting has no socket or does not answer on it.
    fn is_ready(&self) -> bool {
        let greets = || -> std::io::Result<()> {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
            stream.read_exact(&mut [0; 5])
        };
        greets().is_ok()
    }

    fn words(&self) -> &'static Words {
        match self.engine {
            Engine::MySql => &MYSQL_WORDS,
            Engine::MariaDb => &MARIADB_WORDS,
        }
    }
}

/// MySQL has renamed what MariaDB calls as ever.
struct Words {
    replica: &'static str,
    change: &'static str,
    prefix: &'static str,
    by_gtid: &'static str,
    status: &'static str,
    receives: &'static str,
}

const MYSQL_WORDS: Words = Words {
    replica: "REPLICA",
    change: "CHANGE REPLICATION SOURCE TO",
    prefix: "SOURCE",
    by_gtid: "SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1",
    status: "SHOW REPLICA STATUS",
    receives: "Replica_IO_Running",
};

const MARIADB_WORDS: Words = Words {
    replica: "SLAVE",
    change: "CHANGE MASTER TO",
    prefix: "MASTER",
    by_gtid: "MASTER_USE_GTID = slave_pos",
    status: "SHOW SLAVE STATUS",
    receives: "Slave_IO_Running",
};

impl Member for Server {
    type Session = Session;

    const OWN_PORT: &'static str = "@@port";

    fn session(port: u16, login: &Login) -> Result<Session> {
        Session::connect(&client_opts(port, login).into())
    }

    fn stop_in_order(&self) -> Result<()> {
        self.stop()
    }

    fn take_over(&self) -> Result<()> {
        self.promote()
    }

    fn apply_late(&self, seconds: u32) -> Result<()> {
        self.set_apply_delay(seconds)
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
