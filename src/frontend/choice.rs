//! From a need to a node, as every protocol's conversations ask it.

use super::cluster::{Engine, LocalCluster};
use super::worker::Worker;
use crate::config::{self, OnLag};
use crate::metrics::{RouteReason, Target};
use crate::route::{Choice, Policy, choose};
use crate::session::{Need, Wish};
use crate::topology::{Epoch, NodeId, Snapshot, Topology};
use std::future::pending;
use std::time::Duration;

/// How long a read waits for a replica that a hint asks for, in probe intervals: one may just
/// have begun.
const HINT_WAIT_INTERVALS: u32 = 3;

/// How long a read of a session waits that has been kept on the primary by reading more often than
/// nodes are probed, as a share of the interval: probes on demand have an answer sooner, unless the
/// replicas are really behind.
const OVERDUE_WAIT_SHARE: u32 = 4;

/// A commit that is waited for is looked at again after this: short ones take a few milliseconds.
pub const COMMIT_WAIT: Duration = Duration::from_millis(1);

/// A commit that is not answered by then is a statement that runs for long, or one that is held up:
/// the servers are asked which.
pub const COMMIT_ASK_AGE: Duration = Duration::from_millis(20);

/// A read waits no longer than this for commits of which the servers say that the primary does not
/// show them yet: what holds one up for longer, such as a synchronous standby that is gone, may last
/// for hours.
pub const COMMITS_WAIT_MAX: Duration = Duration::from_secs(5);

/// And no longer than this where the servers do not say: the primary shows a commit a few
/// milliseconds after its replicas do, on a busy machine some tens.
pub const COMMITS_GUESS_MAX: Duration = Duration::from_millis(200);

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

/// Whether a connection to `node` that took time to get, and was opened under `opened`, still meets
/// the need: the primary may be another one by now, or held back by an operator's pause.
pub fn is_still_right(need: &Need, snapshot: &Snapshot, node: NodeId, opened: Epoch) -> bool {
    match (need, snapshot.primary == Some(node)) {
        (_, true) => opened == snapshot.epoch && snapshot.open_primary().is_some(),
        (Need::Primary(_), false) => false,
        (Need::Any | Need::Replica(_), false) => true,
    }
}

/// How long a request may wait for a replica that meets its need.
pub fn catch_up_limit(config: &config::Cluster, need: &Need) -> Duration {
    let limit = match config.routing.on_lag {
        OnLag::Wait => config.pool.wait_timeout,
        _ => config.routing.catchup_wait,
    };
    match need {
        // A hint that asks for a replica is worth the time of a probe.
        Need::Replica(need) if need.wish != Wish::None => {
            limit.max(config.monitor.interval * HINT_WAIT_INTERVALS)
        }
        Need::Replica(need) if need.positions.is_overdue() => {
            limit.max(config.monitor.interval / OVERDUE_WAIT_SHARE)
        }
        _ => limit,
    }
}

/// Resolves when the primary is another one than that of `epoch`; never for a replica.
pub async fn primary_moves(topology: &Topology, epoch: Option<Epoch>) {
    let Some(epoch) = epoch else { return pending().await };
    let mut changed = topology.subscribe();
    let moved = || {
        let now = topology.load();
        now.epoch != epoch || now.open_primary().is_none()
    };
    while !moved() {
        if changed.changed().await.is_err() {
            pending().await
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

#[cfg(test)]
mod tests {
    use super::is_still_right;
    use crate::config::fixture;
    use crate::metrics::RouteReason;
    use crate::monitor::first_snapshot;
    use crate::session::Need;
    use crate::topology::{Epoch, Hold, NodeId};

    #[test]
    fn a_connection_that_was_waited_for_is_looked_at_again() {
        let write = || Need::Primary(RouteReason::Write);
        let (here, there) = (NodeId(0), NodeId(1));
        // Need, the primary of now, what is held, the epoch of the connection to node 0 (now: 2).
        let table = [
            (write(), Some(here), Hold::Nothing, 2, true),
            (write(), Some(here), Hold::Nothing, 1, false),
            (write(), Some(here), Hold::Writes, 2, false),
            (write(), Some(here), Hold::Everything, 2, false),
            (write(), Some(there), Hold::Nothing, 2, false),
            (write(), None, Hold::Nothing, 2, false),
            (Need::Any, Some(there), Hold::Nothing, 1, true),
            (Need::Any, Some(here), Hold::Nothing, 1, false),
        ];
        for (number, (need, primary, hold, opened, expected)) in table.into_iter().enumerate() {
            let mut snapshot = first_snapshot(&fixture::cluster(["a", "b"].map(fixture::node)));
            (snapshot.primary, snapshot.hold, snapshot.epoch) = (primary, hold, Epoch(2));
            assert_eq!(is_still_right(&need, &snapshot, here, Epoch(opened)), expected, "{number}");
        }
    }
}
