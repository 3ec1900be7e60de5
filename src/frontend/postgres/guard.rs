//! Commits that can be found out about if their server is lost (`failover.resolve_commits`).
//!
//! The server is asked for the transaction's id before it commits. In front of a COMMIT the
//! question goes out with it; behind a statement that is a transaction of its own it goes out with
//! the statement, and the Sync that commits follows the answer:
//!
//! ```text
//! to the server:  [Bind Execute Sync] COMMIT        Parse Bind Execute [Bind Execute Flush] … Sync
//! from it:        [2 D C Z] C Z                     1 2 C              [2 D C]                Z
//! ```
//!
//! So such a statement either has not been committed for certain, and can run again, or it has an
//! id that the next primary knows: [`super::resolve`]. Its reply is kept back until its end, as
//! far as it is short: it would not come earlier on a direct connection. A simple query is sent as
//! messages of the extended protocol, as only these can be held before their end.
//!
//! Not guarded: requests that something else was sent before or behind without waiting, texts of
//! several statements, all that is not INSERT, UPDATE, DELETE or MERGE outside of a transaction
//! block, and sessions that keep their connection.

use super::active::Active;
use super::ask::columns;
use super::conversation::Conversation;
use super::encode::{EXECUTE_UNNAMED, Encoder};
use super::plan::{Batch, Op, What};
use super::statements::server_name;
use crate::backend::postgres::replies::{Expected, Kind, Way};
use crate::protocol::postgres::reply::Status;
use crate::protocol::postgres::request::{self, Request};
use crate::session::Transaction;
use crate::sql::{SessionEffect, Statement};
use crate::topology::{NodeId, Position, Timeline};

/// A reply that is longer is passed on as it comes: then its statement cannot run again.
pub const WITHHELD_BYTES_MAX: usize = 64 * 1024;

/// Of the transaction: its id, a place in the log behind its first record and before that of its
/// commit, how far the server's last recovery went, and whether its reads had to be checked.
const MARK: &[u8] = b"SELECT pg_catalog.pg_current_xact_id_if_assigned(), \
    pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_last_wal_replay_lsn(), \
    pg_catalog.current_setting('transaction_isolation')";
/// The prepared statement that asks; an id that no client's statement gets.
pub const MARK_STATEMENT: u64 = u64::MAX - 1;
/// Describe of the unnamed portal.
const DESCRIBE_UNNAMED: &[u8] = b"D\0\0\0\x06P\0";

/// A commit that is guarded.
#[derive(Debug)]
pub struct Guard {
    pub what: Guarded,
    /// The server's answer.
    pub mark: Option<Mark>,
    /// The Sync that commits has not been sent.
    pub sync_held: bool,
    /// Where it runs.
    pub node: NodeId,
    pub timeline: Option<Timeline>,
    pub incarnation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// A COMMIT of an open transaction.
    Commit,
    /// A statement that is a transaction of its own.
    Write,
}

/// What a server says of a transaction that is about to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// With its epoch; `None`: it has written nothing.
    pub xid: Option<u64>,
    pub at: u64,
    pub recovered: Option<u64>,
    pub serializable: bool,
}

impl Mark {
    /// From the answer's row, head included.
    pub fn read(row: &[u8]) -> Option<Mark> {
        let columns = columns(row)?;
        let text = |at: usize| Some(std::str::from_utf8((*columns.get(at)?)?).ok()?);
        let xid = match columns.first()? {
            Some(_) => Some(text(0)?.parse().ok()?),
            None => None,
        };
        let recovered = match columns.get(2)? {
            Some(_) => Some(place(text(2)?)?),
            None => None,
        };
        Some(Mark {
            xid,
            at: place(text(1)?)?,
            recovered,
            serializable: text(3)? == "serializable",
        })
    }
}

/// A `pg_lsn` as it is written.
pub fn place(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |digits| u32::from_str_radix(digits, 16).ok().map(u64::from);
    Some(part(high)? << 32 | part(low)?)
}

impl Conversation {
    /// Writes a batch; `behind`: more of the client's messages are there. Whether its reply is to be
    /// kept back, and its bytes with it. `may_repeat`: both can be.
    pub(super) fn encode(
        &self,
        active: &mut Active,
        (batch, bytes): (&Batch, &[u8]),
        (behind, may_repeat): (bool, bool),
    ) -> bool {
        let on = self.cluster.handle.config.failover.resolve_commits;
        let guarded = if on && !behind { self.guarded(active, batch, bytes) } else { None };
        let what = guarded.filter(|what| *what == Guarded::Commit || may_repeat);
        if let Some(what) = what {
            active.progress.guard = self.guard(active, what);
            active.progress.withheld = what == Guarded::Write;
        }
        let Some((mut encoder, _)) = self.encoder(active) else { return false };
        match what {
            None => encoder.batch(batch, bytes),
            Some(Guarded::Commit) => {
                encoder.ask_mark();
                encoder.outbox.extend(request::SYNC);
                encoder.expect(Kind::Sync, Way::Swallow);
                encoder.batch(batch, bytes);
            }
            Some(Guarded::Write) => {
                encoder.write(batch, bytes);
                encoder.ask_mark();
                encoder.outbox.extend(request::FLUSH);
                // Its bytes follow the answer.
                encoder.expect(Kind::Sync, Way::Forward);
            }
        }
        what == Some(Guarded::Write)
    }

    fn guard(&self, active: &Active, what: Guarded) -> Option<Box<Guard>> {
        let node = active.server.as_ref()?.node;
        let snapshot = self.cluster.handle.topology.load();
        let known = snapshot.node(node);
        Some(Box::new(Guard {
            what,
            mark: None,
            sync_held: what == Guarded::Write,
            node,
            timeline: known.position.as_ref().and_then(Position::timeline),
            incarnation: known.incarnation,
        }))
    }

    /// What of a batch is to be guarded, if it can be.
    fn guarded(&self, active: &Active, batch: &Batch, bytes: &[u8]) -> Option<Guarded> {
        let progress = &active.progress;
        let replies = &active.replies;
        let alone = !progress.segment_open
            && !replies.is_client_due()
            && !replies.is_skipping()
            && !replies.is_copy_in();
        if !alone || !active.server.as_ref()?.is_primary {
            return None;
        }
        match self.session.transaction {
            Transaction::Open if progress.status == Status::Open && progress.wrote => {
                is_commit(batch).then_some(Guarded::Commit)
            }
            Transaction::Idle if batch.dml == Some(true) && !self.session.is_bound() => {
                is_one_statement(batch, bytes).then_some(Guarded::Write)
            }
            _ => None,
        }
    }
}

impl Active {
    /// Sends the Sync that has been held, when the answer is there or the statement has failed.
    pub(super) fn release_sync(&mut self) {
        let Some(guard) = &mut self.progress.guard else { return };
        if guard.sync_held && (guard.mark.is_some() || self.replies.has_failed()) {
            guard.sync_held = false;
            self.outbox.extend(request::SYNC);
        }
    }

    /// Whether what runs has not been committed for certain, and nothing of it has reached the
    /// client.
    pub(super) fn is_uncommitted(&self) -> bool {
        let held = self.progress.guard.as_ref().is_some_and(|guard| guard.sync_held);
        held && self.progress.retained
    }
}

impl Encoder<'_> {
    /// Asks for the mark of the open transaction.
    fn ask_mark(&mut self) {
        let name = server_name(MARK_STATEMENT);
        // What functions deallocate, nobody tells.
        let is_sure = !self.connection.traces.unknown;
        if !(is_sure && self.connection.prepared.touch(MARK_STATEMENT)) {
            self.put(|out| request::put_statement(out, b'C', &name));
            self.expect(Kind::Close, Way::Swallow);
            self.send_own_parse(MARK_STATEMENT, &name, MARK);
        }
        self.put(|out| request::put_bind(out, b"", &name, &[0; 6], 0));
        self.expect(Kind::Bind, Way::Swallow);
        self.outbox.extend(EXECUTE_UNNAMED);
        self.expect(Kind::Execute, Way::Ask);
    }

    /// Writes a single statement without the Sync behind it.
    fn write(&mut self, batch: &Batch, bytes: &[u8]) {
        let [Op { at, what: What::Query(_), .. }] = &batch.ops[..] else {
            let without_sync = &batch.ops[..batch.ops.len().saturating_sub(1)];
            self.ops(batch, without_sync, bytes);
            return;
        };
        let Ok(Request::Query(sql)) = request::read(&bytes[at.clone()]) else { return };
        self.connection.unnamed = None;
        self.put(|out| {
            request::put_parse(out, b"", sql, &[0, 0]);
            request::put_bind(out, b"", b"", &[0; 6], 0);
        });
        self.outbox.extend(DESCRIBE_UNNAMED);
        self.outbox.extend(EXECUTE_UNNAMED);
        for kind in [Kind::Parse, Kind::Bind, Kind::Describe, Kind::Execute] {
            self.replies.push(Expected::new(kind, Way::AsQuery));
        }
    }
}

/// Whether a batch is a COMMIT and nothing else.
fn is_commit(batch: &Batch) -> bool {
    let commits = |statement: &Statement| {
        statement.count == 1 && statement.session == [SessionEffect::Commit { chain: false }]
    };
    match &batch.ops[..] {
        [Op { what: What::Query(statement), .. }] => commits(statement),
        [parts @ .., Op { what: What::Sync, .. }] => {
            let count = |is: fn(&What) -> bool| parts.iter().filter(|op| is(&op.what)).count();
            let expected = |what: &What| match what {
                What::Parse(_) | What::ParseUnnamed(_) | What::Bind(_) | What::DescribePortal => {
                    true
                }
                What::Execute(statement) => statement.as_ref().is_some_and(|it| commits(it)),
                _ => false,
            };
            parts.iter().all(|op| expected(&op.what))
                && count(|what| matches!(what, What::Bind(_))) == 1
                && count(|what| matches!(what, What::Execute(_))) == 1
        }
        _ => false,
    }
}

/// Whether a batch runs one statement to its end. As a simple query it must mean the same in the
/// extended protocol, where `$1` is a parameter.
fn is_one_statement(batch: &Batch, bytes: &[u8]) -> bool {
    match &batch.ops[..] {
        [Op { at, what: What::Query(_), .. }] => memchr::memchr(b'$', &bytes[at.clone()]).is_none(),
        [parts @ .., Op { what: What::Sync, .. }] => {
            let count = |is: fn(&What) -> bool| parts.iter().filter(|op| is(&op.what)).count();
            let expected = |op: &Op| match &op.what {
                What::Parse(_) | What::ParseUnnamed(_) | What::Bind(_) => true,
                What::DescribeStatement(_) | What::DescribePortal => true,
                // A number of rows may end it early.
                What::Execute(_) => bytes[op.at.clone()].ends_with(&[0; 4]),
                _ => false,
            };
            parts.iter().all(expected)
                && count(|what| matches!(what, What::Bind(_))) == 1
                && count(|what| matches!(what, What::Execute(_))) == 1
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&str>]) -> Vec<u8> {
        let mut row = vec![b'D', 0, 0, 0, 0];
        row.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
            row.extend(length.to_be_bytes());
            row.extend(value.unwrap_or_default().as_bytes());
        }
        row
    }

    #[test]
    fn reads_marks() {
        let mark =
            |xid, recovered, serializable| Mark { xid, at: 0x1_0000_00ff, recovered, serializable };
        let table = [
            (
                [Some("4294967301"), Some("1/FF"), None, Some("read committed")],
                Some(mark(Some(4_294_967_301), None, false)),
            ),
            (
                [None, Some("1/FF"), Some("0/10"), Some("serializable")],
                Some(mark(None, Some(16), true)),
            ),
            ([Some("x"), Some("1/FF"), None, Some("")], None),
            ([Some("1"), None, None, Some("")], None),
            ([Some("1"), Some("1FF"), None, Some("")], None),
        ];
        for (values, expected) in table {
            let row = row(&values);
            assert_eq!(Mark::read(&row), expected, "{values:?}");
            assert_eq!(Mark::read(&row[..row.len() - 1]).filter(|_| values[3] != Some("")), None);
        }
    }
}
