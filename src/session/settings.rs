//! Session settings (`SET`), and the difference that brings a connection from one set to another.

use crate::sql::{EMPTY_LIST, setting_needs_privilege};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Settings of one client; one more makes the session keep its connection instead. Servers have
/// about 400 of their own.
pub const SETTINGS_MAX: usize = 512;

/// Makes a connection fresh, whatever was SET on it.
pub const FROM_SCRATCH: &str = "RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL;";

/// Two settings that other settings' privileges depend on.
const IDENTITY: [&str; 2] = ["session_authorization", "role"];

/// Who a session acts as: the values of `session_authorization` and `role`. What may be set
/// depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Identity([Option<Arc<str>>; 2]);

#[derive(Debug, Clone)]
struct Value {
    sql: Arc<str>,
    /// Who set it, where only they may be allowed to; else the session's own user.
    by: Identity,
}

/// Values are what they are, whoever set them.
impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.sql == other.sql
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sql.hash(state);
    }
}

/// Name to value. The value is SQL that can stand after `SET name TO `. What is not in here has
/// the value that a fresh connection of the same user and database has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    values: BTreeMap<Arc<str>, Value>,
    /// What `default_transaction_isolation` says, for every read asks.
    serializable_by_default: bool,
}

/// What no text sets anything to.
const UNKNOWN: &str = "";

const ISOLATION: &str = "default_transaction_isolation";

impl Settings {
    pub fn get(&self, name: &str) -> Option<&Arc<str>> {
        self.values.get(name).map(|value| &value.sql)
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.values.len() >= SETTINGS_MAX
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.values.keys()
    }

    /// Takes over a setting that whoever the session acts as now has set.
    pub fn set(&mut self, name: Arc<str>, sql: Arc<str>) {
        let privileged = setting_needs_privilege(&name);
        let by = if privileged { self.identity() } else { Identity::default() };
        if &*name == ISOLATION {
            let word = sql.trim_matches('\'');
            self.serializable_by_default = word.eq_ignore_ascii_case("serializable");
        }
        self.values.insert(name, Value { sql, by });
    }

    pub fn remove(&mut self, name: &str) {
        self.values.remove(name);
        self.serializable_by_default &= name != ISOLATION;
    }

    /// Nobody knows what a connection has for this setting: [`Settings::difference`] changes it,
    /// whatever is wanted.
    pub fn doubt(&mut self, name: Arc<str>) {
        self.remove(&name);
        self.values.insert(name, Value { sql: UNKNOWN.into(), by: Identity::default() });
    }

    /// What is in doubt.
    pub fn doubted(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names().filter(|name| !self.knows(name))
    }

    /// Whether it is set, to a value that is known.
    pub fn knows(&self, name: &str) -> bool {
        self.get(name).is_some_and(|sql| **sql != *UNKNOWN)
    }

    /// Whether transactions are SERIALIZABLE where they say nothing.
    pub fn is_serializable_by_default(&self) -> bool {
        self.serializable_by_default
    }

    fn identity(&self) -> Identity {
        Identity(IDENTITY.map(|name| self.get(name).cloned()))
    }

    /// Whether a boolean setting is on, as the server reads the word; unset is off.
    pub fn is_on(&self, name: &str) -> bool {
        let Some(value) = self.get(name) else { return false };
        let word = value.trim_matches('\'').to_ascii_lowercase();
        // Unique prefixes of true, yes and on, as `parse_bool` (`src/backend/utils/adt/bool.c`).
        matches!(word.as_str(), "on" | "1" | "t" | "tr" | "tru" | "true" | "y" | "ye" | "yes")
    }

    /// The statements that turn a connection with `self` into one with `wanted`; empty when they
    /// are equal. Each setting is changed as the one who changed it: a superuser's is not allowed
    /// to the role that the session has taken on since. Roles of earlier sessions that set
    /// something here are not asked for: they may be gone.
    pub fn difference(&self, wanted: &Settings) -> String {
        let resets = || self.values.iter().filter(|(name, _)| wanted.get(name).is_none());
        if resets().any(|(_, value)| value.by != Identity::default()) {
            return FROM_SCRATCH.to_owned() + &Settings::default().difference(wanted);
        }
        let resets = resets().map(|(name, value)| (&value.by, name, None));
        let sets = wanted
            .values
            .iter()
            .filter(|(name, value)| self.get(name) != Some(&value.sql))
            .map(|(name, value)| (&value.by, name, Some(&value.sql)));
        let changes: Vec<_> =
            resets.chain(sets).filter(|(_, name, _)| !IDENTITY.contains(&&***name)).collect();
        let mut sql = String::new();
        let mut acting = self.identity();
        for by in distinct(changes.iter().map(|(by, ..)| *by)) {
            acting.become_other(by, &mut sql);
            for (_, name, value) in changes.iter().filter(|(other, ..)| *other == by) {
                let quoted = quoted(name);
                let _ = match value {
                    Some(value) if ***value == *EMPTY_LIST => {
                        write!(sql, "SELECT pg_catalog.set_config({}, '', false);", literal(name))
                    }
                    Some(value) => write!(sql, "SET {quoted} TO {value};"),
                    None => write!(sql, "RESET {quoted};"),
                };
            }
        }
        acting.become_other(&wanted.identity(), &mut sql);
        sql
    }
}

impl Identity {
    /// Writes what makes a session that acts as this one act as the other.
    fn become_other(&mut self, other: &Identity, sql: &mut String) {
        if self == other {
            return;
        }
        if *self != Identity::default() {
            sql.push_str("RESET SESSION AUTHORIZATION;RESET ROLE;");
        }
        for (name, value) in IDENTITY.iter().zip(&other.0) {
            if let Some(value) = value {
                let _ = write!(sql, "SET {name} TO {value};");
            }
        }
        *self = other.clone();
    }
}

/// Each once; first the session's own user, as what it sets may be needed by the others.
fn distinct<'a>(all: impl Iterator<Item = &'a Identity>) -> Vec<&'a Identity> {
    let mut distinct: Vec<&Identity> = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct.sort_by_key(|one| **one != Identity::default());
    distinct
}

/// A string as an SQL literal that reads the same whatever `standard_conforming_strings` says.
pub fn literal(value: &str) -> String {
    let doubled = value.replace('\'', "''");
    if doubled.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// The statement that sets one setting.
pub fn assignment(name: &str, value: &str, local: bool) -> String {
    let local = if local { "LOCAL " } else { "" };
    format!("SET {local}{} TO {value};", quoted(name))
}

/// A setting's name as identifiers: `app.user` has two parts.
fn quoted(name: &str) -> String {
    name.split('.').map(identifier).collect::<Vec<_>>().join(".")
}

/// A name as a quoted identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::{FROM_SCRATCH, Settings, literal};

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in pairs {
            settings.set((*name).into(), (*value).into());
        }
        settings
    }

    #[test]
    fn only_the_difference_is_sent() {
        type Pairs = &'static [(&'static str, &'static str)];
        let table: &[(Pairs, Pairs, &str)] = &[
            (&[], &[], ""),
            (&[("a", "1")], &[("a", "1")], ""),
            (&[("a", "1")], &[("a", "2")], "SET \"a\" TO 2;"),
            (&[("a", "1"), ("b", "1")], &[("b", "1")], "RESET \"a\";"),
            (&[], &[("app.user", "'x'")], "SET \"app\".\"user\" TO 'x';"),
            (
                &[("role", "'a'"), ("z", "1")],
                &[("role", "'b'")],
                "RESET SESSION AUTHORIZATION;RESET ROLE;RESET \"z\";SET role TO 'b';",
            ),
        ];
        for (from, to, sql) in table {
            assert_eq!(settings(from).difference(&settings(to)), *sql);
        }
    }

    /// A superuser sets what only a superuser may, and goes on as somebody else: another
    /// connection, which already acts as that one, must get the setting as well.
    #[test]
    fn each_setting_is_brought_by_who_may_set_it() {
        let other = settings(&[("session_authorization", "'low'")]);
        let by_superuser = settings(&[("log_statement", "1"), ("session_authorization", "'low'")]);
        let reset = "RESET SESSION AUTHORIZATION;RESET ROLE;";
        let again = "SET session_authorization TO 'low';";
        assert_eq!(
            other.difference(&by_superuser),
            format!("{reset}SET \"log_statement\" TO 1;{again}")
        );
        assert_eq!(
            by_superuser.difference(&other),
            format!("{reset}RESET \"log_statement\";{again}")
        );
        // Set under the role: the plain user might not be allowed to.
        let set = "SET \"log_statement\" TO 1;";
        let by_role = settings(&[("role", "'high'"), ("log_statement", "1")]);
        let same_role = settings(&[("role", "'high'")]);
        assert_eq!(same_role.difference(&by_role), set);
        let fresh = Settings::default();
        assert_eq!(fresh.difference(&by_role), format!("SET role TO 'high';{set}"));
        let mut left = by_role.clone();
        left.remove("role");
        assert_eq!(fresh.difference(&left), format!("SET role TO 'high';{set}{reset}"));
        assert_eq!(left, settings(&[("log_statement", "1")]));
        // The role may be gone when the next session resets what it has set.
        assert_eq!(left.difference(&fresh), FROM_SCRATCH);
    }

    #[test]
    fn booleans_as_the_server_reads_them() {
        for (word, on) in [("on", true), ("'TRUE'", true), ("off", false), ("o", false)] {
            assert_eq!(settings(&[("x", word)]).is_on("x"), on, "{word}");
        }
        assert!(!Settings::default().is_on("x"));
    }

    #[test]
    fn literals() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\b"), r" E'a\\b'");
    }
}
