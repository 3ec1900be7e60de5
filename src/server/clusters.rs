//! The parts of each cluster (monitor, gate, catalogs, pools), and how they follow a reload.

use crate::admin::{ClusterView, sources};
use crate::backend::postgres::connection::Connection;
use crate::config::tls::{ServerTlsConnector, TlsError};
use crate::config::{self, Config};
use crate::failover::{Audit, Control, Gate};
use crate::frontend::cluster::ClusterHandle;
use crate::frontend::commits::Commits;
use crate::metrics::{ControlMetrics, PoolRegistry};
use crate::monitor::catalog::{PostgresCatalogs, PostgresLoader};
use crate::monitor::{Memory, Monitor, MonitorHandle, Past, Stopped, first_snapshot};
use crate::pool::{Lend, Pools};
use crate::topology::{Evidence, Orders, Topology};
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
    /// Tells the catalogs of a new primary.
    follower: JoinHandle<()>,
    /// Counts failovers.
    counter: JoinHandle<()>,
    /// Changes the primary; ends by itself when the last handle is gone.
    control: Control,
}

/// All clusters.
pub struct ClusterSet {
    lenders: Vec<mpsc::Sender<Lend<Connection>>>,
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
        lenders: Vec<mpsc::Sender<Lend<Connection>>>,
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

    /// Replaces the clusters. What a new configuration does not concern goes on: connections, the
    /// monitor and what it has seen, catalogs, the epoch.
    pub async fn commit(&mut self, prepared: Prepared) {
        let mut old = std::mem::take(&mut self.watched);
        for (index, (cluster, tls)) in prepared.clusters.into_iter().enumerate() {
            let before = old
                .iter()
                .position(|watched| watched.running.handle.config.name == cluster.name)
                .map(|at| old.swap_remove(at));
            let watched = match before {
                Some(before) => self.go_on(before, index, cluster, tls).await,
                None => self.start(index, cluster, tls, Memory::default(), Arc::default()),
            };
            self.watched.push(watched);
        }
        for watched in old {
            watched.stop().await;
        }
    }

    /// A cluster of which nothing is known but what a monitor of the same name remembers.
    fn start(
        &self,
        index: usize,
        cluster: Arc<config::Cluster>,
        tls: Arc<ServerTlsConnector>,
        memory: Memory,
        audit: Arc<Audit>,
    ) -> Watched {
        let (topology, evidence) = Topology::new(first_snapshot(&cluster));
        let past = Past { memory, ..Past::default() };
        let monitor = self.watch(&cluster, &topology, evidence, &tls, past);
        let (catalogs, follower) = self.catalogs(&cluster, &topology, &tls);
        let events = self.control.cluster(&cluster.name);
        let counter = tokio::spawn(crate::admin::failovers::count(topology.clone(), events));
        let handle = ClusterHandle {
            index,
            gate: gate(&cluster),
            catalogs,
            pools: self.pools(&cluster, &topology, &tls),
            commits: Commits::new(self.lenders.len()),
            topology,
            config: cluster,
        };
        let handle = Arc::new(handle);
        let (config, topology) = (handle.config.clone(), handle.topology.clone());
        let (control, _) = Control::spawn(config, topology, tls.clone(), audit);
        let running = Arc::new(Running { handle, tls });
        Watched { running, monitor, follower, counter, control }
    }

    /// A cluster that was there before, under its new configuration.
    async fn go_on(
        &self,
        before: Watched,
        index: usize,
        cluster: Arc<config::Cluster>,
        tls: Arc<ServerTlsConnector>,
    ) -> Watched {
        let known = before.running.clone();
        let (handle, changed) = (&known.handle, Changed::between(&known.handle.config, &cluster));
        if changed.nodes {
            // The memory is all that holds for other nodes.
            let orders = handle.topology.orders();
            let audit = before.control.audit().clone();
            let memory = before.stop().await.map(|stopped| stopped.past.memory);
            let watched = self.start(index, cluster, tls, memory.unwrap_or_default(), audit);
            watched.running.handle.topology.order(|now| *now = Orders::clone(&orders));
            return watched;
        }
        if !changed.login {
            // Files of the same names may hold other certificates by now.
            known.tls.adopt(&tls);
        }
        if handle.index == index && *handle.config == *cluster {
            return before;
        }
        let tls = if changed.login { tls } else { known.tls.clone() };
        let topology = handle.topology.clone();
        let Watched { monitor, follower, counter, control, .. } = before;
        control.reconfigure(cluster.clone(), tls.clone());
        let monitor = if changed.login || changed.probes {
            let Some(Stopped { past, evidence }) = monitor.stop().await else {
                follower.abort();
                counter.abort();
                let audit = control.audit().clone();
                return self.start(index, cluster, tls, Memory::default(), audit);
            };
            self.watch(&cluster, &topology, evidence, &tls, past)
        } else {
            monitor
        };
        let (catalogs, follower) = if changed.login || changed.catalog {
            follower.abort();
            self.catalogs(&cluster, &topology, &tls)
        } else {
            (handle.catalogs.clone(), follower)
        };
        let pools = if changed.login {
            self.pools(&cluster, &topology, &tls)
        } else {
            handle.pools.set_limits(&cluster.pool);
            handle.pools.clone()
        };
        let same_gate = handle.config.gate == cluster.gate;
        let handle = ClusterHandle {
            index,
            gate: if same_gate { handle.gate.clone() } else { gate(&cluster) },
            catalogs,
            pools,
            commits: handle.commits.clone(),
            topology,
            config: cluster,
        };
        let running = Arc::new(Running { handle: Arc::new(handle), tls });
        Watched { running, monitor, follower, counter, control }
    }

    fn watch(
        &self,
        cluster: &Arc<config::Cluster>,
        topology: &Arc<Topology>,
        evidence: mpsc::Receiver<Evidence>,
        tls: &Arc<ServerTlsConnector>,
        past: Past,
    ) -> MonitorHandle {
        let probes = cluster.nodes.iter().map(|node| self.control.node(&cluster.name, &node.name));
        let (cluster, topology) = (cluster.clone(), topology.clone());
        Monitor::spawn_counted(cluster.clone(), topology, evidence, tls, past, probes.collect())
    }

    /// With the task that tells them of each change of the primary.
    fn catalogs(
        &self,
        cluster: &Arc<config::Cluster>,
        topology: &Arc<Topology>,
        tls: &Arc<ServerTlsConnector>,
    ) -> (Arc<PostgresCatalogs>, JoinHandle<()>) {
        let loader = PostgresLoader::new(cluster.clone(), topology.clone(), tls.clone());
        let interval = cluster.monitor.catalog_interval;
        let catalogs = PostgresCatalogs::new(loader, interval, Handle::current());
        let catalogs = Arc::new(catalogs.counted(self.control.cluster(&cluster.name)));
        let (follower, topology) = (catalogs.clone(), topology.clone());
        (catalogs, tokio::spawn(async move { follower.follow(&topology).await }))
    }

    fn pools(
        &self,
        cluster: &Arc<config::Cluster>,
        topology: &Arc<Topology>,
        tls: &Arc<ServerTlsConnector>,
    ) -> Arc<Pools<Connection>> {
        let (registry, lenders) = (self.pools.clone(), self.lenders.clone());
        let pools = Pools::new(cluster.clone(), topology.clone(), tls.clone(), registry, lenders);
        Arc::new(pools)
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
                actions: sources::actions(watched.control.audit()),
                control: Some(watched.control.clone()),
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
    async fn stop(self) -> Option<Stopped> {
        self.follower.abort();
        self.counter.abort();
        self.monitor.stop().await
    }
}

fn gate(cluster: &config::Cluster) -> Arc<Gate> {
    Arc::new(Gate::new(cluster.gate.hold, cluster.gate.waiting_max))
}

/// What a cluster's new configuration concerns. What is not here (pool, routing, gate, databases)
/// is looked up for each request or each session.
struct Changed {
    /// Node ids mean something else: all is new.
    nodes: bool,
    /// Connections are opened in another way.
    login: bool,
    /// How nodes are watched.
    probes: bool,
    catalog: bool,
}

impl Changed {
    fn between(before: &config::Cluster, after: &config::Cluster) -> Changed {
        let places = |cluster: &config::Cluster| -> Vec<_> {
            let place = |node: &config::NodeConfig| (node.name.clone(), node.address.clone());
            cluster.nodes.iter().map(place).collect()
        };
        let probes = |cluster: &config::Cluster| {
            let (monitor, routing) = (&cluster.monitor, &cluster.routing);
            (
                (monitor.interval, monitor.timeout, monitor.failures),
                (routing.lag_max, routing.lag_bytes_max, cluster.pool.connect_timeout),
            )
        };
        let catalog = |cluster: &config::Cluster| {
            let routing = &cluster.routing;
            let rules = (routing.read_functions.clone(), routing.write_functions.clone());
            (cluster.monitor.catalog_interval, rules)
        };
        Changed {
            nodes: before.engine != after.engine || places(before) != places(after),
            login: before.service != after.service || before.server_tls != after.server_tls,
            probes: before.nodes != after.nodes || probes(before) != probes(after),
            catalog: catalog(before) != catalog(after),
        }
    }
}
