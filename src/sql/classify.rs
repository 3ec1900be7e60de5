//! From a text to its [`Statement`]: the way past the cache.
//!
//! Each statement of the text is tried in turn by the recognisers (transaction control, settings,
//! utility statements) and, if it is a query or a change of data, parsed and walked. The
//! strictest class of all wins.

use super::catalog::Catalog;
use super::control;
use super::cursor::{Cursor, Part};
use super::dialect::Dialect;
use super::hint;
use super::lex::{Kind, Lexer, Token};
use super::statement::{Effect, Hint, HintTarget, Pin, SessionEffect, Statement};
use super::{mysql, parse, scan, settings, utility, walk};
use std::sync::Arc;

/// A text longer than this is not even scanned for its words. PostgreSQL takes messages of up to
/// 1 GiB; the scan reads about 1 GB/s, and no other client should wait longer than this for it.
pub(super) const SCAN_BYTES_MAX: usize = 64 << 20;

/// What a text is judged by.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub text: &'a [u8],
    pub standard_strings: bool,
    pub catalog: &'a Catalog,
}

impl Source<'_> {
    pub fn tokens(&self) -> Vec<Token> {
        Lexer::new(self.text, self.standard_strings).collect()
    }
}

/// Classifies a text without a cache. Pure. Texts of more than `parse_bytes_max` bytes are not
/// parsed: they go to the primary.
pub fn classify(
    text: &[u8],
    dialect: Dialect,
    catalog: &Catalog,
    parse_bytes_max: usize,
) -> Statement {
    let hint = hint::find(text).map(read_hint);
    let is_large = text.len() > parse_bytes_max;
    let standard_strings = match dialect {
        Dialect::Postgres { standard_strings } => standard_strings,
        Dialect::MySql(reading) => {
            let source = mysql::classify::Source { text, reading, catalog };
            if is_large {
                return statement_of(mysql::classify::too_large(&source, parse_bytes_max), hint);
            }
            return mysql::classify::statement(&source, hint);
        }
    };
    let source = Source { text, standard_strings, catalog };
    if is_large {
        return statement_of(too_large(&source, parse_bytes_max), hint);
    }
    let tokens = source.tokens();
    if tokens.last().is_some_and(|token| token.kind == Kind::Broken) {
        return statement_of(unfinished(&source), hint);
    }
    let statements = scan::split(text, &tokens);
    joined(statements.iter().map(|tokens| one(tokens, &source)), hint)
}

fn read_hint(inside: &[u8]) -> Hint {
    let (mut hint, problems) = hint::parse(inside);
    if !problems.is_empty() {
        hint.problem = Some(Arc::from(problems.join("; ")));
    }
    hint
}

/// What can be said of a text without parsing it. Its words are looked at, because a large
/// INSERT is no reason to pin a session.
fn too_large(source: &Source<'_>, parse_bytes_max: usize) -> Part {
    let pinned = source.text.len() > SCAN_BYTES_MAX || leaves_traces(source);
    not_parsed(parse_bytes_max, pinned)
}

pub(super) fn not_parsed(parse_bytes_max: usize, pinned: bool) -> Part {
    let reason = format!("longer than {parse_bytes_max} bytes, so it is not parsed");
    let mut part = Part::new(Effect::Unknown, "too_large", reason);
    if pinned {
        part.found.effect(SessionEffect::Pin(Pin::Unknown));
    }
    part
}

/// A literal, name or comment without an end: the server refuses the whole text.
fn unfinished(source: &Source<'_>) -> Part {
    let reason = "a literal, a quoted name or a comment has no end";
    let mut part = Part::new(Effect::Unknown, "parse_error", reason);
    if leaves_traces(source) {
        part.found.effect(SessionEffect::Pin(Pin::Unknown));
    }
    part
}

/// Whether the words of a text leave it possible that it changes the session. One pass, and
/// nothing is kept.
fn leaves_traces(source: &Source<'_>) -> bool {
    let mut start = true;
    for token in Lexer::new(source.text, source.standard_strings) {
        let word = token.bytes(source.text);
        match token.kind {
            Kind::Word => {
                // The longest word of interest has 37 letters.
                let word = word.get(..word.len().min(40)).unwrap_or_default();
                let lower = String::from_utf8_lossy(word).to_ascii_lowercase();
                if start && !is_plain_start(&lower) || is_session_word(&lower) {
                    return true;
                }
                start = false;
            }
            Kind::Quoted if is_session_word(&parse::unquote(word)) => return true,
            Kind::Other | Kind::UnicodeQuoted => return true,
            Kind::Mark if word == b";" => start = true,
            _ => {}
        }
    }
    false
}

/// First words of statements that change data or schema and, their calls and temporary objects
/// aside, never the session.
fn is_plain_start(word: &str) -> bool {
    matches!(
        word,
        "select"
            | "with"
            | "values"
            | "table"
            | "insert"
            | "update"
            | "delete"
            | "merge"
            | "copy"
            | "create"
            | "alter"
            | "drop"
            | "grant"
            | "revoke"
            | "comment"
            | "truncate"
            | "explain"
            | "analyze"
            | "vacuum"
            | "reindex"
            | "cluster"
            | "refresh"
            | "security"
            | "import"
            | "reassign"
            | "lock"
            | "notify"
            | "checkpoint"
    )
}

/// Words that say that something of the session may change.
fn is_session_word(word: &str) -> bool {
    matches!(word, "temp" | "temporary" | "pg_temp") || super::functions::trace(word).is_some()
}

/// Classifies one statement.
pub(super) fn one(tokens: &[Token], source: &Source<'_>) -> Part {
    let cursor = Cursor::new(source.text, tokens);
    if starts_query(&cursor) {
        return query(tokens, source);
    }
    control::recognise(&cursor)
        .or_else(|| settings::recognise(&cursor).map(judged))
        .or_else(|| utility::recognise(&cursor, source))
        .unwrap_or_else(|| unrecognised(&cursor.word(0)))
}

/// Whether a query or a change of data begins here.
pub(super) fn starts_query(cursor: &Cursor<'_>) -> bool {
    match cursor.word(0).as_str() {
        "select" | "with" | "values" | "table" | "insert" | "update" | "delete" | "merge" => true,
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
    if !is_plain_start(word) {
        part.found.effect(SessionEffect::Pin(Pin::Unknown));
    }
    part
}

/// Classifies one query or change of data.
pub(super) fn query(tokens: &[Token], source: &Source<'_>) -> Part {
    let found = walk::query(source.text, tokens, source.catalog);
    let mut part = Part::new(Effect::Read, "select", "it only reads");
    part.is_ddl = found.problems.iter().any(|problem| problem.code == "select_into");
    part.found = found;
    super::calls::fired(source.catalog, &mut part.found);
    let temporary = |token: &Token| {
        let name = super::calls::name_of(source.text, token);
        name.is_some_and(|name| matches!(name.as_str(), "temp" | "temporary" | "pg_temp"))
    };
    let into = |token: &Token| token.bytes(source.text).eq_ignore_ascii_case(b"into");
    // SELECT INTO TEMP; sqlparser need not have understood it.
    if tokens.iter().any(into) && !starts_with_change(source.text, tokens) {
        part.is_ddl = true;
        if tokens.iter().any(temporary) {
            part.found.effect(SessionEffect::Pin(Pin::TemporaryTable));
        }
    }
    if tokens.iter().any(|token| token.kind == Kind::UnicodeQuoted) {
        // It may be the name of a function that changes the session.
        part.found.effect(SessionEffect::Pin(Pin::Unknown));
    }
    judged(part)
}

fn starts_with_change(text: &[u8], tokens: &[Token]) -> bool {
    let word = Cursor::new(text, tokens).word(0);
    matches!(word.as_str(), "insert" | "merge")
}

/// The class that follows from what was found, if it is stricter than what the part says.
pub(super) fn judged(mut part: Part) -> Part {
    // The strictest, and of several the first that was found.
    let mut worst: Option<&super::found::Problem> = None;
    for problem in &part.found.problems {
        if worst.is_none_or(|seen| strictness(problem.effect) > strictness(seen.effect)) {
            worst = Some(problem);
        }
    }
    match worst {
        Some(problem) => {
            (part.effect, part.code, part.reason) =
                (problem.effect, problem.code, problem.reason.clone());
        }
        None if part.found.sets => {
            part.effect = Effect::Session;
            part.code = "set_config";
            part.reason = Arc::from("it changes a setting of the session and returns a row");
        }
        None => {}
    }
    part
}

pub(super) fn strictness(effect: Effect) -> u8 {
    match effect {
        Effect::Read => 0,
        Effect::Session => 1,
        Effect::Transaction => 2,
        Effect::Unknown => 3,
        Effect::Write => 4,
    }
}

/// A text of one statement.
pub(super) fn statement_of(part: Part, hint: Option<Hint>) -> Statement {
    let Part { effect, mut code, mut reason, found, is_ddl } = part;
    let mut hint = hint;
    // An answer about one server is a read, but one to ask of the primary; a text that names
    // another server by a hint means that one.
    if let (Effect::Read, Some(local)) = (effect, found.server_local) {
        code = "server_local";
        reason = local;
        hint.get_or_insert_default().target.get_or_insert(HintTarget::Primary);
    }
    Statement {
        effect,
        reason,
        reason_code: code,
        tables_read: found.tables_read,
        tables_written: found.tables_written,
        functions: found.functions,
        ends_first: found.session.iter().any(SessionEffect::is_end),
        session: found.session,
        count: 1,
        is_ddl,
        hint,
    }
}

/// A text of these statements: the strictest class, all names, the session effects in order.
pub(super) fn joined(parts: impl Iterator<Item = Part>, hint: Option<Hint>) -> Statement {
    let mut total: Option<Statement> = None;
    for part in parts {
        let next = statement_of(part, hint.clone());
        let Some(seen) = &mut total else {
            total = Some(next);
            continue;
        };
        if strictness(next.effect) > strictness(seen.effect) {
            seen.effect = next.effect;
            seen.reason = next.reason;
            seen.reason_code = next.reason_code;
        } else if next.reason_code == "server_local" && seen.effect == Effect::Read {
            seen.reason = next.reason;
            seen.reason_code = next.reason_code;
        }
        seen.tables_read.extend(next.tables_read);
        seen.tables_written.extend(next.tables_written);
        seen.functions.extend(next.functions);
        seen.session.extend(next.session);
        seen.is_ddl |= next.is_ddl;
        seen.count += 1;
        // A later statement may be the one that is to be asked of the primary.
        if seen.hint.as_ref().is_none_or(|hint| hint.target.is_none()) {
            seen.hint = next.hint;
        }
    }
    total.unwrap_or_else(|| {
        let part = Part::new(Effect::Read, "empty", "there is nothing to run");
        Statement { count: 0, ..statement_of(part, hint) }
    })
}
