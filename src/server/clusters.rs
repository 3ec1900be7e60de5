//! The parts of each cluster (monitor, gate, catalogs, pools), and how they follow a reload.

use crate::admin::{ClusterView, sources};
use crate::config::tls::{ServerTlsConnector, TlsError};
use crate::config::{self, Config};
use crate::failover::Gate;
use crate::frontend::cluster::ClusterHandle;
use crate::frontend::commits::Commits;
use crate::metrics::{ControlMetrics, PoolRegistry};
use crate::monitor::catalog::{PostgresCatalogs, PostgresLoader};
use crate::monitor::{Memory, Monitor, MonitorHandle, first_snapshot};
use crate::pool::{Lend, Pools};
use crate::topology::Topology;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// One cluster that is watched and served.
pub struct Running {
    pub handle: Arc<ClusterHandle>,
    pub tls: Arc<ServerTlsConnector>,
}

struct Watched {
    running: Arc<Running>,
    monitor: MonitorHandle,
    followers: Vec<JoinHandle<()>>,
}

/// All clusters.
pub struct ClusterSet {
    lenders: Vec<mpsc::Sender<Lend>>,
    pools: Arc<PoolRegistry>,
    control: Arc<ControlMetrics>,
    watched: Vec<Watched>,
}

/// A new configuration whose files could be read.
pub struct Prepared {
    clusters: Vec<(Arc<config::Cluster>, Arc<ServerTlsConnector>)>,
}

type Failed = (Arc<str>, TlsError);

impl ClusterSet {
    pub fn new(
        lenders: Vec<mpsc::Sender<Lend>>,
        pools: Arc<PoolRegistry>,
        control: Arc<ControlMetrics>,
    ) -> ClusterSet {
        ClusterSet { lenders, pools, control, watched: Vec::new() }
    }

    /// Reads what the configuration names; changes nothing.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, Failed> {
        let clusters = config.clusters.iter().map(|cluster| {
            match ServerTlsConnector::new(&cluster.server_tls) {
                Ok(tls) => Ok((cluster.clone(), Arc::new(tls))),
                Err(error) => Err((cluster.name.clone(), error)),
            }
        });
        Ok(Prepared { clusters: clusters.collect::<Result<_, _>>()? })
    }

    pub async fn apply(&mut self, config: &Config) -> Result<(), Failed> {
        let prepared = self.prepare(config)?;
        self.commit(prepared).await;
        Ok(())
    }

    /// Replaces the clusters. One whose nodes stay the same keeps its snapshot, and what its
    /// monitor remembers of timelines is never forgotten.
    pub async fn commit(&mut self, prepared: Prepared) {
        let mut old = std::mem::take(&mut self.watched);
        for (index, (cluster, tls)) in prepared.clusters.into_iter().enumerate() {
            let before = old
                .iter()
                .position(|watched| watched.running.handle.config.name == cluster.name)
                .map(|at| old.swap_remove(at));
            let watched = self.start(index, cluster, tls, before).await;
            self.watched.push(watched);
        }
        for watched in old {
            watched.stop().await;
        }
    }

    async fn start(
        &self,
        index: usize,
        cluster: Arc<config::Cluster>,
        tls: Arc<ServerTlsConnector>,
        before: Option<Watched>,
    ) -> Watched {
        let mut memory = Memory::default();
        let mut kept = None;
        if let Some(before) = before {
            let same = same_nodes(&before.running.handle.config, &cluster);
            let topology = before.running.handle.topology.clone();
            if let Some(stopped) = before.stop().await {
                memory = stopped.memory;
                kept = same.then_some((topology, stopped.evidence));
            }
        }
        let (topology, evidence) = kept.unwrap_or_else(|| Topology::new(first_snapshot(&cluster)));
        let probes = cluster.nodes.iter().map(|node| self.control.node(&cluster.name, &node.name));
        let monitor = Monitor::spawn_counted(
            cluster.clone(),
            topology.clone(),
            evidence,
            &tls,
            memory,
            probes.collect(),
        );
        let loader = PostgresLoader::new(cluster.clone(), topology.clone(), tls.clone());
        let interval = cluster.monitor.catalog_interval;
        let events = self.control.cluster(&cluster.name);
        let catalogs = PostgresCatalogs::new(loader, interval, Handle::current());
        let catalogs = Arc::new(catalogs.counted(events.clone()));
        let follower = {
            let (catalogs, topology) = (catalogs.clone(), topology.clone());
            tokio::spawn(async move { catalogs.follow(&topology).await })
        };
        let counter = tokio::spawn(crate::admin::failovers::count(topology.clone(), events));
        let pools = Pools::new(
            cluster.clone(),
            topology.clone(),
            tls.clone(),
            self.pools.clone(),
            self.lenders.clone(),
        );
        let handle = ClusterHandle {
            index,
            gate: Arc::new(Gate::new(cluster.gate.hold, cluster.gate.waiting_max)),
            config: cluster,
            topology,
            catalogs,
            pools: Arc::new(pools),
            commits: Commits::new(self.lenders.len()),
        };
        let running = Arc::new(Running { handle: Arc::new(handle), tls });
        Watched { running, monitor, followers: vec![follower, counter] }
    }

    pub fn handles(&self) -> Vec<Arc<ClusterHandle>> {
        self.watched.iter().map(|watched| watched.running.handle.clone()).collect()
    }

    pub fn running(&self) -> Vec<Arc<Running>> {
        self.watched.iter().map(|watched| watched.running.clone()).collect()
    }

    pub fn views(&self) -> Vec<ClusterView> {
        let view = |watched: &Watched| {
            let handle = &watched.running.handle;
            ClusterView {
                name: handle.config.name.clone(),
                topology: handle.topology.clone(),
                needs_primary: true,
                failovers: sources::failovers(watched.monitor.journal(), &handle.topology),
                lag_history: sources::lag_history(watched.monitor.lags(), &handle.topology),
            }
        };
        self.watched.iter().map(view).collect()
    }

    pub async fn stop(&mut self) {
        for watched in std::mem::take(&mut self.watched) {
            watched.stop().await;
        }
    }
}

impl Watched {
    async fn stop(self) -> Option<crate::monitor::Stopped> {
        for follower in self.followers {
            follower.abort();
        }
        self.monitor.stop().await
    }
}

/// Whether two configurations of a cluster name the same nodes in the same order, so that node
/// ids keep their meaning.
fn same_nodes(before: &config::Cluster, after: &config::Cluster) -> bool {
    before.nodes.len() == after.nodes.len()
        && before.nodes.iter().zip(&after.nodes).all(|(before, after)| {
            before.name == after.name
                && before.address == after.address
                && before.zone == after.zone
                && before.weight == after.weight
        })
}
