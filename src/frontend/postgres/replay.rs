//! An open transaction whose server is lost goes on on the next primary (`failover.replay`), or one
//! that only reads on another replica.
//!
//! Its requests are kept as the client sent them, with checksums of their answers
//! ([`crate::session::journal`]). On the new server it begins with the settings of then, its
//! requests run again one after the other, and nobody is told; if all answers are the same, what
//! was under way follows, without what the client has had of its answer, and the client notices
//! nothing. Otherwise the transaction has failed with 40001.
//!
//! ```text
//! client:  BEGIN  A ─▶ a   B ─▶ b   C ─▶                      ─▶ c
//! old:     BEGIN  A ─▶ a   B ─▶ b   C ─▶ lost
//! new:                                   BEGIN A ─▶ a B ─▶ b C ─▶ c
//! ```
//!
//! Only transactions whose start the proxy has seen, and nothing that may have been committed: a
//! COMMIT runs again only when it is known not to have happened ([`super::resolve`]).

use super::active::Active;
use super::conversation::Conversation;
use super::errors::ABORTED;
use super::fault::{Fault, Refused};
use super::guard::is_commit;
use super::op::What;
use super::parameters::tell_parameters;
use super::plan::Batch;
use super::resolve::Recovered;
use super::send::{leaves_open, mark, reads, writes};
use super::statements::Statements;
use crate::backend::postgres::connection::Reported;
use crate::frontend::acquire::acquire;
use crate::frontend::failure::{FAILED, Failure};
use crate::metrics::{ErrorOrigin, ReplayOutcome, RouteReason, ServerClosed};
use crate::protocol::postgres::reply::{Status, put_ready};
use crate::session::journal::{Heard, Limits, Size};
use crate::session::transaction::Held;
use crate::session::{Class, Journal, Need, Settings, Transaction};
use crate::sql::{Pin, SessionEffect, Statement};
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout_at;

/// Of a request, beside its bytes: what is known of each of its messages.
const OP_BYTES: usize = size_of::<super::op::Op>();

/// What is kept of the open transaction.
#[derive(Debug)]
pub struct Record {
    pub journal: Journal<Part>,
    /// How it began, if the proxy held that back.
    began: Held,
    /// The session's settings before it.
    settings: Arc<Settings>,
    /// Something was sent that may have committed it.
    may_be_committed: bool,
}

/// A request of the client's, or a part of one.
#[derive(Debug)]
pub struct Part {
    batch: Batch,
    bytes: Box<[u8]>,
}

/// A transaction whose server is lost.
pub(super) struct Lost {
    record: Option<Box<Record>>,
    may_be_committed: bool,
    /// Why it cannot run again.
    unable: Option<&'static str>,
    /// What has come and has not been passed on.
    unsent: Vec<u8>,
    /// What the client has had of an answer that is not whole; `None`: nothing is under way.
    heard: Option<Heard>,
    /// Requests that are not answered.
    owed: usize,
    /// The last one has not been sent to its end.
    is_open: bool,
    /// What is under way is a COMMIT and nothing else.
    is_commit: bool,
}

impl Lost {
    pub fn can_run_again(&self) -> bool {
        self.unable.is_none()
    }
}

impl Record {
    pub fn may_run_again(&self) -> bool {
        self.journal.spoilt().is_none() && !self.may_be_committed
    }
}

impl Active {
    /// Whether something was sent that is not answered to its end.
    pub(super) fn is_under_way(&self) -> bool {
        self.progress.segment_open || !self.replies.is_quiet()
    }

    /// Whether what comes is not what the client was told before, when it was lost with a server.
    pub(super) fn answers_differ(&self) -> bool {
        let record = self.progress.record.as_ref();
        record.is_some_and(|record| record.journal.differs(self.replies.is_quiet()))
    }

    /// Drops what is there for the client.
    pub(super) fn forget_answers(&mut self) {
        self.local.clear();
        let count = self.replies.forwardable();
        self.read.consume(count);
        self.replies.forwarded(count);
    }

    /// Notes what a request does on the connection.
    pub(super) fn note(&mut self, batch: &Batch) {
        mark(self, batch);
        let progress = &mut self.progress;
        progress.writing |= writes(batch);
        progress.wrote |= writes(batch);
        progress.reading |= reads(batch);
        progress.segment_open = leaves_open(batch);
    }
}

impl Conversation {
    /// The transaction that begins on the server that is held is kept, if that is wanted: with the
    /// BEGIN that was held back (`held`), or with one in this batch, which is sent next.
    pub(super) fn begin_record(&self, active: &mut Active, batch: &Batch, held: bool) {
        if self.cluster.handle.config.failover.replay.is_none()
            || active.progress.record.is_some()
            || self.session.is_bound()
            || !(held || (active.progress.status == Status::Idle && begins(batch)))
        {
            return;
        }
        active.progress.record = Some(Box::new(Record {
            journal: Journal::default(),
            began: if held { self.session.began.clone() } else { Held::default() },
            settings: self.session.settings.clone(),
            may_be_committed: false,
        }));
    }

    /// Keeps the request in this part of the inbox, which is about to be sent. `joins`: the one
    /// before is still under way.
    pub(super) fn record(&self, active: &mut Active, batch: &Batch, at: Range<usize>, joins: bool) {
        let Some(record) = &mut active.progress.record else { return };
        let Some(replay) = &self.cluster.handle.config.failover.replay else { return };
        record.may_be_committed |= may_commit(batch);
        if let Some(why) = never_again(batch) {
            record.journal.spoil(why);
        }
        if joins && matches!(self.session.transaction, Transaction::Idle) {
            record.journal.spoil("more was sent before its BEGIN was answered");
        }
        if record.journal.spoilt().is_some() {
            return;
        }
        let limits = Limits { statements_max: replay.statements_max, bytes_max: replay.bytes_max };
        let runs = |what: &What| what.ends_request() || matches!(what, What::Execute(_));
        let bytes: Box<[u8]> = self.inbox.filled()[at].into();
        let size = Size {
            statements: batch.ops.iter().filter(|op| runs(&op.what)).count(),
            bytes: bytes.len() + batch.ops.len() * OP_BYTES,
        };
        record.journal.push(Part { batch: batch.clone(), bytes }, size, joins, limits);
    }

    /// Takes the transaction off its lost server; `None`: there is nothing to run again.
    pub(super) fn take_lost(&mut self) -> Option<Lost> {
        let (is_bound, is_planning) =
            (self.session.is_bound(), self.taken > 0 || self.streaming > 0);
        let active = self.active.as_deref_mut()?;
        let mut record = active.progress.record.take()?;
        if active.progress.fatal_told {
            return None;
        }
        let replies = &active.replies;
        let is_under_way = active.progress.segment_open || !replies.is_quiet();
        let unable = if is_bound {
            Some("its session had more on the lost server than the transaction")
        } else if is_planning || replies.is_copy_in() || replies.is_cut_outside() {
            Some("it was lost in the middle of something else than an answer")
        } else {
            record.journal.spoilt()
        };
        let mut unsent = active.local.filled().to_vec();
        unsent.extend_from_slice(&active.read.filled()[..replies.forwardable()]);
        let last = record.journal.steps().last().and_then(|step| step.parts.last());
        Some(Lost {
            may_be_committed: record.may_be_committed,
            unable,
            unsent,
            owed: replies.client_due().count(),
            is_open: active.progress.segment_open,
            is_commit: is_under_way && last.is_some_and(|part| is_commit(&part.batch)),
            heard: record.journal.interrupted(!is_under_way, replies.is_cut()),
            record: Some(record),
        })
    }

    /// Runs a lost transaction again, and what was under way behind it. `is_absent`: what may have
    /// committed it is known not to have.
    ///
    /// # Errors
    /// The fault itself, if it cannot run again.
    pub(super) async fn replay(
        &mut self,
        fault: Fault,
        lost: Option<Lost>,
        is_absent: bool,
    ) -> Result<Recovered, Fault> {
        let Some(mut lost) = lost else { return Err(fault) };
        if lost.may_be_committed && !is_absent {
            return Err(fault);
        }
        if let Some(why) = lost.unable {
            self.count_replay(ReplayOutcome::NotKept, &fault, why);
            return Err(fault);
        }
        drop(self.drop_server(ServerClosed::Broken));
        if matches!(fault, Fault::AnswersDiffer) {
            return self.fail_transaction(&fault, &lost, Failure::Differs).await;
        }
        self.tell(&std::mem::take(&mut lost.unsent)).await?;
        let until = Instant::now() + self.cluster.handle.config.gate.hold;
        let (statements, known) = (self.statements.clone(), self.known.clone());
        loop {
            self.statements = statements.clone();
            let failure = match self.run_again(&mut lost).await? {
                Ok(()) => {
                    self.count_replay(ReplayOutcome::Done, &fault, "it goes on");
                    self.resume(lost, statements, known);
                    return Ok(Recovered::GoesOn);
                }
                Err(failure) => failure,
            };
            if failure == Failure::Lost && Instant::now() < until {
                drop(self.drop_server(ServerClosed::Broken));
                continue;
            }
            drop(self.drop_server(ServerClosed::Dirty));
            (self.statements, self.known) = (statements, known);
            return self.fail_transaction(&fault, &lost, failure).await;
        }
    }

    fn count_replay(&self, outcome: ReplayOutcome, fault: &Fault, what: &str) {
        self.worker.stats().replayed(self.cluster.handle.index, outcome);
        tracing::info!(user = %self.identity.user, database = %self.identity.database,
            "{fault}; its open transaction: {} ({what})", outcome.as_str());
    }

    /// Brings the transaction to where every answer that the client had has come again.
    async fn run_again(&mut self, lost: &mut Lost) -> Result<Result<(), Failure>, Fault> {
        let Some(record) = &lost.record else { return Ok(Err(Failure::Differs)) };
        self.session.closed(false);
        self.session.settings = record.settings.clone();
        let mut need = Need::Primary(RouteReason::RetriedOnPrimary);
        if !record.began.texts.is_empty() {
            self.session.uprooted(record.began.clone());
            let routing = &self.cluster.handle.config.routing;
            need = self.session.need(&Class::Session, None, routing);
        }
        if acquire(self, &need, true).await?.is_err() {
            return Ok(Err(Failure::NoServer));
        }
        let time_max = self.cluster.handle.config.failover.replay.map(|replay| replay.time_max);
        let deadline = Instant::now() + time_max.unwrap_or_default();
        if let Some(mut active) = self.active.take() {
            active.progress.silent = true;
            active.progress.record = lost.record.take();
            if let Some(record) = &mut active.progress.record {
                record.journal.begin_again();
            }
            self.prelude(&mut active, false);
            self.active = Some(active);
        }
        let mut step = 0;
        let outcome = loop {
            if !self.send_step(step) {
                break Ok(());
            }
            match timeout_at(deadline.into(), poll_fn(|cx| self.poll_serve(cx))).await {
                Ok(Ok(_)) if self.is_as_before(step) => step += 1,
                Ok(Ok(_) | Err(Fault::Settings(_))) => break Err(Failure::Differs),
                Ok(Err(Fault::ServerLost { .. } | Fault::PrimaryChanged { .. })) => {
                    break Err(Failure::Lost);
                }
                Ok(Err(other)) => return Err(other),
                Err(_) => break Err(Failure::TooLong),
            }
        };
        lost.record = self.active.as_mut().and_then(|active| active.progress.record.take());
        Ok(outcome)
    }

    /// Sends a step that was answered before; false if there are no more.
    fn send_step(&mut self, step: usize) -> bool {
        let Some(mut active) = self.active.take() else { return false };
        let record = active.progress.record.take();
        let steps = record.as_ref().map_or(&[][..], |record| record.journal.steps());
        let step = steps.get(step).filter(|step| step.sum.is_some());
        for part in step.iter().flat_map(|step| &step.parts) {
            self.send_part(&mut active, part, true);
        }
        let is_sent = step.is_some();
        active.progress.record = record;
        self.active = Some(active);
        is_sent
    }

    fn send_part(&self, active: &mut Active, part: &Part, behind: bool) {
        if !active.is_under_way() {
            self.restore(active, &part.batch);
        }
        self.encode(active, (&part.batch, &part.bytes), (behind, false));
        active.note(&part.batch);
    }

    fn is_as_before(&mut self, step: usize) -> bool {
        let record = self.active.as_mut().and_then(|active| active.progress.record.as_mut());
        record.is_some_and(|record| record.journal.is_as_before(step))
    }

    /// From here on the client is told again; what was under way follows.
    fn resume(&mut self, mut lost: Lost, statements: Statements, known: Arc<Reported>) {
        let Some(mut active) = self.active.take() else { return };
        self.statements = statements;
        active.progress.silent = false;
        if !lost.heard.is_some_and(|heard| heard.is_cut) {
            self.known = known;
            if active.replies.is_quiet()
                && let Active { server: Some(server), local, .. } = &mut *active
            {
                tell_parameters(&mut self.known, &mut server.pooled.connection.reported, local);
            }
        }
        if let (Some(heard), Some(record)) = (lost.heard, &mut lost.record) {
            record.journal.resume(heard);
            active.replies.heard = heard.bytes;
            let parts = record.journal.steps().last().map_or(&[][..], |step| &step.parts);
            let behind = parts.len() > 1 || !self.inbox.is_empty();
            for part in parts {
                self.send_part(&mut active, part, behind);
                self.commit_begins(&mut active, &part.batch);
            }
        }
        active.progress.started = Some(Instant::now());
        active.progress.record = lost.record;
        self.active = Some(active);
    }

    /// The transaction has failed: what was under way gets the error, or else the next request.
    async fn fail_transaction(
        &mut self,
        fault: &Fault,
        lost: &Lost,
        failure: Failure,
    ) -> Result<Recovered, Fault> {
        self.count_replay(failure.outcome(), fault, failure.hint());
        self.session.failed();
        self.statements.none_changed();
        self.statements.end_transaction();
        let refused =
            Refused { hint: Some(failure.hint()), ..Refused::new("40001", FAILED.to_owned()) };
        if lost.heard.is_none() {
            self.lost = Some(Box::new(refused));
            return Ok(Recovered::Answered);
        }
        let is_cut = lost.heard.is_some_and(|heard| heard.is_cut);
        if is_cut || lost.owed + usize::from(lost.is_open) != 1 {
            return Err(Fault::TransactionLost { hint: failure.hint(), is_cut });
        }
        if lost.is_commit {
            self.session.closed(false);
        }
        self.worker.stats().error(ErrorOrigin::Proxy, refused.sqlstate.as_bytes());
        let mut out = Vec::new();
        refused.report().put(&mut out);
        match lost.is_open {
            true => self.skipping = true,
            false => put_ready(&mut out, self.status()),
        }
        self.tell(&out).await?;
        Ok(Recovered::Answered)
    }
}

impl Conversation {
    /// What a request is told when its transaction has failed and no server has it.
    pub(super) fn aborted(&mut self, batch: &Batch) -> Option<Refused> {
        if !matches!(self.session.transaction, Transaction::Failed) || self.active.is_some() {
            return None;
        }
        if let Some(refused) = self.lost.take() {
            if is_commit(batch) {
                self.session.closed(false);
            }
            return Some(*refused);
        }
        let ends = |effect: &SessionEffect| {
            matches!(effect, SessionEffect::Commit { .. } | SessionEffect::Rollback { .. })
        };
        // On a server it is begun again and fails there, and what comes behind its end runs.
        let ended = statements(batch).any(|statement| statement.session.iter().any(ends));
        (!ended).then(|| Refused::new("25P02", ABORTED))
    }
}

/// What a batch runs, as far as it leaves something behind.
fn statements(batch: &Batch) -> impl Iterator<Item = &Statement> {
    batch.ops.iter().filter_map(|op| match &op.what {
        What::Query(statement) | What::QueryWith(statement, _) => Some(&**statement),
        What::Execute(statement) => statement.as_deref(),
        _ => None,
    })
}

/// Whether a batch is one request that begins a transaction.
fn begins(batch: &Batch) -> bool {
    let mut requests = batch.ops.iter().filter(|op| op.what.ends_request());
    if requests.next().is_none() || requests.next().is_some() || leaves_open(batch) {
        return false;
    }
    let first = batch.ops.iter().find_map(|op| match &op.what {
        What::Query(statement) => Some(Some(statement)),
        What::Execute(statement) => Some(statement.as_ref()),
        _ => None,
    });
    let begins = |statement: &Arc<Statement>| {
        matches!(statement.session.first(), Some(SessionEffect::Begin(_)))
    };
    first.flatten().is_some_and(begins)
}

/// Whether the open transaction may be committed by a batch. CALL and DO cannot do that inside of a
/// transaction block.
fn may_commit(batch: &Batch) -> bool {
    let commits = |effect: &SessionEffect| {
        matches!(
            effect,
            SessionEffect::Commit { .. }
                | SessionEffect::PrepareTransaction
                | SessionEffect::Pin(Pin::Unknown)
        )
    };
    statements(batch).any(|statement| statement.session.iter().any(commits))
}

/// Why a batch must not run a second time.
fn never_again(batch: &Batch) -> Option<&'static str> {
    let copies = |what: &What| matches!(what, What::CopyData | What::CopyEnd);
    if batch.ops.iter().any(|op| copies(&op.what)) {
        return Some("it copies data in");
    }
    batch.reaches_outside.then_some("it does something that no rollback takes back")
}
