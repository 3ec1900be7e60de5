//! What a conversation brings to the search for a server connection.

use super::LocalPool;
use super::active::{Active, Server};
use super::conversation::Conversation;
use super::fault::{Fault, Refused};
use crate::backend::postgres::auth::ServerSecret;
use crate::backend::postgres::connect::{ConnectError, Fault as Whose};
use crate::backend::postgres::connection::{Connection, WantedDefaults};
use crate::frontend::acquire::{Found, Seeker, Why};
use crate::frontend::cluster::{LocalCluster, Postgres};
use crate::frontend::worker::{Entry, Running, Worker};
use crate::pool::PoolKey;
use crate::session::Positions;
use crate::sql::Defaults;
use crate::topology::{NodeId, Snapshot};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

impl Seeker for Conversation {
    type Engine = Postgres;
    type Refused = Refused;
    type Fault = Fault;

    fn cluster(&self) -> &Rc<LocalCluster> {
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

    fn pool(&mut self, node: NodeId) -> Rc<LocalPool> {
        let index = usize::from(node.0);
        if self.pools.len() <= index {
            self.pools.resize(index + 1, None);
        }
        let identity = &self.identity;
        let pool = self.pools[index].get_or_insert_with(|| {
            let (user, database) = (identity.user.clone(), identity.database.clone());
            self.cluster.pools.get(&PoolKey { node, user, database, flags: 0 })
        });
        if self.asks_sequences {
            pool.shared.asks_sequences.store(true, Ordering::Relaxed);
        }
        pool.clone()
    }

    fn secret(&self) -> &ServerSecret {
        &self.identity.secret
    }

    /// The defaults of roles and databases that a new connection to the node would have.
    fn wanted(&self, snapshot: &Snapshot, node: NodeId) -> Option<WantedDefaults> {
        let Defaults { number, first, since } = self.defaults?;
        let applied = snapshot.primary == Some(node)
            || snapshot.node(node).applied_at.is_some_and(|applied| applied > since);
        Some(WantedDefaults { number, first, applied })
    }

    fn running(connection: &Connection) -> Running {
        Running::Postgres(connection.cancel.clone())
    }

    fn hold(&mut self, found: Found<'_, Connection>) {
        let Found { pooled, pool, node, snapshot, now } = found;
        let mut server = Server {
            pooled,
            node,
            incarnation: snapshot.node(node).incarnation,
            is_primary: snapshot.primary == Some(node),
            pool,
        };
        let clean = server.take_over(self.entry.process_id);
        let mut active: Box<Active> = self.scratch.take_active(&self.worker);
        active.progress.clean = clean;
        active.server = Some(server);
        active.progress.started = Some(now);
        self.active = Some(active);
    }

    fn refused(why: Why, message: String) -> Refused {
        let sqlstate = match why {
            Why::NotServed => "55000",
            Why::NoPrimary => "57P03",
            Why::TooMany => "53300",
        };
        Refused::new(sqlstate, message)
    }

    fn cancelled() -> Refused {
        Refused::new("57014", "canceling statement due to user request")
    }

    fn not_let_in(error: &ConnectError, message: String) -> Refused {
        match (error.fault(), error) {
            // The server's own words, as on a direct connection.
            (Whose::Client, ConnectError::Server(fields)) => {
                Refused::new(&fields.sqlstate, fields.message.clone())
            }
            _ => Refused::new(error.sqlstate(), message),
        }
    }

    fn is_free(&self) -> bool {
        self.session.is_free()
    }

    fn move_to_successor(&mut self) -> Result<(), Fault> {
        Conversation::move_to_successor(self)
    }

    fn ends(&self) -> Option<Fault> {
        self.worker.cutting.get().then_some(Fault::ShuttingDown)
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
