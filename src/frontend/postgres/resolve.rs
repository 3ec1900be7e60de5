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
//! a second promotion) nothing is known.

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
use crate::topology::{Evidence, NodeId, Position};
use std::future::poll_fn;
use std::time::{Duration, Instant};

/// Between two looks at a transaction that is still running, or at a server whose probe has not
/// answered yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

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
        let deadline = Instant::now() + self.cluster.handle.config.gate.hold;
        while Instant::now() < deadline {
            if acquire(self, &Need::Primary(RouteReason::Write), false).await?.is_err() {
                break;
            }
            let said = match self.is_in_history(guard, mark).await {
                Ok(Some(false)) => Ok(Some(CommitOutcome::Absent)),
                Ok(Some(true)) => self.status_of(xid).await,
                Ok(None) => {
                    let branch = self.cluster.handle.topology.load().branch;
                    tracing::info!("the log at {mark:?} of {guard:?}: only {branch:?} is known");
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

    /// Whether the server that is held has the log up to the mark; `None`: nobody knows.
    async fn is_in_history(
        &mut self,
        guard: &Guard,
        mark: Mark,
    ) -> Result<Option<bool>, Unanswered> {
        let topology = self.cluster.handle.topology.clone();
        let held = self.active.as_ref().and_then(|active| active.server.as_ref());
        let held = held.map(|server| (server.node, server.pooled.connection.life.epoch));
        let snapshot = topology.load_full();
        let Some((node, _)) = held.filter(|(_, epoch)| *epoch == snapshot.epoch) else {
            return Err(Unanswered);
        };
        if node != guard.node {
            let branch = snapshot.branch.filter(|branch| {
                branch.node == guard.node && Some(branch.timeline) == guard.timeline
            });
            return Ok(branch.map(|branch| mark.at <= branch.at));
        }
        let timeline =
            |node: NodeId| snapshot.node(node).position.as_ref().and_then(Position::timeline);
        if guard.timeline.is_none() || timeline(node).is_some_and(|now| Some(now) != guard.timeline)
        {
            return Ok(None);
        }
        // Of two restarts only the last would be seen here, and the id could be somebody else's.
        if snapshot.node(node).incarnation > guard.incarnation + 1 {
            return Ok(None);
        }
        let answer = self.inquire("SELECT pg_catalog.pg_last_wal_replay_lsn()").await?;
        let recovered = answer.first().cloned().flatten();
        let Some(recovered) = recovered.map(|text| place(&text)) else {
            // It was started in order, with all that it had.
            return Ok(Some(true));
        };
        let Some(recovered) = recovered else { return Err(Unanswered) };
        if Some(recovered) == mark.recovered {
            // It has not even crashed: only the connection was lost.
            return Ok(Some(true));
        }
        Ok(Some(mark.at <= recovered))
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
