//! One worker's side of a pool: its idle connections.

use super::shared::{Lend, Place, PoolKey, Pooled, Pools, Shared, Slot, Turn};
use crate::backend::{Fault, Opening, ServerConnection};
use crate::metrics::{NodeIndex, PoolLabels, PoolStats, ServerClosed, WorkerStats};
use crate::topology::{Epoch, Evidence};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::time::{timeout, timeout_at};

/// A connection's lifetime is shortened by up to a tenth, so that connections that were opened
/// together are not all closed together.
const LIFETIME_JITTER_PARTS: u32 = 10;

/// How soon workers whose channel was full are asked once more for what is idle there.
const ASK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, Error)]
pub enum PoolError<E> {
    /// 53300.
    #[error("no connection of pool {pool} was free within {waited:?} (pool.wait_timeout)")]
    TimedOut { pool: String, waited: Duration },
    /// 53300.
    #[error("{waiting} requests already wait for pool {pool} (pool.waiting_max)")]
    Full { pool: String, waiting: usize },
    #[error("cannot connect to {node}: {error}")]
    Connect { node: Arc<str>, error: E },
    /// [`Take::deadline`] came first.
    #[error("the time of the request was over")]
    Late,
}

/// What a request asks of a pool.
#[derive(Debug)]
pub struct Take<'a, C: ServerConnection> {
    pub secret: &'a C::Secret,
    /// Connections of older epochs are closed instead of used: for everything that may write.
    pub epoch: Option<Epoch>,
    pub now: Instant,
    /// When the request has waited long enough, for whatever it was.
    pub deadline: Option<Instant>,
    /// Connections that have something else are closed instead of used.
    pub wanted: Option<C::Wanted>,
    /// Where sessions ask for what they have left on a connection, each gets the one that it had, if
    /// that is idle.
    pub owner: Option<i32>,
    pub count: Count<'a>,
}

/// Where a worker counts what becomes of server connections.
#[derive(Debug, Clone, Copy)]
pub struct Count<'a> {
    pub stats: &'a WorkerStats,
    /// The cluster's position in the configuration.
    pub cluster: usize,
}

/// One worker's idle connections of one pool.
#[derive(Debug)]
pub struct LocalPool<C: ServerConnection> {
    pub shared: Arc<Shared<C>>,
    pools: Arc<Pools<C>>,
    worker: usize,
    /// The one used last is at the end and is taken first: the others may become idle for good.
    idle: RefCell<Vec<Pooled<C>>>,
    /// What new connections log in with when no client asks (`idle_min`).
    secret: RefCell<C::Secret>,
    pub stats: Arc<PoolStats>,
}

/// The pools of one cluster as one worker sees them.
#[derive(Debug)]
pub struct LocalPools<C: ServerConnection> {
    pub pools: Arc<Pools<C>>,
    worker: usize,
    local: RefCell<HashMap<PoolKey, Rc<LocalPool<C>>>>,
}

impl<C: ServerConnection> LocalPools<C> {
    pub fn new(pools: Arc<Pools<C>>, worker: usize) -> LocalPools<C> {
        LocalPools { pools, worker, local: RefCell::default() }
    }

    pub fn get(&self, key: &PoolKey) -> Rc<LocalPool<C>> {
        if let Some(pool) = self.local.borrow().get(key) {
            return pool.clone();
        }
        let shared = self.pools.shared(key);
        let stats = self.pools.registry.register(PoolLabels {
            cluster: self.pools.cluster.name.clone(),
            node: self.pools.cluster.nodes[usize::from(key.node.0)].name.clone(),
            user: key.user.clone(),
            database: key.database.clone(),
        });
        let pool = Rc::new(LocalPool {
            shared,
            pools: self.pools.clone(),
            worker: self.worker,
            idle: RefCell::default(),
            secret: RefCell::default(),
            stats,
        });
        self.local.borrow_mut().insert(key.clone(), pool.clone());
        pool
    }

    pub fn each(&self) -> Vec<Rc<LocalPool<C>>> {
        self.local.borrow().values().cloned().collect()
    }

    /// Forgets pools that nobody uses and that have no connection: their number follows the names
    /// of users and databases, which clients choose.
    pub fn forget_unused(&self) {
        self.local
            .borrow_mut()
            .retain(|_, pool| Rc::strong_count(pool) > 1 || !pool.idle.borrow().is_empty());
        self.pools.forget_unused();
    }

    /// Another worker is short: gives it what is idle here.
    pub fn lend(&self, lend: &Lend<C>) {
        if let Some(pool) = self.local.borrow().get(&lend.key)
            && Arc::ptr_eq(&pool.shared, lend)
        {
            pool.lend();
        }
    }
}

impl<C: ServerConnection> LocalPool<C> {
    /// An idle connection, if one is here and nobody waits. No system call, no lock.
    #[inline]
    pub fn try_take(&self, take: &Take<'_, C>) -> Option<Pooled<C>> {
        if self.shared.waiting() > 0 {
            return None;
        }
        if let Some(owner) = take.owner
            && (C::OWN_IS_BEST || self.shared.asks_sequences.load(Ordering::Relaxed))
        {
            let mut idle = self.idle.borrow_mut();
            let own = |pooled: &Pooled<C>| pooled.connection.owner() == Some(owner);
            if let (Some(at), Some(last)) = (idle.iter().rposition(own), idle.len().checked_sub(1))
            {
                idle.swap(at, last);
            }
        }
        loop {
            let pooled = self.idle.borrow_mut().pop()?;
            if usable(&*pooled.connection, take) {
                self.stats.taken();
                take.count.stats.server_reused(take.count.cluster, self.node());
                return Some(pooled);
            }
            self.stats.idle_removed();
            self.closed(&take.count, unusable_because(&*pooled.connection, take));
        }
    }

    /// A connection: idle, opened, or handed over. Cancel safe: yes.
    pub async fn take(&self, take: &Take<'_, C>) -> Result<Pooled<C>, PoolError<C::Error>> {
        if let Some(pooled) = self.try_take(take) {
            return Ok(pooled);
        }
        let (waiting_max, wait_timeout) = self.pools.waits();
        let (turn, first) = match self.shared.place(self.worker, waiting_max, take.now) {
            Place::Open(slot) => return self.open_in_time(slot, take).await,
            Place::Full => {
                return Err(PoolError::Full { pool: self.name(), waiting: waiting_max });
            }
            Place::Wait { turn, first } => (turn, first),
        };
        // Somebody else waited when it was looked for, and does not any more.
        self.lend();
        let waiting = Waiting::new(self, take);
        let own_end = take.now + wait_timeout;
        let end = take.deadline.map_or(own_end, |deadline| own_end.min(deadline));
        let waited = timeout_at(end.into(), self.turn(turn, first)).await;
        drop(waiting);
        match waited {
            Ok(Ok(Turn::MayOpen(slot))) => self.open_in_time(slot, take).await,
            Ok(Ok(Turn::Here(pooled))) => self.settle(pooled, take).await,
            Ok(Ok(Turn::Connection(slot, detached))) => match C::attach(detached) {
                Ok(connection) => self.settle(Pooled { connection, slot }, take).await,
                Err(_) => self.open_in_time(slot, take).await,
            },
            Err(_) if end < own_end => Err(PoolError::Late),
            Ok(Err(_)) | Err(_) => {
                Err(PoolError::TimedOut { pool: self.name(), waited: wait_timeout })
            }
        }
    }

    /// A clean connection comes back.
    pub fn give_back(&self, mut pooled: Pooled<C>, now: Instant) {
        if now >= pooled.connection.life().expires_at {
            self.stats.active_closed();
            return;
        }
        pooled.connection.life_mut().idle_since = now;
        if self.shared.waiting() > 0 {
            if self.shared.beyond_limit() > 0 {
                self.stats.active_closed();
                return;
            }
            match self.shared.hand_over(self.worker, pooled) {
                Some(back) => pooled = back,
                None => {
                    self.stats.active_closed();
                    return;
                }
            }
        }
        self.stats.returned();
        let mut idle = self.idle.borrow_mut();
        // Where `lastval` is asked for, whoever has just written may ask next: the others take
        // what was used before.
        let kept =
            self.shared.asks_sequences.load(Ordering::Relaxed) && pooled.connection.take_wrote();
        let at = if kept { 0 } else { idle.len() };
        idle.insert(at, pooled);
    }

    /// Closes what has been idle for too long, is too old, or was closed by the server; and of
    /// what is left everything when `keep` is false.
    pub fn tidy(&self, now: Instant, keep: bool, count: &Count<'_>) {
        let limits = self.pools.limits();
        let open = self.shared.open();
        let mut beyond = self.shared.beyond_limit();
        let mut closable = open.saturating_sub(limits.idle_min);
        self.idle.borrow_mut().retain(|pooled| {
            let connection = &pooled.connection;
            let unused = now.duration_since(connection.life().idle_since) > limits.idle_timeout;
            let why = match () {
                () if !keep => Some(ServerClosed::Shutdown),
                () if !connection.is_untouched() => Some(ServerClosed::Broken),
                () if now >= connection.life().expires_at => Some(ServerClosed::Lifetime),
                () if (unused && closable > 0) || beyond > 0 => Some(ServerClosed::Idle),
                () => None,
            };
            if let Some(why) = why {
                closable = closable.saturating_sub(1);
                beyond = beyond.saturating_sub(1);
                self.stats.idle_removed();
                self.closed(count, why);
            }
            why.is_none()
        });
    }

    /// Opens connections up to `idle_min`. One worker of each pool does it.
    pub async fn fill(&self, epoch: Epoch, count: Count<'_>) {
        let secret = self.secret.borrow().clone();
        while self.shared.open() < self.pools.limits().idle_min {
            let Some(slot) = self.shared.reserve() else { return };
            let now = Instant::now();
            let epoch = Some(epoch);
            let (deadline, wanted, owner) = (None, None, None);
            let take = Take { secret: &secret, epoch, now, deadline, wanted, owner, count };
            match self.open(slot, &take).await {
                Ok(pooled) => self.give_back(pooled, Instant::now()),
                Err(_) => return,
            }
        }
    }

    /// Whether it has fewer connections than `idle_min`.
    pub fn is_short(&self) -> bool {
        let wanted = self.pools.limits().idle_min;
        wanted > 0 && self.shared.open() < wanted
    }

    pub fn node_name(&self) -> &Arc<str> {
        &self.pools.cluster.nodes[usize::from(self.shared.key.node.0)].name
    }

    fn node(&self) -> NodeIndex {
        NodeIndex(self.shared.key.node.0)
    }

    fn closed(&self, count: &Count<'_>, why: ServerClosed) {
        count.stats.server_closed(count.cluster, self.node(), why);
    }

    fn lend(&self) {
        while self.shared.waiting() > 0 {
            let Some(pooled) = self.idle.borrow_mut().pop() else { return };
            self.stats.idle_removed();
            if let Some(back) = self.shared.hand_over(self.worker, pooled) {
                self.stats.idle_added();
                self.idle.borrow_mut().push(back);
                return;
            }
        }
    }

    /// The waiter's turn. The first in the queue asks the other workers; as long as anybody waits,
    /// nothing becomes idle there.
    async fn turn(
        &self,
        mut turn: oneshot::Receiver<Turn<C>>,
        first: bool,
    ) -> Result<Turn<C>, RecvError> {
        let mut asked = !first || self.ask_others();
        while !asked {
            match timeout(ASK_AGAIN, &mut turn).await {
                Ok(turn) => return turn,
                Err(_) => asked = self.ask_others(),
            }
        }
        turn.await
    }

    /// Tells every other worker that somebody waits here. What one gives back from now on it
    /// hands over, and what is idle there already it lends: nothing falls between. False where a
    /// worker has as many such requests as its channel holds.
    fn ask_others(&self) -> bool {
        let others = self.pools.lenders.iter().enumerate().filter(|(at, _)| *at != self.worker);
        others.fold(true, |asked, (_, lender)| {
            let told = lender.try_send(self.shared.clone());
            asked && !matches!(told, Err(TrySendError::Full(_)))
        })
    }

    /// A connection that was handed over, if it is fit for this request; else a new one in its
    /// place.
    async fn settle(
        &self,
        pooled: Pooled<C>,
        take: &Take<'_, C>,
    ) -> Result<Pooled<C>, PoolError<C::Error>> {
        if usable(&*pooled.connection, take) {
            self.stats.idle_added();
            self.stats.taken();
            return Ok(pooled);
        }
        let Pooled { slot, connection } = pooled;
        drop(connection);
        self.open_in_time(slot, take).await
    }

    /// Boxed: whoever waits in the queue is not to carry the memory of a login.
    async fn open_in_time(
        &self,
        slot: Slot<C>,
        take: &Take<'_, C>,
    ) -> Result<Pooled<C>, PoolError<C::Error>> {
        let opening = Box::pin(self.open(slot, take));
        match take.deadline {
            None => opening.await,
            Some(deadline) => {
                timeout_at(deadline.into(), opening).await.unwrap_or(Err(PoolError::Late))
            }
        }
    }

    async fn open(
        &self,
        slot: Slot<C>,
        take: &Take<'_, C>,
    ) -> Result<Pooled<C>, PoolError<C::Error>> {
        let pools = &self.pools;
        let limits = pools.limits();
        let PoolKey { node, user, database, flags } = &self.shared.key;
        let epoch = pools.topology.load().epoch;
        let opened = C::open(Opening {
            node: *node,
            epoch,
            address: pools.address(*node),
            tls: &pools.tls,
            user,
            database,
            flags: *flags,
            secret: take.secret,
            timeout: limits.connect_timeout,
            lifetime: jittered(limits.lifetime_max),
            wanted: take.wanted,
        })
        .await;
        match opened {
            Ok(connection) => {
                *self.secret.borrow_mut() = take.secret.clone();
                self.stats.opened();
                take.count.stats.server_opened(take.count.cluster, self.node());
                Ok(Pooled { connection, slot })
            }
            Err(error) => {
                take.count.stats.server_connect_failed(take.count.cluster, self.node());
                if C::fault(&error) == Fault::Node {
                    let sentence = error.to_string().into();
                    pools.topology.report(Evidence::Failed { node: *node, error: sentence });
                }
                Err(PoolError::Connect { node: self.node_name().clone(), error })
            }
        }
    }

    /// As an operator knows it.
    fn name(&self) -> String {
        let PoolKey { user, database, .. } = &self.shared.key;
        format!(
            "{}/{} (user {user}, database {database})",
            self.pools.cluster.name,
            self.node_name()
        )
    }
}

/// Whether an idle connection can serve a request.
#[inline]
fn usable<C: ServerConnection>(connection: &C, take: &Take<'_, C>) -> bool {
    let life = connection.life();
    take.epoch.is_none_or(|epoch| life.epoch == epoch)
        && take.now < life.expires_at
        && take.wanted.is_none_or(|wanted| connection.has(wanted))
        && connection.is_untouched()
}

fn unusable_because<C: ServerConnection>(connection: &C, take: &Take<'_, C>) -> ServerClosed {
    let life = connection.life();
    match () {
        () if take.epoch.is_some_and(|epoch| life.epoch != epoch) => ServerClosed::Epoch,
        () if take.now >= life.expires_at => ServerClosed::Lifetime,
        () if take.wanted.is_some_and(|wanted| !connection.has(wanted)) => ServerClosed::Defaults,
        () => ServerClosed::Broken,
    }
}

fn jittered(lifetime: Duration) -> Duration {
    let part = lifetime / LIFETIME_JITTER_PARTS;
    // The clock's low digits are random enough to spread closings.
    let noise = Instant::now().elapsed().subsec_nanos() ^ std::process::id().rotate_left(16);
    lifetime - part.mul_f64(f64::from(noise % 1000) / 1000.0)
}

/// Counts a wait, also one that is given up.
struct Waiting<'a> {
    stats: &'a PoolStats,
    count: Count<'a>,
    node: NodeIndex,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn new<C: ServerConnection>(pool: &'a LocalPool<C>, take: &Take<'a, C>) -> Waiting<'a> {
        pool.stats.wait_started();
        let (node, since) = (pool.node(), take.now);
        Waiting { stats: &pool.stats, count: take.count, node, since }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        self.stats.wait_ended(waited);
        self.count.stats.pool_wait(self.count.cluster, self.node, waited);
    }
}
