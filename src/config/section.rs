//! A walk over the tree of a file: typed values out, every problem noted with its place.
//!
//! A getter never fails: it notes what is wrong and goes on with the default, so that one run
//! finds all mistakes. What a value may be comes from the table in `schema.rs`; what values mean
//! together is for `check.rs`, `users.rs` and `cluster.rs`.

use super::file::{Entry, Node, Place, Value};
use super::keys::KEYS;
use super::schema::{self, Key, Kind, Preset};
use super::units;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::path::Path;

/// A problem or warning whose line is not looked up yet.
pub(super) struct Noted {
    pub(super) place: Place,
    pub(super) key: String,
    pub(super) message: String,
    pub(super) warning: bool,
}

/// What a walk is given besides the file, and what it collects.
pub(super) struct Walk<'e> {
    /// Relative file names start here: the folder of the config file.
    pub(super) base: &'e Path,
    pub(super) env: &'e dyn Fn(&str) -> Option<String>,
    pub(super) noted: RefCell<Vec<Noted>>,
    /// Secrets that stand in the file itself, and the first of them.
    pub(super) inline_secrets: Cell<usize>,
    /// Keys of the table that were asked for, so that a test finds rows that nobody reads.
    pub(super) asked: RefCell<HashSet<&'static str>>,
}

/// A mapping of the file under its place in the table, or the lack of one.
#[derive(Clone)]
pub(super) struct Section<'w> {
    pub(super) walk: &'w Walk<'w>,
    /// With `*` for names: `clusters.*.pool`.
    pattern: String,
    /// For people: `clusters.main.pool`.
    path: String,
    pub(super) place: Place,
    entries: &'w [Entry],
    /// Missing or no mapping at all. That was noted; nothing more is said of what is in it.
    broken: bool,
}

impl<'w> Section<'w> {
    /// The whole file.
    pub(super) fn root(walk: &'w Walk<'w>, node: &'w Node) -> Section<'w> {
        let broken = !matches!(node.value, Value::Map(_));
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            other => {
                let message =
                    format!("the file must be a mapping of keys to values, not {}", other.kind());
                walk.note(node.place, String::new(), message);
                &[]
            }
        };
        let root = Section {
            walk,
            pattern: String::new(),
            path: String::new(),
            place: node.place,
            entries,
            broken,
        };
        root.refuse_strangers();
        root
    }

    /// The section under `name`; an empty one if it is left out.
    pub(super) fn section(&self, name: &str) -> Section<'w> {
        let key = self.row(name);
        match self.entry(name) {
            Some(entry) => self.open(key.path, self.path_of(name), entry.key_place, &entry.node),
            None => {
                let required = key.is_required();
                if required {
                    let needed: Vec<String> = schema::children(key.path)
                        .filter(|key| key.is_required())
                        .map(|key| format!("`{}`", key.name()))
                        .collect();
                    self.note(
                        name,
                        format!(
                            "is missing; must be a mapping with at least {}",
                            needed.join(" and ")
                        ),
                    );
                }
                let (pattern, path) = (key.path.to_owned(), self.path_of(name));
                let broken = required || self.broken;
                Section { walk: self.walk, pattern, path, place: self.place, entries: &[], broken }
            }
        }
    }

    /// The sections of a mapping of names, with their names.
    pub(super) fn sections(&self, name: &str) -> Vec<(String, Section<'w>)> {
        let Some(entries) = self.mapping(name) else { return Vec::new() };
        let pattern = format!("{}.*", self.row(name).path);
        let open = |entry: &'w Entry| {
            let path = format!("{}.{}", self.path_of(name), entry.key);
            let section = self.open(&pattern, path, entry.key_place, &entry.node);
            (entry.key.clone(), section)
        };
        entries.iter().map(open).collect()
    }

    /// The sections of a list.
    pub(super) fn list(&self, name: &str) -> Vec<Section<'w>> {
        let pattern = format!("{}.*", self.row(name).path);
        let items = self.items(name).unwrap_or_default();
        let open = |(index, node): (usize, &'w Node)| {
            let path = format!("{}[{index}]", self.path_of(name));
            self.open(&pattern, path, node.place, node)
        };
        items.iter().enumerate().map(open).collect()
    }

    /// The value under `name` where several shapes are allowed; `None` if left out.
    pub(super) fn value(&self, name: &str) -> Option<&'w Node> {
        self.row(name);
        self.filled(name).map(|entry| &entry.node)
    }

    /// Opens a mapping that was reached through [`Section::value`].
    pub(super) fn open(
        &self,
        pattern: &str,
        path: String,
        place: Place,
        node: &'w Node,
    ) -> Section<'w> {
        let broken = !matches!(node.value, Value::Map(_) | Value::Null);
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            other => {
                let message = format!("must be a mapping of keys to values, not {}", other.kind());
                self.walk.note(node.place, path.clone(), message);
                &[]
            }
        };
        let section =
            Section { walk: self.walk, pattern: pattern.to_owned(), path, place, entries, broken };
        section.refuse_strangers();
        section
    }

    /// Whether the file names the key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.row(name);
        self.entry(name).is_some()
    }

    /// Whether anything is wrong with a key of this section.
    pub(super) fn is_faulty(&self) -> bool {
        self.broken || self.walk.is_noted_below(&self.path)
    }

    /// Whether the key `name` is given and names this file.
    pub(super) fn names_file(&self, name: &str, path: Option<&Path>) -> bool {
        let text = self.entry(name).map(|entry| &entry.node.value);
        matches!(text, Some(Value::Text(text)) if path == Some(&self.walk.base.join(text)))
    }

    /// Notes a problem of the key `name`, at its line if it is in the file.
    pub(super) fn note(&self, name: &str, message: String) {
        if !self.broken {
            self.walk.note(self.place_of(name), self.path_of(name), message);
        }
    }

    /// Notes that `name` does not go with another key, unless it is wrong by itself: then the
    /// default stands in for it, and what that contradicts is nobody's mistake.
    pub(super) fn contradiction(&self, name: &str, message: String) {
        if !self.walk.is_noted(&self.path_of(name)) {
            self.note(name, message);
        }
    }

    pub(super) fn warn(&self, name: &str, message: String) {
        if !self.broken {
            self.walk.warn(self.place_of(name), self.path_of(name), message);
        }
    }

    /// Notes a problem of the section as a whole.
    pub(super) fn note_whole(&self, message: String) {
        if !self.broken {
            self.walk.note(self.place, self.path.clone(), message);
        }
    }

    pub(super) fn warn_whole(&self, message: String) {
        if !self.broken {
            self.walk.warn(self.place, self.path.clone(), message);
        }
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn place_of(&self, name: &str) -> Place {
        self.entry(name).map_or(self.place, |entry| entry.key_place)
    }

    fn pattern_of(&self, name: &str) -> String {
        if self.pattern.is_empty() { name.to_owned() } else { format!("{}.{name}", self.pattern) }
    }

    /// The table's row of a key. A name that is not in the table is a mistake of this program,
    /// which every test that loads a file would meet.
    pub(super) fn row(&self, name: &str) -> &'static Key {
        let pattern = self.pattern_of(name);
        let key = schema::find(&pattern).unwrap_or_else(|| panic!("{pattern} has no row"));
        self.walk.asked.borrow_mut().insert(key.path);
        key
    }

    pub(super) fn entry(&self, name: &str) -> Option<&'w Entry> {
        self.entries.iter().find(|entry| entry.key == name)
    }

    /// The entry of a key that has a value. A key with nothing behind it is noted.
    pub(super) fn filled(&self, name: &str) -> Option<&'w Entry> {
        let key = self.row(name);
        let Some(entry) = self.entry(name) else {
            if key.is_required() {
                self.note(name, format!("is missing; must be {}", key.allowed()));
            }
            return None;
        };
        if matches!(entry.node.value, Value::Null) {
            let advice = match key.default {
                Preset::Is(default) => format!("; leave the key out for the default, {default}"),
                Preset::None => "; write `none`, or leave the key out".to_owned(),
                Preset::Absent(_) | Preset::Shown(_) => {
                    "; give one or leave the key out".to_owned()
                }
                Preset::Required(_) => String::new(),
            };
            self.note(name, format!("has no value; must be {}{advice}", key.allowed()));
            return None;
        }
        Some(entry)
    }

    /// Notes keys that are repeated or not in the table.
    fn refuse_strangers(&self) {
        let mut seen = HashSet::new();
        // Names that users choose are checked by whoever opens them.
        let free = matches!(
            schema::find(&self.pattern).map(|key| key.kind),
            Some(Kind::Sections | Kind::Nodes)
        );
        for entry in self.entries {
            if !seen.insert(entry.key.as_str()) {
                let path = self.path_of(&entry.key);
                self.walk.note(
                    entry.key_place,
                    path,
                    "is given twice; the second one is here".to_owned(),
                );
            } else if !free && schema::find(&self.pattern_of(&entry.key)).is_none() {
                self.walk.note(
                    entry.key_place,
                    self.path_of(&entry.key),
                    self.stranger(&entry.key),
                );
            }
        }
    }

    fn stranger(&self, name: &str) -> String {
        if name == "<<" {
            return "merge keys are not understood; repeat the keys, or use an anchor for the whole mapping".to_owned();
        }
        let siblings = || schema::children(&self.pattern).map(Key::name);
        if let Some(meant) = units::nearest(name, siblings()) {
            return format!("is not a key; did you mean `{meant}`?");
        }
        let homes: Vec<String> = KEYS
            .iter()
            .filter(|key| key.name() == name && !key.parent().is_empty())
            .map(|key| format!("`{}`", schema::for_people(key.parent())))
            .collect();
        let known: Vec<String> = siblings().map(|key| format!("`{key}`")).collect();
        match homes.as_slice() {
            [] => format!("is not a key; known here: {}", known.join(", ")),
            [home] => format!("is not a key here; it belongs in {home}"),
            [..] => format!("is not a key here; it exists in {}", homes.join(", ")),
        }
    }
}

impl<'e> Walk<'e> {
    pub(super) fn new(base: &'e Path, env: &'e dyn Fn(&str) -> Option<String>) -> Walk<'e> {
        Walk {
            base,
            env,
            noted: RefCell::new(Vec::new()),
            inline_secrets: Cell::new(0),
            asked: RefCell::new(HashSet::new()),
        }
    }

    fn is_noted_below(&self, section: &str) -> bool {
        let below = |key: &str| {
            key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.noted.borrow().iter().any(|noted| below(&noted.key) && !noted.warning)
    }

    fn is_noted(&self, key: &str) -> bool {
        self.noted.borrow().iter().any(|noted| noted.key == key && !noted.warning)
    }

    pub(super) fn note(&self, place: Place, key: String, message: String) {
        self.noted.borrow_mut().push(Noted { place, key, message, warning: false });
    }

    pub(super) fn warn(&self, place: Place, key: String, message: String) {
        self.noted.borrow_mut().push(Noted { place, key, message, warning: true });
    }
}
