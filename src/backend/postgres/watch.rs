//! What the scan of replies tells, and whom: [`Watch`].

use super::expected::{Kind, ShapeOf, Way};
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::error::ErrorFields;
use crate::protocol::postgres::reply::Status;
use crate::sql::Statement;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What an error in a reply leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnError {
    Forward,
    /// The proxy asked, and deals with it.
    Swallow,
    /// The client gets this message instead.
    Instead(Box<[u8]>),
    /// Nothing of the request has reached the client and it will be run elsewhere: swallow the
    /// error and everything else that is expected.
    Intercept,
}

/// A ReadyForQuery that was matched.
#[derive(Debug, Clone)]
pub struct Ready {
    pub status: Status,
    pub swallowed: bool,
    /// Requests that are not answered yet.
    pub due: usize,
    /// Whether an error came since the last one.
    pub failed: bool,
    /// The simple query's statement, where it does something to the session.
    pub statement: Option<Arc<Statement>>,
}

/// Who is told what the scan sees.
pub trait Watch {
    /// A ParameterStatus, perhaps because of what the proxy itself asked (`own`), or of the simple
    /// query that runs; whether the client is to see it.
    fn parameter(
        &mut self,
        name: &[u8],
        value: &[u8],
        own_and_runs: (bool, Option<&Statement>),
    ) -> bool;
    /// `front` is what the error answers; `None`: nothing was asked.
    fn error(&mut self, fields: &ErrorFields<'_>, front: Option<(Kind, Way)>) -> OnError;
    /// An extended-protocol statement ended well.
    fn executed(&mut self, statement: Arc<Statement>);
    fn ready(&mut self, ready: Ready);
    /// After `ready`, when it is the client's: what the client must be told in front of it.
    fn before_ready(&mut self, out: &mut Vec<u8>);
    /// An error for a message that names one of the client's statements, with the client's name
    /// for it; `None` if it is not in there.
    fn renamed(&mut self, error: &[u8], named: u64) -> Option<Box<[u8]>>;
    /// What the proxy asked is answered; what comes next is the client's. `out` is for the client.
    fn own_answered(&mut self, out: &mut Buffer);
    /// A change of the client's statements is in force, and so are those before it.
    fn changed(&mut self, change: u64);
    /// These changes of the client's statements have failed or were skipped.
    fn not_changed(&mut self, changes: RangeInclusive<u64>);
    /// A Parse that was sent has failed or was skipped.
    fn not_prepared(&mut self, id: u64, why: NotPrepared);
    /// A NotificationResponse, and the statement that is being answered. `None`: the session did
    /// not ask for it. Else the process id that the client is to see as the sender's.
    fn notification(&mut self, sender: i32, front: Option<&Arc<Statement>>) -> Option<i32>;
    /// The shape of a result ([`crate::protocol::postgres::reply::shape`]).
    fn described(&mut self, of: ShapeOf, shape: u64);
    /// The next part of the answer for the client, but for what a server tells at any time
    /// (parameters, notices, notifications).
    fn told(&mut self, answer: &[u8]);
    /// A row of an answer to what the proxy asked.
    fn row(&mut self, message: &[u8]);
}

/// Why a Parse has made no statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPrepared {
    Failed,
    /// An error before it: the server has not looked at it.
    Skipped,
    /// The proxy itself wanted it, for a statement that the client has.
    Own,
}
