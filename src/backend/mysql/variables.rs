//! Session variables that differ from the server's own values, and the SQL that brings them from
//! one connection to another.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Variables of one session that are followed; with more, the session keeps its connection.
const VARIABLES_MAX: usize = 256;

/// Longer values are not carried from connection to connection.
const VALUE_BYTES_MAX: usize = 8 * 1024;

/// Setting the one sets the other.
const CHARACTER_SET: &str = "character_set_connection";
const COLLATION: &str = "collation_connection";

/// What a server goes by when it reads a text, and keeps in what it prepares: how the text is
/// written, what its strings and parameters are compared by, what its quotes mean.
const OF_TEXTS: [&str; 4] = ["character_set_client", CHARACTER_SET, COLLATION, "sql_mode"];

/// By name in lower case, each with its value as SQL. In the order of names, a collation comes
/// behind the character set that would reset it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Variables {
    values: BTreeMap<Arc<str>, Arc<str>>,
}

impl Variables {
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value as SQL.
    pub fn get(&self, name: &str) -> Option<&Arc<str>> {
        self.values.get(name)
    }

    /// False if there are too many.
    pub fn set(&mut self, name: &str, value: Arc<str>) -> bool {
        if self.values.len() >= VARIABLES_MAX && !self.values.contains_key(name) {
            return false;
        }
        self.values.insert(name.into(), value);
        true
    }

    pub fn remove(&mut self, name: &str) {
        self.values.remove(name);
    }

    /// Whether a value is wanted for all of these.
    pub fn all_wanted(&self, wanted: &Variables) -> bool {
        self.values.keys().all(|name| wanted.get(name).is_some())
    }

    /// Those of them by which a server reads a text.
    pub fn of_texts(&self) -> Variables {
        let of_text = |name: &str| Some((name.into(), self.values.get(name)?.clone()));
        Variables { values: OF_TEXTS.into_iter().filter_map(of_text).collect() }
    }

    /// What stands after `SET ` to turn a connection with these into one with `wanted`; empty
    /// when they are equal.
    pub fn difference(&self, wanted: &Variables) -> String {
        let mut sql = String::new();
        let mut assign = |name: &str, value: &str| {
            let comma = if sql.is_empty() { "" } else { ", " };
            let _ = write!(sql, "{comma}`{name}` = {value}");
        };
        // Without one of its own the collation is the character set's, and not the server's.
        let set_again = self.get(COLLATION).is_some() && wanted.get(COLLATION).is_none();
        let set_again = set_again && wanted.get(CHARACTER_SET).is_some();
        for name in self.values.keys().filter(|name| wanted.get(name).is_none()) {
            if !(set_again && &**name == COLLATION) {
                assign(name, "DEFAULT");
            }
        }
        for (name, value) in &wanted.values {
            if self.get(name) != Some(value) || set_again && &**name == CHARACTER_SET {
                assign(name, value);
            }
        }
        sql
    }
}

/// A value that a server told of a variable, as SQL. `None`: it cannot be repeated for certain.
pub fn as_sql(value: &[u8]) -> Option<Arc<str>> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= VALUE_BYTES_MAX)?;
    // Backslashes mean two things, and other characters depend on the character set.
    if !text.is_ascii() || text.contains(['\\', '\0']) {
        return None;
    }
    // A variable that takes numbers refuses strings; none that takes strings has such a value,
    // but for an empty one.
    if is_number(text) {
        return Some(text.into());
    }
    Some(format!("'{}'", text.replace('\'', "''")).into())
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    all_digits(whole) && all_digits(fraction)
}

#[cfg(test)]
mod tests {
    use super::{Variables, as_sql};

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        let mut variables = Variables::default();
        for (name, value) in pairs {
            variables.set(name, (*value).into());
        }
        variables
    }

    #[test]
    fn only_the_difference_is_sent() {
        type Pairs = &'static [(&'static str, &'static str)];
        let table: &[(Pairs, Pairs, &str)] = &[
            (&[], &[], ""),
            (&[("a", "1")], &[("a", "1")], ""),
            (&[("a", "1")], &[("a", "2")], "`a` = 2"),
            (
                &[("a", "1"), ("b", "1")],
                &[("b", "'x'"), ("c", "2")],
                "`a` = DEFAULT, `b` = 'x', `c` = 2",
            ),
            (
                &[],
                &[("collation_connection", "45"), ("character_set_connection", "45")],
                "`character_set_connection` = 45, `collation_connection` = 45",
            ),
            (
                &[("character_set_connection", "'a'"), ("collation_connection", "'a_bin'")],
                &[("character_set_connection", "'a'")],
                "`character_set_connection` = 'a'",
            ),
            (&[("collation_connection", "'a_bin'")], &[], "`collation_connection` = DEFAULT"),
        ];
        for (from, to, sql) in table {
            assert_eq!(variables(from).difference(&variables(to)), *sql);
        }
    }

    #[test]
    fn a_text_is_read_by_some_of_them() {
        let read = [("collation_connection", "45"), ("sql_mode", "'ANSI_QUOTES'")];
        let all = [read[0], read[1], ("time_zone", "'UTC'"), ("unique_checks", "0")];
        assert_eq!(variables(&all).of_texts(), variables(&read));
        assert!(variables(&all[2..]).of_texts().is_empty());
    }

    #[test]
    fn values_become_sql() {
        let table: &[(&[u8], Option<&str>)] = &[
            (b"ON", Some("'ON'")),
            (b"", Some("''")),
            (b"it's", Some("'it''s'")),
            (b"+00:00", Some("'+00:00'")),
            (b"1000", Some("1000")),
            (b"-1", Some("-1")),
            (b"0.5", Some("0.5")),
            (b"1.", Some("'1.'")),
            (b"-", Some("'-'")),
            (b"a\\b", None),
            (b"\xc3\xa4", None),
            (b"\xff", None),
        ];
        for (value, sql) in table {
            assert_eq!(as_sql(value).as_deref(), *sql, "{value:?}");
        }
    }
}
