//! From a need to a server connection: choose a node, take a connection of its pool, and where
//! there is none yet, wait: at the gate for a primary, for a replica to catch up, in the queue.

use super::active::{Active, Server};
use super::conversation::Conversation;
use super::errors::{self, Code};
use super::fault::{Fault, Refused};
use super::plan::Request;
use super::{LocalPool, Pooled};
use crate::backend::mysql::connection::ConnectError;
use crate::backend::{Fault as Whose, ServerConnection};
use crate::failover::GateError;
use crate::frontend::choice::{
    COMMIT_WAIT, COMMIT_WAITS_MAX, catch_up_limit, caught_up, choose_node, is_still_right,
    primary_moves,
};
use crate::frontend::worker::Running;
use crate::metrics::{GateOutcome, NodeIndex, RouteReason};
use crate::pool::PoolKey;
use crate::pool::local::{Count, PoolError, Take};
use crate::protocol::mysql::capabilities::Capabilities;
use crate::route::Choice;
use crate::session::{Class, Need};
use crate::topology::{Epoch, Evidence, NodeId, Snapshot};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;
use tokio::time::{timeout, timeout_at};

/// No capability has this bit.
const WITHOUT_SCHEMA: u64 = 1 << 63;

/// What came of a wait during which the client was watched.
enum Waited<T> {
    Done(T),
    Cancelled,
}

/// Why there is no connection.
enum Trouble {
    /// The client is told; the session goes on.
    Refused(Refused),
    /// The node cannot be used now; another one may do, or later.
    Node,
}

impl Conversation {
    /// Takes a server connection that meets the need, or says why the command is refused.
    pub(super) async fn acquire(
        &mut self,
        need: &Need,
        request: &Request,
    ) -> Result<Result<(), Refused>, Fault> {
        let owner = Some(self.entry.process_id).filter(|_| self.recalls(request));
        if self.acquire_idle(need, owner) {
            return Ok(Ok(()));
        }
        // Boxed: an idle conversation is not to carry the memory of a wait.
        Box::pin(self.acquire_slowly(need.clone())).await
    }

    pub(super) async fn acquire_slowly(
        &mut self,
        mut need: Need,
    ) -> Result<Result<(), Refused>, Fault> {
        let handle = self.cluster.handle.clone();
        let deadline = handle.gate.deadline();
        let mut may_wait = true;
        let mut waited_for = None;
        loop {
            match self.choose(&need, may_wait) {
                Choice::NoPrimary => {
                    if let Err(refused) = self.wait_at_gate(deadline).await? {
                        return Ok(Err(refused));
                    }
                }
                Choice::CatchUp(reason) => {
                    self.wait_for_replica(&need).await?;
                    may_wait = false;
                    waited_for = Some(reason);
                }
                Choice::Refuse(reason) => {
                    let message = format!("no replica can serve this read: {}", reason.explain());
                    return Ok(Err(Refused::new(errors::NOT_SERVED, message)));
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

    /// The way of nearly every command: the node is known and has an idle connection here.
    fn acquire_idle(&mut self, need: &Need, owner: Option<i32>) -> bool {
        let cluster = self.cluster.clone();
        let snapshot = cluster.handle.topology.load();
        let choice = choose_node(&cluster, &self.worker, &snapshot, need, true);
        let Choice::Node(node, reason) = choice else { return false };
        let pool = self.pool(node);
        let epoch = (snapshot.primary == Some(node)).then_some(snapshot.epoch);
        let stats = self.worker.stats();
        let count = Count { stats: &stats, cluster: cluster.handle.index };
        let (secret, now) = (&self.identity.secret, Instant::now());
        let owner = owner.or(Some(self.entry.process_id));
        let take = Take { secret, epoch, now, wanted: None, owner, count };
        let Some(pooled) = pool.try_take(&take) else { return false };
        self.bind(&snapshot, (node, reason), pooled, now);
        true
    }

    fn choose(&self, need: &Need, may_wait: bool) -> Choice {
        let snapshot = self.cluster.handle.topology.load();
        choose_node(&self.cluster, &self.worker, &snapshot, need, may_wait)
    }

    /// A connection of an older epoch must not be used as the primary's.
    fn epoch_for(&self, node: NodeId) -> Option<Epoch> {
        let snapshot = self.cluster.handle.topology.load();
        (snapshot.primary == Some(node)).then_some(snapshot.epoch)
    }

    /// A session without a schema has pools of its own: a connection that has one cannot lose it.
    fn pool(&mut self, node: NodeId) -> Rc<LocalPool> {
        let with_schema = self.followed.schema.is_some();
        let pools = &mut self.pools[usize::from(with_schema)];
        let index = usize::from(node.0);
        if pools.len() <= index {
            pools.resize(index + 1, None);
        }
        let flags = flags(self.capabilities, with_schema);
        let pool = pools[index].get_or_insert_with(|| {
            let user = self.identity.user.clone();
            self.cluster.pools.get(&PoolKey { node, user, database: "".into(), flags })
        });
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
        let owner = Some(self.entry.process_id);
        let taking = async {
            let count = Count { stats: &stats, cluster };
            let (secret, now) = (&identity.secret, Instant::now());
            let take = Take { secret, epoch, now, wanted: None, owner, count };
            let asked = pool.take(&take);
            // A command that waits for a primary goes where the primary goes.
            tokio::select! {
                taken = asked => Some(taken),
                () = primary_moves(&topology, epoch) => None,
            }
        };
        let bounded = timeout_at(deadline, taking);
        Ok(match self.watching(bounded).await? {
            Waited::Cancelled => Err(Trouble::Refused(interrupted())),
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
            pooled.connection.life().epoch,
        )
    }

    async fn wait_at_gate(
        &mut self,
        deadline: tokio::time::Instant,
    ) -> Result<Result<(), Refused>, Fault> {
        let handle = self.cluster.handle.clone();
        let since = Instant::now();
        self.worker.stats().gate_entered(handle.index);
        let waited = self.watching(handle.gate.wait_for_primary(&handle.topology, deadline)).await;
        let (outcome, result) = match waited {
            Ok(Waited::Done(Ok(()))) => (GateOutcome::Opened, Ok(Ok(()))),
            Ok(Waited::Done(Err(error))) => {
                let (outcome, code) = match error {
                    GateError::TimedOut { .. } => (GateOutcome::TimedOut, errors::NO_PRIMARY),
                    GateError::Full { .. } => (GateOutcome::Full, errors::TOO_MANY_CONNECTIONS),
                };
                (outcome, Ok(Err(Refused::new(code, error.to_string()))))
            }
            Ok(Waited::Cancelled) => (GateOutcome::Abandoned, Ok(Err(interrupted()))),
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
            return Ok(Err(Refused::new(errors::NO_PRIMARY, message)));
        }
        let mut changed = self.cluster.handle.topology.subscribe();
        let interval = self.cluster.handle.config.monitor.interval;
        Ok(match self.watching(timeout(interval, changed.changed())).await? {
            Waited::Cancelled => Err(interrupted()),
            Waited::Done(_) => Ok(()),
        })
    }

    /// A read that moves from a replica to the primary waits for the commits that were under way
    /// when the replica answered: with semi-synchronous replication a replica may show a commit
    /// before the primary does. Gives the instant of that answer, when there is something to wait
    /// for.
    pub(super) fn commits_to_wait_for(&self, request: &Request, need: &Need) -> Option<Instant> {
        if !matches!(request.class, Class::Read | Class::Begin(_)) || self.active.is_some() {
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

    /// The primary is another one, and does not have what the session has written: the client is
    /// told, once, in the place of the answer to its next command.
    pub(super) fn lost_write(&mut self) -> Option<Refused> {
        let handle = &self.cluster.handle;
        let snapshot = handle.topology.load();
        let primary = snapshot.node(snapshot.primary?);
        let gtids = self.session.positions.lost_on(primary, snapshot.epoch)?;
        self.worker.stats().lost_write(handle.index);
        let (cluster, node) = (&handle.config.name, &primary.name);
        let user = &self.identity.user;
        tracing::error!(%cluster, %user, %gtids, "{node} became the primary without these writes");
        let message = format!(
            "{node} is the primary now and does not have all that this session has written \
             (up to {gtids}); this statement was not run"
        );
        Some(Refused::new(errors::WRITE_LOST, message))
    }

    /// Waits for something while the client may leave, or somebody may kill what it asked for.
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
            if entry.killed.get() {
                return Poll::Ready(Err(Fault::Killed));
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
        self.worker.stats().routed(handle.index, NodeIndex(node.0), reason);
        if matches!(reason, RouteReason::ReadYourWrites | RouteReason::Monotonic | RouteReason::Lag)
        {
            self.worker.stats().stale_read_avoided(handle.index);
        }
        self.cluster.count_busy(usize::from(node.0), true);
        self.entry.bind(Some(Running::Mysql(pooled.connection.kill.clone())));
        let server = Server {
            pooled,
            pool: self.pool(node),
            node,
            incarnation: snapshot.node(node).incarnation,
            is_primary: snapshot.primary == Some(node),
        };
        let (outbox, read) = (self.worker.take_buffer(), self.worker.take_buffer());
        let mut active = Active::new(server, outbox, read);
        active.progress.started = Some(now);
        self.active = Some(Box::new(active));
    }
}

/// What tells pools of one user apart, for a session with and without a schema.
fn flags(capabilities: Capabilities, with_schema: bool) -> u64 {
    let flags = capabilities & Capabilities::OF_SESSION;
    if with_schema { flags.0 } else { flags.0 | WITHOUT_SCHEMA }
}

fn trouble(error: &PoolError<ConnectError>, on_primary: bool) -> Trouble {
    let refused = |code: Code| Trouble::Refused(Refused::new(code, error.to_string()));
    let PoolError::Connect { error: connect, .. } = error else {
        return refused(errors::TOO_MANY_CONNECTIONS);
    };
    match <crate::backend::mysql::connection::Connection as ServerConnection>::fault(connect) {
        Whose::Node => Trouble::Node,
        // A user that was just made may not be on a replica yet.
        Whose::Client | Whose::Config if !on_primary => Trouble::Node,
        // The server's own words, as on a direct connection.
        Whose::Client | Whose::Config => match connect.refusal() {
            Some((errno, sqlstate, message)) => {
                Trouble::Refused(Refused::new(Code::new(errno, sqlstate), message))
            }
            None => refused(errors::NOT_SERVED),
        },
    }
}

fn interrupted() -> Refused {
    Refused::new(errors::INTERRUPTED, "Query execution was interrupted")
}
