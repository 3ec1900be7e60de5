//! Replication connections: handed through to the primary as they are, outside of all pools.

use super::startup::Accepted;
use super::welcome::cancel_key;
use crate::backend::postgres::connect::{Target, connect};
use crate::backend::stream::Stream;
use crate::frontend::cluster::ClusterHandle;
use crate::protocol::postgres::error::Report;
use crate::protocol::postgres::reply::{Status, put_backend_key, put_parameter_status, put_ready};
use tokio::io::{AsyncWriteExt, copy_bidirectional};

/// Connects to the primary as the client asked, and copies bytes until one side is done.
pub async fn relay(mut accepted: Accepted, cluster: &ClusterHandle, database: &str) {
    let snapshot = cluster.topology.load_full();
    let Some(primary) = snapshot.primary else {
        let report = Report::fatal("57P03", "there is no primary to replicate from");
        return tell(&mut accepted.stream, &report).await;
    };
    let mut parameters = std::mem::take(&mut accepted.parameters);
    let mode = accepted.replication.as_deref().unwrap_or("true");
    parameters.push((b"replication"[..].into(), mode.as_bytes().into()));
    let target = Target {
        address: cluster.pools.address(primary),
        tls: &cluster.pools.tls,
        user: &accepted.user,
        database,
        secret: &accepted.server_secret,
        parameters: &parameters,
        timeout: cluster.config.pool.connect_timeout,
    };
    let mut server = match connect(&target).await {
        Ok(server) => server,
        Err(error) => {
            let message = error.to_string();
            let report = Report::fatal(error.sqlstate(), &message);
            return tell(&mut accepted.stream, &report).await;
        }
    };
    let mut out = Vec::new();
    for (name, value) in &server.parameters {
        put_parameter_status(&mut out, name, value);
    }
    // In the length of the client's version; a cancel request for it goes nowhere.
    let Some(key) = cancel_key(accepted.minor) else { return };
    put_backend_key(&mut out, 0, &key);
    put_ready(&mut out, Status::Idle);
    if accepted.stream.write_all(&out).await.is_err()
        || server.stream.write_all(&accepted.leftover).await.is_err()
    {
        return;
    }
    // Either side's end ends both; there is nobody left to tell.
    let _ = copy_bidirectional(&mut accepted.stream, &mut server.stream).await;
}

/// The client named a database that no cluster serves.
pub async fn refuse_database(mut accepted: Accepted) {
    let message = format!("database \"{}\" does not exist", accepted.database);
    tell(&mut accepted.stream, &Report::fatal("3D000", &message)).await;
}

async fn tell(client: &mut Stream, report: &Report<'_>) {
    let mut out = Vec::new();
    report.put(&mut out);
    // The client may have left already.
    let _ = client.write_all(&out).await;
    let _ = client.shutdown().await;
}
