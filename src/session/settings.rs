//! Session settings (`SET`), and the difference that brings a connection from one set to another.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Settings of one client; one more makes the session keep its connection instead. PostgreSQL 18
/// has about 400 settings of its own.
pub const SETTINGS_MAX: usize = 512;

/// Two settings that other settings' privileges depend on, applied last and reset first.
const IDENTITY: [&str; 2] = ["session_authorization", "role"];

/// Name to value. The value is SQL that can stand after `SET name TO `. What is not in here has
/// the value that a fresh connection of the same user and database has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    values: BTreeMap<Arc<str>, Arc<str>>,
}

impl Settings {
    pub fn get(&self, name: &str) -> Option<&Arc<str>> {
        self.values.get(name)
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.values.len() >= SETTINGS_MAX
    }

    pub fn set(&mut self, name: Arc<str>, value: Arc<str>) {
        self.values.insert(name, value);
    }

    pub fn remove(&mut self, name: &str) {
        self.values.remove(name);
    }

    /// Whether a boolean setting is on, as the server reads the word; unset is off.
    pub fn is_on(&self, name: &str) -> bool {
        let Some(value) = self.values.get(name) else { return false };
        let word = value.trim_matches('\'').to_ascii_lowercase();
        // Unique prefixes of true, yes and on, as `parse_bool` (`src/backend/utils/adt/bool.c`).
        matches!(word.as_str(), "on" | "1" | "t" | "tr" | "tru" | "true" | "y" | "ye" | "yes")
    }

    /// The statements that turn a connection with `self` into one with `wanted`; empty when they
    /// are equal.
    pub fn difference(&self, wanted: &Settings) -> String {
        let mut sql = String::new();
        let identity_differs = IDENTITY.iter().any(|name| self.get(name) != wanted.get(name));
        if identity_differs {
            sql.push_str("RESET SESSION AUTHORIZATION;RESET ROLE;");
        }
        for name in self.values.keys().filter(|name| !IDENTITY.contains(&&***name)) {
            if wanted.get(name).is_none() {
                let _ = write!(sql, "RESET {};", quoted(name));
            }
        }
        for (name, value) in &wanted.values {
            if !IDENTITY.contains(&&**name) && self.get(name) != Some(value) {
                let _ = write!(sql, "SET {} TO {value};", quoted(name));
            }
        }
        if identity_differs {
            for name in IDENTITY {
                if let Some(value) = wanted.get(name) {
                    let _ = write!(sql, "SET {name} TO {value};");
                }
            }
        }
        sql
    }
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

/// A setting's name as identifiers: `app.user` has two parts.
fn quoted(name: &str) -> String {
    let parts = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\"")));
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::{Settings, literal};

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
