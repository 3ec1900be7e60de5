//! A first look at a cluster: the monitor runs until it knows what it can know.

use crate::config::Cluster;
use crate::config::tls::ServerTlsConnector;
use crate::monitor::{Monitor, Past, first_snapshot};
use crate::topology::{Health, Lag, Role, Snapshot, Topology};
use anyhow::Context;
use std::sync::Arc;
use std::time::Duration;

/// Beyond the probes' own limits: for the election, and for lags, which need a second round.
const PATIENCE_EXTRA: Duration = Duration::from_secs(2);

/// The runtime of a command that talks to servers.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// TLS of service connections as the cluster's section says.
pub(super) fn service_tls(cluster: &Cluster) -> anyhow::Result<Arc<ServerTlsConnector>> {
    Ok(Arc::new(ServerTlsConnector::new(&cluster.server_tls)?))
}

/// Watches until every node has answered or failed and every replica's lag is known, for as long
/// as that may take by the cluster's settings.
pub(super) async fn settled(
    cluster: &Arc<Cluster>,
    tls: &Arc<ServerTlsConnector>,
) -> Arc<Topology> {
    let (topology, evidence) = Topology::new(first_snapshot(cluster));
    let mut changes = topology.subscribe();
    let monitor = Monitor::spawn(cluster.clone(), topology.clone(), evidence, tls, Past::default());
    let settings = &cluster.monitor;
    let patience = (settings.timeout + settings.interval) * settings.failures + PATIENCE_EXTRA;
    let wait = async {
        while !is_settled(&topology.load()) {
            if changes.changed().await.is_err() {
                break;
            }
        }
    };
    // When the time is up, what is known by then is shown.
    let _ = tokio::time::timeout(patience, wait).await;
    monitor.stop().await;
    topology
}

fn is_settled(snapshot: &Snapshot) -> bool {
    let answered = snapshot.nodes.iter().all(|node| node.health != Health::Unknown);
    let healthy = |role: Role| {
        let nodes = snapshot.nodes.iter();
        nodes.filter(move |node| node.role == role && node.health == Health::Healthy)
    };
    let nobody = snapshot.nodes.iter().all(|node| matches!(node.health, Health::Unhealthy { .. }));
    answered
        && (snapshot.primary.is_some() || nobody)
        && healthy(Role::Replica).all(|node| node.lag != Lag::Unknown)
}
