//! Clusters of MySQL and MariaDB.

use super::cache;
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
