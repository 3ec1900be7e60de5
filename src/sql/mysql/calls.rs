//! What a statement leaves behind in the session and what it tells of it, seen on its tokens:
//! calls, user variables, system variables, and the words that no read contains. The tree says
//! some of it as well; this holds whether or not there is one.

use super::super::calls::name_of;
use super::super::catalog::{Catalog, Verdict};
use super::super::found::Found;
use super::super::functions::Builtin;
use super::super::lex::{Kind, Token};
use super::super::parse::lower;
use super::super::statement::{Effect, Pin, Recall, SessionEffect};
use super::functions::{self, Variable};
use std::sync::Arc;

/// The word of a statement that no read contains, if it has one.
pub fn forbidden(text: &[u8], tokens: &[Token]) -> Option<&'static str> {
    let word = |at: usize| -> String {
        match tokens.get(at) {
            Some(token) if token.kind == Kind::Word => lower(token.bytes(text)),
            Some(token) if token.kind == Kind::Mark => lower(token.bytes(text)),
            _ => String::new(),
        }
    };
    let (mut before, mut this) = (String::new(), word(0));
    for at in 0..tokens.len() {
        let next = word(at + 1);
        let found = match this.as_str() {
            _ if before == "." => None,
            // INSERT() and REPLACE() are functions as well.
            "insert" if next != "(" => Some("INSERT"),
            "replace" if next != "(" => Some("REPLACE"),
            "update" => Some("UPDATE"),
            "delete" => Some("DELETE"),
            "into" => Some("INTO"),
            "share" if matches!(before.as_str(), "for" | "in") => Some("a locking clause"),
            "value" if next == "for" && matches!(before.as_str(), "next" | "previous") => {
                Some("a value of a sequence")
            }
            "analyse" if before == "procedure" => Some("PROCEDURE ANALYSE"),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        (before, this) = (this, next);
    }
    None
}

/// Adds what the tokens of one statement say to what was found.
pub fn trace(text: &[u8], tokens: &[Token], catalog: &Catalog, found: &mut Found) {
    // In the list behind INTO.
    let mut into = false;
    for (at, token) in tokens.iter().enumerate() {
        let next = tokens.get(at + 1).map_or(&b""[..], |next| next.bytes(text));
        into = token.bytes(text).eq_ignore_ascii_case(b"into")
            || into && (token.kind == Kind::UserVariable || token.bytes(text) == b",");
        // Outside of SET nothing else is assigned by `:=`.
        let assigns = match token.kind {
            Kind::UserVariable => into,
            _ => token.bytes(text) == b":=",
        };
        match token.kind {
            _ if assigns => {
                found.problem(Effect::Write, "user_variable", "it assigns a user variable");
                found.effect(SessionEffect::Pin(Pin::Variable));
            }
            Kind::Word if token.bytes(text).eq_ignore_ascii_case(b"sql_calc_found_rows") => {
                found.effect(SessionEffect::Counts);
            }
            Kind::SystemVariable => system_variable(&lower(token.bytes(text)), found),
            Kind::Word if token.bytes(text).eq_ignore_ascii_case(b"value") => {
                let before = at.checked_sub(1).and_then(|at| name_of(text, &tokens[at]));
                let sequence = matches!(before.as_deref(), Some("next" | "previous"));
                if sequence && next.eq_ignore_ascii_case(b"for") {
                    found.effect(SessionEffect::Pin(Pin::Sequence));
                }
            }
            Kind::Word | Kind::Quoted if next == b"(" => {
                let Some(name) = name_of(text, token) else { continue };
                let qualified = at > 0 && tokens[at - 1].bytes(text) == b".";
                let empty = tokens.get(at + 2).is_some_and(|end| end.bytes(text) == b")");
                call(&name.to_lowercase(), qualified, !empty, catalog, found);
            }
            _ => {}
        }
    }
}

fn call(name: &str, qualified: bool, has_arguments: bool, catalog: &Catalog, found: &mut Found) {
    for effect in catalog.traces(name) {
        found.effect(effect.clone());
    }
    // NEXTVAL and its like are called with the sequence's name, but belong to nobody.
    if qualified {
        return;
    }
    for effect in functions::trace(name, has_arguments) {
        found.effect(effect.clone());
    }
    let refused = catalog.engine.is_some_and(|engine| {
        functions::function(engine, name) == Builtin::Refused
            || name == "last_insert_id" && has_arguments
    });
    if refused && !catalog.is_read_by_rule(name) && found.problems.is_empty() {
        let reason = format!("{name}() writes, or changes what only the primary knows");
        found.problem(Effect::Write, "function", reason);
    }
}

fn system_variable(written: &str, found: &mut Found) {
    let name = written.trim_start_matches('@');
    match functions::variable(name) {
        Variable::Safe => {}
        Variable::ServerLocal => {
            let reason = format!("{written} may differ by server");
            found.verdict(Verdict::ServerLocal(Arc::from(reason)), false);
        }
        Variable::Recall(what) => found.effect(SessionEffect::Recall(what)),
    }
}

/// The effect of a statement that tells of the statement before.
pub fn diagnostics() -> SessionEffect {
    SessionEffect::Recall(Recall::Diagnostics)
}
