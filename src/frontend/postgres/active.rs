//! A conversation while it holds a server connection: the buffers, what is under way, and what
//! replies do to the session.

use super::ask::answer;
use super::errors::{ABORTED, is_no_answer, is_stale_plan, report, too_many};
use super::parameters::{Dropped, tell_parameters};
use super::plan::{Batch, is_control, is_not_understood};
use super::send::Commit;
use super::statements::Statements;
use crate::backend::postgres::connection::{Connection, Reported, Traces};
use crate::backend::postgres::replies::{Kind, NotPrepared, OnError, Ready, Replies, Watch, Way};
use crate::frontend::commits::LocalCommits;
use crate::metrics::{ErrorOrigin, NodeIndex, PinGuard, WorkerStats};
use crate::pool::LocalPool;
use crate::pool::shared::Pooled;
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::error::{ErrorFields, with_other_name};
use crate::protocol::postgres::reply::Status;
use crate::session::settings::literal;
use crate::session::{Pins, Session, Transaction};
use crate::sql::{Pin, SessionEffect, Statement};
use crate::topology::NodeId;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Everything that exists only while a server connection is held. Kept by the worker for the
/// next request, so that a request allocates nothing.
#[derive(Debug, Default)]
pub struct Active {
    pub server: Option<Server>,
    pub replies: Replies,
    /// To the server.
    pub outbox: Buffer,
    /// From the server.
    pub read: Buffer,
    /// To the client, before what is forwarded from `read`.
    pub local: Buffer,
    /// The requests that were sent, and what is known of their end.
    pub batch: Option<Box<Batch>>,
    pub progress: Progress,
    /// Whether the TLS layer towards the server, the client, still holds bytes.
    pub server_unflushed: bool,
    pub client_unflushed: bool,
}

/// The connection and where it leads.
#[derive(Debug)]
pub struct Server {
    pub pooled: Pooled,
    pub pool: Rc<LocalPool>,
    pub node: NodeId,
    pub incarnation: u64,
    /// Whether it was chosen as the primary: everything may be sent to it.
    pub is_primary: bool,
}

impl Server {
    /// The connection is this session's from now on; tells what must be removed first.
    pub fn take_over(&mut self, process_id: i32) -> Clean {
        let traces = &mut self.pooled.connection.traces;
        if traces.owner == Some(process_id) {
            return Clean::Nothing;
        }
        let before = std::mem::replace(traces, Traces { owner: Some(process_id), unknown: false });
        match (before.owner, before.unknown) {
            (None, _) => Clean::Nothing,
            (Some(_), true) => Clean::Everything,
            (Some(_), false) if self.pool.shared.asks_sequences.load(Ordering::Relaxed) => {
                Clean::Sequences
            }
            (Some(_), false) => Clean::Followed,
        }
    }
}

#[derive(Debug)]
pub struct Progress {
    pub status: Status,
    /// The request's bytes are still in the inbox, and nothing of its reply has reached the
    /// client.
    pub retained: bool,
    /// It is retained, and only reads: it can be sent elsewhere.
    pub repeatable: bool,
    /// A plan that DDL has made unusable was refused before it ran: prepare it again here.
    pub stale_plan: bool,
    /// The client asks for a description of all that it runs: what comes may have another shape
    /// than before.
    pub describes: bool,
    /// The client has been told that a plan is out of date. If it prepares the text again, that
    /// shall not lead it to the same plan.
    pub stale_plan_told: bool,
    /// An error was swallowed in order to repeat the request.
    pub intercepted: bool,
    /// Something that may have written was sent since the last end of a transaction.
    pub writing: bool,
    /// Something that shows data was sent on this connection.
    pub reading: bool,
    /// DDL ran since the last end of a transaction.
    pub ddl: bool,
    /// DDL has been committed: the catalog must be loaded again.
    pub ddl_done: bool,
    /// What the proxy itself asked has failed; the connection is not to be used.
    pub broken: Option<Box<str>>,
    /// The last request was sent without its Sync: the connection is in the middle of it.
    pub segment_open: bool,
    /// Settings were sent in front of the request.
    pub settling: bool,
    /// Start-up values of the client that the server has dropped.
    pub dropped: Dropped,
    /// Commits under way.
    pub commits: Vec<Commit>,
    /// Requests that were answered.
    pub readies: u64,
    /// The transaction needs the primary from here on, and this is a replica.
    pub leaving: bool,
    /// The server has said that nothing of the transaction's snapshot is to be kept.
    pub may_leave: bool,
    /// The server has refused the request for its syntax.
    pub syntax_error: bool,
    /// What the connection's last session may have left is to be removed first.
    pub clean: Clean,
    /// The newest change of the client's statements that is confirmed while the request can still
    /// be repeated.
    pub changed: u64,
    /// The client has the server's own FATAL message.
    pub fatal_told: bool,
    pub started: Option<Instant>,
    /// When the last reply ended.
    pub ended: Option<Instant>,
    /// Extended-protocol statements that ended well since the last ReadyForQuery and leave
    /// something behind.
    pub executed: Vec<Arc<Statement>>,
}

/// What is done to a connection that another session had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clean {
    /// It is still with the session that had it, or nothing can be left.
    Nothing,
    /// What is followed (settings, prepared statements) is enough, but for sequences if asked.
    Followed,
    Sequences,
    Everything,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            status: Status::Idle,
            retained: false,
            repeatable: false,
            stale_plan: false,
            describes: false,
            stale_plan_told: false,
            intercepted: false,
            writing: false,
            reading: false,
            ddl: false,
            ddl_done: false,
            broken: None,
            segment_open: false,
            settling: false,
            dropped: Dropped::default(),
            commits: Vec::new(),
            readies: 0,
            leaving: false,
            may_leave: false,
            syntax_error: false,
            clean: Clean::Nothing,
            changed: 0,
            fatal_told: false,
            started: None,
            ended: None,
            executed: Vec::new(),
        }
    }
}

impl Active {
    /// Whether everything that was sent is answered and everything that came is passed on.
    pub fn is_quiet(&self) -> bool {
        self.replies.is_quiet()
            && self.outbox.is_empty()
            && self.local.is_empty()
            && self.replies.forwardable() == 0
            && !self.server_unflushed
            && !self.client_unflushed
    }

    pub fn connection(&mut self) -> Option<&mut Connection> {
        self.server.as_mut().map(|server| &mut *server.pooled.connection)
    }
}

/// What replies change, borrowed for one scan.
pub struct Observer<'a> {
    pub session: &'a mut Session,
    pub statements: &'a mut Statements,
    pub known: &'a mut Arc<Reported>,
    pub welcome: &'a Reported,
    pub connection: &'a mut Connection,
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
        if !self.greeting && !self.progress.intercepted {
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
        if is_stale_plan(fields) {
            if self.progress.retained && self.progress.describes {
                self.progress.intercepted = true;
                self.progress.stale_plan = true;
                return OnError::Intercept;
            }
            self.progress.stale_plan_told = true;
        }
        match front {
            // A Parse that the proxy injected stands for one that the client sent.
            Some((Kind::Parse, Way::Swallow)) => {}
            // The session's settings cannot be brought here, say for a role that the replica does not
            // know yet; the server refuses the client's request behind them as well.
            Some((_, Way::Swallow)) if self.progress.retained => {
                self.progress.intercepted = true;
                return OnError::Intercept;
            }
            Some((_, Way::Refuse(limit))) if fields.sqlstate == b"42601" => {
                return OnError::Instead(match self.progress.status {
                    Status::Failed => report("25P02", ABORTED),
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

    fn row(&mut self, message: &[u8]) {
        if self.progress.leaving {
            self.progress.may_leave = message.ends_with(b"read committed");
            return;
        }
        let Some((held, values)) = answer(message, &self.session.doubts) else { return };
        self.session.answered(held, values);
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

fn ready_facts(failed: bool, status: Status, before: Status, simple: bool) -> Facts {
    Facts { failed, was_failed: before == Status::Failed, status, simple }
}

impl Observer<'_> {
    fn count_pins(&mut self) {
        self.pins.hold(self.session.pins.iter().map(|pin| pin.as_str()));
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
            // The implicit transaction was rolled back, unless the text controlled transactions
            // itself: then how far it came is not known.
            let controls = executed.iter().flat_map(|statement| &statement.session).any(is_control);
            let sets = executed.iter().any(|statement| statement.session.len() > 1);
            if controls && sets {
                self.session.pins.insert(Pin::Setting);
            }
            let refused = self.progress.syntax_error && facts.simple;
            if !refused || executed.iter().any(|statement| !is_not_understood(statement)) {
                self.pin_anyway(executed);
            }
            return;
        }
        for statement in executed {
            self.progress.ddl |= statement.is_ddl;
            for effect in &statement.session {
                self.effect(effect, facts);
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
                Pin::Sequence => self.session.apply(effect),
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
            SessionEffect::Begin(_) => self.session.opened(),
            SessionEffect::Commit { chain } | SessionEffect::Rollback { chain } => {
                let commits = matches!(effect, SessionEffect::Commit { .. }) && !facts.was_failed;
                self.session.closed(commits);
                if *chain {
                    self.session.opened();
                }
            }
            SessionEffect::PrepareTransaction => self.session.closed(true),
            SessionEffect::Discard(crate::sql::Discard::All) => {
                self.statements.named.clear();
                self.connection.prepared.clear();
                self.connection.settings = None;
                self.session.apply(effect);
            }
            SessionEffect::Deallocate(Some(name)) => {
                if self.statements.named.remove(name.as_bytes()).is_none() {
                    self.session.apply(effect);
                }
            }
            SessionEffect::Deallocate(None) => {
                self.statements.named.clear();
                self.connection.prepared.clear();
                self.session.apply(effect);
            }
            SessionEffect::Reset(_)
            | SessionEffect::ResetAll
            | SessionEffect::Set { value: None, local: false, .. } => {
                // The server went back to its own start-up values, not to the client's.
                self.connection.settings = None;
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
                if before != self.session.settings {
                    self.session.pins.insert(Pin::Setting);
                }
            }
        }
    }

    /// No transaction is open any more.
    fn ended(&mut self, now: Instant) {
        self.stats.transaction_done(self.cluster, NodeIndex(self.connection.node.0));
        if std::mem::take(&mut self.progress.writing) {
            self.session.positions.wrote(now);
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
