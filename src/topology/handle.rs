//! How snapshots travel: one writer (the monitor), many readers, and the evidence that flows back.

use super::{NodeId, Snapshot};
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;
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
}

/// A cluster's current snapshot, shared by everybody.
#[derive(Debug)]
pub struct Topology {
    current: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
    evidence: mpsc::Sender<Evidence>,
}

impl Topology {
    /// The handle and the end at which the monitor receives evidence.
    pub fn new(first: Snapshot) -> (Arc<Topology>, mpsc::Receiver<Evidence>) {
        let (evidence, received) = mpsc::channel(EVIDENCE_MAX);
        let (changed, _) = watch::channel(first.version);
        let current = ArcSwap::from_pointee(first);
        (Arc::new(Topology { current, changed, evidence }), received)
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
        let version = next.version;
        self.current.store(Arc::new(next));
        self.changed.send_replace(version);
    }

    /// A receiver that resolves on each publication after now.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Hands evidence to the monitor; never waits.
    pub fn report(&self, evidence: Evidence) {
        // A full queue means that the monitor is about to look anyway.
        let _ = self.evidence.try_send(evidence);
    }
}
