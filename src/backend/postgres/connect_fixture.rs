//! For the tests of a connection's start: a real server for each way to log in.

use super::auth::ServerSecret;
use super::connect::{Target, connect};
use crate::config::Address;
use crate::config::tls::ServerTlsConnector;
use crate::config::tls_fixture::Certificates;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Long enough for a loaded machine; nothing waits for it when all goes well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Who may log in how. `pw` is every password.
const HBA: &str = "
local   all all                        trust
host    all postgres    127.0.0.1/32   trust
host    all trust_user  127.0.0.1/32   trust
host    all clear_user  127.0.0.1/32   password
host    all md5_user    127.0.0.1/32   md5
host    all scram_user  127.0.0.1/32   scram-sha-256
hostssl all tls_user    127.0.0.1/32   scram-sha-256
hostssl all alice       127.0.0.1/32   cert
";

const ROLES: &str = "
CREATE ROLE trust_user LOGIN;
CREATE ROLE clear_user LOGIN PASSWORD 'pw';
CREATE ROLE scram_user LOGIN PASSWORD 'pw';
CREATE ROLE tls_user LOGIN PASSWORD 'pw';
CREATE ROLE alice LOGIN;
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN PASSWORD 'pw';
";

/// A PostgreSQL server of its own; gone with the value, and with the thread that made it.
pub(crate) struct Server {
    process: Child,
    folder: TempDir,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) async fn start(certificates: &Certificates) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        owned_by_server(folder.path());
        let initdb = as_server("initdb")
            .args(["-U", "postgres", "-A", "trust", "-N", "--no-locale", "-E", "UTF8", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
        fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        for file in ["server.crt", "server.key", "ca.crt"] {
            let copy = data.join(file);
            fs::copy(certificates.path(file), &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
            owned_by_server(&copy);
        }
        // In the file, not on the command line, so that a test can change it.
        let settings = "ssl = on\nssl_ca_file = 'ca.crt'\nfsync = off\nmax_connections = 20\n";
        fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
        let port = free_port();
        let process = as_server("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-p", &port.to_string(), "-h", "127.0.0.1"])
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let server = Server { process, folder, port };
        server.wait().await;
        server.run(ROLES);
        server
    }

    pub(crate) fn tcp(&self) -> Address {
        Address::Tcp { host: "127.0.0.1".into(), port: self.port }
    }

    pub(crate) fn unix(&self) -> Address {
        Address::Unix { folder: self.folder.path().to_owned(), port: self.port }
    }

    /// Runs SQL as the superuser and gives what it prints, unaligned.
    pub(crate) fn run(&self, sql: &str) -> String {
        let output = Command::new(format!("{BIN}/psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"])
            .arg(self.folder.path())
            .args(["-p", &self.port.to_string(), "-c", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Until the server lets somebody in.
    async fn wait(&self) {
        let started = Instant::now();
        let address = self.unix();
        let target = Target {
            address: &address,
            tls: &ServerTlsConnector::disabled(),
            user: "postgres",
            database: "postgres",
            secret: &ServerSecret::None,
            parameters: &[],
            timeout: PATIENCE,
        };
        while let Err(error) = connect(&target).await {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(started.elapsed() < PATIENCE, "{error}\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A program of PostgreSQL, which refuses to run as root.
fn as_server(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(format!("{BIN}/{program}")).env("LC_ALL", "C").current_dir("/");
    command
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}

fn owned_by_server(path: &Path) {
    if is_root() {
        let id = |flag| {
            let output = Command::new("id").args([flag, "postgres"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse().ok()
        };
        chown(path, id("-u"), id("-g")).unwrap();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
