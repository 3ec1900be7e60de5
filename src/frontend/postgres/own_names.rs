//! Statements that came by Parse, as SQL sees them: EXECUTE, DEALLOCATE, PREPARE of the same name,
//! and `pg_prepared_statements`.
//!
//! On servers they have names of the proxy's own ([`super::statements::server_name`]), and those of
//! other clients are there as well. A request that may meet one by its name finds it made for
//! it under the client's name, and closed afterwards:
//!
//! ```text
//! client:                      Query EXECUTE s1 (7)
//! server: Parse s1, Sync       Query EXECUTE s1 (7)       Close s1, Sync
//!
//! client:                      Parse EXECUTE s1 (7), Bind, Execute, Sync
//! server: Parse s1, Sync       Parse EXECUTE s1 (7), Bind, Execute, Sync       Close s1, Sync
//! ```
//!
//! In the extended protocol they are made in front of all that the proxy has of the request, or right
//! behind their Parse in it: what runs before they are met may change what their texts mean. In the
//! middle of a request, where a Sync would commit, the first one is left out; a statement that cannot
//! be made then fails the request.
//!
//! In a transaction block a savepoint keeps it from failing that.

use super::encode::Encoder;
use super::op::{Meant, Op, What};
use super::plan::{Batch, Planner};
use super::shapes::has_names;
use super::statements::{Prepared, SERVER_NAME_PREFIX, Statements, server_name, truncated};
use crate::backend::postgres::replies::{Expected, Kind, Way};
use crate::protocol::postgres::request;
use crate::sql::{SessionEffect, Statement};
use std::mem::take;
use std::rc::Rc;
use std::sync::Arc;

/// Where SQL sees all of them.
const VIEW: &str = "pg_prepared_statements";
const FUNCTION: &str = "pg_prepared_statement";

/// Around what may fail in a transaction block. What was prepared between stays.
const KEEP: &str = "SAVEPOINT tiffin_keep";
const KEPT: [&str; 2] = ["ROLLBACK TO SAVEPOINT tiffin_keep", "RELEASE SAVEPOINT tiffin_keep"];

/// Statements of the client that a request may meet by their names.
#[derive(Debug, Clone)]
pub struct OwnNames {
    statements: Vec<(Box<[u8]>, Rc<Prepared>)>,
    /// It may see whatever there is.
    all: bool,
}

impl OwnNames {
    /// What a statement may meet; `None`: nothing that came by Parse.
    pub fn of(statement: &Statement, statements: &Statements) -> Option<OwnNames> {
        if sees_all(statement) {
            let named = statements.named.iter();
            let named = named.filter(|(name, _)| own_server_name(name).is_some());
            let all = named.map(|(name, prepared)| (name.clone(), prepared.clone()));
            return Some(OwnNames { statements: all.collect(), all: true });
        }
        let named = statement.session.iter().filter_map(|effect| {
            let name = own_server_name(named_in(effect)?.as_bytes())?;
            let prepared = statements.get(&name)?.clone();
            Some((name, prepared))
        });
        let named: Vec<_> = named.collect();
        (!named.is_empty()).then_some(OwnNames { statements: named, all: false })
    }
}

fn sees_all(statement: &Statement) -> bool {
    let is = |name: &Arc<str>, what: &str| {
        name.strip_suffix(what).is_some_and(|schema| schema.is_empty() || schema.ends_with('.'))
    };
    statement.tables_read.iter().any(|name| is(name, VIEW))
        || statement.functions.iter().any(|name| is(name, FUNCTION))
}

/// The prepared statement that an effect is about.
fn named_in(effect: &SessionEffect) -> Option<&str> {
    match effect {
        SessionEffect::Execute { name }
        | SessionEffect::Prepare { name, .. }
        | SessionEffect::Deallocate(Some(name)) => Some(name),
        _ => None,
    }
}

/// The client's name of a statement as the servers take it; `None`: the proxy's own may be called
/// so.
pub fn own_server_name(name: &[u8]) -> Option<Box<[u8]>> {
    (!name.starts_with(SERVER_NAME_PREFIX.as_bytes())).then(|| truncated(name).into())
}

/// Whether a statement is SQL's DEALLOCATE of a statement that came by Parse.
pub fn forgets_prepared(statements: &Statements, statement: &Statement) -> bool {
    let [SessionEffect::Deallocate(Some(name))] = &statement.session[..] else { return false };
    statement.count == 1 && statements.get(name.as_bytes()).is_some()
}

/// What these messages may meet, and under which names.
fn met(ops: &[Op]) -> impl Iterator<Item = &(Box<[u8]>, Rc<Prepared>)> {
    let meets = ops.iter().filter_map(|op| match &op.what {
        What::Meet(own) => Some(own),
        _ => None,
    });
    meets.flat_map(|own| &own.statements)
}

impl Planner<'_> {
    /// Plans what stands in front of a message about this statement. Whether it may meet others by
    /// their names, now or later.
    pub(super) fn meet(&self, statement: &Statement, batch: &mut Batch) -> bool {
        if let Some(own) = OwnNames::of(statement, self.statements) {
            batch.ops.push(Op { at: 0..0, what: What::Meet(Box::new(own)), change: 0 });
            batch.meets = true;
            return true;
        }
        statement.session.iter().any(|effect| named_in(effect).is_some())
    }

    /// The same for a statement that was prepared before.
    pub(super) fn meet_again(&mut self, meant: &Meant, batch: &mut Batch) {
        let sees_names = match meant {
            Meant::Named(prepared) => prepared.sees_names,
            Meant::Unnamed(_) => self.statements.unnamed.sees_names,
            Meant::Foreign => false,
        };
        let is_new = || batch.ops.iter().any(|op| matches!(op.what, What::ParseUnnamed(_)));
        if matches!(meant, Meant::Unnamed(_)) && !batch.old_names && !is_new() {
            // Until it is used another one may have taken its place.
            batch.old_names = self.statement_of(meant).is_none_or(|known| has_names(&known));
        }
        if sees_names && let Some(statement) = self.statement_of(meant) {
            self.meet(&statement, batch);
        }
    }
}

impl Encoder<'_> {
    /// Makes what a request may meet, but for what it makes itself.
    pub(super) fn meet_first(&mut self, ops: &[Op]) {
        let makes = |serial| {
            let is_it = |op: &Op| matches!(&op.what, What::Parse(made) if made.serial == serial);
            ops.iter().any(is_it)
        };
        for (name, prepared) in met(ops).filter(|(_, prepared)| !makes(prepared.serial)) {
            self.make(name, prepared);
        }
    }

    /// Makes a statement that the request has just made, if it may meet it.
    pub(super) fn meet_made(&mut self, made: &Prepared, ops: &[Op]) {
        let met = met(ops).find(|(_, prepared)| prepared.serial == made.serial);
        if let Some((name, prepared)) = met {
            self.make(name, prepared);
        }
    }

    /// A simple query with the statements that it may meet. What cannot be made (its table is gone)
    /// is not there.
    pub(super) fn query_with(
        &mut self,
        own: &OwnNames,
        statement: &Arc<Statement>,
        message: &[u8],
    ) {
        self.meet(own);
        self.connection.unnamed = None;
        self.forward(message, Kind::Query, Some(statement));
        self.leave_names();
    }

    /// Makes what the next message may meet, unless it is there.
    pub(super) fn meet(&mut self, own: &OwnNames) {
        if own.all {
            self.forget_all();
        }
        for (name, prepared) in &own.statements {
            self.make(name, prepared);
        }
    }

    fn make(&mut self, name: &[u8], prepared: &Prepared) {
        if self.connection.has_own_name(prepared.serial) {
            return;
        }
        self.connection.add_own_name(name, prepared.serial);
        let is_kept = self.between && self.in_block;
        if is_kept {
            self.try_spare(KEEP, Way::Ask);
            self.sync();
        }
        // Another one may have had the name in the same request.
        self.put(|out| request::put_statement(out, b'C', name));
        self.expect(Kind::Close, Way::Swallow);
        self.put(|out| request::put_parse(out, name, &prepared.sql, &prepared.types));
        if self.between {
            self.expect(Kind::Parse, Way::Ask);
            self.sync();
        } else {
            self.expect(Kind::Parse, Way::Swallow);
        }
        if is_kept {
            KEPT.iter().for_each(|sql| self.try_spare(sql, Way::Ask));
            self.sync();
            self.close_spare();
            self.sync();
        }
    }

    /// The client's Sync.
    pub(super) fn end(&mut self, message: &[u8]) {
        self.forward(message, Kind::Sync, None);
        self.leave_names();
    }

    /// What was made for a request is closed behind it.
    fn leave_names(&mut self) {
        let names = take(&mut self.connection.under_own_names);
        if names.is_empty() {
            return;
        }
        for own in names {
            self.put(|out| request::put_statement(out, b'C', &own.name));
            self.expect(Kind::Close, Way::Ask);
        }
        self.sync();
    }

    /// The server forgets what the proxy has made there: it is prepared again when it is used.
    fn forget_all(&mut self) {
        for id in self.connection.prepared.take() {
            self.put(|out| request::put_statement(out, b'C', &server_name(id)));
            self.expect(Kind::Close, Way::Swallow);
        }
        self.close_spare();
    }

    pub(super) fn sync(&mut self) {
        self.outbox.extend(request::SYNC);
        self.replies.push(Expected::new(Kind::Sync, Way::Ask));
    }
}
