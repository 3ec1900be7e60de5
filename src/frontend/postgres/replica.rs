//! A session on a replica: what of a read-only transaction moves to the primary, and what keeps a
//! session there after its transaction.

use super::active::{Active, Progress};
use super::conversation::Conversation;
use super::errors::is_of_replica;
use super::fault::Refused;
use super::observer::Observer;
use super::plan::Batch;
use crate::backend::postgres::replies::{OnError, Way};
use crate::metrics::{ErrorOrigin, RouteReason, ServerClosed};
use crate::protocol::postgres::error::ErrorFields;
use crate::protocol::postgres::reply::Status;
use crate::protocol::postgres::request::FLUSH;
use crate::session::{Need, Session, Transaction};
use crate::sql::{Effect, Isolation, Pin, SessionEffect, Statement};
use std::time::Instant;

/// What a transaction is told that cannot move (40001: serialization_failure).
const STAYS_ON_REPLICA: &str = "this needs the primary, and the read-only transaction has a snapshot \
    or other state on a replica";
const RUN_IT_AGAIN: &str = "Run the transaction again: this session's read-only transactions begin on \
    the primary from now on.";

/// What a session is told that cannot leave a replica.
const KEPT_ON_REPLICA: &str = "this needs the primary, and the session has a cursor WITH HOLD or a \
    prepared statement on a replica, made in a read-only transaction";
const CLOSE_THEM: &str = "Close it first, or begin such transactions with SET tiffin.target = \
    'primary' in force.";

/// With any other isolation than `read committed` a transaction has one snapshot to the end.
const ISOLATION: &[u8] = b"SELECT pg_catalog.current_setting('transaction_isolation')";

impl Conversation {
    /// Whether the session holds a replica's connection.
    pub(super) fn is_on_replica(&self) -> bool {
        let server = self.active.as_ref().and_then(|active| active.server.as_ref());
        server.is_some_and(|server| !server.is_primary)
    }

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
        let belongs = batch.belongs_to_primary || batch.sets_modes;
        if !on_replica || !belongs || active.progress.segment_open {
            return false;
        }
        match self.session.transaction {
            Transaction::Open if active.progress.status != Status::Failed => {
                // Behind a query a primary refuses new modes, in the words that a replica has.
                let refused = batch.sets_open_modes && active.progress.reading;
                let may_move = !batch.old_portal && self.may_move(&active.progress);
                (may_move && !refused) || batch.only_on_primary
            }
            // Nothing runs in it; what comes behind its end may write.
            Transaction::Failed => self.ends_elsewhere(batch, &active.progress),
            _ => false,
        }
    }

    /// Sends what is to be known, or to have ended, before the batch that was just taken can go to
    /// the primary.
    pub(super) fn begin_to_leave(&self, active: &mut Active, cuts: bool) {
        let failed = active.progress.status == Status::Failed;
        active.progress.leaving = true;
        active.progress.may_leave |= cuts || failed;
        active.progress.segment_open &= !cuts;
        let Some((mut encoder, _)) = self.encoder(active) else { return };
        if cuts {
            encoder.sync_ahead();
        } else if !failed {
            encoder.ask(ISOLATION, Way::Ask);
        }
    }

    /// Whether the transaction that is to leave its replica has failed before it could be asked
    /// whether it may, and is ended first.
    pub(super) fn ends_failed(&self) -> bool {
        let Some(active) = &self.active else { return false };
        let ends = |batch: &Batch| self.ends_elsewhere(batch, &active.progress);
        matches!(self.session.transaction, Transaction::Failed)
            && active.batch.as_deref().is_some_and(ends)
    }

    /// Whether a batch ends the transaction that has failed, and may do that on the primary.
    /// PREPARE TRANSACTION, which ends it as ROLLBACK does, no replica takes.
    fn ends_elsewhere(&self, batch: &Batch, progress: &Progress) -> bool {
        let has_portals = batch.old_portal || self.statements.has_portals();
        let ends = batch.ends_first == Some(true) || (batch.only_on_primary && !has_portals);
        batch.ends && ends && self.may_move(progress)
    }

    /// Whether a batch is the rest of a request in which a transaction has ended on the replica, and
    /// needs the primary: the request is cut in two there.
    pub(super) fn cuts_request(&self, active: &Active, batch: &Batch) -> bool {
        let is_kept = |effect: &SessionEffect| {
            matches!(effect, SessionEffect::Pin(_) | SessionEffect::Doubt(_))
        };
        let mut effects = active.progress.executed.iter().flat_map(|statement| &statement.session);
        active.progress.ending
            && active.progress.segment_open
            && (batch.belongs_to_primary || batch.sets_modes)
            && !active.replies.is_skipping()
            && !self.session.is_bound()
            && !effects.any(is_kept)
    }

    /// Whether the transaction has left nothing on its server that is known to keep it there. What
    /// one that has failed did is undone, but for what came before a savepoint.
    fn may_move(&self, progress: &Progress) -> bool {
        if matches!(self.session.transaction, Transaction::Failed) {
            return !self.session.has_savepoints() && !self.session.is_bound();
        }
        let isolation = self.session.began.modes.isolation;
        let has_snapshot = isolation.is_some_and(Isolation::has_one_snapshot) && progress.reading;
        !has_snapshot
            && !self.statements.has_portals()
            && !self.session.is_rooted()
            && !self.session.is_bound()
            && !self.session.began.texts.is_empty()
    }

    /// A read-only transaction leaves its replica, to begin again on the primary; if it cannot,
    /// because it has a snapshot or other state there, it has failed. Gives the batch to go on
    /// with, and what the client is told if it cannot.
    pub(super) fn leave_replica(&mut self) -> (Option<Box<Batch>>, Option<Refused>) {
        if matches!(self.session.transaction, Transaction::Idle) {
            return (self.drop_server(ServerClosed::Dirty), None);
        }
        let progress = self.active.as_ref().map(|active| &active.progress);
        let may_leave =
            progress.is_some_and(|progress| progress.may_leave && self.may_move(progress));
        let batch = self.drop_server(ServerClosed::Dirty);
        let may_leave = may_leave && !batch.as_ref().is_some_and(|batch| batch.old_portal);
        if !may_leave {
            self.session.failed();
            return (batch, Some(stays_on_replica(&mut self.session, None)));
        }
        if matches!(self.session.transaction, Transaction::Open) {
            let began = std::mem::take(&mut self.session.began);
            self.session.uprooted(began);
        }
        (batch, None)
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

impl Active {
    /// Asks for the answer to what ends a transaction on a replica in a request that goes on.
    pub(super) fn hasten_end(&mut self) {
        if self.progress.ending && self.progress.segment_open {
            self.outbox.extend(FLUSH);
        }
    }
}

impl Observer<'_> {
    /// Something else takes the place of an error by which a replica has refused, in a transaction,
    /// what a primary does.
    pub(super) fn refused_by_replica(&mut self, fields: &ErrorFields<'_>) -> Option<OnError> {
        let begins = |effect: &SessionEffect| matches!(effect, SessionEffect::Begin(_));
        let is_begun = || self.progress.executed.iter().flat_map(|one| &one.session).any(begins);
        let in_block = self.progress.status != Status::Idle || is_begun();
        if !self.on_replica || !in_block || !is_of_replica(fields) {
            return None;
        }
        let refused = stays_on_replica(self.session, Some(fields.message));
        self.stats.error(ErrorOrigin::Proxy, refused.sqlstate.as_bytes());
        let mut out = Vec::new();
        refused.report().put(&mut out);
        Some(OnError::Instead(out.into()))
    }
}

/// What a transaction is told that cannot go on with what only a primary does.
fn stays_on_replica(session: &mut Session, servers: Option<&[u8]>) -> Refused {
    session.shuns_replicas = true;
    let detail = servers.map(|message| String::from_utf8_lossy(message).into_owned());
    let refused = Refused::new("40001", STAYS_ON_REPLICA);
    Refused { detail, hint: Some(RUN_IT_AGAIN), ..refused }
}

/// Whether a read-only transaction that runs it must be on the primary, if it can still go there.
/// What is refused there as well is refused in the same words.
pub fn belongs_to_primary(statement: &Statement) -> bool {
    let is_kept = |effect: &SessionEffect| match effect {
        SessionEffect::Pin(_) => true,
        // The next one, behind the end of this in one text, may write.
        SessionEffect::Begin(modes) if modes.read_only != Some(true) => true,
        SessionEffect::Begin(modes) => modes.are_of_primary(),
        // What follows a failed transaction has none of its modes, READ ONLY neither.
        effect => effect.chains(),
    };
    matches!(statement.effect, Effect::Write | Effect::Unknown)
        || statement.session.iter().any(is_kept)
        || only_on_primary(statement)
}

/// Whether a replica cannot run it as a primary does in a read-only transaction
/// (`ClassifyUtilityCommandAsReadOnly`, `src/backend/tcop/utility.c`).
pub fn only_on_primary(statement: &Statement) -> bool {
    let is_of_primary = |effect: &SessionEffect| {
        matches!(
            effect,
            SessionEffect::Pin(Pin::Listen)
                | SessionEffect::Unpin(Pin::Listen)
                | SessionEffect::Doubt(Pin::Listen)
                | SessionEffect::PrepareTransaction
        )
    };
    matches!(statement.reason_code, "notify" | "strong_lock" | "maintenance" | "snapshot")
        || statement.functions.iter().any(|name| name.contains("advisory"))
        || statement.session.iter().any(is_of_primary)
}
