//! Transaction control, XA and locks on tables, recognised on the tokens.

use super::super::cursor::{Cursor, Part};
use super::super::lex::Kind;
use super::super::statement::{Effect, Isolation, Pin, SessionEffect, TransactionModes};

/// The statement if it controls a transaction or locks tables.
pub fn recognise(cursor: &Cursor<'_>) -> Option<Part> {
    let mut cursor = *cursor;
    let word = cursor.word(0);
    cursor.at += 1;
    let mut code = "transaction";
    let mut disconnect = None;
    let effect = match word.as_str() {
        "begin" => {
            let _ = cursor.take("work");
            SessionEffect::Begin(TransactionModes::default())
        }
        "start" if cursor.take("transaction") => {
            let (modes, snapshot) = start_modes(&mut cursor)?;
            if snapshot {
                code = "snapshot";
            }
            SessionEffect::Begin(modes)
        }
        "commit" => {
            let _ = cursor.take("work");
            let (chain, release) = completion(&mut cursor)?;
            disconnect = release;
            SessionEffect::Commit { chain }
        }
        "rollback" => {
            let _ = cursor.take("work");
            if cursor.take("to") {
                let _ = cursor.take("savepoint");
                SessionEffect::RollbackTo(cursor.name()?)
            } else {
                let (chain, release) = completion(&mut cursor)?;
                disconnect = release;
                SessionEffect::Rollback { chain }
            }
        }
        "savepoint" => SessionEffect::Savepoint(cursor.name()?),
        "release" if cursor.take("savepoint") => SessionEffect::Release(cursor.name()?),
        "xa" => return xa(cursor),
        "lock" | "backup" => return Some(lock()),
        "unlock" if cursor.take_any(&["tables", "table", "instance"]) => {
            let part = Part::new(Effect::Session, "session", "it releases the locks on tables");
            return Some(with(part, SessionEffect::Unpin(Pin::TableLock)));
        }
        _ => return None,
    };
    if !cursor.at_end() {
        return None;
    }
    if disconnect == Some(true) {
        code = "release";
    }
    let part = Part::new(Effect::Transaction, code, "it controls the transaction");
    let mut part = with(part, effect);
    if let Some(disconnect) = disconnect {
        part.found.effect(SessionEffect::Disconnect(disconnect));
    }
    Some(part)
}

fn with(mut part: Part, effect: SessionEffect) -> Part {
    part.found.effect(effect);
    part
}

/// LOCK TABLES, LOCK INSTANCE FOR BACKUP, BACKUP STAGE.
fn lock() -> Part {
    let part = Part::new(Effect::Write, "lock", "it locks tables");
    with(part, SessionEffect::Pin(Pin::TableLock))
}

/// The modes of START TRANSACTION, and whether it takes its snapshot at once.
fn start_modes(cursor: &mut Cursor<'_>) -> Option<(TransactionModes, bool)> {
    let mut modes = TransactionModes::default();
    let mut snapshot = false;
    while !cursor.at_end() {
        if cursor.take_all(&["read", "only"]) {
            modes.read_only = Some(true);
        } else if cursor.take_all(&["read", "write"]) {
            modes.read_only = Some(false);
        } else if cursor.take_all(&["with", "consistent", "snapshot"]) {
            snapshot = true;
        } else {
            return None;
        }
        if cursor.take_mark(",") == cursor.at_end() {
            return None;
        }
    }
    Some((modes, snapshot))
}

/// `[AND [NO] CHAIN] [[NO] RELEASE]`: whether it chains, and whether it ends the connection if it
/// says so.
fn completion(cursor: &mut Cursor<'_>) -> Option<(bool, Option<bool>)> {
    let mut chain = false;
    if cursor.take("and") {
        chain = !cursor.take("no");
        if !cursor.take("chain") {
            return None;
        }
    }
    let kept = cursor.take("no");
    let named = cursor.take("release");
    (named || !kept).then_some((chain, named.then_some(!kept)))
}

/// A transaction that the client's own coordinator ends.
fn xa(cursor: Cursor<'_>) -> Option<Part> {
    let part = Part::new(Effect::Write, "distributed_transaction", "it controls an XA transaction");
    let pin = Pin::DistributedTransaction;
    match cursor.word(0).as_str() {
        "start" | "begin" => Some(with(part, SessionEffect::Pin(pin))),
        "end" | "prepare" => Some(part),
        "commit" | "rollback" => Some(with(part, SessionEffect::Unpin(pin))),
        // The transactions that this server has prepared.
        "recover" => Some(part),
        _ => None,
    }
}

/// The rest of `SET [SESSION] TRANSACTION`; `session`: for all later transactions.
pub fn set_transaction(cursor: &mut Cursor<'_>, session: bool) -> Option<Part> {
    let mut modes = TransactionModes::default();
    while !cursor.at_end() {
        if cursor.take_all(&["isolation", "level"]) {
            modes.isolation = Some(isolation(cursor)?);
        } else if cursor.take_all(&["read", "only"]) {
            modes.read_only = Some(true);
        } else if cursor.take_all(&["read", "write"]) {
            modes.read_only = Some(false);
        } else {
            return None;
        }
        if cursor.take_mark(",") == cursor.at_end() {
            return None;
        }
    }
    if modes == TransactionModes::default() {
        return None;
    }
    let part = Part::new(Effect::Session, "session", "it sets the modes of transactions");
    Some(with(part, of_modes(modes, session)))
}

pub fn of_modes(modes: TransactionModes, session: bool) -> SessionEffect {
    match session {
        true => SessionEffect::SetCharacteristics(modes),
        false => SessionEffect::SetNext(modes),
    }
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

/// The modes that a value of `transaction_isolation` or `transaction_read_only` stands for.
pub fn modes_of(name: &str, value: &str) -> Option<TransactionModes> {
    let value = value.trim_matches(['\'', '"']).to_ascii_lowercase();
    let mut modes = TransactionModes::default();
    match name {
        "transaction_isolation" | "tx_isolation" => {
            modes.isolation = Some(match value.as_str() {
                "read-uncommitted" => Isolation::ReadUncommitted,
                "read-committed" => Isolation::ReadCommitted,
                "repeatable-read" => Isolation::RepeatableRead,
                "serializable" => Isolation::Serializable,
                _ => return None,
            });
        }
        "transaction_read_only" | "tx_read_only" => {
            modes.read_only = Some(match value.as_str() {
                "1" | "on" | "true" => true,
                "0" | "off" | "false" => false,
                _ => return None,
            });
        }
        _ => return None,
    }
    Some(modes)
}

/// Whether the rest has a user variable, which the statement may assign.
pub fn names_variable(cursor: &Cursor<'_>) -> bool {
    cursor.rest().iter().any(|token| token.kind == Kind::UserVariable)
}
