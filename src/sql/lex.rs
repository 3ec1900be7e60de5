//! PostgreSQL's lexical rules: where literals, comments, names and operators begin and end.
//!
//! The only lexer of this module: the digest, the recognisers and the parser all work on its
//! tokens, so that no two of them can disagree about where a string ends. It never fails; what
//! PostgreSQL would refuse comes out as [`Kind::Broken`] or [`Kind::Other`]. Iterative, one pass,
//! no allocation. Source: `src/backend/parser/scan.l` of PostgreSQL 13 to 18.
//!
//! The text is taken to be in an encoding in which bytes below 0x80 are always ASCII. The client
//! encodings for which that does not hold have to be kept away by the caller: ask
//! [`is_readable_encoding`].

use super::scan::Words;

/// Whether texts in this `client_encoding` can be classified. In the others a byte that looks
/// like a backslash may be half of a character, so that nobody here can tell where a string ends:
/// their texts are to be treated as unknown. The name is compared as the server does it, letters
/// and digits only. Source: `src/common/encnames.c`, the encodings above `PG_ENCODING_BE_LAST`.
pub fn is_readable_encoding(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    !matches!(
        plain.as_str(),
        "sjis"
            | "mskanji"
            | "shiftjis"
            | "win932"
            | "windows932"
            | "shiftjis2004"
            | "big5"
            | "win950"
            | "windows950"
            | "gbk"
            | "win936"
            | "windows936"
            | "gb18030"
            | "uhc"
            | "win949"
            | "windows949"
            | "johab"
    )
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An unquoted name or keyword.
    Word,
    /// `"name"` or MySQL's `` `name` ``, the quotes included.
    Quoted,
    /// `U&"name"`; nobody here looks through its escapes.
    UnicodeQuoted,
    /// Any string literal: '..', E'..', U&'..', B'..', X'..', N'..', $tag$..$tag$.
    Text,
    Number,
    /// `$1`, or MySQL's `?`.
    Parameter,
    /// MySQL's `@name`, quotes included.
    UserVariable,
    /// MySQL's `@@name` and `@@scope.name`.
    SystemVariable,
    /// One of `( ) [ ] , ; . :` or `::`, `:=`.
    Mark,
    Operator,
    /// A literal, quoted name or comment without an end.
    Broken,
    /// A byte that no token starts with.
    Other,
}

/// A token and its place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.end
    }

    pub fn bytes<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// Tokens of a text, in order. White space and comments are passed over.
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    /// `standard_conforming_strings`: whether a backslash in '..' is only a backslash.
    standard_strings: bool,
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
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => NAME,
            b'0'..=b'9' => DIGIT,
            b'(' | b')' | b'[' | b']' | b',' | b';' => MARK,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*'
            | b'/' | b'%' | b'<' | b'>' | b'=' => OPERATOR,
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
        if matches!(classes[byte], NAME | DIGIT) || byte as u8 == b'$' {
            table[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    table
}

impl<'a> Lexer<'a> {
    #[inline]
    pub fn new(text: &'a [u8], standard_strings: bool) -> Lexer<'a> {
        Lexer { text, at: 0, standard_strings }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn class(&self, at: usize) -> u8 {
        self.text.get(at).map_or(0, |byte| CLASS[*byte as usize])
    }

    /// Passes over white space and comments; false at a comment without an end.
    #[inline]
    fn skip_blank(&mut self) -> bool {
        loop {
            match self.peek(0) {
                byte if CLASS[byte as usize] == SPACE => self.at += 1,
                b'-' if self.peek(1) == b'-' => self.at = line_end(self.text, self.at),
                b'/' if self.peek(1) == b'*' => match comment_end(self.text, self.at) {
                    Some(end) => self.at = end,
                    None => return false,
                },
                _ => return true,
            }
        }
    }

    fn name_end(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        at + rest.iter().position(|byte| NAME_LOWER[*byte as usize] == 0).unwrap_or(rest.len())
    }

    fn digits_end(&self, mut at: usize) -> usize {
        while self.text.get(at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'_') {
            at += 1;
        }
        at
    }

    /// A number from `self.at`; junk behind it starts the next token.
    fn number_end(&self) -> usize {
        let mut at = self.digits_end(self.at);
        // `1..2` is two numbers and a mark.
        if self.text.get(at) == Some(&b'.') && self.text.get(at + 1) != Some(&b'.') {
            at = self.digits_end(at + 1);
        }
        if matches!(self.text.get(at), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.text.get(at + 1), Some(b'+' | b'-')));
            if self.class(at + 1 + sign) == DIGIT {
                at = self.digits_end(at + 1 + sign);
            }
        }
        at
    }

    /// The place behind the closing quote of a literal whose opening quote is at `open`.
    fn quote_end(&self, open: usize, quote: u8, backslash: bool) -> Option<usize> {
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

    /// A string with the parts that follow it on later lines: `'a' \n 'b'` is one literal.
    fn string(&mut self, open: usize, backslash: bool) -> Kind {
        let mut open = open;
        loop {
            let Some(end) = self.quote_end(open, b'\'', backslash) else {
                self.at = self.text.len();
                return Kind::Broken;
            };
            self.at = end;
            match continuation(self.text, end) {
                Some(next) => open = next,
                None => return Kind::Text,
            }
        }
    }

    /// A word, or the literal that it introduces (E'', B'', X'', N'', U&'', U&"").
    fn word(&mut self) -> Kind {
        let quote = self.peek(1);
        if quote == b'\'' {
            match self.peek(0) {
                b'e' | b'E' => return self.string(self.at + 1, true),
                b'b' | b'B' | b'x' | b'X' => return self.string(self.at + 1, false),
                b'n' | b'N' => return self.string(self.at + 1, !self.standard_strings),
                _ => {}
            }
        }
        if quote == b'&' && matches!(self.peek(0), b'u' | b'U') {
            match self.peek(2) {
                b'\'' => return self.string(self.at + 2, false),
                b'"' => return self.quoted(self.at + 2, Kind::UnicodeQuoted),
                _ => {}
            }
        }
        self.at = self.name_end(self.at);
        Kind::Word
    }

    fn quoted(&mut self, open: usize, kind: Kind) -> Kind {
        match self.quote_end(open, b'"', false) {
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

    /// `$1`, `$tag$ … $tag$`, or a lonely dollar sign.
    fn dollar(&mut self) -> Kind {
        if self.peek(1).is_ascii_digit() {
            self.at += 1;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
            return Kind::Parameter;
        }
        let mut end = self.at + 1;
        while matches!(self.class(end), NAME | DIGIT) {
            end += 1;
        }
        if self.text.get(end) != Some(&b'$') {
            self.at += 1;
            return Kind::Other;
        }
        let tag = &self.text[self.at..=end];
        match find(&self.text[end + 1..], tag) {
            Some(place) => {
                self.at = end + 1 + place + tag.len();
                Kind::Text
            }
            None => {
                self.at = self.text.len();
                Kind::Broken
            }
        }
    }

    /// The longest operator that PostgreSQL would read here.
    fn operator(&mut self) {
        let start = self.at;
        let mut end = start;
        while self.class(end) == OPERATOR {
            let pair = (self.text[end], self.text.get(end + 1).copied().unwrap_or(0));
            if end > start && matches!(pair, (b'-', b'-') | (b'/', b'*')) {
                break;
            }
            end += 1;
        }
        let special = |byte: &u8| {
            matches!(byte, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%')
        };
        // A trailing sign belongs to what follows, unless a character says otherwise.
        if !self.text[start..end].iter().any(special) {
            while end > start + 1 && matches!(self.text[end - 1], b'+' | b'-') {
                end -= 1;
            }
        }
        self.at = end;
    }

    fn mark(&mut self) -> Kind {
        let pair = matches!((self.peek(0), self.peek(1)), (b':', b':' | b'=') | (b'.', b'.'));
        self.at += if pair { 2 } else { 1 };
        Kind::Mark
    }
}

impl Words for Lexer<'_> {
    #[inline]
    fn at_plain_word(&mut self) -> bool {
        self.skip_blank()
            && CLASS[self.peek(0) as usize] == NAME
            && !matches!(self.peek(1), b'\'' | b'&')
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
        count
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        if !self.skip_blank() {
            let start = self.at;
            self.at = self.text.len();
            return Some(Token { kind: Kind::Broken, start, end: self.at });
        }
        let start = self.at;
        let first = *self.text.get(start)?;
        let kind = match CLASS[first as usize] {
            NAME => self.word(),
            DIGIT => {
                self.at = self.number_end();
                Kind::Number
            }
            MARK => {
                self.at += 1;
                Kind::Mark
            }
            OPERATOR => {
                self.operator();
                Kind::Operator
            }
            _ => match first {
                b'\'' => self.string(start, !self.standard_strings),
                b'"' => self.quoted(start, Kind::Quoted),
                b'$' => self.dollar(),
                b'.' if self.class(start + 1) == DIGIT => {
                    self.at = self.number_end();
                    Kind::Number
                }
                b'.' | b':' => self.mark(),
                _ => {
                    self.at += 1;
                    Kind::Other
                }
            },
        };
        Some(Token { kind, start, end: self.at })
    }
}

/// The end of the line comment at `at`, its line break excluded.
pub fn line_end(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len())
}

/// The place behind the block comment at `at`; block comments nest.
pub fn comment_end(text: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = at;
    loop {
        match (text.get(at)?, text.get(at + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

/// The opening quote of the part that continues a string which ended before `at`: there must be
/// a line break between the two, and nothing else but white space and line comments.
fn continuation(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    let mut broken = false;
    loop {
        match text.get(at)? {
            b'\n' | b'\r' => broken = true,
            byte if CLASS[*byte as usize] == SPACE => {}
            b'-' if text.get(at + 1) == Some(&b'-') => {
                at = line_end(text, at);
                continue;
            }
            b'\'' if broken => return Some(at),
            _ => return None,
        }
        at += 1;
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let first = *part.first()?;
    let mut from = 0;
    while let Some(place) = text.get(from..)?.iter().position(|byte| *byte == first) {
        let at = from + place;
        if text[at..].starts_with(part) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str, standard: bool) -> Vec<(Kind, &str)> {
        Lexer::new(text.as_bytes(), standard)
            .map(|token| (token.kind, &text[token.start..token.end]))
            .collect()
    }

    #[test]
    fn encodings_that_hide_ascii_in_characters_are_told_apart() {
        for name in ["UTF8", "utf-8", "LATIN1", "SQL_ASCII", "EUC_JP", "WIN1252"] {
            assert!(is_readable_encoding(name), "{name}");
        }
        for name in ["SJIS", "Shift_JIS_2004", "big5", "GBK", "GB18030", "UHC", "JOHAB"] {
            assert!(!is_readable_encoding(name), "{name}");
        }
    }

    #[test]
    fn tokens_end_where_postgresql_ends_them() {
        use Kind::*;
        let cases: &[(&str, &[(Kind, &str)])] = &[
            ("a''b", &[(Word, "a"), (Text, "''"), (Word, "b")]),
            ("'a''b'c", &[(Text, "'a''b'"), (Word, "c")]),
            (r"'a\'b", &[(Text, r"'a\'"), (Word, "b")]),
            (r"E'a\'b'", &[(Text, r"E'a\'b'")]),
            (r"b'01'x'ff'n'x'", &[(Text, "b'01'"), (Text, "x'ff'"), (Text, "n'x'")]),
            (r#"U&'\0061' U&"\0061""#, &[(Text, r"U&'\0061'"), (UnicodeQuoted, r#"U&"\0061""#)]),
            ("'a'\n -- c\n 'b'", &[(Text, "'a'\n -- c\n 'b'")]),
            ("'a' 'b'", &[(Text, "'a'"), (Text, "'b'")]),
            (r#""a""b""#, &[(Quoted, r#""a""b""#)]),
            ("$$a'b$$ $x$ $$ $x$", &[(Text, "$$a'b$$"), (Text, "$x$ $$ $x$")]),
            ("a$$b$$", &[(Word, "a$$b$$")]),
            ("$1$2", &[(Parameter, "$1"), (Parameter, "$2")]),
            ("/* /* */ ' */a--'\nb", &[(Word, "a"), (Word, "b")]),
            ("a/* ", &[(Word, "a"), (Broken, "/* ")]),
            ("'a", &[(Broken, "'a")]),
            ("$a$ b", &[(Broken, "$a$ b")]),
            (
                "1.5e-3 .5 1..2",
                &[(Number, "1.5e-3"), (Number, ".5"), (Number, "1"), (Mark, ".."), (Number, "2")],
            ),
            ("1e", &[(Number, "1"), (Word, "e")]),
            ("a*-1", &[(Word, "a"), (Operator, "*"), (Operator, "-"), (Number, "1")]),
            ("a@-1", &[(Word, "a"), (Operator, "@-"), (Number, "1")]),
            ("a+--b\n+c", &[(Word, "a"), (Operator, "+"), (Operator, "+"), (Word, "c")]),
            ("a*/*x*/b", &[(Word, "a"), (Operator, "*"), (Word, "b")]),
            ("a::b:=c", &[(Word, "a"), (Mark, "::"), (Word, "b"), (Mark, ":="), (Word, "c")]),
            ("é{", &[(Word, "é"), (Other, "{")]),
        ];
        for (text, expected) in cases {
            assert_eq!(tokens(text, true), *expected, "{text}");
        }
        assert_eq!(tokens(r"'a\'b'", false), [(Text, r"'a\'b'")]);
    }
}
