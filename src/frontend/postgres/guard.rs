//! Commits that can be found out about if their server is lost (`failover.resolve_commits`).
//!
//! The server is asked for the transaction's id before it commits. In front of a COMMIT the
//! question goes out with it, or before it where the transaction can run again as long as nothing
//! has been committed ([`super::replay`]); behind a statement that is a transaction of its own it goes out with
//! the statement, and what commits follows the answer:
//!
//! ```text
//! to the server:  [Bind Execute Sync] COMMIT      Parse Bind Execute [Bind Execute Flush] … Sync
//! from it:        [2 D C Z] C Z                   1 2 C              [2 D C]                Z
//!
//! to the server:  [BEGIN] UPDATE … [Bind Execute Sync] … [COMMIT]
//! from it:        [C Z]   C [Z]    [2 D C Z]             [C] Z
//! ```
//!
//! So such a statement either has not been committed for certain, and can run again, or it has an
//! id that the next primary knows: [`super::resolve`]. Its reply is kept back until its end, as
//! far as it is short: it would not come earlier on a direct connection. A simple query stands in a
//! transaction block of the proxy's own, as it would commit at once otherwise.
//!
//! Not guarded: requests that something else was sent before or behind without waiting, texts of
//! several statements, all that is not INSERT, UPDATE, DELETE or MERGE outside of a transaction
//! block, and sessions that keep their connection.

use super::active::Active;
use super::ask::columns;
use super::conversation::Conversation;
use super::encode::{EXECUTE_UNNAMED, Encoder};
use super::op::{Op, What};
use super::plan::Batch;
use super::statements::server_name;
use crate::backend::postgres::replies::{Kind, Way};
use crate::protocol::postgres::reply::Status;
use crate::protocol::postgres::request;
use crate::session::Transaction;
use crate::sql::{SessionEffect, Statement};
use crate::topology::{NodeId, Timeline};
use std::borrow::Cow;

/// A reply that is longer is passed on as it comes: then its statement cannot run again.
pub const WITHHELD_BYTES_MAX: usize = 64 * 1024;

/// Of the transaction: its id, a place in the log behind its first record and before that of its
/// commit, how far the server's last recovery went, and whether its reads had to be checked.
const MARK: &[u8] = b"SELECT pg_catalog.pg_current_xact_id_if_assigned(), \
    pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_last_wal_replay_lsn(), \
    pg_catalog.current_setting('transaction_isolation')";
/// The prepared statement that asks; an id that no client's statement gets.
pub const MARK_STATEMENT: u64 = u64::MAX - 1;
/// The end of a transaction of the proxy's own, as a simple query.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// A commit that is guarded.
#[derive(Debug)]
pub struct Guard {
    pub what: Guarded,
    /// The server's answer.
    pub mark: Option<Mark>,
    /// What commits, as long as it has not been sent.
    pub held: Option<Cow<'static, [u8]>>,
    /// The server has refused to answer.
    pub refused: bool,
    /// Where it runs.
    pub node: NodeId,
    pub timeline: Option<Timeline>,
    /// Of the node, as it was seen last before: the mark is of this one or of a later one.
    pub life: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// A COMMIT of an open transaction.
    Commit,
    /// A simple query that is a transaction of its own.
    Query,
    /// The same in the extended protocol.
    Statement,
}

impl Guarded {
    /// Whether it can be repeated alone, if it has not been committed.
    pub fn runs_again(self) -> bool {
        self != Guarded::Commit
    }
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
        let text = |at: usize| std::str::from_utf8((*columns.get(at)?)?).ok();
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
            active.progress.withheld = what.runs_again();
        }
        let replays = self.cluster.handle.config.failover.replay.is_some();
        let Some((mut encoder, _)) = self.encoder(active) else { return false };
        match what {
            None => encoder.batch(batch, bytes),
            Some(Guarded::Commit) => {
                encoder.ask_mark(request::SYNC);
                let asked = encoder.outbox.len();
                encoder.batch(batch, bytes);
                if replays {
                    active.hold_behind(asked);
                }
            }
            Some(Guarded::Query) => {
                encoder.own_query(b"BEGIN");
                encoder.query_inside(bytes);
                encoder.ask_mark(request::SYNC);
                encoder.expect(Kind::Query, Way::Ends);
            }
            Some(Guarded::Statement) => {
                encoder.ops(batch, &batch.ops[..batch.ops.len().saturating_sub(1)], bytes);
                encoder.ask_mark(request::FLUSH);
                encoder.expect(Kind::Sync, Way::Forward);
            }
        }
        what.is_some_and(Guarded::runs_again)
    }

    fn guard(&self, active: &Active, what: Guarded) -> Option<Box<Guard>> {
        let server = active.server.as_ref()?;
        let node = server.node;
        let snapshot = self.cluster.handle.topology.load();
        let known = snapshot.node(node);
        Some(Box::new(Guard {
            what,
            mark: None,
            held: match what {
                Guarded::Commit => None,
                Guarded::Query => Some(Cow::Borrowed(COMMIT)),
                Guarded::Statement => Some(Cow::Borrowed(request::SYNC)),
            },
            refused: false,
            node,
            // Its position is not known any more when probes fail before this connection does.
            timeline: snapshot
                .timeline
                .filter(|_| server.pooled.connection.life.epoch == snapshot.epoch),
            life: known.life,
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
                one_statement(batch, bytes)
            }
            _ => None,
        }
    }
}

impl Active {
    /// Holds back what is to be sent behind so many bytes, until the question before is answered.
    fn hold_behind(&mut self, bytes: usize) {
        if let Some(guard) = &mut self.progress.guard {
            guard.held = Some(Cow::Owned(self.outbox.filled()[bytes..].to_vec()));
            self.outbox.truncate(bytes);
        }
    }

    /// Sends what has been held, when the answer is there or the statement has failed.
    pub(super) fn release_held(&mut self) {
        let Some(guard) = &mut self.progress.guard else { return };
        let failed = guard.refused || self.replies.has_failed() || self.progress.intercepted;
        if guard.mark.is_some() || failed {
            self.outbox.extend(&guard.held.take().unwrap_or_default());
        }
    }

    /// Whether what commits has not been sent.
    pub(super) fn is_uncommitted(&self) -> bool {
        self.progress.guard.as_ref().is_some_and(|guard| guard.held.is_some())
    }
}

impl Encoder<'_> {
    /// Asks for the mark of the open transaction; `end` is Sync or Flush.
    fn ask_mark(&mut self, end: &[u8]) {
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
        self.outbox.extend(end);
        if end == request::SYNC {
            self.expect(Kind::Sync, Way::Swallow);
        }
    }

    /// Writes a simple query that stands in a transaction of the proxy's own.
    fn query_inside(&mut self, message: &[u8]) {
        self.connection.unnamed = None;
        self.outbox.extend(message);
        self.expect(Kind::Query, Way::Inside);
    }
}

/// Whether a batch is a COMMIT and nothing else.
pub fn is_commit(batch: &Batch) -> bool {
    is_alone(batch, &SessionEffect::Commit { chain: false })
}

/// Whether it is a ROLLBACK and nothing else.
pub fn is_rollback(batch: &Batch) -> bool {
    is_alone(batch, &SessionEffect::Rollback { chain: false })
}

/// Whether a batch does this and nothing else.
fn is_alone(batch: &Batch, effect: &SessionEffect) -> bool {
    let does = |statement: &Statement| {
        statement.count == 1 && statement.session.as_slice() == std::slice::from_ref(effect)
    };
    match &batch.ops[..] {
        [Op { what: What::Query(statement), .. }] => does(statement),
        [parts @ .., Op { what: What::Sync, .. }] => {
            let count = |is: fn(&What) -> bool| parts.iter().filter(|op| is(&op.what)).count();
            let expected = |what: &What| match what {
                What::Parse(_) | What::ParseUnnamed(_) | What::Bind(_) | What::DescribePortal => {
                    true
                }
                What::Execute(statement) => statement.as_ref().is_some_and(|it| does(it)),
                _ => false,
            };
            parts.iter().all(|op| expected(&op.what))
                && count(|what| matches!(what, What::Bind(_))) == 1
                && count(|what| matches!(what, What::Execute(_))) == 1
        }
        _ => false,
    }
}

/// Whether, and in which protocol, a batch runs one statement to its end.
fn one_statement(batch: &Batch, bytes: &[u8]) -> Option<Guarded> {
    match &batch.ops[..] {
        [Op { what: What::Query(_), .. }] => Some(Guarded::Query),
        [parts @ .., Op { what: What::Sync, .. }] => {
            let count = |is: fn(&What) -> bool| parts.iter().filter(|op| is(&op.what)).count();
            let expected = |op: &Op| match &op.what {
                What::Parse(_) | What::ParseUnnamed(_) | What::Bind(_) => true,
                What::DescribeStatement(_) | What::DescribePortal => true,
                // A number of rows may end it early.
                What::Execute(_) => bytes[op.at.clone()].ends_with(&[0; 4]),
                _ => false,
            };
            let is_one = parts.iter().all(expected)
                && count(|what| matches!(what, What::Bind(_))) == 1
                && count(|what| matches!(what, What::Execute(_))) == 1;
            is_one.then_some(Guarded::Statement)
        }
        _ => None,
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
