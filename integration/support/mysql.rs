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
