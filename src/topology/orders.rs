//! What is wanted of a cluster, by an operator, by a change of the primary that is under way, or by
//! Patroni.
//! The monitor puts it into each snapshot; what nodes are is not decided here.

use super::{Hold, Snapshot, Timeline};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Who has the leader's key in Patroni's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub name: Arc<str>,
    /// The timeline that it was on when this was said; a promotion after it is newer than the word.
    pub timeline: Option<Timeline>,
}

/// Nodes are named: orders outlive a change of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    /// All requests wait at the gate until an operator lets them go on.
    pub paused: bool,
    /// Requests that need the primary wait: another one is about to take over.
    pub switching: bool,
    /// It is this proxy that hands the primary's part over, and decides when requests wait.
    pub hands_over: bool,
    /// What would go to one of these waits, or goes elsewhere where another one will do.
    pub paused_nodes: BTreeSet<Arc<str>>,
    /// No client is let in, and those that are in leave as soon as they are in no transaction.
    pub closed: bool,
    /// Out of service.
    pub drained: BTreeSet<Arc<str>>,
    /// Never believed to be the primary, whatever it says: another node is being promoted.
    pub fenced: Option<Arc<str>>,
    /// Of nodes on its timeline only this one is believed to be the primary.
    pub leader: Option<Leader>,
    /// Replicas that are made to end their sessions at the primary and have not yet, and from when
    /// on that shows that it does not answer them.
    pub parting: BTreeMap<Arc<str>, Instant>,
    /// Replicas that Patroni keeps reads away from.
    pub no_reads: BTreeSet<Arc<str>>,
}

impl Orders {
    fn hold(&self, snapshot: &Snapshot) -> Hold {
        // A paused primary may restart: it is missed then, and nobody takes its place.
        let primary = snapshot.primary.or(snapshot.lost.map(|lost| lost.node));
        let is_paused = primary.is_some_and(|id| snapshot.node(id).paused);
        let by_another = snapshot.primary.is_some_and(|id| snapshot.node(id).handover);
        let is_changing = self.switching || (by_another && !self.hands_over);
        match (self.paused, is_changing || is_paused) {
            (true, _) => Hold::Everything,
            (false, true) => Hold::Writes,
            (false, false) => Hold::Nothing,
        }
    }

    /// Whether a node is out of service by an operator's order.
    pub fn is_out(&self, name: &str) -> bool {
        self.drained.contains(name) || self.paused_nodes.contains(name)
    }

    /// Makes a snapshot say what is wanted.
    pub fn mark(&self, snapshot: &mut Snapshot) {
        for node in &mut snapshot.nodes {
            let is_primary = snapshot.primary == Some(node.id);
            let drained = self.drained.contains(&node.name);
            let no_reads = self.no_reads.contains(&node.name) && !is_primary;
            node.paused = self.paused_nodes.contains(&node.name);
            node.drained = drained || no_reads || (node.paused && !is_primary);
            if node.drained && !is_primary {
                node.in_read_set = false;
                node.out_because = Arc::from(match (drained, node.paused) {
                    (true, _) => "an operator has drained it",
                    (false, true) => "an operator has paused it",
                    (false, false) => "Patroni's tag noloadbalance keeps reads away",
                });
            }
        }
        snapshot.hold = self.hold(snapshot);
        snapshot.closed = self.closed;
    }
}
