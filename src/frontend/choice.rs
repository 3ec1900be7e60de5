//! From a need to a node, as every protocol's conversations ask it.

use super::cluster::{Engine, LocalCluster};
use super::worker::Worker;
use crate::metrics::{RouteReason, Target};
use crate::route::{Choice, Policy, choose};
use crate::session::Need;
use crate::topology::{Epoch, Snapshot, Topology};

/// `may_wait`: whether the answer may be to wait for a replica.
pub fn choose_node<E: Engine>(
    cluster: &LocalCluster<E>,
    worker: &Worker,
    snapshot: &Snapshot,
    need: &Need,
    may_wait: bool,
) -> Choice {
    let config = &cluster.handle.config;
    let policy = Policy {
        routing: &config.routing,
        probe_interval: config.monitor.interval,
        busy: &cluster.busy(),
        draw: worker.next_id(),
    };
    choose(need, snapshot, &policy, may_wait)
}

/// Resolves when the primary is another one than that of `epoch`; never for a replica.
pub async fn primary_moves(topology: &Topology, epoch: Option<Epoch>) {
    let mut changed = topology.subscribe();
    loop {
        let moved = epoch.is_some_and(|epoch| {
            let now = topology.load();
            now.epoch != epoch || now.open_primary().is_none()
        });
        if moved {
            return;
        }
        if epoch.is_none() || changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Why a replica was taken, if the request waited for one.
pub fn caught_up(reason: RouteReason, waited_for: Option<RouteReason>) -> RouteReason {
    match (waited_for, reason.target()) {
        (Some(_), Target::Replica) => RouteReason::CaughtUp,
        _ => reason,
    }
}
