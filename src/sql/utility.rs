//! Statements that contain a query, that live in the session, or that change the schema:
//! EXPLAIN, COPY, cursors, SQL-level PREPARE, LISTEN, CREATE and the rest. Recognised on the
//! tokens; queries inside go back to `classify.rs`.

use super::body::effects_of_body;
use super::calls;
use super::catalog::Catalog;
use super::classify::{self, Source};
use super::cursor::{Cursor, Part};
use super::lex::Kind;
use super::statement::{Effect, Pin, SessionEffect};
use super::walk::join_name;
use std::sync::Arc;

/// The statement if it is one of this file's; `None` leaves it unknown.
pub(super) fn recognise(cursor: &Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    let mut cursor = *cursor;
    let word = cursor.word(0);
    cursor.at += 1;
    let mut part = match word.as_str() {
        "explain" => return explain(cursor, source),
        "copy" => {
            let mut part = copy(cursor, source)?;
            calls::fired(source.catalog, &mut part.found);
            return Some(part);
        }
        "declare" => return declare(cursor, source),
        "prepare" => return prepare(cursor, source),
        "execute" => return execute(cursor, source),
        "deallocate" => deallocate(cursor)?,
        "fetch" | "move" => {
            Part::new(Effect::Read, "cursor", "it reads a cursor of the transaction")
        }
        "close" => close(cursor)?,
        "listen" => {
            cursor.name()?;
            session(SessionEffect::Pin(Pin::Listen), "it listens")
        }
        "unlisten" => unlisten(cursor)?,
        "notify" => Part::new(Effect::Write, "notify", "a standby cannot notify"),
        "lock" => lock(&cursor),
        "load" => session(SessionEffect::Pin(Pin::Unknown), "it loads a library"),
        "do" => return Some(anonymous(cursor, source)),
        "call" => procedure(cursor, source.catalog),
        "create" => create(&mut cursor),
        "drop" => drops(),
        "alter" | "import" | "reassign" => ddl(&word),
        "truncate" => truncate(cursor),
        "comment" | "security" | "grant" | "revoke" => {
            Part::new(Effect::Write, "ddl", format!("{} changes the schema", word.to_uppercase()))
        }
        "vacuum" | "analyze" | "analyse" | "cluster" | "reindex" | "checkpoint" | "refresh" => {
            let reason = format!("{} is maintenance of the primary", word.to_uppercase());
            Part::new(Effect::Write, "maintenance", reason)
        }
        _ => return None,
    };
    calls::trace(source.text, cursor.tokens, source.catalog, &mut part.found);
    calls::fired(source.catalog, &mut part.found);
    Some(part)
}

fn session(effect: SessionEffect, reason: &str) -> Part {
    let mut part = Part::new(Effect::Session, "session", reason);
    part.found.effect(effect);
    part
}

fn ddl(word: &str) -> Part {
    let reason = format!("{} changes the schema", word.to_uppercase());
    Part { is_ddl: true, ..Part::new(Effect::Write, "ddl", reason) }
}

/// LOCK; the modes up to ROW EXCLUSIVE are those that a standby takes as well.
fn lock(cursor: &Cursor<'_>) -> Part {
    let weak: [&[&str]; 3] = [
        &["in", "access", "share", "mode"],
        &["in", "row", "share", "mode"],
        &["in", "row", "exclusive", "mode"],
    ];
    let is_weak = |at: usize| {
        let at = Cursor { at, ..*cursor };
        weak.iter().any(|words| { at }.take_all(words))
    };
    let code = match (cursor.at..cursor.tokens.len()).any(is_weak) {
        true => "lock",
        false => "strong_lock",
    };
    Part::new(Effect::Write, code, "it locks tables")
}

/// DROP, which may be of the last temporary object.
fn drops() -> Part {
    let mut part = ddl("drop");
    part.found.effect(SessionEffect::Doubt(Pin::TemporaryTable));
    part
}

/// A procedure may do anything. What a known one leaves behind is added with its name.
fn procedure(mut cursor: Cursor<'_>, catalog: &Catalog) -> Part {
    let mut part = Part::new(Effect::Write, "procedure", "CALL may do anything");
    let name = cursor.dotted_name().unwrap_or_default();
    let name = name.rsplit_once('.').map_or(&*name, |(_, name)| name);
    if !catalog.knows_procedure(name) {
        part.found.effect(SessionEffect::Pin(Pin::Unknown));
    }
    part
}

/// DO, whose body is there to be read; often used for DDL.
fn anonymous(cursor: Cursor<'_>, source: &Source<'_>) -> Part {
    let mut part = Part::new(Effect::Write, "procedure", "DO may do anything");
    part.is_ddl = true;
    let bodies = cursor.rest().iter().filter(|token| token.kind == Kind::Text);
    for body in bodies {
        for effect in effects_of_body(body.bytes(source.text)) {
            part.found.effect(effect);
        }
    }
    part
}

/// CREATE; temporary objects of every kind pin.
fn create(cursor: &mut Cursor<'_>) -> Part {
    let mut part = ddl("create");
    let _ = cursor.take_all(&["or", "replace"]);
    let _ = cursor.take_any(&["global", "local"]);
    let mut temporary = cursor.take_any(&["temp", "temporary"]);
    // `CREATE … pg_temp.name`; the schema may stand before any of the names.
    temporary |= cursor
        .rest()
        .iter()
        .any(|token| calls::name_of(cursor.text, token).is_some_and(|name| name == "pg_temp"));
    if temporary {
        part.found.effect(SessionEffect::Pin(Pin::TemporaryTable));
        // ON COMMIT DROP. The word may mean something else; then the server says so.
        let is_drop = |at: &usize| Cursor { at: *at, ..*cursor }.word(0) == "drop";
        if (cursor.at..cursor.tokens.len()).any(|at| is_drop(&at)) {
            part.found.effect(SessionEffect::Doubt(Pin::TemporaryTable));
        }
    }
    // CREATE TABLE AS EXECUTE.
    let is_source = |at: &usize| Cursor { at: *at, ..*cursor }.take_all(&["as", "execute"]);
    if let Some(at) = (cursor.at..cursor.tokens.len()).find(is_source) {
        executes(Cursor { at: at + 1, ..*cursor }, &mut part);
    }
    part
}

/// Notes what an EXECUTE runs that stands in another statement.
fn executes(mut cursor: Cursor<'_>, part: &mut Part) {
    if cursor.take("execute")
        && let Some(name) = cursor.name()
    {
        part.found.effect(SessionEffect::Execute { name });
    }
}

fn truncate(mut cursor: Cursor<'_>) -> Part {
    let mut part = Part::new(Effect::Write, "truncate", "TRUNCATE empties tables");
    let _ = cursor.take("table");
    loop {
        let _ = cursor.take("only");
        match cursor.dotted_name() {
            Some(name) => part.found.writes(name),
            None => return part,
        }
        let _ = cursor.take_mark("*");
        if !cursor.take_mark(",") {
            return part;
        }
    }
}

/// EXPLAIN only plans, so that a write is as good as a read, unless ANALYZE is on.
fn explain(mut cursor: Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    let analyze = explain_options(&mut cursor)?;
    let mut part = match cursor.word(0).as_str() {
        "select" | "with" | "values" | "table" | "insert" | "update" | "delete" | "merge" | "" => {
            classify::query(cursor.rest(), source)
        }
        "declare" => recognise(&Cursor::new(source.text, cursor.rest()), source)?,
        // EXECUTE, CREATE TABLE AS, REFRESH: what they run is not here to be seen.
        _ => {
            let reason = "it explains something that is not a query";
            let mut part = Part::new(Effect::Write, "explain", reason);
            executes(cursor, &mut part);
            return Some(part);
        }
    };
    if analyze {
        return Some(part);
    }
    // EXPLAIN of SELECT INTO TEMP fails on a standby although nothing is made.
    if part.is_ddl {
        let reason = "it explains something that makes a table";
        return Some(Part::new(Effect::Write, "explain", reason));
    }
    // Nothing is run: no call leaves anything behind, no cursor is opened.
    part.found.session.clear();
    part.found.problems.retain(|problem| problem.planning);
    part.found.tables_read.append(&mut part.found.tables_written);
    (part.effect, part.code, part.reason) = match part.found.problems.first() {
        Some(problem) => (problem.effect, problem.code, problem.reason.clone()),
        None => (Effect::Read, "explain", Arc::from("it only plans")),
    };
    Some(part)
}

/// Takes the options; whether ANALYZE is among them and not switched off in a known way.
fn explain_options(cursor: &mut Cursor<'_>) -> Option<bool> {
    if !cursor.is_mark("(") || matches!(cursor.word(1).as_str(), "select" | "with" | "values") {
        let analyze = cursor.take_any(&["analyze", "analyse"]);
        let _ = cursor.take("verbose");
        return Some(analyze);
    }
    let mut inside = *cursor;
    if !cursor.skip_parenthesis() {
        return None;
    }
    // `((select 1))` is a query, not options.
    if !matches!(
        inside.word(1).as_str(),
        "analyze"
            | "analyse"
            | "verbose"
            | "costs"
            | "settings"
            | "generic_plan"
            | "buffers"
            | "serialize"
            | "wal"
            | "timing"
            | "summary"
            | "memory"
            | "format"
    ) {
        *cursor = inside;
        return Some(false);
    }
    let mut analyze = false;
    while inside.at < cursor.at {
        if inside.take_any(&["analyze", "analyse"]) {
            let off = matches!(inside.word(0).as_str(), "off" | "false" | "no")
                || inside.tokens.get(inside.at).is_some_and(|token| {
                    matches!(
                        token.bytes(inside.text),
                        b"0" | b"'off'" | b"'false'" | b"'no'" | b"'0'"
                    )
                });
            analyze = !off;
        } else {
            inside.at += 1;
        }
    }
    Some(analyze)
}

fn copy(mut cursor: Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    let _ = cursor.take("binary");
    let mut part = if cursor.is_mark("(") {
        let from = cursor.at + 1;
        if !cursor.skip_parenthesis() {
            return None;
        }
        classify::query(cursor.tokens.get(from..cursor.at - 1)?, source)
    } else {
        let name = cursor.dotted_name()?;
        let _ = cursor.skip_parenthesis();
        if cursor.word(0) == "from" {
            let mut part = Part::new(Effect::Write, "copy_from", "COPY FROM changes data");
            part.found.writes(name);
            return Some(part);
        }
        copied_table(&name, source.catalog)
    };
    if !cursor.take("to") {
        return None;
    }
    if cursor.word(0) != "stdout" && part.effect == Effect::Read {
        // A file of the server, or a program on it.
        part.effect = Effect::Write;
        part.code = "copy_to_file";
        part.reason = Arc::from("COPY writes a file of the server");
    }
    Some(part)
}

/// `COPY table TO`, which reads the table itself: a view is refused by the server.
fn copied_table(name: &str, catalog: &Catalog) -> Part {
    let (schema, table) = match name.rsplit_once('.') {
        Some((schema, table)) => (Some(schema), table),
        None => (None, name),
    };
    let mut part = Part::new(Effect::Read, "copy_to", "COPY TO reads a table");
    let (verdict, pins) = catalog.relation(schema, table);
    part.found.verdict(verdict, true);
    part.found.verdict(catalog.database(), true);
    pins.into_iter().for_each(|pin| part.found.effect(SessionEffect::Pin(pin)));
    part.found.reads(join_name(schema, table));
    classify::judged(part)
}

/// DECLARE name … CURSOR [WITH HOLD] FOR query.
fn declare(mut cursor: Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    cursor.name()?;
    while cursor.take_any(&["binary", "asensitive", "insensitive", "no", "scroll"]) {}
    if !cursor.take("cursor") {
        return None;
    }
    let hold = cursor.take_all(&["with", "hold"]);
    let _ = cursor.take_all(&["without", "hold"]);
    if !cursor.take("for") {
        return None;
    }
    let mut part = classify::query(cursor.rest(), source);
    part.found.effect(match hold {
        true => SessionEffect::Pin(Pin::HoldCursor),
        // Only a note that the transaction has state on its server.
        false => SessionEffect::Doubt(Pin::HoldCursor),
    });
    Some(part)
}

/// CLOSE of one cursor may be of a held one or not; only CLOSE ALL is certain.
fn close(mut cursor: Cursor<'_>) -> Option<Part> {
    let part = match cursor.take("all") {
        true => session(SessionEffect::Unpin(Pin::HoldCursor), "it closes all cursors"),
        false => {
            cursor.name()?;
            session(SessionEffect::Doubt(Pin::HoldCursor), "it closes a cursor")
        }
    };
    cursor.at_end().then_some(part)
}

fn unlisten(mut cursor: Cursor<'_>) -> Option<Part> {
    if cursor.take_mark("*") {
        return Some(session(SessionEffect::Unpin(Pin::Listen), "it stops listening"));
    }
    cursor.name()?;
    Some(session(SessionEffect::Doubt(Pin::Listen), "it stops listening to one channel"))
}

/// PREPARE name [(types)] AS statement.
fn prepare(mut cursor: Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    let name = cursor.name()?;
    if cursor.is_mark("(") && !cursor.skip_parenthesis() {
        return None;
    }
    if !cursor.take("as") {
        return None;
    }
    // Only queries and changes of data can be prepared, so this does not go around in circles.
    if !classify::starts_query(&cursor) {
        return None;
    }
    let body = Arc::new(classify::statement_of(classify::query(cursor.rest(), source), None));
    let mut part = session(SessionEffect::Prepare { name, body }, "it prepares a statement");
    part.found.effect(SessionEffect::Pin(Pin::PreparedStatement));
    Some(part)
}

/// EXECUTE: a write unless the session knows the statement (`Statement::effect_executed`).
fn execute(mut cursor: Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    let name = cursor.name()?;
    let mut part = Part::new(Effect::Write, "execute", "it runs a prepared statement");
    if cursor.is_mark("(") {
        // `SELECT (arguments)` is a read if and only if the arguments are.
        let mut text = b"select ".to_vec();
        let arguments = cursor.rest();
        if let (Some(first), Some(last)) = (arguments.first(), arguments.last()) {
            text.extend_from_slice(source.text.get(first.start..last.end).unwrap_or_default());
        }
        let inner = Source { text: &text, ..*source };
        let tokens = inner.tokens();
        let evaluated = classify::query(&tokens, &inner);
        if evaluated.effect != Effect::Read {
            (part.effect, part.code) = (evaluated.effect, "execute_arguments");
            part.reason = evaluated.reason;
        }
        part.found = evaluated.found;
    } else if !cursor.at_end() {
        return None;
    }
    part.found.effect(SessionEffect::Execute { name });
    Some(part)
}

fn deallocate(mut cursor: Cursor<'_>) -> Option<Part> {
    if cursor.word(0) == "prepare" && cursor.rest().len() > 1 {
        cursor.at += 1;
    }
    let name = match cursor.tokens.get(cursor.at) {
        Some(token) if token.kind == Kind::Word && cursor.word(0) == "all" => {
            cursor.at += 1;
            None
        }
        _ => Some(cursor.name()?),
    };
    let part = session(SessionEffect::Deallocate(name), "it forgets a prepared statement");
    cursor.at_end().then_some(part)
}
