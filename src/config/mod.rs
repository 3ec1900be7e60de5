//! The checked configuration: what the rest of the program is given.
//!
//! `schema.rs` is the table of every key, `file.rs` the YAML as a tree, `section.rs` the walk of
//! one against the other, and `check.rs` (with `users.rs` and `cluster.rs`) makes a [`Config`] of
//! it, or tells every problem at once. A [`Config`] that exists is valid; it is passed as an
//! argument and nothing reads a global. Start with [`Config::load`].

mod check;
mod cluster;
mod failover;
mod file;
#[cfg(test)]
pub(crate) mod fixture;
mod keys;
mod problem;
mod reference;
mod remote;
mod schema;
mod secret;
mod section;
#[cfg(test)]
mod tests;
mod units;
mod users;
mod values;
mod words;

pub use check::Loaded;
pub use cluster::NODES_MAX;
pub use problem::{Problem, Problems};
pub use reference::{example, reference};
pub use remote::{HttpAddress, LeaseTerms, Patroni, Remote};
pub use words::Word;

pub mod tls;
#[cfg(test)]
pub(crate) mod tls_fixture;
mod tls_verify;

use crate::sql::Consistency;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Listen,
    /// What changes by HTTP must be asked with; `None`: nobody may.
    pub api_token: Option<SecretString>,
    /// Worker threads, each with a runtime of its own.
    pub workers: usize,
    pub limits: Limits,
    pub client_tls: ClientTls,
    pub auth: Auth,
    pub users: Vec<User>,
    pub clusters: Vec<Arc<Cluster>>,
    pub log: Log,
    pub shutdown: Shutdown,
}

#[derive(Debug, Clone)]
pub struct Listen {
    /// Empty where no cluster has the engine; so below.
    pub postgres: Vec<ListenAddress>,
    /// For MySQL and MariaDB.
    pub mysql: Vec<ListenAddress>,
    /// Health, metrics and the API.
    pub http: Option<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    /// The socket's path.
    Unix(PathBuf),
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Clients at once over all listeners; one more is refused with 53300.
    pub clients_max: usize,
    /// From accept to the end of authentication.
    pub startup_timeout: Duration,
    /// A client that stops in the middle of a message is closed after this.
    pub message_timeout: Duration,
    /// A client that does not read its replies is closed after this.
    pub write_timeout: Duration,
    /// Longer statements are not parsed: they go to the primary.
    pub parse_bytes_max: usize,
    /// A wrong password is answered after this.
    pub auth_delay: Duration,
    /// Named prepared statements of one client.
    pub client_statements_max: usize,
    pub client_portals_max: usize,
    pub client_messages_max: usize,
    /// Classified texts remembered by one worker.
    pub classify_cache_max: usize,
}

/// TLS towards clients.
#[derive(Debug, Clone)]
pub struct ClientTls {
    pub mode: ClientTlsMode,
    /// PEM files; present unless `mode` is `Disable`.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Client certificates are verified against this.
    pub client_ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientTlsMode {
    Disable,
    /// Offered, not demanded.
    Allow,
    Require,
    /// Required, and the client must show a certificate that `client_ca` vouches for.
    VerifyCa,
    /// As `VerifyCa`, and its common name must be the user's name.
    VerifyFull,
}

#[derive(Debug, Clone)]
pub struct Auth {
    pub method: AuthMethod,
    /// `SELECT user, secret …` with `$1` as the user's name, run by the service user on the
    /// cluster that the client asks for; `None`: only the users of the file.
    pub query: Option<String>,
    /// Whether the accounts of MySQL and MariaDB servers are looked up.
    pub accounts: bool,
    /// How long an answer of `query` or of the accounts is used.
    pub query_cache: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    ScramSha256,
    Md5,
    /// Clear text; only sensible over TLS.
    Password,
    Trust,
    /// The client certificate's common name is the user.
    Cert,
}

#[derive(Debug, Clone)]
pub struct User {
    pub name: Arc<str>,
    /// `None`: may not log in unless the method needs no secret.
    pub secret: Option<Secret>,
    /// What the proxy logs in to the servers with; `None`: what the client's login gave.
    pub server_password: Option<SecretString>,
    /// Overrides `Auth::method`.
    pub method: Option<AuthMethod>,
}

/// What the proxy knows of a user's password.
#[derive(Debug, Clone)]
pub enum Secret {
    Password(SecretString),
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` as in `pg_authid`.
    ScramVerifier(SecretString),
    /// `md5<32 hex digits>` as in `pg_authid`.
    Md5(SecretString),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Postgres,
    Mysql,
    Mariadb,
}

impl Engine {
    /// Whether clients and servers speak MySQL's protocol.
    pub fn speaks_mysql(self) -> bool {
        matches!(self, Engine::Mysql | Engine::Mariadb)
    }

    /// By whose rules SQL is read, if not by PostgreSQL's.
    pub fn mysql(self) -> Option<crate::sql::mysql::Engine> {
        match self {
            Engine::Postgres => None,
            Engine::Mysql => Some(crate::sql::mysql::Engine::MySql),
            Engine::Mariadb => Some(crate::sql::mysql::Engine::MariaDb),
        }
    }

    /// The port of a node whose address names none.
    fn server_port(self) -> u16 {
        if self.speaks_mysql() { 3306 } else { 5432 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub name: Arc<str>,
    pub engine: Engine,
    /// Databases that clients may name here, and the server's name of each; empty: any, as named.
    pub databases: BTreeMap<String, String>,
    /// Empty where Patroni tells them, until it has.
    pub nodes: Vec<NodeConfig>,
    /// `None`: the file names the nodes.
    pub patroni: Option<Patroni>,
    pub service: Service,
    pub server_tls: ServerTls,
    pub pool: Pool,
    pub monitor: Monitor,
    pub routing: Routing,
    pub gate: Gate,
    pub failover: Failover,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    pub name: Arc<str>,
    pub address: Address,
    pub zone: Option<Arc<str>>,
    pub tags: Vec<String>,
    /// For `balance: weighted`; 0 gets no reads.
    pub weight: u32,
    /// Of equally advanced replicas the highest is promoted; 0 never is.
    pub priority: u32,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp {
        host: String,
        port: u16,
    },
    /// Folder and port of a Unix socket.
    Unix {
        folder: PathBuf,
        port: u16,
    },
}

/// A user of the proxy's own: that of probes, catalog and `auth.query`, and those of a failover.
#[derive(Debug, Clone)]
pub struct Service {
    pub user: String,
    pub password: Option<SecretString>,
    /// Empty for MySQL and MariaDB, where a session needs none.
    pub database: String,
}

/// TLS towards servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    pub mode: ServerTlsMode,
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Start with TLS at once, ALPN `postgresql` (PostgreSQL 17 and later).
    pub direct: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerTlsMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    Transaction,
    Session,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub mode: PoolMode,
    /// Server connections per node, user and database, over all workers.
    pub size_max: usize,
    /// Kept open once the pool has been used.
    pub idle_min: usize,
    /// An idle connection beyond `idle_min` is closed after this.
    pub idle_timeout: Duration,
    /// A connection is closed at its first idle moment after this, less a jitter of up to a tenth.
    pub lifetime_max: Duration,
    /// How long a request waits for a connection (53300).
    pub wait_timeout: Duration,
    /// Requests that wait at once, per pool (53300).
    pub waiting_max: usize,
    /// TCP, TLS and authentication together.
    pub connect_timeout: Duration,
    /// Adds the client's address to the `application_name` that servers see.
    pub application_name_add_host: bool,
    /// Prepared statements on one server connection; the least recently used is closed.
    pub statements_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    pub interval: Duration,
    /// A probe without an answer after this has failed.
    pub timeout: Duration,
    /// Failed probes in a row that make a node unhealthy.
    pub failures: u32,
    /// The catalog is loaded again this often.
    pub catalog_interval: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    pub consistency: Consistency,
    pub lag_max: Duration,
    pub lag_bytes_max: Option<u64>,
    pub balance: Balance,
    pub on_lag: OnLag,
    /// How long a read waits for a replica to catch up before the primary is taken.
    pub catchup_wait: Duration,
    /// Functions that are safe on a replica whatever the catalog says.
    pub read_functions: Vec<String>,
    /// Functions that go to the primary whatever the catalog says.
    pub write_functions: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    LeastLag,
    LeastConnections,
    Latency,
    Weighted,
}

/// What happens to a read for which no replica qualifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLag {
    Primary,
    /// Wait up to `wait_timeout` of the pool, then an error.
    Wait,
    Error,
    /// The least lagging healthy replica, however old.
    Stale,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// How long a request that needs a primary waits while there is none (57P03 after it).
    pub hold: Duration,
    /// Requests that wait at once; one more is refused (53300).
    pub waiting_max: usize,
}

/// What is done when the primary is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    pub mode: FailoverMode,
    /// Who promotes and re-points servers: `service` unless another user is given.
    pub login: Service,
    /// As whom servers of MySQL and MariaDB receive from a new primary; `None`: as before.
    pub replication: Option<Service>,
    /// How long a primary must have been lost.
    pub confirm: Duration,
    /// How long a primary must have been silent that replicas are still connected to.
    pub timeout: Duration,
    pub quorum: Quorum,
    /// `None`: no other proxy changes this cluster's primary.
    pub lease: Option<LeaseTerms>,
    /// What became of a commit under way on a lost primary is found out on the new one.
    pub resolve_commits: bool,
    /// Open transactions whose primary is lost run again on the new one.
    pub replay: Option<Replay>,
    pub step_timeout: Duration,
    /// Between two attempts to promote.
    pub retry: Duration,
    pub fence_command: Option<String>,
    pub rejoin_command: Option<String>,
    pub command_timeout: Duration,
}

/// Which open transactions can run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    pub statements_max: usize,
    pub bytes_max: usize,
    pub time_max: Duration,
}

/// Who tells which nodes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// The file.
    Static,
    Patroni,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quorum {
    Off,
    /// While half of the nodes or less answer, none is the primary.
    Majority,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    Off,
    On,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordination {
    None,
    Etcd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverMode {
    Observe,
    Promote,
}

#[derive(Debug, Clone)]
pub struct Log {
    pub format: LogFormat,
    /// As `tracing_subscriber::EnvFilter` reads it: `info`, `tiffin=debug,warn`.
    pub level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone)]
pub struct Shutdown {
    /// How long SIGTERM lets running transactions end.
    pub drain_timeout: Duration,
}

impl PartialEq for Service {
    /// Whether a reload changes it; nobody measures how long that takes.
    fn eq(&self, other: &Service) -> bool {
        let same_password = match (&self.password, &other.password) {
            (Some(one), Some(two)) => one.expose_secret() == two.expose_secret(),
            (one, two) => one.is_none() && two.is_none(),
        };
        same_password && self.user == other.user && self.database == other.database
    }
}

impl Eq for Service {}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix { folder, port } => {
                write!(f, "{}/.s.PGSQL.{port}", folder.display())
            }
        }
    }
}
