//! Replicas of a silent primary are told to connect to it again: whether it lets them in tells
//! whether it lives.

use super::servers::Servers;
use super::takeover::bounded;
use crate::topology::{Role, Snapshot, Topology};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The errands to the replicas: all at once, so that one that hangs holds nobody back.
#[derive(Default)]
pub(super) struct Reconnection {
    errands: JoinSet<()>,
}

impl Reconnection {
    pub(super) fn is_under_way(&self) -> bool {
        !self.errands.is_empty()
    }

    pub(super) fn begin(
        &mut self,
        topology: &Arc<Topology>,
        servers: &Servers,
        snapshot: &Snapshot,
    ) {
        for node in snapshot.nodes.iter().filter(|node| node.role == Role::Replica) {
            let place = (topology.clone(), node.name.clone());
            self.errands.spawn(tell(place, servers.clone(), usize::from(node.id.0)));
        }
    }

    /// Waits until all have been told. What they were told must not reach them later than what they
    /// are told next.
    pub(super) async fn ended(&mut self) {
        while self.errands.join_next().await.is_some() {}
    }
}

async fn tell((topology, name): (Arc<Topology>, Arc<str>), servers: Servers, index: usize) {
    let begun = Instant::now();
    let config = &servers.cluster.nodes[index];
    let vain = servers.cluster.failover.confirm;
    let parts = || part(&topology, &name, vain);
    let told = bounded(servers.patience(), servers.reconnect(config, parts)).await;
    if topology.orders().parting.contains_key(&name) {
        topology.order(|orders| {
            orders.parting.remove(&name);
        });
    }
    let took_ms = begun.elapsed().as_millis();
    match told {
        Ok(()) => tracing::info!(node = %name, "it was told to connect again, in {took_ms} ms"),
        Err(error) => tracing::warn!(node = %name, "cannot make it connect again: {error}"),
    }
}

/// It ends its session at the primary, which takes no time where that answers.
fn part(topology: &Topology, name: &Arc<str>, vain: Duration) {
    let in_vain_from = Instant::now() + vain;
    topology.order(|orders| {
        orders.parting.insert(name.clone(), in_vain_from);
    });
}
