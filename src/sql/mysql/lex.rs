//! MySQL's and MariaDB's lexical rules: where literals, comments, names and operators begin and
//! end. The tokens are those of `sql/lex.rs`. It never fails; what the server would refuse, and
//! what the servers read in different ways, comes out as [`Kind::Broken`] or [`Kind::Other`].
//!
//! Executable comments (`/*! … */`, `/*!80035 … */`, on MariaDB `/*M! … */`) are code. If every
//! server that tiffin serves runs it, it is read as such. What depends on the server's version is
//! read as the caller says ([`Lexer::executing`]), who has to try it both ways.
//!
//! Source: `sql/sql_lex.cc` of MySQL 8.0 to 9.x and of MariaDB 10.6 to 11.x.

use super::super::lex::{Kind, Token};
use super::super::scan::Words;
use super::{Engine, Reading};

/// Comments for an older version than this are code on every server: MariaDB does not run those
/// between 5.7 and its own versions.
const VERSION_CERTAIN: u32 = 50_700;
/// MySQL 8.0 is the oldest that is served.
const VERSION_MYSQL_CERTAIN: u32 = 80_000;

pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    reading: Reading,
    /// Versions whose comments are read as code; `None`: no executable comment is looked into.
    executing: Option<&'a [u32]>,
    /// Inside an executable comment that is read as code.
    inside: bool,
    /// Directly behind a `.`, where digits begin a name.
    dotted: bool,
    /// Versions met on which the reading depends.
    versions: Vec<u32>,
}

const SPACE: u8 = 1;
const NAME: u8 = 2;
const DIGIT: u8 = 3;
const OPERATOR: u8 = 4;
const MARK: u8 = 5;

/// The class of each byte as the start of a token; 0 is decided in [`Lexer::next`].
static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | 0x80..=0xff => NAME,
            b'0'..=b'9' => DIGIT,
            b'(' | b')' | b',' | b';' => MARK,
            b'~' | b'!' | b'^' | b'&' | b'|' | b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>'
            | b'=' => OPERATOR,
            _ => 0,
        };
        byte += 1;
    }
    table
}

/// Each byte that a name may go on with, in lower case; 0 for all others.
static NAME_LOWER: [u8; 256] = name_lower();

const fn name_lower() -> [u8; 256] {
    let classes = classes();
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if matches!(classes[byte], NAME | DIGIT) {
            table[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    table
}

/// Operators of more than one byte, longest first.
const LONG_OPERATORS: [&[u8]; 10] =
    [b"<=>", b"->>", b"<=", b">=", b"<>", b"!=", b"<<", b">>", b"&&", b"||"];

/// What stands at `/*`.
enum Comment {
    /// Passed over, to this place.
    Blank(usize),
    /// Code begins at this place.
    Code(usize),
    /// No end, or servers do not agree where it is.
    Broken,
    /// An executable comment that is not to be looked into.
    Unread,
}

impl<'a> Lexer<'a> {
    /// A lexer that looks into no executable comment: one comes out as [`Kind::Other`].
    #[inline]
    pub fn new(text: &'a [u8], reading: Reading) -> Lexer<'a> {
        let (executing, versions) = (None, Vec::new());
        Lexer { text, at: 0, reading, executing, inside: false, dotted: false, versions }
    }

    /// A lexer that reads as code what depends on one of these versions, and as a comment what
    /// depends on another one.
    pub fn executing(text: &'a [u8], reading: Reading, versions: &'a [u32]) -> Lexer<'a> {
        Lexer { executing: Some(versions), ..Lexer::new(text, reading) }
    }

    /// The tokens, and the versions on which they depend.
    pub fn read(mut self) -> (Vec<Token>, Vec<u32>) {
        let tokens = self.by_ref().collect();
        (tokens, self.versions)
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn class(&self, at: usize) -> u8 {
        self.text.get(at).map_or(0, |byte| CLASS[*byte as usize])
    }

    /// Passes over white space and comments; false if they have no end, with `at` unmoved, or at
    /// a comment that is not to be looked into.
    #[inline]
    fn skip_blank(&mut self) -> bool {
        loop {
            match self.byte(0) {
                byte if CLASS[byte as usize] == SPACE => self.at += 1,
                b'#' => match line_end(self.text, self.at) {
                    Some(end) => self.at = end,
                    None => return false,
                },
                b'-' if self.byte(1) == b'-' && self.starts_line_comment() => {
                    match line_end(self.text, self.at) {
                        Some(end) => self.at = end,
                        None => return false,
                    }
                }
                b'/' if self.byte(1) == b'*' => match self.comment() {
                    Comment::Blank(end) => self.at = end,
                    Comment::Code(start) => {
                        self.at = start;
                        self.inside = true;
                    }
                    Comment::Broken | Comment::Unread => return false,
                },
                b'*' if self.inside && self.byte(1) == b'/' => {
                    self.at += 2;
                    self.inside = false;
                }
                _ => return true,
            }
            self.dotted = false;
        }
    }

    /// `--` begins a comment only before white space, a control character or the end.
    fn starts_line_comment(&self) -> bool {
        self.text.get(self.at + 2).is_none_or(|byte| *byte <= b' ' || *byte == 0x7f)
    }

    fn comment(&mut self) -> Comment {
        // The servers end nested comments at different places.
        if self.inside {
            return Comment::Broken;
        }
        let mariadb = self.reading.engine == Engine::MariaDb;
        let start = match (self.byte(2), self.byte(3)) {
            (b'!', _) => self.at + 3,
            (b'M', b'!') if mariadb => self.at + 4,
            _ => return plain_end(self.text, self.at + 2).map_or(Comment::Broken, Comment::Blank),
        };
        let Some(executing) = self.executing else { return Comment::Unread };
        let rest = self.text.get(start..).unwrap_or_default();
        let digits = rest.iter().take(8).take_while(|byte| byte.is_ascii_digit()).count();
        let version = match digits {
            0..=4 => return Comment::Code(start),
            5 => number(&rest[..5]),
            6 if mariadb => number(&rest[..6]),
            _ => return Comment::Broken,
        };
        let code = Comment::Code(start + digits);
        if version < VERSION_CERTAIN || !mariadb && version <= VERSION_MYSQL_CERTAIN {
            return code;
        }
        if !self.versions.contains(&version) {
            self.versions.push(version);
        }
        if executing.contains(&version) {
            return code;
        }
        let Some(end) = plain_end(self.text, start) else { return Comment::Broken };
        // Servers look for comments in a comment that they do not run.
        match self.text[start..end].windows(2).any(|pair| pair == b"/*") {
            true => Comment::Broken,
            false => Comment::Blank(end),
        }
    }

    fn name_end(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        at + rest.iter().position(|byte| NAME_LOWER[*byte as usize] == 0).unwrap_or(rest.len())
    }

    /// The place behind the closing quote of what is opened at `open`.
    fn quote_end(&self, open: usize, backslash: bool) -> Option<usize> {
        let quote = *self.text.get(open)?;
        let mut at = open + 1;
        loop {
            let byte = *self.text.get(at)?;
            at += 1;
            if byte == quote {
                if self.text.get(at) != Some(&quote) {
                    return Some(at);
                }
                at += 1;
            } else if byte == b'\\' && backslash {
                at += 1;
            }
        }
    }

    fn quoted(&mut self, open: usize, kind: Kind) -> Kind {
        let backslash = kind != Kind::Quoted && !self.reading.no_backslash_escapes;
        match self.quote_end(open, backslash) {
            Some(end) => {
                self.at = end;
                kind
            }
            None => {
                self.at = self.text.len();
                Kind::Broken
            }
        }
    }

    /// A word, or the literal that it introduces (N'', X'', B'').
    fn word(&mut self) -> Kind {
        if self.byte(1) == b'\'' && !self.dotted {
            match self.byte(0) {
                b'n' | b'N' => return self.quoted(self.at + 1, Kind::Text),
                b'x' | b'X' | b'b' | b'B' => return self.bits(self.at + 1),
                _ => {}
            }
        }
        self.at = self.name_end(self.at);
        Kind::Word
    }

    /// The inside of `x'…'` and `b'…'`, which has no escapes.
    fn bits(&mut self, open: usize) -> Kind {
        let rest = self.text.get(open + 1..).unwrap_or_default();
        match rest.iter().position(|byte| *byte == b'\'') {
            Some(length) => {
                self.at = open + length + 2;
                Kind::Text
            }
            None => {
                self.at = self.text.len();
                Kind::Broken
            }
        }
    }

    /// What begins with a digit: a number, or a name.
    fn number(&mut self) -> Kind {
        let start = self.at;
        let end = self.name_end(start);
        let word = &self.text[start..end];
        let all = |digits: &[u8], of: fn(&u8) -> bool| !digits.is_empty() && digits.iter().all(of);
        let digits = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let plain = match word {
            // Only in lower case.
            [b'0', b'x', rest @ ..] => all(rest, u8::is_ascii_hexdigit),
            [b'0', b'b', rest @ ..] => all(rest, |byte| matches!(byte, b'0' | b'1')),
            _ => digits == word.len(),
        };
        self.at = end;
        if plain && digits < word.len() {
            return Kind::Number;
        }
        // A fraction, then an exponent.
        let mut at = start + digits;
        if digits == word.len() && self.text.get(at) == Some(&b'.') {
            at += 1;
            while self.class(at) == DIGIT {
                at += 1;
            }
        }
        if let Some(end) = self.exponent(at) {
            at = end;
        }
        match (plain, at > start + digits) {
            (_, true) => {
                self.at = at;
                Kind::Number
            }
            (true, false) => Kind::Number,
            (false, false) => Kind::Word,
        }
    }

    /// The end of the exponent at `at`.
    fn exponent(&self, at: usize) -> Option<usize> {
        if !matches!(self.text.get(at), Some(b'e' | b'E')) {
            return None;
        }
        let sign = usize::from(matches!(self.text.get(at + 1), Some(b'+' | b'-')));
        let mut end = at + 1 + sign;
        if self.class(end) != DIGIT {
            return None;
        }
        while self.class(end) == DIGIT {
            end += 1;
        }
        Some(end)
    }

    /// `@name`, `@'name'`, `@@name`, `@@scope.name`.
    fn variable(&mut self) -> Kind {
        let system = self.byte(1) == b'@';
        let start = self.at + if system { 2 } else { 1 };
        match self.text.get(start) {
            Some(b'\'' | b'"') if !system => return self.quoted(start, Kind::UserVariable),
            // A backslash is nothing special in such a name.
            Some(b'`') => {
                let Some(end) = self.quote_end(start, false) else {
                    self.at = self.text.len();
                    return Kind::Broken;
                };
                self.at = end;
            }
            _ => {
                self.at = self.dotted_end(start);
                if system && self.byte(0) == b'`' {
                    self.at = self.quote_end(self.at, false).unwrap_or(self.text.len());
                }
            }
        }
        match (self.at > start, system) {
            (true, true) => Kind::SystemVariable,
            (true, false) => Kind::UserVariable,
            (false, _) => {
                self.at = start;
                Kind::Other
            }
        }
    }

    /// The end of a name in which dots may stand.
    fn dotted_end(&self, start: usize) -> usize {
        let mut at = start;
        loop {
            let end = self.name_end(at);
            if self.text.get(end) != Some(&b'.') {
                return end;
            }
            at = end + 1;
        }
    }

    fn operator(&mut self) -> Kind {
        let rest = &self.text[self.at..];
        let long = LONG_OPERATORS.iter().find(|operator| rest.starts_with(operator));
        let arrow = rest.starts_with(b"->").then_some(2);
        self.at += long.map(|operator| operator.len()).or(arrow).unwrap_or(1);
        Kind::Operator
    }

    fn broken(&mut self) -> Kind {
        let unread = self.executing.is_none() && self.byte(0) == b'/';
        self.at = self.text.len();
        if unread { Kind::Other } else { Kind::Broken }
    }

    fn other(&mut self, first: u8) -> Kind {
        match first {
            b'\'' => self.quoted(self.at, Kind::Text),
            b'"' if self.reading.ansi_quotes => self.quoted(self.at, Kind::Quoted),
            b'"' => self.quoted(self.at, Kind::Text),
            b'`' => self.quoted(self.at, Kind::Quoted),
            b'@' => self.variable(),
            b'?' => {
                self.at += 1;
                Kind::Parameter
            }
            b'.' if self.class(self.at + 1) == DIGIT && !self.dotted => {
                self.at += 1;
                while self.class(self.at) == DIGIT {
                    self.at += 1;
                }
                self.at = self.exponent(self.at).unwrap_or(self.at);
                Kind::Number
            }
            b'.' => {
                self.at += 1;
                Kind::Mark
            }
            b':' if self.byte(1) == b'=' => {
                self.at += 2;
                Kind::Mark
            }
            _ => {
                self.at += 1;
                Kind::Other
            }
        }
    }
}

impl Words for Lexer<'_> {
    #[inline]
    fn at_plain_word(&mut self) -> bool {
        self.skip_blank() && CLASS[self.byte(0) as usize] == NAME && self.byte(1) != b'\''
    }

    #[inline]
    fn lower_word(&mut self, out: &mut [u8]) -> usize {
        let mut count = 0;
        for (to, from) in out.iter_mut().zip(&self.text[self.at..]) {
            let lower = NAME_LOWER[*from as usize];
            if lower == 0 {
                break;
            }
            *to = lower;
            count += 1;
        }
        self.at += count;
        self.dotted = true;
        count
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let blank = self.skip_blank();
        let start = self.at;
        if !blank {
            let kind = self.broken();
            return Some(Token { kind, start, end: self.at });
        }
        let Some(first) = self.text.get(start).copied() else {
            // The end of an executable comment is missing.
            return std::mem::take(&mut self.inside).then_some(Token {
                kind: Kind::Broken,
                start,
                end: start,
            });
        };
        let kind = match CLASS[first as usize] {
            NAME => self.word(),
            DIGIT if self.dotted => self.word(),
            DIGIT => self.number(),
            MARK => {
                self.at += 1;
                Kind::Mark
            }
            OPERATOR => self.operator(),
            _ => self.other(first),
        };
        // Behind a name `.5` is a dot and a name, behind a dot `5` is a name.
        self.dotted =
            matches!(kind, Kind::Word | Kind::Quoted) || kind == Kind::Mark && first == b'.';
        Some(Token { kind, start, end: self.at })
    }
}

fn number(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'))
}

/// The end of the line comment at `at`. A NUL in it ends it on the server, and the statement
/// fails: nobody here says where it ends.
fn line_end(text: &[u8], at: usize) -> Option<usize> {
    let rest = text.get(at..).unwrap_or_default();
    match rest.iter().position(|byte| matches!(byte, b'\n' | 0)) {
        Some(place) if rest[place] == 0 => None,
        Some(place) => Some(at + place),
        None => Some(text.len()),
    }
}

/// The place behind the first `*/` from `at` on.
fn plain_end(text: &[u8], at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    rest.windows(2).position(|pair| pair == b"*/").map(|place| at + place + 2)
}
