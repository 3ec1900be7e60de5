//! An open transaction whose server is lost goes on on the next primary (`failover.replay`), or one
//! that only reads on another replica.
//!
//! Its commands are kept as the client sent them, with checksums of their answers
//! ([`crate::session::journal`]): of rows what the server sent, of an OK its numbers and flags, of an
//! error its text. Not of what trackers and warnings tell. On the next server the session becomes
//! what it was before the transaction, the commands go through the same stages once more, and nobody
//! is told; if all answers are the same, what was under way follows, without what the client has
//! had of its answer. Otherwise the transaction has failed with error 1213.
//!
//! ```text
//! client:  BEGIN  A ─▶ a   B ─▶ b   C ─▶                      ─▶ c
//! old:     BEGIN  A ─▶ a   B ─▶ b   C ─▶ lost
//! new:                                   BEGIN A ─▶ a B ─▶ b C ─▶ c
//! ```
//!
//! Only transactions whose start the proxy has seen, and nothing that may have been committed.

use super::active::{Active, Progress, Whose};
use super::conversation::Conversation;
use super::errors;
use super::fault::{Fault, Refused};
use super::followed::Followed;
use super::plan::{Request, What};
use super::repeatable::{OF_ONE_STATEMENT, never_again, stays_open, summarise};
use super::resolve::Recovered;
use super::serve::Served;
use super::statements::Prepared;
use crate::config::PoolMode;
use crate::frontend::acquire::{acquire, reads};
use crate::frontend::failure::{FAILED, Failure};
use crate::metrics::{ReplayOutcome, ServerClosed};
use crate::protocol::mysql::command::Command;
use crate::protocol::mysql::packet::{self, HEAD_BYTES};
use crate::protocol::mysql::replies::Told;
use crate::session::journal::{Heard, Limits, Size};
use crate::session::{Class, Journal, Settings, Transaction};
use crate::sql::{Hint, SessionEffect, Statement};
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout_at;

/// Of a command, beside its bytes.
const PART_BYTES: usize = size_of::<Part>();

/// What is kept of the open transaction.
#[derive(Debug)]
pub struct Record {
    pub journal: Journal<Part>,
    /// The session before it.
    followed: Followed,
    settings: Arc<Settings>,
    /// What its first command needs.
    class: Class,
    hint: Option<Hint>,
    /// Something was sent that may have committed it.
    may_be_committed: bool,
    /// The last command is sent again.
    resumes: bool,
}

/// A command of the client's.
#[derive(Debug, Clone)]
pub struct Part {
    request: Request,
    bytes: Box<[u8]>,
    /// The statement that it executes, which may be closed meanwhile.
    prepared: Option<(u32, Prepared)>,
}

/// A transaction whose server is lost.
pub(super) struct Lost {
    record: Option<Box<Record>>,
    pub may_be_committed: bool,
    /// Why it cannot run again.
    unable: Option<&'static str>,
    /// What has come and has not been passed on.
    unsent: Vec<u8>,
    /// What the client has had of an answer that is not whole; `None`: nothing is under way.
    heard: Option<Heard>,
}

impl Lost {
    pub fn can_run_again(&self) -> bool {
        self.unable.is_none()
    }
}

impl Progress {
    /// Something of the answer has come. How much of it the client is not to get.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> usize {
        if let Some(record) = &mut self.record {
            record.journal.told(bytes);
        }
        if self.silent {
            return bytes.len();
        }
        let heard = usize::try_from(self.heard).unwrap_or(usize::MAX).min(bytes.len());
        self.heard -= heard as u64;
        heard
    }
}

/// Keeping what is sent and answered.
impl Conversation {
    /// Keeps the command, which is sent next, if its transaction may run again.
    pub(super) fn record(&self, active: &mut Active, request: &Request) {
        active.progress.under_way = true;
        let Some(replay) = &self.cluster.handle.config.failover.replay else { return };
        if active.progress.silent {
            return;
        }
        if active.progress.record.is_none() && self.begins(request) {
            active.progress.record = Some(Box::new(Record {
                journal: Journal::default(),
                followed: self.followed.clone(),
                settings: self.session.settings.clone(),
                class: self.class(request),
                hint: request.hint.clone(),
                may_be_committed: false,
                resumes: false,
            }));
        }
        let Some(record) = &mut active.progress.record else { return };
        if std::mem::take(&mut record.resumes) {
            return;
        }
        record.may_be_committed |= self.may_commit(request);
        if let Some(why) = never_again(request) {
            record.journal.spoil(why);
        }
        if record.journal.spoilt().is_some() {
            return;
        }
        let part = self.copied(request);
        let runs = matches!(request.what, What::Query | What::Execute { .. });
        let size = Size { statements: usize::from(runs), bytes: part.bytes.len() + PART_BYTES };
        let limits = Limits { statements_max: replay.statements_max, bytes_max: replay.bytes_max };
        record.journal.push(part, size, false, limits);
    }

    /// Whether the command is the first of a transaction that may run again.
    fn begins(&self, request: &Request) -> bool {
        let Some(statement) = &request.statement else { return false };
        let opens = match &statement.session[..] {
            [SessionEffect::Begin(_) | SessionEffect::SetNext(_)] => statement.count == 1,
            _ => !self.followed.autocommit,
        };
        opens
            && matches!(request.what, What::Query | What::Execute { .. })
            && !self.followed.in_transaction
            && !self.followed.next_transaction
            && self.cluster.handle.config.pool.mode == PoolMode::Transaction
            && !self.session.is_bound()
            && !self.statements.hold()
    }

    /// Whether the command may commit something: the transaction, or what it does itself.
    fn may_commit(&self, request: &Request) -> bool {
        let Some(statement) = &request.statement else { return false };
        if !matches!(request.what, What::Query | What::Execute { .. }) {
            return false;
        }
        let is_open = self.followed.in_transaction || !self.followed.autocommit;
        match &statement.session[..] {
            [SessionEffect::Begin(_)] => is_open && self.followed.in_transaction,
            [SessionEffect::SetNext(_)] => false,
            _ => !(is_open && stays_open(statement)),
        }
    }

    fn copied(&self, request: &Request) -> Part {
        let own = self.inbox.filled().get(..request.bytes).unwrap_or_default();
        let mut bytes: Box<[u8]> = own.into();
        let prepared = match request.what {
            What::Execute { id } => self.statements.get(id).map(|known| (id, known.clone())),
            _ => None,
        };
        if let Some((id, known)) = &prepared
            && let Ok(Command::Execute(execute)) =
                Command::parse(own.get(HEAD_BYTES..).unwrap_or_default(), self.capabilities)
            && let Ok(None) = execute.types(known.parameters)
            && !known.types.is_empty()
        {
            // Those of now: another execution may have brought others by then.
            let (mut out, mut put) = (Vec::new(), Ok(()));
            packet::put(&mut out, &mut 0, |out| {
                put = execute.put_with_types(out, *id, known.parameters, &known.types);
            });
            if put.is_ok() {
                bytes = out.into();
            }
        }
        let request = Request { bytes: bytes.len(), instead: None, ..request.clone() };
        Part { request, bytes, prepared }
    }

    /// The same for what a packet tells. Whether the client has had it.
    pub(super) fn hear_told(&self, told: &Told<'_>, progress: &mut Progress) -> bool {
        if progress.record.is_none() {
            return progress.silent;
        }
        let mut summary = self.worker.scratch.take();
        summarise(told, &mut summary);
        let is_heard = progress.hear(&summary) == summary.len();
        self.worker.keep_scratch(summary);
        is_heard
    }

    /// A command has been answered.
    pub(super) fn recorded(&self, progress: &mut Progress) {
        progress.under_way = false;
        progress.heard = 0;
        let Some(record) = &mut progress.record else { return };
        if !(self.followed.in_transaction || self.followed.next_transaction) {
            progress.record = None;
        } else if self.session.is_bound() || self.statements.hold() {
            record.journal.spoil(BOUND);
        } else if progress.committed.is_some() {
            record.journal.spoil("a part of it is committed");
        } else if progress.failed.is_some_and(|errno| !OF_ONE_STATEMENT.contains(&errno)) {
            record.journal.spoil("an error may have rolled it back");
        }
    }

    /// Whether what comes is not what the client was told before, when it was lost with a server:
    /// then it gets nothing of it.
    pub(super) fn answers_differ(&mut self) -> bool {
        let Some(active) = self.active.as_deref_mut() else { return false };
        let is_whole = active.expected.is_empty();
        let record = active.progress.record.as_ref();
        let differs = record.is_some_and(|record| record.journal.differs(is_whole));
        if differs {
            active.local.clear();
            active.read.consume(std::mem::take(&mut active.forwardable));
        }
        differs
    }

    /// Whether the client is in the middle of an answer that goes on.
    pub(super) fn has_heard(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.progress.heard > 0)
    }
}

const BOUND: &str = "its session had more on the lost server than the transaction";

/// Running it again.
impl Conversation {
    /// Takes the transaction off its lost server; `None`: there is nothing to run again.
    pub(super) fn take_lost(&mut self) -> Option<Lost> {
        let is_bound = self.session.is_bound() || self.statements.hold();
        let active = self.active.as_deref_mut()?;
        let mut record = active.progress.record.take()?;
        let is_cut = active
            .expected
            .front()
            .is_some_and(|front| front.whose == Whose::Client && front.reply.is_cut());
        // A command that is to be sent again may not have been by now.
        let is_under_way = active.progress.under_way | std::mem::take(&mut record.resumes);
        let mut unsent = active.local.filled().to_vec();
        unsent.extend_from_slice(&active.read.filled()[..active.forwardable]);
        Some(Lost {
            may_be_committed: record.may_be_committed,
            unable: if is_bound { Some(BOUND) } else { record.journal.spoilt() },
            unsent,
            heard: record.journal.interrupted(!is_under_way, is_cut),
            record: Some(record),
        })
    }

    /// Runs a lost transaction again. `is_absent`: what may have committed it is known not to have.
    ///
    /// # Errors
    /// The fault itself, if it cannot run again.
    pub(super) async fn replay(
        &mut self,
        request: &Request,
        fault: Fault,
        lost: Option<Lost>,
        is_absent: bool,
    ) -> Result<Recovered, Fault> {
        let Some(mut lost) = lost else { return Err(fault) };
        if let Some(why) = lost.unable {
            self.count_replay(ReplayOutcome::NotKept, &fault, why);
            return Err(fault);
        }
        if lost.may_be_committed && !is_absent {
            return Err(fault);
        }
        self.drop_server(ServerClosed::Broken);
        if matches!(fault, Fault::AnswersDiffer) {
            return self.fail_transaction(request, &fault, &lost, Failure::Differs).await;
        }
        self.tell(&std::mem::take(&mut lost.unsent)).await?;
        let until = Instant::now() + self.cluster.handle.config.gate.hold;
        let now = (self.followed.clone(), self.session.settings.clone());
        loop {
            let failure = match self.run_again(&mut lost).await? {
                Ok(()) => {
                    self.count_replay(ReplayOutcome::Done, &fault, "it goes on");
                    self.resume(lost);
                    return Ok(Recovered::GoesOn);
                }
                Err(failure) => failure,
            };
            if failure == Failure::Lost && lost.record.is_some() && Instant::now() < until {
                self.drop_server(ServerClosed::Broken);
                continue;
            }
            self.drop_server(ServerClosed::Dirty);
            (self.followed, self.session.settings) = now;
            return self.fail_transaction(request, &fault, &lost, failure).await;
        }
    }

    fn count_replay(&self, outcome: ReplayOutcome, fault: &Fault, what: &str) {
        self.worker.stats().replayed(self.cluster.handle.index, outcome);
        tracing::info!(user = %self.identity.user,
            "{fault}; its open transaction: {} ({what})", outcome.as_str());
    }

    /// Brings the transaction to where every answer that the client had has come again.
    async fn run_again(&mut self, lost: &mut Lost) -> Result<Result<(), Failure>, Fault> {
        let Some(record) = &lost.record else { return Ok(Err(Failure::Differs)) };
        self.followed = record.followed.clone();
        self.session.settings = record.settings.clone();
        self.session.transaction = Transaction::Idle;
        let config = self.cluster.handle.config.clone();
        let need = self.session.need(&record.class, record.hint.as_ref(), &config.routing);
        if acquire(self, &need, reads(Some(&record.class))).await?.is_err() {
            return Ok(Err(Failure::NoServer));
        }
        let time_max = config.failover.replay.map(|replay| replay.time_max);
        let deadline = Instant::now() + time_max.unwrap_or_default();
        if let Some(active) = &mut self.active {
            active.progress.silent = true;
            active.progress.record = lost.record.take();
            if let Some(record) = &mut active.progress.record {
                record.journal.begin_again();
            }
        }
        // What the client has sent stands aside.
        let inbox = std::mem::take(&mut self.inbox);
        let outcome = timeout_at(deadline.into(), self.run_steps()).await;
        self.inbox = inbox;
        lost.record = self.active.as_mut().and_then(|active| active.progress.record.take());
        outcome.unwrap_or(Ok(Err(Failure::TooLong)))
    }

    async fn run_steps(&mut self) -> Result<Result<(), Failure>, Fault> {
        for step in 0.. {
            let Some(Part { mut request, bytes, prepared }) = self.kept(step) else { break };
            self.inbox.clear();
            self.inbox.extend(&bytes);
            // One that was closed since is there for as long as it is executed.
            let lent = prepared.filter(|(id, _)| !self.statements.contains(*id));
            let id = lent.as_ref().map(|(id, _)| *id);
            if let Some((id, prepared)) = lent {
                self.statements.lend(id, prepared);
            }
            let served = self.run_on_server(&mut request, false).await;
            if let Some(id) = id {
                self.statements.remove(id);
            }
            match served {
                Ok(Served::Done) if self.is_as_before(step) => {}
                Ok(_) | Err(Fault::Login { .. }) => return Ok(Err(Failure::Differs)),
                Err(Fault::ServerLost { .. } | Fault::PrimaryChanged { .. }) => {
                    return Ok(Err(Failure::Lost));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(Ok(()))
    }

    /// A command that was answered before; `None` if there are no more.
    fn kept(&self, step: usize) -> Option<Part> {
        let record = self.active.as_ref()?.progress.record.as_ref()?;
        let step = record.journal.steps().get(step).filter(|step| step.sum.is_some())?;
        step.parts.first().cloned()
    }

    fn is_as_before(&mut self, step: usize) -> bool {
        let record = self.active.as_mut().and_then(|active| active.progress.record.as_mut());
        record.is_some_and(|record| record.journal.is_as_before(step))
    }

    /// From here on the client is told again; what was under way follows.
    fn resume(&mut self, mut lost: Lost) {
        let Some(active) = &mut self.active else { return };
        active.progress.silent = false;
        if let (Some(heard), Some(record)) = (lost.heard, &mut lost.record) {
            record.journal.resume(heard);
            record.resumes = true;
            active.progress.heard = heard.bytes;
        }
        active.progress.record = lost.record;
    }

    /// The transaction has failed: the command that was under way, or is there now, gets the error.
    async fn fail_transaction(
        &mut self,
        request: &Request,
        fault: &Fault,
        lost: &Lost,
        failure: Failure,
    ) -> Result<Recovered, Fault> {
        self.count_replay(failure.outcome(), fault, failure.hint());
        self.transaction_is_over();
        if lost.heard.is_some_and(|heard| heard.bytes > 0) {
            return Err(Fault::TransactionLost { hint: failure.hint() });
        }
        let rolls_back = |statement: &Arc<Statement>| {
            statement.count == 1 && statement.session == [SessionEffect::Rollback { chain: false }]
        };
        if matches!(request.what, What::Query) && request.statement.as_ref().is_some_and(rolls_back)
        {
            self.inbox.consume(request.bytes);
            self.tell_ok().await?;
            return Ok(Recovered::Answered);
        }
        let message = format!("{FAILED}. {}", failure.hint());
        self.refuse(request, &Refused::new(errors::NOT_COMMITTED, message)).await?;
        Ok(Recovered::Answered)
    }
}
