//! From a need to a server connection: choose a node, take a connection of its pool, and where
//! there is none yet, wait: at the gate for a primary, for a replica to catch up, in the queue.

use super::active::{Active, Server};
use super::conversation::Conversation;
use super::fault::{Fault, Refused};
use super::{LocalPool, Pooled};
use crate::backend::postgres::connect::{ConnectError, Fault as Whose};
use crate::backend::postgres::connection::WantedDefaults;
use crate::failover::GateError;
use crate::frontend::choice::{
    COMMIT_WAIT, COMMIT_WAITS_MAX, catch_up_limit, caught_up, choose_node, is_still_right,
    primary_moves,
};
use crate::frontend::worker::Running;
use crate::metrics::{GateOutcome, NodeIndex, RouteReason};
use crate::pool::PoolKey;
use crate::pool::local::{Count, PoolError, Take};
use crate::route::Choice;
use crate::session::{Class, Need};
use crate::sql::Defaults;
use crate::topology::{Epoch, Evidence, NodeId, Snapshot};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::time::{timeout, timeout_at};

/// What came of a wait during which the client was watched.
enum Waited<T> {
    Done(T),
    Cancelled,
}

impl Conversation {
    /// Takes a server connection that meets the need, or says why the request is refused.
    pub(super) async fn acquire(&mut self, need: &Need) -> Result<Result<(), Refused>, Fault> {
        if self.acquire_idle(need) {
            return Ok(Ok(()));
        }
        // Boxed: an idle conversation is not to carry the memory of a wait.
        Box::pin(self.acquire_slowly(need.clone())).await
    }

    async fn acquire_slowly(&mut self, mut need: Need) -> Result<Result<(), Refused>, Fault> {
        let mut handle = self.cluster.handle.clone();
        let deadline = handle.gate.deadline();
        let mut may_wait = true;
        let mut waited_for = None;
        loop {
            match self.choose(&need, may_wait) {
                Choice::NoPrimary => {
                    if let Err(refused) = self.wait_at_gate(deadline).await? {
                        return Ok(Err(refused));
                    }
                    if self.cluster.retired.get() && self.session.is_free() {
                        self.move_to_successor()?;
                        handle = self.cluster.handle.clone();
                    }
                }
                Choice::CatchUp(reason) => {
                    self.wait_for_replica(&need).await?;
                    may_wait = false;
                    waited_for = Some(reason);
                }
                Choice::Refuse(reason) => {
                    let message = format!("no replica can serve this read: {}", reason.explain());
                    return Ok(Err(Refused::new("55000", message)));
                }
                Choice::Node(node, reason) => {
                    let pool = self.pool(node);
                    match self.take(&pool, node, deadline).await? {
                        Ok(Some(pooled)) if self.is_still_right(&need, node, &pooled) => {
                            let reason = caught_up(reason, waited_for);
                            let snapshot = handle.topology.load();
                            self.bind(&snapshot, (node, reason), pooled, Instant::now());
                            return Ok(Ok(()));
                        }
                        Ok(Some(_)) => pool.stats.active_closed(),
                        Ok(None) => {}
                        Err(Trouble::Refused(refused)) => return Ok(Err(refused)),
                        Err(Trouble::Node) if handle.topology.load().primary != Some(node) => {
                            need = Need::Primary(RouteReason::NoReplica);
                        }
                        Err(Trouble::Node) => {
                            if let Err(refused) = self.wait_for_change(deadline, &pool).await? {
                                return Ok(Err(refused));
                            }
                        }
                    }
                }
            }
        }
    }

    /// The way of nearly every request: the node is known and has an idle connection here.
    fn acquire_idle(&mut self, need: &Need) -> bool {
        let cluster = self.cluster.clone();
        let snapshot = cluster.handle.topology.load();
        let Choice::Node(node, reason) = self.choose_in(&snapshot, need, true) else {
            return false;
        };
        let pool = self.pool(node);
        let epoch = (snapshot.primary == Some(node)).then_some(snapshot.epoch);
        let stats = self.worker.stats();
        let count = Count { stats: &stats, cluster: cluster.handle.index };
        let take = Take {
            secret: &self.identity.secret,
            epoch,
            now: Instant::now(),
            wanted: self.defaults_on(&snapshot, node),
            owner: Some(self.entry.process_id),
            count,
        };
        let Some(pooled) = pool.try_take(&take) else { return false };
        let now = take.now;
        self.bind(&snapshot, (node, reason), pooled, now);
        true
    }

    /// The defaults of roles and databases that a new connection to the node would have.
    fn defaults_on(&self, snapshot: &Snapshot, node: NodeId) -> Option<WantedDefaults> {
        let Defaults { number, first, since } = self.defaults?;
        let applied = snapshot.primary == Some(node)
            || snapshot.node(node).applied_at.is_some_and(|applied| applied > since);
        Some(WantedDefaults { number, first, applied })
    }

    fn choose(&self, need: &Need, may_wait: bool) -> Choice {
        self.choose_in(&self.cluster.handle.topology.load(), need, may_wait)
    }

    fn choose_in(&self, snapshot: &Snapshot, need: &Need, may_wait: bool) -> Choice {
        choose_node(&self.cluster, &self.worker, snapshot, need, may_wait)
    }

    /// A connection of an older epoch must not be used as the primary's.
    fn epoch_for(&self, node: NodeId) -> Option<Epoch> {
        let snapshot = self.cluster.handle.topology.load();
        (snapshot.primary == Some(node)).then_some(snapshot.epoch)
    }

    fn pool(&mut self, node: NodeId) -> Rc<LocalPool> {
        let index = usize::from(node.0);
        if self.pools.len() <= index {
            self.pools.resize(index + 1, None);
        }
        let identity = &self.identity;
        let pool = self.pools[index].get_or_insert_with(|| {
            let (user, database) = (identity.user.clone(), identity.database.clone());
            self.cluster.pools.get(&PoolKey { node, user, database, flags: 0 })
        });
        if self.asks_sequences {
            pool.shared.asks_sequences.store(true, Ordering::Relaxed);
        }
        pool.clone()
    }

    /// A connection of this pool; `None` when the node is not the one to ask any more.
    async fn take(
        &mut self,
        pool: &Rc<LocalPool>,
        node: NodeId,
        deadline: tokio::time::Instant,
    ) -> Result<Result<Option<Pooled>, Trouble>, Fault> {
        let identity = self.identity.clone();
        let topology = self.cluster.handle.topology.clone();
        let epoch = self.epoch_for(node);
        let stats = self.worker.stats();
        let cluster = self.cluster.handle.index;
        let pool = pool.clone();
        let (wanted, owner) =
            (self.defaults_on(&topology.load(), node), Some(self.entry.process_id));
        let taking = async {
            let count = Count { stats: &stats, cluster };
            let (secret, now) = (&identity.secret, Instant::now());
            let take = Take { secret, epoch, now, wanted, owner, count };
            let asked = pool.take(&take);
            // A request that waits for a primary goes where the primary goes.
            tokio::select! {
                taken = asked => Some(taken),
                () = primary_moves(&topology, epoch) => None,
            }
        };
        let bounded = timeout_at(deadline, taking);
        Ok(match self.watching(bounded).await? {
            Waited::Cancelled => Err(Trouble::Refused(cancelled())),
            Waited::Done(Ok(None)) => Ok(None),
            Waited::Done(Ok(Some(Ok(pooled)))) => Ok(Some(pooled)),
            Waited::Done(Ok(Some(Err(error)))) => Err(trouble(&error, epoch.is_some())),
            Waited::Done(Err(_)) => Err(Trouble::Node),
        })
    }

    /// Whether a connection that took time to get still meets the need.
    fn is_still_right(&self, need: &Need, node: NodeId, pooled: &Pooled) -> bool {
        is_still_right(
            need,
            &self.cluster.handle.topology.load(),
            node,
            pooled.connection.life.epoch,
        )
    }

    /// Returns also when the cluster has been replaced: its successor may have other nodes.
    async fn wait_at_gate(
        &mut self,
        deadline: tokio::time::Instant,
    ) -> Result<Result<(), Refused>, Fault> {
        let handle = self.cluster.handle.clone();
        let since = Instant::now();
        self.worker.stats().gate_entered(handle.index);
        let (cluster, free) = (self.cluster.clone(), self.session.is_free());
        // A reload of the configuration wakes the conversation.
        let replaced = poll_fn(|_| match free && cluster.retired.get() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        let waiting = async {
            tokio::select! {
                waited = handle.gate.wait_for_primary(&handle.topology, deadline) => waited,
                () = replaced => Ok(()),
            }
        };
        let waited = self.watching(waiting).await;
        let (outcome, result) = match waited {
            Ok(Waited::Done(Ok(()))) => (GateOutcome::Opened, Ok(Ok(()))),
            Ok(Waited::Done(Err(error))) => {
                let outcome = match error {
                    GateError::TimedOut { .. } => GateOutcome::TimedOut,
                    GateError::Full { .. } => GateOutcome::Full,
                };
                (outcome, Ok(Err(Refused::new(error.sqlstate(), error.to_string()))))
            }
            Ok(Waited::Cancelled) => (GateOutcome::Abandoned, Ok(Err(cancelled()))),
            Err(fault) => (GateOutcome::Abandoned, Err(fault)),
        };
        self.worker.stats().gate_left(handle.index, since.elapsed(), outcome);
        result
    }

    /// Waits for the first snapshot in which a replica meets the need, as long as the policy
    /// allows.
    async fn wait_for_replica(&mut self, need: &Need) -> Result<(), Fault> {
        let handle = self.cluster.handle.clone();
        let limit = catch_up_limit(&handle.config, need);
        let mut changed = handle.topology.subscribe();
        let need = need.clone();
        let until = Instant::now() + limit;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if matches!(self.choose(&need, true), Choice::Node(..)) {
                return Ok(());
            }
            handle.topology.report(Evidence::ProbeNow);
            if let Waited::Cancelled = self.watching(timeout(left, changed.changed())).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The primary cannot be connected to: waits for the monitor's next word on it.
    async fn wait_for_change(
        &mut self,
        deadline: tokio::time::Instant,
        pool: &LocalPool,
    ) -> Result<Result<(), Refused>, Fault> {
        if tokio::time::Instant::now() >= deadline {
            let message = format!("the primary {} cannot be connected to", pool.node_name());
            return Ok(Err(Refused::new("57P03", message)));
        }
        let mut changed = self.cluster.handle.topology.subscribe();
        let interval = self.cluster.handle.config.monitor.interval;
        Ok(match self.watching(timeout(interval, changed.changed())).await? {
            Waited::Cancelled => Err(cancelled()),
            Waited::Done(_) => Ok(()),
        })
    }

    /// A read that moves from a replica to the primary waits for the commits that were under way
    /// when the replica answered: the primary may not show yet what the replica has shown. Gives
    /// the instant of that answer, when there is something to wait for.
    pub(super) fn commits_to_wait_for(
        &self,
        class: Option<&Class>,
        need: &Need,
    ) -> Option<Instant> {
        if !matches!(class, Some(Class::Read | Class::Begin(_))) {
            return None;
        }
        let handle = &self.cluster.handle;
        if !handle.commits.any() {
            return None;
        }
        let primary = handle.topology.load().primary?;
        let at = self.session.positions.seen_elsewhere(primary)?;
        let waits = handle.commits.any_before(at)
            && matches!(self.choose(need, false), Choice::Node(node, _) if node == primary);
        waits.then_some(at)
    }

    pub(super) async fn wait_for_commits(&mut self, at: Instant) -> Result<(), Fault> {
        let commits = self.cluster.handle.commits.clone();
        for _ in 0..COMMIT_WAITS_MAX {
            if let Waited::Cancelled = self.watching(tokio::time::sleep(COMMIT_WAIT)).await? {
                break;
            }
            if !commits.any_before(at) {
                break;
            }
        }
        Ok(())
    }

    /// Waits for something while the client may leave or cancel.
    async fn watching<T>(&mut self, wait: impl Future<Output = T>) -> Result<Waited<T>, Fault> {
        let mut wait = pin!(wait);
        let hold = self.hold_bytes();
        let entry = self.entry.clone();
        entry.waiting.set(true);
        let outcome = poll_fn(|cx| {
            entry.remember(cx.waker());
            if self.worker.cutting.get() {
                return Poll::Ready(Err(Fault::ShuttingDown));
            }
            if entry.cancelled.replace(false) {
                return Poll::Ready(Ok(Waited::Cancelled));
            }
            if let Poll::Ready(done) = wait.as_mut().poll(cx) {
                return Poll::Ready(Ok(Waited::Done(done)));
            }
            while self.inbox.len() < hold {
                match self.poll_read_client(cx) {
                    Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => {
                        return Poll::Ready(Err(Fault::ClientLeft));
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await;
        entry.waiting.set(false);
        entry.cancelled.set(false);
        outcome
    }

    /// The conversation holds the connection from here on.
    fn bind(
        &mut self,
        snapshot: &Snapshot,
        (node, reason): (NodeId, RouteReason),
        pooled: Pooled,
        now: Instant,
    ) {
        let handle = &self.cluster.handle;
        let index = NodeIndex(node.0);
        self.worker.stats().routed(handle.index, index, reason);
        if matches!(reason, RouteReason::ReadYourWrites | RouteReason::Monotonic | RouteReason::Lag)
        {
            self.worker.stats().stale_read_avoided(handle.index);
        }
        self.cluster.count_busy(usize::from(node.0), true);
        self.entry.bind(Some(Running::Postgres(pooled.connection.cancel.clone())));
        let server = Server {
            pooled,
            node,
            incarnation: snapshot.node(node).incarnation,
            is_primary: snapshot.primary == Some(node),
            pool: self.pools[usize::from(node.0)].clone().expect("its connection was just taken"),
        };
        let mut server = server;
        let clean = server.take_over(self.entry.process_id);
        let mut active: Box<Active> = self.scratch.take_active(&self.worker);
        active.progress.clean = clean;
        active.server = Some(server);
        active.progress.started = Some(now);
        self.active = Some(active);
    }
}

/// Why there is no connection.
enum Trouble {
    /// The client is told; the session goes on.
    Refused(Refused),
    /// The node cannot be used now; another one may do, or later.
    Node,
}

/// `on_primary`: whether the primary was asked.
fn trouble(error: &PoolError<ConnectError>, on_primary: bool) -> Trouble {
    let refused = |sqlstate: &str| Trouble::Refused(Refused::new(sqlstate, error.to_string()));
    match error {
        PoolError::TimedOut { .. } | PoolError::Full { .. } => refused("53300"),
        PoolError::Connect { error: connect, .. } => match (connect.fault(), connect) {
            (Whose::Node, _) => Trouble::Node,
            // A database or a role that was just made may not be on a replica yet.
            (Whose::Client | Whose::Config, _) if !on_primary => Trouble::Node,
            // The server's own words, as on a direct connection.
            (Whose::Client, ConnectError::Server(fields)) => {
                Trouble::Refused(Refused::new(&fields.sqlstate, fields.message.clone()))
            }
            (Whose::Config | Whose::Client, _) => refused(connect.sqlstate()),
        },
    }
}

fn cancelled() -> Refused {
    Refused::new("57014", "canceling statement due to user request")
}

/// How long a login waits for a server that tells it its parameters.
pub(super) const LOGIN_WAIT_MAX: Duration = Duration::from_secs(15);
