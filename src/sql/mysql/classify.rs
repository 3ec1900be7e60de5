//! From a text of MySQL or MariaDB to what it does. Mirrors `sql/classify.rs`, whose parts for
//! the strictest class and for texts of several statements are used here.

use super::super::calls::fired;
use super::super::catalog::Catalog;
use super::super::classify::{SCAN_BYTES_MAX, joined, judged, not_parsed, statement_of};
use super::super::cursor::{Cursor, Part};
use super::super::found::Found;
use super::super::lex::{Kind, Token};
use super::super::parse::{lower, unquote};
use super::super::statement::{Effect, Hint, Pin, SessionEffect, Statement};
use super::super::walk;
use super::lex::Lexer;
use super::{Engine, Reading, calls, control, functions, settings, show, utility};
use std::sync::Arc;

/// Versions on which one text may depend; each of them doubles the ways to read it.
const VERSIONS_MAX: usize = 3;

/// What a text is judged by.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub text: &'a [u8],
    pub reading: Reading,
    pub catalog: &'a Catalog,
}

/// Classifies a text that may be parsed.
pub fn statement(source: &Source<'_>, hint: Option<Hint>) -> Statement {
    let Some(readings) = readings(source) else {
        let reason = "its executable comments can be read in too many ways";
        let mut part = Part::new(Effect::Unknown, "executable_comment", reason);
        part.found.effect(SessionEffect::Pin(Pin::Unknown));
        return statement_of(part, hint);
    };
    let mut statements = readings.iter().map(|tokens| one_reading(tokens, source, hint.clone()));
    let first = statements.next().unwrap_or_else(|| one_reading(&[], source, hint.clone()));
    statements.fold(first, either)
}

/// The tokens of each way to read the text; `None` if they are too many.
fn readings(source: &Source<'_>) -> Option<Vec<Vec<Token>>> {
    let mut versions: Vec<u32> = Vec::new();
    loop {
        let mut met = versions.clone();
        let mut all = Vec::with_capacity(1 << versions.len());
        for choice in 0..1usize << versions.len() {
            let chosen = |(at, version): (usize, &u32)| (choice >> at & 1 == 1).then_some(*version);
            let executing: Vec<u32> = versions.iter().enumerate().filter_map(chosen).collect();
            let lexer = Lexer::executing(source.text, source.reading, &executing);
            let (tokens, more) = lexer.read();
            all.push(tokens);
            more.into_iter().for_each(|version| {
                if !met.contains(&version) {
                    met.push(version);
                }
            });
        }
        match met.len() {
            count if count == versions.len() => return Some(all),
            0..=VERSIONS_MAX => versions = met,
            _ => return None,
        }
    }
}

/// What is certain of a text that is the one or the other.
fn either(mut one: Statement, other: Statement) -> Statement {
    if one.effect != other.effect || one.reason_code != other.reason_code {
        let both_read = one.effect == Effect::Read && other.effect == Effect::Read;
        if !both_read {
            one.effect = Effect::Unknown;
            one.reason_code = "executable_comment";
            one.reason = Arc::from("what it does depends on the version of the server");
        }
    }
    if one.session != other.session {
        one.session.extend(other.session);
        one.session.push(SessionEffect::Pin(Pin::Unknown));
    }
    one.tables_read.extend(other.tables_read);
    one.tables_written.extend(other.tables_written);
    one.functions.extend(other.functions);
    one.is_ddl |= other.is_ddl;
    one.count = one.count.max(other.count);
    // The target of a read that is to be asked of the primary.
    if one.hint.as_ref().is_none_or(|hint| hint.target.is_none()) {
        one.hint = other.hint;
    }
    one
}

fn one_reading(tokens: &[Token], source: &Source<'_>, hint: Option<Hint>) -> Statement {
    if tokens.last().is_some_and(|token| token.kind == Kind::Broken) {
        let reason = "a literal, a quoted name or a comment has no certain end";
        let mut part = Part::new(Effect::Unknown, "parse_error", reason);
        if leaves_traces(source) {
            part.found.effect(SessionEffect::Pin(Pin::Unknown));
        }
        return statement_of(part, hint);
    }
    let statements = split(source.text, tokens);
    joined(statements.iter().map(|tokens| one(tokens, source)), hint)
}

/// What can be said of a text without parsing it.
pub fn too_large(source: &Source<'_>, parse_bytes_max: usize) -> Part {
    let pinned = source.text.len() > SCAN_BYTES_MAX || leaves_traces(source);
    not_parsed(parse_bytes_max, pinned)
}

/// Whether the words of a text leave it possible that it changes the session. One pass, and
/// nothing is kept.
fn leaves_traces(source: &Source<'_>) -> bool {
    let mut start = true;
    for token in Lexer::new(source.text, source.reading) {
        let bytes = token.bytes(source.text);
        // The longest name has 64 characters.
        let short = bytes.get(..bytes.len().min(256)).unwrap_or_default();
        let name = match token.kind {
            Kind::Word => lower(short),
            Kind::Quoted => unquote(short).to_lowercase(),
            Kind::Other | Kind::UserVariable => return true,
            Kind::Mark if bytes == b";" => {
                start = true;
                continue;
            }
            _ => continue,
        };
        let left = name == "temporary"
            || !functions::trace(&name, true).is_empty()
            || !source.catalog.traces(&name).is_empty()
            || !source.catalog.fired(&name).is_empty();
        if left || start && !is_plain_start(&name) {
            return true;
        }
        start = false;
    }
    false
}

/// First words of statements that change data or schema and, their calls and temporary tables
/// aside, never the session.
fn is_plain_start(word: &str) -> bool {
    matches!(
        word,
        "select"
            | "with"
            | "values"
            | "table"
            | "insert"
            | "replace"
            | "update"
            | "delete"
            | "load"
            | "create"
            | "alter"
            | "drop"
            | "rename"
            | "truncate"
            | "grant"
            | "revoke"
            | "explain"
            | "describe"
            | "desc"
            | "analyze"
            | "optimize"
            | "repair"
            | "check"
            | "checksum"
            | "show"
    )
}

/// The tokens of each statement of a text, empty statements left out. A statement with a body of
/// statements takes all that follows.
pub fn split<'t>(text: &[u8], tokens: &'t [Token]) -> Vec<&'t [Token]> {
    let mut statements = Vec::new();
    let mut from = 0;
    while from < tokens.len() {
        let rest = &tokens[from..];
        let is_end = |token: &Token| token.kind == Kind::Mark && token.bytes(text) == b";";
        let end = match has_body(text, rest) {
            true => rest.len(),
            false => rest.iter().position(is_end).unwrap_or(rest.len()),
        };
        if end > 0 {
            statements.push(&rest[..end]);
        }
        from += end + 1;
    }
    statements
}

/// Words between CREATE and the kind of what it makes: OR REPLACE AGGREGATE DEFINER = a @ b …
const HEAD_TOKENS_MAX: usize = 16;

fn has_body(text: &[u8], tokens: &[Token]) -> bool {
    let cursor = Cursor::new(text, tokens);
    match cursor.word(0).as_str() {
        "create" | "alter" => (1..HEAD_TOKENS_MAX).any(|ahead| {
            let word = cursor.word(ahead);
            matches!(word.as_str(), "procedure" | "function" | "trigger" | "event" | "package")
        }),
        "begin" => cursor.word(1) == "not",
        "declare" | "if" | "loop" | "while" | "repeat" | "for" | "case" => true,
        _ => false,
    }
}

/// Classifies one statement.
pub fn one(tokens: &[Token], source: &Source<'_>) -> Part {
    let mut part = recognised(tokens, source);
    if source.reading.engine == Engine::MariaDb && has_timeout(tokens, source.text) {
        part.found.effect(SessionEffect::SetsOnce);
    }
    part
}

/// `FOR UPDATE NOWAIT`, `DROP TABLE t WAIT 5`: MariaDB sets its timeouts for such a statement.
fn has_timeout(tokens: &[Token], text: &[u8]) -> bool {
    let mut is_behind_wait = false;
    tokens.iter().any(|token| {
        let word = token.bytes(text);
        let found = word.eq_ignore_ascii_case(b"nowait")
            || is_behind_wait && word.first().is_some_and(u8::is_ascii_digit);
        is_behind_wait = word.eq_ignore_ascii_case(b"wait");
        found
    })
}

fn recognised(tokens: &[Token], source: &Source<'_>) -> Part {
    let cursor = Cursor::new(source.text, tokens);
    if let Some(part) = settings::shown(&cursor) {
        return part;
    }
    if starts_query(&cursor) {
        return query(tokens, source);
    }
    control::recognise(&cursor)
        .or_else(|| settings::recognise(&cursor, source))
        .or_else(|| show::recognise(&cursor, source))
        .or_else(|| utility::recognise(&cursor, source))
        .unwrap_or_else(|| unrecognised(&cursor.word(0)))
}

/// Whether a query or a change of data begins here.
pub fn starts_query(cursor: &Cursor<'_>) -> bool {
    match cursor.word(0).as_str() {
        "select" | "with" | "values" | "table" | "insert" | "replace" | "update" | "delete" => true,
        "" => cursor.is_mark("("),
        _ => false,
    }
}

fn unrecognised(word: &str) -> Part {
    let reason = match word {
        "" => "it does not begin with a word".to_owned(),
        word => format!("{} is not understood here", word.to_uppercase()),
    };
    let mut part = Part::new(Effect::Unknown, "parse_error", reason);
    part.found.effect(SessionEffect::Pin(Pin::Unknown));
    part
}

/// Classifies one query or change of data.
pub fn query(tokens: &[Token], source: &Source<'_>) -> Part {
    let mut part = Part::new(Effect::Read, "select", "it only reads");
    part.found = found(source.text, tokens, source.catalog);
    match Cursor::new(source.text, tokens).word(0).as_str() {
        // Whatever of it was parsed: a trigger of any table that it names may be fired.
        "insert" | "replace" | "update" | "delete" | "with" => {
            for token in tokens {
                fire(source, token, &mut part.found);
            }
        }
        _ => fired(source.catalog, &mut part.found),
    }
    judged(part)
}

/// Adds what triggers of a table of this name may leave behind.
pub fn fire(source: &Source<'_>, token: &Token, found: &mut Found) {
    let name = match token.kind {
        Kind::Word => lower(token.bytes(source.text)),
        Kind::Quoted => unquote(token.bytes(source.text)).to_lowercase(),
        _ => return,
    };
    for effect in source.catalog.fired(&name) {
        found.effect(effect.clone());
    }
}

/// What the tree and the tokens of one query say.
fn found(text: &[u8], tokens: &[Token], catalog: &Catalog) -> Found {
    let mut found = walk::tree(text, tokens, catalog);
    if let Some(word) = calls::forbidden(text, tokens) {
        found.forbidden(word);
    }
    calls::trace(text, tokens, catalog, &mut found);
    found
}

/// Classifies the definition of a view.
pub fn fragment(text: &[u8], engine: Engine, catalog: &Catalog) -> Found {
    let (tokens, versions) = Lexer::executing(text, Reading::new(engine), &[]).read();
    let mut found = found(text, &tokens, catalog);
    if !versions.is_empty() {
        found.unknown("an executable comment");
    }
    found
}

/// Classifies the expressions of these tokens, as if they were selected.
pub fn evaluated(tokens: &[Token], source: &Source<'_>) -> Part {
    let mut text = b"select ".to_vec();
    if let (Some(first), Some(last)) = (tokens.first(), tokens.last()) {
        text.extend_from_slice(source.text.get(first.start..last.end).unwrap_or_default());
    }
    let inner = Source { text: &text, ..*source };
    // Comments between the tokens count again; what depends on a version is no constant.
    let (tokens, versions) = Lexer::executing(&text, source.reading, &[]).read();
    let mut part = query(&tokens, &inner);
    if !versions.is_empty() {
        part.found.unknown("an executable comment");
        part = judged(part);
    }
    part
}

/// The value of a string literal that has no escapes but doubled quotes.
pub fn string_value(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let quote = text.chars().next().filter(|first| matches!(first, '\'' | '"'))?;
    let inner = text.get(1..text.len().checked_sub(1)?)?;
    if inner.contains('\\') {
        return None;
    }
    let quote = quote.to_string();
    Some(inner.replace(&quote.repeat(2), &quote))
}
