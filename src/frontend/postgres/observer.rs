//! What replies do to the session, to its server connection and to what is known of the request.

use super::active::Progress;
use super::ask::{answer, whole_answer};
use super::errors::{ABORTED, STALE_PLAN, is_no_answer, is_stale_plan, report, too_many};
use super::guard::{Guarded, MARK_STATEMENT, Mark};
use super::parameters::tell_parameters;
use super::plan::{is_control, is_not_understood};
use super::statements::Statements;
use crate::backend::postgres::connection::{Connection, Reported};
use crate::backend::postgres::replies::{
    Kind, Limit, NotPrepared, OnError, Ready, ShapeOf, Watch, Way,
};
use crate::frontend::commits::LocalCommits;
use crate::metrics::{ErrorOrigin, NodeIndex, PinGuard, WorkerStats};
use crate::monitor::catalog::CatalogSlot;
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::error::{ErrorFields, with_other_name};
use crate::protocol::postgres::reply::Status;
use crate::session::settings::literal;
use crate::session::{Pins, Session, Transaction};
use crate::sql::{Discard, Pin, SessionEffect, Statement};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

/// What replies change, borrowed for one scan.
pub struct Observer<'a> {
    pub session: &'a mut Session,
    pub statements: &'a mut Statements,
    pub known: &'a mut Arc<Reported>,
    pub welcome: &'a Reported,
    pub connection: &'a mut Connection,
    pub catalog: &'a CatalogSlot,
    pub progress: &'a mut Progress,
    pub stats: &'a WorkerStats,
    pub cluster: usize,
    pub incarnation: u64,
    /// Whether the connection leads to a replica: some of its errors are no answer.
    pub on_replica: bool,
    pub pins: &'a mut PinGuard,
    pub commits: &'a LocalCommits,
    /// The client has not been told that it is in.
    pub greeting: bool,
    /// The session's process id, as its client knows it.
    pub process_id: i32,
}

impl Watch for Observer<'_> {
    fn parameter(
        &mut self,
        name: &[u8],
        value: &[u8],
        (own, runs): (bool, Option<&Statement>),
    ) -> bool {
        Reported::set(&mut self.connection.reported, name, value);
        // What the proxy sets is mostly what the client knows: it is compared when all is set.
        !own && !self.is_dropped(name, runs) && Reported::set(self.known, name, value)
    }

    fn before_ready(&mut self, out: &mut Vec<u8>) {
        self.tell_dropped(out);
    }

    fn renamed(&mut self, error: &[u8], named: u64) -> Option<Box<[u8]>> {
        let (ours, servers) = self.statements.names_of(named)?;
        with_other_name(error, servers, ours).map(Vec::into_boxed_slice)
    }

    fn own_answered(&mut self, out: &mut Buffer) {
        // What is not known of the connection is set before it is compared.
        let is_set = self.connection.settings.is_some();
        if is_set && !self.greeting && !self.progress.intercepted {
            tell_parameters(self.known, &mut self.connection.reported, out);
        }
    }

    fn changed(&mut self, change: u64) {
        if change == 0 {
            return;
        }
        if self.progress.retained {
            self.progress.changed = change;
        } else {
            self.statements.changed(change);
        }
    }

    fn not_changed(&mut self, changes: RangeInclusive<u64>) {
        // A request that is repeated makes them again.
        if !self.progress.intercepted {
            self.statements.not_changed(&changes);
        }
    }

    fn error(&mut self, fields: &ErrorFields<'_>, front: Option<(Kind, Way)>) -> OnError {
        if self.progress.intercepted || self.progress.broken.is_some() {
            return OnError::Swallow;
        }
        if self.progress.repeatable && self.on_replica && is_no_answer(fields) {
            self.progress.intercepted = true;
            return OnError::Intercept;
        }
        if let Some(outcome) = self.guard_failed(fields, front) {
            return outcome;
        }
        if is_stale_plan(fields) {
            if self.progress.retained && self.progress.describes {
                self.progress.intercepted = true;
                self.progress.stale_plan = true;
                return OnError::Intercept;
            }
            self.progress.stale_plan_told = true;
        }
        match front {
            // A Parse that the proxy injected stands for one that the client sent, and so does the
            // description behind one.
            Some((Kind::Parse | Kind::Describe, Way::Swallow)) => {}
            // The session's settings cannot be brought here, say for a role that the replica does not
            // know yet; the server refuses the client's request behind them as well.
            Some((_, Way::Swallow)) if self.progress.retained => {
                self.progress.intercepted = true;
                self.connection.settings = None;
                return OnError::Intercept;
            }
            Some((_, Way::Refuse(limit))) if fields.sqlstate == b"42601" => {
                self.progress.stale_plan_told |= limit == Limit::Shape;
                return OnError::Instead(match (self.progress.status, limit) {
                    (Status::Failed, _) => report("25P02", ABORTED),
                    (_, Limit::Shape) => report("0A000", STALE_PLAN),
                    _ => report("53400", too_many(limit)),
                });
            }
            // The doubts remain.
            Some((_, Way::Ask)) => return OnError::Swallow,
            Some((_, Way::Swallow)) => {
                let message = String::from_utf8_lossy(fields.message);
                let sqlstate = String::from_utf8_lossy(fields.sqlstate);
                self.progress.broken = Some(format!("{sqlstate}: {message}").into());
                return OnError::Intercept;
            }
            _ => {}
        }
        self.progress.syntax_error |= fields.sqlstate == b"42601";
        self.progress.fatal_told |= fields.is_fatal();
        self.stats.error(ErrorOrigin::Server, fields.sqlstate);
        OnError::Forward
    }

    fn executed(&mut self, statement: Arc<Statement>) {
        self.progress.executed.push(statement);
    }

    fn ready(&mut self, ready: Ready) {
        self.progress.readies += 1;
        if ready.swallowed {
            self.progress.status = ready.status;
            if self.session.doubts.asked {
                self.session.unanswered();
                self.count_pins();
            }
            return;
        }
        self.progress.guard = None;
        self.progress.withheld = false;
        let now = Instant::now();
        let node = NodeIndex(self.connection.node.0);
        if let Some(started) = self.progress.started {
            self.stats.query_done(self.cluster, node, now - started);
        }
        self.progress.ended = Some(now);
        let before = self.progress.status;
        self.progress.status = ready.status;
        let simple = ready.statement.is_some();
        let mut executed = std::mem::take(&mut self.progress.executed);
        executed.extend(ready.statement);
        if !executed.is_empty() {
            self.apply(&executed, &ready_facts(ready.failed, ready.status, before, simple));
            executed.clear();
            self.count_pins();
        }
        self.progress.syntax_error = false;
        self.progress.executed = executed;
        self.reconcile(ready.status);
        if !self.progress.commits.is_empty() {
            self.commits_ended(ready.due);
        }
        if ready.status == Status::Idle {
            self.ended(now);
        }
        if ready.status == Status::Idle && self.on_replica {
            self.session.leave_if_possible();
        }
        if self.progress.reading {
            self.session.positions.read(self.connection.node, self.incarnation, now);
        }
    }

    fn not_prepared(&mut self, id: u64, why: NotPrepared) {
        self.connection.prepared.remove(id);
        if self.connection.unnamed == Some(id) {
            self.connection.unnamed = None;
        }
        if self.statements.unnamed.id != id || self.progress.intercepted {
            return;
        }
        match why {
            NotPrepared::Failed => self.statements.drop_unnamed(),
            NotPrepared::Skipped => self.statements.restore_unnamed(),
            NotPrepared::Own => {}
        }
    }

    fn notification(&mut self, sender: i32, front: Option<&Arc<Statement>>) -> Option<i32> {
        let listens = |statement: &Arc<Statement>| {
            statement.session.contains(&SessionEffect::Pin(Pin::Listen))
        };
        let asked = self.session.pins.contains(Pin::Listen)
            || front.is_some_and(listens)
            || self.progress.executed.iter().any(listens);
        // A session knows its own notifications by its process id.
        let own = sender == self.connection.cancel.process_id();
        asked.then_some(if own { self.process_id } else { sender })
    }

    fn described(&mut self, of: ShapeOf, columns: u64) {
        self.shape_told(of, columns);
    }

    fn row(&mut self, message: &[u8]) {
        if self.progress.leaving {
            self.progress.may_leave = message.ends_with(b"read committed");
            return;
        }
        if let Some(inquiry) = &mut self.progress.inquiry {
            inquiry.hear(message);
            return;
        }
        if let Some(guard) = &mut self.progress.guard {
            guard.mark = Mark::read(message);
            if guard.mark.is_none() {
                self.progress.broken = Some("XX000: the mark of a transaction is not one".into());
            }
            return;
        }
        if self.session.doubts.everything {
            let Some((held, values)) = whole_answer(message) else { return };
            self.session.answered_everything(held, values, self.on_replica);
            // There may be more than servers tell of.
            self.connection.traces.unknown = true;
        } else {
            let Some((held, values)) = answer(message, &self.session.doubts) else { return };
            self.session.answered(held, values);
        }
        if let Some(settings) = &mut self.connection.settings {
            *settings = self.session.settings.clone();
        }
        self.count_pins();
    }
}

/// How the statements of a request ended.
struct Facts {
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

fn ready_facts(failed: bool, status: Status, before: Status, simple: bool) -> Facts {
    Facts { failed, was_failed: before == Status::Failed, status, simple }
}

impl Observer<'_> {
    fn count_pins(&mut self) {
        self.pins.hold(self.session.pins.iter().map(|pin| pin.as_str()));
    }

    /// The server goes down, or has refused the question for the mark.
    fn guard_failed(
        &mut self,
        fields: &ErrorFields<'_>,
        front: Option<(Kind, Way)>,
    ) -> Option<OnError> {
        if fields.is_fatal() {
            // What became of the commit is found out first.
            return self.progress.guard.as_ref().map(|_| OnError::Swallow);
        }
        let guard = self.progress.guard.as_mut()?;
        let asked = match front {
            Some((Kind::Bind, Way::Swallow) | (Kind::Execute, Way::Ask)) => true,
            // Of a statement in the extended protocol it may be the client's own.
            Some((Kind::Parse, Way::Swallow)) => {
                guard.mark.is_none() && guard.what != Guarded::Statement
            }
            _ => false,
        };
        if !asked {
            return None;
        }
        guard.refused = true;
        self.connection.prepared.remove(MARK_STATEMENT);
        // The client's own statement has failed before, and it has been told so.
        if fields.sqlstate == b"25P02" {
            return Some(OnError::Swallow);
        }
        if guard.what.runs_again() {
            self.stats.error(ErrorOrigin::Server, fields.sqlstate);
            return Some(OnError::Forward);
        }
        let message = String::from_utf8_lossy(fields.message);
        let sqlstate = String::from_utf8_lossy(fields.sqlstate);
        self.progress.broken = Some(format!("{sqlstate}: {message}").into());
        Some(OnError::Intercept)
    }

    /// Commits whose requests are answered; `due` requests are not.
    fn commits_ended(&mut self, due: usize) {
        let readies = self.progress.readies;
        let commits = self.commits;
        self.progress.commits.retain(|running| {
            let runs = running.answered_at > readies && due > 0;
            if !runs {
                commits.ended(running.id);
            }
            runs
        });
    }

    /// Takes over what statements have left behind.
    fn apply(&mut self, executed: &[Arc<Statement>], facts: &Facts) {
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
        // A BEGIN takes what its text or segment has done before into its transaction.
        let mut before = self.session.settings.clone();
        for statement in executed {
            self.progress.ddl |= statement.is_ddl;
            for effect in &statement.session {
                match effect {
                    SessionEffect::Begin(_) => self.session.opened_from(before.clone()),
                    effect => self.effect(effect, facts),
                }
                if is_control(effect) {
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
                    self.connection.settings = None;
                }
                _ => {}
            }
        }
    }

    fn effect(&mut self, effect: &SessionEffect, facts: &Facts) {
        if !self.session.startup.is_empty() {
            self.progress.dropped.note(effect, &self.session.startup);
        }
        match effect {
            SessionEffect::Commit { chain } | SessionEffect::Rollback { chain } => {
                let commits = matches!(effect, SessionEffect::Commit { .. }) && !facts.was_failed;
                self.session.closed(commits);
                if *chain {
                    self.session.opened();
                }
            }
            SessionEffect::PrepareTransaction => self.session.closed(true),
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
            SessionEffect::Reset(name) | SessionEffect::Set { name, value: None, local: false } => {
                if self.session.startup.get(name).is_some() {
                    self.connection.settings = None;
                }
                self.session.apply(effect);
            }
            SessionEffect::Set { name, value: Some(_), local: false } if &**name == "datestyle" => {
                self.session.apply(&self.whole_date_style().unwrap_or_else(|| effect.clone()));
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

    /// The server's word on the transaction is the last one.
    fn reconcile(&mut self, status: Status) {
        match (status, &self.session.transaction) {
            (Status::Open, Transaction::Open) => {}
            (Status::Open, _) => self.session.opened(),
            (Status::Failed, _) => {
                self.session.opened();
                self.session.failed();
            }
            (Status::Idle, Transaction::Idle) => {}
            // Ended by something that was not seen: what it did to the settings is not known.
            (Status::Idle, _) => {
                let before = self.session.settings.clone();
                self.session.closed(false);
                self.session.may_have_settings(&before);
            }
        }
    }

    /// No transaction is open any more.
    fn ended(&mut self, now: Instant) {
        self.stats.transaction_done(self.cluster, NodeIndex(self.connection.node.0));
        self.progress.wrote = false;
        if std::mem::take(&mut self.progress.writing) {
            self.session.positions.wrote(now);
            self.connection.traces.wrote = true;
        }
        self.progress.ddl_done |= std::mem::take(&mut self.progress.ddl);
        self.statements.end_transaction();
        self.progress.dropped.ended();
        if let Some(settings) = &mut self.connection.settings
            && !Arc::ptr_eq(settings, &self.session.settings)
        {
            *settings = self.session.settings.clone();
        }
    }
}
