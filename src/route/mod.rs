//! The choice of a node: pure, from a need, a snapshot and the policy, with the reason.

use crate::config::{Balance, OnLag, Routing};
use crate::metrics::RouteReason;
use crate::session::positions::Behind;
use crate::session::{Need, ReplicaNeed, Wish};
use crate::sql::Consistency;
use crate::topology::{Health, Hold, Lag, Node, NodeId, Role, Snapshot};
use std::time::Duration;

/// What the choice goes by besides the snapshot.
#[derive(Debug)]
pub struct Policy<'a> {
    pub routing: &'a Routing,
    /// Nodes whose lag differs by less than the time between two probes count as equal.
    pub probe_interval: Duration,
    /// Busy connections of this worker per node, for `least_connections` and for ties.
    pub busy: &'a [u32],
    /// A number that is different for each call, for draws.
    pub draw: u64,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Node(NodeId, RouteReason),
    /// There is no primary: wait at the gate.
    NoPrimary,
    /// No replica is fresh enough yet, and the policy says to wait for one before anything else.
    CatchUp(RouteReason),
    /// No replica is fresh enough, and the policy says that the client shall know.
    Refuse(RouteReason),
}

/// Chooses. `may_wait` is false once a request has waited for a replica as long as it may.
pub fn choose(need: &Need, snapshot: &Snapshot, policy: &Policy<'_>, may_wait: bool) -> Choice {
    match need {
        Need::Primary(reason) => primary(snapshot, *reason),
        Need::Any => match any(snapshot) {
            Some(node) => Choice::Node(node, RouteReason::NoReplica),
            None => Choice::NoPrimary,
        },
        Need::Replica(need) => read(need, snapshot, policy, may_wait),
    }
}

fn primary(snapshot: &Snapshot, reason: RouteReason) -> Choice {
    match snapshot.open_primary() {
        Some(node) => Choice::Node(node, reason),
        None => Choice::NoPrimary,
    }
}

fn any(snapshot: &Snapshot) -> Option<NodeId> {
    let replica = || snapshot.healthy_replicas().next().map(|node| node.id);
    match snapshot.hold {
        Hold::Everything => None,
        Hold::Nothing | Hold::Writes => snapshot.open_primary().or_else(replica),
    }
}

fn read(need: &ReplicaNeed, snapshot: &Snapshot, policy: &Policy<'_>, may_wait: bool) -> Choice {
    if snapshot.hold == Hold::Everything {
        return Choice::NoPrimary;
    }
    if let Wish::Node(name) = &need.wish
        && let Some(node) = snapshot.node_by_name(name)
        && (snapshot.open_primary() == Some(node.id) || qualifies(need, node, policy).is_ok())
    {
        return Choice::Node(node.id, RouteReason::HintNode);
    }
    if let Some(reason) = worth_waiting_for(need, snapshot, policy).filter(|_| may_wait) {
        return Choice::CatchUp(reason);
    }
    let mut refused: Option<RouteReason> = None;
    let mut best: Option<(&Node, Score)> = None;
    for node in snapshot.healthy_replicas() {
        match qualifies(need, node, policy) {
            Ok(()) => {
                let score = Score::of(node, policy);
                if best.as_ref().is_none_or(|(_, best)| score.beats(best, policy)) {
                    best = Some((node, score));
                }
            }
            Err(reason) => refused = Some(closest(refused, reason)),
        }
    }
    match best {
        Some((node, _)) => Choice::Node(node.id, chosen_because(need, policy)),
        None => {
            let asked_for = need.wish != Wish::None && refused.is_some_and(is_only_behind);
            if asked_for && may_wait {
                return Choice::CatchUp(refused.unwrap_or(RouteReason::NoReplica));
            }
            fall_back(need, refused, snapshot, policy, may_wait)
        }
    }
}

/// A replica that was asked for by name and only has to catch up with the session: a moment, since
/// it is within the bounds of lag.
fn worth_waiting_for(
    need: &ReplicaNeed,
    snapshot: &Snapshot,
    policy: &Policy<'_>,
) -> Option<RouteReason> {
    let Wish::Node(name) = &need.wish else { return None };
    match qualifies(need, snapshot.node_by_name(name)?, policy) {
        Err(reason) if is_only_behind(reason) => Some(reason),
        _ => None,
    }
}

/// Not too old in general, only for this session.
fn is_only_behind(reason: RouteReason) -> bool {
    matches!(reason, RouteReason::ReadYourWrites | RouteReason::Monotonic)
}

/// Whether a replica may serve the read.
fn qualifies(need: &ReplicaNeed, node: &Node, policy: &Policy<'_>) -> Result<(), RouteReason> {
    if node.role != Role::Replica || node.health != Health::Healthy || node.drained {
        return Err(RouteReason::NoReplica);
    }
    if policy.routing.balance == Balance::Weighted && node.weight == 0 && need.wish == Wish::None {
        return Err(RouteReason::NoReplica);
    }
    if let Some(lag_max) = need.lag_max {
        // The read set has the configured threshold with hysteresis; a hint may ask for another.
        let within = if lag_max == policy.routing.lag_max {
            node.in_read_set
        } else {
            node.lag.within(lag_max, policy.routing.lag_bytes_max)
        };
        if !within {
            return Err(RouteReason::Lag);
        }
    }
    own(need, node)
}

/// Whether a replica has what the session has written and seen, if the level asks for that.
fn own(need: &ReplicaNeed, node: &Node) -> Result<(), RouteReason> {
    if need.consistency != Consistency::Session {
        return Ok(());
    }
    need.positions.check(node).map_err(|behind| match behind {
        Behind::Writes => RouteReason::ReadYourWrites,
        Behind::Reads => RouteReason::Monotonic,
    })
}

/// Of two reasons the one that was nearer to being served.
fn closest(a: Option<RouteReason>, b: RouteReason) -> RouteReason {
    let rank = |reason| match reason {
        RouteReason::ReadYourWrites | RouteReason::Monotonic => 2,
        RouteReason::Lag => 1,
        _ => 0,
    };
    match a {
        Some(a) if rank(a) >= rank(b) => a,
        _ => b,
    }
}

fn chosen_because(need: &ReplicaNeed, policy: &Policy<'_>) -> RouteReason {
    match (&need.wish, policy.routing.balance) {
        (Wish::Replica, _) => RouteReason::HintReplica,
        (_, Balance::LeastLag) => RouteReason::LeastLag,
        (_, Balance::LeastConnections) => RouteReason::LeastConnections,
        (_, Balance::Latency) => RouteReason::Latency,
        (_, Balance::Weighted) => RouteReason::Weighted,
    }
}

fn fall_back(
    need: &ReplicaNeed,
    refused: Option<RouteReason>,
    snapshot: &Snapshot,
    policy: &Policy<'_>,
    may_wait: bool,
) -> Choice {
    let reason = refused.unwrap_or(RouteReason::NoReplica);
    let can_catch_up = reason != RouteReason::NoReplica;
    let waits = !policy.routing.catchup_wait.is_zero()
        || is_only_behind(reason) && need.positions.is_overdue();
    if may_wait && can_catch_up && waits {
        return Choice::CatchUp(reason);
    }
    // What the session has written or seen is a promise, not a matter of lag.
    if is_only_behind(reason) {
        return primary(snapshot, reason);
    }
    match policy.routing.on_lag {
        OnLag::Primary => primary(snapshot, reason),
        OnLag::Wait if may_wait => Choice::CatchUp(reason),
        OnLag::Wait | OnLag::Error => Choice::Refuse(reason),
        OnLag::Stale => {
            // As old as it may be, but not without what the session has written or seen.
            let serves = |node: &&Node| !node.drained && own(need, node).is_ok();
            let freshest = snapshot.healthy_replicas().filter(serves).min_by_key(|node| age(node));
            match freshest {
                Some(node) => Choice::Node(node.id, RouteReason::Stale),
                None => primary(snapshot, reason),
            }
        }
    }
}

/// Age of a node's data; unknown is the oldest.
fn age(node: &Node) -> Duration {
    match node.lag {
        Lag::Known { age, .. } => age,
        Lag::Unknown => Duration::MAX,
    }
}

/// What two replicas that qualify are compared by.
#[derive(Debug)]
struct Score {
    age: Duration,
    busy: u32,
    round_trip: Duration,
    /// For `weighted`: the smallest of `draw / weight` wins in proportion to the weights.
    ticket: f64,
    shuffle: u64,
}

impl Score {
    fn of(node: &Node, policy: &Policy<'_>) -> Score {
        let shuffle = mix(policy.draw ^ (u64::from(node.id.0) << 32));
        // An exponential variate per node: the minimum falls on each in proportion to its weight.
        let uniform = (shuffle >> 11) as f64 / (1u64 << 53) as f64;
        let ticket = match policy.routing.balance {
            Balance::Weighted => -(1.0 - uniform).ln() / f64::from(node.weight.max(1)),
            _ => 0.0,
        };
        let busy = policy.busy.get(usize::from(node.id.0)).copied().unwrap_or(0);
        Score { age: age(node), busy, round_trip: node.round_trip, ticket, shuffle }
    }

    fn beats(&self, other: &Score, policy: &Policy<'_>) -> bool {
        let by_load = || (self.busy, self.shuffle) < (other.busy, other.shuffle);
        match policy.routing.balance {
            Balance::LeastLag => {
                let interval = policy.probe_interval;
                if self.age.abs_diff(other.age) < interval {
                    by_load()
                } else {
                    self.age < other.age
                }
            }
            Balance::LeastConnections => by_load(),
            Balance::Latency => {
                let cost = |score: &Score| score.round_trip * (score.busy + 1);
                (cost(self), self.shuffle) < (cost(other), other.shuffle)
            }
            Balance::Weighted => self.ticket < other.ticket,
        }
    }
}

/// SplitMix64's finaliser: spreads consecutive numbers over all bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
