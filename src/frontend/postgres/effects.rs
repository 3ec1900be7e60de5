//! What statements that have run do to the session.

use super::observer::Observer;
use super::plan::is_control;
use crate::protocol::postgres::reply::Status;
use crate::session::Pins;
use crate::session::settings::literal;
use crate::session::transaction::Held;
use crate::sql::{Discard, Pin, SessionEffect, Statement};
use std::sync::Arc;

/// How the statements of a request ended.
pub(super) struct Facts {
    failed: bool,
    /// The transaction block was in a failed state before: COMMIT rolls back.
    was_failed: bool,
    status: Status,
    simple: bool,
}

/// How many of the statements of a segment are committed, whatever comes later: those up to a
/// DISCARD ALL, which is its own transaction and takes what came before along
/// (`XACT_FLAGS_NEEDIMMEDIATECOMMIT`, `src/backend/tcop/postgres.c`).
fn committed_at_once(executed: &[Arc<Statement>]) -> usize {
    let discards = |statement: &Arc<Statement>| {
        statement.session.contains(&SessionEffect::Discard(Discard::All))
    };
    executed.iter().rposition(discards).map_or(0, |last| last + 1)
}

/// A single statement that is no SQL to the proxy: if it is none to the server either, nothing of
/// it has run.
fn is_not_understood(statement: &Statement) -> bool {
    statement.count == 1 && statement.reason_code == "parse_error"
}

/// Whether it is about the names of prepared statements.
fn is_of_names(effect: &&SessionEffect) -> bool {
    matches!(effect, SessionEffect::Prepare { .. } | SessionEffect::Deallocate(_))
}

pub(super) fn ready_facts(failed: bool, status: Status, before: Status, simple: bool) -> Facts {
    Facts { failed, was_failed: before == Status::Failed, status, simple }
}

impl Observer<'_> {
    /// Takes over what statements have left behind.
    pub(super) fn apply(&mut self, executed: &[Arc<Statement>], facts: &Facts) {
        if facts.failed && (facts.simple || facts.status == Status::Idle) {
            // The implicit transaction was rolled back, but for what a statement in it committed at
            // once (VACUUM and its like), or unless the text controlled transactions itself: how far
            // it came is not known then.
            let kept = if facts.simple { 0 } else { committed_at_once(executed) };
            let (kept, executed) = executed.split_at(kept);
            for effect in kept.iter().flat_map(|statement| &statement.session) {
                self.effect(effect, facts);
            }
            let effects = || executed.iter().flat_map(|statement| &statement.session);
            if !facts.simple {
                // No rollback undoes these, and they have run.
                effects().filter(is_of_names).for_each(|effect| self.effect(effect, facts));
            }
            if !facts.simple || effects().any(is_control) {
                effects().for_each(|effect| self.session.may_have(effect));
            }
            let refused = self.progress.syntax_error && facts.simple;
            if facts.was_failed && !effects().any(is_control) {
                // Nothing runs in a transaction that has failed.
            } else if !refused || executed.iter().any(|statement| !is_not_understood(statement)) {
                self.pin_anyway(executed);
            }
            return;
        }
        // A BEGIN takes what its text or segment has done before into its transaction, and a
        // ROLLBACK without one takes it back.
        let mut before = self.session.settings.clone();
        for statement in executed {
            self.progress.ddl |= statement.is_ddl;
            for effect in &statement.session {
                match effect {
                    SessionEffect::Begin(_) => self.session.opened_from(before.clone()),
                    SessionEffect::Rollback { chain: false } if !self.session.is_in_block() => {
                        self.session.rolled_back(before.clone());
                    }
                    effect => self.effect(effect, facts),
                }
                if is_control(effect) || *effect == SessionEffect::Discard(Discard::All) {
                    before = self.session.settings.clone();
                }
            }
        }
    }

    /// What may hold even though the statement failed: what no rollback undoes, and what an unknown
    /// text did before it. The server is asked where it can be.
    fn pin_anyway(&mut self, executed: &[Arc<Statement>]) {
        for effect in executed.iter().flat_map(|statement| &statement.session) {
            let SessionEffect::Pin(pin) = effect else { continue };
            match pin {
                Pin::AdvisoryLock | Pin::PreparedStatement => {
                    let mut left = Pins::default();
                    left.insert(*pin);
                    self.session.suspect(left);
                }
                Pin::Sequence if !self.on_replica => self.session.apply(effect),
                Pin::Unknown => {
                    self.session.suspect(Pins::all_visible());
                    self.connection.traces.unknown = true;
                    if !self.session.has_hidden_settings() {
                        self.connection.settings = None;
                    }
                }
                _ => {}
            }
        }
    }

    fn effect(&mut self, effect: &SessionEffect, facts: &Facts) {
        // A transaction that has failed has taken it back.
        let holds = facts.status != Status::Failed;
        if holds && !self.session.startup.is_empty() {
            self.progress.dropped.note(effect, &self.session.startup);
        }
        match effect {
            SessionEffect::Commit { chain } | SessionEffect::Rollback { chain } => {
                let commits = matches!(effect, SessionEffect::Commit { .. }) && !facts.was_failed;
                self.session.closed(commits);
                if *chain {
                    self.session.opened();
                    self.statements.end_transaction();
                }
                // It has none of the failed one's modes: it may write, and then begins elsewhere.
                if *chain && facts.was_failed && self.on_replica {
                    let (texts, modes) = (vec![b"BEGIN".as_slice().into()], Default::default());
                    self.session.began = Held { texts, modes };
                }
            }
            // Of a transaction that has failed it is a rollback.
            SessionEffect::PrepareTransaction => self.session.closed(!facts.was_failed),
            SessionEffect::Prepare { name, .. } => {
                self.statements.take_name(name.as_bytes());
                self.session.apply(effect);
            }
            SessionEffect::Discard(Discard::All) => {
                self.statements.free_name(None);
                self.statements.named.clear();
                self.connection.prepared.clear();
                self.connection.settings = None;
                self.session.apply(effect);
            }
            SessionEffect::Deallocate(Some(name)) => {
                if self.statements.named.remove(name.as_bytes()).is_none() {
                    self.statements.free_name(Some(name.as_bytes()));
                    self.session.apply(effect);
                }
            }
            SessionEffect::Deallocate(None) => {
                self.statements.free_name(None);
                self.statements.named.clear();
                self.connection.prepared.clear();
                self.session.apply(effect);
            }
            // The server went back to its own start-up values, not to the client's.
            SessionEffect::ResetAll => {
                self.connection.settings = None;
                self.session.apply(effect);
            }
            SessionEffect::Set { name, value: Some(_), local: false } if &**name == "datestyle" => {
                self.session.apply(&self.whole_date_style().unwrap_or_else(|| effect.clone()));
            }
            // Plans are made anew when the search path gets a schema for temporary tables, but not
            // on a connection that has had one since an earlier session.
            SessionEffect::Pin(Pin::TemporaryTable)
                if !self.session.pins.contains(Pin::TemporaryTable) =>
            {
                self.connection.prepared.are_outdated = true;
                self.session.apply(effect);
            }
            other => self.session.apply(other),
        }
    }

    /// `SET datestyle TO ymd` changes the order and keeps the style; what the two have become
    /// the server has reported.
    fn whole_date_style(&self) -> Option<SessionEffect> {
        let value = String::from_utf8_lossy(self.connection.reported.get(b"DateStyle")?);
        let value = Some(literal(&value).into());
        Some(SessionEffect::Set { name: "datestyle".into(), value, local: false })
    }
}
