//! A session on a replica: what of a read-only transaction moves to the primary, and what keeps a
//! session there after its transaction.

use super::active::Active;
use super::conversation::Conversation;
use super::fault::Refused;
use super::plan::Batch;
use crate::metrics::{RouteReason, ServerClosed};
use crate::protocol::postgres::reply::Status;
use crate::session::{Need, Transaction};
use crate::sql::Isolation;
use std::time::Instant;

/// What a transaction is told that cannot move.
pub const STAYS_ON_REPLICA: &str = "this needs the primary, and the read-only transaction has begun on \
    a replica, with a snapshot or other state there; begin it with SET tiffin.target = 'primary' \
    in force";

/// What a session is told that cannot leave a replica.
const KEPT_ON_REPLICA: &str = "this needs the primary, and the session has a cursor WITH HOLD or a \
    prepared statement on a replica, made in a read-only transaction";
const CLOSE_THEM: &str = "Close it first, or begin such transactions with SET tiffin.target = \
    'primary' in force.";

impl Conversation {
    /// Whether something other than a transaction keeps the session on a replica.
    pub(super) fn is_kept_on_replica(&self) -> bool {
        let Some(active) = &self.active else { return false };
        active.server.as_ref().is_some_and(|server| !server.is_primary)
            && matches!(self.session.transaction, Transaction::Idle)
            && self.session.is_bound()
            && !active.progress.segment_open
            && !active.replies.is_copy_in()
            && !active.replies.is_skipping()
    }

    /// Whether a batch must not run in the read-only transaction that is open on a replica: there
    /// it may fail, or lock nothing. What cannot move the server may try.
    pub(super) fn must_leave(&self, active: &Active, batch: &Batch) -> bool {
        let on_replica = active.server.as_ref().is_some_and(|server| !server.is_primary);
        if !on_replica || !batch.belongs_to_primary {
            return false;
        }
        matches!(self.session.transaction, Transaction::Open)
            && active.progress.status != Status::Failed
            && !active.progress.segment_open
            && (self.may_move() || batch.only_on_primary)
    }

    /// Whether the open transaction has left nothing on its server that is known to keep it there.
    fn may_move(&self) -> bool {
        !self.session.is_rooted()
            && !self.session.is_bound()
            && !self.statements.has_portals()
            && !self.session.began.texts.is_empty()
            && !self.session.began.modes.isolation.is_some_and(Isolation::has_one_snapshot)
    }

    /// A read-only transaction leaves its replica, to begin again on the primary; if it cannot,
    /// because it has a snapshot or other state there, it has failed. Gives the batch to go on
    /// with.
    pub(super) fn leave_replica(&mut self) -> Option<Box<Batch>> {
        let progress = self.active.as_ref().map(|active| &active.progress);
        let may_leave = progress.is_some_and(|progress| progress.may_leave) && self.may_move();
        let batch = self.drop_server(ServerClosed::Dirty);
        if may_leave {
            let began = std::mem::take(&mut self.session.began);
            self.session.uprooted(began);
        } else {
            self.session.failed();
        }
        batch
    }

    /// Something keeps the session on a replica: only what can run there goes on.
    pub(super) fn keep_on_replica(
        &mut self,
        batch: Option<&Batch>,
        need: &Need,
    ) -> Result<(), Refused> {
        // Nothing says that more than reads will come before the Sync.
        if let Need::Primary(reason) = need
            && *reason != RouteReason::SegmentOpen
            && !batch.is_some_and(|batch| batch.executes)
        {
            let refused = Refused::new("0A000", KEPT_ON_REPLICA);
            return Err(Refused { hint: Some(CLOSE_THEM), ..refused });
        }
        if let Some(active) = &mut self.active {
            active.progress.started = Some(Instant::now());
        }
        Ok(())
    }
}
