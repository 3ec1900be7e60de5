//! What a transaction has done on one connection, said again on another: its settings and
//! savepoints.

use super::Settings;
use super::settings::{assignment, identifier};
use crate::sql::{SessionEffect, TransactionModes};
use std::sync::Arc;

/// A custom setting that was reset is empty, and not unknown as before its first SET: SHOW works.
/// On a connection that has never had it, this makes it so.
pub const DEFAULT: &str = "DEFAULT";

/// What SET SESSION CHARACTERISTICS AS TRANSACTION sets: access mode, deferrable, isolation.
pub const CHARACTERISTICS: [&str; 3] = [
    "default_transaction_read_only",
    "default_transaction_deferrable",
    "default_transaction_isolation",
];

/// What does to another connection's transaction what this did to the client's, if a text can.
pub fn said_again(effect: &SessionEffect, startup: &Settings) -> Option<String> {
    let set = |name: &str, value: Option<&Arc<str>>, local| {
        let value = value.or_else(|| startup.get(name)).map_or(DEFAULT, |value| &**value);
        assignment(name, value, local)
    };
    Some(match effect {
        SessionEffect::Set { name, value, local } => set(name, value.as_ref(), *local),
        SessionEffect::Reset(name) => set(name, None, false),
        SessionEffect::ResetAll => {
            let again = startup.names().map(|name| set(name, None, false));
            "RESET ALL;".to_owned() + &again.collect::<String>()
        }
        SessionEffect::SetCharacteristics(modes) => {
            characteristics(*modes).map(|(name, value)| assignment(name, value, false)).collect()
        }
        SessionEffect::Savepoint(name) => format!("SAVEPOINT {}", identifier(name)),
        SessionEffect::RollbackTo(name) => format!("ROLLBACK TO {}", identifier(name)),
        SessionEffect::Release(name) => format!("RELEASE {}", identifier(name)),
        _ => return None,
    })
}

/// The settings that SET SESSION CHARACTERISTICS AS TRANSACTION makes, with their values as SQL.
pub fn characteristics(
    modes: TransactionModes,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let values = [
        modes.read_only.map(on_off),
        modes.deferrable.map(on_off),
        modes.isolation.map(|level| level.as_setting()),
    ];
    CHARACTERISTICS.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?)))
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
