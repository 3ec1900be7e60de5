//! What the writer of `sql/parse.rs` does in another way for MySQL and MariaDB.

use super::super::parse::Writer;
use sqlparser::tokenizer::Token as P;

/// Units of EXTRACT and INTERVAL.
const COMPOUND_UNITS: [&str; 11] = [
    "second_microsecond",
    "minute_microsecond",
    "minute_second",
    "hour_microsecond",
    "hour_second",
    "hour_minute",
    "day_microsecond",
    "day_second",
    "day_minute",
    "day_hour",
    "year_month",
];

impl Writer<'_> {
    /// An unquoted word, in lower case.
    pub(in super::super) fn write_word_of_mysql(&mut self, word: &str) {
        let select = || matches!(self.before().as_str(), "select" | "all" | "distinct");
        match word {
            "table" if self.starts_query() => self.push_table_query(),
            "distinctrow" => self.push_word("distinct"),
            // MariaDB's; without effect on MySQL 8 and newer, which refuses it.
            "sql_cache" if select() => {}
            // `a SOUNDS LIKE b`
            "sounds" if self.word(1) == "like" => {}
            // `a MOD b`
            "mod" if self.bytes(1) != b"(" && self.before() != "." => self.out.push(P::Mod),
            // sqlparser copies all that stands before it, each time.
            "div" => self.out.push(P::Div),
            // Reserved words; sqlparser knows the plain units.
            _ if COMPOUND_UNITS.contains(&word) => self.push_word("day"),
            _ => self.push_word(word),
        }
    }

    /// Whether the string here goes on another one that stands before it.
    pub(in super::super) fn continues_literal(&mut self) -> bool {
        let continues = matches!(self.out.last(), Some(P::SingleQuotedString(_)));
        self.drop_introducer();
        continues
    }

    /// Takes back the name of a character set that stands before a literal: `_utf8mb4'a'`.
    pub(in super::super) fn drop_introducer(&mut self) {
        let introduced = matches!(
            self.out.as_slice(),
            [.., before, P::Word(word)] if *before != P::Period
                && word.quote_style.is_none()
                && word.value.starts_with('_')
        );
        if introduced {
            self.out.pop();
        }
    }

    /// Whether tables are listed in the parenthesis here: `a LEFT JOIN (b, c) ON …`, which
    /// sqlparser knows with CROSS JOIN in the place of the comma.
    pub(in super::super) fn lists_tables(&self) -> bool {
        let begins = match self.before().as_str() {
            "from" | "join" | "straight_join" => true,
            "(" | "," => self.lists.last() == Some(&true),
            _ => false,
        };
        let is_query = matches!(self.word(1).as_str(), "select" | "with" | "values" | "table");
        begins && !is_query
    }
}

/// Operators that mean something else than PostgreSQL's of the same name.
pub(in super::super) fn operator(name: &str) -> Option<P> {
    let token = match name {
        "<=>" => P::Spaceship,
        // It binds closer than NOT, which matters to nobody here.
        "!" => P::make_word("not", None),
        _ => return None,
    };
    Some(token)
}
