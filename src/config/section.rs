//! A walk over the tree of a file: typed values out, every problem noted with its place.
//!
//! A getter never fails: it notes what is wrong and goes on with the default, so that one run
//! finds all mistakes. What a value may be comes from the table in `schema.rs`; what values mean
//! together is for `check.rs`, `users.rs` and `cluster.rs`.

use super::file::{Entry, Node, Place, Value};
use super::schema::{self, Key, Kind, Preset};
use super::units;
use super::words::Word;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
                let required = key.default == Preset::Required;
                if required {
                    let needed: Vec<String> = schema::children(key.path)
                        .filter(|key| key.default == Preset::Required)
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

    pub(super) fn text(&self, name: &str) -> Option<String> {
        let entry = self.filled(name);
        match entry {
            None => self.fallback(name).map(str::to_owned),
            Some(entry) => match &entry.node.value {
                Value::Text(text) if text == "none" && self.row(name).default == Preset::None => {
                    None
                }
                Value::Text(text) if text.trim().is_empty() => {
                    self.note(name, "must not be empty".to_owned());
                    None
                }
                Value::Text(text) => Some(text.clone()),
                other => self.wrong_kind(name, other),
            },
        }
    }

    /// A text that must be there; empty after its lack was noted.
    pub(super) fn required(&self, name: &str) -> String {
        self.text(name).unwrap_or_default()
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for (index, item) in self.items(name).unwrap_or_default().iter().enumerate() {
            match &item.value {
                Value::Text(text) if !text.trim().is_empty() => texts.push(text.clone()),
                other => {
                    let path = format!("{}[{index}]", self.path_of(name));
                    self.walk.note(item.place, path, wrong_kind("a text", other));
                }
            }
        }
        texts
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        let default = self.fallback(name) == Some("true");
        match self.filled(name).map(|entry| &entry.node.value) {
            None => default,
            Some(Value::Bool(value)) => *value,
            Some(other) => self.wrong_kind(name, other).unwrap_or(default),
        }
    }

    pub(super) fn duration(&self, name: &str) -> Duration {
        let Kind::Duration { min, max } = self.row(name).kind else { return Duration::ZERO };
        let range = Duration::from_millis(min)..=Duration::from_millis(max);
        self.measured(name, units::duration, |value| range.contains(value)).unwrap_or_default()
    }

    /// `None` for `none`.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        let Kind::Size { min, max } = self.row(name).kind else { return None };
        self.measured(name, units::size, |value| (min..=max).contains(value))
    }

    /// `None` for `auto`.
    pub(super) fn count(&self, name: &str) -> Option<u64> {
        let Kind::Count { min, max } = self.row(name).kind else { return None };
        let default = || self.fallback(name).and_then(|text| text.parse().ok());
        match self.filled(name).map(|entry| &entry.node.value) {
            None => default(),
            Some(Value::Text(text)) if text == "auto" && self.fallback(name) == Some("auto") => {
                None
            }
            Some(Value::Int(value)) => match u64::try_from(*value) {
                Ok(value) if (min..=max).contains(&value) => Some(value),
                _ => {
                    self.note(name, format!("must be {}, not {value}", self.row(name).allowed()));
                    default()
                }
            },
            Some(other) => self.wrong_kind(name, other).or_else(default),
        }
    }

    /// A count where no `auto` is allowed.
    pub(super) fn number(&self, name: &str) -> usize {
        self.count(name).and_then(|value| usize::try_from(value).ok()).unwrap_or_default()
    }

    pub(super) fn choice<T: Word>(&self, name: &str) -> Option<T> {
        let default = || self.fallback(name).and_then(T::parse);
        match self.filled(name).map(|entry| &entry.node.value) {
            None => default(),
            Some(Value::Text(text)) => T::parse(text).or_else(|| {
                let words = T::WORDS.iter().map(|(word, _)| *word);
                let meant = units::nearest(text, words)
                    .map_or(String::new(), |word| format!("; did you mean `{word}`?"));
                let allowed = self.row(name).allowed();
                self.note(name, format!("must be {allowed}, not `{text}`{meant}"));
                default()
            }),
            Some(other) => self.wrong_kind(name, other).or_else(default),
        }
    }

    /// A choice that has a default.
    pub(super) fn chosen<T: Word>(&self, name: &str) -> T {
        self.choice(name).unwrap_or(T::WORDS[0].1)
    }

    /// A file that exists and can be read; relative names start at the config's folder.
    pub(super) fn file(&self, name: &str) -> Option<PathBuf> {
        let path = self.walk.base.join(self.text(name)?);
        let fault = match std::fs::metadata(&path) {
            Err(error) => Some(error.to_string()),
            Ok(data) if data.is_dir() => Some("it is a folder".to_owned()),
            Ok(_) => std::fs::File::open(&path).err().map(|error| error.to_string()),
        };
        if let Some(fault) = fault {
            self.note(name, format!("cannot read {}: {fault}", path.display()));
        }
        Some(path)
    }

    /// A text that `parse` understands.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(name)?;
        parse(&text).map_err(|message| self.note(name, message)).ok()
    }

    /// The items of a list of texts, each with its place, as `parse` understands them.
    pub(super) fn parsed_list<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<(Place, String, T)> {
        let mut parsed = Vec::new();
        for (index, item) in self.items(name).unwrap_or_default().iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(name));
            let result = match &item.value {
                Value::Text(text) => parse(text),
                other => Err(wrong_kind("a text", other)),
            };
            match result {
                Ok(value) => parsed.push((item.place, path, value)),
                Err(message) => self.walk.note(item.place, path, message),
            }
        }
        parsed
    }

    /// Whether the file names the key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.row(name);
        self.entry(name).is_some()
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

    fn place_of(&self, name: &str) -> Place {
        self.entry(name).map_or(self.place, |entry| entry.key_place)
    }

    fn pattern_of(&self, name: &str) -> String {
        if self.pattern.is_empty() { name.to_owned() } else { format!("{}.{name}", self.pattern) }
    }

    /// The table's row of a key. A name that is not in the table is a mistake of this program,
    /// which every test that loads a file would meet.
    fn row(&self, name: &str) -> &'static Key {
        let pattern = self.pattern_of(name);
        let key = schema::find(&pattern).unwrap_or_else(|| panic!("{pattern} has no row"));
        self.walk.asked.borrow_mut().insert(key.path);
        key
    }

    fn entry(&self, name: &str) -> Option<&'w Entry> {
        self.entries.iter().find(|entry| entry.key == name)
    }

    /// The entry of a key that has a value. A key with nothing behind it is noted.
    fn filled(&self, name: &str) -> Option<&'w Entry> {
        let key = self.row(name);
        let Some(entry) = self.entry(name) else {
            if key.default == Preset::Required {
                self.note(name, format!("is missing; must be {}", key.allowed()));
            }
            return None;
        };
        if matches!(entry.node.value, Value::Null) {
            let advice = match key.default {
                Preset::Is(default) => format!("; leave the key out for the default, {default}"),
                Preset::None => "; write `none`, or leave the key out".to_owned(),
                Preset::Absent => "; give one or leave the key out".to_owned(),
                Preset::Required => String::new(),
            };
            self.note(name, format!("has no value; must be {}{advice}", key.allowed()));
            return None;
        }
        Some(entry)
    }

    fn fallback(&self, name: &str) -> Option<&'static str> {
        match self.row(name).default {
            Preset::Is(text) => Some(text),
            Preset::None | Preset::Absent | Preset::Required => None,
        }
    }

    fn mapping(&self, name: &str) -> Option<&'w [Entry]> {
        match &self.filled(name)?.node.value {
            Value::Map(entries) => Some(entries),
            other => self.wrong_kind(name, other),
        }
    }

    fn items(&self, name: &str) -> Option<&'w [Node]> {
        match &self.filled(name)?.node.value {
            Value::List(items) => Some(items),
            other => self.wrong_kind(name, other),
        }
    }

    fn measured<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        fits: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let key = self.row(name);
        let default = || self.fallback(name).and_then(|text| parse(text).ok());
        let text = match self.filled(name).map(|entry| &entry.node.value) {
            None => return default(),
            Some(Value::Text(text)) if text == "none" && key.default == Preset::None => {
                return None;
            }
            Some(Value::Text(text)) => text.clone(),
            Some(Value::Int(number)) => number.to_string(),
            Some(other) => return self.wrong_kind(name, other).or_else(default),
        };
        match parse(&text) {
            Ok(value) if fits(&value) => Some(value),
            Ok(_) => {
                self.note(name, format!("must be {}, not `{text}`", key.allowed()));
                default()
            }
            Err(message) => {
                self.note(name, message);
                default()
            }
        }
    }

    fn wrong_kind<T>(&self, name: &str, found: &Value) -> Option<T> {
        self.note(name, wrong_kind(&self.row(name).allowed(), found));
        None
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
        let homes: Vec<String> = schema::KEYS
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

impl Walk<'_> {
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

fn wrong_kind(allowed: &str, found: &Value) -> String {
    let advice = match found {
        Value::Int(_) | Value::Float | Value::Bool(_) if allowed.contains("text") => {
            "; put it in quotes"
        }
        Value::Text(text) if allowed.contains("list") && !text.is_empty() => {
            "; put it in [brackets]"
        }
        _ => "",
    };
    format!("must be {allowed}, not {}{advice}", found.kind())
}
