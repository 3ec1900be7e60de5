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

    /// Whether the string here goes on what stands before it: another string, or the name of its
    /// character set, which then is taken for the string.
    pub(in super::super) fn continues_literal(&mut self) -> bool {
        if matches!(self.out.last(), Some(P::SingleQuotedString(_))) {
            return true;
        }
        let introduced = matches!(
            self.out.as_slice(),
            [.., before, P::Word(word)] if *before != P::Period
                && word.quote_style.is_none()
                && word.value.starts_with('_')
        );
        if introduced {
            self.out.pop();
        }
        false
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
