//! Snapshots and pools as JSON. Pure: the present moment comes in as a value.
//!
//! Durations are milliseconds with microsecond precision, positions as PostgreSQL prints them
//! (`X/Y`), and what is not known is `null`.

use crate::metrics::pools::{PoolLabels, PoolNumbers};
use crate::topology::{Health, Hold, Lag, Node, Position, Role, Snapshot};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One cluster of `/api/v1/topology`.
#[derive(Debug, Serialize)]
pub struct ClusterTopology<'a> {
    name: &'a str,
    epoch: u64,
    snapshot_version: u64,
    /// The primary's name.
    primary: Option<&'a str>,
    no_primary_because: Option<&'a str>,
    /// What waits at the gate although there is a primary.
    held: Option<&'static str>,
    /// An operator has sent the clients away.
    drained: bool,
    last_change: Option<Change<'a>>,
    nodes: Vec<NodeTopology<'a>>,
}

/// The last change of the primary.
#[derive(Debug, Serialize)]
struct Change<'a> {
    age_ms: f64,
    what: &'a str,
}

#[derive(Debug, Serialize)]
struct NodeTopology<'a> {
    name: &'a str,
    address: &'a str,
    zone: Option<&'a str>,
    weight: u32,
    role: &'static str,
    health: &'static str,
    unhealthy_because: Option<&'a str>,
    in_read_set: bool,
    out_because: Option<&'a str>,
    timeline: Option<u32>,
    position: Option<String>,
    lag_ms: Option<f64>,
    lag_bytes: Option<u64>,
    applied_age_ms: Option<f64>,
    round_trip_ms: f64,
    incarnation: u64,
    drained: bool,
    paused: bool,
}

/// A snapshot as `/api/v1/topology` shows it.
pub fn cluster<'a>(name: &'a str, snapshot: &'a Snapshot, now: Instant) -> ClusterTopology<'a> {
    let primary = snapshot.primary.and_then(|id| snapshot.nodes.get(usize::from(id.0)));
    ClusterTopology {
        name,
        epoch: snapshot.epoch.0,
        snapshot_version: snapshot.version,
        primary: primary.map(|node| &*node.name),
        no_primary_because: not_empty(&snapshot.no_primary_because),
        held: match snapshot.hold {
            Hold::Nothing => None,
            Hold::Writes => Some("writes"),
            Hold::Everything => Some("everything"),
        },
        drained: snapshot.closed,
        last_change: snapshot.last_change.as_ref().map(|(at, what)| Change {
            age_ms: milliseconds(now.saturating_duration_since(*at)),
            what,
        }),
        nodes: snapshot.nodes.iter().map(|each| node(each, now)).collect(),
    }
}

fn node(node: &Node, now: Instant) -> NodeTopology<'_> {
    let (lag_ms, lag_bytes) = match node.lag {
        Lag::Unknown => (None, None),
        Lag::Known { age, bytes } => (Some(milliseconds(age)), bytes),
    };
    let (health, unhealthy_because) = match &node.health {
        Health::Unknown => ("unknown", None),
        Health::Healthy => ("healthy", None),
        Health::Unhealthy { reason } => ("unhealthy", not_empty(reason)),
    };
    let timeline = node.position.as_ref().and_then(Position::timeline).map(|timeline| timeline.0);
    let position = node.position.as_ref().map(Position::to_string);
    NodeTopology {
        name: &node.name,
        address: &node.address,
        zone: node.zone.as_deref(),
        weight: node.weight,
        role: role_word(node.role),
        health,
        unhealthy_because,
        in_read_set: node.in_read_set,
        out_because: not_empty(&node.out_because),
        timeline,
        position,
        lag_ms,
        lag_bytes,
        applied_age_ms: node.applied_at.map(|at| milliseconds(now.saturating_duration_since(at))),
        round_trip_ms: milliseconds(node.round_trip),
        incarnation: node.incarnation,
        drained: node.drained,
        paused: node.paused,
    }
}

/// The word for a role in JSON and in metrics.
pub fn role_word(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
        Role::Unknown => "unknown",
    }
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn not_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// One pool of `/api/v1/pools`.
#[derive(Debug, Serialize)]
pub struct PoolView<'a> {
    cluster: &'a str,
    node: &'a str,
    user: &'a str,
    database: &'a str,
    idle: u64,
    active: u64,
    waiting: u64,
    opened_total: u64,
    waits_total: u64,
    waited_ms_total: f64,
}

/// The pools, sorted by cluster, node, user and database; of one cluster if it is named.
pub fn pools<'a>(
    pools: &'a BTreeMap<PoolLabels, PoolNumbers>,
    of_cluster: Option<&str>,
) -> Vec<PoolView<'a>> {
    pools
        .iter()
        .filter(|(labels, _)| of_cluster.is_none_or(|name| *labels.cluster == *name))
        .map(|(labels, numbers)| PoolView {
            cluster: &labels.cluster,
            node: &labels.node,
            user: &labels.user,
            database: &labels.database,
            idle: numbers.idle,
            active: numbers.active,
            waiting: numbers.waiting,
            opened_total: numbers.opened_total,
            waits_total: numbers.waits_total,
            waited_ms_total: milliseconds(numbers.waited_total),
        })
        .collect()
}

/// Why the proxy is not ready to serve; empty when it is.
pub fn not_ready_because<'a>(
    draining: bool,
    clusters: impl IntoIterator<Item = (&'a str, &'a Snapshot)>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    if draining {
        reasons.push("the proxy was told to end and takes no new clients".to_owned());
    }
    for (name, snapshot) in clusters {
        if snapshot.closed {
            reasons.push(format!("cluster {name} is drained by an operator"));
        }
        if snapshot.primary.is_some() {
            continue;
        }
        reasons.push(match not_empty(&snapshot.no_primary_because) {
            Some(because) => format!("cluster {name} has no primary: {because}"),
            None => format!("cluster {name} has no primary"),
        });
    }
    reasons
}
