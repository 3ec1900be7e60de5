//! Clusters of MySQL and MariaDB.

use super::{Proxy, Stage, binary, cache, proxy};
use mysql_async::OptsBuilder;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
pub use tiffin::cli::sandbox::servers::mysql::{
    Cluster, Engine, Options, Server, Session, client_opts, errno,
};

/// Options for a cluster of this engine: one primary, two replicas.
pub fn options(engine: Engine) -> Options {
    let binaries = (engine == Engine::MySql).then(mysql_9);
    Options { template_cache: cache(), binaries, ..Options::of(engine) }
}

/// One primary, two replicas.
pub fn cluster(engine: Engine) -> Cluster {
    Cluster::start(options(engine)).expect("start the servers")
}

/// Semi-synchronous replication: a write is acknowledged, and visible, when a replica has it, and
/// never without. [`confirm_writes`] begins it.
const MYSQL_CONFIRMS: &[(&str, &str)] = &[
    ("plugin_load_add", "semisync_source.so"),
    ("plugin_load_add", "semisync_replica.so"),
    ("rpl_semi_sync_replica_enabled", "ON"),
    ("rpl_semi_sync_source_timeout", "3600000"),
];
const MARIADB_CONFIRMS: &[(&str, &str)] = &[
    ("rpl_semi_sync_slave_enabled", "ON"),
    ("rpl_semi_sync_master_wait_point", "AFTER_SYNC"),
    ("rpl_semi_sync_master_timeout", "3600000"),
    // A receiver that is stopped ends its connection on a frozen primary, too, and waits for that.
    ("rpl_semi_sync_slave_kill_conn_timeout", "1"),
];

/// As docs/failover.md has it; the password, too.
pub const MYSQL_PRIVILEGES: &str = "\
CREATE USER tiffin_failover IDENTIFIED BY '…';
GRANT RELOAD, PROCESS, REPLICATION CLIENT ON *.* TO tiffin_failover;
GRANT SYSTEM_VARIABLES_ADMIN, REPLICATION_SLAVE_ADMIN, CONNECTION_ADMIN ON *.* TO tiffin_failover;
GRANT SYSTEM_USER ON *.* TO tiffin_failover;
";
pub const MARIADB_PRIVILEGES: &str = "\
CREATE USER tiffin_failover IDENTIFIED BY '…';
GRANT RELOAD, PROCESS, SLAVE MONITOR ON *.* TO tiffin_failover;
GRANT REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN ON *.* TO tiffin_failover;
GRANT READ_ONLY ADMIN, CONNECTION ADMIN ON *.* TO tiffin_failover;
";

/// Options for a cluster in which replicas confirm each write, with a user who may promote.
pub fn confirming(engine: Engine) -> Options {
    let (settings, privileges) = match engine {
        Engine::MySql => (MYSQL_CONFIRMS, MYSQL_PRIVILEGES),
        Engine::MariaDb => (MARIADB_CONFIRMS, MARIADB_PRIVILEGES),
    };
    let mut options = options(engine);
    let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    options.settings.extend(settings);
    options.init_sql.extend(privileges.lines().map(str::to_owned));
    options.settings.push(("local_infile".into(), "ON".into()));
    options.preload = Some(super::slow_disk::library());
    if engine == Engine::MySql {
        options.init_sql.push("GRANT XA_RECOVER_ADMIN ON *.* TO app".into());
    }
    options
}

/// From now on this primary's writes wait for a replica. Before there is one they would wait for
/// ever, and so would what a replica applies.
pub fn confirm_writes(server: &Server) {
    let name = match server.engine {
        Engine::MySql => "rpl_semi_sync_source_enabled",
        Engine::MariaDb => "rpl_semi_sync_master_enabled",
    };
    server.execute(&format!("SET GLOBAL {name} = ON")).expect("semi-synchronous replication");
}

/// Whether this primary's writes wait for one of two replicas.
pub fn are_writes_confirmed(primary: &Server) -> bool {
    let status = "SHOW STATUS LIKE 'rpl_semi_sync_%'";
    let rows = primary.query(status).unwrap_or_default();
    let is = |name: &str, value: &str| {
        rows.iter().any(|row| match row.as_slice() {
            [Some(key), Some(word)] => key.ends_with(name) && word == value,
            _ => false,
        })
    };
    is("_clients", "2") && (is("_source_status", "ON") || is("_master_status", "ON"))
}

/// A cluster of MySQL or MariaDB and the proxy in front of it.
pub type Fixture = Stage<Server>;

impl Fixture {
    pub fn start(engine: Engine) -> Fixture {
        Fixture::with(cluster(engine), |_| {})
    }

    /// `change` is given the configuration before the proxy starts with it.
    pub fn with(cluster: Cluster, change: impl FnOnce(&mut Value)) -> Fixture {
        let mut config = proxy_config(&cluster);
        change(&mut config);
        let proxy = Proxy::start(binary(), &cluster, &config).expect("start the proxy");
        Stage { proxy, cluster, config }
    }

    /// The application's user, in its schema, through the proxy.
    pub fn opts(&self) -> OptsBuilder {
        client_opts(self.proxy.port, &self.cluster.app)
    }
}

/// A proxy's configuration for a cluster: its users, everything else as by default.
pub fn proxy_config(cluster: &Cluster) -> Value {
    proxy::mysql_config(cluster, 0).expect("free ports")
}

/// The folder of MySQL 9's server; whatever MySQL else is installed.
pub fn mysql_9() -> PathBuf {
    super::versions::unpacked("mysql-9.sh").join("usr/sbin")
}

/// The folder of MariaDB 11's server, which has plugins that 10.11's core does not.
pub fn mariadb_11() -> PathBuf {
    super::versions::unpacked("mariadb-11.sh").join("usr/sbin")
}

/// Runs tests of a file with each engine, as `mysql::name` and `mariadb::name`; the functions
/// take the engine.
macro_rules! on_mysql_and_mariadb {
    ($($name:ident),+ $(,)?) => {
        mod mysql {
            $(
                #[test]
                fn $name() {
                    super::$name(crate::support::mysql::Engine::MySql);
                }
            )+
        }
        mod mariadb {
            $(
                #[test]
                fn $name() {
                    super::$name(crate::support::mysql::Engine::MariaDb);
                }
            )+
        }
    };
}
pub(crate) use on_mysql_and_mariadb;
