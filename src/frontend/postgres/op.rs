//! What is to be done with one message of a client's.

use super::own_names::OwnNames;
use super::statements::{NO_STATEMENT, Prepared};
use crate::backend::postgres::replies::Limit;
use crate::protocol::postgres::request::{self, Object, Request};
use crate::sql::Statement;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Which prepared statement a message means.
#[derive(Debug, Clone)]
pub enum Meant {
    Named(Rc<Prepared>),
    Unnamed(u64),
    /// Not one that this client made by Parse: perhaps one made by PREPARE.
    Foreign,
}

impl Meant {
    /// The statement's id, [`NO_STATEMENT`] if the proxy knows none.
    pub fn id(&self) -> u64 {
        match self {
            Meant::Named(prepared) => prepared.id,
            Meant::Unnamed(id) => *id,
            Meant::Foreign => NO_STATEMENT,
        }
    }

    /// Whether it is the one with this id.
    pub fn is(&self, id: u64) -> bool {
        id != NO_STATEMENT && self.id() == id
    }
}

/// What is to be done with one message.
#[derive(Debug, Clone)]
pub enum What {
    Query(Arc<Statement>),
    Parse(Rc<Prepared>),
    ParseUnnamed(u64),
    /// The client already has a statement of this name.
    ParseAgain(Rc<Prepared>),
    Bind(Meant),
    DescribeStatement(Meant),
    DescribePortal,
    CloseStatement(Meant),
    ClosePortal,
    Execute(Option<Arc<Statement>>),
    Sync,
    Flush,
    Function,
    CopyData,
    CopyEnd,
    Terminate,
    /// More than the client may have: it gets an error.
    Refuse(Limit),
    /// A Query that may meet statements by the names that the client gave them in Parse.
    QueryWith(Arc<Statement>, Box<OwnNames>),
    /// In front of a message about a statement that may meet others in this way.
    Meet(Box<OwnNames>),
    /// A name that SQL's PREPARE has taken, for the server to refuse.
    ParseTaken,
    /// SQL's DEALLOCATE of a statement that came by Parse, as a Query.
    Deallocate(Arc<Statement>),
    /// The same by the unnamed statement.
    ParseDeallocate(u64),
}

#[derive(Debug, Clone)]
pub struct Op {
    /// The message, counted from the start of the batch.
    pub at: Range<usize>,
    pub what: What,
    /// The number of the change that it makes to the client's named statements; 0 for none.
    pub change: u64,
}

impl What {
    /// Whether the server says that it is ready when it has done this.
    pub fn ends_request(&self) -> bool {
        matches!(
            self,
            What::Query(_)
                | What::QueryWith(..)
                | What::Deallocate(_)
                | What::Sync
                | What::Function
        )
    }
}

/// Whether one of the messages asks for an unnamed portal that none before it has made: it is on
/// the server that the session was on.
pub fn ask_for_old_portal(ops: &[Op], messages: &[u8]) -> bool {
    for op in ops {
        match request::read(&messages[op.at.clone()]) {
            Ok(Request::Execute { portal: b"" } | Request::Describe(Object::Portal, b"")) => {
                return true;
            }
            // A Query drops it as well (`exec_simple_query`, `src/backend/tcop/postgres.c`).
            Ok(Request::Bind { portal: b"", .. } | Request::Query(_)) => return false,
            _ => {}
        }
    }
    false
}
