//! Stand-ins for statements of which the proxy knows nothing.

use crate::sql::{Effect, Pin, SessionEffect, Statement};

/// A statement that the proxy has not seen.
pub fn foreign() -> Statement {
    unseen("unknown_prepared", "runs a prepared statement that the proxy has not seen", vec![])
}

/// A text that is longer than what is parsed.
pub fn too_large() -> Statement {
    let session = vec![SessionEffect::Pin(Pin::Unknown)];
    unseen("too_large", "the text is longer than what is parsed", session)
}

/// A text in an encoding in which nobody here can tell where a string ends.
pub fn unreadable() -> Statement {
    let session = vec![SessionEffect::Pin(Pin::Unknown)];
    unseen("unreadable_encoding", "its client_encoding cannot be read by the proxy", session)
}

fn unseen(code: &'static str, reason: &str, session: Vec<SessionEffect>) -> Statement {
    Statement {
        effect: Effect::Unknown,
        reason: reason.into(),
        reason_code: code,
        tables_read: vec![],
        tables_written: vec![],
        functions: vec![],
        session,
        ends_first: false,
        count: 1,
        is_ddl: false,
        hint: None,
    }
}
