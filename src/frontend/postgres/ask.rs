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
use crate::session::doubts::{AllLearned, Learned};
use crate::session::settings::literal;
use crate::session::transaction::is_custom;
use crate::session::{Doubts, Pins, Settings, Transaction};
use crate::sql::{Pin, setting_as_sql};
use std::collections::BTreeMap;
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
        let sql = match doubts.everything {
            true => whole_question(&self.identity.user, &self.session.settings),
            false => question(doubts),
        };
        let Some(mut active) = self.active.take() else { return false };
        if let Some((mut encoder, _)) = self.encoder(&mut active) {
            encoder.ask(sql.as_bytes(), Way::Ask);
        }
        self.active = Some(active);
        true
    }
}

/// All that has been SET: of pg_settings what can be SET again, and what it does not show.
const SET_HERE: &str = "\
    SELECT pg_catalog.lower(name) AS name, setting FROM pg_catalog.pg_settings \
    WHERE source = 'session' AND name NOT IN ('seed', 'transaction_isolation', \
        'transaction_read_only', 'transaction_deferrable') \
    UNION ALL SELECT 'role', pg_catalog.current_setting('role') \
    WHERE pg_catalog.current_setting('role') <> 'none' \
    UNION ALL SELECT 'session_authorization', session_user::text WHERE session_user::text <> ";

/// Everything that a server can tell of a session of this user, with these settings as far as they
/// are known: of settings that nobody has defined a server has no list.
fn whole_question(user: &str, known: &Settings) -> String {
    let mut sql = "SELECT ".to_owned();
    put_conditions(Pins::all_visible(), &mut sql);
    let user = literal(user);
    let _ =
        write!(sql, ", (SELECT pg_catalog.json_object_agg(name, setting) FROM ({SET_HERE}{user}");
    for name in known.names().filter(|name| is_custom(name)) {
        let name = literal(name);
        let _ = write!(
            sql,
            " UNION SELECT {name}, pg_catalog.current_setting({name}) \
             WHERE pg_catalog.current_setting({name}, true) IS NOT NULL"
        );
    }
    sql.push_str(") s)");
    sql
}

fn question(doubts: &Doubts) -> String {
    let mut sql = "SELECT ".to_owned();
    put_conditions(doubts.pins, &mut sql);
    for name in &doubts.settings {
        let _ = write!(sql, ", pg_catalog.current_setting({}, true)", literal(name));
    }
    sql
}

fn put_conditions(pins: Pins, sql: &mut String) {
    sql.push_str("pg_catalog.concat(''");
    for (pin, letter, condition) in CONDITIONS {
        if pins.contains(pin) {
            let _ = write!(sql, ", CASE WHEN {condition} THEN '{letter}' END");
        }
    }
    sql.push(')');
}

/// The row that answers [`whole_question`]: the pins that hold, and all settings.
pub(super) fn whole_answer(row: &[u8]) -> Option<(Pins, AllLearned)> {
    let columns = columns(row)?;
    let [letters, settings] = columns[..] else { return None };
    let held = held(letters.unwrap_or_default());
    let settings = settings.unwrap_or(b"{}");
    let settings: BTreeMap<Box<str>, Box<str>> = serde_json::from_slice(settings).ok()?;
    let learned = |(name, value): (Box<str>, Box<str>)| {
        let name = Arc::from(name);
        let value = learned(&name, Some(value.as_bytes()));
        (name, value)
    };
    Some((held, settings.into_iter().map(learned).collect()))
}

fn held(letters: &[u8]) -> Pins {
    let mut held = Pins::default();
    for (pin, letter, _) in CONDITIONS {
        if letters.contains(&(letter as u8)) {
            held.insert(pin);
        }
    }
    held
}

/// The answer's row: the pins that hold, and the values of the settings.
pub(super) fn answer(row: &[u8], doubts: &Doubts) -> Option<(Pins, Vec<Learned>)> {
    let columns = columns(row)?;
    let (letters, values) = columns.split_first()?;
    let held = held(letters.unwrap_or_default());
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
pub(super) fn columns(message: &[u8]) -> Option<Vec<Option<&[u8]>>> {
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
    fn an_answer_about_everything() {
        let mut row = b"D\0\0\0\0\0\x02\0\0\0\x01h\0\0\0\x15{ \"work_mem\" : \"99\" }".to_vec();
        let (held, values) = whole_answer(&row).unwrap();
        assert_eq!(held.iter().collect::<Vec<_>>(), [Pin::HoldCursor]);
        assert_eq!(values, [("work_mem".into(), Learned::Value("'99'".into()))]);
        for cut in 5..row.len() {
            assert!(whole_answer(&row[..cut]).is_none());
        }
        row.truncate(12);
        row.extend(b"\xff\xff\xff\xff");
        assert_eq!(whole_answer(&row).unwrap().1, []);
    }

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
