//! Real servers for the tests of this module: a primary and its streaming standbys in a temporary
//! folder, on free loopback ports, gone with the value.

use crate::config::{
    Address, Balance, Cluster, Engine, Gate, Monitor, NodeConfig, OnLag, Pool, PoolMode, Routing,
    ServerTls, ServerTlsMode, Service,
};
use crate::sql::Consistency;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const READY_WITHIN: Duration = Duration::from_secs(30);
/// Nothing that these servers keep has to survive a crash of the machine.
const SETTINGS: &str = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n\
                        max_wal_senders = 10\nwal_keep_size = '256MB'\nautovacuum = off\n\
                        wal_retrieve_retry_interval = '200ms'\n";

pub(super) struct Server {
    folder: PathBuf,
    pub(super) port: u16,
    child: Option<Child>,
}

/// Servers of one system; the first is the primary.
pub(super) struct Servers {
    pub(super) all: Vec<Server>,
    _folder: tempfile::TempDir,
}

impl Servers {
    pub(super) fn start(replicas: usize) -> Servers {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(root));
        }
        let mut primary = Server::new(root.join("node0"));
        run(as_postgres("initdb")
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"])
            .arg(&primary.folder));
        append(&primary.folder.join("postgresql.conf"), SETTINGS);
        primary.start();
        primary
            .sql("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher; CREATE ROLE nobody LOGIN; CREATE TABLE t(n int)");
        let mut all = vec![primary];
        for number in 1..=replicas {
            let mut replica = Server::new(root.join(format!("node{number}")));
            let source = format!("host=127.0.0.1 port={} user=postgres", all[0].port);
            run(as_postgres("pg_basebackup")
                .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", &source, "-D"])
                .arg(&replica.folder));
            replica.start();
            all.push(replica);
        }
        Servers { all, _folder: folder }
    }

    /// The cluster as configured, nodes in the given order of servers.
    pub(super) fn cluster(&self, order: &[usize]) -> Cluster {
        let nodes = order.iter().map(|&server| NodeConfig {
            name: Arc::from(format!("node{server}")),
            address: Address::Tcp { host: "127.0.0.1".into(), port: self.all[server].port },
            zone: None,
            tags: vec![],
            weight: 1,
        });
        Cluster { nodes: nodes.collect(), ..cluster_without_nodes() }
    }
}

impl Server {
    fn new(folder: PathBuf) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Server { folder, port: listener.local_addr().unwrap().port(), child: None }
    }

    pub(super) fn start(&mut self) {
        let log = std::fs::File::create(self.folder.with_extension("log")).unwrap();
        let mut command = as_postgres("postgres");
        command.arg("-D").arg(&self.folder).args(["-p", &self.port.to_string()]);
        command.stderr(log.try_clone().unwrap()).stdout(log).stdin(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let begun = Instant::now();
        while !self.psql("SELECT 1").status().unwrap().success() {
            assert!(begun.elapsed() < READY_WITHIN, "{} does not start", self.folder.display());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Immediate shutdown, as in a crash.
    pub(super) fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = child.id().to_string();
            let _ = Command::new("kill").args(["-QUIT", &pid]).status();
            let _ = child.wait();
        }
    }

    /// Freezes (`STOP`) or thaws (`CONT`) the server with all its processes: connections stay
    /// open and new ones are accepted by the kernel, but nothing is answered.
    pub(super) fn signal(&self, signal: &str) {
        let Some(child) = &self.child else { return };
        let postmaster = child.id().to_string();
        let children =
            std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"));
        let pids = format!("{postmaster} {}", children.unwrap());
        run(Command::new("kill").arg(format!("-{signal}")).args(pids.split_whitespace()));
    }

    pub(super) fn sql(&self, sql: &str) -> String {
        // Several `-c`, for ALTER SYSTEM refuses to run in a block.
        let mut command = self.psql("");
        for statement in sql.split(';') {
            command.args(["-c", statement]);
        }
        let output = command.stdout(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{sql}");
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    }

    pub(super) fn url(&self, user: &str) -> String {
        format!("host=127.0.0.1 port={} user={user} dbname=postgres", self.port)
    }

    fn psql(&self, sql: &str) -> Command {
        let mut command = Command::new("psql");
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", &self.url("postgres"), "-c", sql]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal("CONT");
        self.crash();
    }
}

pub(super) fn node_config(name: &str) -> NodeConfig {
    NodeConfig {
        name: Arc::from(name),
        address: Address::Tcp { host: name.into(), port: 5432 },
        zone: None,
        tags: vec![],
        weight: 1,
    }
}

/// Fast probes, and a bound of one second.
pub(super) fn cluster_without_nodes() -> Cluster {
    Cluster {
        name: Arc::from("main"),
        engine: Engine::Postgres,
        databases: BTreeMap::new(),
        nodes: vec![],
        service: Service { user: "watcher".into(), password: None, database: "postgres".into() },
        server_tls: ServerTls {
            mode: ServerTlsMode::Disable,
            ca: None,
            certificate: None,
            key: None,
            direct: false,
        },
        pool: Pool {
            mode: PoolMode::Transaction,
            size_max: 10,
            idle_min: 0,
            idle_timeout: Duration::from_secs(60),
            lifetime_max: Duration::from_secs(3600),
            wait_timeout: Duration::from_secs(5),
            waiting_max: 100,
            connect_timeout: Duration::from_secs(5),
            application_name_add_host: false,
            statements_max: 100,
        },
        monitor: Monitor {
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(1),
            failures: 3,
            catalog_interval: Duration::from_secs(30),
        },
        routing: Routing {
            consistency: Consistency::Session,
            lag_max: Duration::from_secs(1),
            lag_bytes_max: None,
            balance: Balance::LeastLag,
            on_lag: OnLag::Primary,
            catchup_wait: Duration::ZERO,
            read_functions: vec![],
            write_functions: vec![],
        },
        gate: Gate { hold: Duration::from_secs(10), waiting_max: 100 },
    }
}

/// A program of the server's package, as the user that servers run as. It ends with this process.
fn as_postgres(program: &str) -> Command {
    let path = program_path(program);
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT"]);
    command.arg(path).current_dir("/");
    command
}

fn program_path(program: &str) -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = installed.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    let found = folders.into_iter().rev().map(|folder| folder.join(program)).find(|p| p.exists());
    found.unwrap_or_else(|| PathBuf::from(program))
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout.starts_with(b"0\n")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn append(file: &Path, text: &str) {
    let before = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, before + text).unwrap();
}
