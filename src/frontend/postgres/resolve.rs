//! What became of a commit whose server was lost, asked of the primary that comes after it.
//!
//! An id alone says little there: the new primary gives out again those of which it has seen
//! nothing. But the mark tells a place in the log behind the transaction's first record and before
//! its commit's. If the new primary's history leaves the old one's before that place, the commit is
//! not in it and never will be. If it leaves it later, the id has been seen, is given to nobody
//! else, and `pg_xact_status` tells the truth about it.
//!
//! ```text
//! old primary:  ──── first record ──── mark ──── commit ────▶
//! new primary:  ───┬ not there      ──────┬ pg_xact_status knows
//! ```
//!
//! The same holds for a server that has crashed and come back, with the end of its recovery in the
//! place of the branch. Where nobody has seen what happened in between (the new primary restarted,
//! a second promotion) nothing is known, and neither where the new primary may have received that place
//! from another life of the old one ([`Descent`]).
//!
//! A client that is told of a commit may rely on it as on any other, so that has to be confirmed by the
//! replicas first, where the servers want that: one that was on the disk of a crashed primary may be
//! nowhere else.

use super::active::Active;
use super::ask::columns;
use super::conversation::Conversation;
use super::errors::report;
use super::fault::Fault;
use super::guard::{Guard, Guarded, Mark, place};
use super::plan::Batch;
use super::replay::Lost;
use crate::backend::postgres::replies::{Replies, Way};
use crate::frontend::acquire::acquire;
use crate::metrics::{CommitOutcome, ErrorOrigin, RouteReason, ServerClosed};
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::reply::{Status, put_ready};
use crate::session::Need;
use crate::topology::{Descent, Evidence, Node, Position, Snapshot};
use std::future::poll_fn;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// Between two looks at a transaction that is still running, or at a server whose probe has not
/// answered yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A transaction of its own that the server confirms as it does any other, and with it all before.
const CONFIRM: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'tiffin', '')";

/// serialization_failure: drivers and frameworks run such a transaction again.
const ABSENT: (&str, &str) =
    ("40001", "the primary was lost before the transaction was committed: nothing of it is there");

/// What comes after the loss of a server.
pub(super) enum Recovered {
    /// The client has its answer.
    Answered,
    /// The batch is to run again.
    Again(Box<Batch>),
    /// The open transaction goes on on the server that is held now.
    GoesOn,
}

/// A question to a server about a lost transaction, and its answer.
#[derive(Debug, Default)]
pub struct Inquiry {
    pub answer: Option<Vec<Option<Box<str>>>>,
}

impl Inquiry {
    pub fn hear(&mut self, row: &[u8]) {
        let text = |value: Option<&[u8]>| value.map(|value| String::from_utf8_lossy(value).into());
        self.answer = columns(row).map(|columns| columns.into_iter().map(text).collect());
    }
}

/// Whether a server has the log up to a mark, and nothing else in that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum History {
    Has,
    Lacks,
    Unknown,
    /// The monitor has not seen yet what has become of the server.
    NotYet,
}

/// What the client is still to get of a reply.
struct Rest {
    local: Buffer,
    read: Buffer,
    replies: Replies,
    retained: bool,
    changed: u64,
}

impl Conversation {
    /// Finds out what became of the commit that was under way.
    ///
    /// # Errors
    /// The fault itself, if nothing can be found out.
    pub(super) async fn recover(&mut self, fault: Fault) -> Result<Recovered, Fault> {
        let lost = match &fault {
            Fault::ServerLost { .. } | Fault::PrimaryChanged { .. } | Fault::AnswersDiffer => {
                self.take_lost()
            }
            _ => return Err(fault),
        };
        let is_uncommitted = self.active.as_ref().is_some_and(|active| active.is_uncommitted());
        let guard = self.active.as_ref().and_then(|active| active.progress.guard.as_deref());
        let why = match guard.map(|guard| guard.mark) {
            None => "the server was not asked for its id",
            Some(None) => "the answer with its id was lost",
            Some(Some(_)) => "its server is there",
        };
        let guarded = self.active.as_deref_mut().and_then(take_guard);
        let (Fault::ServerLost { node, error, .. }, Some((guard, mark))) = (&fault, guarded) else {
            tracing::info!("{fault}: not asking for its transaction: {why}");
            return self.replay(fault, lost, is_uncommitted).await;
        };
        tracing::debug!("asking what became of a commit: {node}: {error}");
        let rest = self.active.as_deref_mut().map(take_rest);
        let Some(rest) = rest else { return Err(fault) };
        let batch = self.drop_server(ServerClosed::Broken);
        let outcome = match (mark.xid, guard.what) {
            // It has written nothing: without a commit there is just as much of it.
            (None, Guarded::Commit) if !mark.serializable => CommitOutcome::Committed,
            (None, _) => CommitOutcome::Absent,
            (Some(xid), _) => self.find_out(&guard, mark, xid).await?,
        };
        self.worker.stats().commit_resolved(self.cluster.handle.index, outcome);
        tracing::info!(user = %self.identity.user, database = %self.identity.database,
            "{fault}; its transaction: {}", outcome.as_str());
        match outcome {
            CommitOutcome::Unknown => Err(fault),
            CommitOutcome::Absent if rest.retained => {
                Ok(Recovered::Again(batch.unwrap_or_default()))
            }
            CommitOutcome::Absent if lost.as_ref().is_some_and(Lost::can_run_again) => {
                self.replay(fault, lost, true).await
            }
            outcome => {
                self.tell_rest(rest, &guard, outcome == CommitOutcome::Committed).await?;
                // What the session had on the lost server beside the transaction is gone.
                if self.session.is_bound() { Err(fault) } else { Ok(Recovered::Answered) }
            }
        }
    }

    /// Asks the primary of now, and the one after it if that is lost as well.
    async fn find_out(
        &mut self,
        guard: &Guard,
        mark: Mark,
        xid: u64,
    ) -> Result<CommitOutcome, Fault> {
        let config = &self.cluster.handle.config;
        let deadline = Instant::now() + config.gate.hold;
        // Who answers at all has answered a probe within this time.
        let patience = config.monitor.timeout * config.monitor.failures.max(1);
        let mut seen_by = None;
        while Instant::now() < deadline {
            if acquire(self, &Need::Primary(RouteReason::Write), false).await?.is_err() {
                break;
            }
            let said = match self.history(guard, mark).await {
                Ok(History::Lacks) => Ok(Some(CommitOutcome::Absent)),
                Ok(History::Has) => {
                    let confirmed = timeout_at(deadline.into(), self.confirmed(xid)).await;
                    confirmed.unwrap_or(Err(Unanswered))
                }
                Ok(History::NotYet)
                    if Instant::now() < *seen_by.get_or_insert(Instant::now() + patience) =>
                {
                    Ok(None)
                }
                Ok(History::Unknown | History::NotYet) => {
                    let branch = self.cluster.handle.topology.load().branch;
                    let Guard { node, timeline, life, .. } = guard;
                    tracing::info!(
                        xid,
                        at = mark.at,
                        ?node,
                        ?timeline,
                        life,
                        ?branch,
                        "nobody can tell what became of a transaction there"
                    );
                    Ok(Some(CommitOutcome::Unknown))
                }
                Err(Unanswered) => Err(Unanswered),
            };
            match said {
                Ok(outcome) => {
                    drop(self.give_up_server());
                    if let Some(outcome) = outcome {
                        return Ok(outcome);
                    }
                }
                Err(Unanswered) => drop(self.drop_server(ServerClosed::Broken)),
            }
            self.cluster.handle.topology.report(Evidence::ProbeNow);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        tracing::info!("nobody has told within the time of the gate what became of {xid}");
        Ok(CommitOutcome::Unknown)
    }

    /// Asked of the server that is held.
    async fn history(&mut self, guard: &Guard, mark: Mark) -> Result<History, Unanswered> {
        let topology = self.cluster.handle.topology.clone();
        let held = self.active.as_ref().and_then(|active| active.server.as_ref());
        let held = held.map(|server| (server.node, server.pooled.connection.life.epoch));
        let snapshot = topology.load_full();
        let Some((node, _)) = held.filter(|(_, epoch)| *epoch == snapshot.epoch) else {
            return Err(Unanswered);
        };
        if node != guard.node {
            return Ok(inherited(guard, mark, &snapshot));
        }
        let node = snapshot.node(node);
        let timeline = node.position.as_ref().and_then(Position::timeline);
        if guard.timeline.is_none() || timeline.is_some_and(|now| Some(now) != guard.timeline) {
            return Ok(History::Unknown);
        }
        let answer = self.inquire("SELECT pg_catalog.pg_last_wal_replay_lsn()").await?;
        let Some(recovered) = answer.first().cloned().flatten() else {
            return Ok(kept(guard, mark, (node, None)));
        };
        let recovered = place(&recovered).ok_or(Unanswered)?;
        Ok(kept(guard, mark, (node, Some(recovered))))
    }

    /// As [`Self::status_of`], and a commit is as safe as any.
    async fn confirmed(&mut self, xid: u64) -> Result<Option<CommitOutcome>, Unanswered> {
        let status = self.status_of(xid).await?;
        if status == Some(CommitOutcome::Committed) {
            self.inquire(CONFIRM).await?;
        }
        Ok(status)
    }

    /// What the server says of the transaction; `None`: it is still running.
    async fn status_of(&mut self, xid: u64) -> Result<Option<CommitOutcome>, Unanswered> {
        let answer = self.inquire(&format!("SELECT pg_catalog.pg_xact_status('{xid}')")).await?;
        Ok(match answer.first().and_then(Option::as_deref) {
            Some("committed") => Some(CommitOutcome::Committed),
            Some("aborted") => Some(CommitOutcome::Absent),
            Some("in progress") => None,
            _ => Some(CommitOutcome::Unknown),
        })
    }

    /// Asks the server that is held, on behalf of the session.
    async fn inquire(&mut self, sql: &str) -> Result<Vec<Option<Box<str>>>, Unanswered> {
        let Some(mut active) = self.active.take() else { return Err(Unanswered) };
        if active.progress.inquiry.is_none() {
            self.prelude(&mut active, false);
        }
        active.progress.inquiry = Some(Inquiry::default());
        if let Some((mut encoder, _)) = self.encoder(&mut active) {
            encoder.ask(sql.as_bytes(), Way::Ask);
        }
        self.active = Some(active);
        if poll_fn(|cx| self.poll_serve(cx)).await.is_err() {
            return Err(Unanswered);
        }
        let inquiry = self.active.as_mut().and_then(|active| active.progress.inquiry.as_mut());
        inquiry.and_then(|inquiry| inquiry.answer.take()).ok_or(Unanswered)
    }

    /// The client gets the rest of its reply, or an error in its place.
    async fn tell_rest(&mut self, rest: Rest, guard: &Guard, committed: bool) -> Result<(), Fault> {
        let mut out = rest.local.filled().to_vec();
        out.extend_from_slice(&rest.read.filled()[..rest.replies.forwardable()]);
        if !committed {
            self.worker.stats().error(ErrorOrigin::Proxy, ABSENT.0.as_bytes());
            out.extend_from_slice(&report(ABSENT.0, ABSENT.1));
            put_ready(&mut out, Status::Idle);
            self.statements.none_changed();
        } else if !rest.replies.put_rest("COMMIT", &mut out) {
            return Err(Fault::ClientLeft);
        }
        if committed {
            self.session.positions.wrote(Instant::now());
            self.statements.changed(rest.changed);
        }
        if guard.what == Guarded::Commit {
            self.session.closed(committed);
        }
        self.statements.end_transaction();
        if rest.retained {
            self.inbox.consume(self.taken);
            self.taken = 0;
        }
        self.tell(&out).await
    }
}

/// Whether the primary of now has the mark of another one before it.
fn inherited(guard: &Guard, mark: Mark, snapshot: &Snapshot) -> History {
    let branch = snapshot
        .branch
        .filter(|branch| branch.node == guard.node && Some(branch.timeline) == guard.timeline);
    let Some(branch) = branch else { return History::Unknown };
    if mark.at > branch.at {
        return History::Lacks;
    }
    match branch.descent {
        Some(Descent { life, up_to, .. }) if life == guard.life && mark.at <= up_to => History::Has,
        _ if branch.is_open => History::NotYet,
        _ => History::Unknown,
    }
}

/// Whether a server still has the mark that it has given; with the end of its last recovery.
fn kept(guard: &Guard, mark: Mark, (node, recovered): (&Node, Option<u64>)) -> History {
    let has_crashed = recovered.is_some() && recovered != mark.recovered;
    match node.life.checked_sub(guard.life) {
        // Only the connection was lost.
        _ if recovered.is_some() && !has_crashed => History::Has,
        Some(0) if has_crashed => History::NotYet,
        Some(1) if recovered.is_some_and(|end| mark.at > end) => History::Lacks,
        // It was started in order, with all that it had, or it has recovered that.
        Some(0 | 1) => History::Has,
        // Of several recoveries only the last is told, and the id may be somebody else's.
        _ => History::Unknown,
    }
}

/// The server did not answer, or it is not the one to ask any more.
struct Unanswered;

fn take_guard(active: &mut Active) -> Option<(Box<Guard>, Mark)> {
    let mark = active.progress.guard.as_ref()?.mark?;
    Some((active.progress.guard.take()?, mark))
}

fn take_rest(active: &mut Active) -> Rest {
    Rest {
        local: std::mem::take(&mut active.local),
        read: std::mem::take(&mut active.read),
        replies: std::mem::take(&mut active.replies),
        retained: active.progress.retained,
        changed: active.progress.changed,
    }
}
