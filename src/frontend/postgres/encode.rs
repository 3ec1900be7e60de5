//! From planned messages to what is sent to a server, and the replies expected for it.

use super::op::{Meant, Op, What};
use super::parameters::dropped;
use super::plan::{Batch, leaves_something};
use super::send::describes;
use super::statements::{
    NO_STATEMENT, Prepared, Statements, UNSEEN_STATEMENT, Unnamed, server_name,
};
use crate::backend::postgres::connection::Connection;
use crate::backend::postgres::replies::{Expected, Kind, Limit, Replies, ShapeOf, Way};
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::reply::{CLOSE_COMPLETE, PARSE_COMPLETE};
use crate::protocol::postgres::request::{self, Request};
use crate::session::Settings;
use crate::session::settings::assignment;
use crate::sql::{Discard, SessionEffect, Statement};
use std::sync::Arc;

/// A statement that stands for others, and what is done with it.
pub const SPARE_NAME: &[u8] = b"tiffin_spare";
pub const DEALLOCATE: &[u8] = b"DEALLOCATE tiffin_spare";
/// Execute of the unnamed portal, all rows.
pub const EXECUTE_UNNAMED: &[u8] = b"E\0\0\0\x09\0\0\0\0\0";
/// A text that no server takes.
const REFUSED: &[u8] = b"tiffin refuses this";

/// Writes requests for one server connection.
pub struct Encoder<'a> {
    pub connection: &'a mut Connection,
    pub replies: &'a mut Replies,
    pub outbox: &'a mut Buffer,
    pub unnamed: &'a Unnamed,
    /// `pool.statements_max`.
    pub statements_max: usize,
    /// The count of changes of plans ([`crate::monitor::catalogs::Slot::plans`]).
    pub plans: u64,
    /// What the client asked for when it connected: RESET goes back to it.
    pub startup: &'a Settings,
    /// The description of the portal that was bound last is to be told.
    pub bound: Option<ShapeOf>,
    /// Nothing stands before that a Sync of the proxy's own would end.
    pub between: bool,
    /// A transaction block is open, or may be by then.
    pub in_block: bool,
    /// The client asks for descriptions itself.
    pub describes: bool,
    /// The transaction block is aborted, or may be by the time the server reads what is written.
    pub may_be_aborted: bool,
}

impl Encoder<'_> {
    /// Writes a batch; `bytes` are the client's messages from the batch's start.
    pub fn batch(&mut self, batch: &Batch, bytes: &[u8]) {
        self.ops(batch, &batch.ops, bytes);
    }

    /// Writes these messages of a batch.
    pub fn ops(&mut self, batch: &Batch, ops: &[Op], bytes: &[u8]) {
        let is_description =
            |op: &Op| matches!(op.what, What::DescribeStatement(_) | What::DescribePortal);
        self.describes = batch.ops.iter().any(is_description);
        if batch.meets {
            self.meet_first(ops);
        }
        for (index, Op { at, what, change }) in ops.iter().enumerate() {
            match what {
                What::Bind(Meant::Named(prepared)) if prepared.is_stale() && !describes(batch) => {
                    self.refuse(Limit::Shape);
                }
                _ => self.message(what, &bytes[at.clone()], *change),
            }
            self.between = what.ends_request() || self.between && matches!(what, What::Meet(_));
            self.may_be_aborted |= self.between;
            match what {
                What::Execute(Some(statement)) => self.bring_back(statement, &ops[index + 1..]),
                What::Parse(prepared) if batch.meets => self.meet_made(prepared, ops),
                _ => {}
            }
        }
    }

    /// The server forgets the batch's prepared statements; they are prepared again when used.
    pub fn forget(&mut self, batch: &Batch) {
        self.connection.unnamed = None;
        for op in &batch.ops {
            let (What::Bind(Meant::Named(prepared))
            | What::DescribeStatement(Meant::Named(prepared))
            | What::Parse(prepared)) = &op.what
            else {
                continue;
            };
            if self.connection.prepared.touch(prepared.id) {
                self.connection.prepared.remove(prepared.id);
                self.put(|out| request::put_statement(out, b'C', &prepared.server_name));
                self.expect(Kind::Close, Way::Swallow);
            }
        }
    }

    /// A simple query of the proxy's own.
    pub fn own_query(&mut self, sql: &[u8]) {
        self.ask(sql, Way::Swallow);
    }

    /// A simple query of the proxy's own.
    pub fn ask(&mut self, sql: &[u8], way: Way) {
        self.put(|out| request::put_query(out, sql));
        self.connection.unnamed = None;
        self.expect(Kind::Query, way);
    }

    /// Ends the request, of which more is to come, ahead of the client's own Sync.
    pub fn sync_ahead(&mut self) {
        self.outbox.extend(request::SYNC);
        self.expect(Kind::Sync, Way::Ahead);
    }

    fn message(&mut self, what: &What, message: &[u8], change: u64) {
        match what {
            What::QueryWith(statement, own) if self.between => {
                self.query_with(own, statement, message);
            }
            What::Query(statement) | What::QueryWith(statement, _) => {
                // A simple query drops the unnamed statement (`exec_simple_query`).
                self.connection.unnamed = None;
                self.forward(message, Kind::Query, Some(statement));
            }
            What::Meet(own) => self.meet(own),
            What::ParseTaken => self.forward(message, Kind::Parse, None),
            What::Parse(prepared) => self.parse(prepared, change),
            What::ParseUnnamed(id) => {
                self.connection.unnamed = Some(*id);
                self.outbox.extend(message);
                let expected = Expected::new(Kind::Parse, Way::Forward);
                self.replies.push(Expected { prepared: Some(*id), change, ..expected });
            }
            What::ParseAgain(prepared) => self.parse_again(prepared, message),
            What::Bind(meant) => {
                self.ensure(meant);
                self.bind(meant, message);
                self.expect_of(Kind::Bind, meant);
                self.bound = self.shape_wanted(meant);
            }
            What::DescribeStatement(meant) => {
                self.ensure(meant);
                match meant {
                    Meant::Named(prepared) => {
                        self.put(|out| request::put_statement(out, b'D', &prepared.server_name));
                    }
                    _ => self.outbox.extend(message),
                }
                let shape = self.shape_wanted(meant);
                self.expect_of(Kind::Describe, meant);
                self.replies.tell_shape(shape);
            }
            What::DescribePortal => {
                self.forward(message, Kind::Describe, None);
                self.replies.tell_shape(self.bound);
            }
            // The server keeps it: another client may want it, and its number is bounded.
            What::CloseStatement(Meant::Named(_)) => {
                let expected = Expected::new(Kind::Close, Way::Simulate(CLOSE_COMPLETE));
                self.replies.push(Expected { change, ..expected });
            }
            What::CloseStatement(_) => {
                self.connection.unnamed = None;
                self.forward(message, Kind::Close, None);
            }
            What::ClosePortal => self.forward(message, Kind::Close, None),
            What::Execute(statement) => self.forward(message, Kind::Execute, statement.as_ref()),
            What::Sync => self.end(message),
            What::Function => self.forward(message, Kind::Function, None),
            What::CopyEnd => self.forward(message, Kind::CopyEnd, None),
            What::Flush | What::CopyData => self.outbox.extend(message),
            What::Terminate => {}
            What::Refuse(limit) => self.refuse(*limit),
            What::Deallocate(statement) => self.deallocate(statement),
            What::ParseDeallocate(id) => self.parse_deallocate(*id, change),
        }
    }

    fn parse_deallocate(&mut self, id: u64, change: u64) {
        self.spare();
        self.put(|out| request::put_parse(out, b"", DEALLOCATE, &[0, 0]));
        self.connection.unnamed = Some(id);
        let expected = Expected::new(Kind::Parse, Way::Forward);
        self.replies.push(Expected { prepared: Some(id), change, ..expected });
    }

    fn refuse(&mut self, limit: Limit) {
        self.put(|out| request::put_parse(out, SPARE_NAME, REFUSED, &[0, 0]));
        self.expect(Kind::Parse, Way::Refuse(limit));
    }

    pub(super) fn describe(&mut self, prepared: &Prepared, compares: bool, way: Way) {
        self.put(|out| request::put_statement(out, b'D', &prepared.server_name));
        let shape = ShapeOf { named: prepared.serial, plans: self.plans, compares };
        let expected = Expected::new(Kind::Describe, way);
        self.replies.push(Expected { shape: Some(shape), ..expected });
    }

    fn shape_wanted(&self, meant: &Meant) -> Option<ShapeOf> {
        match meant {
            Meant::Named(prepared) => prepared.shape_wanted(self.plans),
            Meant::Unnamed(_) | Meant::Foreign => None,
        }
    }

    /// SQL's DEALLOCATE of a statement that came by Parse: the server has it under another name,
    /// perhaps for others as well, and keeps it. A spare one is deallocated instead, so that tag,
    /// errors and transaction are the server's.
    fn deallocate(&mut self, statement: &Arc<Statement>) {
        self.spare();
        self.connection.unnamed = None;
        self.put(|out| request::put_parse(out, b"", DEALLOCATE, &[0, 0]));
        self.expect(Kind::Parse, Way::Swallow);
        self.put(|out| request::put_bind(out, b"", b"", &[0; 6], 0));
        self.expect(Kind::Bind, Way::Swallow);
        self.put(|out| request::put_execute(out, b""));
        let statement = Some(statement.clone());
        self.replies.push(Expected { statement, ..Expected::new(Kind::Execute, Way::Forward) });
        self.outbox.extend(request::SYNC);
        self.expect(Kind::Sync, Way::Forward);
    }

    /// Makes the spare statement, whether or not it is there.
    fn spare(&mut self) {
        self.make_spare(b"");
    }

    pub(super) fn close_spare(&mut self) {
        self.put(|out| request::put_statement(out, b'C', SPARE_NAME));
        self.expect(Kind::Close, Way::Swallow);
    }

    fn make_spare(&mut self, sql: &[u8]) {
        self.close_spare();
        self.put(|out| request::put_parse(out, SPARE_NAME, sql, &[0, 0]));
        self.expect(Kind::Parse, Way::Swallow);
    }

    /// Sets again what the statement before has dropped of the start-up values: what follows in the
    /// same segment must find them.
    fn bring_back(&mut self, statement: &Statement, rest: &[Op]) {
        let discards = statement.session.contains(&SessionEffect::Discard(Discard::All));
        if discards && ends(rest) {
            // They are compared before the next request.
            return;
        }
        let startup = self.startup;
        let mut dropped = dropped(statement, startup).into_iter().peekable();
        let is_any = dropped.peek().is_some();
        for (name, value, local) in dropped {
            let sql = assignment(name, value, local);
            self.run_spare(sql.trim_end_matches(';'));
        }
        if discards && is_any {
            // It was a transaction of its own: so are these, which stay if what follows fails, and
            // let it be another DISCARD ALL. The server ends a transaction with COMMIT at once, also
            // within a pipeline (`exec_execute_message`, `src/backend/tcop/postgres.c`).
            self.run_spare("COMMIT");
        }
    }

    /// Runs a statement of the proxy's own that may stand anywhere: in a transaction block the client
    /// may come back to its unnamed portal, which a Query would take from it.
    pub fn run(&mut self, sql: &str) {
        match self.between && !self.in_block {
            true => self.own_query(sql.as_bytes()),
            false => self.run_spare(sql),
        }
    }

    fn run_spare(&mut self, sql: &str) {
        self.try_spare(sql, Way::Swallow);
    }

    /// Runs a statement and touches nothing of the client's; `way` goes for all replies.
    pub(super) fn try_spare(&mut self, sql: &str, way: Way) {
        self.put(|out| request::put_statement(out, b'C', SPARE_NAME));
        self.expect(Kind::Close, way);
        self.put(|out| request::put_parse(out, SPARE_NAME, sql.as_bytes(), &[0, 0]));
        self.expect(Kind::Parse, way);
        self.put(|out| request::put_bind(out, SPARE_NAME, SPARE_NAME, &[0; 6], 0));
        self.expect(Kind::Bind, way);
        self.put(|out| request::put_execute(out, SPARE_NAME));
        self.expect(Kind::Execute, way);
        self.put(|out| request::put_portal(out, b'C', SPARE_NAME));
        self.expect(Kind::Close, way);
    }

    pub(super) fn forward(
        &mut self,
        message: &[u8],
        kind: Kind,
        statement: Option<&Arc<Statement>>,
    ) {
        self.outbox.extend(message);
        let statement = statement.filter(|statement| leaves_something(statement)).cloned();
        self.replies.push(Expected { statement, ..Expected::new(kind, Way::Forward) });
    }

    /// The reply to a message that names a statement.
    fn expect_of(&mut self, kind: Kind, meant: &Meant) {
        let named = match meant {
            Meant::Named(prepared) => prepared.serial,
            Meant::Unnamed(_) | Meant::Foreign => 0,
        };
        self.replies.push(Expected { named, ..Expected::new(kind, Way::Forward) });
    }

    pub(super) fn expect(&mut self, kind: Kind, way: Way) {
        self.replies.push(Expected::new(kind, way));
    }

    fn parse(&mut self, prepared: &Prepared, change: u64) {
        if !self.has(prepared) {
            self.send_parse(prepared, Way::Forward, change);
            if prepared.shape.get().is_none() && !self.describes {
                self.describe(prepared, false, Way::Swallow);
            }
        } else if self.may_be_aborted {
            // An aborted transaction takes only what ends it: the server knows what that is.
            self.put(|out| request::put_statement(out, b'C', &prepared.server_name));
            self.expect(Kind::Close, Way::Swallow);
            self.put_parse(prepared, Way::Forward, change);
        } else {
            let expected = Expected::new(Kind::Parse, Way::Simulate(PARSE_COMPLETE));
            self.replies.push(Expected { change, ..expected });
        }
    }

    /// The server must say that the name is taken: it does for the name that it knows, once it has
    /// found nothing wrong with the text.
    fn parse_again(&mut self, prepared: &Prepared, message: &[u8]) {
        let mut name = &*prepared.server_name;
        if !self.has(prepared) {
            if prepared.sees_names {
                self.send_parse(prepared, Way::Swallow, 0);
            } else {
                // Its own text may be refused by now, which is for its next use to show.
                self.make_spare(b"");
                name = SPARE_NAME;
            }
        }
        let Ok(Request::Parse { sql, types, .. }) = request::read(message) else { return };
        self.put(|out| request::put_parse(out, name, sql, types));
        let expected = Expected::new(Kind::Parse, Way::Forward);
        self.replies.push(Expected { named: prepared.serial, ..expected });
    }

    /// Whether the connection will have a statement when the server gets to what is written next.
    pub(super) fn has(&mut self, prepared: &Prepared) -> bool {
        let is_there = match prepared.sees_names {
            true => self.connection.has_own_name(prepared.serial),
            false => self.connection.prepared.touch(prepared.id),
        };
        is_there && !self.replies.may_skip_parse(prepared.id, false)
    }

    /// Prepares a statement on this connection unless it has it.
    fn ensure(&mut self, meant: &Meant) {
        match meant {
            Meant::Named(prepared) => {
                if !self.has(prepared) {
                    self.send_parse(prepared, Way::Swallow, 0);
                }
            }
            Meant::Unnamed(id) => self.ensure_unnamed(*id),
            Meant::Foreign => {}
        }
    }

    fn ensure_unnamed(&mut self, id: u64) {
        let is_there = id != NO_STATEMENT && self.connection.unnamed == Some(id);
        if id == UNSEEN_STATEMENT || is_there && !self.replies.may_skip_parse(id, true) {
            return;
        }
        if id != NO_STATEMENT && self.unnamed.id == id && self.unnamed.kept {
            let Unnamed { sql, types, .. } = self.unnamed;
            let mut out = Vec::new();
            request::put_parse(&mut out, b"", sql, types);
            self.outbox.extend(&out);
            self.connection.unnamed = Some(id);
            let expected = Expected::new(Kind::Parse, Way::Swallow);
            self.replies.push(Expected { prepared: Some(id), ..expected });
        } else {
            // The client has none: it must not meet another one's.
            self.put(|out| request::put_statement(out, b'C', b""));
            self.connection.unnamed = None;
            self.expect(Kind::Close, Way::Swallow);
        }
    }

    pub(super) fn send_parse(&mut self, prepared: &Prepared, way: Way, change: u64) {
        if prepared.sees_names {
            self.connection.add_own_name(&prepared.server_name, prepared.serial);
        } else {
            self.make_room(prepared.id);
        }
        // It may be there all the same: a Close before may have been skipped.
        self.put(|out| request::put_statement(out, b'C', &prepared.server_name));
        self.expect(Kind::Close, Way::Swallow);
        self.put_parse(prepared, way, change);
    }

    /// Notes a statement that is prepared next; the one that has not been used for longest may go.
    fn make_room(&mut self, id: u64) {
        let prepared_here = &mut self.connection.prepared;
        if let Some(evicted) = prepared_here.insert(id, self.plans, self.statements_max) {
            self.put(|out| request::put_statement(out, b'C', &server_name(evicted)));
            self.expect(Kind::Close, Way::Swallow);
        }
    }

    /// Prepares a statement of the proxy's own.
    pub fn send_own_parse(&mut self, id: u64, name: &[u8], sql: &[u8]) {
        self.make_room(id);
        self.put(|out| request::put_parse(out, name, sql, &[0, 0]));
        let expected = Expected::new(Kind::Parse, Way::Swallow);
        self.replies.push(Expected { prepared: Some(id), ..expected });
    }

    fn put_parse(&mut self, prepared: &Prepared, way: Way, change: u64) {
        self.put(|out| {
            request::put_parse(out, &prepared.server_name, &prepared.sql, &prepared.types);
        });
        let expected = Expected::new(Kind::Parse, way);
        let (id, named) = (prepared.id, prepared.serial);
        self.replies.push(Expected { prepared: Some(id), change, named, ..expected });
    }

    fn bind(&mut self, meant: &Meant, message: &[u8]) {
        match (meant, request::read(message)) {
            (Meant::Named(prepared), Ok(Request::Bind { portal, rest, .. })) => {
                self.put_bind(portal, &prepared.server_name, rest);
            }
            _ => self.outbox.extend(message),
        }
    }

    /// Bind with another statement name, without a detour through a vector: it is on the way of
    /// every prepared query.
    fn put_bind(&mut self, portal: &[u8], statement: &[u8], rest: &[u8]) {
        let length = 4 + portal.len() + 1 + statement.len() + 1 + rest.len();
        let head = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        for part in [&b"B"[..], &head, portal, b"\0", statement, b"\0", rest] {
            self.outbox.extend(part);
        }
    }

    pub(super) fn put(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        fill(&mut out);
        self.outbox.extend(&out);
    }
}

/// Whether a segment ends here, or runs nothing more before it ends.
fn ends(rest: &[Op]) -> bool {
    let runs_nothing =
        |op: &&Op| matches!(op.what, What::Flush | What::CloseStatement(_) | What::ClosePortal);
    let next = rest.iter().find(|op| !runs_nothing(op));
    next.is_some_and(|op| matches!(op.what, What::Sync))
}

/// The first part of a Bind that is longer than what is held; `missing` bytes follow.
pub fn large_bind(
    encoder: &mut Encoder<'_>,
    statements: &Statements,
    (portal, name, rest): (&[u8], &[u8], &[u8]),
    missing: usize,
) {
    let named = statements.get(name).cloned();
    let meant = match &named {
        Some(prepared) => Meant::Named(prepared.clone()),
        None if name.is_empty() => Meant::Unnamed(statements.unnamed.id),
        None => Meant::Foreign,
    };
    encoder.ensure(&meant);
    let server_name = named.as_ref().map_or(name, |prepared| &prepared.server_name);
    let mut out = Vec::new();
    request::put_bind(&mut out, portal, server_name, rest, missing);
    encoder.outbox.extend(&out);
    encoder.expect_of(Kind::Bind, &meant);
}
