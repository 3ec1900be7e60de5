//! What the proxy answers itself: a BEGIN that waits for its first statement, the end of a
//! transaction that no server has seen, `tiffin.*` settings, and batches that ask for nothing.

use super::conversation::Conversation;
use super::errors::ABORTED;
use super::fault::{Fault, Refused};
use super::op::{Meant, Op, What};
use super::plan::Batch;
use crate::config::PoolMode;
use crate::protocol::postgres::frame::{HEAD_BYTES, put};
use crate::protocol::postgres::reply::{
    BIND_COMPLETE, CLOSE_COMPLETE, NO_DATA, PARSE_COMPLETE, put_command_complete, put_ready,
    put_text_columns, put_text_result,
};
use crate::protocol::postgres::request::{self, Request};
use crate::session::NoChoice;
use crate::session::Transaction;
use crate::session::transaction::Held;
use crate::sql::{SessionEffect, Statement, is_start};
use std::sync::Arc;

/// Describe of the unnamed portal.
const DESCRIBE_UNNAMED: &[u8] = b"D\0\0\0\x06P\0";

/// A result of the proxy's own.
enum Answer {
    Tag(&'static str),
    /// One row of one column.
    Row {
        column: String,
        value: String,
    },
    Refused(Refused),
}

impl Conversation {
    /// Answers a whole batch without a server, if it can be. The session holds no connection.
    pub(super) async fn answer_here(&mut self, batch: &Batch) -> Result<bool, Fault> {
        if self.cluster.handle.config.pool.mode == PoolMode::Session {
            return Ok(false);
        }
        if !batch.runs {
            return self.answer_nothing(batch).await;
        }
        let Some((statement, text)) = self.only_statement(batch) else { return Ok(false) };
        let Some(answer) = self.answer(&statement, &text) else { return Ok(false) };
        let mut out = Vec::new();
        self.put_answer(batch, &answer, &mut out);
        self.tell(&out).await?;
        Ok(true)
    }

    /// A batch that runs and prepares nothing: a lone Sync, a Close.
    async fn answer_nothing(&mut self, batch: &Batch) -> Result<bool, Fault> {
        let nothing = batch
            .ops
            .iter()
            .all(|op| matches!(op.what, What::Sync | What::CloseStatement(Meant::Named(_))));
        if !nothing {
            return Ok(false);
        }
        let mut out = Vec::new();
        for op in &batch.ops {
            match op.what {
                What::Sync => put_ready(&mut out, self.status()),
                _ => out.extend_from_slice(CLOSE_COMPLETE),
            }
        }
        self.tell(&out).await?;
        Ok(true)
    }

    /// The statement of a batch that runs exactly one, with its text.
    fn only_statement(&self, batch: &Batch) -> Option<(Arc<Statement>, Box<[u8]>)> {
        let bytes = self.inbox.filled();
        if let [Op { at, what: What::Query(statement), .. }] = &batch.ops[..] {
            let failed = matches!(self.session.transaction, Transaction::Failed);
            if statement.session.is_empty() && !failed {
                return None;
            }
            let Ok(Request::Query(text)) = request::read(&bytes[at.clone()]) else { return None };
            return (statement.count == 1).then(|| (statement.clone(), text.into()));
        }
        if !matches!(batch.ops.last()?.what, What::Sync) {
            return None;
        }
        let meant = batch.ops.iter().find_map(|op| match &op.what {
            // A portal with a name can be run again.
            What::Bind(bound) if binds_plainly(&bytes[op.at.clone()]) => Some(bound),
            _ => None,
        })?;
        let (mut binds, mut statement) = (0, None);
        for op in &batch.ops {
            match &op.what {
                What::Bind(_) => binds += 1,
                What::Execute(runs)
                    if binds == 1 && statement.is_none() && runs_unnamed(&bytes[op.at.clone()]) =>
                {
                    statement = Some(runs.clone()?);
                }
                What::Parse(prepared) if meant.is(prepared.id) => {}
                What::ParseUnnamed(id) if meant.is(*id) => {}
                What::DescribeStatement(described) if meant.is(described.id()) => {}
                What::DescribePortal if binds == 1 && bytes[op.at.clone()] == *DESCRIBE_UNNAMED => {
                }
                What::Sync => {}
                _ => return None,
            }
        }
        if binds != 1 {
            return None;
        }
        let (text, types): (Box<[u8]>, &[u8]) = match meant {
            Meant::Named(prepared) => (prepared.sql.clone(), &prepared.types),
            Meant::Unnamed(_) => {
                let unnamed = &self.statements.unnamed;
                (unnamed.sql.as_slice().into(), &unnamed.types)
            }
            Meant::Foreign => return None,
        };
        if types != [0, 0] {
            return None;
        }
        statement.filter(|statement| statement.count == 1).map(|statement| (statement, text))
    }

    fn answer(&mut self, statement: &Statement, text: &[u8]) -> Option<Answer> {
        let [effect] = &statement.session[..] else {
            return self.answer_failed(statement);
        };
        match (effect, &mut self.session.transaction) {
            (SessionEffect::Begin(modes), Transaction::Idle) => {
                let held = Held { texts: vec![text.into()], modes: *modes };
                self.session.transaction = Transaction::Held(held);
                Some(Answer::Tag(if is_start(text) { "START TRANSACTION" } else { "BEGIN" }))
            }
            (SessionEffect::SetTransaction(modes), Transaction::Held(held)) => {
                held.texts.push(text.into());
                held.modes.read_only = modes.read_only.or(held.modes.read_only);
                held.modes.isolation = modes.isolation.or(held.modes.isolation);
                held.modes.deferrable = modes.deferrable.or(held.modes.deferrable);
                Some(Answer::Tag("SET"))
            }
            (SessionEffect::Commit { chain: false }, Transaction::Held(_)) => {
                self.session.closed(true);
                Some(Answer::Tag("COMMIT"))
            }
            (
                SessionEffect::Commit { chain: false } | SessionEffect::Rollback { chain: false },
                Transaction::Held(_) | Transaction::Failed,
            ) => {
                self.session.closed(false);
                Some(Answer::Tag("ROLLBACK"))
            }
            (SessionEffect::SetTiffin { key, value }, _) => {
                Some(match self.set_tiffin(key, value.as_deref()) {
                    Ok(tag) => Answer::Tag(tag),
                    Err(refused) => Answer::Refused(refused),
                })
            }
            (SessionEffect::ShowTiffin { key }, _) => Some(self.show_tiffin(key)),
            _ => self.answer_failed(statement),
        }
    }

    /// A transaction that failed before a server knew of it.
    fn answer_failed(&self, _: &Statement) -> Option<Answer> {
        let failed = matches!(self.session.transaction, Transaction::Failed);
        failed.then(|| Answer::Refused(Refused::new("25P02", ABORTED)))
    }

    pub(super) fn set_tiffin(
        &mut self,
        key: &str,
        value: Option<&str>,
    ) -> Result<&'static str, Refused> {
        self.session.overrides.set(key, value).map_err(|error| match error {
            NoChoice::UnknownKey => unknown_setting(key),
            NoChoice::Allowed(allowed) => {
                let word = value.unwrap_or_default().trim_matches('\'');
                let name = format!("invalid value for parameter \"tiffin.{key}\": \"{word}\"");
                Refused::new("22023", format!("{name} ({allowed})"))
            }
        })?;
        Ok(if value.is_some() { "SET" } else { "RESET" })
    }

    fn show_tiffin(&self, key: &str) -> Answer {
        match self.session.overrides.show(key, &self.cluster.handle.config.routing) {
            Some(value) => Answer::Row { column: format!("tiffin.{key}"), value },
            None => Answer::Refused(unknown_setting(key)),
        }
    }

    /// The replies to a batch whose only statement has this answer.
    fn put_answer(&mut self, batch: &Batch, answer: &Answer, out: &mut Vec<u8>) {
        let mut failed = false;
        for op in &batch.ops {
            match &op.what {
                What::Query(_) => {
                    if let Answer::Row { column, value } = answer {
                        put_text_result(out, column, value, "SHOW");
                    } else {
                        put_result(answer, out);
                    }
                    self.put_status(out);
                }
                What::Sync => self.put_status(out),
                _ if failed => {}
                What::Parse(_) | What::ParseUnnamed(_) => out.extend_from_slice(PARSE_COMPLETE),
                What::Bind(_) => out.extend_from_slice(BIND_COMPLETE),
                What::DescribeStatement(_) => {
                    put(out, b't', |out| out.extend_from_slice(&[0, 0]));
                    put_columns(answer, out);
                }
                What::DescribePortal => put_columns(answer, out),
                What::Execute(_) => {
                    failed = matches!(answer, Answer::Refused(_));
                    put_result(answer, out);
                }
                _ => {}
            }
        }
        if matches!(answer, Answer::Refused(_))
            && matches!(self.session.transaction, Transaction::Held(_))
        {
            self.session.failed();
        }
    }

    fn put_status(&self, out: &mut Vec<u8>) {
        put_ready(out, self.status());
    }
}

fn unknown_setting(key: &str) -> Refused {
    Refused::new("42704", format!("unrecognized configuration parameter \"tiffin.{key}\""))
}

/// Whether an Execute runs the unnamed portal.
fn runs_unnamed(message: &[u8]) -> bool {
    message.get(HEAD_BYTES) == Some(&0)
}

/// Whether a Bind makes the unnamed portal, and brings no parameters.
fn binds_plainly(message: &[u8]) -> bool {
    let Ok(Request::Bind { portal: b"", rest, .. }) = request::read(message) else { return false };
    let formats = rest.first_chunk().map_or(0, |count| usize::from(u16::from_be_bytes(*count)));
    // More formats than parameters are refused, unless there is one for all.
    formats <= 1 && rest.get(2 + 2 * formats..).is_some_and(|rest| rest.starts_with(&[0, 0]))
}

fn put_columns(answer: &Answer, out: &mut Vec<u8>) {
    match answer {
        Answer::Row { column, .. } => put_text_columns(out, column),
        _ => out.extend_from_slice(NO_DATA),
    }
}

fn put_result(answer: &Answer, out: &mut Vec<u8>) {
    match answer {
        Answer::Tag(tag) => put_command_complete(out, tag),
        Answer::Row { value, .. } => {
            put(out, b'D', |out| {
                out.extend_from_slice(&1u16.to_be_bytes());
                out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_be_bytes());
                out.extend_from_slice(value.as_bytes());
            });
            put_command_complete(out, "SHOW");
        }
        Answer::Refused(refused) => refused.report().put(out),
    }
}
