//! By whose rules a text is read.

use super::mysql::Reading;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    Postgres {
        /// `standard_conforming_strings`: whether a backslash in '..' is only a backslash.
        standard_strings: bool,
    },
    MySql(Reading),
}

impl Dialect {
    /// PostgreSQL with its default settings.
    pub const STANDARD: Dialect = Dialect::Postgres { standard_strings: true };
}
