//! A text of many statements in its single ones, for tools: the proxy itself never takes a
//! client's text apart.

use super::dialect::Dialect;
use super::lex::{Lexer, Token};
use super::{hint, mysql, scan};

/// The statements of a text, each from its first word, or from a hint before it, to its last.
pub fn split_statements(text: &str, dialect: Dialect) -> Vec<&str> {
    let bytes = text.as_bytes();
    let tokens: Vec<Token> = match dialect {
        Dialect::Postgres { standard_strings } => Lexer::new(bytes, standard_strings).collect(),
        Dialect::MySql(reading) => mysql::lex::Lexer::executing(bytes, reading, &[]).collect(),
    };
    let parts = match dialect {
        Dialect::Postgres { .. } => scan::split(bytes, &tokens),
        Dialect::MySql(_) => mysql::classify::split(bytes, &tokens),
    };
    let mut statements = Vec::new();
    let mut before = 0;
    for part in parts {
        let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
        // A hint is a comment, which no token covers.
        let gap = text.get(before..first.start).unwrap_or_default();
        let head = gap.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
        let from = match hint::find(head.as_bytes()) {
            Some(_) => first.start - head.len(),
            None => first.start,
        };
        statements.push(text.get(from..last.end).unwrap_or_default());
        before = last.end;
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::{Dialect, split_statements};

    #[test]
    fn statements_are_taken_apart() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" ;; -- nothing\n", &[]),
            ("SELECT 1", &["SELECT 1"]),
            ("SELECT 1; select ';' ;\n-- note\nTABLE t;", &["SELECT 1", "select ';'", "TABLE t"]),
            ("/* note; */ SELECT $$ ; $$", &["SELECT $$ ; $$"]),
            (
                "SELECT 1;\n/* tiffin: primary */ SELECT 2",
                &["SELECT 1", "/* tiffin: primary */ SELECT 2"],
            ),
            (
                "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2); SELECT 'é'",
                &["CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)", "SELECT 'é'"],
            ),
            ("SELECT 'open", &["SELECT 'open"]),
        ];
        for (text, expected) in cases {
            assert_eq!(&split_statements(text, Dialect::STANDARD), expected, "{text}");
        }
    }
}
