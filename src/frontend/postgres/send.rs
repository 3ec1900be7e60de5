//! What is written to a server: the client's batch, and what must stand before it.

use super::active::Active;
use super::conversation::Conversation;
use super::encode::Encoder;
use super::plan::{Batch, What};
use super::statements::Statements;
use crate::backend::postgres::connection::Reported;
use crate::protocol::postgres::reply::{Status, put_parameter_status};
use crate::session::{Class, Settings, Transaction};
use std::sync::Arc;

impl Conversation {
    /// Writes a batch for the server that was just acquired.
    pub(super) fn send(&mut self, batch: Batch, open: bool, may_repeat: bool) {
        let Some(mut active) = self.active.take() else { return };
        self.tell_parameters(&mut active);
        let held = self.prelude(&mut active);
        let bytes = &self.inbox.filled()[..self.taken];
        if let Some((mut encoder, _)) = self.encoder(&mut active) {
            encoder.batch(&batch, bytes);
        }
        let progress = &mut active.progress;
        progress.writing |= writes(&batch) || held;
        progress.reading |= reads(&batch);
        progress.segment_open = open || leaves_open(&batch);
        let is_read = matches!(batch.class, Some(Class::Read));
        progress.retained = may_repeat && !open && !held && (is_read || binds(&batch));
        progress.repeatable = progress.retained && is_read;
        if !progress.retained {
            self.inbox.consume(self.taken);
            self.taken = 0;
        }
        active.batch = batch;
        self.active = Some(active);
    }

    /// Prepares the batch's statements again on the connection that refused their old plans, and
    /// sends it once more.
    pub(super) fn send_again(&mut self) {
        let Some(mut active) = self.active.take() else { return };
        let batch = std::mem::take(&mut active.batch);
        active.progress.intercepted = false;
        active.progress.stale_plan = false;
        active.progress.retained = false;
        active.progress.repeatable = false;
        let bytes = &self.inbox.filled()[..self.taken];
        if let Some((mut encoder, _)) = self.encoder(&mut active) {
            encoder.forget(&batch);
            encoder.batch(&batch, bytes);
        }
        self.inbox.consume(self.taken);
        self.taken = 0;
        active.batch = batch;
        self.active = Some(active);
    }

    /// Brings only the session's settings to the server that was just acquired.
    pub(super) fn send_settings(&mut self) {
        let Some(mut active) = self.active.take() else { return };
        self.prelude(&mut active);
        self.active = Some(active);
    }

    /// What must run before the client's request: the difference of settings, and the BEGIN that
    /// was held back. Whether there was one.
    pub(super) fn prelude(&mut self, active: &mut Active) -> bool {
        let wanted = self.session.settings.clone();
        let Some((mut encoder, is_idle)) = self.encoder(active) else { return false };
        if is_idle {
            let known = encoder.connection.settings.as_ref();
            let identical = known.is_some_and(|known| Arc::ptr_eq(known, &wanted));
            let same = identical || known.is_some_and(|known| **known == *wanted);
            if !same {
                let mut sql = match known {
                    Some(known) => known.difference(&wanted),
                    None => {
                        let scratch =
                            "RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL;".to_owned();
                        scratch + &Settings::default().difference(&wanted)
                    }
                };
                sql.retain(|character| character != '\0');
                encoder.own_query(sql.as_bytes());
            }
            if !identical {
                encoder.connection.settings = Some(wanted);
            }
        }
        let Transaction::Held(held) = &mut self.session.transaction else { return false };
        let texts = std::mem::take(&mut held.texts);
        if let Some((mut encoder, _)) = self.encoder(active) {
            for text in &texts {
                encoder.own_query(text);
            }
        }
        self.session.opened();
        true
    }

    /// Tells the client the parameters in which this server differs from what it knows.
    fn tell_parameters(&mut self, active: &mut Active) {
        let Some(connection) = active.connection() else { return };
        if Arc::ptr_eq(&connection.reported, &self.known) {
            return;
        }
        if *connection.reported == *self.known {
            connection.reported = self.known.clone();
            return;
        }
        let mut out = Vec::new();
        let mut changed = Vec::new();
        for (name, value) in connection.reported.iter() {
            // What the session has set itself follows with the settings.
            let name_text = String::from_utf8_lossy(name).to_ascii_lowercase();
            if self.known.get(name) != Some(value)
                && self.session.settings.get(&name_text).is_none()
            {
                put_parameter_status(&mut out, name, value);
                changed.push((name.to_vec(), value.to_vec()));
            }
        }
        for (name, value) in changed {
            Reported::set(&mut self.known, &name, &value);
        }
        active.local.extend(&out);
    }

    pub(super) fn encoder<'a>(&'a self, active: &'a mut Active) -> Option<(Encoder<'a>, bool)> {
        encoder_for(active, &self.statements, self.statements_max())
    }

    pub(super) fn statements_max(&self) -> usize {
        self.cluster.handle.config.pool.statements_max
    }
}

/// An encoder for the connection, and whether no transaction is open and nothing under way there.
pub(super) fn encoder_for<'a>(
    active: &'a mut Active,
    statements: &'a Statements,
    statements_max: usize,
) -> Option<(Encoder<'a>, bool)> {
    let Active { server, replies, outbox, progress, .. } = active;
    let connection = &mut *server.as_mut()?.pooled.connection;
    let is_idle = progress.status == Status::Idle && replies.is_quiet() && outbox.is_empty();
    let unnamed = &statements.unnamed;
    Some((Encoder { connection, replies, outbox, unnamed, statements_max }, is_idle))
}

/// Whether a batch may write, so that the session must see it afterwards.
pub(super) fn writes(batch: &Batch) -> bool {
    !matches!(batch.class, None | Some(Class::Read | Class::Session))
}

/// Whether a batch uses a prepared statement, whose plan may be out of date.
pub(super) fn binds(batch: &Batch) -> bool {
    batch.ops.iter().any(|op| matches!(op.what, What::Bind(_) | What::DescribeStatement(_)))
}

/// Whether a batch may show data, so that the session's later reads must not be older.
pub(super) fn reads(batch: &Batch) -> bool {
    !matches!(batch.class, None | Some(Class::Session))
}

/// Whether more of the same implicit transaction is to come: no Query and no Sync ends it yet.
pub(super) fn leaves_open(batch: &Batch) -> bool {
    let last = batch.ops.last().map(|op| &op.what);
    !matches!(last, Some(What::Query(_) | What::Sync | What::Function | What::CopyEnd))
}
