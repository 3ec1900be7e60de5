//! Connections of the service user that the monitor keeps: probes and the catalog.
//!
//! One function makes the pools, so that time limits and settings of these connections are the
//! same everywhere. Client traffic never runs here.

use crate::backend::postgres::connect_control::{ControlTls, control_config};
use crate::config::tls::ServerTlsConnector;
use crate::config::{Cluster, NodeConfig};
use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, RecyclingMethod};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};

/// Connections of one service pool: the one in use, and one for who comes beside it.
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
    tls: &Arc<ServerTlsConnector>,
    closed: Option<Arc<Notify>>,
) -> Pool {
    let timeout = cluster.pool.connect_timeout;
    let mut config =
        control_config(&node.address, &cluster.service, tls, APPLICATION_NAME, timeout);
    config.dbname(database).options(SERVICE_OPTIONS).keepalives_idle(KEEPALIVE_IDLE);
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let connect = ServiceConnect { tls: tls.clone(), closed };
    let manager = Manager::from_connect(config, connect, manager_config);
    // No time limits inside the pool: each caller bounds its whole errand.
    let builder = Pool::builder(manager).max_size(POOL_SIZE_MAX);
    builder.build().expect("a pool without time limits needs no runtime")
}

struct ServiceConnect {
    tls: Arc<ServerTlsConnector>,
    closed: Option<Arc<Notify>>,
}

type Connected = Result<(Client, JoinHandle<()>), tokio_postgres::Error>;

impl Connect for ServiceConnect {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move {
            // The certificates that are in force now, not those of when the pool was made.
            let (client, connection) = config.connect(ControlTls::new(&self.tls)).await?;
            Ok((client, drive(connection, self.closed.clone())))
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
