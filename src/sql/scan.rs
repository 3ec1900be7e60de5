//! One pass over a text: its digest, and what its words alone say about it.
//!
//! [`digest`] is the steady path: it writes the normalised text into memory that the caller
//! reuses. [`split`] and [`forbidden`] work on the tokens of a text that is classified for the
//! first time. Nothing here knows functions or tables.

use super::dialect::Dialect;
use super::hint;
use super::lex::{Kind, Lexer, Token};
use super::mysql;

/// Stands for a string literal in a digest. Neither byte can be part of a valid statement.
const TEXT_MARK: u8 = 1;
/// Stands for a number in a digest.
const NUMBER_MARK: u8 = 2;
/// Starts a digest that is the whole text.
const WHOLE_MARK: u8 = 0;
/// Ends a hint at the start of a digest.
const HINT_MARK: u8 = 3;

/// A lexer, with the short way through plain words that the digest takes.
pub(super) trait Words: Iterator<Item = Token> {
    /// Whether the next token is a word that introduces no literal. Passes over what comes before.
    fn at_plain_word(&mut self) -> bool;

    /// Takes the word that [`Words::at_plain_word`] has found and writes it in lower case; gives
    /// its length. `out` is at least as long as the rest of the text.
    fn lower_word(&mut self, out: &mut [u8]) -> usize;
}

/// What the last token of a digest was, as far as the next one needs to know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Start,
    Word,
    In,
    Operator,
    Literal,
    Other,
}

/// Memory for digests, which the caller reuses and which only grows.
#[derive(Debug, Default)]
pub struct Room {
    bytes: Vec<u8>,
    /// The literals of the text that was digested last, in order.
    literals: Vec<Token>,
}

impl Room {
    /// The literals that the last digest leaves out; `None` if it is the whole text.
    pub fn left_out(&self) -> Option<&[Token]> {
        (self.bytes.first() != Some(&WHOLE_MARK)).then_some(&*self.literals)
    }

    /// Bytes that it has grown to.
    pub fn size(&self) -> usize {
        self.bytes.capacity()
    }
}

/// The normalised text, written into `room`: words
/// in lower case, literals as marks, no comments (but the hint at the head), no white space that
/// means nothing, lists of literals behind IN as one. Two texts with the same digest are
/// classified alike.
///
/// Texts whose literals may change the class (anything but plain queries and DML, and the calls
/// of `set_config` and `current_setting`) are their own digest.
pub fn digest<'r>(text: &[u8], dialect: Dialect, room: &'r mut Room) -> &'r [u8] {
    let Room { bytes: room, literals } = room;
    literals.clear();
    let hint = hint::find(text).unwrap_or_default();
    // A token adds at most a space to its own length.
    let needed = hint.len() + 1 + 2 * text.len() + 1;
    if room.len() < needed {
        room.resize(needed, 0);
    }
    let mut out = Out { room, at: 0, literals };
    if !hint.is_empty() {
        out.extend(hint);
        out.push(HINT_MARK);
    }
    let normal = match dialect {
        Dialect::Postgres { standard_strings } => {
            normalise(text, Lexer::new(text, standard_strings), &mut out)
        }
        Dialect::MySql(reading) => normalise(text, mysql::lex::Lexer::new(text, reading), &mut out),
    };
    if !normal {
        out.at = 0;
        out.push(WHOLE_MARK);
        out.extend(text);
    }
    let Out { room, at, .. } = out;
    &room[..at]
}

/// A digest being written. Room is checked once, before.
struct Out<'r> {
    room: &'r mut [u8],
    at: usize,
    literals: &'r mut Vec<Token>,
}

impl Out<'_> {
    #[inline]
    fn push(&mut self, byte: u8) {
        self.room[self.at] = byte;
        self.at += 1;
    }

    #[inline]
    fn extend(&mut self, bytes: &[u8]) {
        self.room[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    #[inline]
    fn space_if(&mut self, needed: bool) {
        if needed {
            self.push(b' ');
        }
    }

    fn ends_with(&self, bytes: &[u8]) -> bool {
        self.room[..self.at].ends_with(bytes)
    }
}

/// False if the text has to be its own digest.
fn normalise(text: &[u8], mut lexer: impl Words, out: &mut Out<'_>) -> bool {
    let mut last = Last::Start;
    // Inside `IN ( literal , literal …`, where the list counts as one literal.
    let mut in_list = false;
    loop {
        let spaced = matches!(last, Last::Word | Last::In | Last::Literal);
        if lexer.at_plain_word() {
            out.space_if(spaced);
            let from = out.at;
            out.at += lexer.lower_word(&mut out.room[from..]);
            let Some(after) = after_word(last, &out.room[from..out.at]) else { return false };
            last = after;
            in_list = false;
            continue;
        }
        let Some(token) = lexer.next() else { return true };
        let bytes = token.bytes(text);
        match token.kind {
            Kind::Text | Kind::Number => {
                out.literals.push(token);
                let mark = if token.kind == Kind::Text { TEXT_MARK } else { NUMBER_MARK };
                if in_list && out.ends_with(&[mark, b',']) {
                    out.at -= 1;
                } else {
                    out.push(mark);
                }
                last = Last::Literal;
            }
            Kind::Mark => {
                in_list = match bytes {
                    b"(" => last == Last::In,
                    b"," => in_list,
                    _ => false,
                };
                bytes.iter().for_each(|byte| out.push(*byte));
                let start = bytes == b";" || bytes == b"(" && last == Last::Start;
                last = if start { Last::Start } else { Last::Other };
            }
            Kind::Operator => {
                out.space_if(last == Last::Operator);
                bytes.iter().for_each(|byte| out.push(*byte));
                last = Last::Operator;
                in_list = false;
            }
            Kind::Quoted | Kind::Parameter | Kind::UserVariable | Kind::SystemVariable => {
                let inner = bytes.get(1..bytes.len().saturating_sub(1)).unwrap_or_default();
                if last == Last::Start || names_setting(inner) {
                    return false;
                }
                out.space_if(spaced);
                out.extend(bytes);
                last = Last::Word;
                in_list = false;
            }
            // One that might have introduced a literal, as in `a&b`.
            Kind::Word => {
                out.space_if(spaced);
                let from = out.at;
                out.extend(bytes);
                out.room[from..out.at].make_ascii_lowercase();
                let Some(after) = after_word(last, &out.room[from..out.at]) else { return false };
                last = after;
                in_list = false;
            }
            Kind::UnicodeQuoted | Kind::Broken | Kind::Other => return false,
        }
    }
}

/// What a word in lower case leaves; `None` if the text has to be its own digest.
#[inline]
fn after_word(last: Last, word: &[u8]) -> Option<Last> {
    if last == Last::Start && !starts_plain(word) || names_setting(word) {
        return None;
    }
    Some(if word == b"in" { Last::In } else { Last::Word })
}

/// The words at the start of statements whose literals never change the class.
fn starts_plain(word: &[u8]) -> bool {
    matches!(
        word,
        b"select"
            | b"with"
            | b"insert"
            | b"update"
            | b"delete"
            | b"values"
            | b"table"
            | b"merge"
            | b"replace"
    )
}

/// Functions whose constant arguments matter.
fn names_setting(word: &[u8]) -> bool {
    match word.len() {
        10 => word == b"set_config",
        15 => word == b"current_setting",
        _ => false,
    }
}

/// The tokens of each statement of a text, empty statements left out.
///
/// Semicolons in parentheses (CREATE RULE) and in a BEGIN ATOMIC body do not end a statement.
pub fn split<'t>(text: &[u8], tokens: &'t [Token]) -> Vec<&'t [Token]> {
    let mut statements = Vec::new();
    let mut from = 0;
    let mut parentheses = 0usize;
    let mut blocks = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        match (token.kind, token.bytes(text)) {
            (Kind::Mark, b"(") => parentheses += 1,
            (Kind::Mark, b")") => parentheses = parentheses.saturating_sub(1),
            (Kind::Mark, b";") if parentheses == 0 && blocks == 0 => {
                if at > from {
                    statements.push(&tokens[from..at]);
                }
                from = at + 1;
            }
            (Kind::Word, word) => {
                let next = tokens.get(at + 1).map_or(&b""[..], |next| next.bytes(text));
                if blocks == 0 {
                    let atomic = word.eq_ignore_ascii_case(b"begin")
                        && next.eq_ignore_ascii_case(b"atomic")
                        && tokens[from].bytes(text).eq_ignore_ascii_case(b"create");
                    blocks += usize::from(atomic);
                } else if word.eq_ignore_ascii_case(b"case") {
                    blocks += 1;
                } else if word.eq_ignore_ascii_case(b"end") {
                    blocks -= 1;
                }
            }
            _ => {}
        }
    }
    if tokens.len() > from {
        statements.push(&tokens[from..]);
    }
    statements
}

/// The word of a statement that no read contains, if it has one: what changes data, a target of
/// SELECT INTO, a locking clause. A column of such a name makes the statement a write as well;
/// that is the safe side.
pub fn forbidden(text: &[u8], tokens: &[Token]) -> Option<&'static str> {
    let mut before = String::new();
    for token in tokens {
        let word = match token.kind {
            Kind::Word => String::from_utf8_lossy(token.bytes(text)).to_ascii_lowercase(),
            Kind::Mark if token.bytes(text) == b"." => String::from("."),
            Kind::Broken => return Some("an unfinished literal"),
            _ => String::new(),
        };
        let found = match word.as_str() {
            _ if before == "." => None,
            "insert" => Some("INSERT"),
            "update" => Some("UPDATE"),
            "delete" => Some("DELETE"),
            "merge" => Some("MERGE"),
            "into" => Some("INTO"),
            "share" | "no" | "key" if before == "for" => Some("a locking clause"),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        before = word;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<u8> {
        digest(text.as_bytes(), Dialect::STANDARD, &mut Room::default()).to_vec()
    }

    #[test]
    fn texts_that_differ_in_literals_only_share_a_digest() {
        let same = [
            ("select 1", "SELECT  /* c */ 2 -- x"),
            ("select * from t where a='x'", "select*from t where a = E'\\'y'"),
            ("select 1 where a in (1,2,3)", "select 4 where a in (5)"),
            ("(select 1)", "( select 2 )"),
            ("insert into t values (1,'a')", "INSERT INTO t VALUES(2, $$b$$)"),
            ("select a.b", "select a . b"),
            ("select A&b, e from t", "select a & B, E from t"),
        ];
        for (left, right) in same {
            assert_eq!(of(left), of(right), "{left} | {right}");
        }
    }

    #[test]
    fn texts_that_may_be_classified_apart_have_digests_of_their_own() {
        let apart = [
            ("select 1", "select '1'"),
            ("select f(1)", "select f(1,2)"),
            ("select set_config('a','b',false)", "select set_config('a','c',false)"),
            ("select \"set_config\"('a','b',false)", "select \"set_config\"('a','c',false)"),
            ("set a = 1", "set a = 2"),
            ("select 1; set a = 1", "select 1; set a = 2"),
            ("/* tiffin: primary */ select 1", "select 1"),
            ("/* tiffin: primary */ select 1", "/* tiffin: replica */ select 1"),
            ("select \"A\"", "select \"a\""),
            ("select a-b", "select a -- b"),
            ("select a - -b", "select a --b"),
            ("select ab", "select a b"),
            ("select 1 a", "select 1a b"),
            ("explain (analyze 'on') select 1", "explain (analyze 'off') select 1"),
            ("select \u{1}", "select 'a'"),
            ("select 'a", "select 'a'"),
            ("select $1", "select $2"),
            ("copy (select 1) to stdout", "copy (select 2) to stdout"),
        ];
        for (left, right) in apart {
            assert_ne!(of(left), of(right), "{left} | {right}");
        }
    }

    #[test]
    fn statements_end_at_semicolons_of_the_top_level() {
        let cases = [
            ("", 0),
            (" ; ;-- x", 0),
            ("select 1", 1),
            ("select ';'; select $$;$$", 2),
            ("create rule r as on insert to t do (select 1; select 2); select 1", 2),
            (
                "create function f() returns int begin atomic select case when true then 1 end; select 1; end; select 2",
                2,
            ),
            ("begin; select 1; end", 3),
        ];
        for (text, count) in cases {
            let tokens: Vec<Token> = Lexer::new(text.as_bytes(), true).collect();
            assert_eq!(split(text.as_bytes(), &tokens).len(), count, "{text}");
        }
    }

    #[test]
    fn words_of_writes_are_seen_at_any_depth_but_not_in_literals() {
        let cases = [
            ("select 'update', \"delete\", t.insert from t -- into", None),
            ("with a as (delete from t returning *) select * from a", Some("DELETE")),
            ("select * into t from x", Some("INTO")),
            ("select * from t for no key update", Some("a locking clause")),
            ("select (select 1 from t for key share)", Some("a locking clause")),
            ("select * from t for update", Some("UPDATE")),
            ("select substring('a' for 2)", None),
        ];
        for (text, word) in cases {
            let tokens: Vec<Token> = Lexer::new(text.as_bytes(), true).collect();
            assert_eq!(forbidden(text.as_bytes(), &tokens), word, "{text}");
        }
    }
}
