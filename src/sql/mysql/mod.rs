//! MySQL's and MariaDB's SQL. The values, the cache, the cursor and the walk over the tree are
//! those of `sql`; here is what these two servers read in another way than PostgreSQL: the lexer
//! with executable comments, the recognisers, the tables of functions and variables, the catalog.
//!
//! Open `classify.rs` first.

mod body;
mod calls;
mod catalog;
pub(super) mod classify;
mod control;
pub(super) mod functions;
pub(super) mod lex;
mod parse;
mod settings;
mod show;
#[cfg(test)]
mod tests;
mod utility;

pub(super) use body::{effects_of_body, words_of_body};
pub use catalog::{CatalogRows, DataAccess, RoutineRow, TableKind, TableRow, TriggerRow, build};
pub(super) use parse::operator;

/// Which of the two servers reads the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    MySql,
    MariaDb,
}

/// By what rules the server would read a text now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reading {
    pub engine: Engine,
    /// `"a"` is a name, not a string.
    pub ansi_quotes: bool,
    /// A backslash in a string is only a backslash.
    pub no_backslash_escapes: bool,
}

impl Reading {
    /// With the servers' default `sql_mode`.
    pub const fn new(engine: Engine) -> Reading {
        Reading { engine, ansi_quotes: false, no_backslash_escapes: false }
    }

    /// With the `sql_mode` as the server tells it. The combined modes that a server would spell
    /// out (ANSI, ORACLE …) are understood as well.
    pub fn with_sql_mode(self, sql_mode: &str) -> Reading {
        let has = |names: &[&str]| {
            let mut modes = sql_mode.split(',').map(str::trim);
            modes.any(|mode| names.iter().any(|name| mode.eq_ignore_ascii_case(name)))
        };
        let combined = ["ANSI_QUOTES", "ANSI", "DB2", "MAXDB", "MSSQL", "ORACLE", "POSTGRESQL"];
        Reading {
            ansi_quotes: has(&combined),
            no_backslash_escapes: has(&["NO_BACKSLASH_ESCAPES"]),
            ..self
        }
    }
}

/// Whether texts in this `character_set_client` can be classified: every byte below 0x80 is the
/// ASCII character that it looks like. In big5, cp932, gbk, gb18030 and sjis the second byte of a
/// character may look like a backslash; swe7 has letters in the place of brackets and backslash.
pub fn is_readable_charset(name: &str) -> bool {
    const READABLE: &str = "armscii8 ascii binary cp1250 cp1251 cp1256 cp1257 cp850 cp852 cp866 \
        dec8 eucjpms euckr gb2312 geostd8 greek hebrew hp8 keybcs2 koi8r koi8u latin1 latin2 \
        latin5 latin7 macce macroman tis620 ujis utf8 utf8mb3 utf8mb4";
    READABLE.split_whitespace().any(|readable| readable.eq_ignore_ascii_case(name))
}
