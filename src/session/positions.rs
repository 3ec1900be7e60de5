//! What a session has written and seen, as instants.
//!
//! A server tells no position with a commit. A write is stamped with the instant at which its
//! reply arrived, and a replica has it for certain when it has applied a sample of the primary
//! that was *started after* that instant (`Node::applied_at`). What a read has shown is no newer
//! than the primary was when the reply arrived, so the same comparison serves for reads that
//! must not go backward; on the very replica that gave the last answer they cannot.

use crate::topology::{Node, NodeId};
use std::time::Instant;

#[derive(Debug, Clone, Copy, Default)]
pub struct Positions {
    written_at: Option<Instant>,
    seen: Option<Seen>,
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
    }

    /// The reply of a read from `node` arrived at `at`.
    pub fn read(&mut self, node: NodeId, incarnation: u64, at: Instant) {
        self.seen = Some(Seen { node, incarnation, at });
    }

    /// When the last read ended, if it was on another node than this one.
    pub fn seen_elsewhere(&self, node: NodeId) -> Option<Instant> {
        self.seen.filter(|seen| seen.node != node).map(|seen| seen.at)
    }

    /// Whether a read on `node` shows the session's own writes and nothing older than it has seen.
    pub fn check(&self, node: &Node) -> Result<(), Behind> {
        let applied_after = |at: Instant| node.applied_at.is_some_and(|applied| applied > at);
        if self.written_at.is_some_and(|at| !applied_after(at)) {
            return Err(Behind::Writes);
        }
        match self.seen {
            Some(seen) if seen.node == node.id && seen.incarnation == node.incarnation => Ok(()),
            Some(seen) if !applied_after(seen.at) => Err(Behind::Reads),
            _ => Ok(()),
        }
    }
}
