//! The table of every key: where it stands, what it takes, its default and a sentence.
//!
//! `section.rs` walks a file against it, the tests keep `config.example.yaml` and
//! `docs/configuration.md` equal to it. A new key is one row here and one line in the function
//! of `check.rs`, `users.rs` or `cluster.rs` that builds its struct.

use super::units;
use super::words::words;
use super::{
    AuthMethod, Balance, ClientTlsMode, Engine, LogFormat, OnLag, PoolMode, ServerTlsMode,
};
use crate::sql::Consistency;

/// One key. In `path`, `*` stands for a name or for any item of a list.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Preset,
    pub(super) about: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Holds the keys whose path continues this one's.
    Section,
    /// Names chosen by the user, each with a section.
    Sections,
    /// A list of sections.
    List,
    /// Sections by name, or a list of them.
    Nodes,
    Text,
    Texts,
    /// Names, or names with the server's name of each.
    Databases,
    Flag,
    /// In milliseconds.
    Duration {
        min: u64,
        max: u64,
    },
    /// In bytes.
    Size {
        min: u64,
        max: u64,
    },
    Count {
        min: u64,
        max: u64,
    },
    Choice(fn() -> Vec<&'static str>),
    /// A file that can be read.
    File,
    /// Addresses to listen on, TCP or Unix.
    Listen,
    /// One TCP address to listen on.
    ListenTcp,
    /// A server's address.
    Server,
    /// A secret in the file itself; never printed.
    Secret,
    /// A file that holds a secret; read when the config is loaded.
    SecretFile,
    /// An environment variable that holds a secret.
    SecretEnv,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preset {
    /// As it would be written in the file.
    Is(&'static str),
    /// Written `none`: there is no such thing unless a value is given.
    None,
    /// Left out means: not used. What that leads to is in the sentence.
    Absent,
    Required,
}

use self::Kind::*;
use self::Preset::{Absent, Is, None as Nothing, Required};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// No table or queue of the proxy is meant for more entries than this.
const MANY: u64 = 1_000_000;

const fn key(path: &'static str, kind: Kind, default: Preset, about: &'static str) -> Key {
    Key { path, kind, default, about }
}

pub(super) static KEYS: &[Key] = &[
    key("listen", Section, Absent, "Where clients and operators connect."),
    key(
        "listen.postgres",
        Listen,
        Is(r#"["127.0.0.1:6432"]"#),
        "Addresses for PostgreSQL clients: IP and port, or the folder of a Unix socket as `unix:/run/tiffin` (port 6432 in its name unless given as `unix:/run/tiffin:7432`).",
    ),
    key(
        "listen.http",
        ListenTcp,
        Is("127.0.0.1:9632"),
        "Address of health, metrics and the API; `none` for no HTTP at all.",
    ),
    key(
        "workers",
        Count { min: 1, max: 1024 },
        Is("auto"),
        "Worker threads; `auto` is one for each core.",
    ),
    key("limits", Section, Absent, "Bounds on what clients can take."),
    key(
        "limits.clients_max",
        Count { min: 1, max: MANY },
        Is("20000"),
        "Clients at once over all listeners; one more is refused with 53300.",
    ),
    key(
        "limits.startup_timeout",
        Duration { min: 100, max: HOUR },
        Is("15s"),
        "From the accepted connection to the end of authentication.",
    ),
    key(
        "limits.message_timeout",
        Duration { min: 100, max: HOUR },
        Is("1min"),
        "A client that stops in the middle of a message is closed after this.",
    ),
    key(
        "limits.write_timeout",
        Duration { min: 100, max: DAY },
        Is("1min"),
        "A client that does not read its replies is closed after this.",
    ),
    key(
        "limits.parse_bytes_max",
        Size { min: KIB, max: 16 * MIB },
        Is("64KiB"),
        "Longer statements are not parsed: they go to the primary.",
    ),
    key(
        "limits.auth_delay",
        Duration { min: 0, max: 10 * SECOND },
        Is("200ms"),
        "A wrong password is answered after this.",
    ),
    key(
        "limits.client_statements_max",
        Count { min: 1, max: MANY },
        Is("10000"),
        "Named prepared statements of one client.",
    ),
    key(
        "limits.classify_cache_max",
        Count { min: 16, max: MANY },
        Is("4096"),
        "Classified statements that each worker remembers.",
    ),
    key("tls", Section, Absent, "TLS towards clients."),
    key(
        "tls.mode",
        Choice(words::<ClientTlsMode>),
        Is("disable"),
        "`allow` offers TLS, `require` demands it; `verify-ca` also demands a client certificate that `client_ca` vouches for, `verify-full` one whose common name is the user.",
    ),
    key(
        "tls.certificate",
        File,
        Absent,
        "The proxy's certificate chain (PEM); needed unless `mode` is `disable`.",
    ),
    key("tls.key", File, Absent, "The private key of `certificate` (PEM)."),
    key(
        "tls.client_ca",
        File,
        Absent,
        "Certificates that vouch for clients (PEM); needed for `verify-ca` and `verify-full`.",
    ),
    key("auth", Section, Absent, "How clients prove who they are."),
    key(
        "auth.method",
        Choice(words::<AuthMethod>),
        Is("scram-sha-256"),
        "The method for users that name none of their own. `cert` takes the common name of the client's certificate as the user.",
    ),
    key(
        "auth.query",
        Text,
        Nothing,
        "SQL that gives name and secret of the user `$1` when the file does not know them; run by the service user of the cluster that the client asks for.",
    ),
    key(
        "auth.query_cache",
        Duration { min: 0, max: DAY },
        Is("30s"),
        "How long an answer of `query` is used.",
    ),
    key(
        "users",
        List,
        Absent,
        "Users that the proxy knows by itself, each with one secret as password, SCRAM verifier or md5 hash.",
    ),
    key("users.*.name", Text, Required, "The user's name, as the client and the servers call it."),
    key(
        "users.*.password",
        Secret,
        Absent,
        "The password, in this file. Better `password_file` or `password_env`.",
    ),
    key(
        "users.*.password_file",
        SecretFile,
        Absent,
        "A file that holds the password; a line break at its end is left out.",
    ),
    key(
        "users.*.password_env",
        SecretEnv,
        Absent,
        "The environment variable that holds the password.",
    ),
    key(
        "users.*.scram_verifier",
        Secret,
        Absent,
        "`SCRAM-SHA-256$…` as in `pg_authid.rolpassword`, in this file.",
    ),
    key("users.*.scram_verifier_file", SecretFile, Absent, "A file that holds the SCRAM verifier."),
    key(
        "users.*.scram_verifier_env",
        SecretEnv,
        Absent,
        "The environment variable that holds the SCRAM verifier.",
    ),
    key(
        "users.*.md5_hash",
        Secret,
        Absent,
        "`md5` and 32 hex digits as in `pg_authid.rolpassword`, in this file.",
    ),
    key("users.*.md5_hash_file", SecretFile, Absent, "A file that holds the md5 hash."),
    key(
        "users.*.md5_hash_env",
        SecretEnv,
        Absent,
        "The environment variable that holds the md5 hash.",
    ),
    key(
        "users.*.server_password",
        Secret,
        Absent,
        "What the proxy logs in to the servers with, in this file; left out: what the client's own login gives.",
    ),
    key(
        "users.*.server_password_file",
        SecretFile,
        Absent,
        "A file that holds the server password.",
    ),
    key(
        "users.*.server_password_env",
        SecretEnv,
        Absent,
        "The environment variable that holds the server password.",
    ),
    key(
        "users.*.method",
        Choice(words::<AuthMethod>),
        Absent,
        "The method of this user; left out: `auth.method`.",
    ),
    key(
        "clusters",
        Sections,
        Required,
        "Each a primary with its replicas, under a name of your choice.",
    ),
    key(
        "clusters.*.engine",
        Choice(words::<Engine>),
        Is("postgres"),
        "What kind of server the nodes are.",
    ),
    key(
        "clusters.*.databases",
        Databases,
        Is("[]"),
        "Databases that clients may name here: a list, or a mapping to the servers' names of them. Empty: any. Two clusters never share one.",
    ),
    key(
        "clusters.*.nodes",
        Nodes,
        Required,
        "The servers in any order; which is the primary is found out. A mapping of name to address or settings, or a list of addresses.",
    ),
    key(
        "clusters.*.nodes.*.name",
        Text,
        Absent,
        "In a list of nodes only: the node's name; left out: its address.",
    ),
    key(
        "clusters.*.nodes.*.address",
        Server,
        Required,
        "Host and port as `db1:5432`, or the folder of a Unix socket as `unix:/run/postgresql`. Without a port: 5432.",
    ),
    key("clusters.*.nodes.*.zone", Text, Absent, "Where the node stands, for people and metrics."),
    key("clusters.*.nodes.*.tags", Texts, Is("[]"), "Words of your own for the node."),
    key(
        "clusters.*.nodes.*.weight",
        Count { min: 0, max: 1000 },
        Is("100"),
        "Share of the reads with `balance: weighted`; 0 gets none.",
    ),
    key(
        "clusters.*.service",
        Section,
        Required,
        "The user of probes, catalog and `auth.query`. `tiffin check` says which privileges it lacks.",
    ),
    key("clusters.*.service.user", Text, Required, "The user's name."),
    key(
        "clusters.*.service.password",
        Secret,
        Absent,
        "The password, in this file. Better `password_file` or `password_env`.",
    ),
    key("clusters.*.service.password_file", SecretFile, Absent, "A file that holds the password."),
    key(
        "clusters.*.service.password_env",
        SecretEnv,
        Absent,
        "The environment variable that holds the password.",
    ),
    key(
        "clusters.*.service.database",
        Text,
        Is("postgres"),
        "The database that probes connect to.",
    ),
    key("clusters.*.tls", Section, Absent, "TLS towards the servers."),
    key(
        "clusters.*.tls.mode",
        Choice(words::<ServerTlsMode>),
        Is("prefer"),
        "As libpq's sslmode: `verify-ca` checks the server's certificate against `ca`, `verify-full` its host name too.",
    ),
    key(
        "clusters.*.tls.ca",
        File,
        Absent,
        "Certificates that vouch for the servers (PEM); needed for `verify-ca` and `verify-full`.",
    ),
    key(
        "clusters.*.tls.certificate",
        File,
        Absent,
        "Certificate that the proxy shows to the servers (PEM).",
    ),
    key("clusters.*.tls.key", File, Absent, "The private key of `certificate` (PEM)."),
    key(
        "clusters.*.tls.direct",
        Flag,
        Is("false"),
        "Start with TLS at once, without asking first (PostgreSQL 17 and later).",
    ),
    key("clusters.*.pool", Section, Absent, "Server connections."),
    key(
        "clusters.*.pool.mode",
        Choice(words::<PoolMode>),
        Is("transaction"),
        "`transaction` gives a connection back after each transaction, `session` when the client leaves.",
    ),
    key(
        "clusters.*.pool.size_max",
        Count { min: 1, max: 10_000 },
        Is("20"),
        "Server connections per node, user and database, over all workers.",
    ),
    key(
        "clusters.*.pool.idle_min",
        Count { min: 0, max: 10_000 },
        Is("0"),
        "Connections kept open once the pool has been used.",
    ),
    key(
        "clusters.*.pool.idle_timeout",
        Duration { min: SECOND, max: 30 * DAY },
        Is("10min"),
        "An idle connection beyond `idle_min` is closed after this.",
    ),
    key(
        "clusters.*.pool.lifetime_max",
        Duration { min: SECOND, max: 30 * DAY },
        Is("1h"),
        "A connection is closed at its first idle moment after this, less up to a tenth by chance.",
    ),
    key(
        "clusters.*.pool.wait_timeout",
        Duration { min: 1, max: HOUR },
        Is("5s"),
        "How long a request waits for a connection before it fails with 53300.",
    ),
    key(
        "clusters.*.pool.waiting_max",
        Count { min: 0, max: MANY },
        Is("10000"),
        "Requests that wait at once for one pool; one more fails with 53300.",
    ),
    key(
        "clusters.*.pool.connect_timeout",
        Duration { min: 10, max: 10 * MINUTE },
        Is("5s"),
        "For connecting, TLS and authentication together.",
    ),
    key(
        "clusters.*.pool.statements_max",
        Count { min: 1, max: 100_000 },
        Is("500"),
        "Prepared statements on one server connection; the least recently used is closed.",
    ),
    key("clusters.*.monitor", Section, Absent, "How the nodes are watched."),
    key(
        "clusters.*.monitor.interval",
        Duration { min: 10, max: MINUTE },
        Is("100ms"),
        "Each node is asked for its role, position and health this often. Lag is known no finer.",
    ),
    key(
        "clusters.*.monitor.timeout",
        Duration { min: 10, max: MINUTE },
        Is("1s"),
        "A probe without an answer after this has failed.",
    ),
    key(
        "clusters.*.monitor.failures",
        Count { min: 1, max: 1000 },
        Is("3"),
        "Failed probes in a row that make a node unhealthy.",
    ),
    key(
        "clusters.*.monitor.catalog_interval",
        Duration { min: SECOND, max: DAY },
        Is("30s"),
        "What is known of tables and functions is read anew this often, and after DDL through the proxy.",
    ),
    key("clusters.*.routing", Section, Absent, "Which node a read goes to."),
    key(
        "clusters.*.routing.consistency",
        Choice(words::<Consistency>),
        Is("session"),
        "`eventual`: any healthy replica. `bounded`: one within `max_lag`. `session`: also one that shows this session its own writes and nothing older than it has read. `strong`: the primary.",
    ),
    key(
        "clusters.*.routing.max_lag",
        Duration { min: 1, max: DAY },
        Is("1s"),
        "A replica that is further behind leaves the read set; it returns below 0.7 of this.",
    ),
    key(
        "clusters.*.routing.max_lag_bytes",
        Size { min: 1, max: 1 << 50 },
        Nothing,
        "The same as a distance in bytes of write-ahead log.",
    ),
    key(
        "clusters.*.routing.balance",
        Choice(words::<Balance>),
        Is("least_lag"),
        "How one of the replicas that qualify is chosen.",
    ),
    key(
        "clusters.*.routing.on_lag",
        Choice(words::<OnLag>),
        Is("primary"),
        "What happens to a read for which no replica qualifies: it goes to the `primary`, waits up to `pool.wait_timeout` (`wait`), fails (`error`), or takes the least lagging replica (`stale`).",
    ),
    key(
        "clusters.*.routing.catchup_wait",
        Duration { min: 0, max: MINUTE },
        Is("0"),
        "How long a read waits for a replica to catch up before `on_lag` decides.",
    ),
    key(
        "clusters.*.routing.read_functions",
        Texts,
        Is("[]"),
        "Functions that may run on a replica whatever the catalog says of them.",
    ),
    key(
        "clusters.*.routing.write_functions",
        Texts,
        Is("[]"),
        "Functions that always go to the primary whatever the catalog says of them.",
    ),
    key(
        "clusters.*.gate",
        Section,
        Absent,
        "What holds requests that need a primary while there is none.",
    ),
    key(
        "clusters.*.gate.hold",
        Duration { min: 0, max: HOUR },
        Is("10s"),
        "How long such a request waits before it fails with 57P03.",
    ),
    key(
        "clusters.*.gate.waiting_max",
        Count { min: 0, max: MANY },
        Is("10000"),
        "Requests that wait there at once; one more fails with 53300.",
    ),
    key("log", Section, Absent, "What the proxy tells about itself, on standard error."),
    key("log.format", Choice(words::<LogFormat>), Is("text"), "`json` writes one object per line."),
    key(
        "log.level",
        Text,
        Is("info"),
        "`error`, `warn`, `info`, `debug`, `trace`, also per module as `info,tiffin::pool=debug`. The variable RUST_LOG overrides it.",
    ),
    key("shutdown", Section, Absent, "How the proxy ends."),
    key(
        "shutdown.drain_timeout",
        Duration { min: 0, max: DAY },
        Is("30s"),
        "How long SIGTERM lets running transactions end.",
    ),
];

/// The row of a path with `*` for names.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The keys that may stand directly in the section at `path` (empty: the top level).
pub(super) fn children(path: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.parent() == path && key.name() != "*")
}

/// A path of the table with what `*` stands for.
pub(super) fn for_people(path: &str) -> String {
    path.replace("users.*", "users[]").replace(".*", ".<name>")
}

impl Key {
    /// The last word of the path.
    pub(super) fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// Path of the section that this key stands in; empty at the top level.
    pub(super) fn parent(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(parent, _)| parent)
    }

    /// What may stand there, as the rest of "must be …".
    pub(super) fn allowed(&self) -> String {
        let base = self.kind.allowed();
        match self.default {
            Nothing => format!("{base}, or `none`"),
            _ if self.path == "workers" => format!("{base}, or `auto`"),
            _ if matches!(self.kind, ListenTcp) => format!("{base}, or `none`"),
            _ => base,
        }
    }
}

impl Kind {
    pub(super) fn allowed(self) -> String {
        match self {
            Section => "a mapping of keys to values".to_owned(),
            Sections => "a mapping of names to settings".to_owned(),
            List => "a list".to_owned(),
            Nodes => "a mapping of names to addresses, or a list of addresses".to_owned(),
            Text | Secret => "a text".to_owned(),
            Texts => "a list of texts".to_owned(),
            Databases => "a list of names, or a mapping of names to the servers' names".to_owned(),
            Flag => "`true` or `false`".to_owned(),
            Duration { min, max } => format!(
                "a duration from {} to {}",
                units::write_duration(std::time::Duration::from_millis(min)),
                units::write_duration(std::time::Duration::from_millis(max))
            ),
            Size { min, max } => {
                format!("a size from {} to {}", units::write_size(min), units::write_size(max))
            }
            Count { min, max } => format!("a whole number from {min} to {max}"),
            Choice(words) => one_of(&words()),
            File | SecretFile => "the name of a file".to_owned(),
            Listen => "a list of addresses to listen on".to_owned(),
            ListenTcp => "an IP address and a port as `127.0.0.1:9632`".to_owned(),
            Server => "a host and a port as `db1:5432`".to_owned(),
            SecretEnv => "the name of an environment variable".to_owned(),
        }
    }
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
