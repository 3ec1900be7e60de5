//! What a session has written and seen: instants, and tokens where servers tell them.
//!
//! A write is stamped with the instant at which its reply arrived, and a replica has it for
//! certain when it has applied a sample of the primary that was *started after* that instant
//! (`Node::applied_at`). What a read has shown is no newer than the primary was when the reply
//! arrived, so the same comparison serves for reads that must not go backward; on the very replica
//! that gave the last answer they cannot.
//!
//! Where the reply of a write has named its transaction, a replica qualifies earlier: as soon as
//! it was seen to have applied everything up to that transaction. What the session had seen before
//! the write is then there as well, as long as the primary writes in one order (`Node::in_order`).
//! By the same token a session knows when a new primary does not have its write.
//!
//! Each read on the primary asks for a later sample than the one before. A session that reads more
//! often than nodes are probed would thus never leave the primary again; it asks for samples of its
//! own, and at last waits for one ([`Positions::is_overdue`]).

use crate::metrics::{RouteReason, Target};
use crate::topology::{Epoch, Gtids, Node, NodeId, Position};
use std::sync::Arc;
use std::time::Instant;

/// Sources of transactions in a token: one for each primary or domain under which the session has
/// written. With more it goes by instants alone.
const TOKEN_SOURCES_MAX: usize = 16;

/// Reads in a row that replicas could not serve yet, from which on one waits for a replica: so many
/// that its few milliseconds are little for each.
const DIVERTED_MAX: u32 = 32;

#[derive(Debug, Clone, Default)]
pub struct Positions {
    written_at: Option<Instant>,
    token: Option<Token>,
    seen: Option<Seen>,
    /// The last answer of a replica, unless the primary is known to show the same.
    ahead: Option<(NodeId, Instant)>,
    /// Reads in a row, without a write in between, that ran on the primary because no replica was
    /// known to be far enough.
    diverted: u32,
    /// The last of them is one behind which a sample is to be taken.
    sample_due: bool,
}

/// The transactions that replies have named, and all before them.
#[derive(Debug, Clone)]
struct Token {
    gtids: Arc<Gtids>,
    /// The primary had them in this epoch.
    epoch: Epoch,
    /// Everything that the session has written until then is among them, and what it had seen was
    /// visible before the newest of them.
    until: Option<Instant>,
    /// When the newest was told.
    told_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    node: NodeId,
    /// A restarted replica may be behind where it was.
    incarnation: u64,
    at: Instant,
}

/// Why a node is not far enough for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Writes,
    Reads,
}

impl Positions {
    /// The reply of something that may have written arrived at `at`.
    pub fn wrote(&mut self, at: Instant) {
        self.written_at = Some(at);
        (self.diverted, self.sample_due) = (0, false);
    }

    /// A reply that arrived at `at` names transactions that the primary of `epoch` has committed
    /// for the session. `is_last`: nothing is written or shown by it that came after them.
    pub fn committed(&mut self, at: Instant, gtids: &Gtids, epoch: Epoch, is_last: bool) {
        self.wrote(at);
        let mut token = self.token.take().unwrap_or_else(|| {
            let gtids = Arc::new(gtids.none());
            Token { gtids, epoch, until: None, told_at: at }
        });
        Arc::make_mut(&mut token.gtids).advance(gtids);
        if token.gtids.sources() > TOKEN_SOURCES_MAX {
            return;
        }
        token.told_at = at;
        if is_last {
            token.until = Some(at);
        }
        self.token = Some(token);
    }

    /// The reply of something that shows data arrived from `node` at `at`.
    pub fn read(&mut self, node: NodeId, incarnation: u64, at: Instant, on_replica: bool) {
        self.seen = Some(Seen { node, incarnation, at });
        if on_replica {
            self.ahead = Some((node, at));
        }
    }

    /// A read goes to a node for this reason.
    #[inline]
    pub fn routed(&mut self, reason: RouteReason) {
        if matches!(reason, RouteReason::ReadYourWrites | RouteReason::Monotonic) {
            self.diverted = self.diverted.saturating_add(1);
            // After the first one many sessions write, or think.
            self.sample_due = self.diverted > 1 && self.diverted.is_power_of_two();
        } else if reason.target() == Target::Replica {
            (self.diverted, self.sample_due) = (0, false);
        }
    }

    /// Whether it is time for a sample of all nodes, now that the read has its answer: with the next
    /// read at a replica's disposal, if that comes no sooner. Once.
    #[inline]
    pub fn take_sample_due(&mut self) -> bool {
        std::mem::take(&mut self.sample_due)
    }

    /// Whether the next read waits a moment for a replica that is far enough. If in vain, twice as
    /// many are to pass until the next one does.
    pub fn is_overdue(&self) -> bool {
        self.diverted >= DIVERTED_MAX && self.diverted.is_power_of_two()
    }

    /// Which replica answered last and when, if the primary may not show yet what that one did:
    /// also when the session has written since, or has read there what a write gives back.
    pub fn ahead_of(&self, primary: NodeId) -> Option<(NodeId, Instant)> {
        self.ahead.filter(|(replica, _)| *replica != primary)
    }

    /// The primary shows what replicas have shown.
    pub fn settled(&mut self) {
        self.ahead = None;
    }

    /// Whether a read on `node` shows the session's own writes and nothing older than it has seen.
    pub fn check(&self, node: &Node) -> Result<(), Behind> {
        let applied_after = |at: Instant| node.applied_at.is_some_and(|applied| applied > at);
        let by_token = |at: Instant| {
            let token = self.token.as_ref().filter(|token| token.until >= Some(at));
            token.is_some_and(|token| token.is_on(node))
        };
        if self.written_at.is_some_and(|at| !applied_after(at) && !by_token(at)) {
            return Err(Behind::Writes);
        }
        match self.seen {
            Some(seen) if seen.node == node.id && seen.incarnation == node.incarnation => Ok(()),
            Some(seen) if !(applied_after(seen.at) || node.in_order && by_token(seen.at)) => {
                Err(Behind::Reads)
            }
            _ => Ok(()),
        }
    }

    /// What the session has written and the primary of this epoch does not have: it was lost when
    /// the primary changed. Told once.
    pub fn lost_on(&mut self, primary: &Node, epoch: Epoch) -> Option<Arc<Gtids>> {
        let token = self.token.as_mut().filter(|token| token.epoch != epoch)?;
        // A sample that was started before the write need not have it.
        let is_later = primary.applied_at.is_some_and(|at| at > token.told_at);
        let Some(Position::Gtids(there)) = primary.position.as_ref().filter(|_| is_later) else {
            return None;
        };
        if there.lacks_newest_of(&token.gtids) {
            return self.token.take().map(|token| token.gtids);
        }
        token.epoch = epoch;
        None
    }
}

impl Token {
    /// Without a sample of this primary that it has applied, a node may lack what other primaries
    /// wrote before.
    fn is_on(&self, node: &Node) -> bool {
        let Some(Position::Gtids(there)) = &node.position else { return false };
        node.applied_at.is_some() && there.covers(&self.gtids)
    }
}

#[cfg(test)]
#[path = "positions_tests.rs"]
mod tests;
