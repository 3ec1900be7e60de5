//! What the calls of a statement leave behind in the session, seen on its tokens: whether or not
//! there is a tree, and wherever in the statement the call stands.

use super::catalog::Catalog;
use super::found::Found;
use super::functions::{self, Builtin, Trace};
use super::lex::{Kind, Token};
use super::parse::unquote;
use super::statement::{Effect, Pin, SessionEffect};
use std::sync::Arc;

/// Settings whose value is a list of quoted names: `set_config` takes the list as one string,
/// SET takes each name by itself.
const NAME_LISTS: [&str; 4] =
    ["search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"];

/// Adds the pins, settings and refused calls of a statement to what was found.
pub(super) fn trace(text: &[u8], tokens: &[Token], catalog: &Catalog, found: &mut Found) {
    for (at, token) in tokens.iter().enumerate() {
        if tokens.get(at + 1).is_none_or(|next| next.bytes(text) != b"(") {
            continue;
        }
        let Some(name) = name_of(text, token) else { continue };
        let schema = schema_of(text, tokens, at);
        let built_in = matches!(schema.as_deref(), None | Some("pg_catalog"));
        if built_in && name == "set_config" {
            set_config(text, &tokens[at + 2..], found);
            continue;
        }
        if built_in && name == "current_setting" {
            current_setting(text, &tokens[at + 2..], found);
            continue;
        }
        let known = functions::trace(&name);
        match known.filter(|_| built_in || functions::function(&name) == Builtin::Unknown) {
            Some(Trace::Pin(pin)) => found.effect(SessionEffect::Pin(pin)),
            Some(Trace::Unpin(pin)) => found.effect(SessionEffect::Unpin(pin)),
            Some(Trace::Setting) => found.effect(SessionEffect::Pin(Pin::Setting)),
            None => {}
        }
        // The tree says so as well; this is the second opinion.
        if built_in
            && functions::function(&name) == Builtin::Refused
            && !catalog.is_read_by_rule(&name)
            && found.problems.is_empty()
        {
            let reason = format!("{name}() writes, locks or fails on a standby");
            found.problem(Effect::Write, "function", reason);
        }
    }
}

/// The name that a word or a quoted name stands for.
pub(super) fn name_of(text: &[u8], token: &Token) -> Option<String> {
    match token.kind {
        Kind::Word => Some(String::from_utf8_lossy(token.bytes(text)).to_ascii_lowercase()),
        Kind::Quoted => Some(unquote(token.bytes(text))),
        _ => None,
    }
}

/// The schema in front of the name at `at`.
fn schema_of(text: &[u8], tokens: &[Token], at: usize) -> Option<String> {
    let dot = tokens.get(at.checked_sub(1)?)?;
    let schema = tokens.get(at.checked_sub(2)?)?;
    if dot.bytes(text) != b"." {
        return None;
    }
    name_of(text, schema)
}

/// `rest` starts behind the parenthesis.
fn set_config(text: &[u8], rest: &[Token], found: &mut Found) {
    match constant_setting(text, rest) {
        Some(effect) => {
            found.sets = true;
            found.effect(effect);
        }
        None => {
            let reason = "set_config() with arguments that are not constants";
            found.problem(Effect::Write, "function", reason);
            found.effect(SessionEffect::Pin(Pin::Setting));
        }
    }
}

fn constant_setting(text: &[u8], rest: &[Token]) -> Option<SessionEffect> {
    let mut at = 0;
    let name = string_value(constant(text, rest, &mut at, b",")?.bytes(text))?;
    let value = constant(text, rest, &mut at, b",")?;
    let local = match name_of(text, constant(text, rest, &mut at, b")")?)?.as_str() {
        "true" => true,
        "false" => false,
        _ => return None,
    };
    let name = name.to_ascii_lowercase();
    // The modes of the transaction and the proxy's own settings are more than settings.
    if name.starts_with("transaction_") || name.starts_with("tiffin.") {
        return None;
    }
    let bytes = value.bytes(text);
    let value = if value.kind == Kind::Word && bytes.eq_ignore_ascii_case(b"null") {
        None
    } else if NAME_LISTS.contains(&name.as_str()) {
        Some(name_list(&string_value(bytes)?)?)
    } else {
        string_value(bytes)?;
        Some(Arc::from(std::str::from_utf8(bytes).ok()?))
    };
    Some(SessionEffect::Set { name: Arc::from(name), value, local })
}

/// The single token of an argument that ends in `end`; a cast of it to text is passed over.
fn constant<'t>(text: &[u8], tokens: &'t [Token], at: &mut usize, end: &[u8]) -> Option<&'t Token> {
    let argument = tokens.get(*at)?;
    *at += 1;
    if tokens.get(*at)?.bytes(text) == b"::" && tokens.get(*at + 1)?.bytes(text) == b"text" {
        *at += 2;
    }
    let ended = tokens.get(*at)?.bytes(text) == end;
    *at += 1;
    ended.then_some(argument)
}

/// `a, "B"` as `"a", "B"`.
fn name_list(value: &str) -> Option<Arc<str>> {
    if value.trim().is_empty() {
        return Some(Arc::from("''"));
    }
    let mut names = Vec::new();
    for part in value.split(',') {
        let part = part.trim();
        let inner = part.strip_prefix('"').and_then(|part| part.strip_suffix('"'));
        let name = match inner {
            Some(inner) => inner.to_owned(),
            None => part.to_ascii_lowercase(),
        };
        // A comma or a quote inside a name, or something that is no name.
        if name.is_empty() || name.contains('"') || (inner.is_none() && name.contains(' ')) {
            return None;
        }
        names.push(format!("\"{name}\""));
    }
    Some(Arc::from(names.join(", ")))
}

fn current_setting(text: &[u8], rest: &[Token], found: &mut Found) {
    let argument =
        constant(text, rest, &mut 0, b")").or_else(|| constant(text, rest, &mut 0, b","));
    let name = argument.and_then(|token| string_value(token.bytes(text)));
    match name {
        Some(name) if functions::setting_follows_session(&name) => {}
        Some(name) => {
            found.server_local.get_or_insert(Arc::from(format!("{name} may differ by server")));
        }
        None => {
            let reason = "current_setting() of a name that is not constant";
            found.server_local.get_or_insert(Arc::from(reason));
        }
    }
}

/// The value of a string literal that has no escapes but doubled quotes.
pub(super) fn string_value(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    if let Some(rest) = text.strip_prefix('$') {
        let tag = rest.find('$')? + 2;
        return text.get(tag..text.len().checked_sub(tag)?).map(str::to_owned);
    }
    let body = text.strip_prefix(['e', 'E']).unwrap_or(text);
    let inner = body.strip_prefix('\'')?.strip_suffix('\'')?;
    // A backslash means something in some of these literals, a lonely quote is a second part.
    if inner.contains('\\') || inner.replace("''", "").contains('\'') {
        return None;
    }
    Some(inner.replace("''", "'"))
}
