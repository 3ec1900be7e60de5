//! Watches a cluster's nodes and publishes what it sees: the only writer of the topology.
//!
//! ```text
//!  tick, evidence ──▶ Prober (one task per node) ──Outcome──▶ Judge ──Snapshot──▶ Topology
//! ```
//! Here is the loop. The primary is asked first and the replicas as soon as it has answered, so
//! that what was just written is known as applied within one round. What a probe says is in
//! [`probe`], what follows from it in [`verdict`] (pure; open it first), [`election`],
//! [`readset`] and [`history`]. Nothing here promotes a node or touches a client.

pub mod catalog;
pub mod catalogs;
pub mod connection;
pub mod election;
pub mod handover;
mod history;
pub mod journal;
mod judged;
pub mod lags;
mod lives;
pub(crate) mod mysql;
pub mod mysql_catalog;
pub mod mysql_connection;
pub(crate) mod postgres;
pub mod probe;
pub mod readset;
pub mod report;
pub mod verdict;
pub mod visibility;

#[cfg(test)]
mod mysql_tests;
#[cfg(test)]
mod tests;

pub use election::Memory;
pub use journal::Journal;
pub use lags::Lags;
pub use visibility::Visibility;

use crate::config::Cluster;
use crate::config::tls::ServerTlsConnector;
use crate::metrics::control::NodeEvents;
use crate::topology::{Epoch, Evidence, Health, Hold, Lag, Node, NodeId, Role, Snapshot, Topology};
use mysql::Mysql;
use mysql_connection::ServiceOpts;
use postgres::Postgres;
use probe::{Outcome, Prober};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use verdict::Judge;

/// Outcomes on their way to the judge. Each node has one at a time; a reader that is this far
/// behind holds the probers back.
const OUTCOMES_MAX: usize = 64;
/// Probes on demand start no closer than this share of the interval, so that many who wait for a
/// fresh position cost no more than twenty times the probes.
const ON_DEMAND_SHARE: u32 = 20;
/// Replicas are asked without waiting longer for the primary after this share of the interval.
const LEAD_SHARE: u32 = 4;

/// The picture before the first probe: nothing is known.
pub fn first_snapshot(cluster: &Cluster) -> Snapshot {
    let nodes = (0..).zip(&cluster.nodes).map(|(index, node)| Node {
        id: NodeId(index),
        name: node.name.clone(),
        address: Arc::from(node.address.to_string()),
        zone: node.zone.clone(),
        weight: node.weight,
        role: Role::Unknown,
        health: Health::Unknown,
        in_read_set: false,
        out_because: Arc::from("it has not answered yet"),
        position: None,
        lag: Lag::Unknown,
        applied_at: None,
        in_order: false,
        incarnation: 0,
        life: 0,
        version: None,
        session_defaults: None,
        round_trip: Duration::ZERO,
        drained: false,
        paused: false,
        handover: false,
    });
    Snapshot {
        version: 0,
        epoch: Epoch::default(),
        primary: None,
        no_primary_because: Arc::from("no node has answered yet"),
        hold: Hold::Nothing,
        closed: false,
        lost: None,
        branch: None,
        timeline: None,
        nodes: nodes.collect(),
        last_change: None,
    }
}

/// Watches one cluster.
#[derive(Debug)]
pub struct Monitor {
    cluster: Arc<Cluster>,
    topology: Arc<Topology>,
    judge: Judge,
    wanted: Vec<Arc<Notify>>,
    journal: Arc<Journal>,
    lags: Arc<Lags>,
    /// Per node; empty if nobody counts.
    events: Vec<NodeEvents>,
}

/// A running monitor. Dropping the handle ends it.
#[derive(Debug)]
pub struct MonitorHandle {
    stop: watch::Sender<()>,
    task: JoinHandle<Stopped>,
    journal: Arc<Journal>,
    lags: Arc<Lags>,
}

/// What is left of a monitor: enough to go on with another configuration.
#[derive(Debug)]
pub struct Stopped {
    pub past: Past,
    pub evidence: mpsc::Receiver<Evidence>,
}

/// What a monitor knows from the one before.
#[derive(Debug, Default)]
pub struct Past {
    pub memory: Memory,
    /// Both speak of nodes by their number: they are of no use for other nodes.
    pub journal: Arc<Journal>,
    pub lags: Arc<Lags>,
}

impl Monitor {
    /// Starts watching on the current tokio runtime, which must be the control plane's. `past`
    /// is that of the monitor before, or the default. `topology` must have a snapshot with the
    /// nodes of `cluster` ([`first_snapshot`]).
    pub fn spawn(
        cluster: Arc<Cluster>,
        topology: Arc<Topology>,
        evidence: mpsc::Receiver<Evidence>,
        tls: &Arc<ServerTlsConnector>,
        past: Past,
    ) -> MonitorHandle {
        Monitor::spawn_counted(cluster, topology, evidence, tls, past, Vec::new())
    }

    /// As [`Monitor::spawn`]; probes are counted in `events`, one per node in their order.
    pub fn spawn_counted(
        cluster: Arc<Cluster>,
        topology: Arc<Topology>,
        evidence: mpsc::Receiver<Evidence>,
        tls: &Arc<ServerTlsConnector>,
        past: Past,
        events: Vec<NodeEvents>,
    ) -> MonitorHandle {
        let (stop, stopped) = watch::channel(());
        let (outcomes, received) = mpsc::channel(OUTCOMES_MAX);
        let interval = cluster.monitor.interval;
        let mut wanted = Vec::new();
        for (index, node) in (0..).zip(&cluster.nodes) {
            let wake = Arc::new(Notify::new());
            let prober = Prober {
                node: NodeId(index),
                wanted: wake.clone(),
                outcomes: outcomes.clone(),
                timeout: cluster.monitor.timeout,
                gap_min: interval / ON_DEMAND_SHARE,
            };
            let engine = cluster.engine;
            if engine.speaks_mysql() {
                let opts = ServiceOpts::new(&cluster, node);
                tokio::spawn(prober.run(Mysql { engine, opts }));
            } else {
                let database = &cluster.service.database;
                // A connection that ends by itself is looked into at once: the node may restart.
                let closed = Some(wake.clone());
                let pool = connection::service_pool(&cluster, node, database, tls, closed);
                tokio::spawn(prober.run(Postgres(pool)));
            }
            wanted.push(wake);
        }
        let Past { memory, journal, lags } = past;
        let monitor = Monitor {
            judge: Judge::new(&cluster, memory),
            cluster,
            topology,
            wanted,
            journal: journal.clone(),
            lags: lags.clone(),
            events,
        };
        let task = tokio::spawn(monitor.run(received, evidence, stopped));
        MonitorHandle { stop, task, journal, lags }
    }

    async fn run(
        mut self,
        mut outcomes: mpsc::Receiver<Outcome>,
        mut evidence: mpsc::Receiver<Evidence>,
        mut stopped: watch::Receiver<()>,
    ) -> Stopped {
        let interval = self.cluster.monitor.interval;
        let mut tick = tokio::time::interval(interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When the replicas are asked even if the primary has not answered.
        let mut lead: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                // Only ever closes: the handle asked for the end, or is gone.
                _ = stopped.changed() => break,
                Some(outcome) = outcomes.recv() => {
                    let node = outcome.node;
                    self.take_in(outcome);
                    if self.judge.primary() == Some(node) {
                        lead = None;
                        self.ask_all_but_primary();
                    }
                }
                Some(evidence) = evidence.recv() => self.weigh(&evidence),
                at = tick.tick() => {
                    match self.judge.primary() {
                        Some(primary) => {
                            self.ask(primary);
                            lead = Some(at + interval / LEAD_SHARE);
                        }
                        None => self.ask_all_but_primary(),
                    }
                    self.publish();
                }
                () = until(lead) => {
                    lead = None;
                    self.ask_all_but_primary();
                }
            }
        }
        let past = Past { memory: self.judge.memory(), journal: self.journal, lags: self.lags };
        Stopped { past, evidence }
    }

    fn take_in(&mut self, outcome: Outcome) {
        if let Some(events) = self.events.get(usize::from(outcome.node.0)) {
            let took = outcome.finished_at.saturating_duration_since(outcome.started_at);
            match outcome.result {
                Ok(_) => events.probe_ok(took),
                Err(_) => events.probe_failed(took),
            }
        }
        if let Err(error) = &outcome.result {
            let node = &self.cluster.nodes[usize::from(outcome.node.0)].name;
            tracing::debug!(cluster = %self.cluster.name, %node, %error, "a probe failed");
        }
        self.judge.note(outcome);
        self.publish();
    }

    fn weigh(&mut self, evidence: &Evidence) {
        match evidence {
            Evidence::Failed { node, error } => {
                tracing::debug!(cluster = %self.cluster.name, node = node.0, %error,
                    "a session reports a failure");
                self.judge.accuse(*node);
                self.ask(*node);
            }
            Evidence::NotPrimary { node } => self.ask(*node),
            Evidence::Ordered => self.publish(),
            // The replicas follow as soon as the primary has answered.
            Evidence::ProbeNow => match self.judge.primary() {
                Some(primary) => self.ask(primary),
                None => self.ask_all_but_primary(),
            },
        }
    }

    /// A probe of this node that starts after now. Asking again before it started changes
    /// nothing.
    fn ask(&self, node: NodeId) {
        if let Some(wanted) = self.wanted.get(usize::from(node.0)) {
            wanted.notify_one();
        }
    }

    fn ask_all_but_primary(&self) {
        let primary = self.judge.primary();
        for (index, wanted) in (0..).zip(&self.wanted) {
            if primary != Some(NodeId(index)) {
                wanted.notify_one();
            }
        }
    }

    fn publish(&mut self) {
        let before = self.topology.load_full();
        // After a reload of the configuration the picture of before is better than none, for the
        // one round that it takes.
        if before.primary.is_some() && !self.judge.is_settled() {
            return;
        }
        let now = Instant::now();
        let orders = self.topology.orders();
        self.judge.heed(&orders);
        let mut next = self.judge.snapshot(now);
        orders.mark(&mut next);
        for (change, text) in journal::changes(&before, &next) {
            // Nothing is wrong before all nodes had their chance.
            if change == journal::Change::StillNoPrimary && !self.judge.is_settled() {
                continue;
            }
            self.tell(change, &text);
            let text = Arc::from(text);
            self.journal.add(journal::Entry { at: now, wall: SystemTime::now(), change, text });
        }
        self.lags.add(&next, now);
        self.topology.publish(next);
    }

    fn tell(&self, change: journal::Change, text: &str) {
        use journal::Change;
        let cluster = &self.cluster.name;
        match change {
            Change::PrimaryLost { .. } | Change::StillNoPrimary => {
                tracing::error!(%cluster, "{text}");
            }
            Change::Unhealthy { .. } | Change::LeftReads { .. } => {
                tracing::warn!(%cluster, "{text}");
            }
            _ => tracing::info!(%cluster, "{text}"),
        }
    }
}

impl MonitorHandle {
    /// Role changes, read-set changes and failovers, oldest first.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    pub fn lags(&self) -> &Arc<Lags> {
        &self.lags
    }

    /// Ends the monitor and its connections. `None` if it had panicked.
    pub async fn stop(self) -> Option<Stopped> {
        drop(self.stop);
        self.task.await.ok()
    }
}

/// Never, if there is no such moment.
async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
