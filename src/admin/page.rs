//! The metrics page: what the workers, pools and control plane counted, and what the snapshots say
//! at this moment.
//!
//! The snapshots' gauges are written here and not kept anywhere: a node that left the
//! configuration leaves the page with its snapshot, and what is not known is absent instead of
//! stale.

use super::view::role_word;
use super::{AdminState, ClusterView};
use crate::metrics::text::{Page, Value};
use crate::metrics::{Name, render};
use crate::topology::{Health, Lag, Node, Position, Role, Snapshot};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A metric and how to read it from a snapshot.
type Reading = (Name, fn(&Snapshot) -> u64);

/// The whole page.
pub fn metrics(state: &AdminState, now: Instant) -> String {
    let mut page = counted_here(state, now);
    page.append(&state.control.render());
    state.process.write(&mut page);
    page.into_text()
}

/// Everything but the control plane's metrics and the process', in an order that never changes.
pub(super) fn counted_here(state: &AdminState, now: Instant) -> Page {
    let clusters = state.clusters.load();
    let mut page = Page::default();
    topology(&mut page, &snapshots(&clusters), now);
    page.single(Name::Draining, state.draining.load(Ordering::Relaxed));
    render::totals(&mut page, &state.stats.totals());
    render::pools(&mut page, &state.pools.numbers());
    page
}

fn snapshots(clusters: &[ClusterView]) -> Vec<(Arc<str>, Arc<Snapshot>)> {
    let load = |view: &ClusterView| (Arc::clone(&view.name), view.topology.load_full());
    clusters.iter().map(load).collect()
}

/// Gauges of the snapshots.
fn topology(page: &mut Page, clusters: &[(Arc<str>, Arc<Snapshot>)], now: Instant) {
    let readings: [Reading; 3] = [
        (Name::ClusterHasPrimary, |snapshot| u64::from(snapshot.primary.is_some())),
        (Name::ClusterEpoch, |snapshot| snapshot.epoch.0),
        (Name::SnapshotVersion, |snapshot| snapshot.version),
    ];
    for (name, value) in readings {
        let mut family = page.family(name);
        for (cluster, snapshot) in clusters {
            family.sample(&[cluster], value(snapshot));
        }
    }

    let mut family = page.family(Name::NodeRole);
    for (cluster, node) in each_node(clusters) {
        for role in [Role::Primary, Role::Replica, Role::Unknown] {
            family.sample(&[cluster, &node.name, role_word(role)], node.role == role);
        }
    }
    for name in NODE_GAUGES {
        let mut family = page.family(name);
        for (cluster, node) in each_node(clusters) {
            if let Some(value) = node_gauge(name, node, now) {
                family.sample(&[cluster, &node.name], value);
            }
        }
    }
}

fn each_node(clusters: &[(Arc<str>, Arc<Snapshot>)]) -> impl Iterator<Item = (&str, &Node)> {
    clusters
        .iter()
        .flat_map(|(name, snapshot)| snapshot.nodes.iter().map(move |node| (&**name, node)))
}

const NODE_GAUGES: [Name; 9] = [
    Name::NodeHealthy,
    Name::NodeInReadSet,
    Name::NodeLagSeconds,
    Name::NodeLagBytes,
    Name::NodeAppliedAgeSeconds,
    Name::NodeTimeline,
    Name::NodePositionBytes,
    Name::NodeRoundTripSeconds,
    Name::NodeIncarnation,
];

/// A gauge of a node; `None` if there is nothing to say.
fn node_gauge(name: Name, node: &Node, now: Instant) -> Option<Value> {
    let position = match node.position {
        Some(Position::Log { timeline, offset }) => Some((timeline.0, offset)),
        Some(Position::Gtids(_)) | None => None,
    };
    match name {
        Name::NodeHealthy => Some((node.health == Health::Healthy).into()),
        Name::NodeInReadSet => Some(node.in_read_set.into()),
        // A primary does not lag. Any other node of unknown lag may lag by any amount, and an
        // alert on the threshold must see it.
        Name::NodeLagSeconds | Name::NodeLagBytes if node.role == Role::Primary => None,
        Name::NodeLagSeconds => Some(match node.lag {
            Lag::Unknown => Value::Real(f64::INFINITY),
            Lag::Known { age, .. } => age.into(),
        }),
        Name::NodeLagBytes => match node.lag {
            Lag::Unknown => None,
            Lag::Known { bytes, .. } => bytes.map(Value::Whole),
        },
        Name::NodeAppliedAgeSeconds => {
            node.applied_at.map(|at| now.saturating_duration_since(at).into())
        }
        Name::NodeTimeline => position.map(|(timeline, _)| Value::Whole(timeline.into())),
        Name::NodePositionBytes => position.map(|(_, offset)| Value::Whole(offset)),
        Name::NodeRoundTripSeconds => Some(node.round_trip.into()),
        Name::NodeIncarnation => Some(node.incarnation.into()),
        _ => None,
    }
}
