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
    let mut certain = None;
    for (at, token) in tokens.iter().enumerate() {
        if tokens.get(at + 1).is_none_or(|next| next.bytes(text) != b"(") {
            continue;
        }
        let Some(name) = name_of(text, token) else { continue };
        let schema = schema_of(text, tokens, at);
        for effect in catalog.traces(&name) {
            found.effect(effect.clone());
        }
        let built_in = matches!(schema.as_deref(), None | Some("pg_catalog"));
        if built_in && name == "set_config" {
            let certain = *certain.get_or_insert_with(|| runs_once(text, tokens));
            set_config(text, &tokens[at + 2..], certain, found);
            continue;
        }
        if built_in && name == "current_setting" {
            current_setting(text, &tokens[at + 2..], found);
            continue;
        }
        let known = functions::trace(&name);
        match known.filter(|_| built_in || functions::function(&name) == Builtin::Unknown) {
            Some(Trace::Pin(pin)) => {
                found.effect(SessionEffect::Pin(pin));
                // The lock may not have been had.
                if name.starts_with("pg_try_") {
                    found.effect(SessionEffect::Doubt(pin));
                }
            }
            Some(Trace::Doubt(pin)) => found.effect(SessionEffect::Doubt(pin)),
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

/// Adds what triggers may leave behind.
pub(super) fn fired(catalog: &Catalog, found: &mut Found) {
    let tables = found.tables_written.iter();
    let effects: Vec<_> = tables.flat_map(|table| catalog.fired(table)).cloned().collect();
    effects.into_iter().for_each(|effect| found.effect(effect));
}

/// A setting's value, as `current_setting` tells it, as SQL that can stand after `SET name TO `;
/// `None` for a list of names that cannot be taken apart.
pub fn setting_as_sql(name: &str, value: &str) -> Option<Arc<str>> {
    if NAME_LISTS.contains(&name) {
        return name_list(value);
    }
    let doubled = value.replace('\'', "''");
    Some(match doubled.contains('\\') {
        true => Arc::from(format!(" E'{}'", doubled.replace('\\', "\\\\"))),
        false => Arc::from(format!("'{doubled}'")),
    })
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

/// `rest` starts behind the parenthesis. `certain`: the call is run exactly once.
fn set_config(text: &[u8], rest: &[Token], certain: bool, found: &mut Found) {
    match constant_setting(text, rest) {
        Some(effect) if certain => {
            found.sets = true;
            found.effect(effect);
        }
        constant => match set_by(text, rest) {
            SetBy::Local(Some(name)) => {
                found.sets = true;
                found.effect(SessionEffect::Set { name, value: None, local: true });
            }
            SetBy::Named(name) => {
                found.sets = true;
                found.effect(SessionEffect::Learn(name));
            }
            // Nothing stays, but for the transaction no name's meaning is known.
            SetBy::Local(None) => {
                let reason = "set_config() of a name that is not constant";
                found.problem(Effect::Write, "function", reason);
                let name = Arc::from("search_path");
                found.effect(SessionEffect::Set { name, value: None, local: true });
            }
            SetBy::Unknown => {
                if constant.is_none() {
                    let reason = "set_config() of a name that is not constant";
                    found.problem(Effect::Write, "function", reason);
                }
                found.effect(SessionEffect::Pin(Pin::Setting));
            }
        },
    }
}

/// What a call of `set_config` with arguments that need not be constant sets.
pub(super) enum SetBy {
    /// Something until the transaction ends; the name, where it is constant.
    Local(Option<Arc<str>>),
    /// This setting, to a value that the text need not tell.
    Named(Arc<str>),
    /// More than a setting (the modes of the transaction, the proxy's own), or nobody knows.
    Unknown,
}

/// `rest` starts behind the parenthesis of the call.
pub(super) fn set_by(text: &[u8], rest: &[Token]) -> SetBy {
    let arguments = arguments(text, rest);
    let [name, _, local] = arguments[..] else { return SetBy::Unknown };
    let constant = name.first().and_then(|first| string_value(first.bytes(text)));
    let is_plain = |name: &String| {
        let alone = matches!(name_tail(text, rest), Some(b",") | Some(b"::"));
        alone && !name.starts_with("transaction_") && !name.starts_with("tiffin.")
    };
    let known = constant.map(|name| name.to_ascii_lowercase());
    let plain = known.clone().filter(is_plain).map(Arc::from);
    let is_local = matches!(local, [one] if one.bytes(text).eq_ignore_ascii_case(b"true"));
    match (plain, is_local) {
        (Some(name), true) => SetBy::Local(Some(name)),
        (Some(name), false) => SetBy::Named(name),
        (None, true) if known.is_none() => SetBy::Local(None),
        _ => SetBy::Unknown,
    }
}

/// What follows the first token of the arguments.
fn name_tail<'a>(text: &'a [u8], rest: &[Token]) -> Option<&'a [u8]> {
    rest.get(1).map(|token| token.bytes(text))
}

/// Arguments that are longer together are not looked at: calls may nest as deep as a text is long.
const ARGUMENT_TOKENS_MAX: usize = 256;

/// The arguments of a call, whose parenthesis is open; empty if its end is not seen.
fn arguments<'t>(text: &[u8], rest: &'t [Token]) -> Vec<&'t [Token]> {
    let (mut depth, mut from) = (0usize, 0);
    let mut arguments = Vec::new();
    for (at, token) in rest.iter().take(ARGUMENT_TOKENS_MAX).enumerate() {
        match token.bytes(text) {
            b"(" | b"[" => depth += 1,
            b")" if depth == 0 => {
                arguments.push(&rest[from..at]);
                return arguments;
            }
            b")" | b"]" => depth = depth.saturating_sub(1),
            b"," if depth == 0 => {
                arguments.push(&rest[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    Vec::new()
}

/// The constant name of a setting that is no more than a setting.
fn setting_name(text: &[u8], rest: &[Token]) -> Option<Arc<str>> {
    match set_by(text, rest) {
        SetBy::Local(name) => name,
        SetBy::Named(name) => Some(name),
        SetBy::Unknown => None,
    }
}

/// Words with which a call in a SELECT may be run never or more than once.
const UNCERTAIN: &[&str] = &[
    "from",
    "where",
    "case",
    "limit",
    "offset",
    "fetch",
    "having",
    "coalesce",
    "nullif",
    "and",
    "or",
    "union",
    "intersect",
    "except",
    "with",
    "in",
    "exists",
    "any",
    "all",
    "values",
];

/// Whether what a statement calls is run once for certain: a SELECT of nothing but calls.
fn runs_once(text: &[u8], tokens: &[Token]) -> bool {
    let mut words = tokens
        .iter()
        .filter(|token| token.kind == Kind::Word)
        .map(|token| String::from_utf8_lossy(token.bytes(text)).to_ascii_lowercase());
    words.next().is_some_and(|word| word == "select")
        && !words.any(|word| UNCERTAIN.contains(&word.as_str()))
}

fn constant_setting(text: &[u8], rest: &[Token]) -> Option<SessionEffect> {
    let name = setting_name(text, rest)?;
    let mut at = 0;
    constant(text, rest, &mut at, b",")?;
    let value = constant(text, rest, &mut at, b",")?;
    let local = match name_of(text, constant(text, rest, &mut at, b")")?)?.as_str() {
        "true" => true,
        "false" => false,
        _ => return None,
    };
    let bytes = value.bytes(text);
    let value = if value.kind == Kind::Word && bytes.eq_ignore_ascii_case(b"null") {
        None
    } else if NAME_LISTS.contains(&&*name) {
        Some(name_list(&string_value(bytes)?)?)
    } else {
        string_value(bytes)?;
        Some(Arc::from(std::str::from_utf8(bytes).ok()?))
    };
    Some(SessionEffect::Set { name, value, local })
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

/// No name at all, as `set_config('search_path', '', false)` leaves it; with SET a list has at least
/// one name, and this is one without a letter.
pub const EMPTY_LIST: &str = "/* none */ ''";

/// `a, "B"` as `"a", "B"`.
fn name_list(value: &str) -> Option<Arc<str>> {
    if value.trim().is_empty() {
        return Some(Arc::from(EMPTY_LIST));
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
