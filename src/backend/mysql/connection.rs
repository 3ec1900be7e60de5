//! A connection to a MySQL or MariaDB server and what is known of its state.

use super::Traces;
use super::auth::ServerSecret;
use super::connect::{self, Target};
pub use super::connect::{ConnectError, trackers};
use crate::backend::stream::{Detached, Stream};
use crate::backend::{Fault, Life, Opening, ServerConnection};
use crate::config::Address;
use crate::config::tls::ServerTlsConnector;
use crate::protocol::mysql::capabilities::{Capabilities, Status};
use crate::topology::NodeId;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

/// How long the server may take to take a KILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// What to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// The statement that is running.
    Query,
    /// The connection.
    Connection,
}

/// What it takes to end a statement of a connection: another one of the same user.
pub struct KillKey {
    address: Address,
    tls: Arc<ServerTlsConnector>,
    user: Box<str>,
    secret: ServerSecret,
    connection_id: u32,
}

impl fmt::Debug for KillKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KillKey({} of {})", self.connection_id, self.address)
    }
}

impl KillKey {
    /// The server's number of the connection.
    pub fn connection_id(&self) -> u32 {
        self.connection_id
    }

    /// Returns when the server has taken it, or has not within a bound. Cancel safe: yes.
    pub async fn kill(&self, kill: Kill) -> Result<(), ConnectError> {
        let word = match kill {
            Kill::Query => "QUERY",
            Kill::Connection => "CONNECTION",
        };
        let target = Target {
            address: &self.address,
            tls: &self.tls,
            user: &self.user,
            secret: &self.secret,
            flags: Capabilities::NONE,
            timeout: KILL_TIMEOUT,
        };
        connect::run_alone(&target, &format!("KILL {word} {}", self.connection_id)).await
    }
}

/// What a server says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerKind {
    pub mariadb: bool,
    /// As people know it, without MariaDB's `5.5.5-`.
    pub version: String,
}

/// One connection, in the hands of exactly one owner: a pool or a client's conversation. What is
/// known of it is reached as its own fields.
#[derive(Debug)]
pub struct Connection {
    pub stream: Stream,
    pub state: State,
}

/// What is known of a connection, in whichever thread it is.
#[derive(Debug)]
pub struct State {
    pub node: NodeId,
    pub life: Life,
    pub kill: Arc<KillKey>,
    /// The server's own number of it.
    pub connection_id: u32,
    pub server: ServerKind,
    /// What was agreed on with the server.
    pub capabilities: Capabilities,
    /// Of its last reply.
    pub status: Status,
    pub traces: Traces,
}

impl Deref for Connection {
    type Target = State;

    #[inline]
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Connection {
    #[inline]
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// A connection on its way from one worker to another.
#[derive(Debug)]
pub struct DetachedConnection {
    stream: Detached,
    state: State,
}

impl ServerConnection for Connection {
    type Secret = ServerSecret;
    type Wanted = ();
    type Detached = DetachedConnection;
    type Error = ConnectError;

    const OWN_IS_BEST: bool = true;

    /// With the trackers set, and without a schema: sessions choose theirs.
    async fn open(opening: Opening<'_, Connection>) -> Result<Box<Connection>, ConnectError> {
        let established = connect::connect(&Target {
            address: opening.address,
            tls: opening.tls,
            user: opening.user,
            secret: opening.secret,
            flags: Capabilities(opening.flags) & Capabilities::OF_SESSION,
            timeout: opening.timeout,
        })
        .await?;
        let connection_id = established.connection_id;
        let kill = KillKey {
            address: opening.address.clone(),
            tls: opening.tls.clone(),
            user: opening.user.into(),
            secret: opening.secret.clone(),
            connection_id,
        };
        let state = State {
            node: opening.node,
            life: Life::begin(opening.epoch, opening.lifetime),
            kill: Arc::new(kill),
            connection_id,
            server: ServerKind { mariadb: established.mariadb, version: established.version },
            capabilities: established.capabilities,
            status: established.status,
            traces: Traces::default(),
        };
        Ok(Box::new(Connection { stream: established.stream, state }))
    }

    fn fault(error: &ConnectError) -> Fault {
        error.fault()
    }

    #[inline]
    fn life(&self) -> &Life {
        &self.state.life
    }

    #[inline]
    fn life_mut(&mut self) -> &mut Life {
        &mut self.state.life
    }

    #[inline]
    fn has(&self, (): ()) -> bool {
        true
    }

    #[inline]
    fn owner(&self) -> Option<i32> {
        self.state.traces.owner
    }

    #[inline]
    fn take_wrote(&mut self) -> bool {
        // Whatever ran last on it may be asked about.
        true
    }

    fn is_untouched(&self) -> bool {
        !self.stream.looks_readable()
    }

    fn detach(self) -> io::Result<DetachedConnection> {
        let Connection { stream, state } = self;
        Ok(DetachedConnection { stream: stream.detach()?, state })
    }

    fn attach(detached: DetachedConnection) -> io::Result<Box<Connection>> {
        let DetachedConnection { stream, state } = detached;
        Ok(Box::new(Connection { stream: Stream::attach(stream)?, state }))
    }
}
