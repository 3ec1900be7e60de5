//! What the workers share of a pool: the count against the limit, and the queue.

use crate::backend::ServerConnection;
use crate::config::tls::ServerTlsConnector;
use crate::config::{self, Address};
use crate::metrics::PoolRegistry;
use crate::topology::{NodeId, Topology};
use arc_swap::ArcSwap;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// By how much a waiter of the worker that has a connection to give may have waited less than one of
/// another worker and be served first. A connection that changes its worker is registered anew and
/// wakes a thread; where all workers are short alike, none has to. No more than a few statements
/// take, so that the queue stays fair to a client that looks at it.
const HEAD_START: Duration = Duration::from_millis(5);

/// Who a pool's connections are for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub node: NodeId,
    pub user: Arc<str>,
    pub database: Arc<str>,
    /// What else of a login tells connections apart, as the engine numbers it; 0 if nothing does.
    pub flags: u64,
}

/// Asks a worker for an idle connection of a pool.
pub type Lend<C> = Arc<Shared<C>>;

/// All pools of one cluster.
#[derive(Debug)]
pub struct Pools<C: ServerConnection> {
    pub cluster: Arc<config::Cluster>,
    pub topology: Arc<Topology>,
    pub tls: Arc<ServerTlsConnector>,
    pub registry: Arc<PoolRegistry>,
    /// Where each worker hears that another one is short, by the worker's number.
    pub lenders: Vec<mpsc::Sender<Lend<C>>>,
    limits: ArcSwap<config::Pool>,
    shared: Mutex<HashMap<PoolKey, Arc<Shared<C>>>>,
}

impl<C: ServerConnection> Pools<C> {
    pub fn new(
        cluster: Arc<config::Cluster>,
        topology: Arc<Topology>,
        tls: Arc<ServerTlsConnector>,
        registry: Arc<PoolRegistry>,
        lenders: Vec<mpsc::Sender<Lend<C>>>,
    ) -> Pools<C> {
        let limits = ArcSwap::from_pointee(cluster.pool.clone());
        Pools { cluster, topology, tls, registry, lenders, limits, shared: Mutex::default() }
    }

    /// Those of the configuration of now; `cluster` is the one that the pools began with.
    pub fn limits(&self) -> Arc<config::Pool> {
        self.limits.load_full()
    }

    /// `pool.waiting_max` and `pool.wait_timeout`.
    pub fn waits(&self) -> (usize, Duration) {
        let limits = self.limits.load();
        (limits.waiting_max, limits.wait_timeout)
    }

    /// Other limits from now on, for the connections of before as well.
    pub fn set_limits(&self, limits: &config::Pool) {
        let shared = lock(&self.shared);
        self.limits.store(Arc::new(limits.clone()));
        for pool in shared.values() {
            pool.set_limit(limits.size_max);
        }
    }

    pub fn address(&self, node: NodeId) -> &Address {
        &self.cluster.nodes[usize::from(node.0)].address
    }

    /// Forgets pools that no worker has and no connection belongs to.
    pub fn forget_unused(&self) {
        lock(&self.shared).retain(|_, pool| Arc::strong_count(pool) > 1);
    }

    pub fn shared(&self, key: &PoolKey) -> Arc<Shared<C>> {
        let mut shared = lock(&self.shared);
        let limit = self.limits.load().size_max;
        shared
            .entry(key.clone())
            .or_insert_with(|| Arc::new(Shared::new(key.clone(), limit)))
            .clone()
    }
}

/// What a waiter gets.
#[derive(Debug)]
pub enum Turn<C: ServerConnection> {
    Connection(Slot<C>, C::Detached),
    /// From the waiter's own worker: nothing to register anew.
    Here(Pooled<C>),
    MayOpen(Slot<C>),
}

/// A connection together with its place under the limit.
#[derive(Debug)]
pub struct Pooled<C: ServerConnection> {
    pub connection: Box<C>,
    pub slot: Slot<C>,
}

#[derive(Debug)]
struct Waiter<C: ServerConnection> {
    since: Instant,
    turn: oneshot::Sender<Turn<C>>,
}

#[derive(Debug)]
struct State<C: ServerConnection> {
    open: usize,
    /// Who waits, by the worker's number, the longest first.
    queues: Vec<VecDeque<Waiter<C>>>,
}

impl<C: ServerConnection> State<C> {
    fn waiting(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    fn forget_gone(&mut self) {
        self.queues.iter_mut().for_each(|queue| queue.retain(|waiter| !waiter.turn.is_closed()));
    }

    fn push(&mut self, worker: usize, waiter: Waiter<C>) {
        if self.queues.len() <= worker {
            self.queues.resize_with(worker + 1, VecDeque::new);
        }
        self.queues[worker].push_back(waiter);
    }

    /// The longest waiter and its worker; of those of `own` where no other has waited much longer.
    fn next(&mut self, own: Option<usize>) -> Option<(usize, Waiter<C>)> {
        for queue in &mut self.queues {
            while queue.front().is_some_and(|waiter| waiter.turn.is_closed()) {
                queue.pop_front();
            }
        }
        let since = |worker: usize| Some(self.queues.get(worker)?.front()?.since);
        let fronts = (0..self.queues.len()).filter_map(|worker| Some((since(worker)?, worker)));
        let (oldest, mut worker) = fronts.min()?;
        if let Some(own) = own
            && since(own).is_some_and(|since| since <= oldest + HEAD_START)
        {
            worker = own;
        }
        Some((worker, self.queues[worker].pop_front()?))
    }
}

/// One pool over all workers.
#[derive(Debug)]
pub struct Shared<C: ServerConnection> {
    pub key: PoolKey,
    limit: AtomicUsize,
    /// Length of the queue, to be read without the lock.
    waiting: AtomicUsize,
    /// A session has asked for `lastval` or `currval`: connections that change hands forget them.
    pub asks_sequences: AtomicBool,
    state: Mutex<State<C>>,
}

/// A place under the limit. When it is dropped, the longest waiter gets it.
#[derive(Debug)]
pub struct Slot<C: ServerConnection> {
    shared: Arc<Shared<C>>,
    /// False for one that was passed on and came back: its place lives on in another slot.
    armed: bool,
}

/// The answer to a request for a connection that is not idle here.
#[derive(Debug)]
pub enum Place<C: ServerConnection> {
    Open(Slot<C>),
    Wait {
        turn: oneshot::Receiver<Turn<C>>,
        /// Nobody has waited before: the other workers do not know of it.
        first: bool,
    },
    /// As many wait as may.
    Full,
}

impl<C: ServerConnection> Shared<C> {
    fn new(key: PoolKey, limit: usize) -> Shared<C> {
        Shared {
            key,
            limit: AtomicUsize::new(limit),
            waiting: AtomicUsize::new(0),
            asks_sequences: AtomicBool::new(false),
            state: Mutex::new(State { open: 0, queues: Vec::new() }),
        }
    }

    /// How many wait; zero on the way of nearly every query.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn open(&self) -> usize {
        lock(&self.state).open
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many connections are to be closed because the limit has become smaller.
    pub fn beyond_limit(&self) -> usize {
        self.open().saturating_sub(self.limit())
    }

    /// Those who wait go on at once where there is room now.
    fn set_limit(self: &Arc<Self>, limit: usize) {
        let mut state = lock(&self.state);
        self.limit.store(limit, Ordering::Relaxed);
        while state.open < limit && self.pass_on(&mut state) {
            state.open += 1;
        }
    }

    /// Gives a place to the longest waiter; false if nobody waits.
    fn pass_on(self: &Arc<Self>, state: &mut State<C>) -> bool {
        while let Some((_, waiter)) = state.next(None) {
            self.count(state);
            match waiter.turn.send(Turn::MayOpen(self.slot())) {
                Ok(()) => return true,
                Err(Turn::MayOpen(mut back)) => back.armed = false,
                Err(_) => {}
            }
        }
        false
    }

    /// A place under the limit, if one is free.
    pub fn reserve(self: &Arc<Self>) -> Option<Slot<C>> {
        let mut state = lock(&self.state);
        (state.open < self.limit()).then(|| {
            state.open += 1;
            self.slot()
        })
    }

    /// A place under the limit, or one in the queue.
    pub fn place(self: &Arc<Self>, worker: usize, waiting_max: usize, now: Instant) -> Place<C> {
        let mut state = lock(&self.state);
        // Those who have left are forgotten first, so that they take no room.
        if state.waiting() >= waiting_max {
            state.forget_gone();
        }
        let waiting = state.waiting();
        if waiting == 0 && state.open < self.limit() {
            state.open += 1;
            return Place::Open(self.slot());
        }
        if waiting >= waiting_max {
            return Place::Full;
        }
        let (sender, turn) = oneshot::channel();
        state.push(worker, Waiter { since: now, turn: sender });
        self.count(&state);
        Place::Wait { turn, first: waiting == 0 }
    }

    /// Hands a connection to the next waiter ([`State::next`]); gives it back when nobody waits.
    pub fn hand_over(&self, worker: usize, mut pooled: Pooled<C>) -> Option<Pooled<C>> {
        loop {
            let waiter = {
                let mut state = lock(&self.state);
                let waiter = state.next(Some(worker));
                self.count(&state);
                waiter
            };
            let Some((of, waiter)) = waiter else { return Some(pooled) };
            if of == worker {
                match waiter.turn.send(Turn::Here(pooled)) {
                    Err(Turn::Here(back)) => pooled = back,
                    _ => return None,
                }
                continue;
            }
            let Pooled { connection, slot } = pooled;
            let turn = match connection.detach() {
                Ok(detached) => Turn::Connection(slot, detached),
                // The socket is beyond use; its place is not.
                Err(_) => Turn::MayOpen(slot),
            };
            // A waiter that left in this very moment costs a connection: the slot goes on.
            let _ = waiter.turn.send(turn);
            return None;
        }
    }

    fn slot(self: &Arc<Self>) -> Slot<C> {
        Slot { shared: self.clone(), armed: true }
    }

    fn count(&self, state: &State<C>) {
        self.waiting.store(state.waiting(), Ordering::Relaxed);
    }
}

impl<C: ServerConnection> Drop for Slot<C> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let mut state = lock(&self.shared.state);
        if state.open > self.shared.limit() || !self.shared.pass_on(&mut state) {
            state.open -= 1;
        }
    }
}

/// The data is whole even if a thread panicked while it held the lock: each update is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::postgres::connection::Connection;
    use tokio::sync::oneshot::error::TryRecvError;

    fn pool(limit: usize) -> Arc<Shared<Connection>> {
        let key = PoolKey { node: NodeId(0), user: "u".into(), database: "d".into(), flags: 0 };
        Arc::new(Shared::new(key, limit))
    }

    fn wait(pool: &Arc<Shared<Connection>>) -> oneshot::Receiver<Turn<Connection>> {
        match pool.place(0, 10, Instant::now()) {
            Place::Wait { turn, .. } => turn,
            other => panic!("{other:?}"),
        }
    }

    fn may_open(turn: &mut oneshot::Receiver<Turn<Connection>>) -> Option<Slot<Connection>> {
        match turn.try_recv() {
            Ok(Turn::MayOpen(slot)) => Some(slot),
            Ok(other) => panic!("{other:?}"),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }

    #[test]
    fn a_place_that_comes_free_goes_to_the_longest_waiter_that_is_still_there() {
        let pool = pool(1);
        let slot = pool.reserve().expect("room");
        let (gone, mut first, mut second) = (wait(&pool), wait(&pool), wait(&pool));
        drop(gone);
        drop(slot);
        let slot = may_open(&mut first).expect("a turn");
        assert!(may_open(&mut second).is_none());
        assert_eq!((pool.open(), pool.waiting()), (1, 1));
        drop((slot, second));
        assert_eq!((pool.open(), pool.waiting()), (0, 0));
    }

    #[test]
    fn a_connection_stays_with_its_worker_while_no_other_has_waited_much_longer() {
        let mut state = State::<Connection> { open: 0, queues: Vec::new() };
        let now = Instant::now();
        let mut turns = Vec::new();
        for (worker, after) in [(1, 0), (0, 1), (1, 2), (0, 4), (0, 9), (2, 10)] {
            let (turn, receiver) = oneshot::channel();
            state.push(worker, Waiter { since: now + Duration::from_millis(after), turn });
            turns.push(receiver);
        }
        let mut next = |own| state.next(own).map(|(worker, waiter)| (worker, waiter.since - now));
        let ms = Duration::from_millis;
        assert_eq!(next(Some(0)), Some((0, ms(1))), "its own, though another has waited longer");
        assert_eq!(next(Some(0)), Some((0, ms(4))));
        assert_eq!(next(Some(0)), Some((1, ms(0))), "much longer");
        assert_eq!(next(Some(3)), Some((1, ms(2))), "none of its own");
        assert_eq!(next(None), Some((0, ms(9))));
        turns.clear();
        assert_eq!(next(Some(2)), None, "who has gone is forgotten");
    }

    #[test]
    fn a_larger_limit_lets_those_go_on_who_wait() {
        let pool = pool(1);
        let _slot = pool.reserve().expect("room");
        let (gone, mut first, mut second, mut third) =
            (wait(&pool), wait(&pool), wait(&pool), wait(&pool));
        drop(gone);
        pool.set_limit(3);
        let turns = [&mut first, &mut second, &mut third].map(may_open);
        assert_eq!(turns.each_ref().map(Option::is_some), [true, true, false]);
        assert_eq!((pool.open(), pool.waiting()), (3, 1));
    }

    #[test]
    fn a_smaller_limit_is_reached_as_connections_come_free() {
        let pool = pool(3);
        let mut slots: Vec<Slot<Connection>> = (0..3).filter_map(|_| pool.reserve()).collect();
        pool.set_limit(1);
        let mut waits = wait(&pool);
        assert_eq!(pool.beyond_limit(), 2);
        slots.pop();
        slots.pop();
        assert_eq!((pool.beyond_limit(), pool.open()), (0, 1));
        assert!(may_open(&mut waits).is_none(), "there is one still");
        slots.pop();
        assert!(may_open(&mut waits).is_some());
    }
}
