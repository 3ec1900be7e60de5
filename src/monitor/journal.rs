//! What changed from one snapshot to the next: told once to the log, and kept for the admin pages.

use crate::topology::{Health, Hold, Node, NodeId, Role, Snapshot};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

/// Changes kept. A failover is about ten; a day of trouble should still be there the day after.
const ENTRIES_MAX: usize = 1000;

/// One change of a cluster.
#[derive(Debug, Clone)]
pub struct Entry {
    pub at: Instant,
    /// The same moment on the wall clock, for people.
    pub wall: SystemTime,
    pub change: Change,
    /// A sentence that tells it.
    pub text: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There is a primary that was not there before, or another one.
    PrimaryFound {
        node: NodeId,
    },
    /// There is none any more.
    PrimaryLost {
        node: NodeId,
    },
    /// There still is none, for another reason.
    StillNoPrimary,
    RoleChanged {
        node: NodeId,
    },
    Healthy {
        node: NodeId,
    },
    Unhealthy {
        node: NodeId,
    },
    JoinedReads {
        node: NodeId,
    },
    LeftReads {
        node: NodeId,
    },
    /// An operator has taken it out of service.
    Drained {
        node: NodeId,
    },
    Undrained {
        node: NodeId,
    },
    /// Requests wait at the gate although there is a primary.
    Held,
    /// They no longer do.
    Released,
    /// Clients of the cluster are sent away.
    Closed,
    /// They are let in again.
    Reopened,
}

/// The last changes of one cluster; shared by the monitor, which writes, and the admin pages.
#[derive(Debug, Default)]
pub struct Journal {
    entries: Mutex<VecDeque<Entry>>,
}

impl Journal {
    /// The kept changes, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().iter().cloned().collect()
    }

    pub(super) fn add(&self, entry: Entry) {
        let mut entries = self.lock();
        if entries.len() >= ENTRIES_MAX {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Entry>> {
        // A push that panicked left a deque that is whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is different, with a sentence each. Lag alone is no change.
pub fn changes(before: &Snapshot, after: &Snapshot) -> Vec<(Change, String)> {
    let mut found = Vec::new();
    for (old, new) in before.nodes.iter().zip(&after.nodes) {
        node_changes(old, new, &mut found);
    }
    if before.hold != after.hold {
        found.push(match after.hold {
            Hold::Nothing => (Change::Released, "requests go on".to_owned()),
            Hold::Writes => (Change::Held, format!("writes are held: {}", after.closed_because())),
            Hold::Everything => (Change::Held, "paused by an operator".to_owned()),
        });
    }
    if before.closed != after.closed {
        found.push(match after.closed {
            true => (Change::Closed, "drained by an operator: clients leave".to_owned()),
            false => (Change::Reopened, "clients are let in again".to_owned()),
        });
    }
    match (before.primary, after.primary) {
        (Some(node), None) => {
            let text = format!("no primary: {}", after.no_primary_because);
            found.push((Change::PrimaryLost { node }, text));
        }
        (old, Some(node)) if old != Some(node) || before.epoch != after.epoch => {
            let name = &after.node(node).name;
            let text = match &after.last_change {
                Some((_, sentence)) if before.epoch != after.epoch => {
                    format!("{sentence} (epoch {})", after.epoch.0)
                }
                _ => format!("{name} is the primary again (epoch {})", after.epoch.0),
            };
            found.push((Change::PrimaryFound { node }, text));
        }
        (None, None) if kind(&before.no_primary_because) != kind(&after.no_primary_because) => {
            let text = format!("still no primary: {}", after.no_primary_because);
            found.push((Change::StillNoPrimary, text));
        }
        _ => {}
    }
    found
}

fn node_changes(old: &Node, new: &Node, found: &mut Vec<(Change, String)>) {
    let (node, name) = (new.id, &new.name);
    let was_well = old.health == Health::Healthy;
    match &new.health {
        Health::Healthy if !was_well => {
            found.push((Change::Healthy { node }, format!("{name} is healthy")));
        }
        Health::Unhealthy { reason } if !matches!(old.health, Health::Unhealthy { .. }) => {
            found.push((Change::Unhealthy { node }, format!("{name} is unhealthy: {reason}")));
        }
        _ => {}
    }
    match (old.drained, new.drained) {
        (false, true) => {
            let text = format!("{name} is out of service: {}", new.out_because);
            found.push((Change::Drained { node }, text));
        }
        (true, false) => {
            found.push((Change::Undrained { node }, format!("{name} is in service again")));
        }
        _ => {}
    }
    if old.role != new.role && new.role != Role::Unknown {
        let role = if new.role == Role::Primary { "primary" } else { "replica" };
        found.push((Change::RoleChanged { node }, format!("{name} is a {role}")));
    }
    // The primary is not in the read set for its lag, and leaves it with its role.
    if old.role == Role::Replica || new.role == Role::Replica {
        match (old.in_read_set, new.in_read_set) {
            (false, true) => {
                found.push((Change::JoinedReads { node }, format!("{name} serves reads")));
            }
            (true, false) => {
                let text = format!("{name} serves no reads: {}", new.out_because);
                found.push((Change::LeftReads { node }, text));
            }
            _ => {}
        }
    }
}

/// The part of a reason that does not vary from probe to probe: without figures.
fn kind(reason: &str) -> String {
    reason.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}
