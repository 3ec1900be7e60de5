//! What was found in one statement: names, and the reasons why it is no read.

use super::catalog::Verdict;
use super::statement::{Effect, Pin, SessionEffect};
use std::sync::Arc;

/// Names of one kind that a statement keeps. A statement with more is not certain to be a read.
const NAMES_MAX: usize = 512;
/// Session effects of one statement; beyond them it is not known what it does.
pub(super) const EFFECTS_MAX: usize = 64;
const EFFECTS_LAST: usize = EFFECTS_MAX - 1;
/// The first reasons are enough for people, and any one is enough for routing.
const PROBLEMS_MAX: usize = 8;

/// Why a statement is not a read.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub effect: Effect,
    pub code: &'static str,
    pub reason: Arc<str>,
    /// Whether it still counts if the statement is only planned (EXPLAIN without ANALYZE).
    pub planning: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Found {
    pub tables_read: Vec<Arc<str>>,
    pub tables_written: Vec<Arc<str>>,
    pub functions: Vec<Arc<str>>,
    pub session: Vec<SessionEffect>,
    pub problems: Vec<Problem>,
    /// Why the answer depends on the server that gives it, if it does.
    pub server_local: Option<Arc<str>>,
    /// Whether it calls `set_config` with constant arguments.
    pub sets: bool,
}

impl Found {
    pub fn problem(&mut self, effect: Effect, code: &'static str, reason: impl Into<Arc<str>>) {
        self.push(Problem { effect, code, reason: reason.into(), planning: false });
    }

    fn push(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    /// No tree: nothing is known of the statement, whether it is run or only planned.
    pub fn unparsed(&mut self, code: &'static str, reason: String) {
        let reason = Arc::from(reason);
        self.push(Problem { effect: Effect::Unknown, code, reason, planning: true });
    }

    /// A word that no read contains.
    pub fn forbidden(&mut self, word: &str) {
        if !self.problems.iter().any(|problem| problem.effect == Effect::Write) {
            self.problem(Effect::Write, "forbidden_word", format!("it has {word}"));
        }
    }

    /// A node of the tree that the walk does not know: never a read.
    pub fn unknown(&mut self, what: &str) {
        let reason = Arc::from(format!("{what} is not known to be a read"));
        self.push(Problem {
            effect: Effect::Unknown,
            code: "unknown_syntax",
            reason,
            planning: true,
        });
    }

    /// Takes over what the catalog says. `planning`: whether it matters to planning as well.
    pub fn verdict(&mut self, verdict: Verdict, planning: bool) {
        match verdict {
            Verdict::Safe => {}
            Verdict::ServerLocal(reason) => {
                self.server_local.get_or_insert(reason);
            }
            Verdict::Refused { effect, code, reason } => {
                self.push(Problem { effect, code, reason, planning });
            }
        }
    }

    pub fn reads(&mut self, name: Arc<str>) {
        if !add(&mut self.tables_read, name) {
            self.unknown("a statement with so many tables");
        }
    }

    pub fn writes(&mut self, name: Arc<str>) {
        add(&mut self.tables_written, name);
    }

    pub fn calls(&mut self, name: Arc<str>) {
        add(&mut self.functions, name);
    }

    /// Adds an effect that is not there yet; a statement with too many of them pins the session.
    pub fn effect(&mut self, effect: SessionEffect) {
        match self.session.len() {
            EFFECTS_MAX.. => {}
            EFFECTS_LAST => self.session.push(SessionEffect::Pin(Pin::Unknown)),
            _ if self.session.contains(&effect) => {}
            _ => self.session.push(effect),
        }
    }

    /// The pins among the session effects.
    pub fn pins(&self) -> impl Iterator<Item = Pin> + '_ {
        self.session.iter().filter_map(|effect| match effect {
            SessionEffect::Pin(pin) => Some(*pin),
            // Whoever reads the view sets the setting.
            SessionEffect::Set { .. } | SessionEffect::Learn(_) => Some(Pin::Setting),
            _ => None,
        })
    }
}

/// False if there is no room. A full list is not searched: that would take quadratic time.
fn add(names: &mut Vec<Arc<str>>, name: Arc<str>) -> bool {
    if names.len() >= NAMES_MAX {
        return false;
    }
    if !names.contains(&name) {
        names.push(name);
    }
    true
}
