//! Changes of rows that are transactions of their own, so that they can be found out about if their
//! server is lost (`failover.resolve_commits`).
//!
//! A server commits such a statement before it answers, and nothing of its transaction says whose it
//! is. So the proxy begins one, and commits it when it has the answer: with the savepoint by which
//! any commit is known ([`super::guard`]). The client gets the answer behind the COMMIT.
//!
//! ```text
//! to the server:  START TRANSACTION  INSERT …        SAVEPOINT `tiffin_…`  COMMIT
//! from it:        [OK]               OK, kept ─────▶ [OK]                  [OK] ─▶ the client
//! lost here:      ╰── it is not committed ─────────╯╰── the log tells ────────╯
//! ```
//!
//! - Before COMMIT is sent nothing is committed and nothing will be: the transaction ends with its
//!   connection, or stays open on a server that nobody goes to any more. START TRANSACTION is sent
//!   together with the statement: in a session without XA and LOCK TABLES it can only fail where
//!   nothing behind it runs either. If one is seen to fail, nobody can tell.
//! - Behind COMMIT the log of the next primary tells, as of any commit. If it was committed, the whole
//!   answer is here.
//! - What was not committed runs again, on the primary that was asked; not if the servers have tables
//!   without transactions: in these it may have written already, whatever became of its COMMIT.

use super::active::{Active, Progress, Whose};
use super::conversation::Conversation;
use super::errors::{self, Code};
use super::fault::{Fault, Refused};
use super::followed::{Diagnostics, Last, NOBODY};
use super::plan::{Request, What};
use super::resolve::Recovered;
use crate::config::PoolMode;
use crate::failover::history;
use crate::frontend::acquire::acquire;
use crate::metrics::{CommitOutcome, RouteReason, ServerClosed};
use crate::monitor::mysql_connection::ServiceOpts;
use crate::protocol::mysql::capabilities::Status;
use crate::protocol::mysql::command::Command;
use crate::protocol::mysql::execute::put_query;
use crate::protocol::mysql::packet::HEAD_BYTES;
use crate::protocol::mysql::replies::{Awaits, Told};
use crate::protocol::mysql::reply::OkPacket;
use crate::protocol::mysql::translate::Visible;
use crate::session::Need;
use crate::topology::{Epoch, NodeId};
use memchr::memmem;
use std::time::Instant;
use tokio::time::{sleep_until, timeout_at};

const NOT_COMMITTED: &str = "its server was lost with the statement as often as it is sent again: \
    nothing of it is there";

/// A statement in a transaction of the proxy's.
#[derive(Debug)]
pub struct Lone {
    answer: Option<Answer>,
    /// Something was sent that may have committed it.
    is_committing: bool,
    /// It may be sent once more.
    may_repeat: bool,
}

/// What the client is to be told.
#[derive(Debug)]
enum Answer {
    Ok { affected_rows: u64, last_insert_id: u64, status: Status, warnings: u16, info: Box<[u8]> },
    Err { code: Code, message: Box<[u8]> },
}

impl Lone {
    /// Keeps what the statement is answered with, and of its COMMIT only an error.
    fn keep(&mut self, told: &Told<'_>) {
        match told {
            Told::Ok(ok) if self.answer.is_none() => {
                self.answer = Some(Answer::Ok {
                    affected_rows: ok.affected_rows,
                    last_insert_id: ok.last_insert_id,
                    status: ok.status.without(Status::IN_TRANS),
                    warnings: ok.warnings,
                    info: ok.info.into(),
                });
            }
            Told::Err(error) => {
                let code = Code::new(error.errno, error.sqlstate);
                self.answer = Some(Answer::Err { code, message: error.message.into() });
            }
            _ => {}
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.answer, Some(Answer::Err { .. }))
    }
}

impl Progress {
    /// Whether what a packet tells is kept for later.
    pub(super) fn keeps(&mut self, told: &Told<'_>) -> bool {
        self.lone.as_mut().map(|lone| lone.keep(told)).is_some()
    }
}

/// On the way to an answer.
impl Conversation {
    /// Begins a transaction for a statement that would be one of its own.
    pub(super) fn begin_lone(&self, active: &mut Active, request: &Request, may_repeat: bool) {
        if !self.is_lone(active, request) {
            return;
        }
        let agreed = active.connection().capabilities;
        // Where `sql_mode` is ORACLE, BEGIN begins a block.
        let begin = "START TRANSACTION";
        active.ask(Awaits::Results, Whose::Own, |out| put_query(out, agreed, begin));
        active.progress.lone = Some(Lone { answer: None, is_committing: false, may_repeat });
    }

    fn is_lone(&self, active: &Active, request: &Request) -> bool {
        let config = &self.cluster.handle.config;
        let is_plain = request.statement.as_ref().is_some_and(|statement| {
            statement.count == 1 && statement.reason_code == "dml" && statement.session.is_empty()
        });
        config.failover.resolve_commits
            && config.pool.mode == PoolMode::Transaction
            && active.server.is_primary
            && is_plain
            && request.upload.is_none()
            && request.instead.is_none()
            && self.followed.autocommit
            && !self.followed.in_transaction
            && !self.followed.next_transaction
            && !self.session.is_bound()
            && !self.statements.hold()
            && self.followed.variables.get("completion_type").is_none()
            // What trackers tell of the statement's own transaction is lost.
            && self.visible == Visible::default()
            && self.text_of(request).is_some_and(answers_once)
    }

    /// The statement has been answered: its transaction ends.
    pub(super) async fn commit_lone(&mut self) -> Result<(), Fault> {
        let Some(mut active) = self.active.take() else { return Err(Fault::ClientLeft) };
        let Some(lone) = &mut active.progress.lone else {
            self.active = Some(active);
            return Ok(());
        };
        let has_failed = lone.has_failed();
        lone.is_committing = !has_failed;
        if let Some(broken) = active.progress.broken.take() {
            // It may have run without a transaction.
            active.progress.lone = None;
            let node =
                self.cluster.handle.topology.load().node(active.server.node).name.to_string();
            self.active = Some(active);
            return Err(Fault::ServerLost { node, error: broken.message, writing: true });
        }
        let (affected_rows, status) = (active.progress.row_count, active.progress.status);
        if !has_failed {
            active.progress.guard = self.savepoint(&mut active);
        }
        let agreed = active.connection().capabilities;
        let end = if has_failed { "ROLLBACK" } else { "COMMIT" };
        active.ask(Awaits::Results, Whose::Session, |out| put_query(out, agreed, end));
        self.active = Some(active);
        self.relay().await?;
        let Some(active) = &mut self.active else { return Err(Fault::ClientLeft) };
        let progress = &mut active.progress;
        (progress.row_count, progress.status) = (affected_rows, status.without(Status::IN_TRANS));
        Ok(())
    }

    /// Tells the client, when everything is over.
    pub(super) async fn answer_lone(&mut self) -> Result<(), Fault> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(lone) = active.progress.lone.take() else { return Ok(()) };
        // Nobody can ask for warnings any more: the connection is not kept for that.
        active.progress.failed = None;
        let node = active.server.node;
        if lone.has_failed() && lone.is_committing {
            // Whatever is left of the transaction ends with its connection.
            self.drop_server(ServerClosed::Dirty);
            self.transaction_is_over();
        }
        self.tell_lone(&lone, node).await
    }

    async fn tell_lone(&mut self, lone: &Lone, node: NodeId) -> Result<(), Fault> {
        let mut out = Vec::new();
        let last = |diagnostics, row_count| {
            let (changed_no_row, found_rows) = (false, false);
            Last {
                node,
                connection: NOBODY,
                diagnostics,
                row_count,
                changed_no_row,
                found_rows,
                outlived: false,
            }
        };
        match &lone.answer {
            Some(Answer::Ok { affected_rows, last_insert_id, status, warnings, info }) => {
                let (affected_rows, last_insert_id) = (*affected_rows, *last_insert_id);
                let (status, warnings) = (*status, *warnings);
                let plain = OkPacket::plain(status);
                OkPacket { affected_rows, last_insert_id, warnings, info, ..plain }.put(
                    &mut out,
                    &mut 1,
                    self.capabilities,
                );
                let row_count = affected_rows.try_into().unwrap_or(i64::MAX);
                let warns = if warnings > 0 { Diagnostics::There } else { Diagnostics::None };
                self.followed.last = Some(last(warns, row_count));
            }
            Some(Answer::Err { code, message }) => {
                let message = String::from_utf8_lossy(message);
                errors::put(&mut out, &mut 1, *code, &message);
                self.followed.last = Some(last(Diagnostics::There, -1));
            }
            None => return Err(Fault::ClientLeft),
        }
        self.tell(&out).await
    }

    /// The text that the request runs.
    fn text_of(&self, request: &Request) -> Option<&[u8]> {
        match request.what {
            What::Query => {
                let payload = self.inbox.filled().get(HEAD_BYTES..request.bytes)?;
                match Command::parse(payload, self.capabilities) {
                    Ok(Command::Query(text)) => Some(text),
                    _ => None,
                }
            }
            What::Execute { id } => self.statements.get(id).map(|known| &*known.sql),
            _ => None,
        }
    }
}

/// Whether a change of rows is answered by one packet, when it is done: not by rows (RETURNING),
/// not before (DELAYED).
fn answers_once(text: &[u8]) -> bool {
    let lower = text.to_ascii_lowercase();
    !["returning", "delayed"].iter().any(|word| memmem::find(&lower, word.as_bytes()).is_some())
}

/// When the server is lost.
impl Conversation {
    /// Finds out what became of the statement: the client has its answer, or it is to be sent again
    /// on the server that is held now.
    ///
    /// # Errors
    /// The fault itself, if nobody can tell.
    pub(super) async fn recover_lone(
        &mut self,
        request: &Request,
        fault: Fault,
        lone: Lone,
    ) -> Result<Recovered, Fault> {
        let Some(active) = self.active.as_deref_mut() else { return Err(fault) };
        let (guard, node) = (active.progress.guard.take(), active.server.node);
        self.drop_server(ServerClosed::Broken);
        self.transaction_is_over();
        let (outcome, epoch) = match guard {
            // Its error is known, and it is over.
            _ if lone.has_failed() => {
                self.inbox.consume(request.bytes);
                self.tell_lone(&lone, node).await?;
                return Ok(Recovered::Answered);
            }
            None if lone.is_committing => return Err(fault),
            None => (CommitOutcome::Absent, None),
            Some(guard) => {
                let (outcome, epoch) = self.find_out(&guard).await?;
                (outcome, Some(epoch))
            }
        };
        self.worker.stats().commit_resolved(self.cluster.handle.index, outcome);
        tracing::info!(user = %self.identity.user,
            "{fault}; its statement: {}", outcome.as_str());
        match outcome {
            CommitOutcome::Unknown => Err(fault),
            CommitOutcome::Committed => {
                self.session.positions.wrote(Instant::now());
                self.inbox.consume(request.bytes);
                self.tell_lone(&lone, node).await?;
                Ok(Recovered::Answered)
            }
            CommitOutcome::Absent if !self.can_run_again(epoch).await? => Err(fault),
            CommitOutcome::Absent if lone.may_repeat => Ok(Recovered::GoesOn),
            CommitOutcome::Absent => {
                let refused = Refused::new(errors::NOT_COMMITTED, NOT_COMMITTED);
                self.refuse(request, &refused).await?;
                Ok(Recovered::Answered)
            }
        }
    }

    /// Takes a connection of the primary, the one of this epoch if one was asked, and sees that what
    /// was rolled back has left nothing behind. A primary that is lost may not be known to be.
    async fn can_run_again(&mut self, epoch: Option<Epoch>) -> Result<bool, Fault> {
        let config = self.cluster.handle.config.clone();
        let deadline = Instant::now() + config.gate.hold;
        loop {
            if acquire(self, &Need::Primary(RouteReason::Write), false).await?.is_err() {
                return Ok(false);
            }
            let Some(server) = self.active.as_ref().map(|active| &active.server) else {
                return Ok(false);
            };
            let is_same = epoch.is_none_or(|epoch| epoch == server.pooled.connection.life.epoch);
            let Some(known) = config.nodes.get(usize::from(server.node.0)).filter(|_| is_same)
            else {
                return Ok(false);
            };
            let opts = ServiceOpts::new(&config, known);
            match timeout_at(deadline.into(), history::rolls_all_back(&opts)).await {
                Ok(Ok(true)) => return Ok(true),
                Ok(Ok(false)) => {
                    tracing::warn!("not to be found out: there are tables without transactions");
                    return Ok(false);
                }
                Ok(Err(error)) => {
                    let next = Instant::now() + config.monitor.interval;
                    if next >= deadline {
                        tracing::warn!("not to be found out: {error}");
                        return Ok(false);
                    }
                    self.drop_server(ServerClosed::Broken);
                    sleep_until(next.into()).await;
                }
                Err(_) => return Ok(false),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mysql::reply::ErrPacket;

    #[test]
    fn the_answer_is_the_statements_or_an_error_of_its_commit() {
        let ok = |affected_rows| {
            Told::Ok(OkPacket { affected_rows, ..OkPacket::plain(Status::IN_TRANS) })
        };
        let error = Told::Err(ErrPacket { errno: 1180, sqlstate: *b"HY000", message: b"full" });
        let answer = |told: &[Told<'_>]| {
            let mut lone = Lone { answer: None, is_committing: false, may_repeat: true };
            told.iter().for_each(|told| lone.keep(told));
            match lone.answer {
                Some(Answer::Ok { affected_rows, status, .. }) => {
                    assert!(!status.has(Status::IN_TRANS));
                    Ok(affected_rows)
                }
                Some(Answer::Err { code, .. }) => Err(Some(code.errno)),
                None => Err(None),
            }
        };
        assert_eq!(answer(&[]), Err(None));
        assert_eq!(answer(&[ok(2), ok(0)]), Ok(2));
        assert_eq!(answer(&[error, ok(0)]), Err(Some(1180)));
        assert_eq!(answer(&[ok(2), error]), Err(Some(1180)));
    }

    #[test]
    fn an_answer_is_one_packet_at_the_end() {
        for (sql, expected) in [
            ("INSERT INTO t VALUES (1)", true),
            ("DELETE FROM t Returning n", false),
            ("INSERT DELAYED INTO t VALUES (1)", false),
        ] {
            assert_eq!(answers_once(sql.as_bytes()), expected, "{sql}");
        }
    }
}
