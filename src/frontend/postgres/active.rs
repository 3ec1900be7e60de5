//! A conversation while it holds a server connection: the buffers, and what is under way. What
//! replies change is [`super::observer`].

use super::guard::Guard;
use super::parameters::Dropped;
use super::plan::Batch;
use super::replay::Record;
use super::resolve::Inquiry;
use super::send::Commit;
use super::shapes::Comparing;
use super::{LocalPool, Pooled};
use crate::backend::postgres::connection::{Connection, Traces};
use crate::backend::postgres::replies::Replies;
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::reply::Status;
use crate::sql::Statement;
use crate::topology::NodeId;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Everything that exists only while a server connection is held. Kept by the worker for the
/// next request, so that a request allocates nothing.
#[derive(Debug, Default)]
pub struct Active {
    pub server: Option<Server>,
    pub replies: Replies,
    /// To the server.
    pub outbox: Buffer,
    /// From the server.
    pub read: Buffer,
    /// To the client, before what is forwarded from `read`.
    pub local: Buffer,
    /// The requests that were sent, and what is known of their end.
    pub batch: Option<Box<Batch>>,
    pub progress: Progress,
    /// Whether the TLS layer towards the server, the client, still holds bytes.
    pub server_unflushed: bool,
    pub client_unflushed: bool,
}

/// The connection and where it leads.
#[derive(Debug)]
pub struct Server {
    pub pooled: Pooled,
    pub pool: Rc<LocalPool>,
    pub node: NodeId,
    pub incarnation: u64,
    /// Whether it was chosen as the primary: everything may be sent to it.
    pub is_primary: bool,
}

impl Server {
    /// The connection is this session's from now on; tells what must be removed first.
    pub fn take_over(&mut self, process_id: i32) -> Clean {
        let traces = &mut self.pooled.connection.traces;
        if traces.owner == Some(process_id) {
            return Clean::Nothing;
        }
        let before =
            std::mem::replace(traces, Traces { owner: Some(process_id), ..Traces::default() });
        match (before.owner, before.unknown) {
            (None, _) => Clean::Nothing,
            (Some(_), true) => Clean::Everything,
            (Some(_), false) if self.pool.shared.asks_sequences.load(Ordering::Relaxed) => {
                Clean::Sequences
            }
            (Some(_), false) => Clean::Followed,
        }
    }
}

#[derive(Debug)]
pub struct Progress {
    pub status: Status,
    /// The request's bytes are still in the inbox, and nothing of its reply has reached the
    /// client.
    pub retained: bool,
    /// It is retained, and only reads: it can be sent elsewhere.
    pub repeatable: bool,
    /// A plan that DDL has made unusable was refused before it ran: prepare it again here.
    pub stale_plan: bool,
    /// The client asks for a description of all that it runs: what comes may have another shape
    /// than before.
    pub describes: bool,
    /// The client has been told that a plan is out of date. If it prepares the text again, that
    /// shall not lead it to the same plan.
    pub stale_plan_told: bool,
    /// An error was swallowed in order to repeat the request.
    pub intercepted: bool,
    /// Something that may have written, or a BEGIN, was sent since the last end of a transaction.
    pub writing: bool,
    /// The same without a BEGIN alone: the session must see it afterwards.
    pub wrote: bool,
    /// The commit that is under way can be found out about.
    pub guard: Option<Box<Guard>>,
    /// The reply is kept back until its end.
    pub withheld: bool,
    /// The open transaction, as far as it may run again elsewhere.
    pub record: Option<Box<Record>>,
    /// It runs again, and its client has been told all that comes.
    pub silent: bool,
    /// Only a lost transaction is asked about on this connection.
    pub inquiry: Option<Inquiry>,
    /// Something that shows data was sent on this connection.
    pub reading: bool,
    /// DDL ran since the last end of a transaction.
    pub ddl: bool,
    /// DDL has been committed: the catalog must be loaded again.
    pub ddl_done: bool,
    /// What the proxy itself asked has failed; the connection is not to be used.
    pub broken: Option<Box<str>>,
    /// The last request was sent without its Sync: the connection is in the middle of it.
    pub segment_open: bool,
    /// What was sent last of it ends a transaction on a replica, if it does not fail: what comes
    /// next is asked for when that is known, as it may write.
    pub ending: bool,
    /// Settings were sent in front of the request.
    pub settling: bool,
    /// What was sent may drop start-up values of the client: what follows waits for its end.
    pub dropping: bool,
    /// Start-up values of the client that the server has dropped.
    pub dropped: Dropped,
    /// Commits under way.
    pub commits: Vec<Commit>,
    /// Requests that were answered.
    pub readies: u64,
    /// What the client was told of its results is compared with what they are.
    pub comparing: Option<Comparing>,
    /// The transaction needs the primary from here on, and this is a replica.
    pub leaving: bool,
    /// The server has said that nothing of the transaction's snapshot is to be kept.
    pub may_leave: bool,
    /// The server has refused the request for its syntax.
    pub syntax_error: bool,
    /// What the connection's last session may have left is to be removed first.
    pub clean: Clean,
    /// The newest change of the client's statements that is confirmed while the request can still
    /// be repeated.
    pub changed: u64,
    /// The client has the server's own FATAL message.
    pub fatal_told: bool,
    pub started: Option<Instant>,
    /// When the last reply ended.
    pub ended: Option<Instant>,
    /// Extended-protocol statements that ended well since the last ReadyForQuery and leave
    /// something behind.
    pub executed: Vec<Arc<Statement>>,
}

/// What is done to a connection that another session had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clean {
    /// It is still with the session that had it, or nothing can be left.
    Nothing,
    /// What is followed (settings, prepared statements) is enough, but for sequences if asked.
    Followed,
    Sequences,
    Everything,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            status: Status::Idle,
            retained: false,
            repeatable: false,
            stale_plan: false,
            describes: false,
            stale_plan_told: false,
            intercepted: false,
            writing: false,
            wrote: false,
            guard: None,
            withheld: false,
            record: None,
            silent: false,
            inquiry: None,
            reading: false,
            ddl: false,
            ddl_done: false,
            broken: None,
            segment_open: false,
            ending: false,
            settling: false,
            dropping: false,
            dropped: Dropped::default(),
            commits: Vec::new(),
            readies: 0,
            comparing: None,
            leaving: false,
            may_leave: false,
            syntax_error: false,
            clean: Clean::Nothing,
            changed: 0,
            fatal_told: false,
            started: None,
            ended: None,
            executed: Vec::new(),
        }
    }
}

impl Active {
    /// When the connection that is held was opened.
    pub fn opened_at(&self) -> Option<Instant> {
        Some(self.server.as_ref()?.pooled.connection.life.opened_at)
    }

    /// Whether everything that was sent is answered and everything that came is passed on.
    pub fn is_quiet(&self) -> bool {
        self.replies.is_quiet()
            && self.outbox.is_empty()
            && self.local.is_empty()
            && self.replies.forwardable() == 0
            && !self.server_unflushed
            && !self.client_unflushed
    }

    pub fn connection(&mut self) -> Option<&mut Connection> {
        self.server.as_mut().map(|server| &mut *server.pooled.connection)
    }
}
