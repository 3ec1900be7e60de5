//! From our tokens to sqlparser's tree.
//!
//! The parser gets tokens, never text, so that it cannot see a string or a comment where the
//! lexer saw none. On the way a few forms that sqlparser does not know are written as forms that
//! it does, and the depth of the tree is bounded: its chains (`1+1+1…`) become nested boxes,
//! which are dropped recursively.

use super::lex::{Kind, Token};
use super::mysql;
use sqlparser::ast::Statement;
use sqlparser::dialect::{Dialect, MySqlDialect, PostgreSqlDialect};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token as P;

/// Links of the longest chain from the root of a tree. At some 300 bytes of stack for each link
/// that is dropped in a build without optimisation, this is far below a thread's 2 MiB.
const CHAIN_MAX: usize = 2_000;
/// Nested parentheses, subqueries and the like, as sqlparser counts them (its own default).
///
/// Measured in a release build, the worst shape (a subquery in FROM in a subquery in FROM …) takes
/// 1.2 MiB of stack at 50: threads that classify need 2 MiB, the default, and no less.
const NESTING_MAX: usize = 50;
/// Joins that wait for their ON at once. Some 10 KiB of stack each.
const OPEN_JOINS_MAX: usize = 16;

/// Why there is no tree; the code is counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub code: &'static str,
    pub reason: String,
}

/// A parsed statement.
pub struct Parsed {
    pub statement: Statement,
    /// Whether a VARIADIC was left out: arguments cannot be counted then.
    pub variadic: bool,
}

/// Parses the tokens of exactly one statement, `mysql`: of MySQL or MariaDB.
pub fn parse(text: &[u8], tokens: &[Token], mysql: bool) -> Result<Parsed, Refusal> {
    let (out, variadic, depth, values) = (Vec::new(), false, 0, None);
    let lists = Vec::new();
    let mut writer = Writer { text, tokens, mysql, at: 0, out, variadic, depth, values, lists };
    writer.run()?;
    let Writer { out, variadic, .. } = writer;
    let dialect: &dyn Dialect = if mysql { &MySqlDialect {} } else { &PostgreSqlDialect {} };
    if chain(text, tokens) > CHAIN_MAX || open_joins(text, tokens) > OPEN_JOINS_MAX {
        let reason = "the expression is nested too deeply to be looked at".to_owned();
        return Err(Refusal { code: "too_deep", reason });
    }
    let mut parser = Parser::new(dialect).with_recursion_limit(NESTING_MAX).with_tokens(out);
    match parser.parse_statements() {
        Ok(mut statements) => match (statements.pop(), statements.pop()) {
            (Some(statement), None) => Ok(Parsed { statement, variadic }),
            _ => Err(parse_error("not one statement".to_owned())),
        },
        Err(error) => Err(parse_error(error.to_string())),
    }
}

pub(super) fn parse_error(reason: String) -> Refusal {
    Refusal { code: "parse_error", reason }
}

/// The links of the longest chain that the tokens can grow into.
fn chain(text: &[u8], tokens: &[Token]) -> usize {
    let mut open = vec![0usize];
    let mut total = 0usize;
    let mut longest = 0usize;
    for token in tokens {
        let link = match (token.kind, token.bytes(text)) {
            (Kind::Mark, b"(" | b"[") => {
                open.push(0);
                continue;
            }
            (Kind::Mark, b")" | b"]") => {
                if open.len() > 1 {
                    total -= open.pop().unwrap_or(0);
                }
                true
            }
            (Kind::Mark, b",") => {
                total -= open.last().copied().unwrap_or(0);
                if let Some(count) = open.last_mut() {
                    *count = 0;
                }
                false
            }
            (Kind::Word, word) => is_link(word),
            (Kind::Operator | Kind::Mark, _) => true,
            _ => false,
        };
        if link && let Some(count) = open.last_mut() {
            *count += 1;
            total += 1;
            longest = longest.max(total + open.len());
        }
    }
    longest.max(open.len())
}

/// The most joins that wait for their ON at once: `a JOIN b JOIN c ON … ON …` is parsed by
/// recursion that sqlparser does not count.
fn open_joins(text: &[u8], tokens: &[Token]) -> usize {
    let mut levels = vec![0usize];
    let mut total = 0usize;
    let mut most = 0usize;
    let mut before: &[u8] = b"";
    for token in tokens {
        let bytes = token.bytes(text);
        let is = |word: &[u8]| bytes.eq_ignore_ascii_case(word);
        if is(b"(") {
            levels.push(0);
        } else if is(b")") && levels.len() > 1 {
            total -= levels.pop().unwrap_or(0);
        } else if let Some(level) = levels.last_mut() {
            let waits =
                !before.eq_ignore_ascii_case(b"cross") && !before.eq_ignore_ascii_case(b"natural");
            if (is(b"join") || is(b"straight_join")) && waits {
                *level += 1;
                total += 1;
                most = most.max(total);
            } else if (is(b"on") || is(b"using")) && *level > 0 {
                *level -= 1;
                total -= 1;
            }
        }
        before = bytes;
    }
    most
}

fn is_link(word: &[u8]) -> bool {
    const LINKS: [&[u8]; 28] = [
        b"and",
        b"or",
        b"is",
        b"in",
        b"like",
        b"ilike",
        b"similar",
        b"between",
        b"collate",
        b"at",
        b"union",
        b"intersect",
        b"except",
        b"overlaps",
        b"notnull",
        b"isnull",
        b"not",
        b"join",
        b"case",
        b"select",
        b"div",
        b"mod",
        b"xor",
        b"rlike",
        b"regexp",
        b"binary",
        b"interval",
        b"straight_join",
    ];
    LINKS.iter().any(|link| word.eq_ignore_ascii_case(link))
}

pub(super) struct Writer<'a> {
    text: &'a [u8],
    tokens: &'a [Token],
    mysql: bool,
    pub(super) at: usize,
    pub(super) out: Vec<P>,
    variadic: bool,
    /// Parentheses that are open.
    depth: usize,
    /// Inside the rows of a VALUES that stands at this depth.
    values: Option<usize>,
    /// For each open parenthesis of MySQL's whether tables are listed in it.
    pub(super) lists: Vec<bool>,
}

impl Writer<'_> {
    /// The unquoted word `ahead` of the present one, in lower case; empty for anything else.
    pub(super) fn word(&self, ahead: usize) -> String {
        match self.tokens.get(self.at + ahead) {
            Some(token) if token.kind == Kind::Word => lower(token.bytes(self.text)),
            _ => String::new(),
        }
    }

    pub(super) fn bytes(&self, ahead: usize) -> &[u8] {
        self.tokens.get(self.at + ahead).map_or(&[], |token| token.bytes(self.text))
    }

    /// The token before the present one, as text in lower case.
    pub(super) fn before(&self) -> String {
        let token = self.at.checked_sub(1).and_then(|at| self.tokens.get(at));
        token.map_or(String::new(), |token| lower(token.bytes(self.text)))
    }

    fn run(&mut self) -> Result<(), Refusal> {
        while let Some(token) = self.tokens.get(self.at).copied() {
            let bytes = token.bytes(self.text);
            match token.kind {
                Kind::Word => {
                    let word = lower(bytes);
                    if self.values == Some(self.depth) {
                        self.values = None;
                    }
                    if word == "values" {
                        self.values = Some(self.depth);
                    }
                    match self.mysql {
                        true => self.write_word_of_mysql(&word),
                        false => self.write_word(&word),
                    }
                }
                Kind::Quoted if self.mysql => {
                    // Few names depend on case, and the catalog leaves it out.
                    self.out.push(P::make_word(&unquote(bytes).to_lowercase(), Some('`')));
                }
                Kind::Quoted => self.out.push(P::make_word(&unquote(bytes), Some('"'))),
                Kind::UserVariable | Kind::SystemVariable if self.mysql => {
                    self.out.push(P::Placeholder("?".to_owned()));
                }
                Kind::Text if self.mysql && self.continues_literal() => {}
                Kind::Text => self.literal(P::SingleQuotedString("x".to_owned())),
                Kind::Number if self.mysql => {
                    self.drop_introducer();
                    self.literal(P::Number("1".to_owned(), false));
                }
                Kind::Number => self.literal(P::Number("1".to_owned(), false)),
                Kind::Parameter => self.out.push(P::Placeholder(lower(bytes))),
                Kind::Mark => self.write_mark(bytes)?,
                Kind::Operator => {
                    let name = lower(bytes);
                    let own = if self.mysql { mysql::operator(&name) } else { None };
                    self.out.push(own.unwrap_or_else(|| operator(&name)));
                }
                Kind::UnicodeQuoted => {
                    return Err(parse_error("a name with Unicode escapes".to_owned()));
                }
                Kind::Broken => return Err(parse_error("an unfinished literal".to_owned())),
                Kind::UserVariable | Kind::SystemVariable | Kind::Other => {
                    return Err(parse_error(format!("unexpected {}", lower(bytes))));
                }
            }
            self.at += 1;
        }
        Ok(())
    }

    /// A literal; in the list behind IN only the first of each kind is kept.
    fn literal(&mut self, token: P) {
        let same = |seen: &P| std::mem::discriminant(seen) == std::mem::discriminant(&token);
        if let [.., P::LParen, first, P::Comma] = self.out.as_slice()
            && same(first)
            && self.list_of_in()
        {
            self.out.pop();
            return;
        }
        self.out.push(token);
    }

    /// Whether the output ends in `IN ( literal ,`.
    fn list_of_in(&self) -> bool {
        let at = self.out.len().checked_sub(4).and_then(|at| self.out.get(at));
        matches!(at, Some(P::Word(word)) if word.quote_style.is_none() && word.value == "in")
    }

    fn write_word(&mut self, word: &str) {
        match word {
            "variadic" if matches!(self.before().as_str(), "(" | ",") => self.variadic = true,
            // GROUP BY DISTINCT
            "distinct" if self.before() == "by" => {}
            "symmetric" | "asymmetric" if self.before() == "between" => {}
            "uescape" if self.before().contains('\'') => self.at += 1,
            "exclude" => match self.frame_exclusion() {
                Some(words) => self.at += words,
                None => self.push_word(word),
            },
            "only"
                if matches!(self.before().as_str(), "from" | "join" | "update" | "," | "into") => {}
            // Locking clauses are no read in any strength; sqlparser knows the two plain ones.
            "no" if self.before() == "for" && self.word(1) == "key" => self.at += 1,
            "key" if self.before() == "for" && self.word(1) == "share" => {}
            "table" if self.starts_query() => self.push_table_query(),
            _ => self.push_word(word),
        }
    }

    /// `TABLE` as `SELECT * FROM`.
    pub(super) fn push_table_query(&mut self) {
        self.push_word("select");
        self.out.push(P::Mul);
        self.push_word("from");
    }

    /// How many tokens the row behind the comma here has, if it is a row of constants.
    fn constant_row(&self) -> Option<usize> {
        let mut row = self.tokens.get(self.at + 1..)?.iter();
        if row.next()?.bytes(self.text) != b"(" {
            return None;
        }
        for (count, token) in row.enumerate() {
            let bytes = token.bytes(self.text);
            let constant = match token.kind {
                Kind::Text | Kind::Number | Kind::Parameter => true,
                Kind::Mark if bytes == b")" => return Some(count + 2),
                Kind::Mark => bytes == b",",
                Kind::Operator => matches!(bytes, b"-" | b"+"),
                Kind::Word => ["null", "true", "false", "default"]
                    .iter()
                    .any(|word| bytes.eq_ignore_ascii_case(word.as_bytes())),
                _ => false,
            };
            if !constant {
                return None;
            }
        }
        None
    }

    pub(super) fn push_word(&mut self, word: &str) {
        self.out.push(P::make_word(word, None));
    }

    /// Whether a query may start at the present token.
    pub(super) fn starts_query(&self) -> bool {
        let before = self.before();
        self.at == 0
            || matches!(
                before.as_str(),
                "(" | "union" | "intersect" | "except" | "all" | "distinct"
            )
    }

    /// How many words follow EXCLUDE in a window frame; `None` if this is none.
    fn frame_exclusion(&self) -> Option<usize> {
        if !matches!(self.before().as_str(), "row" | "preceding" | "following") {
            return None;
        }
        let words = match (self.word(1).as_str(), self.word(2).as_str()) {
            ("current", "row") | ("no", "others") => 2,
            ("group" | "ties", _) => 1,
            _ => return None,
        };
        (self.bytes(words + 1) == b")").then_some(words)
    }

    fn write_mark(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let token = match bytes {
            b"(" => {
                self.depth += 1;
                let lists = self.mysql && self.lists_tables();
                self.lists.push(lists);
                P::LParen
            }
            b")" => {
                self.depth = self.depth.saturating_sub(1);
                self.lists.pop();
                if self.values.is_some_and(|depth| depth > self.depth) {
                    self.values = None;
                }
                P::RParen
            }
            b"," if self.values == Some(self.depth) && self.out.last() == Some(&P::RParen) => {
                // Of the rows of VALUES, those that only have constants add nothing.
                match self.constant_row() {
                    Some(tokens) => {
                        self.at += tokens;
                        return Ok(());
                    }
                    None => P::Comma,
                }
            }
            b"," if self.lists.last() == Some(&true) => {
                self.push_word("cross");
                P::make_word("join", None)
            }
            b"[" => P::LBracket,
            b"]" => P::RBracket,
            b"," => P::Comma,
            b";" => P::SemiColon,
            b"." => {
                // `(row).*`: all fields are fields.
                if self.before() == ")" && self.bytes(1) == b"*" {
                    self.out.push(P::Period);
                    self.out.push(P::make_word("*", Some('"')));
                    self.at += 1;
                    return Ok(());
                }
                P::Period
            }
            b":" => P::Colon,
            b"::" => P::DoubleColon,
            b":=" if self.mysql => P::Assignment,
            // Old spelling of `=>`; SQL has no other use for it.
            b":=" => P::RArrow,
            _ => return Err(parse_error(format!("unexpected {}", lower(bytes)))),
        };
        self.out.push(token);
        Ok(())
    }
}

pub(super) fn lower(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_ascii_lowercase()
}

/// The name inside quotes, whichever they are.
pub fn unquote(bytes: &[u8]) -> String {
    let inner = bytes.get(1..bytes.len().saturating_sub(1)).unwrap_or_default();
    let quote = bytes.first().map_or("\"", |first| if *first == b'`' { "`" } else { "\"" });
    String::from_utf8_lossy(inner).replace(&quote.repeat(2), quote)
}

fn operator(text: &str) -> P {
    match text {
        "=" => P::Eq,
        "<>" | "!=" => P::Neq,
        "<" => P::Lt,
        ">" => P::Gt,
        "<=" => P::LtEq,
        ">=" => P::GtEq,
        "+" => P::Plus,
        "-" => P::Minus,
        "*" => P::Mul,
        "/" => P::Div,
        "%" => P::Mod,
        "||" => P::StringConcat,
        "&" => P::Ampersand,
        "|" => P::Pipe,
        "^" => P::Caret,
        "#" => P::Sharp,
        "~" => P::Tilde,
        "~*" => P::TildeAsterisk,
        "!~" => P::ExclamationMarkTilde,
        "!~*" => P::ExclamationMarkTildeAsterisk,
        "~~" => P::DoubleTilde,
        "~~*" => P::DoubleTildeAsterisk,
        "!~~" => P::ExclamationMarkDoubleTilde,
        "!~~*" => P::ExclamationMarkDoubleTildeAsterisk,
        "<<" => P::ShiftLeft,
        ">>" => P::ShiftRight,
        "&&" => P::Overlap,
        "@" => P::AtSign,
        "^@" => P::CaretAt,
        "|/" => P::PGSquareRoot,
        "||/" => P::PGCubeRoot,
        "->" => P::Arrow,
        "->>" => P::LongArrow,
        "#>" => P::HashArrow,
        "#>>" => P::HashLongArrow,
        "@>" => P::AtArrow,
        "<@" => P::ArrowAt,
        "#-" => P::HashMinus,
        "@?" => P::AtQuestion,
        "@@" => P::AtAt,
        "?" => P::Question,
        "?&" => P::QuestionAnd,
        "?|" => P::QuestionPipe,
        "=>" => P::RArrow,
        // Only the name counts, and the operator's own precedence is that of any other one.
        _ => P::CustomBinaryOperator(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lex::Lexer;
    use super::*;

    /// The statement as sqlparser writes it back.
    fn parsed(sql: &str) -> String {
        let tokens: Vec<Token> = Lexer::new(sql.as_bytes(), true).collect();
        match parse(sql.as_bytes(), &tokens, false) {
            Ok(parsed) => parsed.statement.to_string(),
            Err(refusal) => refusal.code.to_owned(),
        }
    }

    #[test]
    fn what_sqlparser_does_not_know_is_written_as_what_it_does() {
        let cases = [
            ("SELECT A.b, 'c', 7 FROM \"D\"", "SELECT a.b, 'x', 1 FROM \"D\""),
            ("TABLE t", "SELECT * FROM t"),
            ("SELECT f(VARIADIC a)", "SELECT f(a)"),
            ("SELECT (a).*", "SELECT (a).\"*\""),
            ("SELECT U&'a' UESCAPE '!'", "SELECT 'x'"),
            ("SELECT 1 BETWEEN SYMMETRIC 2 AND 3", "SELECT 1 BETWEEN 1 AND 1"),
            ("SELECT * FROM ONLY t", "SELECT * FROM t"),
            ("SELECT 1 FETCH FIRST ROW ONLY", "SELECT 1 FETCH FIRST ROWS ONLY"),
            ("SELECT a OVER (ROWS 1 PRECEDING EXCLUDE NO OTHERS)", "parse_error"),
            (
                "SELECT f() OVER (ROWS 1 PRECEDING EXCLUDE NO OTHERS)",
                "SELECT f() OVER (ROWS 1 PRECEDING)",
            ),
            (
                "SELECT exclude FROM t exclude GROUP BY a",
                "SELECT exclude FROM t exclude GROUP BY a",
            ),
        ];
        for (sql, expected) in cases {
            assert_eq!(parsed(sql), expected, "{sql}");
        }
    }

    /// Only constants are left out, and only where their number means nothing.
    #[test]
    fn lists_of_constants_are_cut_short() {
        let cases = [
            ("SELECT 1 IN (1, 2, 3, a)", "SELECT 1 IN (1, a)"),
            ("SELECT f(1, 2, 3)", "SELECT f(1, 1, 1)"),
            ("SELECT f((1, 2), (3, 4))", "SELECT f((1, 1), (1, 1))"),
            ("VALUES (1, 'a'), (-2, NULL), ($1, true), (4, f())", "VALUES (1, 'x'), (1, f())"),
            (
                "INSERT INTO t VALUES (1), (2) ON CONFLICT DO UPDATE SET a = f((1), (2))",
                "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = f((1), (1))",
            ),
            (
                "SELECT * FROM (VALUES (1), (2)) v, (SELECT 1) w",
                "SELECT * FROM (VALUES (1)) v, (SELECT 1) w",
            ),
            ("SELECT (VALUES (1)), (2)", "SELECT (values(1)), (1)"),
        ];
        for (sql, expected) in cases {
            assert_eq!(parsed(sql), expected, "{sql}");
        }
    }
}
