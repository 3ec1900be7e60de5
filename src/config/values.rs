//! The typed values of a section: one getter for each kind of the table.
//!
//! A getter never fails: it notes what is wrong and gives the default.

use super::file::{Entry, Node, Place, Value};
use super::schema::{Kind, Preset};
use super::section::Section;
use super::units;
use super::words::Word;
use std::path::PathBuf;
use std::time::Duration;

impl<'w> Section<'w> {
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

    fn fallback(&self, name: &str) -> Option<&'static str> {
        match self.row(name).default {
            Preset::Is(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn mapping(&self, name: &str) -> Option<&'w [Entry]> {
        match &self.filled(name)?.node.value {
            Value::Map(entries) => Some(entries),
            other => self.wrong_kind(name, other),
        }
    }

    pub(super) fn items(&self, name: &str) -> Option<&'w [Node]> {
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
