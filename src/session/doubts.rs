//! What of a session's state only its server knows: whether the cause of a pin has ended, and
//! which value a setting has. The server is asked when the session is outside a transaction and
//! nothing is under way; until it has answered, the session keeps its connection.

use super::Pins;
use std::sync::Arc;

/// Settings of one session that are to be asked for at once; one more, and the session keeps its
/// connection instead.
pub const UNKNOWN_SETTINGS_MAX: usize = 16;

#[derive(Debug, Default)]
pub struct Doubts {
    /// Pins whose cause may have ended.
    pub pins: Pins,
    /// Names of settings with a value that is not known.
    pub settings: Vec<Arc<str>>,
    /// Nobody knows what the session has on its server, and it is not to stay there for that: all
    /// pins and settings are asked for.
    pub everything: bool,
    /// The question has been sent.
    pub asked: bool,
}

impl Doubts {
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty() && self.settings.is_empty() && !self.everything
    }
}

/// What a server said of its settings, by their names.
pub type AllLearned = Vec<(Arc<str>, Learned)>;

/// What a server said of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learned {
    /// As SQL that can stand after `SET name TO `.
    Value(Arc<str>),
    /// It has never been set.
    Unset,
    /// It cannot be repeated on another connection.
    Unreadable,
}
