//! What a server is asked about a session's state there: whether the causes of its pins still
//! hold, and the values of settings that no text has told ([`Doubts`]).
//!
//! One query, sent when nothing is under way and no transaction is open, and only after something
//! that may have ended a cause. The client does not wait for it, unless it has sent its next
//! request already: that one is behind it on the same connection.

use super::conversation::Conversation;
use crate::backend::postgres::replies::Way;
use crate::config::PoolMode;
use crate::protocol::postgres::reply::Status;
use crate::session::doubts::Learned;
use crate::session::settings::literal;
use crate::session::{Doubts, Pins, Transaction};
use crate::sql::{Pin, setting_as_sql};
use std::fmt::Write as _;
use std::sync::Arc;

/// A letter for each pin that a server can see, and the condition under which it holds. Everything
/// that a schema contains depends on it (`pg_depend`; 2615 is `pg_namespace`).
const CONDITIONS: [(Pin, char, &str); 5] = [
    (
        Pin::TemporaryTable,
        't',
        "EXISTS (SELECT 1 FROM pg_catalog.pg_depend WHERE refclassid = 2615 \
         AND refobjid = pg_catalog.pg_my_temp_schema())",
    ),
    (
        Pin::AdvisoryLock,
        'a',
        "EXISTS (SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' \
         AND pid = pg_catalog.pg_backend_pid())",
    ),
    (Pin::Listen, 'l', "EXISTS (SELECT 1 FROM pg_catalog.pg_listening_channels())"),
    (Pin::HoldCursor, 'h', "EXISTS (SELECT 1 FROM pg_catalog.pg_cursors WHERE is_holdable)"),
    (
        Pin::PreparedStatement,
        'p',
        "EXISTS (SELECT 1 FROM pg_catalog.pg_prepared_statements WHERE from_sql)",
    ),
];

impl Conversation {
    /// Asks the server that the session holds, if there is something to ask and nothing else is
    /// under way. Whether the session has changed by that.
    pub(super) fn ask(&mut self) -> bool {
        if self.session.doubts.is_empty() || self.session.doubts.asked {
            return false;
        }
        let Some(active) = &self.active else { return false };
        let is_idle = active.is_quiet()
            && active.progress.status == Status::Idle
            && !active.progress.segment_open
            && self.streaming == 0
            && matches!(self.session.transaction, Transaction::Idle);
        if !is_idle || self.cluster.handle.config.pool.mode == PoolMode::Session {
            return false;
        }
        let doubts = &mut self.session.doubts;
        doubts.pins = doubts.pins.and(self.session.pins);
        if doubts.is_empty() {
            return true;
        }
        doubts.asked = true;
        let sql = question(doubts);
        let Some(mut active) = self.active.take() else { return false };
        if let Some((mut encoder, _)) = self.encoder(&mut active) {
            encoder.ask(sql.as_bytes(), Way::Ask);
        }
        self.active = Some(active);
        true
    }
}

fn question(doubts: &Doubts) -> String {
    let mut sql = "SELECT pg_catalog.concat(''".to_owned();
    for (pin, letter, condition) in CONDITIONS {
        if doubts.pins.contains(pin) {
            let _ = write!(sql, ", CASE WHEN {condition} THEN '{letter}' END");
        }
    }
    sql.push(')');
    for name in &doubts.settings {
        let _ = write!(sql, ", pg_catalog.current_setting({}, true)", literal(name));
    }
    sql
}

/// The answer's row: the pins that hold, and the values of the settings.
pub(super) fn answer(row: &[u8], doubts: &Doubts) -> Option<(Pins, Vec<Learned>)> {
    let columns = columns(row)?;
    let (letters, values) = columns.split_first()?;
    let letters = letters.unwrap_or_default();
    let mut held = Pins::default();
    for (pin, letter, _) in CONDITIONS {
        if letters.contains(&(letter as u8)) {
            held.insert(pin);
        }
    }
    if values.len() != doubts.settings.len() {
        return None;
    }
    let learned = values.iter().zip(&doubts.settings).map(|(value, name)| learned(name, *value));
    Some((held, learned.collect()))
}

fn learned(name: &Arc<str>, value: Option<&[u8]>) -> Learned {
    let Some(value) = value else { return Learned::Unset };
    let text = std::str::from_utf8(value).ok();
    match text.and_then(|text| setting_as_sql(name, text)) {
        Some(sql) => Learned::Value(sql),
        None => Learned::Unreadable,
    }
}

/// The columns of a DataRow (manual, section 55.7), head included.
fn columns(message: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (count, mut rest) = message.get(5..)?.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        columns.push(match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => None,
            Ok(length) => {
                let (value, after) = rest.split_at_checked(length)?;
                rest = after;
                Some(value)
            }
        });
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_and_its_answer() {
        let mut doubts = Doubts::default();
        doubts.pins.insert(Pin::Listen);
        doubts.settings = vec!["a.b".into(), "search_path".into(), "c.d".into()];
        let sql = question(&doubts);
        assert!(sql.contains("pg_listening_channels") && !sql.contains("pg_locks"), "{sql}");
        assert!(sql.ends_with("current_setting('c.d', true)"), "{sql}");
        let mut row = b"D\0\0\0\0\0\x04\0\0\0\x01l\0\0\0\x04it's\0\0\0\x05a, \"B".to_vec();
        row.extend(b"\xff\xff\xff\xff");
        let (held, values) = answer(&row, &doubts).unwrap();
        assert_eq!(held.iter().collect::<Vec<_>>(), [Pin::Listen]);
        assert_eq!(values, [Learned::Value("'it''s'".into()), Learned::Unreadable, Learned::Unset]);
        for cut in 5..row.len() {
            assert!(answer(&row[..cut], &doubts).is_none());
        }
    }
}
