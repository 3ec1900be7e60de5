//! A place in the tokens of one statement, for the recognisers, and what they return.

use super::calls;
use super::found::Found;
use super::lex::{Kind, Token};
use super::statement::Effect;
use std::sync::Arc;

/// The class of one statement of a text.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub effect: Effect,
    pub code: &'static str,
    pub reason: Arc<str>,
    pub found: Found,
    pub is_ddl: bool,
}

impl Part {
    pub fn new(effect: Effect, code: &'static str, reason: impl Into<Arc<str>>) -> Part {
        Part { effect, code, reason: reason.into(), found: Found::default(), is_ddl: false }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub text: &'a [u8],
    pub tokens: &'a [Token],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a [u8], tokens: &'a [Token]) -> Cursor<'a> {
        Cursor { text, tokens, at: 0 }
    }

    /// The unquoted word `ahead` of here, in lower case; empty for anything else.
    pub fn word(&self, ahead: usize) -> String {
        match self.tokens.get(self.at + ahead) {
            Some(token) if token.kind == Kind::Word => {
                String::from_utf8_lossy(token.bytes(self.text)).to_ascii_lowercase()
            }
            _ => String::new(),
        }
    }

    /// The mark or operator here.
    pub fn is_mark(&self, mark: &str) -> bool {
        self.tokens.get(self.at).is_some_and(|token| {
            matches!(token.kind, Kind::Mark | Kind::Operator)
                && token.bytes(self.text) == mark.as_bytes()
        })
    }

    /// Takes the word if it is here.
    pub fn take(&mut self, word: &str) -> bool {
        let found = self.word(0) == word;
        self.at += usize::from(found);
        found
    }

    pub fn take_any(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.take(word))
    }

    /// Takes all of the words in a row, or none.
    pub fn take_all(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(ahead, word)| self.word(ahead) == *word);
        self.at += if found { words.len() } else { 0 };
        found
    }

    pub fn take_mark(&mut self, mark: &str) -> bool {
        let found = self.is_mark(mark);
        self.at += usize::from(found);
        found
    }

    /// Takes a name, quoted or not, as the server folds it.
    pub fn name(&mut self) -> Option<Arc<str>> {
        let name = calls::name_of(self.text, self.tokens.get(self.at)?)?;
        self.at += 1;
        Some(Arc::from(name))
    }

    /// Takes a name with dots.
    pub fn dotted_name(&mut self) -> Option<Arc<str>> {
        let mut name = self.name()?.to_string();
        while self.take_mark(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Some(Arc::from(name))
    }

    /// Takes a string literal without escapes.
    pub fn string(&mut self) -> Option<String> {
        let token = self.tokens.get(self.at).filter(|token| token.kind == Kind::Text)?;
        let value = calls::string_value(token.bytes(self.text))?;
        self.at += 1;
        Some(value)
    }

    pub fn at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    pub fn rest(&self) -> &'a [Token] {
        self.tokens.get(self.at..).unwrap_or_default()
    }

    /// The text of the tokens from here to the end, as it stands; takes them. `None` if there are
    /// none, or if it is not UTF-8 and so cannot be kept.
    pub fn rest_text(&mut self) -> Option<Arc<str>> {
        let (first, last) = (self.tokens.get(self.at)?, self.tokens.last()?);
        let text = std::str::from_utf8(self.text.get(first.start..last.end)?).ok()?;
        self.at = self.tokens.len();
        Some(Arc::from(text))
    }

    /// Passes over a parenthesis and all in it.
    pub fn skip_parenthesis(&mut self) -> bool {
        if !self.is_mark("(") {
            return false;
        }
        let mut depth = 0usize;
        while !self.at_end() {
            if self.is_mark("(") {
                depth += 1;
            } else if self.is_mark(")") {
                depth -= 1;
            }
            self.at += 1;
            if depth == 0 {
                return true;
            }
        }
        false
    }
}
