//! Clusters of MySQL and MariaDB.

use super::{binary, cache};
use mysql_async::OptsBuilder;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use tiffin::cli::sandbox::proxy::Proxy;
pub use tiffin::cli::sandbox::servers::mysql::{
    Cluster, Engine, Options, Server, Session, client_opts, errno,
};
use tiffin::cli::sandbox::servers::process::free_port;

/// Options for a cluster of this engine: one primary, two replicas.
pub fn options(engine: Engine) -> Options {
    let binaries = (engine == Engine::MySql).then(mysql_9);
    Options { template_cache: cache(), binaries, ..Options::of(engine) }
}

/// One primary, two replicas.
pub fn cluster(engine: Engine) -> Cluster {
    Cluster::start(options(engine)).expect("start the servers")
}

/// A proxy in front of a cluster.
pub struct Fixture {
    pub proxy: Proxy,
    pub cluster: Cluster,
    pub config: Value,
}

impl Fixture {
    pub fn start(engine: Engine) -> Fixture {
        Fixture::with(cluster(engine), |_| {})
    }

    /// `change` is given the configuration before the proxy starts with it.
    pub fn with(cluster: Cluster, change: impl FnOnce(&mut Value)) -> Fixture {
        let mut config = proxy_config(&cluster);
        change(&mut config);
        let proxy = Proxy::start(binary(), &cluster, &config).expect("start the proxy");
        Fixture { proxy, cluster, config }
    }

    /// The application's user, in its schema, through the proxy.
    pub fn opts(&self) -> OptsBuilder {
        client_opts(self.proxy.port, &self.cluster.app).db_name(Some("app"))
    }

    pub fn session(&self) -> Session {
        Session::connect(&self.opts().into()).expect("connect to the proxy")
    }

    /// Where a statement ran that gives `@@port`.
    pub fn ran_on(&self, session: &Session, sql: &str) -> String {
        let port = session.value(sql).unwrap_or_else(|error| panic!("{sql}: {error:#}"));
        let port = port.parse().expect("a port");
        self.cluster.by_port(port).expect("a server of the cluster").name.clone()
    }
}

/// A proxy's configuration for a cluster: its users, everything else as by default.
pub fn proxy_config(cluster: &Cluster) -> Value {
    let port = || free_port().expect("a free port");
    let nodes: serde_json::Map<String, Value> = cluster
        .servers()
        .iter()
        .map(|server| (server.name.clone(), json!(format!("127.0.0.1:{}", server.port))))
        .collect();
    let users = [&cluster.app, &cluster.superuser]
        .map(|login| json!({ "name": login.user, "password": login.password }));
    let service = &cluster.service;
    let engine = match cluster.primary().engine {
        Engine::MySql => "mysql",
        Engine::MariaDb => "mariadb",
    };
    json!({
        "listen": {
            "mysql": [format!("127.0.0.1:{}", port())],
            "http": format!("127.0.0.1:{}", port()),
        },
        "users": users,
        "clusters": { "main": {
            "engine": engine,
            "nodes": nodes,
            "service": { "user": service.user, "password": service.password },
        } },
    })
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
