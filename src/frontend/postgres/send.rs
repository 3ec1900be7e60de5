//! What is written to a server: the client's batch, and what must stand before it.

use super::active::{Active, Clean};
use super::conversation::Conversation;
use super::encode::Encoder;
use super::op::{Op, What};
use super::parameters::tell_parameters;
use super::plan::Batch;
use super::statements::Statements;
use crate::backend::postgres::replies::Way;
use crate::protocol::postgres::reply::Status;
use crate::session::settings::FROM_SCRATCH;
use crate::session::{Class, Settings, Transaction};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A text that no server takes.
const FAILS: &[u8] = b"tiffin ends a transaction";

/// A commit under way.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    /// Under which the worker knows it.
    pub id: u64,
    /// It is answered with this ReadyForQuery.
    pub answered_at: u64,
}

impl Conversation {
    /// Writes a batch for the server that was just acquired.
    pub(super) fn send(&mut self, batch: Box<Batch>, open: bool, may_repeat: bool) {
        let Some(mut active) = self.active.take() else { return };
        mark(&mut active, &batch);
        let joins = active.is_under_way();
        let held = self.prelude(&mut active, batch.sequences);
        self.begin_record(&mut active, &batch, held);
        if active.replies.is_quiet()
            && let Active { server: Some(server), local, .. } = &mut *active
        {
            // Nothing is set first, after which they would be compared.
            tell_parameters(&mut self.known, &mut server.pooled.connection.reported, local);
        }
        if self.compare(&mut active, &batch) {
            active.progress.writing |= held;
            active.batch = Some(batch);
            self.active = Some(active);
            return;
        }
        self.record(&mut active, &batch, 0..self.taken, joins);
        let bytes = &self.inbox.filled()[..self.taken];
        let behind = open || self.inbox.len() > self.taken;
        let kept = self.encode(&mut active, (&batch, bytes), (behind, may_repeat));
        self.commit_begins(&mut active, &batch);
        let progress = &mut active.progress;
        progress.writing |= writes(&batch) || held;
        progress.wrote |= writes(&batch);
        progress.reading |= reads(&batch);
        progress.segment_open = open || leaves_open(&batch);
        active.hasten_end();
        let progress = &mut active.progress;
        let is_read = matches!(batch.class, Some(Class::Read));
        progress.retained = may_repeat
            && !open
            && !held
            && progress.record.is_none()
            && ends_itself(&batch)
            && (is_read || progress.settling || binds(&batch) || kept);
        progress.repeatable = progress.retained && is_read;
        progress.describes = describes(&batch);
        if !progress.retained {
            self.inbox.consume(self.taken);
            self.taken = 0;
        }
        active.batch = Some(batch);
        self.active = Some(active);
    }

    /// Notes that a commit is under way, if the batch, which is the last that was encoded, may be
    /// one.
    pub(super) fn commit_begins(&self, active: &mut Active, batch: &Batch) {
        let in_block = matches!(self.session.transaction, Transaction::Open | Transaction::Failed);
        let may_commit = batch.commits || (writes(batch) && !in_block);
        let on_primary = active.server.as_ref().is_some_and(|server| server.is_primary);
        if may_commit && on_primary {
            let id = self.worker.next_id();
            // With one request under way the clock has just been read.
            let due = active.replies.ready_due();
            let started = active.progress.started.filter(|_| due <= 1);
            self.cluster.commits.begun(id, started.unwrap_or_else(Instant::now));
            let answered_at = active.progress.readies + due.max(1) as u64;
            active.progress.commits.push(Commit { id, answered_at });
        }
    }

    /// Removes what another session may have left on the connection.
    fn clean(clean: Clean, asks_sequences: bool, encoder: &mut Encoder<'_>) {
        match clean {
            Clean::Nothing => {}
            Clean::Followed if !asks_sequences => {}
            Clean::Followed | Clean::Sequences => encoder.own_query(b"DISCARD SEQUENCES"),
            Clean::Everything => {
                encoder.own_query(b"DISCARD ALL");
                encoder.connection.prepared.clear();
                encoder.connection.settings = Some(Arc::default());
            }
        }
    }

    /// Sends the request before which something had to be asked.
    pub(super) fn send_settled(&mut self) {
        let Some(active) = &mut self.active else { return };
        let batch = active.batch.take().unwrap_or_default();
        let open = leaves_open(&batch);
        self.send(batch, open, false);
    }

    /// Prepares the batch's statements again on the connection that refused their old plans, and
    /// sends it once more.
    pub(super) fn send_again(&mut self) {
        let Some(mut active) = self.active.take() else { return };
        let batch = active.batch.take().unwrap_or_default();
        active.progress.intercepted = false;
        active.progress.stale_plan = false;
        active.progress.guard = None;
        active.progress.withheld = false;
        active.progress.retained = false;
        active.progress.repeatable = false;
        let bytes = &self.inbox.filled()[..self.taken];
        if let Some((mut encoder, _)) = self.encoder(&mut active) {
            encoder.forget(&batch);
            encoder.batch(&batch, bytes);
        }
        self.inbox.consume(self.taken);
        self.taken = 0;
        active.batch = Some(batch);
        self.active = Some(active);
    }

    /// Brings only the session's settings to the server that was just acquired.
    pub(super) fn send_settings(&mut self) {
        let Some(mut active) = self.active.take() else { return };
        self.prelude(&mut active, false);
        self.active = Some(active);
    }

    /// What must run before the client's request: the difference of settings, and the BEGIN that
    /// was held back. Whether there was one.
    pub(super) fn prelude(&mut self, active: &mut Active, asks_sequences: bool) -> bool {
        let wanted = self.session.settings_before().clone();
        let hidden = self.session.has_hidden_settings();
        let clean = std::mem::replace(&mut active.progress.clean, Clean::Nothing);
        let mut settling = false;
        let Some((mut encoder, is_idle)) = self.encoder(active) else { return false };
        if is_idle {
            Self::clean(clean, asks_sequences, &mut encoder);
            let known = encoder.connection.settings.as_ref();
            let identical = known.is_some_and(|known| Arc::ptr_eq(known, &wanted));
            let same = identical || known.is_some_and(|known| **known == *wanted);
            if !same {
                let mut sql = match known {
                    Some(known) => known.difference(&wanted),
                    // RESET ALL, and something that nobody knows behind it.
                    None if hidden => Settings::default().difference(&wanted),
                    None => FROM_SCRATCH.to_owned() + &Settings::default().difference(&wanted),
                };
                sql.retain(|character| character != '\0');
                // If one of them fails, the block stays open and failed: the server refuses what
                // has been sent behind, which must not run with other settings.
                encoder.own_query(format!("BEGIN;{sql}COMMIT").as_bytes());
                settling = true;
            }
            if !identical {
                encoder.connection.settings = Some(wanted);
            }
        }
        active.progress.settling = settling;
        if is_idle && matches!(self.session.transaction, Transaction::Failed) {
            self.fail_here(active);
            return true;
        }
        let Transaction::Held(held) = &mut self.session.transaction else { return false };
        let began = std::mem::take(held);
        if let Some((mut encoder, _)) = self.encoder(active) {
            for text in &began.texts {
                encoder.own_query(text);
            }
        }
        self.session.opened();
        self.session.began = began;
        true
    }

    /// The transaction has failed elsewhere, or before a server knew of it: it is begun, and fails.
    fn fail_here(&self, active: &mut Active) {
        let texts = &self.session.began.texts;
        let Some((mut encoder, _)) = self.encoder(active) else { return };
        encoder.own_query(texts.first().map_or(b"BEGIN", |text| &text[..]));
        encoder.ask(FAILS, Way::Ask);
        active.progress.status = Status::Failed;
    }

    /// Sets again, before a batch, what a statement of the open transaction has dropped.
    pub(super) fn restore(&self, active: &mut Active, batch: &Batch) {
        let texts = active.progress.dropped.restoration(&self.session.startup);
        let Some((mut encoder, _)) = self.encoder(active) else { return };
        let is_query = |op: &Op| op.what.ends_request() && !matches!(op.what, What::Sync);
        if batch.ops.first().is_some_and(is_query) {
            texts.iter().for_each(|sql| encoder.own_query(sql.as_bytes()));
        } else {
            // A Query would take the client's unnamed portal.
            texts.iter().for_each(|sql| encoder.run(sql));
        }
    }

    /// Whether the server is left in a transaction: settings that failed leave one.
    pub(super) fn left_open(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.progress.status != Status::Idle)
    }

    pub(super) fn encoder<'a>(&'a self, active: &'a mut Active) -> Option<(Encoder<'a>, bool)> {
        let in_block = !matches!(self.session.transaction, Transaction::Idle);
        let settings = &self.session.startup;
        let (mut encoder, is_idle) =
            encoder_for(active, &self.statements, settings, self.encoding())?;
        encoder.in_block |= in_block;
        Some((encoder, is_idle))
    }

    /// `pool.statements_max`, and the count of changes of plans.
    pub(super) fn encoding(&self) -> (usize, u64) {
        (self.cluster.handle.config.pool.statements_max, self.catalog.plans())
    }
}

/// Notes what a batch may leave on its connection.
pub(super) fn mark(active: &mut Active, batch: &Batch) {
    active.progress.dropping &= active.progress.segment_open;
    active.progress.dropping |= batch.drops;
    active.progress.ending &= active.progress.segment_open;
    let Some(server) = &mut active.server else { return };
    if let Some(ends) = batch.ends_last() {
        active.progress.ending = ends && !server.is_primary;
    }
    // When it was planned nobody knew that a replica would get it.
    active.progress.dropping |= batch.ends && !server.is_primary;
    server.pooled.connection.traces.unknown |= batch.unknown_function;
    if batch.sequences {
        server.pool.shared.asks_sequences.store(true, Ordering::Relaxed);
    }
}

/// An encoder for the connection, and whether no transaction is open and nothing under way there.
pub(super) fn encoder_for<'a>(
    active: &'a mut Active,
    statements: &'a Statements,
    startup: &'a Settings,
    (statements_max, plans): (usize, u64),
) -> Option<(Encoder<'a>, bool)> {
    let Active { server, replies, outbox, progress, .. } = active;
    let connection = &mut *server.as_mut()?.pooled.connection;
    let is_idle = progress.status == Status::Idle && replies.is_quiet() && outbox.is_empty();
    let unnamed = &statements.unnamed;
    let is_due = replies.is_client_due();
    let encoder = Encoder {
        connection,
        replies,
        outbox,
        unnamed,
        statements_max,
        plans,
        startup,
        bound: None,
        between: !progress.segment_open,
        in_block: is_due,
        describes: false,
        may_be_aborted: progress.status == Status::Failed || is_due,
    };
    Some((encoder, is_idle))
}

/// Whether the server is done with a batch when its last message is answered, even after an error.
/// A simple query is skipped if it follows one.
fn ends_itself(batch: &Batch) -> bool {
    batch.ops.len() == 1 || batch.ops.last().is_some_and(|op| matches!(op.what, What::Sync))
}

/// Whether a batch may write, so that the session must see it afterwards.
pub(super) fn writes(batch: &Batch) -> bool {
    !matches!(batch.class, None | Some(Class::Read | Class::Session))
}

/// Whether a batch uses a prepared statement, whose plan may be out of date.
pub(super) fn binds(batch: &Batch) -> bool {
    batch.ops.iter().any(|op| matches!(op.what, What::Bind(_) | What::DescribeStatement(_)))
}

/// Whether a batch asks what each of its results looks like. A client that does not would read
/// rows of another shape by the description that it had before.
pub(super) fn describes(batch: &Batch) -> bool {
    let count = |is: fn(&What) -> bool| batch.ops.iter().filter(|op| is(&op.what)).count();
    count(|what| matches!(what, What::Bind(_)))
        <= count(|what| matches!(what, What::DescribePortal | What::DescribeStatement(_)))
}

/// Whether a batch may show data, so that the session's later reads must not be older.
pub(super) fn reads(batch: &Batch) -> bool {
    !matches!(batch.class, None | Some(Class::Session))
}

/// Whether more of the same implicit transaction is to come: no Query and no Sync ends it yet.
pub(super) fn leaves_open(batch: &Batch) -> bool {
    let ends = |what: &What| what.ends_request() || matches!(what, What::CopyEnd);
    !batch.ops.last().is_some_and(|op| ends(&op.what))
}
