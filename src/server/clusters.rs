//! The parts of each cluster (monitor, gate, catalogs, pools), and how they follow a reload.

use crate::admin::{ClusterView, sources};
use crate::config::tls::{ServerTlsConnector, TlsError};
use crate::config::{self, Config};
use crate::failover::{Audit, Control, Gate};
use crate::frontend::cluster::{ClusterHandle, Engine, Mysql, Postgres};
use crate::frontend::commits::Commits;
use crate::metrics::control::ClusterEvents;
use crate::metrics::{ControlMetrics, PoolRegistry};
use crate::monitor::catalog::{PostgresCatalogs, PostgresLoader};
use crate::monitor::catalogs::{Cache, Loader};
use crate::monitor::mysql_catalog::{MysqlCatalogs, MysqlLoader};
use crate::monitor::{Memory, Monitor, MonitorHandle, Past, Stopped, Visibility, first_snapshot};
use crate::pool::{Lend, Pools};
use crate::topology::{Evidence, Orders, Topology};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// One cluster that is watched and served.
pub struct Running<E: Engine = Postgres> {
    pub handle: Arc<ClusterHandle<E>>,
    pub tls: Arc<ServerTlsConnector>,
}

struct Watched<E: Engine> {
    running: Arc<Running<E>>,
    monitor: MonitorHandle,
    /// Tells the catalogs of a new primary.
    follower: JoinHandle<()>,
    /// Counts failovers.
    counter: JoinHandle<()>,
    /// What it has done, and who changes the primary; that ends by itself when the last handle is
    /// gone.
    audit: Arc<Audit>,
    control: Control,
}

/// Where each worker hears that another one is short of a connection.
#[derive(Default)]
pub struct Lenders {
    pub postgres: Vec<mpsc::Sender<LendOf<Postgres>>>,
    pub mysql: Vec<mpsc::Sender<LendOf<Mysql>>>,
}

/// A question for an idle connection of an engine's pool.
pub type LendOf<E> = Lend<<E as Engine>::Connection>;

/// The handles of all clusters.
#[derive(Clone)]
pub struct Handles {
    pub postgres: Vec<Arc<ClusterHandle>>,
    pub mysql: Vec<Arc<ClusterHandle<Mysql>>>,
}

/// All clusters.
pub struct ClusterSet {
    tools: Tools,
    postgres: Vec<Watched<Postgres>>,
    mysql: Vec<Watched<Mysql>>,
}

/// What clusters are made with.
struct Tools {
    lenders: Lenders,
    pools: Arc<PoolRegistry>,
    control: Arc<ControlMetrics>,
}

/// An engine whose clusters can be served: its own parts of one.
trait Served: Engine + Sized {
    fn lenders(lenders: &Lenders) -> Vec<mpsc::Sender<LendOf<Self>>>;

    /// With the task that tells them of each change of the primary.
    fn catalogs(
        cluster: &Arc<config::Cluster>,
        topology: &Arc<Topology>,
        tls: &Arc<ServerTlsConnector>,
        events: ClusterEvents,
    ) -> (Arc<Self::Catalogs>, JoinHandle<()>);
}

impl Served for Postgres {
    fn lenders(lenders: &Lenders) -> Vec<mpsc::Sender<LendOf<Postgres>>> {
        lenders.postgres.clone()
    }

    fn catalogs(
        cluster: &Arc<config::Cluster>,
        topology: &Arc<Topology>,
        tls: &Arc<ServerTlsConnector>,
        events: ClusterEvents,
    ) -> (Arc<PostgresCatalogs>, JoinHandle<()>) {
        let loader = PostgresLoader::new(cluster.clone(), topology.clone(), tls.clone());
        follow(loader, cluster, topology, events)
    }
}

impl Served for Mysql {
    fn lenders(lenders: &Lenders) -> Vec<mpsc::Sender<LendOf<Mysql>>> {
        lenders.mysql.clone()
    }

    fn catalogs(
        cluster: &Arc<config::Cluster>,
        topology: &Arc<Topology>,
        _: &Arc<ServerTlsConnector>,
        events: ClusterEvents,
    ) -> (Arc<MysqlCatalogs>, JoinHandle<()>) {
        follow(MysqlLoader::new(cluster.clone(), topology.clone()), cluster, topology, events)
    }
}

fn follow<L: Loader>(
    loader: L,
    cluster: &config::Cluster,
    topology: &Arc<Topology>,
    events: ClusterEvents,
) -> (Arc<Cache<L>>, JoinHandle<()>) {
    // As the pools keep their connections: both make somebody else wait who wants to drop the
    // database.
    let (interval, unused_kept) = (cluster.monitor.catalog_interval, cluster.pool.idle_timeout);
    let catalogs = Cache::new(loader, interval, unused_kept, Handle::current());
    let catalogs = Arc::new(catalogs.counted(events));
    let (follower, topology) = (catalogs.clone(), topology.clone());
    (catalogs, tokio::spawn(async move { follower.follow(&topology).await }))
}

/// A new configuration whose files could be read.
pub struct Prepared {
    clusters: Vec<Opened>,
}

/// A cluster with its TLS files read.
type Opened = (Arc<config::Cluster>, Arc<ServerTlsConnector>);

type Failed = (Arc<str>, TlsError);

impl ClusterSet {
    pub fn new(
        lenders: Lenders,
        pools: Arc<PoolRegistry>,
        control: Arc<ControlMetrics>,
    ) -> ClusterSet {
        let tools = Tools { lenders, pools, control };
        ClusterSet { tools, postgres: Vec::new(), mysql: Vec::new() }
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
        let numbered = prepared.clusters.into_iter().enumerate();
        let (mysql, postgres): (Vec<_>, Vec<_>) =
            numbered.partition(|(_, (cluster, _))| cluster.engine.speaks_mysql());
        self.tools.replace(&mut self.postgres, postgres).await;
        self.tools.replace(&mut self.mysql, mysql).await;
    }

    pub fn handles(&self) -> Handles {
        Handles { postgres: handles(&self.postgres), mysql: handles(&self.mysql) }
    }

    /// Those of PostgreSQL.
    pub fn running(&self) -> Vec<Arc<Running>> {
        self.postgres.iter().map(|watched| watched.running.clone()).collect()
    }

    /// In the order of the configuration.
    pub fn views(&self) -> Vec<ClusterView> {
        let mut views: Vec<_> = self.postgres.iter().map(Watched::view).collect();
        views.extend(self.mysql.iter().map(Watched::view));
        views.sort_by_key(|(index, _)| *index);
        views.into_iter().map(|(_, view)| view).collect()
    }

    pub async fn stop(&mut self) {
        stop_all(std::mem::take(&mut self.postgres)).await;
        stop_all(std::mem::take(&mut self.mysql)).await;
    }
}

impl Tools {
    /// Replaces the clusters of one engine.
    async fn replace<E: Served>(&self, watched: &mut Vec<Watched<E>>, next: Vec<(usize, Opened)>) {
        let mut old = std::mem::take(watched);
        for (index, (cluster, tls)) in next {
            let before = old
                .iter()
                .position(|watched| watched.running.handle.config.name == cluster.name)
                .map(|at| old.swap_remove(at));
            watched.push(match before {
                Some(before) => self.go_on(before, index, cluster, tls).await,
                None => self.start(index, cluster, tls, Memory::default(), Arc::default()),
            });
        }
        stop_all(old).await;
    }

    /// A cluster of which nothing is known but what a monitor of the same name remembers.
    fn start<E: Served>(
        &self,
        index: usize,
        cluster: Arc<config::Cluster>,
        tls: Arc<ServerTlsConnector>,
        memory: Memory,
        audit: Arc<Audit>,
    ) -> Watched<E> {
        let (topology, evidence) = Topology::new(first_snapshot(&cluster));
        let past = Past { memory, ..Past::default() };
        let monitor = self.watch(&cluster, &topology, evidence, &tls, past);
        let events = self.control.cluster(&cluster.name);
        let (catalogs, follower) = E::catalogs(&cluster, &topology, &tls, events.clone());
        let counter = tokio::spawn(crate::admin::failovers::count(topology.clone(), events));
        let visibility = Visibility::spawn(&cluster, topology.clone(), &tls);
        let handle = ClusterHandle {
            index,
            gate: gate(&cluster),
            catalogs,
            pools: self.pools::<E>(&cluster, &topology, &tls),
            commits: Commits::new(self.lenders.postgres.len(), visibility.is_none()),
            visibility,
            topology,
            config: cluster,
        };
        let handle = Arc::new(handle);
        let (config, topology) = (handle.config.clone(), handle.topology.clone());
        let (control, _) = Control::spawn(config, topology, tls.clone(), audit.clone());
        let running = Arc::new(Running { handle, tls });
        Watched { running, monitor, follower, counter, audit, control }
    }

    /// A cluster that was there before, under its new configuration.
    async fn go_on<E: Served>(
        &self,
        before: Watched<E>,
        index: usize,
        cluster: Arc<config::Cluster>,
        tls: Arc<ServerTlsConnector>,
    ) -> Watched<E> {
        let known = before.running.clone();
        let (handle, changed) = (&known.handle, Changed::between(&known.handle.config, &cluster));
        if changed.nodes {
            // The memory is all that holds for other nodes.
            let orders = handle.topology.orders();
            let audit = before.audit.clone();
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
        let Watched { monitor, follower, counter, audit, control, .. } = before;
        control.reconfigure(cluster.clone(), tls.clone());
        let monitor = if changed.login || changed.probes {
            let Some(Stopped { past, evidence }) = monitor.stop().await else {
                follower.abort();
                counter.abort();
                return self.start(index, cluster, tls, Memory::default(), audit);
            };
            self.watch(&cluster, &topology, evidence, &tls, past)
        } else {
            monitor
        };
        let (catalogs, follower) = if changed.login || changed.catalog {
            follower.abort();
            let events = self.control.cluster(&cluster.name);
            E::catalogs(&cluster, &topology, &tls, events)
        } else {
            (handle.catalogs.clone(), follower)
        };
        let pools = if changed.login {
            self.pools::<E>(&cluster, &topology, &tls)
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
            visibility: Visibility::spawn(&cluster, topology.clone(), &tls),
            topology,
            config: cluster,
        };
        let running = Arc::new(Running { handle: Arc::new(handle), tls });
        Watched { running, monitor, follower, counter, audit, control }
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

    fn pools<E: Served>(
        &self,
        cluster: &Arc<config::Cluster>,
        topology: &Arc<Topology>,
        tls: &Arc<ServerTlsConnector>,
    ) -> Arc<Pools<E::Connection>> {
        let (registry, lenders) = (self.pools.clone(), E::lenders(&self.lenders));
        let pools = Pools::new(cluster.clone(), topology.clone(), tls.clone(), registry, lenders);
        Arc::new(pools)
    }
}

fn handles<E: Engine>(watched: &[Watched<E>]) -> Vec<Arc<ClusterHandle<E>>> {
    watched.iter().map(|watched| watched.running.handle.clone()).collect()
}

async fn stop_all<E: Engine>(watched: Vec<Watched<E>>) {
    for watched in watched {
        watched.stop().await;
    }
}

impl<E: Engine> Watched<E> {
    /// With its position in the configuration.
    fn view(&self) -> (usize, ClusterView) {
        let handle = &self.running.handle;
        let view = ClusterView {
            name: handle.config.name.clone(),
            topology: handle.topology.clone(),
            needs_primary: true,
            failovers: sources::failovers(self.monitor.journal(), &handle.topology),
            actions: sources::actions(&self.audit),
            control: Some(self.control.clone()),
            lag_history: sources::lag_history(self.monitor.lags(), &handle.topology),
        };
        (handle.index, view)
    }

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
