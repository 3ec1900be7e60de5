//! What is wanted of a cluster, by an operator or by a change of the primary that is under way.
//! The monitor puts it into each snapshot; what nodes are is not decided here.

use super::{Hold, Snapshot};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Nodes are named: orders outlive a change of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    /// All requests wait at the gate until an operator lets them go on.
    pub paused: bool,
    /// Requests that need the primary wait: another one is about to take over.
    pub switching: bool,
    /// Out of service.
    pub drained: BTreeSet<Arc<str>>,
    /// Never believed to be the primary, whatever it says: another node is being promoted.
    pub fenced: Option<Arc<str>>,
}

impl Orders {
    pub fn hold(&self) -> Hold {
        match (self.paused, self.switching) {
            (true, _) => Hold::Everything,
            (false, true) => Hold::Writes,
            (false, false) => Hold::Nothing,
        }
    }

    /// Makes a snapshot say what is wanted.
    pub fn mark(&self, snapshot: &mut Snapshot) {
        snapshot.hold = self.hold();
        for node in &mut snapshot.nodes {
            node.drained = self.drained.contains(&node.name);
            if node.drained && snapshot.primary != Some(node.id) {
                node.in_read_set = false;
                node.out_because = Arc::from("an operator has drained it");
            }
        }
    }
}
