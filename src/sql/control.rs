//! Transaction control: BEGIN to ROLLBACK TO, and the modes of transactions. Recognised on the
//! tokens; sqlparser does not know all of it.

use super::cursor::{Cursor, Part};
use super::lex::{Kind, Lexer};
use super::statement::{Effect, Isolation, SessionEffect, TransactionModes};

/// The statement if it controls a transaction. What is written in a way that PostgreSQL would
/// refuse is not recognised.
pub(super) fn recognise(cursor: &Cursor<'_>) -> Option<Part> {
    let mut cursor = *cursor;
    let word = cursor.word(0);
    cursor.at += 1;
    let effect = match word.as_str() {
        "begin" => {
            let _ = cursor.take_any(&["work", "transaction"]);
            SessionEffect::Begin(modes(&mut cursor)?)
        }
        "start" if cursor.take("transaction") => SessionEffect::Begin(modes(&mut cursor)?),
        "commit" | "end" => {
            if word == "commit" && cursor.take("prepared") {
                return prepared(cursor);
            }
            let _ = cursor.take_any(&["work", "transaction"]);
            SessionEffect::Commit { chain: chain(&mut cursor)? }
        }
        "rollback" | "abort" => {
            if word == "rollback" && cursor.take("prepared") {
                return prepared(cursor);
            }
            let _ = cursor.take_any(&["work", "transaction"]);
            if word == "rollback" && cursor.take("to") {
                let _ = cursor.take("savepoint");
                SessionEffect::RollbackTo(cursor.name()?)
            } else {
                SessionEffect::Rollback { chain: chain(&mut cursor)? }
            }
        }
        "savepoint" => SessionEffect::Savepoint(cursor.name()?),
        "release" => {
            let _ = cursor.take("savepoint");
            SessionEffect::Release(cursor.name()?)
        }
        "prepare" if cursor.take("transaction") => {
            cursor.string()?;
            SessionEffect::PrepareTransaction
        }
        _ => return None,
    };
    if !cursor.at_end() {
        return None;
    }
    Some(transaction(effect))
}

/// Whether a text begins with START, and not with BEGIN: its reply repeats the word.
pub fn is_start(text: &[u8]) -> bool {
    let first = Lexer::new(text, true).find(|token| token.kind == Kind::Word);
    first.is_some_and(|token| token.bytes(text).eq_ignore_ascii_case(b"start"))
}

fn transaction(effect: SessionEffect) -> Part {
    // PREPARE TRANSACTION writes the transaction's state to disk.
    let class = match effect {
        SessionEffect::PrepareTransaction => Effect::Write,
        _ => Effect::Transaction,
    };
    let mut part = Part::new(class, "transaction", "it controls the transaction");
    part.found.effect(effect);
    part
}

/// COMMIT PREPARED and ROLLBACK PREPARED change data outside any transaction.
fn prepared(mut cursor: Cursor<'_>) -> Option<Part> {
    cursor.string()?;
    let part = Part::new(Effect::Write, "prepared_transaction", "it ends a prepared transaction");
    cursor.at_end().then_some(part)
}

fn chain(cursor: &mut Cursor<'_>) -> Option<bool> {
    if !cursor.take("and") {
        return Some(false);
    }
    let chained = !cursor.take("no");
    cursor.take("chain").then_some(chained)
}

/// The rest of `SET [LOCAL] TRANSACTION` or `SET SESSION CHARACTERISTICS AS TRANSACTION`.
pub(super) fn set_transaction(cursor: &mut Cursor<'_>, session: bool) -> Option<Part> {
    if cursor.take("snapshot") {
        // A snapshot lives on the server that exported it: the primary.
        return Some(Part::new(Effect::Write, "snapshot", "it imports a snapshot"));
    }
    let modes = modes(cursor)?;
    if modes == TransactionModes::default() || !cursor.at_end() {
        return None;
    }
    if !session {
        return Some(set_modes(modes));
    }
    let reason = "it sets the modes of later transactions";
    let mut part = Part::new(Effect::Session, "session", reason);
    part.found.effect(SessionEffect::SetCharacteristics(modes));
    Some(part)
}

/// A change of the open transaction's modes.
pub(super) fn set_modes(modes: TransactionModes) -> Part {
    let reason = "it sets the transaction's modes";
    let mut part = Part::new(Effect::Transaction, "transaction", reason);
    part.found.effect(SessionEffect::SetTransaction(modes));
    part
}

/// An isolation level by the value of `transaction_isolation`.
pub(super) fn isolation_named(value: &str) -> Option<Isolation> {
    let level = match value {
        "read uncommitted" => Isolation::ReadUncommitted,
        "read committed" => Isolation::ReadCommitted,
        "repeatable read" => Isolation::RepeatableRead,
        "serializable" => Isolation::Serializable,
        _ => return None,
    };
    Some(level)
}

/// Transaction modes up to the end, with or without commas.
fn modes(cursor: &mut Cursor<'_>) -> Option<TransactionModes> {
    let mut modes = TransactionModes::default();
    while !cursor.at_end() {
        if cursor.take_all(&["isolation", "level"]) {
            modes.isolation = Some(isolation(cursor)?);
        } else if cursor.take_all(&["read", "only"]) {
            modes.read_only = Some(true);
        } else if cursor.take_all(&["read", "write"]) {
            modes.read_only = Some(false);
        } else if cursor.take_all(&["not", "deferrable"]) {
            modes.deferrable = Some(false);
        } else if cursor.take("deferrable") {
            modes.deferrable = Some(true);
        } else {
            return None;
        }
        if cursor.take_mark(",") && cursor.at_end() {
            return None;
        }
    }
    Some(modes)
}

fn isolation(cursor: &mut Cursor<'_>) -> Option<Isolation> {
    let levels: [(&[&str], Isolation); 4] = [
        (&["read", "uncommitted"], Isolation::ReadUncommitted),
        (&["read", "committed"], Isolation::ReadCommitted),
        (&["repeatable", "read"], Isolation::RepeatableRead),
        (&["serializable"], Isolation::Serializable),
    ];
    levels.into_iter().find(|(words, _)| cursor.take_all(words)).map(|(_, level)| level)
}
