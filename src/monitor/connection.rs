//! Connections of the service user: probes, catalog and everything else that is not relay.
//!
//! One function makes the pools, so that TLS, time limits and the settings of these connections
//! are the same everywhere. Client traffic never runs here.

use super::tls::ServiceTls;
use crate::config::{Address, Cluster, NodeConfig};
use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, RecyclingMethod};
use secrecy::ExposeSecret;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::{Client, Config, NoTls};

/// Connections of one service pool: the probe's, and one for who comes beside it.
const POOL_SIZE_MAX: usize = 2;
/// A peer that vanished without a word is noticed after this, also between probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Settings of every service connection. The path is fixed so that nobody's function of the same
/// name is called.
const SERVICE_OPTIONS: &str = "-c search_path=pg_catalog -c client_min_messages=warning";

/// What these connections call themselves in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "tiffin monitor";

/// A pool of service connections to one database of one node. It opens nothing before its first
/// use. `closed` is notified when a connection ends by itself.
pub fn service_pool(
    cluster: &Cluster,
    node: &NodeConfig,
    database: &str,
    tls: &ServiceTls,
    closed: Option<Arc<Notify>>,
) -> Pool {
    let config = service_config(cluster, node, database, tls);
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let connect = ServiceConnect { tls: tls.clone(), closed };
    let manager = Manager::from_connect(config, connect, manager_config);
    // No time limits inside the pool: each caller bounds its whole errand.
    let builder = Pool::builder(manager).max_size(POOL_SIZE_MAX);
    builder.build().expect("a pool without time limits needs no runtime")
}

fn service_config(
    cluster: &Cluster,
    node: &NodeConfig,
    database: &str,
    tls: &ServiceTls,
) -> Config {
    let mut config = Config::new();
    match &node.address {
        Address::Tcp { host, port } => config.host(host).port(*port),
        Address::Unix { folder, port } => config.host_path(folder).port(*port),
    };
    config
        .user(&cluster.service.user)
        .dbname(database)
        .application_name(APPLICATION_NAME)
        .options(SERVICE_OPTIONS)
        .connect_timeout(cluster.pool.connect_timeout)
        .keepalives_idle(KEEPALIVE_IDLE);
    if let Some(password) = &cluster.service.password {
        config.password(password.expose_secret());
    }
    let local = matches!(node.address, Address::Unix { .. });
    config.ssl_mode(match tls {
        _ if local => SslMode::Disable,
        ServiceTls::Off => SslMode::Disable,
        ServiceTls::Prefer(_) => SslMode::Prefer,
        ServiceTls::Require(_) => SslMode::Require,
    });
    if cluster.server_tls.direct && !local && !matches!(tls, ServiceTls::Off) {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    config
}

struct ServiceConnect {
    tls: ServiceTls,
    closed: Option<Arc<Notify>>,
}

type Connected = Result<(Client, JoinHandle<()>), tokio_postgres::Error>;

impl Connect for ServiceConnect {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move {
            match self.tls.connector() {
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    Ok((client, drive(connection, self.closed.clone())))
                }
                Some(connector) => {
                    let (client, connection) = config.connect(connector).await?;
                    Ok((client, drive(connection, self.closed.clone())))
                }
            }
        })
    }
}

/// Runs the connection until it ends. The error is not logged here: whoever uses the client gets
/// it.
fn drive<F>(connection: F, closed: Option<Arc<Notify>>) -> JoinHandle<()>
where
    F: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        let _ = connection.await;
        if let Some(closed) = closed {
            closed.notify_one();
        }
    })
}
