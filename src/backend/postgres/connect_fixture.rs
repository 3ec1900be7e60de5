//! For the tests of a connection's start: a real server for each way to log in.

use crate::cli::sandbox::servers::{Cluster, Options, Tls};
use crate::config::Address;
use crate::config::tls_fixture::Certificates;
use std::fs;
use std::time::Duration;

/// Long enough for a loaded machine; nothing waits for it when all goes well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Who may log in how. `pw` is every password. The superuser comes in by the Unix socket as well.
const HBA: &str = "\
host    all postgres    127.0.0.1/32   trust
host    all trust_user  127.0.0.1/32   trust
host    all clear_user  127.0.0.1/32   password
host    all md5_user    127.0.0.1/32   md5
host    all scram_user  127.0.0.1/32   scram-sha-256
hostssl all tls_user    127.0.0.1/32   scram-sha-256
hostssl all alice       127.0.0.1/32   cert";

const ROLES: &str = "\
CREATE ROLE trust_user LOGIN;
CREATE ROLE clear_user LOGIN PASSWORD 'pw';
CREATE ROLE scram_user LOGIN PASSWORD 'pw';
CREATE ROLE tls_user LOGIN PASSWORD 'pw';
CREATE ROLE alice LOGIN;
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN PASSWORD 'pw';";

/// A PostgreSQL server of its own; gone with the value.
pub(crate) struct Server {
    cluster: Cluster,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start(certificates: &Certificates) -> Server {
        let read = |file: &str| fs::read_to_string(certificates.path(file)).unwrap();
        let tls = Tls {
            certificate: read("server.crt"),
            key: read("server.key"),
            client_ca: Some(read("ca.crt")),
        };
        let options = Options {
            replicas: 0,
            hba: HBA.lines().map(str::to_owned).collect(),
            tls: Some(tls),
            init_sql: vec![ROLES.into()],
            ..Options::default()
        };
        let cluster = Cluster::start(options).unwrap();
        Server { port: cluster.primary().port, cluster }
    }

    pub(crate) fn tcp(&self) -> Address {
        Address::Tcp { host: "127.0.0.1".into(), port: self.port }
    }

    pub(crate) fn unix(&self) -> Address {
        let folder = self.cluster.primary().socket_dir.clone();
        Address::Unix { folder, port: self.port }
    }

    /// Whether it is of this major version or a later one.
    pub(crate) fn is_version(&self, major: u32) -> bool {
        let number: u32 = self.run("SHOW server_version_num").parse().unwrap();
        number / 10_000 >= major
    }

    /// Runs SQL as the superuser and gives the first value, if there is one.
    pub(crate) fn run(&self, sql: &str) -> String {
        let rows = self.cluster.primary().query(sql).unwrap();
        let first = rows.into_iter().next().and_then(|row| row.into_iter().next());
        first.flatten().unwrap_or_default()
    }
}
