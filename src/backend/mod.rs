//! Server connections: the byte stream, the handshake, and what is known of a connection's state.
//!
//! [`ServerConnection`] is all that a pool knows of one, whatever its engine.

pub mod dial;
pub(crate) mod memory;
pub mod mysql;
pub mod postgres;
pub mod stream;
pub mod wire;

use crate::config::Address;
use crate::config::tls::ServerTlsConnector;
use crate::topology::{Epoch, NodeId};
use std::fmt::{Debug, Display};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whose fault a failed connection is: what the caller does about it depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Down, overloaded, starting, or not what it should be: another node may do, or waiting.
    Node,
    /// The configuration and the server do not fit together: an operator is needed.
    Config,
    /// What the client asked for is not there or not allowed: no node will do.
    Client,
}

/// When a connection was opened and used, and for which primary.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// The epoch under which it was opened: under a later one it never writes.
    pub epoch: Epoch,
    /// Closed at its first idle moment after this.
    pub expires_at: Instant,
    pub idle_since: Instant,
    pub opened_at: Instant,
}

impl Life {
    /// Of a connection that is opened now.
    pub fn begin(epoch: Epoch, lifetime: Duration) -> Life {
        let now = Instant::now();
        Life { epoch, expires_at: now + lifetime, idle_since: now, opened_at: now }
    }
}

/// What a new connection needs to know.
#[derive(Debug)]
pub struct Opening<'a, C: ServerConnection> {
    pub node: NodeId,
    pub epoch: Epoch,
    pub address: &'a Address,
    pub tls: &'a Arc<ServerTlsConnector>,
    pub user: &'a str,
    pub database: &'a str,
    /// As in the pool's key.
    pub flags: u64,
    pub secret: &'a C::Secret,
    pub timeout: Duration,
    pub lifetime: Duration,
    pub wanted: Option<C::Wanted>,
}

/// A server connection as its pool sees it.
pub trait ServerConnection: Debug + Send + Sized + 'static {
    /// What the proxy logs in with.
    type Secret: Debug + Clone + Default;
    /// What a request asks of a connection beyond a node and an epoch.
    type Wanted: Debug + Copy;
    /// A connection on its way from one worker to another.
    type Detached: Debug + Send;
    type Error: Debug + Display;

    /// Whether a session's own connection is worth looking for: it has what another one would have
    /// to be given by a round trip, such as prepared statements.
    const OWN_IS_BEST: bool;

    /// Connects and logs in. Cancel safe: yes.
    fn open(opening: Opening<'_, Self>) -> impl Future<Output = Result<Box<Self>, Self::Error>>;

    /// Whose fault it is that a connection could not be opened.
    fn fault(error: &Self::Error) -> Fault;

    fn life(&self) -> &Life;

    fn life_mut(&mut self) -> &mut Life;

    /// Whether it is what a request wants.
    fn has(&self, wanted: Self::Wanted) -> bool;

    /// Number of the session that used it last, in the proxy.
    fn owner(&self) -> Option<i32>;

    /// Whether its session has just written and may ask for what is left of it there. Asked once.
    fn take_wrote(&mut self) -> bool;

    /// Whether an idle connection is as it was left: nothing has arrived, not even its end. Costs
    /// no system call.
    fn is_untouched(&self) -> bool;

    /// Takes the socket out of this thread's runtime.
    fn detach(self) -> io::Result<Self::Detached>;

    /// Registers the socket with this thread's runtime.
    fn attach(detached: Self::Detached) -> io::Result<Box<Self>>;
}
