//! A reply that a server connection owes: to what, and what becomes of it.

use super::replies::Replies;
use crate::sql::Statement;
use std::sync::Arc;

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Simple query: everything up to ReadyForQuery.
    Query,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Function,
    Sync,
    /// CopyDone or CopyFail: no reply of its own, a mark for the order of Syncs around it.
    CopyEnd,
}

/// What becomes of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Forward,
    Swallow,
    /// Swallowed; its rows are told to the watch.
    Ask,
    /// The client asked for more than a limit allows. Something that the server refuses was sent
    /// instead, so that it ends the request as it ends any that fails; its error is replaced.
    Refuse(Limit),
    /// A simple query in a transaction of the proxy's own: how it has ended is told when that has.
    Inside,
    /// What ends that transaction; its ReadyForQuery is the client's.
    Ends,
    /// A Sync ahead of the client's own: the session is as after that one, which is still to come.
    Ahead,
    /// Nothing was sent; these bytes stand for the reply.
    Simulate(&'static [u8]),
}

impl Way {
    /// Whether the proxy itself asked.
    pub fn is_own(self) -> bool {
        matches!(self, Way::Swallow | Way::Ask)
    }

    /// Whether the reply's CommandComplete is not shown where it comes.
    pub fn hides_end(self) -> bool {
        matches!(self, Way::Inside | Way::Ends)
    }
}

/// What a client has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Statements,
    Portals,
    /// Not too much of something, but refused alike: the statement's result has another shape than
    /// the client was told.
    Shape,
}

/// Whose result a description is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeOf {
    /// The statement's `named`.
    pub named: u64,
    /// The count of changes of plans before it was asked for.
    pub plans: u64,
    /// Asked for by the proxy, to compare it with what the client was told.
    pub compares: bool,
}

#[derive(Debug, Clone)]
pub struct Expected {
    pub kind: Kind,
    pub way: Way,
    /// The statement, where it does something to the session.
    pub statement: Option<Arc<Statement>>,
    /// The prepared statement that a Parse makes on the server.
    pub prepared: Option<u64>,
    /// The number of the change that it makes to the client's own statements; 0 for none.
    pub change: u64,
    /// Which of the client's statements it names, under another name; 0 for none.
    pub named: u64,
    /// The shape of the result that is described is to be told to the watch.
    pub shape: Option<ShapeOf>,
}

impl Expected {
    pub fn new(kind: Kind, way: Way) -> Expected {
        Expected { kind, way, statement: None, prepared: None, change: 0, named: 0, shape: None }
    }
}

impl Replies {
    /// Whether what is being answered is the proxy's own. After an error that is the next Sync:
    /// what stands before it is ignored.
    pub(super) fn is_answered_own(&self) -> bool {
        let skipped = |expected: &&Expected| self.skipping && expected.kind != Kind::Sync;
        self.queue.iter().find(|expected| !skipped(expected)).is_some_and(|it| it.way.is_own())
    }

    /// Whether the server may have skipped the Parse of a statement when it gets to what is sent
    /// next: a request that it stands in may fail before it. `own`: only the proxy's own count.
    pub fn may_skip_parse(&self, id: u64, own: bool) -> bool {
        let ends = |kind| matches!(kind, Kind::Query | Kind::Sync | Kind::Function);
        let mut newest = self.queue.iter().rev().take_while(|_| self.parses_due > 0);
        let mut ended = false;
        newest.any(|expected| {
            ended |= ends(expected.kind);
            expected.prepared == Some(id) && (!own || expected.way.is_own())
        }) && ended
    }
}
