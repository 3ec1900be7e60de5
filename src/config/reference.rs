//! The table of keys as text for people: `config.example.yaml` and the reference in
//! `docs/configuration.md`. Tests keep both files equal to what is made here.

use super::keys::KEYS;
use super::schema::{self, Key, Kind, Preset};
use super::units;
use std::time::Duration;

/// Lines of comments are no longer.
const WIDTH: usize = 98;

const HEAD: &str = "\
# Every key of tiffin's configuration, with its default where it has one. A key behind a `#`
# without a space has no default: its value is a sample. What a file leaves out has its default;
# it needs no more than a user, and a cluster with its nodes and service user.
#
# Durations are written 100ms, 2s, 5min, 1h; sizes 64KiB, 16MiB. Relative file names start at the
# folder of this file. `tiffin check --config FILE` tells every mistake with its line.
";

/// Every key with what it takes, its default and a sentence, as a Markdown table.
pub fn reference() -> String {
    let mut out = String::from("| key | takes | default | meaning |\n|---|---|---|---|\n");
    let cell = |text: &str| text.replace('|', "\\|");
    for key in KEYS {
        let default = match key.default {
            Preset::Is(text) => format!("`{text}`"),
            Preset::None => "`none`".to_owned(),
            Preset::Required(_) => "required".to_owned(),
            Preset::Absent(_) | Preset::Shown(_) => String::new(),
        };
        let path = schema::for_people(key.path);
        let (takes, about) = (cell(&key.allowed()), cell(key.about));
        out.push_str(&format!("| `{path}` | {takes} | {default} | {about} |\n"));
    }
    out
}

/// A whole configuration file: every key with its default, or a sample behind `#` for those that
/// have none and are not needed.
pub fn example() -> String {
    let mut lines = vec![HEAD.to_owned()];
    for key in schema::children("") {
        write_key(&mut lines, key, 0);
        lines.push(String::new());
    }
    lines.truncate(lines.len().saturating_sub(1));
    lines.join("\n") + "\n"
}

fn write_key(lines: &mut Vec<String>, key: &Key, depth: usize) {
    let indent = "  ".repeat(depth);
    if depth > 0 && matches!(key.kind, Kind::Section | Kind::Nodes) {
        lines.push(String::new());
    }
    for line in wrapped(&sentence(key), WIDTH - indent.len()) {
        lines.push(format!("{indent}# {line}"));
    }
    let name = key.name();
    match (key.kind, key.default) {
        (Kind::Section, _) => {
            lines.push(format!("{indent}{name}:"));
            write_children(lines, key.path, depth + 1);
        }
        (Kind::List, _) => {
            lines.push(format!("{indent}{name}:"));
            write_item(lines, key.path, depth + 1);
        }
        (Kind::Sections, _) => {
            lines.push(format!("{indent}{name}:\n{indent}  main:"));
            write_children(lines, &format!("{}.*", key.path), depth + 2);
        }
        (Kind::Nodes, _) => {
            lines.push(format!("{indent}{name}:\n{indent}  pg-a:"));
            write_children(lines, &format!("{}.*", key.path), depth + 2);
            lines.push(format!("{indent}  # The short form: a name and an address."));
            lines.push(format!("{indent}  pg-b: 10.0.0.2:5432"));
        }
        (_, Preset::None) => lines.push(format!("{indent}{name}: none")),
        (_, Preset::Absent(text)) => lines.push(format!("{indent}#{name}: {text}")),
        (_, Preset::Is(text) | Preset::Shown(text) | Preset::Required(text)) => {
            lines.push(format!("{indent}{name}: {text}"));
        }
    }
}

fn write_children(lines: &mut Vec<String>, path: &str, depth: usize) {
    for key in schema::children(path) {
        write_key(lines, key, depth);
    }
}

/// The section of a list: its first key, which is required, carries the dash.
fn write_item(lines: &mut Vec<String>, path: &str, depth: usize) {
    let mut inner = Vec::new();
    write_children(&mut inner, &format!("{path}.*"), depth + 1);
    let dash = format!("{}- ", "  ".repeat(depth));
    if let Some(line) = inner.iter_mut().find(|line| !line.trim_start().starts_with('#')) {
        *line = format!("{dash}{}", line.trim_start());
    }
    lines.append(&mut inner);
}

/// What the key is for, and its bounds.
fn sentence(key: &Key) -> String {
    let about = key.about;
    let bounds = match key.kind {
        Kind::Duration { min, max } => {
            let write = |millis| units::write_duration(Duration::from_millis(millis));
            format!("{} to {}", write(min), write(max))
        }
        Kind::Size { min, max } => {
            format!("{} to {}, or `none`", units::write_size(min), units::write_size(max))
        }
        Kind::Count { min, max } => format!("{min} to {max}"),
        Kind::Choice(words) if words().iter().all(|word| about.contains(&format!("`{word}`"))) => {
            return about.to_owned();
        }
        Kind::Choice(_) => key.allowed(),
        _ => return about.to_owned(),
    };
    let bounds = match key.default {
        Preset::None => bounds,
        _ => bounds.replace(", or `none`", ""),
    };
    // The sentences that end with something else get the bounds behind them.
    match about.strip_suffix('.') {
        Some(rest) => format!("{rest} ({bounds})."),
        None => format!("{about} ({bounds})."),
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Set to rewrite the files instead of comparing them.
    const UPDATE: &str = "TIFFIN_UPDATE_DOCS";
    const BEGIN: &str = "<!-- keys: begin (made from src/config/keys.rs) -->\n";
    const END: &str = "<!-- keys: end -->";

    fn keep_equal(file: &str, made: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(&path, made).expect("the file can be written");
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == made,
            "{file} differs from the table of keys; run `{UPDATE}=1 cargo test --lib config`"
        );
    }

    #[test]
    fn the_example_has_every_key() {
        keep_equal("config.example.yaml", &example());
        for key in KEYS {
            let name = key.name();
            let lines = || example().lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
            let is_here = |line: &String| {
                let line = line.trim_start_matches("- ").trim_start_matches('#');
                line.split_once(':').is_some_and(|(key, _)| key == name)
            };
            assert!(lines().iter().any(is_here), "{} is not in the example", key.path);
        }
    }

    #[test]
    fn the_reference_has_every_key() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        let written = std::fs::read_to_string(path).expect("docs/configuration.md");
        let (head, rest) = written.split_once(BEGIN).expect("a line where the keys begin");
        let (_, tail) = rest.split_once(END).expect("a line where the keys end");
        keep_equal("docs/configuration.md", &format!("{head}{BEGIN}{}{END}{tail}", reference()));
    }

    #[test]
    fn every_sentence_is_one() {
        for key in KEYS {
            assert!(key.about.ends_with('.'), "{}: {}", key.path, key.about);
            assert!(key.about.starts_with(|c: char| c.is_uppercase() || c == '`'), "{}", key.path);
        }
    }
}
