//! What the body of a function or of a DO block may leave behind in the session that runs it,
//! seen on its tokens. Text in literals counts too: it may be run by EXECUTE.
//!
//! What a server can be asked about (temporary objects, locks, channels, the values of settings)
//! is only suspected: it is asked afterwards, so that a word that means something else costs a
//! question and no more.

use super::calls::{self, SetBy, name_of, string_value};
use super::lex::{Kind, Lexer, Token};
use super::statement::{Pin, SessionEffect};
use std::collections::HashSet;
use std::sync::Arc;

/// Literals in literals are looked into this deep.
const DEPTH_MAX: usize = 3;

/// A longer body is not read: it may leave anything.
const BODY_BYTES_MAX: usize = 256 << 10;

/// The effects on the session that running the body may have.
pub fn effects_of_body(body: &[u8]) -> Vec<SessionEffect> {
    let mut effects = Vec::new();
    if body.len() > BODY_BYTES_MAX {
        return vec![SessionEffect::Pin(Pin::Unknown)];
    }
    collect(body, 0, &mut effects);
    effects
}

fn collect(body: &[u8], depth: usize, effects: &mut Vec<SessionEffect>) {
    let tokens: Vec<Token> = Lexer::new(body, true).collect();
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Text if depth < DEPTH_MAX => {
                let inner = token.bytes(body);
                match string_value(inner) {
                    Some(value) => collect(value.as_bytes(), depth + 1, effects),
                    None => collect(between_quotes(inner), depth + 1, effects),
                }
            }
            Kind::Word | Kind::Quoted => {
                let Some(name) = name_of(body, token) else { continue };
                word(&name, body, &tokens, at, effects);
            }
            _ => {}
        }
    }
}

/// The names and words of a body, those in literals too; none twice.
pub fn words(body: &[u8]) -> HashSet<String> {
    let mut words = HashSet::new();
    if body.len() <= BODY_BYTES_MAX {
        collect_words(body, 0, &mut words);
    }
    words
}

fn collect_words(body: &[u8], depth: usize, words: &mut HashSet<String>) {
    for token in Lexer::new(body, true) {
        match token.kind {
            Kind::Text if depth < DEPTH_MAX => {
                let inner = token.bytes(body);
                match string_value(inner) {
                    Some(value) => collect_words(value.as_bytes(), depth + 1, words),
                    None => collect_words(between_quotes(inner), depth + 1, words),
                }
            }
            Kind::Word | Kind::Quoted => words.extend(name_of(body, &token)),
            _ => {}
        }
    }
}

/// The inside of a literal with escapes, as it is written.
fn between_quotes(literal: &[u8]) -> &[u8] {
    let quote = |byte: &u8| *byte == b'\'';
    let start = literal.iter().position(quote).map_or(0, |at| at + 1);
    let end = literal.iter().rposition(quote).unwrap_or(literal.len());
    literal.get(start..end).unwrap_or_default()
}

/// What a word of a body says.
fn word(name: &str, body: &[u8], tokens: &[Token], at: usize, effects: &mut Vec<SessionEffect>) {
    let rest = &tokens[at + 1..];
    match name {
        "temp" | "temporary" | "pg_temp" => suspect(Pin::TemporaryTable, effects),
        "listen" => suspect(Pin::Listen, effects),
        "hold" => suspect(Pin::HoldCursor, effects),
        "prepare" => suspect(Pin::PreparedStatement, effects),
        "drop" => add(SessionEffect::Doubt(Pin::TemporaryTable), effects),
        "unlisten" => add(SessionEffect::Doubt(Pin::Listen), effects),
        "close" => add(SessionEffect::Doubt(Pin::HoldCursor), effects),
        "deallocate" => add(SessionEffect::Doubt(Pin::PreparedStatement), effects),
        "load" if begins(body, tokens, at) => add(SessionEffect::Pin(Pin::Unknown), effects),
        "set" if begins(body, tokens, at) => set(body, rest, effects),
        "reset" if begins(body, tokens, at) => reset(body, rest, effects),
        "set_config" => {
            let called = rest.first().is_some_and(|next| next.bytes(body) == b"(");
            match called.then(|| calls::set_by(body, &rest[1..])) {
                Some(SetBy::Local(_)) => {}
                Some(SetBy::Named(name)) => add(SessionEffect::Learn(name), effects),
                Some(SetBy::Unknown) | None => add(SessionEffect::Pin(Pin::Setting), effects),
            }
        }
        "setseed" | "dblink_connect" | "dblink_connect_u" | "dblink_open" => {
            add(SessionEffect::Pin(Pin::Unknown), effects);
        }
        _ if name.contains("advisory_lock") => suspect(Pin::AdvisoryLock, effects),
        _ if name.contains("advisory_unlock") => {
            add(SessionEffect::Doubt(Pin::AdvisoryLock), effects);
        }
        _ => {}
    }
}

/// Whether a statement begins with the token at `at`.
fn begins(body: &[u8], tokens: &[Token], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).and_then(|at| tokens.get(at)) else { return true };
    match before.kind {
        Kind::Word => {
            let word = name_of(body, before).unwrap_or_default();
            matches!(word.as_str(), "begin" | "then" | "else" | "loop")
        }
        _ => before.bytes(body) == b";",
    }
}

/// `SET [SESSION] name …` in a body; SET LOCAL ends with its transaction.
fn set(body: &[u8], rest: &[Token], effects: &mut Vec<SessionEffect>) {
    let word = |at: usize| rest.get(at).and_then(|token| name_of(body, token)).unwrap_or_default();
    let first = word(0);
    let name = match (first.as_str(), word(1).as_str()) {
        ("local" | "constraints" | "transaction", _) => return,
        ("time", "zone") => Some("timezone".to_owned()),
        ("session", "authorization") => Some("session_authorization".to_owned()),
        ("session", _) => dotted(body, &rest[1..]),
        ("schema", _) => Some("search_path".to_owned()),
        ("names", _) => Some("client_encoding".to_owned()),
        _ => dotted(body, rest),
    };
    add(learn(name), effects);
}

fn reset(body: &[u8], rest: &[Token], effects: &mut Vec<SessionEffect>) {
    let name = dotted(body, rest).filter(|name| name != "all");
    add(learn(name), effects);
}

fn learn(name: Option<String>) -> SessionEffect {
    match name {
        Some(name) => SessionEffect::Learn(Arc::from(name)),
        None => SessionEffect::Pin(Pin::Setting),
    }
}

/// A name of one or two parts at the front.
fn dotted(body: &[u8], tokens: &[Token]) -> Option<String> {
    let mut name = name_of(body, tokens.first()?)?.to_ascii_lowercase();
    if tokens.get(1).is_some_and(|token| token.bytes(body) == b".") {
        name = format!("{name}.{}", name_of(body, tokens.get(2)?)?.to_ascii_lowercase());
    }
    Some(name)
}

fn suspect(pin: Pin, effects: &mut Vec<SessionEffect>) {
    add(SessionEffect::Pin(pin), effects);
    add(SessionEffect::Doubt(pin), effects);
}

fn add(effect: SessionEffect, effects: &mut Vec<SessionEffect>) {
    if !effects.contains(&effect) {
        effects.push(effect);
    }
}

#[cfg(test)]
mod tests {
    use super::effects_of_body;
    use crate::sql::SessionEffect::{self, Doubt, Learn, Pin};
    use crate::sql::statement::Pin as Cause;

    #[test]
    fn bodies_and_what_they_may_leave() {
        let suspect = |pin| vec![Pin(pin), Doubt(pin)];
        let learn = |name: &str| vec![Learn(name.into())];
        let table: Vec<(&str, Vec<SessionEffect>)> = vec![
            ("BEGIN UPDATE t SET a = 1 WHERE b; END", vec![]),
            ("BEGIN INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 2; END", vec![]),
            ("BEGIN PERFORM set_config('a.b', x, true); END", vec![]),
            ("BEGIN SET LOCAL work_mem = 1; SET CONSTRAINTS ALL DEFERRED; END", vec![]),
            ("BEGIN PERFORM set_config('A.b', x, false); END", learn("a.b")),
            ("SELECT set_config('a.b', $1, is_local)", learn("a.b")),
            ("SELECT set_config(name, $1, true)", vec![]),
            ("SELECT set_config(name, $1, false)", vec![Pin(Cause::Setting)]),
            ("BEGIN -- why\n SET search_path TO a; END", learn("search_path")),
            ("BEGIN EXECUTE 'SET role ' || x; END", learn("role")),
            ("BEGIN EXECUTE format('SET %I = 1', x); END", vec![Pin(Cause::Setting)]),
            ("BEGIN EXECUTE 'CREATE TEMP TABLE ' || x; END", suspect(Cause::TemporaryTable)),
            ("SELECT pg_try_advisory_lock(1)", suspect(Cause::AdvisoryLock)),
            ("SELECT pg_advisory_unlock(1)", vec![Doubt(Cause::AdvisoryLock)]),
            ("SELECT pg_advisory_xact_lock(1)", vec![]),
            ("BEGIN LISTEN x; END", suspect(Cause::Listen)),
        ];
        for (body, expected) in table {
            assert_eq!(effects_of_body(body.as_bytes()), expected, "{body}");
        }
    }
}
