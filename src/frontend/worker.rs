//! What the conversations of one worker thread share. `!Send`: nothing in here is locked.

use super::cluster::LocalCluster;
use crate::backend::postgres::connection::{CancelKey, Reported};
use crate::config::Limits;
use crate::metrics::WorkerStats;
use crate::protocol::buffer::Buffer;
use crate::session::Settings;
use crate::sql::Classifier;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

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
    pub draining: Cell<bool>,
    /// What still runs is ended now.
    pub cutting: Cell<bool>,
    entries: RefCell<HashMap<u32, Rc<Entry>>>,
    next_session: Cell<u32>,
    buffers: RefCell<Vec<Buffer>>,
    settings: RefCell<HashSet<Arc<Settings>>>,
    reported: RefCell<HashSet<Arc<Reported>>>,
    next_id: Cell<u64>,
}

/// How the outside reaches a conversation: to cancel its statement, to end it.
#[derive(Debug)]
pub struct Entry {
    pub process_id: i32,
    pub secret: Box<[u8]>,
    session: u32,
    /// The connection that runs the session's statement.
    cancel: RefCell<Option<Arc<CancelKey>>>,
    /// Cancel requests under way to that connection: until they have arrived it stays with the
    /// session, or they would hit the next one's statement.
    pub cancelling: Cell<u32>,
    /// The session was cancelled while it waited for a connection.
    pub cancelled: Cell<bool>,
    pub waiting: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Entry {
    pub fn bind(&self, cancel: Option<Arc<CancelKey>>) {
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
            draining: Cell::new(false),
            cutting: Cell::new(false),
            entries: RefCell::default(),
            next_session: Cell::new(1),
            buffers: RefCell::default(),
            settings: RefCell::default(),
            reported: RefCell::default(),
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

    /// The same set for the same values, so that two sessions' sets are equal when their
    /// addresses are.
    pub fn intern_settings(&self, settings: Arc<Settings>) -> Arc<Settings> {
        intern(&mut self.settings.borrow_mut(), settings)
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
        let running = entry.cancel.borrow().clone();
        let Some(running) = running else {
            entry.cancelled.set(entry.waiting.get());
            entry.wake();
            return true;
        };
        entry.cancelling.set(entry.cancelling.get() + 1);
        if let Err(error) = running.cancel().await {
            tracing::warn!(%error, "a cancel request did not reach its server");
        }
        entry.cancelling.set(entry.cancelling.get() - 1);
        entry.wake();
        true
    }

    /// Wakes every session so that it looks at `draining`.
    pub fn wake_all(&self) {
        for entry in self.entries.borrow().values() {
            entry.wake();
        }
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
