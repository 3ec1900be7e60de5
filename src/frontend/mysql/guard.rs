//! Commits that can be found out about if their server is lost (`failover.resolve_commits`).
//!
//! In front of a COMMIT, in the same write, goes a savepoint whose name nobody else has
//! ([`crate::failover::history`]): whoever has the transaction has the name in its log. Its reply is
//! the proxy's; if the server refuses it, the COMMIT is not guarded.
//!
//! ```text
//! to the server:  SAVEPOINT `tiffin_…`  COMMIT
//! from it:        [OK]                  OK
//! ```

use super::active::{Active, Whose};
use super::conversation::Conversation;
use super::plan::{Request, What};
use crate::backend::mysql::connection::KillKey;
use crate::failover::history::Token;
use crate::protocol::mysql::execute::put_query;
use crate::protocol::mysql::replies::Awaits;
use crate::sql::{SessionEffect, Statement};
use crate::topology::{NodeId, Snapshot};
use std::sync::Arc;
use std::time::Instant;

/// A commit that is guarded.
#[derive(Debug)]
pub struct Guard {
    pub token: Token,
    /// From before it was sent: what each server had then cannot have been it.
    pub before: Arc<Snapshot>,
    /// Where it runs, and on which connection.
    pub node: NodeId,
    pub kill: Arc<KillKey>,
    pub opened_at: Instant,
}

impl Conversation {
    /// Sets the savepoint, if the request is the COMMIT of a transaction that may have written.
    pub(super) fn guard(&self, active: &mut Active, request: &Request) -> Option<Box<Guard>> {
        if !self.cluster.handle.config.failover.resolve_commits
            || !active.server.is_primary
            || !self.followed.in_transaction
            || !active.progress.writing
            || !request.is_commit()
            // It may begin the next transaction, or end the session.
            || self.followed.variables.get("completion_type").is_some()
        {
            return None;
        }
        self.savepoint(active)
    }

    /// Sets the savepoint of a commit that follows.
    pub(super) fn savepoint(&self, active: &mut Active) -> Option<Box<Guard>> {
        let token = Token::random()?;
        let agreed = active.connection().capabilities;
        let sql = format!("SAVEPOINT {token}");
        active.ask(Awaits::Results, Whose::Guard, |out| put_query(out, agreed, &sql));
        let connection = &active.server.pooled.connection;
        Some(Box::new(Guard {
            token,
            before: self.cluster.handle.topology.load_full(),
            node: active.server.node,
            kill: connection.kill.clone(),
            opened_at: connection.life.opened_at,
        }))
    }
}

impl Request {
    /// Whether it is a COMMIT and nothing else.
    pub fn is_commit(&self) -> bool {
        let commits = [SessionEffect::Commit { chain: false }];
        let is_one =
            |statement: &Arc<Statement>| statement.count == 1 && statement.session == commits;
        matches!(self.what, What::Query | What::Execute { .. })
            && self.upload.is_none()
            && self.statement.as_ref().is_some_and(is_one)
    }
}
