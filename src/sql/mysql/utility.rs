//! Statements that live in the session, that change the schema, or that are the administrator's.
//! Recognised on the tokens.

use super::super::classify::statement_of;
use super::super::cursor::{Cursor, Part};
use super::super::lex::Kind;
use super::super::statement::{Effect, Pin, SessionEffect};
use super::calls;
use super::classify::{self, Source, string_value};
use super::control::names_variable;
use super::lex::Lexer;
use std::sync::Arc;

/// The statement if it is one of this file's; `None` leaves it unknown.
pub fn recognise(cursor: &Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    let mut cursor = *cursor;
    let word = cursor.word(0);
    cursor.at += 1;
    let part = match word.as_str() {
        "prepare" => prepare(cursor, source)?,
        "execute" => execute(cursor, source)?,
        "deallocate" if cursor.take("prepare") => deallocate(cursor)?,
        "drop" if cursor.word(0) == "prepare" => {
            cursor.at += 1;
            deallocate(cursor)?
        }
        "call" => procedure(cursor, source),
        "do" => evaluate(cursor, source),
        "handler" => handler(&cursor),
        "kill" => kill(cursor),
        "get" => {
            let mut part = write("diagnostics", "it puts what went wrong into variables");
            part.found.effect(variable());
            part.found.effect(calls::diagnostics());
            part
        }
        "load" => load(&cursor, source),
        "create" => create(&cursor, source),
        "drop" => drops(&cursor),
        "alter" | "rename" => ddl(&word),
        "truncate" => truncate(cursor),
        "grant" | "revoke" => write("account", "it changes accounts"),
        "flush" => flush(&cursor),
        "analyze" | "optimize" | "repair" | "check" | "checksum" | "cache" => {
            write("maintenance", "it is maintenance of the primary")
        }
        "start" if cursor.word(0) == "transaction" => return None,
        "reset" | "purge" | "change" | "start" | "stop" | "shutdown" | "restart" | "clone"
        | "install" | "uninstall" | "binlog" | "import" => {
            write("administration", "it is the administrator's")
        }
        "signal" | "resignal" => write("signal", "it raises an error"),
        _ => return None,
    };
    Some(part)
}

fn write(code: &'static str, reason: &str) -> Part {
    Part::new(Effect::Write, code, reason)
}

/// The session has a variable of its own from now on.
pub fn variable() -> SessionEffect {
    SessionEffect::Pin(Pin::Variable)
}

fn ddl(word: &str) -> Part {
    let reason = format!("{} changes the schema", word.to_uppercase());
    Part { is_ddl: true, ..Part::new(Effect::Write, "ddl", reason) }
}

/// PREPARE name FROM 'text' or FROM @variable.
fn prepare(mut cursor: Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    let name = Arc::from(cursor.name()?.to_lowercase());
    if !cursor.take("from") {
        return None;
    }
    let mut part = Part::new(Effect::Session, "session", "it prepares a statement");
    let body = Arc::new(statement_of(body(&cursor, source), None));
    part.found.effect(SessionEffect::Prepare { name, body });
    part.found.effect(SessionEffect::Pin(Pin::PreparedStatement));
    Some(part)
}

/// The statement in the text that stands here.
fn body(cursor: &Cursor<'_>, source: &Source<'_>) -> Part {
    let unknown = || {
        let reason = "it runs a statement that is not in its text";
        let mut part = Part::new(Effect::Unknown, "unknown_prepared", reason);
        part.found.effect(SessionEffect::Pin(Pin::Unknown));
        part
    };
    let [one] = cursor.rest() else { return unknown() };
    let Some(text) = string_value(one.bytes(cursor.text)) else { return unknown() };
    let inner = Source { text: text.as_bytes(), ..*source };
    let (tokens, versions) = Lexer::executing(inner.text, inner.reading, &[]).read();
    // Neither PREPARE nor EXECUTE can be prepared, so this does not go around in circles.
    let nests = matches!(
        Cursor::new(inner.text, &tokens).word(0).as_str(),
        "prepare" | "execute" | "deallocate"
    );
    let broken = tokens.last().is_none_or(|token| token.kind == Kind::Broken);
    match classify::split(inner.text, &tokens).as_slice() {
        [tokens] if versions.is_empty() && !nests && !broken => classify::one(tokens, &inner),
        _ => unknown(),
    }
}

/// EXECUTE name [USING …]: a write unless the session knows the statement.
fn execute(mut cursor: Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    if cursor.word(0) == "immediate" && cursor.tokens.len() > 2 {
        cursor.at += 1;
        return Some(body(&cursor, source));
    }
    let name = Arc::from(cursor.name()?.to_lowercase());
    if !cursor.at_end() && !cursor.take("using") {
        return None;
    }
    let mut part = write("execute", "it runs a prepared statement");
    // MariaDB takes expressions here.
    if cursor.rest().iter().any(|token| token.bytes(cursor.text) == b"(") {
        part.code = "execute_arguments";
        part.found = classify::evaluated(cursor.rest(), source).found;
    }
    part.found.effect(SessionEffect::Execute { name });
    Some(part)
}

fn deallocate(mut cursor: Cursor<'_>) -> Option<Part> {
    let name = Arc::from(cursor.name()?.to_lowercase());
    let mut part = Part::new(Effect::Session, "session", "it forgets a prepared statement");
    part.found.effect(SessionEffect::Deallocate(Some(name)));
    cursor.at_end().then_some(part)
}

/// A procedure may do anything. What a known one leaves behind is added with its name.
fn procedure(mut cursor: Cursor<'_>, source: &Source<'_>) -> Part {
    let mut part = write("procedure", "CALL may do anything");
    let arguments = cursor;
    let name = cursor.dotted_name().unwrap_or_default().to_lowercase();
    let name = name.rsplit_once('.').map_or(&*name, |(_, name)| name);
    if !source.catalog.knows_procedure(name) {
        part.found.effect(SessionEffect::Pin(Pin::Unknown));
    }
    for effect in source.catalog.traces(name) {
        part.found.effect(effect.clone());
    }
    calls::trace(source.text, arguments.rest(), source.catalog, &mut part.found);
    // An OUT parameter.
    if names_variable(&arguments) {
        part.found.effect(variable());
    }
    part
}

/// DO evaluates and gives nothing back.
fn evaluate(cursor: Cursor<'_>, source: &Source<'_>) -> Part {
    let mut part = classify::evaluated(cursor.rest(), source);
    if part.effect == Effect::Read {
        (part.code, part.reason) = ("do", Arc::from("it evaluates what only reads"));
    }
    part
}

fn handler(cursor: &Cursor<'_>) -> Part {
    let mut part = write("handler", "it uses a table by a handler");
    let word = |word: &str| {
        (cursor.at..cursor.tokens.len()).any(|at| Cursor { at, ..*cursor }.word(0) == word)
    };
    if word("open") {
        part.found.effect(SessionEffect::Pin(Pin::HoldCursor));
    } else if word("close") {
        part.found.effect(SessionEffect::Doubt(Pin::HoldCursor));
    }
    part
}

/// KILL [HARD | SOFT] [CONNECTION | QUERY] number. Other forms name nothing of the proxy's.
fn kill(mut cursor: Cursor<'_>) -> Part {
    let _ = cursor.take_any(&["hard", "soft"]);
    let query = cursor.take("query");
    let _ = !query && cursor.take("connection");
    let number = match cursor.rest() {
        [one] if one.kind == Kind::Number => std::str::from_utf8(one.bytes(cursor.text)).ok(),
        _ => None,
    };
    match number.and_then(|number| number.parse().ok()) {
        Some(id) => {
            let mut part = Part::new(Effect::Session, "kill", "it ends another session");
            part.found.effect(SessionEffect::Kill { id, query });
            part
        }
        None => write("kill", "it ends sessions of the primary"),
    }
}

/// LOAD DATA and LOAD XML.
fn load(cursor: &Cursor<'_>, source: &Source<'_>) -> Part {
    let mut part = write("load_data", "it loads rows");
    if names_variable(cursor) {
        part.found.effect(variable());
    }
    calls::trace(source.text, cursor.rest(), source.catalog, &mut part.found);
    cursor.rest().iter().for_each(|token| classify::fire(source, token, &mut part.found));
    part
}

/// Words between CREATE and TEMPORARY.
const TEMPORARY_TOKENS_MAX: usize = 4;

fn create(cursor: &Cursor<'_>, source: &Source<'_>) -> Part {
    let mut part = ddl("create");
    let head = (0..TEMPORARY_TOKENS_MAX).map(|ahead| cursor.word(ahead)).collect::<Vec<_>>();
    let has = |word: &str| head.iter().any(|head| head == word);
    if has("temporary") {
        part.is_ddl = false;
        part.found.effect(SessionEffect::Pin(Pin::TemporaryTable));
    }
    // CREATE TABLE … SELECT runs what it selects; a routine's body is only kept.
    if has("table") {
        calls::trace(source.text, cursor.rest(), source.catalog, &mut part.found);
    }
    part
}

/// DROP, which may be of the last temporary table.
fn drops(cursor: &Cursor<'_>) -> Part {
    let mut part = ddl("drop");
    part.is_ddl = cursor.word(0) != "temporary";
    if matches!(cursor.word(0).as_str(), "temporary" | "table" | "tables") {
        part.found.effect(SessionEffect::Doubt(Pin::TemporaryTable));
    }
    part
}

fn truncate(mut cursor: Cursor<'_>) -> Part {
    let mut part = write("truncate", "TRUNCATE empties a table");
    let _ = cursor.take("table");
    if let Some(name) = cursor.dotted_name() {
        part.found.writes(Arc::from(name.to_lowercase()));
    }
    part
}

/// FLUSH; some forms lock tables for the session.
fn flush(cursor: &Cursor<'_>) -> Part {
    let mut part = write("administration", "it is the administrator's");
    let locks = (cursor.at..cursor.tokens.len())
        .any(|at| matches!(Cursor { at, ..*cursor }.word(0).as_str(), "lock" | "export"));
    if locks {
        part.found.effect(SessionEffect::Pin(Pin::TableLock));
    }
    part
}
