//! What clients of MySQL and MariaDB do, as lines that can be written down and run again.
//!
//! ```text
//! # anything
//! narrow clients=2
//! 0 Q BEGIN
//! 1 N
//! ```
//!
//! A step is the client's number and one of the commands of
//! `integration/data/differential_mysql/README.md`, or one of these: `N schema` is
//! COM_CHANGE_USER, `G` leaves and comes back, `B` does so without a good-bye; `G eof` comes back
//! as a client without CLIENT_DEPRECATE_EOF.

use super::script::Arena;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    pub arena: Arena,
    pub clients: usize,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub client: usize,
    pub line: String,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arena = match self.arena {
            Arena::Narrow => "narrow",
            Arena::Wide => "wide",
        };
        writeln!(f, "{arena} clients={}", self.clients)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.client, self.line)
    }
}

/// Reads what [`Script`]'s `Display` writes. Panics on anything else, with the line.
pub fn read(text: &str) -> Script {
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let head = lines.next().expect("a script");
    let (arena, clients) = head.split_once(" clients=").expect(head);
    let arena = if arena == "narrow" { Arena::Narrow } else { Arena::Wide };
    let steps = lines.map(|line| {
        let (client, line) = line.split_once(' ').expect(line);
        Step { client: client.parse().expect(line), line: line.to_owned() }
    });
    Script { arena, clients: clients.parse().expect(head), steps: steps.collect() }
}
