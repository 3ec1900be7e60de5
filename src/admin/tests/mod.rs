//! Tests of the pages: a small proxy state, and what is served of it.

mod exposition;
mod metrics_page;
mod monitoring;
mod pages;
mod server;

use super::{AdminState, ClusterView};
use crate::metrics::{
    AuthFailure, CommitOutcome, CommitWait, ControlMetrics, ErrorOrigin, GateOutcome, Layout,
    NodeIndex, PoolLabels, PoolRegistry, PoolStats, ReplayOutcome, RouteReason, StatsRegistry,
    UnsafeReason, WorkerStats, labels,
};
use crate::topology::{
    Epoch, Evidence, Health, Hold, Lag, Node, NodeId, Position, Role, Snapshot, Timeline, Topology,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use secrecy::SecretString;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// What changes must be asked with.
const TOKEN: &str = "open sesame";

/// A state with one cluster of a primary, a replica that is behind and a node that is down.
struct Fixture {
    state: Arc<AdminState>,
    topology: Arc<Topology>,
    stats: WorkerStats,
    pool: Arc<PoolStats>,
    now: Instant,
    /// Kept so that evidence has a receiver.
    _evidence: mpsc::Receiver<Evidence>,
}

fn fixture() -> Fixture {
    let now = Instant::now();
    let (topology, evidence) = Topology::new(snapshot(now));
    let registry = Arc::new(StatsRegistry::default());
    let nodes = ["pg-a", "pg-b", "pg-c"].map(Arc::from);
    let layout = Arc::new(Layout::new([(Arc::from("main"), nodes.to_vec())]));
    let pools = Arc::new(PoolRegistry::default());
    let pool = pools.register(PoolLabels {
        cluster: "main".into(),
        node: "pg-b".into(),
        user: "o\"brien".into(),
        database: "shop".into(),
    });
    let state = AdminState {
        process: crate::metrics::Process::this(),
        clusters: ArcSwap::from_pointee(vec![cluster_view("main", &topology)]),
        stats: Arc::clone(&registry),
        pools,
        control: Arc::new(ControlMetrics::new(SystemTime::UNIX_EPOCH)),
        draining: Arc::new(AtomicBool::new(false)),
        token: ArcSwapOption::from_pointee(Some(SecretString::from(TOKEN))),
    };
    let stats = registry.worker(&layout);
    Fixture { state: Arc::new(state), topology, stats, pool, now, _evidence: evidence }
}

fn cluster_view(name: &str, topology: &Arc<Topology>) -> ClusterView {
    ClusterView {
        name: name.into(),
        topology: Arc::clone(topology),
        needs_primary: true,
        failovers: Arc::new(|| json!([{ "to": "pg-a" }])),
        actions: Arc::new(|| json!([])),
        control: None,
        lag_history: Arc::new(|| json!({ "pg-b": [[0, 12.5]] })),
    }
}

pub(super) fn snapshot(now: Instant) -> Snapshot {
    let ago = |milliseconds| now.checked_sub(Duration::from_millis(milliseconds));
    let log = |timeline, offset| Some(Position::Log { timeline: Timeline(timeline), offset });
    let primary = node(0, "pg-a", Role::Primary);
    let behind = node(1, "pg-b", Role::Replica);
    let down = node(2, "pg-c", Role::Unknown);
    Snapshot {
        version: 42,
        epoch: Epoch(3),
        primary: Some(NodeId(0)),
        no_primary_because: "".into(),
        hold: Hold::Nothing,
        closed: false,
        lost: None,
        branch: None,
        timeline: None,
        nodes: vec![
            Node { position: log(2, 0x1_0300_0060), applied_at: Some(now), ..primary },
            Node {
                zone: Some("east".into()),
                in_read_set: true,
                position: log(2, 0x1_02FF_F000),
                lag: Lag::Known { age: Duration::from_micros(12_500), bytes: Some(4_192) },
                applied_at: ago(20),
                incarnation: 7,
                life: 1,
                ..behind
            },
            Node {
                health: Health::Unhealthy { reason: "connection refused".into() },
                out_because: "not healthy".into(),
                ..down
            },
        ],
        last_change: ago(5_000).map(|at| (at, "pg-a took over from pg-c".into())),
    }
}

fn node(id: u16, name: &str, role: Role) -> Node {
    Node {
        id: NodeId(id),
        name: name.into(),
        address: format!("10.0.0.{id}:5432").into(),
        zone: None,
        weight: 1,
        role,
        health: Health::Healthy,
        in_read_set: false,
        out_because: "".into(),
        position: None,
        lag: Lag::Unknown,
        applied_at: None,
        in_order: false,
        incarnation: 1,
        life: 1,
        version: None,
        session_defaults: None,
        round_trip: Duration::from_micros(250),
        drained: false,
        paused: false,
        handover: false,
    }
}

fn without_primary(now: Instant) -> Snapshot {
    let mut snapshot = snapshot(now);
    snapshot.version += 1;
    snapshot.primary = None;
    snapshot.no_primary_because = "no node says that it is one".into();
    snapshot
}

/// Counts something of everything.
fn count_everything(fixture: &Fixture) {
    let (stats, replica) = (&fixture.stats, NodeIndex(1));
    stats.routed(0, NodeIndex(0), RouteReason::Write);
    stats.routed(0, replica, RouteReason::LeastLag);
    stats.routed(0, replica, RouteReason::LeastLag);
    stats.query_done(0, replica, Duration::from_micros(80));
    stats.query_done(0, replica, Duration::from_millis(3));
    stats.transaction_done(0, replica);
    stats.retried(0, replica);
    stats.pool_wait(0, replica, Duration::from_secs(20));
    stats.server_opened(0, replica);
    stats.server_connect_failed(0, NodeIndex(2));
    stats.server_reused(0, replica);
    stats.server_closed(0, replica, labels::ServerClosed::Epoch);
    stats.stale_read_avoided(0);
    stats.fenced_write_avoided(0);
    stats.lost_write(0);
    stats.commit_resolved(0, CommitOutcome::Committed);
    stats.replayed(0, ReplayOutcome::Done);
    stats.commits_waited_for(0, CommitWait::Shown);
    stats.gate_entered(0);
    stats.gate_entered(0);
    stats.gate_left(0, Duration::from_millis(700), GateOutcome::Opened);
    stats.classify_cache(true);
    stats.classify_cache(false);
    stats.classified_unsafe(UnsafeReason::ParseError.as_str());
    stats.client_opened();
    stats.client_opened();
    stats.client_closed();
    stats.client_refused();
    stats.bytes_in(100);
    stats.bytes_out(2_000);
    stats.pinned("listen");
    stats.pinned("listen");
    stats.unpinned("listen", Duration::from_millis(1500));
    stats.error(ErrorOrigin::Server, b"23505");
    stats.error(ErrorOrigin::Proxy, b"57P03");
    stats.auth_failed(AuthFailure::WrongPassword);
    stats.cancel_request(true);
    fixture.pool.opened();
    fixture.pool.wait_started();
    fixture.pool.wait_ended(Duration::from_millis(5));
    let control = &fixture.state.control;
    control.node("main", "pg-b").probe_ok(Duration::from_millis(1));
    control.node("main", "pg-c").probe_failed(Duration::from_secs(1));
    let cluster = control.cluster("main");
    cluster.failover(SystemTime::UNIX_EPOCH, Some(Duration::from_millis(300)));
    cluster.catalog_loaded(SystemTime::UNIX_EPOCH);
}
