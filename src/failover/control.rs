//! The task that changes a cluster's primary: when it is lost, if the configuration wants that, and
//! when an operator asks for it. One change at a time.

use super::audit::{Act, Audit, Kind};
use super::command;
use super::detect::{self, Signs, Verdict};
use super::etcd::Etcd;
use super::lease::{Lease, Terms};
use super::reconnect::Reconnection;
use super::servers::{LeftOut, Part, Servers};
use super::strays::Stray;
use super::takeover::bounded;
use super::unreplaced::Unreplaced;
use crate::config::tls::ServerTlsConnector;
use crate::config::{Cluster, FailoverMode, LeaseTerms, NodeConfig};
use crate::topology::{Evidence, Lost, Snapshot, Topology};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Orders on their way; an operator gives one at a time.
const ORDERS_MAX: usize = 4;
/// The monitor makes a snapshot at once when it is told of an order; a busy machine needs longer.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a proxy without the lease looks whether it has it.
const LEASE_INTERVAL: Duration = Duration::from_millis(200);
/// How often an old primary is looked for that has to be made a replica again.
const RETURN_INTERVAL: Duration = Duration::from_secs(1);

/// An operator's order.
struct Order {
    to: Arc<str>,
    timeout: Duration,
    /// Hears the number of the record, or why nothing was begun.
    begun: oneshot::Sender<Result<u64, String>>,
}

/// A cluster's task as others see it. The task ends when the last of these is dropped.
#[derive(Debug, Clone)]
pub struct Control {
    orders: mpsc::Sender<Order>,
    audit: Arc<Audit>,
    servers: Arc<ArcSwap<Servers>>,
}

impl Control {
    /// Starts the task on the current runtime, which must be the control plane's.
    pub fn spawn(
        cluster: Arc<Cluster>,
        topology: Arc<Topology>,
        tls: Arc<ServerTlsConnector>,
        audit: Arc<Audit>,
    ) -> (Control, JoinHandle<()>) {
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        let servers = Arc::new(ArcSwap::from_pointee(Servers::new(cluster, tls)));
        let control = Control { orders, audit: audit.clone(), servers: servers.clone() };
        let task = Task {
            topology,
            audit,
            servers,
            signs: Signs::default(),
            reconnection: Reconnection::default(),
            retry_at: None,
            outcast: None,
            strays: Vec::new(),
            unreplaced: None,
            lease: None,
        };
        (control, tokio::spawn(task.run(received)))
    }

    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    /// Another configuration for the same nodes; a change that is under way ends under the old one.
    pub fn reconfigure(&self, cluster: Arc<Cluster>, tls: Arc<ServerTlsConnector>) {
        self.servers.store(Arc::new(Servers::new(cluster, tls)));
    }

    /// Makes `to` the primary in the place of the one that there is. Gives the number of its
    /// record as soon as it has begun, or why it is not.
    pub async fn switch_over(&self, to: &str, timeout: Duration) -> Result<u64, String> {
        let (begun, answer) = oneshot::channel();
        let order = Order { to: to.into(), timeout, begun };
        self.orders.try_send(order).map_err(|_| "another change is under way".to_owned())?;
        answer.await.unwrap_or_else(|_| Err("the proxy ends".to_owned()))
    }
}

/// The task's state between two changes.
pub(super) struct Task {
    pub(super) topology: Arc<Topology>,
    audit: Arc<Audit>,
    pub(super) servers: Arc<ArcSwap<Servers>>,
    signs: Signs,
    pub(super) reconnection: Reconnection,
    /// No promotion before this.
    retry_at: Option<Instant>,
    /// The primary before, while it is neither a replica nor known to be off for good, and when to
    /// look for it.
    outcast: Option<(Arc<str>, Instant)>,
    /// Replicas that could not be told to follow the primary of now, or do not follow it.
    pub(super) strays: Vec<(Arc<str>, Stray)>,
    /// Who was to be replaced last, if nobody was promoted.
    pub(super) unreplaced: Option<Unreplaced>,
    /// Under the terms of the configuration that is in force; `None`: there is no other proxy.
    lease: Option<(LeaseTerms, Option<Arc<Lease>>)>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut changed = self.topology.subscribe();
        let mut returns = tokio::time::interval(RETURN_INTERVAL);
        loop {
            let look_again = self.look().await;
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => {
                        self.reconnection.ended().await;
                        self.obey(order).await;
                    }
                    None => return,
                },
                () = self.reconnection.ended(), if self.reconnection.is_under_way() => {
                    self.signs.asked = Some(Instant::now());
                }
                _ = changed.changed() => {}
                () = until(look_again) => {}
                _ = returns.tick(), if !self.reconnection.is_under_way() => {
                    self.look_after_outcast().await;
                    self.look_after_strays().await;
                    self.look_after_unreplaced().await;
                }
            }
        }
    }

    /// Looks at the newest snapshot and promotes if it has to be; when to look again without a
    /// new one.
    async fn look(&mut self) -> Option<Instant> {
        let servers = self.servers.load_full();
        let (snapshot, now) = (self.topology.load_full(), Instant::now());
        self.follow_terms(&servers.cluster, &snapshot);
        self.signs.see(&snapshot, now);
        let config = &servers.cluster.failover;
        if config.mode == FailoverMode::Observe || snapshot.hold != crate::topology::Hold::Nothing {
            return None;
        }
        if detect::is_in_doubt(&snapshot, &servers.cluster, &self.signs, now)
            && self.may_act().is_ok()
        {
            self.ask_replicas_to_reconnect(&servers, &snapshot);
        }
        let verdict = detect::verdict(&snapshot, config, &self.signs, now);
        let acts = matches!(verdict, Verdict::Doubtful | Verdict::Down(_));
        if acts && let Err(error) = self.may_act() {
            tracing::debug!(cluster = %servers.cluster.name, "not promoting: {error}");
            return Some(now + LEASE_INTERVAL);
        }
        match (verdict, self.retry_at.filter(|at| *at > now)) {
            (Verdict::Nothing, _) => None,
            (Verdict::Suspect(until), _) => Some(until),
            (_, Some(retry)) => Some(retry),
            (Verdict::Doubtful, None) => {
                self.ask_replicas_to_reconnect(&servers, &snapshot);
                Some(now + detect::RECONNECT)
            }
            (Verdict::Down(lost), None) => {
                self.take_over(&servers, &snapshot, &lost).await;
                self.signs.asked = None;
                Some(Instant::now() + config.retry)
            }
        }
    }

    fn ask_replicas_to_reconnect(&mut self, servers: &Servers, snapshot: &Snapshot) {
        if !self.reconnection.is_under_way() {
            self.reconnection.begin(&self.topology, servers, snapshot);
        }
        self.signs.ask(&servers.cluster.failover, Instant::now());
    }

    /// The lease of the configuration of now. Who has never seen a primary does not ask for it: it
    /// could not replace one that is gone, and would keep those from it who can.
    fn follow_terms(&mut self, cluster: &Cluster, snapshot: &Snapshot) {
        let terms = &cluster.failover.lease;
        if self.lease.as_ref().map(|(terms, _)| terms) != terms.as_ref() {
            self.lease = terms.clone().map(|terms| (terms, None));
        }
        let has_seen = snapshot.primary.is_some() || snapshot.lost.is_some();
        if let Some((terms, lease @ None)) = &mut self.lease
            && has_seen
        {
            let etcd = Etcd::new(&terms.remote, cluster.monitor.timeout);
            let key = format!("{}/{}/promoter", terms.prefix, cluster.name);
            *lease = Some(Lease::spawn(Terms { etcd, key, name: own_name(), life: terms.life }));
        }
    }

    /// Whether this proxy may change the primary at this moment.
    pub(super) fn may_act(&self) -> Result<(), String> {
        match &self.lease {
            Some((_, Some(lease))) => lease.check(Instant::now()),
            Some((_, None)) => Err("this proxy has not seen a primary yet".to_owned()),
            None => Ok(()),
        }
    }

    async fn take_over(&mut self, servers: &Servers, snapshot: &Snapshot, lost: &Lost) {
        let old = snapshot.node(lost.node).name.clone();
        tracing::warn!(cluster = %servers.cluster.name, "{old} is lost: promoting a replica");
        let act = self.audit.begin(Kind::Failover, &old, None);
        let done = super::takeover::run(self, servers, &act, lost).await;
        self.retry_at = match &done {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(cluster = %servers.cluster.name, "nothing was promoted: {error}");
                Some(Instant::now() + servers.cluster.failover.retry)
            }
        };
        act.end(done.as_ref().copied().map_err(String::as_str));
    }

    async fn obey(&mut self, order: Order) {
        let servers = self.servers.load_full();
        let snapshot = self.topology.load_full();
        let Order { to, timeout, begun } = order;
        let pair =
            self.may_act().and_then(|()| super::switchover::pair(&servers.cluster, &snapshot, &to));
        let pair = match pair {
            Ok(pair) => pair,
            Err(error) => {
                // Whoever asked may be gone.
                let _ = begun.send(Err(error));
                return;
            }
        };
        let act = self.audit.begin(Kind::Switchover, &pair.from.name, Some(pair.to.name.clone()));
        let _ = begun.send(Ok(act.id));
        let done = super::switchover::run(self, &servers, &act, &pair, timeout).await;
        if let Err(error) = &done {
            tracing::error!(cluster = %servers.cluster.name, "the switchover failed: {error}");
        }
        act.end(done.as_ref().copied().map_err(String::as_str));
    }

    /// From now on the server is looked for: it is to become a replica.
    pub(super) fn look_for(&mut self, name: &Arc<str>, from: Instant) {
        self.outcast = Some((name.clone(), from));
    }

    /// The primary before is back, and no replica: it is made harmless if it takes writes, and a
    /// replica if it can be.
    async fn look_after_outcast(&mut self) {
        let due = self.outcast.clone().filter(|(_, from)| *from <= Instant::now());
        let Some((name, _)) = due else { return };
        if self.may_act().is_err() {
            return;
        }
        let snapshot = self.topology.load_full();
        let (Some(node), Some(primary)) = (snapshot.node_by_name(&name), snapshot.primary) else {
            return;
        };
        if primary == node.id {
            self.outcast = None;
            return;
        }
        let servers = self.servers.load_full();
        let old = &servers.cluster.nodes[usize::from(node.id.0)];
        let new = &servers.cluster.nodes[usize::from(primary.0)];
        let bound = servers.patience();
        // Only whoever answers.
        let Ok(Ok(standing)) = timeout(bound, servers.standing(old)).await else { return };
        self.outcast = None;
        if standing.part == Part::Replica {
            return;
        }
        tracing::warn!(node = %name, "the old primary is back, and no replica");
        let act = self.audit.begin(Kind::Failover, &name, Some(new.name.clone()));
        let takes_writes = standing.part == Part::Primary
            && isolate(&servers, &act, old, servers.patience()).await.is_err();
        self.rejoin(&servers, &act, old, new).await;
        if takes_writes {
            self.look_for(&name, Instant::now() + servers.cluster.failover.retry);
        }
        act.end(Ok(()));
    }

    /// Publishes an order, and waits for the snapshot that says so.
    pub(super) async fn order(
        &self,
        change: impl Fn(&mut crate::topology::Orders),
        holds: impl Fn(&Snapshot) -> bool,
    ) -> Result<(), String> {
        let mut changed = self.topology.subscribe();
        self.topology.order(change);
        let seen = async {
            while !holds(&self.topology.load()) {
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let seen = timeout(PUBLISH_TIMEOUT, seen).await;
        seen.map_err(|_| "the monitor does not follow".to_owned())
    }

    /// Waits until the monitor believes the new primary, and lets requests go there.
    pub(super) async fn open(&self, name: &Arc<str>) -> Result<((), String), String> {
        let mut changed = self.topology.subscribe();
        let believed = async {
            loop {
                {
                    let snapshot = self.topology.load();
                    let primary = snapshot.primary.map(|id| snapshot.node(id));
                    if primary.is_some_and(|node| node.name == *name) {
                        return;
                    }
                }
                self.topology.report(Evidence::ProbeNow);
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        if timeout(PUBLISH_TIMEOUT, believed).await.is_err() {
            let because = self.topology.load().no_primary_because.to_string();
            return Err(format!("the monitor does not believe it: {because}"));
        }
        self.order(
            |orders| {
                orders.fenced = None;
                orders.switching = false;
            },
            |snapshot| snapshot.hold != crate::topology::Hold::Writes,
        )
        .await?;
        Ok(((), "requests go on".to_owned()))
    }

    /// All other replicas are to receive from the new primary; one that cannot is looked for, and
    /// the audit says why.
    pub(super) async fn follow(
        &mut self,
        servers: &Servers,
        act: &Act,
        (old, new): (&NodeConfig, &NodeConfig),
    ) {
        let bound = servers.cluster.failover.step_timeout;
        self.strays.clear();
        for node in others(servers, old, new) {
            let follow = async {
                let told = bounded(bound, servers.follow(node, new)).await?;
                Ok(((), told))
            };
            let what = format!("let {} follow {}", node.name, new.name);
            if act.step(what, follow).await.is_err() {
                self.strays.push((node.name.clone(), Stray::Away));
            }
        }
    }

    /// Makes the old primary a replica of the new one, or marks it.
    pub(super) async fn rejoin(
        &mut self,
        servers: &Servers,
        act: &Act,
        old: &NodeConfig,
        new: &NodeConfig,
    ) {
        let config = &servers.cluster.failover;
        let what = format!("make {} a replica of {}", old.name, new.name);
        let mut for_good = config.rejoin_command.is_none();
        let work = async {
            let by_sql = timeout(config.step_timeout, servers.rejoin(old, new)).await;
            let error = match by_sql {
                Ok(Ok(told)) => return Ok(((), told)),
                Ok(Err(LeftOut::ForGood(error))) => error,
                Ok(Err(LeftOut::ForNow(error))) => {
                    for_good = false;
                    error
                }
                Err(_) => {
                    for_good = false;
                    format!("no answer within {:?}", config.step_timeout)
                }
            };
            let Some(line) = &config.rejoin_command else {
                return Err(format!("{error}; it is left out until it is rebuilt or rewound"));
            };
            let nodes = (old, Some(new));
            let bound = config.command_timeout;
            bounded(bound, servers.checkpoint(new)).await?;
            command::run(line, &servers.cluster.name, nodes, bound).await.map(|told| ((), told))
        };
        if act.step(what, work).await.is_err() && !for_good {
            self.look_for(&old.name, Instant::now() + config.retry);
        }
    }
}

/// The nodes that are neither of the two.
pub(super) fn others<'a>(
    servers: &'a Servers,
    one: &NodeConfig,
    two: &NodeConfig,
) -> impl Iterator<Item = &'a NodeConfig> {
    let (one, two) = (one.name.clone(), two.name.clone());
    servers.cluster.nodes.iter().filter(move |node| node.name != one && node.name != two)
}

/// Makes a server that must not be the primary any more harmless, if it can be reached: read-only,
/// and without clients.
pub(super) async fn isolate(
    servers: &Servers,
    act: &Act,
    node: &NodeConfig,
    bound: Duration,
) -> Result<(), String> {
    let work = async {
        let work = async {
            servers.set_read_only(node, true).await?;
            servers.terminate(node).await
        };
        let ended =
            timeout(bound, work).await.map_err(|_| format!("no answer within {bound:?}"))??;
        Ok(((), format!("it is read-only, and {ended} sessions were ended")))
    };
    act.step(format!("set {} read-only", node.name), work).await
}

/// What the others see: the machine, the process, and when it asked first.
fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}:{}:{}", host.trim(), std::process::id(), since.as_millis())
}

/// Never, if there is no such moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
