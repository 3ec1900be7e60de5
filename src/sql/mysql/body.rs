//! What the body of a stored routine or trigger says: whether it only reads, what it may leave
//! behind in the session that runs it, and which names it has. Seen on its tokens: a body is a
//! program, and sqlparser does not know all of that language.

use super::super::catalog::Catalog;
use super::super::functions::Builtin;
use super::super::lex::{Kind, Token};
use super::super::parse::{lower, unquote};
use super::super::statement::{Pin, SessionEffect};
use super::functions;
use super::lex::Lexer;
use super::{Engine, Reading};
use std::collections::HashSet;
use std::sync::Arc;

/// A longer body is not read: it may do anything.
const BODY_BYTES_MAX: usize = 256 << 10;

/// Words of statements that a function that only reads does not have.
const NO_READ: &[&str] = &[
    "insert",
    "replace",
    "update",
    "delete",
    "call",
    "truncate",
    "load",
    "create",
    "drop",
    "alter",
    "rename",
    "grant",
    "revoke",
    "lock",
    "unlock",
    "analyze",
    "optimize",
    "repair",
    "flush",
    "outfile",
    "dumpfile",
    "share",
    "prepare",
    "execute",
    "immediate",
    "handler",
    "kill",
    "commit",
    "rollback",
    "savepoint",
    "xa",
    "signal",
    "next",
    "previous",
    "global",
    "persist",
    "for",
];

/// Words of the language that may stand before a parenthesis and are no call then.
const LANGUAGE: &[&str] = &[
    "and",
    "or",
    "xor",
    "on",
    "using",
    "where",
    "from",
    "select",
    "when",
    "then",
    "else",
    "return",
    "returns",
    "union",
    "while",
    "until",
    "elseif",
    "set",
    "case",
    "having",
    "by",
    "limit",
    "as",
    "into",
    "like",
    "between",
    "join",
    "over",
    "decimal",
    "varchar",
    "varbinary",
    "int",
    "enum",
    "numeric",
    "double",
    "float",
    "begin",
    "div",
    "is",
    "regexp",
    "rlike",
    "key",
    "partition",
    "index",
    "bigint",
    "text",
    "blob",
    "datetime",
    "bit",
    "tinyint",
    "smallint",
    "distinct",
    "end",
];

fn tokens(body: &[u8]) -> Vec<Token> {
    Lexer::new(body, Reading::new(Engine::MariaDb)).collect()
}

/// The name that a token stands for, in lower case.
fn name(body: &[u8], token: &Token) -> Option<String> {
    match token.kind {
        Kind::Word => Some(lower(token.bytes(body))),
        Kind::Quoted => Some(unquote(token.bytes(body)).to_lowercase()),
        _ => None,
    }
}

/// Whether nothing in the body can write. `callable`: whether a function of the users' is safe.
pub fn only_reads(body: &[u8], catalog: &Catalog, callable: impl Fn(&str) -> bool) -> bool {
    let Some(engine) = catalog.engine.filter(|_| body.len() <= BODY_BYTES_MAX) else {
        return false;
    };
    let tokens = tokens(body);
    let is_safe = |(at, token): (usize, &Token)| {
        let next = tokens.get(at + 1).map_or(&b""[..], |next| next.bytes(body));
        let Some(name) = name(body, token) else {
            return !matches!(
                token.kind,
                Kind::Other | Kind::Broken | Kind::UserVariable | Kind::SystemVariable
            );
        };
        if next == b"(" {
            let built_in = functions::function(engine, &name);
            return match built_in {
                Builtin::Safe => name != "last_insert_id" && !catalog.rules.write.contains(&name),
                Builtin::ServerLocal | Builtin::Refused => false,
                Builtin::Unknown => {
                    token.kind == Kind::Word && LANGUAGE.contains(&name.as_str()) || callable(&name)
                }
            };
        }
        let plain = token.kind == Kind::Quoted || !NO_READ.contains(&name.as_str());
        // A handler of conditions is none of tables, and a loop is no locking clause.
        let declared = matches!(name.as_str(), "handler" | "for");
        plain || declared && !locks(body, &tokens, at)
    };
    tokens.iter().enumerate().all(is_safe)
}

/// Whether the word FOR here begins a locking clause; HANDLER never does.
fn locks(body: &[u8], tokens: &[Token], at: usize) -> bool {
    let next = tokens.get(at + 1).and_then(|next| name(body, next)).unwrap_or_default();
    match name(body, &tokens[at]).as_deref() {
        Some("for") => matches!(next.as_str(), "update" | "share"),
        // HANDLER t OPEN; a declared one is followed by FOR.
        _ => next != "for",
    }
}

/// The names and words of a body; none twice.
pub fn words_of_body(body: &[u8]) -> HashSet<String> {
    if body.len() > BODY_BYTES_MAX {
        return HashSet::new();
    }
    tokens(body).iter().filter_map(|token| name(body, token)).collect()
}

/// The effects on the session that running the body may have.
pub fn effects_of_body(body: &[u8]) -> Vec<SessionEffect> {
    let mut effects = Vec::new();
    let mut add = |effect: SessionEffect| {
        if !effects.contains(&effect) {
            effects.push(effect);
        }
    };
    if body.len() > BODY_BYTES_MAX {
        return vec![SessionEffect::Pin(Pin::Unknown)];
    }
    let tokens = tokens(body);
    for (at, token) in tokens.iter().enumerate() {
        let next = tokens.get(at + 1).map_or(&b""[..], |next| next.bytes(body));
        match token.kind {
            Kind::Other | Kind::Broken => add(SessionEffect::Pin(Pin::Unknown)),
            Kind::UserVariable => add(SessionEffect::Pin(Pin::Variable)),
            Kind::SystemVariable if matches!(next, b"=" | b":=") => add(learned(body, token)),
            _ => {}
        }
        let Some(word) = name(body, token) else { continue };
        match word.as_str() {
            "temporary" => {
                add(SessionEffect::Pin(Pin::TemporaryTable));
                add(SessionEffect::Doubt(Pin::TemporaryTable));
            }
            // Dynamic SQL: what it runs is put together when it runs.
            "prepare" | "execute" => {
                add(SessionEffect::Pin(Pin::PreparedStatement));
                add(SessionEffect::Pin(Pin::Unknown));
            }
            "set" => {
                let scope = tokens.get(at + 1).and_then(|next| name(body, next));
                if scope.as_deref() == Some("role") {
                    add(SessionEffect::Pin(Pin::Setting));
                }
                if matches!(scope.as_deref(), Some("session" | "local"))
                    && let Some(setting) = tokens.get(at + 2).and_then(|next| name(body, next))
                {
                    add(SessionEffect::Learn(Arc::from(setting)));
                }
            }
            "xa" => add(SessionEffect::Pin(Pin::DistributedTransaction)),
            _ if next == b"(" => {
                let empty = tokens.get(at + 2).is_some_and(|end| end.bytes(body) == b")");
                for effect in functions::trace(&word, !empty) {
                    // What it asks for itself is no matter of the client's.
                    if !matches!(effect, SessionEffect::Recall(_)) {
                        add(effect.clone());
                    }
                }
            }
            _ => {}
        }
    }
    effects
}

fn learned(body: &[u8], token: &Token) -> SessionEffect {
    let name = lower(token.bytes(body)).replace('`', "");
    let name = name.trim_start_matches('@');
    let name = name.strip_prefix("session.").or(name.strip_prefix("local.")).unwrap_or(name);
    SessionEffect::Learn(Arc::from(name))
}
