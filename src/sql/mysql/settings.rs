//! SET in all its forms, and USE, recognised on the tokens.

use super::super::classify::judged;
use super::super::cursor::{Cursor, Part};
use super::super::found::Found;
use super::super::lex::{Kind, Token};
use super::super::parse::{lower, unquote};
use super::super::statement::{Effect, Pin, SessionEffect};
use super::classify::{self, Source, string_value};
use super::control;
use std::sync::Arc;

/// The user variables that are the proxy's own settings.
const OWN: &str = "@tiffin_";

fn session(reason: &str) -> Part {
    Part::new(Effect::Session, "session", reason)
}

/// A change that the proxy cannot repeat on another connection.
fn unfollowed() -> Part {
    let mut part = session("it sets something that the proxy cannot follow");
    part.found.effect(SessionEffect::Pin(Pin::Setting));
    part
}

/// `SELECT @tiffin_…`, and SHOW of it: a setting of the proxy.
pub fn shown(cursor: &Cursor<'_>) -> Option<Part> {
    let key = match (cursor.word(0).as_str(), cursor.tokens) {
        ("select", [_, one]) if one.kind == Kind::UserVariable => {
            lower(one.bytes(cursor.text)).strip_prefix(OWN)?.to_owned()
        }
        ("show", [_, name, dot, key]) => {
            let is_own = name.bytes(cursor.text).eq_ignore_ascii_case(b"tiffin");
            (is_own && dot.bytes(cursor.text) == b".").then(|| lower(key.bytes(cursor.text)))?
        }
        _ => return None,
    };
    let mut part = session("it shows a setting of the proxy");
    part.found.effect(SessionEffect::ShowTiffin { key: Arc::from(key) });
    Some(part)
}

/// The statement if it is about settings.
pub fn recognise(cursor: &Cursor<'_>, source: &Source<'_>) -> Option<Part> {
    let mut cursor = *cursor;
    let word = cursor.word(0);
    cursor.at += 1;
    match word.as_str() {
        "set" => Some(set(cursor, source)),
        "use" => {
            let name = cursor.name()?;
            let mut part = session("it changes the default schema");
            part.found.effect(SessionEffect::Use(name));
            cursor.at_end().then_some(part)
        }
        _ => None,
    }
}

fn set(mut cursor: Cursor<'_>, source: &Source<'_>) -> Part {
    let (first, second) = (cursor.word(0), cursor.word(1));
    let assigned = matches!(cursor.tokens.get(cursor.at + 1), Some(token)
        if matches!(token.bytes(cursor.text), b"=" | b":="));
    match (first.as_str(), second.as_str()) {
        ("password", _) | ("default", "role") => {
            return Part::new(Effect::Write, "account", "it changes an account");
        }
        _ if assigned => {}
        ("role", _) => {
            cursor.at += 1;
            let Some(value) = cursor.rest_text() else { return unfollowed() };
            let mut part = session("it changes the role");
            let name = Arc::from("role");
            part.found.effect(SessionEffect::Set { name, value: Some(value), local: false });
            // MySQL tells nobody of it, and no server forgets it at COM_RESET_CONNECTION.
            part.found.effect(SessionEffect::Pin(Pin::Setting));
            return part;
        }
        ("resource", "group") => return unfollowed(),
        ("statement", _) => return with_settings(cursor, source),
        ("transaction", _) => {
            cursor.at += 1;
            return control::set_transaction(&mut cursor, false).unwrap_or_else(unfollowed);
        }
        ("global", "transaction") => {
            let reason = "it changes a setting of the whole server";
            return Part::new(Effect::Write, "global_setting", reason);
        }
        ("session" | "local", "transaction") => {
            cursor.at += 2;
            return control::set_transaction(&mut cursor, true).unwrap_or_else(unfollowed);
        }
        _ => {}
    }
    assignments(cursor, source)
}

/// MariaDB's `SET STATEMENT name = value, … FOR statement`.
fn with_settings(cursor: Cursor<'_>, source: &Source<'_>) -> Part {
    let tokens = cursor.rest();
    let is_for = |token: &Token| {
        token.kind == Kind::Word && token.bytes(source.text).eq_ignore_ascii_case(b"for")
    };
    let Some(place) = tokens.iter().position(is_for) else { return unfollowed() };
    let constant = |token: &Token| {
        !matches!(token.kind, Kind::UserVariable | Kind::Other)
            && !matches!(token.bytes(source.text), b"(" | b")")
    };
    let inner = &tokens[place + 1..];
    // MariaDB takes none in another one, and here they would go ever deeper.
    if Cursor::new(source.text, inner).word(0) == "set" {
        return unfollowed();
    }
    let mut inner = classify::one(inner, source);
    inner.found.effect(SessionEffect::SetsOnce);
    if tokens[1..place.max(1)].iter().all(constant) {
        return inner;
    }
    let reason = "it sets something for one statement by an expression";
    let mut part = Part::new(Effect::Write, "set_statement", reason);
    part.found = inner.found;
    part.found.effect(SessionEffect::Pin(Pin::Setting));
    part
}

/// Where a value is set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Session,
    /// `@@name` without a scope: of some variables, for the next transaction only.
    Bare,
    /// For the whole server.
    Global,
}

/// `SET a = 1, @b = 2, NAMES utf8mb4 …`
fn assignments(cursor: Cursor<'_>, source: &Source<'_>) -> Part {
    let mut part = session("it changes settings of the session");
    // A scope may hold for what follows as well; servers differ in that.
    let mut global_before = false;
    for tokens in items(source.text, cursor.rest()) {
        let mut item = Cursor::new(source.text, tokens);
        if charset(&mut item, &mut part.found) {
            continue;
        }
        let Some(scope) = one_assignment(&mut item, global_before, source, &mut part.found) else {
            return unfollowed_with(part);
        };
        global_before |= scope == Scope::Global;
    }
    if global_before {
        let reason = "it changes a setting of the whole server";
        part.found.problem(Effect::Write, "global_setting", reason);
    }
    judged(part)
}

fn unfollowed_with(part: Part) -> Part {
    let mut new = unfollowed();
    part.found.session.into_iter().for_each(|effect| new.found.effect(effect));
    // What is not understood may be a change of the whole server.
    new.effect = Effect::Unknown;
    new.code = "parse_error";
    new
}

/// The items of a list, by the commas that stand in no parenthesis.
fn items<'t>(text: &[u8], tokens: &'t [Token]) -> Vec<&'t [Token]> {
    let mut depth = 0usize;
    tokens
        .split(|token| {
            match token.bytes(text) {
                b"(" => depth += 1,
                b")" => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && token.kind == Kind::Mark && token.bytes(text) == b","
        })
        .collect()
}

fn assign(name: &str, value: Option<Arc<str>>, found: &mut Found) {
    found.effect(SessionEffect::Set { name: Arc::from(name), value, local: false });
}

fn learn(name: &str, found: &mut Found) {
    found.effect(SessionEffect::Learn(Arc::from(name)));
}

/// `NAMES …` and `CHARACTER SET …`.
fn charset(item: &mut Cursor<'_>, found: &mut Found) -> bool {
    let names = item.word(0) == "names" && item.tokens.len() > 1;
    if names {
        item.at += 1;
    } else {
        let short = item.tokens.len() == 2 && item.take("charset");
        if !short && !item.take_all(&["character", "set"]) {
            return false;
        }
    }
    let value = item.tokens.get(item.at).map(|token| lower(token.bytes(item.text)));
    item.at += 1;
    let value = value.filter(|value| value != "default").map(Arc::<str>::from);
    for name in ["character_set_client", "character_set_results"] {
        match &value {
            Some(value) => assign(name, Some(value.clone()), found),
            None => learn(name, found),
        }
    }
    match (&value, names) {
        (Some(value), true) => assign("character_set_connection", Some(value.clone()), found),
        _ => learn("character_set_connection", found),
    }
    if names && item.take("collate") {
        let collation = item.tokens.get(item.at).map(|token| lower(token.bytes(item.text)));
        assign("collation_connection", collation.map(Arc::from), found);
    } else {
        learn("collation_connection", found);
    }
    true
}

/// One `[scope] name = value`; the scope, or `None` if it is not understood.
fn one_assignment(
    item: &mut Cursor<'_>,
    global_before: bool,
    source: &Source<'_>,
    found: &mut Found,
) -> Option<Scope> {
    let (name, scope) = target(item)?;
    if !item.take_mark("=") && !item.take_mark(":=") {
        return None;
    }
    let value = item.rest();
    if value.is_empty() {
        return None;
    }
    let constant = constant(source, value);
    if let Some(key) = name.strip_prefix(OWN).or_else(|| name.strip_prefix("tiffin.")) {
        let value = constant.clone().flatten();
        let value = value.filter(|text| !text.eq_ignore_ascii_case("null"));
        let value = value.map(|text| own_value(&text));
        found.effect(SessionEffect::SetTiffin { key: Arc::from(key), value });
        return constant.map(|_| Scope::Session);
    }
    if constant.is_none() {
        let evaluated = classify::evaluated(value, source);
        merge(found, evaluated.found);
    }
    if name.starts_with('@') {
        found.effect(SessionEffect::Pin(Pin::Variable));
        return Some(Scope::Session);
    }
    if scope == Scope::Global {
        return Some(scope);
    }
    let known = constant.filter(|_| !global_before);
    match name.as_str() {
        "transaction_isolation" | "tx_isolation" | "transaction_read_only" | "tx_read_only" => {
            let value = known.clone().flatten();
            let modes = value.and_then(|value| control::modes_of(&name, &value));
            match modes {
                Some(modes) => found.effect(control::of_modes(modes, scope == Scope::Session)),
                None if scope == Scope::Session => learn(&name, found),
                None => found.effect(SessionEffect::Pin(Pin::Setting)),
            }
        }
        // For the next statement only, or not told by the server.
        "insert_id"
        | "last_insert_id"
        | "identity"
        | "rand_seed1"
        | "rand_seed2"
        | "gtid_next"
        | "gtid_seq_no"
        | "pseudo_thread_id"
        | "pseudo_slave_mode"
        | "pseudo_replica_mode"
        | "debug_sync"
        | "skip_replication" => {
            found.effect(SessionEffect::Pin(Pin::Setting));
        }
        _ => match known {
            Some(value) => assign(&name, value, found),
            None => learn(&name, found),
        },
    }
    Some(scope)
}

/// What is assigned to, in lower case; a user variable keeps its `@`.
fn target(item: &mut Cursor<'_>) -> Option<(String, Scope)> {
    let token = *item.tokens.get(item.at)?;
    let text = token.bytes(item.text);
    match token.kind {
        Kind::UserVariable => {
            item.at += 1;
            let name = text.get(1..)?;
            let quoted = matches!(name.first(), Some(b'`' | b'\'' | b'"'));
            let name = if quoted { unquote(name).to_lowercase() } else { lower(name) };
            return Some((format!("@{name}"), Scope::Session));
        }
        Kind::SystemVariable => {
            item.at += 1;
            let name = lower(text.get(2..)?).replace('`', "");
            return Some(match name.split_once('.') {
                Some(("session" | "local", rest)) => (rest.to_owned(), Scope::Session),
                Some(("global" | "persist" | "persist_only", rest)) => {
                    (rest.to_owned(), Scope::Global)
                }
                _ => (name, Scope::Bare),
            });
        }
        _ => {}
    }
    let mut scope = Scope::Session;
    let next_is_name = item
        .tokens
        .get(item.at + 1)
        .is_some_and(|next| matches!(next.kind, Kind::Word | Kind::Quoted));
    if next_is_name {
        match item.word(0).as_str() {
            "session" | "local" => {}
            "global" | "persist" | "persist_only" => scope = Scope::Global,
            _ => return None,
        }
        item.at += 1;
    }
    Some((item.dotted_name()?.to_lowercase(), scope))
}

/// The value as SQL if it is a constant; `Some(None)` for DEFAULT.
fn constant(source: &Source<'_>, tokens: &[Token]) -> Option<Option<Arc<str>>> {
    let text = |token: &Token| std::str::from_utf8(token.bytes(source.text)).ok();
    match tokens {
        [one] if matches!(one.kind, Kind::Word | Kind::Text | Kind::Number | Kind::Quoted) => {
            let value = text(one)?;
            Some((!value.eq_ignore_ascii_case("default")).then(|| Arc::from(value)))
        }
        [sign, number] if number.kind == Kind::Number => {
            let sign = text(sign).filter(|sign| matches!(*sign, "-" | "+"))?;
            Some(Some(Arc::from(format!("{sign}{}", text(number)?))))
        }
        _ => None,
    }
}

fn own_value(text: &str) -> Arc<str> {
    Arc::from(string_value(text.as_bytes()).unwrap_or_else(|| text.to_owned()))
}

/// Takes over what an expression does.
fn merge(found: &mut Found, other: Found) {
    other.tables_read.into_iter().for_each(|name| found.reads(name));
    other.functions.into_iter().for_each(|name| found.calls(name));
    other.session.into_iter().for_each(|effect| found.effect(effect));
    found.problems.extend(other.problems);
}
