//! SET, RESET, SHOW and DISCARD, recognised on the tokens.

use super::control;
use super::cursor::{Cursor, Part};
use super::functions;
use super::lex::Kind;
use super::statement::{Discard, Effect, Pin, SessionEffect, TransactionModes};
use std::sync::Arc;

/// The namespace of the proxy's own settings.
const OWN: &str = "tiffin.";

fn session(effect: SessionEffect, reason: &str) -> Part {
    let mut part = Part::new(Effect::Session, "session", reason);
    part.found.effect(effect);
    part
}

/// A SET whose effect the proxy cannot repeat on another connection.
fn unfollowed() -> Part {
    let reason = "it sets something that the proxy cannot follow";
    session(SessionEffect::Pin(Pin::Setting), reason)
}

/// The statement if it is about settings.
pub(super) fn recognise(cursor: &Cursor<'_>) -> Option<Part> {
    let mut cursor = *cursor;
    let word = cursor.word(0);
    cursor.at += 1;
    match word.as_str() {
        "set" => Some(set(&mut cursor).unwrap_or_else(unfollowed)),
        "reset" => reset(&mut cursor),
        "show" => show(&mut cursor),
        "discard" => discard(&mut cursor),
        _ => None,
    }
}

fn set(cursor: &mut Cursor<'_>) -> Option<Part> {
    if cursor.take_all(&["session", "characteristics", "as", "transaction"]) {
        return control::set_transaction(cursor, true);
    }
    if cursor.take("constraints") {
        let reason = "it sets when constraints are checked";
        return Some(Part::new(Effect::Write, "set_constraints", reason));
    }
    // `SET session authorization` is one thing, `SET SESSION name` another.
    let authorization = cursor.word(0) == "session" && cursor.word(1) == "authorization";
    let local = !authorization && cursor.take("local");
    let _ = !authorization && !local && cursor.take("session");
    if cursor.take("transaction") {
        return control::set_transaction(cursor, false);
    }
    match special(cursor) {
        Special::No => {}
        Special::Set(name, value) => return assign(name, value, local),
        Special::Unread(name) => return Some(learned(name)),
    }
    let name = cursor.dotted_name()?.to_ascii_lowercase();
    if !cursor.take("to") && !cursor.take_mark("=") {
        return None;
    }
    if let Some(key) = name.strip_prefix(OWN) {
        return Some(own(key, cursor));
    }
    let Some(value) = value(cursor) else { return Some(learned(&name)) };
    if matches!(
        name.as_str(),
        "transaction_read_only" | "transaction_deferrable" | "transaction_isolation"
    ) {
        return of_transaction(&name, value.as_deref()?);
    }
    assign(&name, value, local)
}

/// The modes of the open transaction have a second spelling as settings.
fn of_transaction(name: &str, value: &str) -> Option<Part> {
    let value = value.trim_matches('\'').to_ascii_lowercase();
    let on = match value.as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    };
    let mut modes = TransactionModes::default();
    match name {
        "transaction_read_only" => modes.read_only = Some(on?),
        "transaction_deferrable" => modes.deferrable = Some(on?),
        _ => modes.isolation = Some(control::isolation_named(&value)?),
    }
    Some(control::set_modes(modes))
}

/// A SET whose value is written in a way that cannot be repeated: the server is asked for it.
fn learned(name: &str) -> Part {
    session(SessionEffect::Learn(Arc::from(name)), "it changes a setting of the session")
}

/// What PL/pgSQL defines under its prefix. Anything else is gone, with a warning to whoever is
/// there, when the library is loaded.
const PLPGSQL: [&str; 5] =
    ["variable_conflict", "print_strict_params", "check_asserts", "extra_warnings", "extra_errors"];

fn assign(name: &str, value: Option<Arc<str>>, local: bool) -> Option<Part> {
    if name.strip_prefix("plpgsql.").is_some_and(|rest| !PLPGSQL.contains(&rest)) {
        return None;
    }
    let effect = SessionEffect::Set { name: Arc::from(name), value, local };
    Some(session(effect, "it changes a setting of the session"))
}

/// The value to the end of the statement; `Some(None)` for DEFAULT, `None` if there is none that
/// can be repeated.
fn value(cursor: &mut Cursor<'_>) -> Option<Option<Arc<str>>> {
    if cursor.word(0) == "default" && cursor.rest().len() == 1 {
        cursor.at += 1;
        return Some(None);
    }
    let plain = cursor.rest().iter().all(|token| match token.kind {
        Kind::Word | Kind::Quoted | Kind::Text | Kind::Number => true,
        Kind::Mark => token.bytes(cursor.text) == b",",
        Kind::Operator => matches!(token.bytes(cursor.text), b"-" | b"+"),
        _ => false,
    });
    if !plain || cursor.word(0) == "from" {
        return None;
    }
    cursor.rest_text().map(Some)
}

/// What of SET is not `name TO value`.
enum Special {
    No,
    Set(&'static str, Option<Arc<str>>),
    /// The value cannot be repeated.
    Unread(&'static str),
}

/// The forms that are not `name TO value`: the setting they mean and its value.
fn special(cursor: &mut Cursor<'_>) -> Special {
    let name = if cursor.take_all(&["time", "zone"]) {
        if cursor.word(0) == "local" {
            return Special::Set("timezone", None);
        }
        // `INTERVAL '…' HOUR TO MINUTE` cannot stand behind `SET timezone TO`.
        if cursor.word(0) == "interval" {
            return Special::Unread("timezone");
        }
        "timezone"
    } else if cursor.take_all(&["session", "authorization"]) {
        "session_authorization"
    } else if cursor.word(0) == "role" && !follows_assignment(cursor) {
        cursor.at += 1;
        "role"
    } else if cursor.word(0) == "names" && !follows_assignment(cursor) {
        cursor.at += 1;
        if cursor.at_end() {
            return Special::Set("client_encoding", None);
        }
        "client_encoding"
    } else if cursor.word(0) == "schema" && !follows_assignment(cursor) {
        cursor.at += 1;
        "search_path"
    } else if cursor.take_all(&["xml", "option"]) {
        "xmloption"
    } else {
        return Special::No;
    };
    match value(cursor) {
        Some(value) => Special::Set(name, value),
        None => Special::Unread(name),
    }
}

/// Whether the word here is followed by `TO` or `=`.
fn follows_assignment(cursor: &Cursor<'_>) -> bool {
    let mut next = *cursor;
    next.at += 1;
    next.word(0) == "to" || next.is_mark("=")
}

/// `SET tiffin.key = value`: the value without its quotes.
fn own(key: &str, cursor: &mut Cursor<'_>) -> Part {
    let value = match cursor.rest() {
        [_] if cursor.word(0) == "default" => None,
        [one] if one.kind == Kind::Text => cursor.string(),
        _ => cursor.rest_text().map(|text| text.to_string()),
    };
    let effect = SessionEffect::SetTiffin { key: Arc::from(key), value: value.map(Arc::from) };
    session(effect, "it changes a setting of the proxy")
}

fn reset(cursor: &mut Cursor<'_>) -> Option<Part> {
    let effect = if cursor.take("all") {
        SessionEffect::ResetAll
    } else if cursor.take_all(&["time", "zone"]) {
        SessionEffect::Reset(Arc::from("timezone"))
    } else if cursor.take_all(&["session", "authorization"]) {
        SessionEffect::Reset(Arc::from("session_authorization"))
    } else if cursor.take_all(&["transaction", "isolation", "level"]) {
        SessionEffect::Reset(Arc::from("transaction_isolation"))
    } else {
        let name = cursor.dotted_name()?.to_ascii_lowercase();
        match name.strip_prefix(OWN) {
            Some(key) => SessionEffect::SetTiffin { key: Arc::from(key), value: None },
            None => SessionEffect::Reset(Arc::from(name)),
        }
    };
    cursor.at_end().then(|| session(effect, "it resets a setting of the session"))
}

fn show(cursor: &mut Cursor<'_>) -> Option<Part> {
    let name = if cursor.take_all(&["time", "zone"]) {
        "timezone".to_owned()
    } else if cursor.take_all(&["transaction", "isolation", "level"]) {
        "transaction_isolation".to_owned()
    } else if cursor.take_all(&["session", "authorization"]) {
        "session_authorization".to_owned()
    } else {
        cursor.dotted_name()?.to_ascii_lowercase()
    };
    if !cursor.at_end() {
        return None;
    }
    if let Some(key) = name.strip_prefix(OWN) {
        let effect = SessionEffect::ShowTiffin { key: Arc::from(key) };
        return Some(session(effect, "it shows a setting of the proxy"));
    }
    let mut part = Part::new(Effect::Read, "show", "it shows a setting of the session");
    if !functions::setting_follows_session(&name) {
        part.found.server_local = Some(Arc::from(format!("{name} may differ by server")));
    }
    Some(part)
}

fn discard(cursor: &mut Cursor<'_>) -> Option<Part> {
    let what = match cursor.word(0).as_str() {
        "all" => Discard::All,
        "plans" => Discard::Plans,
        "sequences" => Discard::Sequences,
        "temp" | "temporary" => Discard::Temp,
        _ => return None,
    };
    cursor.at += 1;
    cursor.at_end().then(|| session(SessionEffect::Discard(what), "it discards session state"))
}
