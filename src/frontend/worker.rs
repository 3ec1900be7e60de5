//! What the conversations of one worker thread share. `!Send`: nothing in here is locked.

use super::cluster::{ClusterHandle, LocalCluster, Mysql, index_of_schema};
use crate::backend::mysql::connection::{Kill, KillKey};
use crate::backend::mysql::variables::Variables;
use crate::backend::postgres::connection::{CancelKey, Reported};
use crate::config::Limits;
use crate::metrics::WorkerStats;
use crate::protocol::buffer::Buffer;
use crate::session::Settings;
use crate::sql::Classifier;
use crate::topology::Topology;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use tokio::sync::oneshot;

/// Read buffers start at this size. A short query and its reply fit twice over; a large result
/// is read in pieces of it.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// A buffer that had to grow beyond this is given back to the allocator.
const BUFFER_KEEP_BYTES: usize = 64 * 1024;

/// Buffers kept for the next request; more are only in use at once when as many requests run.
const BUFFERS_KEPT_MAX: usize = 256;

/// Different sets of settings (or of parameters) that are told apart by their address. Beyond
/// this, equal sets are compared value by value.
const INTERNED_MAX: usize = 4096;

/// Bits of a process id that number a worker's sessions; the ones above are the worker's.
const SESSION_BITS: u32 = 24;

/// The number of workers that fit into a positive process id.
pub const WORKERS_MAX: usize = 1 << (31 - SESSION_BITS);

/// One worker thread's context.
pub struct Worker {
    pub index: usize,
    stats: RefCell<Rc<WorkerStats>>,
    limits: RefCell<Rc<Limits>>,
    pub classifier: RefCell<Classifier>,
    pub clusters: RefCell<Vec<Rc<LocalCluster>>>,
    pub mysql_clusters: RefCell<Vec<Rc<LocalCluster<Mysql>>>>,
    pub draining: Cell<bool>,
    /// What still runs is ended now.
    pub cutting: Cell<bool>,
    entries: RefCell<HashMap<u32, Rc<Entry>>>,
    next_session: Cell<u32>,
    buffers: RefCell<Vec<Buffer>>,
    /// For bytes that are written and copied within one step.
    pub scratch: RefCell<Vec<u8>>,
    settings: RefCell<HashSet<Arc<Settings>>>,
    reported: RefCell<HashSet<Arc<Reported>>>,
    variables: RefCell<HashSet<Arc<Variables>>>,
    killer: RefCell<Option<Killer>>,
    next_id: Cell<u64>,
}

/// What it takes to cancel the statement that a connection runs.
#[derive(Debug, Clone)]
pub enum Running {
    Postgres(Arc<CancelKey>),
    Mysql(Arc<KillKey>),
}

/// The bit that tells the proxy's connection ids from the servers' for clients of MySQL: a
/// server would have to have served two thousand million clients to give such a one.
pub const MYSQL_ID: u32 = 1 << 31;

/// What came of a KILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killed {
    Done,
    NotThere,
    NotOwner,
}

/// Passes KILLs to the workers.
pub type Killer = Box<dyn Fn(KillRequest)>;

/// A KILL, on its way to the worker that has the session.
#[derive(Debug)]
pub struct KillRequest {
    pub process_id: i32,
    pub user: Arc<str>,
    pub what: Cancel,
    pub done: oneshot::Sender<Killed>,
}

/// What somebody asks of another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    Statement,
    Session,
}

/// How the outside reaches a conversation: to cancel its statement, to end it.
#[derive(Debug)]
pub struct Entry {
    pub process_id: i32,
    pub secret: Box<[u8]>,
    session: u32,
    /// The connection that runs the session's statement.
    cancel: RefCell<Option<Running>>,
    /// Cancel requests under way to that connection: until they have arrived it stays with the
    /// session, or they would hit the next one's statement.
    pub cancelling: Cell<u32>,
    /// The session was cancelled while it waited for a connection.
    pub cancelled: Cell<bool>,
    /// Whose session it is, where that decides who may kill it.
    user: RefCell<Option<Arc<str>>>,
    /// The session is to end.
    pub killed: Cell<bool>,
    pub waiting: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Running {
    async fn cancel(&self) -> Result<(), String> {
        match self {
            Running::Postgres(key) => key.cancel().await.map_err(|error| error.to_string()),
            Running::Mysql(key) => key.kill(Kill::Query).await.map_err(|error| error.to_string()),
        }
    }
}

impl Entry {
    /// The user has proved who it is.
    pub fn belongs_to(&self, user: Arc<str>) {
        *self.user.borrow_mut() = Some(user);
    }

    pub fn bind(&self, cancel: Option<Running>) {
        *self.cancel.borrow_mut() = cancel;
    }

    /// The task to wake; called when a conversation begins to wait for its client.
    pub fn remember(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Worker {
    pub fn new(index: usize, stats: WorkerStats, limits: Limits, classifier: Classifier) -> Worker {
        Worker {
            index,
            stats: RefCell::new(Rc::new(stats)),
            limits: RefCell::new(Rc::new(limits)),
            classifier: RefCell::new(classifier),
            clusters: RefCell::default(),
            mysql_clusters: RefCell::default(),
            draining: Cell::new(false),
            cutting: Cell::new(false),
            entries: RefCell::default(),
            next_session: Cell::new(1),
            buffers: RefCell::default(),
            scratch: RefCell::default(),
            settings: RefCell::default(),
            reported: RefCell::default(),
            variables: RefCell::default(),
            killer: RefCell::default(),
            next_id: Cell::new(1),
        }
    }

    pub fn stats(&self) -> Rc<WorkerStats> {
        self.stats.borrow().clone()
    }

    /// Counters for another configuration.
    pub fn replace_stats(&self, stats: WorkerStats) {
        *self.stats.borrow_mut() = Rc::new(stats);
    }

    /// The cluster that serves a database, and the database's name on its servers.
    pub fn cluster_of(&self, database: &str) -> Option<(Rc<LocalCluster>, Arc<str>)> {
        let clusters = self.clusters.borrow();
        clusters.iter().find_map(|cluster| {
            let databases = &cluster.handle.config.databases;
            let name = match databases.get(database) {
                Some(name) => name.as_str(),
                None if databases.is_empty() => database,
                None => return None,
            };
            Some((cluster.clone(), name.into()))
        })
    }

    /// The cluster for clients of MySQL and MariaDB that name this schema, or none.
    pub fn mysql_cluster_of(&self, schema: Option<&str>) -> Option<Rc<LocalCluster<Mysql>>> {
        let clusters = self.mysql_clusters.borrow();
        let handles: Vec<&ClusterHandle<Mysql>> =
            clusters.iter().map(|cluster| &*cluster.handle).collect();
        index_of_schema(&handles, schema).map(|index| clusters[index].clone())
    }

    pub fn limits(&self) -> Rc<Limits> {
        self.limits.borrow().clone()
    }

    pub fn replace_limits(&self, limits: Limits) {
        *self.limits.borrow_mut() = Rc::new(limits);
    }

    /// A number that no other worker gives: of prepared statements, of draws.
    pub fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        (self.index as u64) << 48 | id
    }

    pub fn take_buffer(&self) -> Buffer {
        let kept = self.buffers.borrow_mut().pop();
        kept.unwrap_or_else(|| Buffer::with_capacity(BUFFER_BYTES))
    }

    pub fn keep_buffer(&self, mut buffer: Buffer) {
        let mut buffers = self.buffers.borrow_mut();
        let fits = (1..=BUFFER_KEEP_BYTES).contains(&buffer.capacity());
        if fits && buffers.len() < BUFFERS_KEPT_MAX {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// Takes back what was taken from `scratch`.
    pub fn keep_scratch(&self, mut scratch: Vec<u8>) {
        if scratch.capacity() <= BUFFER_KEEP_BYTES {
            scratch.clear();
            self.scratch.replace(scratch);
        }
    }

    /// The same set for the same values, so that two sessions' sets are equal when their
    /// addresses are.
    pub fn intern_settings(&self, settings: Arc<Settings>) -> Arc<Settings> {
        intern(&mut self.settings.borrow_mut(), settings)
    }

    pub fn intern_variables(&self, variables: Arc<Variables>) -> Arc<Variables> {
        intern(&mut self.variables.borrow_mut(), variables)
    }

    pub fn intern_reported(&self, reported: Arc<Reported>) -> Arc<Reported> {
        intern(&mut self.reported.borrow_mut(), reported)
    }

    /// Gives a session its process id; the entry is forgotten by [`Worker::leave`].
    pub fn enter(&self, secret: Box<[u8]>) -> Rc<Entry> {
        let mut entries = self.entries.borrow_mut();
        let mask = (1 << SESSION_BITS) - 1;
        let mut session = self.next_session.get();
        while session == 0 || entries.contains_key(&session) {
            session = (session + 1) & mask;
        }
        self.next_session.set((session + 1) & mask);
        let worker = u32::try_from(self.index).unwrap_or_default();
        let entry = Rc::new(Entry {
            process_id: (worker << SESSION_BITS | session).cast_signed(),
            secret,
            session,
            cancel: RefCell::default(),
            cancelling: Cell::new(0),
            cancelled: Cell::new(false),
            user: RefCell::default(),
            killed: Cell::new(false),
            waiting: Cell::new(false),
            waker: RefCell::default(),
        });
        entries.insert(session, entry.clone());
        entry
    }

    pub fn leave(&self, entry: &Entry) {
        self.entries.borrow_mut().remove(&entry.session);
    }

    pub fn sessions(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Cancels what a session runs, or its wait for a connection. Whether there is such a session.
    pub async fn cancel(&self, process_id: i32, secret: &[u8]) -> bool {
        let session = process_id.cast_unsigned() & ((1 << SESSION_BITS) - 1);
        let entry = self.entries.borrow().get(&session).cloned();
        let Some(entry) = entry.filter(|entry| same(&entry.secret, secret)) else {
            return false;
        };
        entry.cancel(Cancel::Statement).await;
        true
    }

    /// Who may kill a session is decided by its user.
    pub async fn killed(&self, request: KillRequest) {
        let session = request.process_id.cast_unsigned() & ((1 << SESSION_BITS) - 1);
        let entry = self.entries.borrow().get(&session).cloned();
        let entry = entry.filter(|entry| entry.process_id == request.process_id);
        let user = entry.as_ref().and_then(|entry| entry.user.borrow().clone());
        let outcome = match user.zip(entry) {
            None => Killed::NotThere,
            Some((user, _)) if user != request.user => Killed::NotOwner,
            Some((_, entry)) => {
                entry.cancel(request.what).await;
                Killed::Done
            }
        };
        // Whoever asked may have left.
        let _ = request.done.send(outcome);
    }

    /// Kills another session, of whichever worker.
    pub async fn kill(&self, id: u64, user: &Arc<str>, what: Cancel) -> Killed {
        let Ok(id) = u32::try_from(id) else { return Killed::NotThere };
        let process_id = (id & !MYSQL_ID).cast_signed();
        let (done, outcome) = oneshot::channel();
        let request = KillRequest { process_id, user: user.clone(), what, done };
        match &*self.killer.borrow() {
            Some(killer) => killer(request),
            None => return Killed::NotThere,
        }
        outcome.await.unwrap_or(Killed::NotThere)
    }

    /// Whether clients of this cluster leave as soon as they are free: the proxy ends, or an operator
    /// has drained the cluster.
    pub fn sends_away(&self, topology: &Topology) -> bool {
        self.draining.get() || topology.is_closed()
    }

    /// Wakes every session so that it looks at [`Worker::sends_away`].
    pub fn wake_all(&self) {
        for entry in self.entries.borrow().values() {
            entry.wake();
        }
    }

    /// How KILLs reach the workers.
    pub fn set_killer(&self, killer: Killer) {
        *self.killer.borrow_mut() = Some(killer);
    }
}

impl Entry {
    /// Cancels what the session runs, or its wait for a connection; or ends the session, which
    /// then sees to its statement itself.
    async fn cancel(&self, what: Cancel) {
        let running = self.cancel.borrow().clone();
        match (what, running) {
            (Cancel::Session, _) => self.killed.set(true),
            (Cancel::Statement, None) => self.cancelled.set(self.waiting.get()),
            (Cancel::Statement, Some(running)) => {
                self.cancelling.set(self.cancelling.get() + 1);
                if let Err(error) = running.cancel().await {
                    tracing::warn!("a cancel request did not reach its server: {error}");
                }
                self.cancelling.set(self.cancelling.get() - 1);
            }
        }
        self.wake();
    }
}

/// Which worker a process id belongs to.
pub fn worker_of(process_id: i32) -> usize {
    (process_id.cast_unsigned() >> SESSION_BITS) as usize
}

fn same(left: &[u8], right: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(left, right).is_ok()
}

fn intern<T: Hash + Eq>(known: &mut HashSet<Arc<T>>, value: Arc<T>) -> Arc<T> {
    if let Some(same) = known.get(&value) {
        return same.clone();
    }
    if known.len() >= INTERNED_MAX {
        known.retain(|value| Arc::strong_count(value) > 1);
    }
    if known.len() < INTERNED_MAX {
        known.insert(value.clone());
    }
    value
}
