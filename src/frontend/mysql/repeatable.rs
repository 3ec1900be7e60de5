//! Which commands may run a second time with their transaction ([`super::replay`]), and what of their
//! answers must be the same.

use super::plan::{Request, What};
use crate::protocol::mysql::capabilities::Status;
use crate::protocol::mysql::replies::Told;
use crate::sql::{Effect, SessionEffect, Statement};

/// Errors that take back their own statement and no more: NULL and value out of range, unknown
/// names, duplicates, syntax, foreign keys and checks, savepoints, SIGNAL.
pub const OF_ONE_STATEMENT: &[u16] = &[
    1048, 1052, 1054, 1062, 1064, 1136, 1146, 1216, 1217, 1242, 1264, 1265, 1292, 1305, 1364, 1365,
    1366, 1406, 1411, 1451, 1452, 1557, 1586, 1644, 1690, 3819, 4025,
];

/// Flags that tell how the server found its rows, or that trackers follow.
const OF_THE_SERVER: Status = Status::NO_GOOD_INDEX_USED
    .with(Status::NO_INDEX_USED)
    .with(Status::QUERY_WAS_SLOW)
    .with(Status::STATE_CHANGED);

/// Whether a statement leaves the transaction that it runs in open, and commits nothing itself.
pub fn stays_open(statement: &Statement) -> bool {
    let harmless = |effect: &SessionEffect| match effect {
        SessionEffect::Set { name, .. } | SessionEffect::Learn(name) => &**name != "autocommit",
        SessionEffect::Rollback { chain } => !chain,
        SessionEffect::Savepoint(_)
        | SessionEffect::RollbackTo(_)
        | SessionEffect::Release(_)
        | SessionEffect::Use(_)
        | SessionEffect::SetCharacteristics(_)
        | SessionEffect::SetNext(_)
        | SessionEffect::SetTiffin { .. }
        | SessionEffect::ShowTiffin { .. }
        | SessionEffect::Recall(_)
        | SessionEffect::Counts
        | SessionEffect::SetsOnce => true,
        _ => false,
    };
    let is_plain = match statement.effect {
        Effect::Read | Effect::Session | Effect::Transaction => true,
        Effect::Write => PLAIN_WRITES.contains(&statement.reason_code),
        Effect::Unknown => false,
    };
    // Of several the first may end it.
    is_plain && !statement.is_ddl && statement.count <= 1 && statement.session.iter().all(harmless)
}

/// Whether it changes rows, itself or by a function, and no more.
pub fn is_plain_write(statement: &Statement) -> bool {
    statement.effect == Effect::Write
        && matches!(statement.reason_code, "dml" | "function" | "unknown_function")
}

/// Changes of rows, and reads that lock them or call functions.
const PLAIN_WRITES: &[&str] = &["dml", "function", "unknown_function", "locking_clause"];

/// Why a command must not run a second time.
pub fn never_again(request: &Request) -> Option<&'static str> {
    if request.upload.is_some() {
        return Some("a command is longer than limits.parse_bytes_max");
    }
    let is_kept = matches!(
        request.what,
        What::Query | What::InitDb(_) | What::Prepare { .. } | What::Execute { .. }
    );
    (!is_kept).then_some("a command has effects beside the transaction")
}

/// What of a packet must be the same the next time.
pub fn summarise(told: &Told<'_>, out: &mut Vec<u8>) {
    match told {
        Told::Ok(ok) => {
            out.extend_from_slice(&[0, ok.header]);
            out.extend_from_slice(&ok.affected_rows.to_le_bytes());
            out.extend_from_slice(&ok.last_insert_id.to_le_bytes());
            out.extend_from_slice(&ok.status.without(OF_THE_SERVER).0.to_le_bytes());
            out.extend_from_slice(ok.info);
        }
        Told::Err(error) => {
            out.push(1);
            out.extend_from_slice(&error.errno.to_le_bytes());
            out.extend_from_slice(&error.sqlstate);
            out.extend_from_slice(error.message);
        }
        Told::Prepared(prepared) => {
            out.push(2);
            out.extend_from_slice(&prepared.columns.to_le_bytes());
            out.extend_from_slice(&prepared.parameters.to_le_bytes());
        }
        Told::DefinitionsEnd => out.push(3),
        Told::LocalInfile(name) | Told::Text(name) => {
            out.push(4);
            out.extend_from_slice(name);
        }
        Told::BinlogEof => out.push(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mysql::reply::{ErrPacket, OkPacket};

    #[test]
    fn answers_are_the_same_but_for_what_the_server_tells_of_itself() {
        let summary = |told: Told<'_>| {
            let mut out = Vec::new();
            summarise(&told, &mut out);
            out
        };
        let ok = |status| Told::Ok(OkPacket { warnings: 1, ..OkPacket::plain(status) });
        let plain = Status::AUTOCOMMIT;
        assert_eq!(summary(ok(plain)), summary(Told::Ok(OkPacket::plain(plain))));
        assert_eq!(summary(ok(plain)), summary(ok(plain.with(Status::NO_INDEX_USED))));
        assert_ne!(summary(ok(plain)), summary(ok(plain.with(Status::IN_TRANS))));
        let counted = OkPacket { affected_rows: 1, ..OkPacket::plain(plain) };
        assert_ne!(summary(Told::Ok(counted)), summary(ok(plain)));
        let error = |errno| Told::Err(ErrPacket { errno, sqlstate: *b"HY000", message: b"a" });
        assert_ne!(summary(error(1)), summary(error(2)));
    }
}
