//! SHOW, DESCRIBE and EXPLAIN, recognised on the tokens.

use super::super::classify::judged;
use super::super::cursor::{Cursor, Part};
use super::super::lex::Kind;
use super::super::statement::Effect;
use super::super::walk::join_name;
use super::classify::{self, Source, string_value};
use super::functions::{self, Variable};
use super::{calls, utility};
use std::sync::Arc;

/// What a replica shows as the primary does: the words behind SHOW, FULL and EXTENDED left out.
const SAME_EVERYWHERE: &[&[&str]] = &[
    &["databases"],
    &["schemas"],
    &["tables"],
    &["table", "types"],
    &["table", "status"],
    &["columns"],
    &["fields"],
    &["index"],
    &["indexes"],
    &["keys"],
    &["create"],
    &["triggers"],
    &["events"],
    &["procedure", "status"],
    &["procedure", "code"],
    &["function", "status"],
    &["function", "code"],
    &["package"],
    &["grants"],
    &["character", "set"],
    &["charset"],
    &["collation"],
    &["privileges"],
    &["locales"],
    &["storage"],
];

/// The statement if it only shows something.
pub fn recognise(cursor: &Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    let mut cursor = *cursor;
    let word = cursor.word(0);
    cursor.at += 1;
    match word.as_str() {
        "show" => Some(show(cursor, source)),
        "describe" | "desc" | "explain" => explain(cursor, source),
        "analyze" => analyze(cursor, source),
        "help" => Some(Part::new(Effect::Read, "show", "it shows the manual")),
        _ => None,
    }
}

fn show(mut cursor: Cursor<'_>, source: &Source<'_>) -> Part {
    let mut part = Part::new(Effect::Read, "show", "it only shows");
    while cursor.take_any(&["full", "extended", "all"]) {}
    let words = (cursor.word(0), cursor.word(1));
    let about_session = matches!(words.0.as_str(), "warnings" | "errors") || words.0 == "count";
    if about_session {
        part.found.effect(calls::diagnostics());
    } else if !is_same(&cursor) && !shows_known_variable(cursor) {
        let what = [words.0.as_str(), words.1.as_str()].join(" ").trim().to_uppercase();
        part.found.server_local = Some(Arc::from(format!("SHOW {what} describes one server")));
    }
    // What is shown may be chosen by an expression.
    let condition = (cursor.at..cursor.tokens.len())
        .find(|at| Cursor { at: *at, ..cursor }.word(0) == "where")
        .and_then(|at| cursor.tokens.get(at + 1..));
    if let Some(condition) = condition {
        let evaluated = classify::evaluated(condition, source);
        part.found.session.extend(evaluated.found.session);
        part.found.problems = evaluated.found.problems;
    }
    judged(part)
}

fn is_same(cursor: &Cursor<'_>) -> bool {
    SAME_EVERYWHERE.iter().any(|words| {
        let mut cursor = *cursor;
        cursor.take_all(words)
    })
}

/// `[SESSION] VARIABLES LIKE 'name'` of a variable that follows the session.
fn shows_known_variable(mut cursor: Cursor<'_>) -> bool {
    let _ = cursor.take_any(&["session", "local"]);
    if !cursor.take_all(&["variables", "like"]) {
        return false;
    }
    let [name] = cursor.rest() else { return false };
    // A pattern that is no name is not in the list of names.
    let name = Some(name).filter(|name| name.kind == Kind::Text);
    let name = name.and_then(|name| string_value(name.bytes(cursor.text)));
    name.is_some_and(|name| {
        matches!(functions::variable(&name.to_ascii_lowercase()), Variable::Safe)
    })
}

/// EXPLAIN, DESCRIBE and DESC, which are one. The servers run parts of what they explain.
fn explain(mut cursor: Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    if cursor.word(0) == "for" {
        let mut part = Part::new(Effect::Read, "explain", "it explains what a connection runs");
        part.found.server_local = Some(Arc::from("connections are of one server"));
        return Some(part);
    }
    loop {
        if cursor.take_any(&["analyze", "extended", "partitions"]) {
            continue;
        }
        if cursor.word(0) != "format" || cursor.rest().len() < 3 {
            break;
        }
        cursor.at += 3;
    }
    if cursor.word(0) == "for" || cursor.word(0) == "into" {
        let reason = "it explains in a way that is not known to be a read";
        let mut part = Part::new(Effect::Write, "explain", reason);
        if super::control::names_variable(&cursor) {
            part.found.effect(utility::variable());
        }
        return Some(part);
    }
    if classify::starts_query(&cursor) && !describes(&cursor) {
        let mut part = classify::query(cursor.rest(), source);
        if part.effect == Effect::Read {
            (part.code, part.reason) = ("explain", Arc::from("it explains a read"));
        }
        return Some(part);
    }
    describe(cursor, source)
}

/// `DESCRIBE values` and the like: a table of such a name.
fn describes(cursor: &Cursor<'_>) -> bool {
    cursor.rest().len() == 1 && !cursor.is_mark("(")
}

/// `DESCRIBE table [column]`.
fn describe(mut cursor: Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    let name = cursor.dotted_name()?.to_lowercase();
    let (schema, table) = match name.split_once('.') {
        Some((schema, table)) => (Some(schema), table),
        None => (None, name.as_str()),
    };
    if cursor.rest().len() > 1 {
        return None;
    }
    let mut part = Part::new(Effect::Read, "show", "it describes a table");
    let (verdict, _) = source.catalog.relation(schema, table);
    part.found.verdict(verdict, true);
    part.found.reads(join_name(schema, table));
    Some(judged(part))
}

/// MariaDB's `ANALYZE [FORMAT=JSON] statement`, which runs it; ANALYZE TABLE is no query.
fn analyze(mut cursor: Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    if cursor.word(0) == "format" && cursor.rest().len() > 3 {
        cursor.at += 3;
    }
    if !classify::starts_query(&cursor) || cursor.word(0) == "table" {
        return None;
    }
    Some(classify::query(cursor.rest(), source))
}
