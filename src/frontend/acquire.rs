//! From a need to a server connection: choose a node, take a connection of its pool, and where
//! there is none yet, wait: at the gate for a primary, for a replica to catch up, in the queue.
//!
//! The same for every protocol. A [`Seeker`] is a conversation as it is seen from here; what its
//! client is told, and what it does with a connection, is its own.

use super::choice::{
    COMMIT_ASK_AGE, COMMIT_WAIT, COMMITS_GUESS_MAX, COMMITS_WAIT_MAX, catch_up_limit, caught_up,
    choose_node, is_still_right, primary_moves,
};
use super::cluster::{Engine, LocalCluster};
use super::worker::{Entry, Running, Worker};
use crate::backend::{self, ServerConnection};
use crate::failover::GateError;
use crate::metrics::{CommitWait, GateOutcome, NodeIndex, RouteReason};
use crate::pool::local::{Count, LocalPool, PoolError, Take};
use crate::pool::shared::Pooled;
use crate::route::Choice;
use crate::session::{Class, Need, Positions};
use crate::topology::{Epoch, Evidence, NodeId, Snapshot};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::time::timeout;

type Connection<S> = <<S as Seeker>::Engine as Engine>::Connection;
type Secret<S> = <Connection<S> as ServerConnection>::Secret;
type Wanted<S> = <Connection<S> as ServerConnection>::Wanted;
type ConnectError<S> = <Connection<S> as ServerConnection>::Error;

/// Why a request is not served, for the code that the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No replica is fresh enough, and the policy forbids the primary.
    NotServed,
    NoPrimary,
    /// The gate, the pool or its queue is full.
    TooMany,
}

/// A conversation that looks for a server connection.
pub trait Seeker {
    type Engine: Engine;
    /// What its client is told of a request that was not run.
    type Refused;
    /// What ends it.
    type Fault;

    fn cluster(&self) -> &Rc<LocalCluster<Self::Engine>>;
    fn worker(&self) -> &Rc<Worker>;
    fn entry(&self) -> &Rc<Entry>;
    fn positions(&mut self) -> &mut Positions;

    /// The node's pool for this session.
    fn pool(&mut self, node: NodeId) -> Rc<LocalPool<Connection<Self>>>;

    /// What its connections log in with.
    fn secret(&self) -> &Secret<Self>;

    /// What it asks of a connection to the node, beyond the node and the epoch.
    fn wanted(&self, snapshot: &Snapshot, node: NodeId) -> Option<Wanted<Self>>;

    /// How somebody else can cancel what the connection runs.
    fn running(connection: &Connection<Self>) -> Running;

    /// It holds the connection from here on.
    fn hold(&mut self, server: Found<'_, Connection<Self>>);

    fn refused(why: Why, message: String) -> Self::Refused;

    /// The client, or somebody for it, cancelled the request.
    fn cancelled() -> Self::Refused;

    /// The server let nobody in for a reason that no other node would not have.
    fn not_let_in(error: &ConnectError<Self>, message: String) -> Self::Refused;

    /// Whether nothing ties it to the servers that it has used.
    fn is_free(&self) -> bool;

    /// Its cluster has been replaced.
    fn move_to_successor(&mut self) -> Result<(), Self::Fault>;

    /// Why the conversation is to end now, if it is.
    fn ends(&self) -> Option<Self::Fault>;

    fn client_left() -> Self::Fault;

    /// Bytes of requests that may be read while it waits.
    fn hold_bytes(&self) -> usize;

    /// Bytes of requests that have been read.
    fn held_bytes(&self) -> usize;

    fn poll_read_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;
}

/// A connection that meets a need.
pub struct Found<'a, C: ServerConnection> {
    pub pooled: Pooled<C>,
    pub pool: Rc<LocalPool<C>>,
    pub node: NodeId,
    pub snapshot: &'a Snapshot,
    pub now: Instant,
}

/// What came of a wait during which the client was watched.
enum Waited<T> {
    Done(T),
    Cancelled,
}

/// Why there is no connection.
enum Trouble<R> {
    /// The client is told; the session goes on.
    Refused(R),
    /// The node cannot be used now; another one may do, or later.
    Node,
}

/// Takes a server connection that meets the need, or says why the request is refused. `reads`:
/// whether it only reads, and so must not show less than the session has seen elsewhere.
#[inline]
pub async fn acquire<S: Seeker>(
    seeker: &mut S,
    need: &Need,
    reads: bool,
) -> Result<Result<(), S::Refused>, S::Fault> {
    match acquire_idle(seeker, need, reads) {
        Ok(()) => Ok(Ok(())),
        // Boxed: an idle conversation is not to carry the memory of a wait.
        Err(chosen) => Box::pin(acquire_slowly(seeker, need.clone(), reads, Some(chosen))).await,
    }
}

/// As [`acquire`], where the session holds a connection to `node` already: because of what it has
/// done there, not of what it has read.
#[inline]
pub async fn keep<S: Seeker>(
    seeker: &mut S,
    node: Option<NodeId>,
    reads: bool,
) -> Result<(), S::Fault> {
    let Some(node) = node.filter(|_| reads) else { return Ok(()) };
    let cluster = seeker.cluster().clone();
    let seen = commits_to_wait_for(seeker, &cluster.handle.topology.load(), node);
    match seen {
        Some(seen) => Box::pin(wait_for_commits(seeker, seen)).await,
        None => Ok(()),
    }
}

/// Whether requests of this class only read.
pub fn reads(class: Option<&Class>) -> bool {
    matches!(class, Some(Class::Read | Class::Begin(_)))
}

/// The way of nearly every request: the node is known and has an idle connection here. Else gives
/// what was chosen.
fn acquire_idle<S: Seeker>(seeker: &mut S, need: &Need, reads: bool) -> Result<(), Choice> {
    let cluster = seeker.cluster().clone();
    let snapshot = cluster.handle.topology.load();
    let choice = choose_node(&cluster, seeker.worker(), &snapshot, need, true);
    let Choice::Node(node, reason) = choice else { return Err(choice) };
    if reads && commits_to_wait_for(seeker, &snapshot, node).is_some() {
        return Err(choice);
    }
    let pool = seeker.pool(node);
    let stats = seeker.worker().stats();
    let now = Instant::now();
    let take = Take {
        secret: seeker.secret(),
        epoch: epoch_for(&snapshot, node),
        now,
        deadline: None,
        wanted: seeker.wanted(&snapshot, node),
        owner: Some(seeker.entry().process_id),
        count: Count { stats: &stats, cluster: cluster.handle.index },
    };
    let Some(pooled) = pool.try_take(&take) else { return Err(choice) };
    bind(seeker, reason, Found { pooled, pool, node, snapshot: &snapshot, now });
    Ok(())
}

/// Nearly always a wait in the queue of a pool: what else there is to wait for is boxed, so that this
/// stays small.
async fn acquire_slowly<S: Seeker>(
    seeker: &mut S,
    mut need: Need,
    reads: bool,
    mut chosen: Option<Choice>,
) -> Result<Result<(), S::Refused>, S::Fault> {
    let mut handle = seeker.cluster().handle.clone();
    let deadline = handle.gate.deadline();
    let mut may_wait = true;
    let mut waited_for = None;
    let mut commits_waited = !reads;
    loop {
        match chosen.take().unwrap_or_else(|| choose(seeker, &need, may_wait)) {
            Choice::NoPrimary => {
                if let Err(refused) = Box::pin(wait_at_gate(seeker, deadline)).await? {
                    return Ok(Err(refused));
                }
                if seeker.cluster().retired.get() && seeker.is_free() {
                    seeker.move_to_successor()?;
                    handle = seeker.cluster().handle.clone();
                }
            }
            Choice::CatchUp(reason) => {
                Box::pin(wait_for_replica(seeker, &need)).await?;
                may_wait = false;
                waited_for = Some(reason);
            }
            Choice::Refuse(reason) => {
                let message = format!("no replica can serve this read: {}", reason.explain());
                return Ok(Err(S::refused(Why::NotServed, message)));
            }
            Choice::Node(node, reason) => {
                if !commits_waited {
                    let seen = commits_to_wait_for(seeker, &handle.topology.load(), node);
                    if let Some(seen) = seen {
                        commits_waited = true;
                        Box::pin(wait_for_commits(seeker, seen)).await?;
                        continue;
                    }
                }
                let pool = seeker.pool(node);
                match take(seeker, &pool, node, deadline).await? {
                    Ok(Some(pooled)) => {
                        let snapshot = handle.topology.load();
                        let opened = pooled.connection.life().epoch;
                        if !is_still_right(&need, &snapshot, node, opened) {
                            pool.stats.active_closed();
                            continue;
                        }
                        let reason = caught_up(reason, waited_for);
                        let (snapshot, now) = (&*snapshot, Instant::now());
                        bind(seeker, reason, Found { pooled, pool, node, snapshot, now });
                        return Ok(Ok(()));
                    }
                    Ok(None) => {}
                    Err(Trouble::Refused(refused)) => return Ok(Err(refused)),
                    Err(Trouble::Node) if handle.topology.load().primary != Some(node) => {
                        need = Need::Primary(RouteReason::NoReplica);
                    }
                    Err(Trouble::Node) => {
                        let changed = Box::pin(wait_for_change(seeker, deadline, &pool));
                        if let Err(refused) = changed.await? {
                            return Ok(Err(refused));
                        }
                    }
                }
            }
        }
    }
}

fn choose<S: Seeker>(seeker: &S, need: &Need, may_wait: bool) -> Choice {
    let cluster = seeker.cluster();
    choose_node(cluster, seeker.worker(), &cluster.handle.topology.load(), need, may_wait)
}

/// A connection of an older epoch must not be used as the primary's.
fn epoch_for(snapshot: &Snapshot, node: NodeId) -> Option<Epoch> {
    (snapshot.primary == Some(node)).then_some(snapshot.epoch)
}

/// A connection of this pool; `None` when the node is not the one to ask any more.
async fn take<S: Seeker>(
    seeker: &mut S,
    pool: &Rc<LocalPool<Connection<S>>>,
    node: NodeId,
    deadline: tokio::time::Instant,
) -> Result<Result<Option<Pooled<Connection<S>>>, Trouble<S::Refused>>, S::Fault> {
    let handle = seeker.cluster().handle.clone();
    let (epoch, wanted) = {
        let snapshot = handle.topology.load();
        (epoch_for(&snapshot, node), seeker.wanted(&snapshot, node))
    };
    let owner = Some(seeker.entry().process_id);
    let (secret, stats) = (seeker.secret().clone(), seeker.worker().stats());
    let taking = pin!(async {
        let count = Count { stats: &stats, cluster: handle.index };
        let (now, deadline) = (Instant::now(), Some(deadline.into_std()));
        let take = Take { secret: &secret, epoch, now, deadline, wanted, owner, count };
        let asked = pool.take(&take);
        // A request that waits for a primary goes where the primary goes.
        tokio::select! {
            biased;
            taken = asked => Some(taken),
            () = primary_moves(&handle.topology, epoch) => None,
        }
    });
    Ok(match watching(seeker, taking).await? {
        Waited::Cancelled => Err(Trouble::Refused(S::cancelled())),
        Waited::Done(None) => Ok(None),
        Waited::Done(Some(Ok(pooled))) => Ok(Some(pooled)),
        Waited::Done(Some(Err(PoolError::Late))) => Err(Trouble::Node),
        Waited::Done(Some(Err(error))) => Err(trouble::<S>(&error, epoch.is_some())),
    })
}

/// `on_primary`: whether the primary was asked.
fn trouble<S: Seeker>(error: &PoolError<ConnectError<S>>, on_primary: bool) -> Trouble<S::Refused> {
    let PoolError::Connect { error: connect, .. } = error else {
        return Trouble::Refused(S::refused(Why::TooMany, error.to_string()));
    };
    match Connection::<S>::fault(connect) {
        backend::Fault::Node => Trouble::Node,
        // A database or a user that was just made may not be on a replica yet.
        backend::Fault::Client | backend::Fault::Config if !on_primary => Trouble::Node,
        backend::Fault::Client | backend::Fault::Config => {
            Trouble::Refused(S::not_let_in(connect, error.to_string()))
        }
    }
}

/// Returns also when the cluster has been replaced: its successor may have other nodes.
async fn wait_at_gate<S: Seeker>(
    seeker: &mut S,
    deadline: tokio::time::Instant,
) -> Result<Result<(), S::Refused>, S::Fault> {
    let handle = seeker.cluster().handle.clone();
    let stats = seeker.worker().stats();
    let since = Instant::now();
    stats.gate_entered(handle.index);
    let (cluster, free) = (seeker.cluster().clone(), seeker.is_free());
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
    let waited = watching(seeker, waiting).await;
    let (outcome, result) = match waited {
        Ok(Waited::Done(Ok(()))) => (GateOutcome::Opened, Ok(Ok(()))),
        Ok(Waited::Done(Err(error))) => {
            let (outcome, why) = match error {
                GateError::TimedOut { .. } => (GateOutcome::TimedOut, Why::NoPrimary),
                GateError::Full { .. } => (GateOutcome::Full, Why::TooMany),
            };
            (outcome, Ok(Err(S::refused(why, error.to_string()))))
        }
        Ok(Waited::Cancelled) => (GateOutcome::Abandoned, Ok(Err(S::cancelled()))),
        Err(fault) => (GateOutcome::Abandoned, Err(fault)),
    };
    stats.gate_left(handle.index, since.elapsed(), outcome);
    result
}

/// Waits for the first snapshot in which a replica meets the need, as long as the policy allows.
async fn wait_for_replica<S: Seeker>(seeker: &mut S, need: &Need) -> Result<(), S::Fault> {
    let handle = seeker.cluster().handle.clone();
    let until = Instant::now() + catch_up_limit(&handle.config, need);
    let mut changed = handle.topology.subscribe();
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        if matches!(choose(seeker, need, true), Choice::Node(..)) {
            return Ok(());
        }
        handle.topology.report(Evidence::ProbeNow);
        if let Waited::Cancelled = watching(seeker, timeout(left, changed.changed())).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// The primary cannot be connected to: waits for the monitor's next word on it.
async fn wait_for_change<S: Seeker>(
    seeker: &mut S,
    deadline: tokio::time::Instant,
    pool: &LocalPool<Connection<S>>,
) -> Result<Result<(), S::Refused>, S::Fault> {
    if tokio::time::Instant::now() >= deadline {
        let message = format!("the primary {} cannot be connected to", pool.node_name());
        return Ok(Err(S::refused(Why::NoPrimary, message)));
    }
    let handle = seeker.cluster().handle.clone();
    let mut changed = handle.topology.subscribe();
    let interval = handle.config.monitor.interval;
    Ok(match watching(seeker, timeout(interval, changed.changed())).await? {
        Waited::Cancelled => Err(S::cancelled()),
        Waited::Done(_) => Ok(()),
    })
}

/// A read on the primary after one on a replica waits for the commits that were under way when the
/// replica answered: the primary may not show yet what the replica has shown. Gives the replica and
/// the instant of its answer, when there is something to wait for.
#[inline]
fn commits_to_wait_for<S: Seeker>(
    seeker: &mut S,
    snapshot: &Snapshot,
    node: NodeId,
) -> Option<(NodeId, Instant)> {
    if snapshot.primary != Some(node) {
        return None;
    }
    let (replica, at) = seeker.positions().ahead_of(node)?;
    let oldest = seeker.cluster().handle.commits.oldest_before(at);
    if oldest.is_none() {
        seeker.positions().settled();
    }
    oldest.map(|_| (replica, at))
}

async fn wait_for_commits<S: Seeker>(
    seeker: &mut S,
    (replica, at): (NodeId, Instant),
) -> Result<(), S::Fault> {
    let handle = seeker.cluster().handle.clone();
    let since = Instant::now();
    let mut limit = handle.visibility.as_ref().map_or(COMMITS_GUESS_MAX, |_| COMMITS_WAIT_MAX);
    let mut asked = None;
    let outcome = loop {
        let Some(age) = handle.commits.oldest_before(at) else { break CommitWait::Answered };
        let waited = since.elapsed();
        if waited >= limit {
            break CommitWait::GivenUp;
        }
        if let Some(servers) = &handle.visibility
            && age + waited >= COMMIT_ASK_AGE
        {
            asked.get_or_insert_with(|| servers.ask(replica));
        }
        let answer = async {
            match asked.as_mut() {
                Some(answer) if !answer.is_terminated() => answer.await.is_ok(),
                _ => std::future::pending().await,
            }
        };
        match watching(seeker, timeout(COMMIT_WAIT, answer)).await? {
            Waited::Cancelled => return Ok(()),
            Waited::Done(Ok(true)) => break CommitWait::Shown,
            Waited::Done(Ok(false)) => limit = COMMITS_GUESS_MAX,
            Waited::Done(Err(_)) => {}
        }
    };
    seeker.positions().settled();
    seeker.worker().stats().commits_waited_for(handle.index, outcome);
    Ok(())
}

/// Waits for something while the client may leave or cancel, or the conversation be ended.
async fn watching<S: Seeker, T>(
    seeker: &mut S,
    wait: impl Future<Output = T>,
) -> Result<Waited<T>, S::Fault> {
    let mut wait = pin!(wait);
    let hold = seeker.hold_bytes();
    let entry = seeker.entry().clone();
    entry.waiting.set(true);
    let outcome = poll_fn(|cx| {
        entry.remember(cx.waker());
        if let Some(fault) = seeker.ends() {
            return Poll::Ready(Err(fault));
        }
        if entry.cancelled.replace(false) {
            return Poll::Ready(Ok(Waited::Cancelled));
        }
        if let Poll::Ready(done) = wait.as_mut().poll(cx) {
            return Poll::Ready(Ok(Waited::Done(done)));
        }
        while seeker.held_bytes() < hold {
            match seeker.poll_read_client(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(S::client_left())),
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

fn bind<S: Seeker>(seeker: &mut S, reason: RouteReason, found: Found<'_, Connection<S>>) {
    let cluster = seeker.cluster();
    let (index, stats) = (cluster.handle.index, seeker.worker().stats());
    stats.routed(index, NodeIndex(found.node.0), reason);
    if matches!(reason, RouteReason::ReadYourWrites | RouteReason::Monotonic | RouteReason::Lag) {
        stats.stale_read_avoided(index);
    }
    cluster.count_busy(usize::from(found.node.0), true);
    seeker.entry().bind(Some(S::running(&found.pooled.connection)));
    seeker.positions().routed(reason);
    seeker.hold(found);
}
