//! The YAML as a tree whose nodes can be found again in the text.
//!
//! serde stops at the first error and knows no keys of ours, so the file is read into this
//! untyped mirror first; `section.rs` walks it against the table of `schema.rs`. Repeated keys
//! are kept, so that they can be told. Nothing here knows what a key means.
//!
//! Every key and value gets a number in the order of reading. The YAML crate tells positions only
//! in its errors: [`locate`] reads the text again and fails on purpose at the number it is asked
//! for. That costs one parse per reported problem and no second parser of our own.

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::fmt;

/// A key or value in the order of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(usize);

/// Deliberately without `Debug`: texts may be passwords.
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float,
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// `!Something …`, which has no meaning here.
    Tagged,
}

pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) node: Node,
}

/// Line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Why the text is no YAML: where, and a sentence that quotes nothing from the text.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) position: Position,
    pub(super) message: String,
}

impl Value {
    /// What stands there, in the words of a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Tagged => "a YAML tag",
        }
    }
}

/// Reads a whole text. An empty one is an empty mapping.
pub(super) fn read(text: &str) -> Result<Node, SyntaxError> {
    let reader = Reader { next: Cell::new(0), stop_at: None };
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Node { place: Place(0), value: Value::Map(Vec::new()) });
    }
    NodeSeed(&reader)
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .map_err(|error| syntax_error(&error))
}

/// Where a key or value stands in the text that [`read`] was given.
pub(super) fn locate(text: &str, place: Place) -> Position {
    let reader = Reader { next: Cell::new(0), stop_at: Some(place) };
    match NodeSeed(&reader).deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(_) => Position { line: 1, column: 1 },
        Err(error) => position(&error),
    }
}

fn position(error: &serde_yaml::Error) -> Position {
    error.location().map_or(Position { line: 1, column: 1 }, |location| Position {
        line: location.line(),
        column: location.column(),
    })
}

fn syntax_error(error: &serde_yaml::Error) -> SyntaxError {
    let said = error.to_string();
    // Complaints about a value quote the value, which may be a password.
    let message = if said.contains("invalid type") {
        "this is not valid here: keys must be plain words".to_owned()
    } else if said.contains("invalid value") {
        "this value does not fit its YAML tag; leave the tag out".to_owned()
    } else {
        format!("this is not valid YAML: {said}")
    };
    SyntaxError { position: position(error), message }
}

struct Reader {
    next: Cell<usize>,
    stop_at: Option<Place>,
}

impl Reader {
    fn enter<E: de::Error>(&self) -> Result<Place, E> {
        let place = Place(self.next.get());
        self.next.set(place.0 + 1);
        if self.stop_at == Some(place) {
            return Err(E::custom("here"));
        }
        Ok(place)
    }
}

struct NodeSeed<'r>(&'r Reader);
struct KeySeed<'r>(&'r Reader);

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl NodeSeed<'_> {
    fn node<E: de::Error>(&self, value: Value) -> Result<Node, E> {
        Ok(Node { place: self.0.enter()?, value })
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        self.node(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        self.node(Value::Int(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        self.node(Value::Int(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Node, E> {
        self.node(Value::Int(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Node, E> {
        self.node(i128::try_from(value).map_or(Value::Float, Value::Int))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Node, E> {
        self.node(Value::Float)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        self.node(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let place = self.0.enter()?;
        let mut list = Vec::new();
        while let Some(node) = items.next_element_seed(NodeSeed(self.0))? {
            list.push(node);
        }
        Ok(Node { place, value: Value::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let place = self.0.enter()?;
        let mut entries = Vec::new();
        while let Some((key, key_place)) = items.next_key_seed(KeySeed(self.0))? {
            let node = items.next_value_seed(NodeSeed(self.0))?;
            entries.push(Entry { key, key_place, node });
        }
        Ok(Node { place, value: Value::Map(entries) })
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, tagged: A) -> Result<Node, A::Error> {
        let place = self.0.enter()?;
        let (_, content) = tagged.variant::<IgnoredAny>()?;
        de::VariantAccess::newtype_variant::<IgnoredAny>(content)?;
        Ok(Node { place, value: Value::Tagged })
    }
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = (String, Place);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // `8:` and `true:` are names here, not a number and a truth value.
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = (String, Place);

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        let place = self.0.enter()?;
        Ok((value.to_owned(), place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key and value as `line:column what`, found again through `locate`.
    fn outline(text: &str) -> Vec<String> {
        fn visit(text: &str, node: &Node, out: &mut Vec<String>) {
            let at = |place| {
                let Position { line, column } = locate(text, place);
                format!("{line}:{column}")
            };
            match &node.value {
                Value::Map(entries) => {
                    for entry in entries {
                        out.push(format!("{} {}:", at(entry.key_place), entry.key));
                        visit(text, &entry.node, out);
                    }
                }
                Value::List(items) => {
                    for item in items {
                        out.push(format!("{} -", at(item.place)));
                        visit(text, item, out);
                    }
                }
                Value::Text(value) => out.push(format!("{} {value}", at(node.place))),
                other => out.push(format!("{} {}", at(node.place), other.kind())),
            }
        }
        let mut out = Vec::new();
        visit(text, &read(text).expect("valid"), &mut out);
        out
    }

    #[test]
    fn places_are_found_again() {
        let cases: &[(&str, &[&str])] = &[
            ("a: 1\nb:\n  c: x\n", &["1:1 a:", "1:4 a number", "2:1 b:", "3:3 c:", "3:6 x"]),
            (
                "# note\n\na: # more\n  - x # y\n  - z\n",
                &["3:1 a:", "4:5 -", "4:5 x", "5:5 -", "5:5 z"],
            ),
            (
                "{a: {b: 1, 'c d': [x, y]}}",
                &[
                    "1:2 a:",
                    "1:6 b:",
                    "1:9 a number",
                    "1:12 c d:",
                    "1:20 -",
                    "1:20 x",
                    "1:23 -",
                    "1:23 y",
                ],
            ),
            (
                "'q: r': 1\n\"s\": true\n8: null\n",
                &[
                    "1:1 q: r:",
                    "1:9 a number",
                    "2:1 s:",
                    "2:6 true or false",
                    "3:1 8:",
                    "3:4 nothing",
                ],
            ),
            ("a: 1\na: 2\n", &["1:1 a:", "1:4 a number", "2:1 a:", "2:4 a number"]),
            (
                "a:\n  - k: v\n    l: !t w\n",
                &["1:1 a:", "2:5 -", "2:5 k:", "2:8 v", "3:5 l:", "3:8 a YAML tag"],
            ),
            (
                "a: |\n  # no comment\n  k: v\nb: 1.5\n",
                &["1:1 a:", "1:4 # no comment\nk: v\n", "4:1 b:", "4:4 a number"],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(&outline(text), expected, "{text}");
        }
    }

    #[test]
    fn an_empty_text_is_an_empty_mapping() {
        for text in ["", "\n\n", "# only a comment\n   # and another\n"] {
            let node = read(text).ok().map(|node| node.value);
            assert!(matches!(node, Some(Value::Map(entries)) if entries.is_empty()), "{text:?}");
        }
    }

    #[test]
    fn syntax_errors_have_a_line_and_quote_no_value() {
        for (text, line) in [
            ("a: 1\n b: 2\n", 2),
            ("a: [hunter2\nb: 1\n", 2),
            ("a: 1\nb: !!int hunter2\n", 2),
            ("a: 1\n? [hunter2]\n: 1\n", 2),
            ("a: \"hunter2\n", 1),
            ("a: 1\nb: *hunter2\n", 2),
            ("a: \thunter2: x: y\n", 1),
        ] {
            let error = read(text).err().expect(text);
            assert!(!error.message.contains("hunter2"), "{}", error.message);
            assert!(error.position.line >= line, "{text:?}: {error:?}");
        }
    }

    /// Aliases are copied, but not without bound.
    #[test]
    fn alias_bombs_and_deep_nesting_end() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let item = format!("*a{}", n - 1);
            let items = vec![item; 9].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{items}]\n"));
        }
        assert!(read(&bomb).is_err());
        assert!(read(&"[".repeat(100_000)).is_err());
    }
}
