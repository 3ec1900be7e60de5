//! From a client's messages to what is to be done with each: [`Batch`].
//!
//! A batch ends where the client waits for an answer: at a Query, a Sync or a FunctionCall. A
//! session without a connection is routed by whole batches, so that a read is only sent to a
//! replica when all that runs with it in one implicit transaction has been seen.

use super::encode::DEALLOCATE;
use super::op::{Meant, Op, What, ask_for_old_portal};
use super::own_names::{OwnNames, forgets_prepared, own_server_name};
use super::parameters::drops_any;
use super::replica::{belongs_to_primary, only_on_primary};
use super::statements::{
    Classified, NO_STATEMENT, Prepared, Registry, Statements, UNNAMED_BYTES_MAX, server_name,
};
use super::unseen::{foreign, unreadable};
use crate::backend::postgres::replies::Limit;
use crate::frontend::worker::Worker;
use crate::metrics::RouteReason;
use crate::monitor::catalog::CatalogSlot;
use crate::protocol::postgres::frame::{self, FrameError};
use crate::protocol::postgres::request::{self, Object, Request};
use crate::session::transaction::is_naming;
use crate::session::{Class, Settings};
use crate::sql::{Catalog, Dialect, Effect, Hint, HintTarget, Pin, SessionEffect, Statement};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Messages with what is to be done with each, and what they need together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub ops: Vec<Op>,
    /// Of everything that runs; of what is only parsed when nothing runs.
    pub class: Option<Class>,
    pub hint: Option<Hint>,
    /// Whether a statement runs.
    pub runs: bool,
    /// A statement asks for the state of sequences, or sets it.
    pub sequences: bool,
    /// It ends a transaction, its own or one that is open, by COMMIT.
    pub commits: bool,
    /// The same, in whichever way.
    pub ends: bool,
    /// Whether the first statement does; `None` before there is one.
    pub ends_first: Option<bool>,
    /// Whether all that runs is INSERT, UPDATE, DELETE or MERGE, one statement to a message; `None`
    /// when nothing runs.
    pub dml: Option<bool>,
    /// A function runs of which nothing is known.
    pub unknown_function: bool,
    /// It runs what SQL's PREPARE has made, or so it seems: that is where the session is.
    pub executes: bool,
    /// Something that a replica may refuse though a read-only transaction of a primary may do it,
    /// or that is kept for the session, which may write later.
    pub belongs_to_primary: bool,
    /// It sets modes of a transaction that no replica takes.
    pub sets_modes: bool,
    /// Of the one that is open before it.
    pub sets_open_modes: bool,
    /// A replica refuses it for certain and a primary does not, or does it where nobody sees it
    /// (advisory locks).
    pub only_on_primary: bool,
    /// It asks for an unnamed portal of an earlier batch. Known where it may belong to another server.
    pub old_portal: bool,
    /// A statement with names in it is used that was parsed without a name in an earlier batch.
    pub old_names: bool,
    /// A message may meet statements by the names that the client gave them.
    pub meets: bool,
    /// What follows has to wait for its end: settings may be at the server's values, where the
    /// client's own are due; or a transaction has ended on a replica, and what comes next is routed
    /// anew.
    pub drops: bool,
    /// It does something that no rollback takes back.
    pub reaches_outside: bool,
    pub bytes: usize,
    /// A message that could not be read; those before it stand.
    pub broken: Option<FrameError>,
}

impl Batch {
    pub fn clear(&mut self) {
        self.ops.clear();
        *self = Batch { ops: std::mem::take(&mut self.ops), ..Batch::default() };
    }

    /// Whether the client leaves.
    pub fn is_goodbye(&self) -> bool {
        self.ops.last().is_some_and(|op| matches!(op.what, What::Terminate))
    }

    /// Whether a transaction has ended when all this has run, without another to follow at once;
    /// `None` if nothing runs.
    pub fn ends_last(&self) -> Option<bool> {
        let mut newest = self.ops.iter().rev();
        newest.find_map(|op| match &op.what {
            What::Execute(Some(statement)) => {
                let last = statement.session.last();
                Some(last.is_some_and(|effect| effect.is_end() && !effect.chains()))
            }
            What::Bind(_) | What::Execute(None) | What::DescribePortal => Some(false),
            _ => None,
        })
    }

    fn join(&mut self, statement: &Statement, runs: bool) {
        let class = Class::of(statement);
        self.sequences |= statement.session.contains(&SessionEffect::Pin(Pin::Sequence));
        self.commits |=
            statement.session.iter().any(|effect| matches!(effect, SessionEffect::Commit { .. }));
        self.sets_open_modes |= !self.ends && sets_modes_before_end(statement);
        self.ends_first.get_or_insert(statement.ends_first);
        self.ends |= runs && statement.session.iter().any(SessionEffect::is_end);
        self.unknown_function |= matches!(
            statement.reason_code,
            "function"
                | "unknown_function"
                | "catalog_unknown"
                | "procedure"
                | "execute"
                | "execute_arguments"
                | "unknown_prepared"
        );
        self.drops |= runs && drops_any(statement);
        self.reaches_outside |= runs && statement.reaches_outside();
        self.executes |= matches!(statement.reason_code, "execute" | "unknown_prepared");
        // What is parsed is mostly run in the next batch, in the same implicit transaction.
        self.belongs_to_primary |= belongs_to_primary(statement);
        self.sets_modes |= statement.sets_modes_of_primary();
        self.only_on_primary |= runs && only_on_primary(statement);
        if runs {
            self.dml = Some(self.dml.unwrap_or(true) && statement.is_dml());
        }
        if runs && !self.runs {
            self.runs = true;
            self.class = None;
        }
        if runs || !self.runs {
            self.class = Some(match self.class.take() {
                Some(before) => before.join(class),
                None => class,
            });
            // The request runs in one place: what is the primary's to answer takes it there.
            let is_of_primary = |hint: &Hint| hint.target == Some(HintTarget::Primary);
            if self.hint.is_none() || statement.hint.as_ref().is_some_and(is_of_primary) {
                self.hint.clone_from(&statement.hint);
            }
        }
    }
}

/// What planning needs of the session.
pub struct Planner<'a> {
    pub worker: &'a Worker,
    pub registry: &'a Registry,
    pub statements: &'a mut Statements,
    /// What names mean, if it is known.
    pub naming: Option<&'a Settings>,
    /// The session holds a replica's connection.
    pub on_replica: bool,
    pub standard_strings: bool,
    pub is_readable: bool,
    pub catalog: &'a Catalog,
    pub slot: &'a CatalogSlot,
    pub database: &'a Arc<str>,
    pub statements_max: usize,
    pub portals_max: usize,
}

impl Planner<'_> {
    /// Plans the messages in `bytes`, which are complete, up to one whose meaning depends on a
    /// reply that is still to come.
    pub fn plan(&mut self, bytes: &[u8], batch: &mut Batch) {
        let mut at = 0;
        while let Ok(Some(head)) = frame::head(&bytes[at..]) {
            let end = at + head.bytes;
            let request = request::read(&bytes[at..end]);
            if request.is_ok_and(|request| self.must_wait(&request)) {
                break;
            }
            let newest = self.statements.newest();
            match request.and_then(|request| self.message(request, batch)) {
                Ok(what) => {
                    let change = self.statements.newest();
                    let change = if change > newest { change } else { 0 };
                    batch.ops.push(Op { at: at..end, what, change });
                }
                Err(error) => {
                    batch.broken = Some(error);
                    break;
                }
            }
            at = end;
            batch.drops |= self.on_replica && batch.ends;
            if batch.drops && batch.ops.last().is_some_and(|op| op.what.ends_request()) {
                break;
            }
        }
        batch.bytes = at;
        let may_leave = self.on_replica && (batch.belongs_to_primary || batch.sets_modes);
        batch.old_portal = may_leave && ask_for_old_portal(&batch.ops, bytes);
    }

    /// Whether a message names a statement that an earlier request may have failed to change.
    fn must_wait(&self, request: &Request<'_>) -> bool {
        let (Request::Parse { name: name @ [_, ..], .. }
        | Request::Bind { statement: name, .. }
        | Request::Describe(Object::Statement, name)
        | Request::Close(Object::Statement, name)) = request
        else {
            return false;
        };
        self.statements.is_uncertain(name)
    }

    fn message(&mut self, request: Request<'_>, batch: &mut Batch) -> Result<What, FrameError> {
        Ok(match request {
            Request::Query(sql) => {
                // `exec_simple_query` drops it first.
                self.statements.drop_unnamed();
                let statement = self.classify(sql);
                batch.join(&statement, true);
                if renames(&statement) {
                    self.naming = None;
                }
                if forgets_prepared(self.statements, &statement) {
                    return Ok(What::Deallocate(statement));
                }
                match OwnNames::of(&statement, self.statements) {
                    Some(own) => What::QueryWith(statement, Box::new(own)),
                    None => What::Query(statement),
                }
            }
            Request::Parse { name: b"", sql, types } => self.parse_unnamed(sql, types, batch),
            Request::Parse { name, sql, types } => self.parse(name, sql, types, batch)?,
            Request::Bind { portal, statement, .. } => self.bind(portal, statement, batch),
            Request::Describe(Object::Statement, name) => {
                let meant = self.meant(name);
                self.meet_again(&meant, batch);
                What::DescribeStatement(meant)
            }
            Request::Describe(Object::Portal, _) => What::DescribePortal,
            Request::Close(Object::Statement, name) => {
                let meant = self.meant(name);
                match meant {
                    Meant::Named(_) => drop(self.statements.change(name, None)),
                    Meant::Unnamed(_) => self.statements.drop_unnamed(),
                    Meant::Foreign => {}
                }
                What::CloseStatement(meant)
            }
            Request::Close(Object::Portal, name) => {
                self.statements.close_portal(name);
                What::ClosePortal
            }
            Request::Execute { portal } => {
                let statement = self.statements.portal(portal).cloned();
                let statement = statement.filter(|statement| leaves_something(statement));
                if statement.as_ref().is_some_and(|statement| renames(statement)) {
                    self.naming = None;
                }
                What::Execute(statement)
            }
            Request::Function => {
                batch.runs = true;
                batch.class = Some(Class::Write(RouteReason::Write));
                What::Function
            }
            Request::Sync => {
                self.statements.synced();
                What::Sync
            }
            Request::Flush => What::Flush,
            Request::CopyData => What::CopyData,
            Request::CopyDone | Request::CopyFail => What::CopyEnd,
            Request::Terminate => What::Terminate,
        })
    }

    fn bind(&mut self, portal: &[u8], name: &[u8], batch: &mut Batch) -> What {
        let meant = self.meant(name);
        let runs = self.statement_of(&meant);
        if !self.statements.bind(portal, runs.as_ref(), self.portals_max) {
            return What::Refuse(Limit::Portals);
        }
        match &runs {
            Some(statement) => batch.join(statement, true),
            None => batch.join(&foreign(), true),
        }
        self.meet_again(&meant, batch);
        What::Bind(meant)
    }

    pub fn classify(&self, sql: &[u8]) -> Arc<Statement> {
        if !self.is_readable {
            return Arc::new(unreadable());
        }
        let statement = {
            let mut classifier = self.worker.classifier.borrow_mut();
            let (hits, _) = classifier.hits_and_misses();
            let dialect = Dialect::Postgres { standard_strings: self.standard_strings };
            let statement = classifier.classify(sql, dialect, self.catalog);
            self.worker.stats().classify_cache(classifier.hits_and_misses().0 > hits);
            statement
        };
        if matches!(statement.effect, Effect::Unknown | Effect::Write) {
            self.unsafe_statement(&statement);
        }
        statement
    }

    /// Counts why a statement is not known to be a read; a name that is not in the catalog may be
    /// new.
    fn unsafe_statement(&self, statement: &Statement) {
        if matches!(statement.reason_code, "unknown_relation" | "unknown_function") {
            self.slot.ask();
            self.worker.stats().classified_unsafe(statement.reason_code);
        } else if statement.effect == Effect::Unknown {
            self.worker.stats().classified_unsafe(statement.reason_code);
        }
    }

    fn parse_unnamed(&mut self, sql: &[u8], types: &[u8], batch: &mut Batch) -> What {
        let statement = self.classify(sql);
        batch.join(&statement, false);
        let id = self.worker.next_id();
        let unnamed = self.statements.replace_unnamed(id);
        if sql.len() + types.len() <= UNNAMED_BYTES_MAX {
            unnamed.kept = true;
            unnamed.sql.extend_from_slice(sql);
            unnamed.types.extend_from_slice(types);
        }
        let forgets = forgets_prepared(self.statements, &statement);
        let sees_names = !forgets && self.meet(&statement, batch);
        let unnamed = &mut self.statements.unnamed;
        unnamed.sees_names = sees_names;
        unnamed.classified = Some(Classified { statement, catalog: self.catalog.version });
        if !forgets {
            return What::ParseUnnamed(id);
        }
        unnamed.sql.clear();
        unnamed.sql.extend_from_slice(DEALLOCATE);
        What::ParseDeallocate(id)
    }

    fn parse(
        &mut self,
        name: &[u8],
        sql: &[u8],
        types: &[u8],
        batch: &mut Batch,
    ) -> Result<What, FrameError> {
        let statement = self.classify(sql);
        batch.join(&statement, false);
        if let Some(known) = self.statements.get(name) {
            return Ok(What::ParseAgain(known.clone()));
        }
        if self.statements.is_taken_by_sql(name) {
            return Ok(What::ParseTaken);
        }
        if self.statements.named.len() >= self.statements_max {
            return Ok(What::Refuse(Limit::Statements));
        }
        let place = (self.database, self.slot.plans());
        let own = own_server_name(name).filter(|_| self.meet(&statement, batch));
        let naming = self.naming.filter(|_| own.is_none());
        let (id, first) = self.registry.id((sql, types), naming, place, || self.worker.next_id());
        let prepared = Rc::new(Prepared {
            id,
            serial: self.worker.next_id(),
            sees_names: own.is_some(),
            server_name: own.unwrap_or_else(|| server_name(id)),
            sql: sql.into(),
            types: types.into(),
            classified: RefCell::new(Classified { statement, catalog: self.catalog.version }),
            shape: Cell::new(first.get()),
            first,
        });
        self.statements.change(name, Some(prepared.clone()));
        Ok(What::Parse(prepared))
    }

    fn meant(&self, name: &[u8]) -> Meant {
        if name.is_empty() {
            return Meant::Unnamed(self.statements.unnamed.id);
        }
        match self.statements.get(name) {
            Some(prepared) => Meant::Named(prepared.clone()),
            None => Meant::Foreign,
        }
    }

    /// What a prepared statement does, by the catalog of now.
    pub(super) fn statement_of(&mut self, meant: &Meant) -> Option<Arc<Statement>> {
        let version = self.catalog.version;
        match meant {
            Meant::Named(prepared) => {
                let known = prepared.classified.borrow().clone();
                if known.catalog == version {
                    return Some(known.statement);
                }
                let statement = self.classify(&prepared.sql);
                *prepared.classified.borrow_mut() =
                    Classified { statement: statement.clone(), catalog: version };
                Some(statement)
            }
            Meant::Unnamed(NO_STATEMENT) => None,
            Meant::Unnamed(_) => {
                let known = self.statements.unnamed.classified.clone()?;
                if known.catalog == version || !self.statements.unnamed.kept {
                    return Some(known.statement);
                }
                let statement = self.classify(&self.statements.unnamed.sql);
                self.statements.unnamed.classified =
                    Some(Classified { statement: statement.clone(), catalog: version });
                Some(statement)
            }
            Meant::Foreign => None,
        }
    }
}

/// Whether names may mean something else after the statement.
fn renames(statement: &Statement) -> bool {
    statement.session.iter().any(|effect| match effect {
        SessionEffect::Set { name, .. } | SessionEffect::Reset(name) => is_naming(name),
        SessionEffect::Learn(name) => is_naming(name),
        SessionEffect::ResetAll | SessionEffect::Discard(_) | SessionEffect::RollbackTo(_) => true,
        SessionEffect::Rollback { .. } => true,
        _ => false,
    })
}

/// Whether it begins or ends a transaction.
pub fn is_control(effect: &SessionEffect) -> bool {
    matches!(effect, SessionEffect::Begin(_)) || effect.is_end()
}

fn sets_modes_before_end(statement: &Statement) -> bool {
    let mut before = statement.session.iter().take_while(|effect| !effect.is_end());
    before.any(SessionEffect::sets_modes_of_primary)
}

/// Whether a statement does something that has to be remembered when it has run.
pub fn leaves_something(statement: &Statement) -> bool {
    !statement.session.is_empty() || statement.is_ddl
}
