//! The table of every key: where it stands, what it takes, its default and a sentence.
//!
//! `section.rs` walks a file against it, the tests keep `config.example.yaml` and
//! `docs/configuration.md` equal to it. A new key is one row in `keys.rs` and one line in the function
//! of `check.rs`, `users.rs` or `cluster.rs` that builds its struct.

use super::keys::KEYS;
use super::units;

/// One key. In `path`, `*` stands for a name or for any item of a list.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Preset,
    pub(super) about: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Holds the keys whose path continues this one's.
    Section,
    /// Names chosen by the user, each with a section.
    Sections,
    /// A list of sections.
    List,
    /// Sections by name, or a list of them.
    Nodes,
    Text,
    Texts,
    /// Names, or names with the server's name of each.
    Databases,
    Flag,
    /// In milliseconds.
    Duration {
        min: u64,
        max: u64,
    },
    /// In bytes.
    Size {
        min: u64,
        max: u64,
    },
    Count {
        min: u64,
        max: u64,
    },
    Choice(fn() -> Vec<&'static str>),
    /// A file that can be read.
    File,
    /// Addresses to listen on, TCP or Unix.
    Listen,
    /// One TCP address to listen on.
    ListenTcp,
    /// A server's address.
    Server,
    /// A secret in the file itself; never printed.
    Secret,
    /// A file that holds a secret; read when the config is loaded.
    SecretFile,
    /// An environment variable that holds a secret.
    SecretEnv,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preset {
    /// As it would be written in the file.
    Is(&'static str),
    /// Written `none`: there is no such thing unless a value is given.
    None,
    /// Left out means: not used. The text is a sample.
    Absent(&'static str),
    /// The same, but the example shows the sample in use.
    Shown(&'static str),
    /// The text is a sample.
    Required(&'static str),
}

/// The row of a path with `*` for names.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The keys that may stand directly in the section at `path` (empty: the top level).
pub(super) fn children(path: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.parent() == path && key.name() != "*")
}

/// A path of the table with what `*` stands for.
pub(super) fn for_people(path: &str) -> String {
    path.replace("users.*", "users[]").replace(".*", ".<name>")
}

impl Key {
    pub(super) fn is_required(&self) -> bool {
        matches!(self.default, Preset::Required(_))
    }

    /// The last word of the path.
    pub(super) fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// Path of the section that this key stands in; empty at the top level.
    pub(super) fn parent(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(parent, _)| parent)
    }

    /// What may stand there, as the rest of "must be …".
    pub(super) fn allowed(&self) -> String {
        let base = self.kind.allowed();
        match self.default {
            Preset::None => format!("{base}, or `none`"),
            _ if self.path == "workers" => format!("{base}, or `auto`"),
            _ if matches!(self.kind, Kind::ListenTcp) => format!("{base}, or `none`"),
            _ => base,
        }
    }
}

impl Kind {
    pub(super) fn allowed(self) -> String {
        match self {
            Kind::Section => "a mapping of keys to values".to_owned(),
            Kind::Sections => "a mapping of names to settings".to_owned(),
            Kind::List => "a list".to_owned(),
            Kind::Nodes => "a mapping of names to addresses, or a list of addresses".to_owned(),
            Kind::Text | Kind::Secret => "a text".to_owned(),
            Kind::Texts => "a list of texts".to_owned(),
            Kind::Databases => {
                "a list of names, or a mapping of names to the servers' names".to_owned()
            }
            Kind::Flag => "`true` or `false`".to_owned(),
            Kind::Duration { min, max } => format!(
                "a duration from {} to {}",
                units::write_duration(std::time::Duration::from_millis(min)),
                units::write_duration(std::time::Duration::from_millis(max))
            ),
            Kind::Size { min, max } => {
                format!("a size from {} to {}", units::write_size(min), units::write_size(max))
            }
            Kind::Count { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Choice(words) => one_of(&words()),
            Kind::File | Kind::SecretFile => "the name of a file".to_owned(),
            Kind::Listen => "a list of addresses to listen on".to_owned(),
            Kind::ListenTcp => "an IP address and a port as `127.0.0.1:9632`".to_owned(),
            Kind::Server => "a host and a port as `db1:5432`".to_owned(),
            Kind::SecretEnv => "the name of an environment variable".to_owned(),
        }
    }
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
