//! What replies do to the session, to its server connection and to what is known of the request.

use super::active::Progress;
use super::ask::{answer, whole_answer};
use super::effects::ready_facts;
use super::encode::SPARE_NAME;
use super::errors::{
    ABORTED, is_no_answer, is_shutdown, is_stale_plan, report, stale_plan, too_many,
};
use super::guard::{Guarded, MARK_STATEMENT, Mark};
use super::parameters::tell_parameters;
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
use crate::session::{Session, Transaction};
use crate::sql::{Pin, SessionEffect, Statement};
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
        [servers, SPARE_NAME]
            .into_iter()
            .find_map(|name| with_other_name(error, name, ours))
            .map(Vec::into_boxed_slice)
    }

    fn own_answered(&mut self, out: &mut Buffer) {
        // What is not known of the connection is set before it is compared.
        let known = self.connection.settings.as_ref();
        let lacks = |name| known.is_none_or(|known| !known.knows(name));
        let mut startup = self.session.startup.names();
        let is_set = known.is_some()
            && !startup.any(|name| self.session.settings.get(name).is_some() && lacks(name));
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
                    (_, Limit::Shape) => stale_plan(),
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
        if let Some(outcome) = self.refused_by_replica(fields) {
            return outcome;
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
            self.ended(now, ready.due);
        }
        if ready.status == Status::Idle && self.on_replica {
            self.session.leave_if_possible();
        }
        if self.progress.reading {
            let (node, on_replica) = (self.connection.node, self.on_replica);
            self.session.positions.read(node, self.incarnation, now, on_replica);
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

    fn told(&mut self, answer: &[u8]) {
        if let Some(record) = &mut self.progress.record {
            record.journal.told(answer);
        }
    }

    fn row(&mut self, message: &[u8]) {
        if self.progress.leaving {
            // A snapshot of which nothing has been seen is none.
            let keeps_none = message.ends_with(b"read committed");
            self.progress.may_leave = keeps_none || !self.progress.reading;
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
        let lacking: Vec<Arc<str>> = if self.session.doubts.everything {
            let Some((held, values)) = whole_answer(message) else { return };
            // There may be more than servers tell of.
            self.connection.traces.unknown = true;
            self.session.answered_everything(held, values, self.on_replica)
        } else {
            let doubts = &self.session.doubts;
            let Some((held, values)) = answer(message, doubts) else { return };
            let doubted = self.connection.settings.iter().flat_map(|settings| settings.doubted());
            let lacking = doubted.filter(|name| !doubts.settings.contains(name)).cloned().collect();
            self.session.answered(held, values);
            lacking
        };
        if let Some(settings) = &mut self.connection.settings {
            *settings = self.session.settings.clone();
            for name in lacking {
                Arc::make_mut(settings).doubt(name);
            }
        }
        self.count_pins();
    }
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
            // What became of the commit is found out first, and whether the transaction goes on.
            let is_replayed = is_shutdown(fields)
                && !self.session.is_bound()
                && self.progress.record.as_ref().is_some_and(|record| record.may_run_again());
            return (self.progress.guard.is_some() || is_replayed).then_some(OnError::Swallow);
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
        let (readies, commits) = (self.progress.readies, self.commits);
        self.progress.commits.retain(|running| {
            let runs = running.answered_at > readies && due > 0;
            if !runs {
                commits.ended(running.id);
            }
            runs
        });
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
    fn ended(&mut self, now: Instant, due: usize) {
        self.stats.transaction_done(self.cluster, NodeIndex(self.connection.node.0));
        self.progress.record = None;
        if self.progress.wrote {
            self.session.positions.wrote(now);
            self.connection.traces.wrote = true;
        }
        // Which of the requests under way may write is not known: each of them.
        self.progress.writing &= due > 0;
        self.progress.wrote &= due > 0;
        self.progress.ddl_done |= std::mem::take(&mut self.progress.ddl);
        if !self.progress.leaving {
            self.statements.end_transaction();
        }
        let dropped = self.progress.dropped.ended();
        if let Some(settings) = &mut self.connection.settings {
            if !Arc::ptr_eq(settings, &self.session.settings) {
                *settings = self.session.settings.clone();
            }
            for (name, _) in dropped {
                // A rollback may have brought it back.
                Arc::make_mut(settings).doubt(name);
            }
        }
    }
}
