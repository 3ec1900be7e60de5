//! How snapshots travel: one writer (the monitor), many readers, and the evidence that flows back.

use super::{Epoch, NodeId, Orders, Snapshot};
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{mpsc, watch};

/// Evidence that waits for the monitor. A monitor that is this far behind looks again anyway, so
/// more would add nothing and is dropped.
const EVIDENCE_MAX: usize = 256;

/// What a session saw that the monitor should act on at once instead of at its next tick.
#[derive(Debug, Clone)]
pub enum Evidence {
    /// A connection to the node failed or broke; the sentence is for the log.
    Failed { node: NodeId, error: Arc<str> },
    /// The node refused a write (it was demoted) or said that it is shutting down.
    NotPrimary { node: NodeId },
    /// Somebody waits for a fresher position: take a sample now.
    ProbeNow,
    /// The orders have changed.
    Ordered,
}

/// A cluster's current snapshot, shared by everybody.
#[derive(Debug)]
pub struct Topology {
    current: ArcSwap<Snapshot>,
    /// That of the current snapshot, for whoever needs no more.
    epoch: AtomicU64,
    /// Whether the current snapshot's cluster takes no clients.
    closed: AtomicBool,
    moved: watch::Sender<Epoch>,
    orders: ArcSwap<Orders>,
    changed: watch::Sender<u64>,
    evidence: mpsc::Sender<Evidence>,
}

impl Topology {
    /// The handle and the end at which the monitor receives evidence.
    pub fn new(first: Snapshot) -> (Arc<Topology>, mpsc::Receiver<Evidence>) {
        let (evidence, received) = mpsc::channel(EVIDENCE_MAX);
        let (changed, _) = watch::channel(first.version);
        let epoch = AtomicU64::new(first.epoch.0);
        let (moved, _) = watch::channel(first.epoch);
        let (current, orders) = (ArcSwap::from_pointee(first), ArcSwap::default());
        let closed = AtomicBool::new(false);
        (Arc::new(Topology { current, epoch, closed, moved, orders, changed, evidence }), received)
    }

    /// The current snapshot; cheap enough for every statement, not to be held across an await.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The current snapshot, to keep.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Replaces the snapshot in one step and wakes everybody who waits for a change. Only the
    /// monitor calls this.
    pub fn publish(&self, next: Snapshot) {
        let (version, epoch) = (next.version, next.epoch);
        self.epoch.store(epoch.0, Ordering::Release);
        self.closed.store(next.closed, Ordering::Relaxed);
        self.current.store(Arc::new(next));
        self.changed.send_replace(version);
        self.moved.send_if_modified(|known| std::mem::replace(known, epoch) != epoch);
    }

    /// A receiver that resolves on each change of the epoch after now.
    pub fn subscribe_to_epochs(&self) -> watch::Receiver<Epoch> {
        self.moved.subscribe()
    }

    /// A receiver that resolves on each publication after now.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The epoch of the current snapshot: one load of a number, for every step of a session.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Whether clients are to leave: an operator has drained the cluster.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// What is wanted of the cluster.
    pub fn orders(&self) -> Arc<Orders> {
        self.orders.load_full()
    }

    /// Changes what is wanted. The monitor's next snapshot, which it makes at once, says so.
    pub fn order(&self, change: impl Fn(&mut Orders)) {
        self.orders.rcu(|orders| {
            let mut next = Orders::clone(orders);
            change(&mut next);
            next
        });
        self.report(Evidence::Ordered);
    }

    /// Hands evidence to the monitor; never waits.
    pub fn report(&self, evidence: Evidence) {
        // A full queue means that the monitor is about to look anyway.
        let _ = self.evidence.try_send(evidence);
    }
}
