//! What a conversation brings to the search for a server connection.

use super::LocalPool;
use super::active::{Active, Server};
use super::conversation::Conversation;
use super::errors::{self, Code};
use super::fault::{Fault, Refused};
use crate::backend::mysql::auth::ServerSecret;
use crate::backend::mysql::connection::{ConnectError, Connection};
use crate::frontend::acquire::{Found, Seeker, Why};
use crate::frontend::cluster::{LocalCluster, Mysql};
use crate::frontend::worker::{Entry, Running, Worker};
use crate::pool::PoolKey;
use crate::protocol::mysql::capabilities::Capabilities;
use crate::session::Positions;
use crate::topology::{NodeId, Snapshot};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

/// No capability has this bit.
const WITHOUT_SCHEMA: u64 = 1 << 63;

impl Seeker for Conversation {
    type Engine = Mysql;
    type Refused = Refused;
    type Fault = Fault;

    fn cluster(&self) -> &Rc<LocalCluster<Mysql>> {
        &self.cluster
    }

    fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    fn entry(&self) -> &Rc<Entry> {
        &self.entry
    }

    fn positions(&mut self) -> &mut Positions {
        &mut self.session.positions
    }

    /// A session without a schema has pools of its own: a connection that has one cannot lose it.
    fn pool(&mut self, node: NodeId) -> Rc<LocalPool> {
        let with_schema = self.followed.schema.is_some();
        let pools = &mut self.pools[usize::from(with_schema)];
        let index = usize::from(node.0);
        if pools.len() <= index {
            pools.resize(index + 1, None);
        }
        let flags = flags(self.capabilities, with_schema);
        let pool = pools[index].get_or_insert_with(|| {
            let user = self.identity.user.clone();
            self.cluster.pools.get(&PoolKey { node, user, database: "".into(), flags })
        });
        pool.clone()
    }

    fn secret(&self) -> &ServerSecret {
        &self.identity.secret
    }

    fn wanted(&self, _: &Snapshot, _: NodeId) -> Option<()> {
        None
    }

    fn running(connection: &Connection) -> Running {
        Running::Mysql(connection.kill.clone())
    }

    fn hold(&mut self, found: Found<'_, Connection>) {
        let Found { pooled, pool, node, snapshot, now } = found;
        let server = Server {
            pooled,
            pool,
            node,
            incarnation: snapshot.node(node).incarnation,
            is_primary: snapshot.primary == Some(node),
        };
        let (outbox, read) = (self.worker.take_buffer(), self.worker.take_buffer());
        let mut active = Active::new(server, outbox, read);
        active.expected = std::mem::take(&mut self.expected);
        active.progress.started = Some(now);
        self.active = Some(Box::new(active));
    }

    fn refused(why: Why, message: String) -> Refused {
        let code = match why {
            Why::NotServed => errors::NOT_SERVED,
            Why::NoPrimary => errors::NO_PRIMARY,
            Why::TooMany => errors::TOO_MANY_CONNECTIONS,
        };
        Refused::new(code, message)
    }

    fn cancelled() -> Refused {
        Refused::new(errors::INTERRUPTED, "Query execution was interrupted")
    }

    fn not_let_in(error: &ConnectError, message: String) -> Refused {
        match error.refusal() {
            // The server's own words, as on a direct connection.
            Some((errno, sqlstate, message)) => Refused::new(Code::new(errno, sqlstate), message),
            None => Refused::new(errors::NOT_SERVED, message),
        }
    }

    fn is_free(&self) -> bool {
        Conversation::is_free(self)
    }

    fn move_to_successor(&mut self) -> Result<(), Fault> {
        Conversation::move_to_successor(self)
    }

    fn ends(&self) -> Option<Fault> {
        match () {
            () if self.worker.cutting.get() => Some(Fault::ShuttingDown),
            () if self.entry.killed.get() => Some(Fault::Killed),
            () => None,
        }
    }

    fn client_left() -> Fault {
        Fault::ClientLeft
    }

    fn hold_bytes(&self) -> usize {
        Conversation::hold_bytes(self)
    }

    fn held_bytes(&self) -> usize {
        self.inbox.len()
    }

    fn poll_read_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Conversation::poll_read_client(self, cx)
    }
}

/// What tells pools of one user apart, for a session with and without a schema.
fn flags(capabilities: Capabilities, with_schema: bool) -> u64 {
    let flags = capabilities & Capabilities::OF_SESSION;
    if with_schema { flags.0 } else { flags.0 | WITHOUT_SCHEMA }
}
