//! The texts that one worker classified last, to be known again without reading them.
//!
//! A text is known if it equals a remembered one byte by byte, but for literals of the plainest
//! kinds (digits; quotes around anything but quotes and backslashes): the same tokens, so the same
//! digest and the same class. Any other text takes the way through its digest. No allocation once
//! the memory has grown.

use super::cache::Circumstances;
use super::lex::{Kind, Token};
use super::statement::Statement;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;

/// Places for texts; those that begin alike share one.
const PLACES: usize = 512;
/// Longer texts are not remembered: with the places, this bounds the memory to 2 MiB.
const TEXT_BYTES_MAX: usize = 4096;
/// What tells the texts of one application apart stands this far in front.
const PREFIX_BYTES: usize = 48;

struct Known {
    circumstances: Circumstances,
    text: Vec<u8>,
    /// Where the text may differ.
    gaps: Vec<Range<usize>>,
    statement: Arc<Statement>,
    /// Found since another text wanted its place.
    used: bool,
}

pub struct Recent {
    seed: foldhash::fast::RandomState,
    places: Box<[Option<Known>]>,
}

impl Recent {
    pub fn new() -> Recent {
        let places = (0..PLACES).map(|_| None).collect();
        Recent { seed: foldhash::fast::RandomState::default(), places }
    }

    /// What the text does, if it is known.
    #[inline]
    pub fn find(&mut self, text: &[u8], circumstances: Circumstances) -> Option<&Arc<Statement>> {
        let place = self.place(text);
        let known = self.places.get_mut(place)?.as_mut()?;
        if known.circumstances != circumstances || !known.matches(text) {
            return None;
        }
        known.used = true;
        Some(&known.statement)
    }

    /// Remembers a text with its literals, unless its place is taken by one that is in use.
    pub fn keep(
        &mut self,
        text: &[u8],
        literals: &[Token],
        circumstances: Circumstances,
        statement: &Arc<Statement>,
    ) {
        if text.len() > TEXT_BYTES_MAX {
            return;
        }
        let place = self.place(text);
        let Some(place) = self.places.get_mut(place) else { return };
        if let Some(known) = place
            && std::mem::take(&mut known.used)
        {
            return;
        }
        let known = place.get_or_insert_with(|| Known {
            circumstances,
            text: Vec::new(),
            gaps: Vec::new(),
            statement: statement.clone(),
            used: false,
        });
        known.circumstances = circumstances;
        known.statement = statement.clone();
        known.text.clear();
        known.text.extend_from_slice(text);
        known.gaps.clear();
        known.gaps.extend(literals.iter().filter(|token| is_plain(text, token)).map(Token::range));
    }

    fn place(&self, text: &[u8]) -> usize {
        let mut hasher = self.seed.build_hasher();
        hasher.write(&text[..prefix(text)]);
        hasher.finish() as usize % PLACES
    }
}

/// How much of a text's start stands before its first literal, more or less: a digit or a quote
/// ends it.
#[inline]
fn prefix(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let text = &text[..text.len().min(PREFIX_BYTES)];
    for (number, eight) in text.as_chunks::<8>().0.iter().enumerate() {
        // Eight bytes at a time; of those that are found the first is right.
        let eight = u64::from_le_bytes(*eight);
        let digits = eight ^ (ONES * u64::from(b'0'));
        let quotes = eight ^ (ONES * u64::from(b'\''));
        let found = digits.wrapping_sub(ONES * 10) & !digits | quotes.wrapping_sub(ONES) & !quotes;
        if found & HIGH != 0 {
            return number * 8 + (found & HIGH).trailing_zeros() as usize / 8;
        }
    }
    text.len() / 8 * 8
}

impl Known {
    #[inline]
    fn matches(&self, text: &[u8]) -> bool {
        let (mut at, mut from) = (0, 0);
        for gap in &self.gaps {
            let Some(rest) = text.get(at..) else { return false };
            let fixed = &self.text[from..gap.start];
            if !rest.starts_with(fixed) {
                return false;
            }
            let Some(length) = plain_literal(&rest[fixed.len()..], self.text[gap.start]) else {
                return false;
            };
            at += fixed.len() + length;
            from = gap.end;
        }
        text.get(at..).is_some_and(|rest| *rest == self.text[from..])
    }
}

/// Whether another literal may stand in this one's place.
fn is_plain(text: &[u8], token: &Token) -> bool {
    let bytes = token.bytes(text);
    let Some(&first) = bytes.first() else { return false };
    let is_of_kind = match token.kind {
        Kind::Number => first.is_ascii_digit(),
        Kind::Text => first == b'\'',
        _ => false,
    };
    is_of_kind && plain_literal(bytes, first) == Some(bytes.len())
}

/// The length of the literal at the start of `text`, if it is a plain one of the kind that begins
/// with `first`.
#[inline]
fn plain_literal(text: &[u8], first: u8) -> Option<usize> {
    if first != b'\'' {
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        return (digits > 0).then_some(digits);
    }
    let inside = text.strip_prefix(b"'")?;
    let end = inside.iter().position(|byte| matches!(byte, b'\'' | b'\\'))?;
    let is_end = inside[end] == b'\'' && inside.get(end + 1) != Some(&b'\'');
    is_end.then_some(end + 2)
}

#[cfg(test)]
mod tests {
    use super::super::dialect::Dialect;
    use super::super::scan::{Room, digest};
    use super::*;
    use crate::sql::mysql::{Engine, Reading};
    use crate::sql::{Catalog, classify};
    use proptest::prelude::*;

    /// Whether the one is known by the other; panics if they are and have not the same digest.
    fn knows(one: &str, other: &str, dialect: Dialect) -> bool {
        let circumstances = Circumstances { catalog: 1, dialect };
        let statement = Arc::new(classify(b"select 1", dialect, &Catalog::empty(), 100));
        let (mut recent, mut room) = (Recent::new(), Room::default());
        let own = digest(one.as_bytes(), dialect, &mut room).to_vec();
        let Some(literals) = room.left_out() else { return false };
        recent.keep(one.as_bytes(), literals, circumstances, &statement);
        let found = recent.find(other.as_bytes(), circumstances).is_some();
        if found {
            assert_eq!(own, digest(other.as_bytes(), dialect, &mut room), "{one} | {other}");
        }
        found
    }

    #[test]
    fn texts_are_known_by_what_stands_between_their_literals() {
        let table = [
            ("select 1", "select 22", true),
            (
                "select a from t where b = 'x' and c = 1",
                "select a from t where b = '' and c = 22",
                true,
            ),
            ("select 1", "select  1", false),
            ("select 1", "SELECT 1", false),
            ("select 1", "select '1'", false),
            ("select 1", "select 1.5", false),
            ("select 1", "select 1e5", false),
            ("select 1", "select", false),
            ("select 1", "select 1 ", false),
            ("select 'a'", "select 'a''b'", false),
            ("select 'a'", r"select 'a\'", false),
            ("select 'a'", "select 'a", false),
            ("select 'a'", "select 'a'\n'b'", false),
            ("select E'a'", "select E'b'", false),
            ("select E'a'", "select E'a'", true),
            ("select 1.5", "select 1.5", true),
            ("select 1.5", "select 2.5", false),
            ("select a in (1, 2)", "select a in (3, 4)", true),
            ("select 'a' -- 'c'", "select 'b' -- 'c'", true),
            ("select 'a' -- 'c'", "select 'a' -- 'd'", false),
            ("set a = 1", "set a = 1", false),
            ("select set_config('a', 'b', false)", "select set_config('a', 'b', false)", false),
        ];
        for (one, other, expected) in table {
            assert_eq!(knows(one, other, Dialect::STANDARD), expected, "{one} | {other}");
        }
    }

    #[test]
    fn a_place_is_chosen_by_what_stands_before_literals() {
        for (text, bytes) in [
            ("", 0),
            ("select a", 8),
            ("select a from", 8),
            ("select 1", 7),
            ("'", 0),
            ("select a, b from t where c = 'x'", 29),
            ("select a, b from t where c/:&(=9", 31),
            ("select \u{b9}\u{a7}é, b from t where", 24),
        ] {
            assert_eq!(prefix(text.as_bytes()), bytes, "{text}");
        }
        assert_eq!(prefix(&[b'x'; 100]), PREFIX_BYTES);
    }

    #[test]
    fn a_text_in_use_keeps_its_place_once() {
        let circumstances = Circumstances { catalog: 1, dialect: Dialect::STANDARD };
        let statement = Arc::new(classify(b"select 1", Dialect::STANDARD, &Catalog::empty(), 100));
        let mut recent = Recent::new();
        recent.keep(b"select 1 + a", &[], circumstances, &statement);
        assert!(recent.find(b"select 1 + a", circumstances).is_some());
        let other = Circumstances { catalog: 2, ..circumstances };
        assert!(recent.find(b"select 1 + a", other).is_none());
        for expected in [false, true] {
            recent.keep(b"select 1 + b", &[], circumstances, &statement);
            assert_eq!(recent.find(b"select 1 + b", circumstances).is_some(), expected);
        }
    }

    /// Pieces of which texts are made that are nearly alike.
    const PIECES: &[&str] = &[
        "select ",
        "insert ",
        "where a in (",
        ")",
        ",",
        " ",
        "1",
        "23",
        "0x1f",
        "1.5",
        ".5",
        "e5",
        "..",
        "'a'",
        "''",
        "'it''s'",
        r"'\''",
        r"\",
        "'",
        "E'x'",
        "x'1f'",
        "N'x'",
        "\n",
        "-- c\n",
        "# d\n",
        "/* ' */",
        "/*! 5 */",
        "/*",
        "*/",
        "$1",
        "$$",
        "\"q\"",
        "`b`",
        "a",
        "t1",
        "_",
        "@v",
        ":=",
        ";",
        "é",
    ];

    proptest! {
        #[test]
        fn what_is_known_has_the_same_digest(
            pieces in prop::collection::vec(prop::sample::select(PIECES), 1..12),
            changes in prop::collection::vec((0usize..12, prop::sample::select(PIECES)), 0..3),
        ) {
            let one = format!("select {}", pieces.concat());
            let mut other = pieces;
            for (at, piece) in changes {
                if let Some(place) = other.get_mut(at) {
                    *place = piece;
                }
            }
            let other = format!("select {}", other.concat());
            let plain = Reading::new(Engine::MySql);
            for dialect in [
                Dialect::STANDARD,
                Dialect::Postgres { standard_strings: false },
                Dialect::MySql(plain),
                Dialect::MySql(plain.with_sql_mode("ANSI_QUOTES,NO_BACKSLASH_ESCAPES")),
            ] {
                knows(&one, &other, dialect);
            }
        }
    }
}
