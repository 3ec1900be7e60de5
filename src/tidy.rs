//! House rules as tests: what neither rustc nor clippy looks at.
//!
//! Each failure says file, line and rule. That every configuration key is in the example and the
//! reference is tested in `config/reference.rs`.

use std::path::{Path, PathBuf};

/// A module may import only from those before it. The server starts the admin pages' listener.
const ORDER: &[&str] = &[
    "metrics", "sql", "protocol", "config", "topology", "session", "route", "backend", "pool",
    "monitor", "failover", "frontend", "admin", "server", "cli",
];
/// Share values, not engines: these modules serve every engine alike.
const NEUTRAL: &[&str] = &["session", "route", "topology"];
const ENGINES: &[&str] = &["postgres", "mysql"];
/// A file that is longer before its tests has two subjects.
const FILE_LINES_MAX: usize = 500;
/// A function that is longer does not fit on a screen.
const FUNCTION_LINES_MAX: usize = 70;
/// Standard output belongs to the commands.
const PRINTING: &[&str] = &["println!", "print!", "eprintln!", "eprint!", "dbg!"];
/// Calls that stop a thread or the process.
const STOPPING: &[&str] = &["thread::sleep(", "process::exit(", "process::abort("];

/// A source file, without what is only for tests.
struct Source {
    /// From the package's root, with `/`.
    path: String,
    /// The lines before the tests, as written.
    lines: Vec<String>,
    /// The same without comments and the contents of strings.
    code: Vec<String>,
}

/// Gives a line for each fault.
type Rule = fn(&Source) -> Vec<String>;

impl Source {
    fn new(path: String, text: &str) -> Source {
        let is_test = |line: &str| line.starts_with("#[cfg(test)]");
        let mut lines: Vec<String> = Vec::new();
        let mut all = text.lines().peekable();
        while let Some(line) = all.next() {
            // `#[cfg(test)] mod tests;` hides one line, `mod tests {` the rest of the file.
            if is_test(line) {
                let rest: Vec<&str> = all.by_ref().take(1).collect();
                if rest.iter().any(|line| line.ends_with('{')) {
                    break;
                }
                lines.extend(["", ""].map(str::to_owned));
            } else {
                lines.push(line.to_owned());
            }
        }
        let code = bare(&lines.join("\n")).lines().map(str::to_owned).collect();
        Source { path, lines, code }
    }

    /// `session` for `src/session/need.rs`; `None` for files outside the order.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let module = inside.split(['/', '.']).next()?;
        ORDER.contains(&module).then_some(module)
    }

    fn says(&self, line: usize, rule: impl std::fmt::Display) -> String {
        format!("{}:{}: {rule}", self.path, line + 1)
    }
}

/// The text without comments and without what strings contain; lines stay lines.
fn bare(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped(rest);
        if skipped > 0 {
            out.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            // What touches a string stays apart from what follows.
            out.push(' ');
            rest = &rest[skipped..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Length of the comment or literal that the text begins with; 0 if it begins with code.
fn skipped(text: &str) -> usize {
    let until = |from: usize, end: &str| {
        text[from..].find(end).map_or(text.len(), |at| from + at + end.len())
    };
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return until(2, "*/");
    }
    for hashes in 0..3 {
        let quotes = "#".repeat(hashes);
        if text.starts_with(&format!("r{quotes}\"")) {
            return until(hashes + 2, &format!("\"{quotes}"));
        }
    }
    if let Some(inside) = text.strip_prefix('"') {
        let mut escaped = false;
        let end = inside.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        return end.map_or(text.len(), |at| at + 2);
    }
    // A character, not a lifetime.
    let characters: Vec<char> = text.chars().take(4).collect();
    match characters.as_slice() {
        ['\'', '\\', _, '\''] => 4,
        ['\'', c, '\'', ..] => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// The top-level modules of this crate that a line of code names, also in `crate::{a, b::c}`.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count();
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push((line, word(rest)));
            continue;
        };
        let mut depth = 0;
        let mut starts = true;
        for (offset, c) in group.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => starts = true,
                _ if starts && !c.is_whitespace() => {
                    found.push((line, word(&group[offset..])));
                    starts = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn import_order(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    let rank = |name: &str| ORDER.iter().position(|other| *other == name);
    let late = |(_, name): &(usize, String)| rank(name) > rank(module);
    let wrong = imports(&source.code.join("\n")).into_iter().filter(late);
    let rule = |(line, name): (usize, String)| {
        source.says(line, format_args!("{module} may not import from {name}, which comes after it"))
    };
    wrong.map(rule).collect()
}

fn engine_words(source: &Source) -> Vec<String> {
    if !source.module().is_some_and(|module| NEUTRAL.contains(&module)) {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for (number, line) in source.code.iter().enumerate() {
        let line = line.to_ascii_lowercase();
        for engine in ENGINES.iter().filter(|engine| line.contains(**engine)) {
            wrong.push(
                source.says(number, format_args!("{engine} is named where every engine is alike")),
            );
        }
    }
    wrong
}

fn lengths(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    let count = source.lines.len();
    if count > FILE_LINES_MAX {
        wrong.push(source.says(
            count - 1,
            format_args!("{count} lines before the tests; at most {FILE_LINES_MAX}"),
        ));
    }
    for (start, line) in source.lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let close = format!("{}}}", " ".repeat(indent));
        let body = source.lines.iter().skip(start);
        // rustfmt puts the brace that ends a function under its first letter.
        let signature_only = body
            .clone()
            .find(|line| line.ends_with(['{', ';', '}']))
            .is_some_and(|line| !line.ends_with('{'));
        if signature_only {
            continue;
        }
        let Some(length) = body.clone().position(|line| *line == close) else { continue };
        let length = length + 1;
        if length > FUNCTION_LINES_MAX {
            wrong.push(source.says(
                start,
                format_args!("fn {name} has {length} lines; at most {FUNCTION_LINES_MAX}"),
            ));
        }
    }
    wrong
}

/// The name of the function whose head is on this line.
fn function_name(line: &str) -> Option<String> {
    let mut words = line.trim_start().split(' ');
    let qualifiers = ["pub", "pub(super)", "pub(crate)", "const", "async", "unsafe", "extern"];
    let word = words.by_ref().find(|word| !qualifiers.contains(word))?;
    let name = (word == "fn").then(|| words.next())??;
    Some(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

fn printing(source: &Source) -> Vec<String> {
    if source.path.starts_with("src/cli/") || source.path == "src/main.rs" {
        return Vec::new();
    }
    let prints = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '!'))
            .any(|word| PRINTING.contains(&word))
    };
    let numbered = source.code.iter().enumerate().filter(|(_, line)| prints(line));
    numbered
        .map(|(line, _)| source.says(line, "only the commands in cli/ print; others log"))
        .collect()
}

/// Workers are single-threaded: a sleep would stop every client of one. `exit` runs no destructor,
/// so server connections and temporary servers would stay.
fn stopping(source: &Source) -> Vec<String> {
    if source.path.starts_with("src/cli/") || source.path == "src/main.rs" {
        return Vec::new();
    }
    let stops = |line: &str| STOPPING.iter().any(|call| line.contains(call));
    let numbered = source.code.iter().enumerate().filter(|(_, line)| stops(line));
    let rule = "only commands block a thread or end the process";
    numbered.map(|(line, _)| source.says(line, rule)).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All sources of the library and the program but files of tests.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).expect("src can be listed");
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let stem = name.trim_end_matches(".rs");
            let of_tests = ["tests", "fixture", "tidy"].contains(&stem)
                || stem.ends_with("_tests")
                || stem.ends_with("_fixture");
            if of_tests {
                continue;
            } else if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).expect("a source is text");
                let inside = path.strip_prefix(root()).expect("below the root");
                sources.push(Source::new(inside.to_string_lossy().into_owned(), &text));
            }
        }
    }
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

fn assert_tidy(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} untidy:\n{}\n", wrong.len(), wrong.join("\n"));
}

#[test]
fn imports_go_one_way() {
    assert_tidy(sources().iter().flat_map(import_order).collect());
}

#[test]
fn engines_are_not_named_where_all_are_alike() {
    assert_tidy(sources().iter().flat_map(engine_words).collect());
}

#[test]
fn files_and_functions_are_short() {
    assert_tidy(sources().iter().flat_map(lengths).collect());
}

#[test]
fn only_commands_print() {
    assert_tidy(sources().iter().flat_map(printing).collect());
}

#[test]
fn only_commands_stop_threads() {
    assert_tidy(sources().iter().flat_map(stopping).collect());
}

/// Every module that is not in the order would escape the rules.
#[test]
fn every_module_has_its_place() {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let modules = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let strange: Vec<&str> = modules.filter(|module| !ORDER.contains(module)).collect();
    assert_eq!(strange, Vec::<&str>::new(), "not in the order of imports");
}

/// A metric that is not described cannot be used.
#[test]
fn every_metric_is_documented() {
    let documented = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap_or_default();
    let mut wrong = Vec::new();
    let of_metrics = |source: &&Source| source.path.starts_with("src/metrics");
    for source in sources().iter().filter(of_metrics) {
        for (number, line) in source.lines.iter().enumerate() {
            for part in
                line.split('"').skip(1).step_by(2).filter(|part| part.starts_with("tiffin_"))
            {
                let name = part.trim_matches(|c: char| !c.is_alphanumeric() && c != '_');
                if !documented.contains(name) {
                    wrong.push(
                        source.says(number, format_args!("{name} is not in docs/metrics.md")),
                    );
                }
            }
        }
    }
    assert_tidy(wrong);
}

/// The rules themselves: each finds what it is for.
#[test]
fn each_rule_finds_its_fault() {
    let check = |path: &str, text: &str, rule: Rule| rule(&Source::new(path.to_owned(), text));
    let long = format!("fn long() {{\n{}}}\n", "    x();\n".repeat(FUNCTION_LINES_MAX));
    let cases: &[(&str, &str, Rule, &str)] = &[
        (
            "src/sql/x.rs",
            "use crate::config::Config;\n",
            import_order,
            "src/sql/x.rs:1: sql may not import from config",
        ),
        (
            "src/sql/x.rs",
            "\nuse crate::{sql::A, pool::{B, C}, metrics};\n",
            import_order,
            "src/sql/x.rs:2: sql may not import from pool",
        ),
        (
            "src/sql/x.rs",
            "fn f() { crate::cli::run() }\n",
            import_order,
            "src/sql/x.rs:1: sql may not import from cli",
        ),
        (
            "src/route/x.rs",
            "fn postgres() {}\n",
            engine_words,
            "src/route/x.rs:1: postgres is named",
        ),
        ("src/pool/x.rs", &long, lengths, "src/pool/x.rs:1: fn long has 72 lines"),
        (
            "src/pool/x.rs",
            &"\n".repeat(FILE_LINES_MAX + 1),
            lengths,
            "src/pool/x.rs:501: 501 lines",
        ),
        (
            "src/pool/x.rs",
            "fn f() { println!(\"\") }\n",
            printing,
            "src/pool/x.rs:1: only the commands",
        ),
        (
            "src/pool/x.rs",
            "fn f() { std::thread::sleep(x) }\n",
            stopping,
            "src/pool/x.rs:1: only commands block",
        ),
    ];
    for (path, text, rule, expected) in cases {
        let wrong = check(path, text, *rule);
        assert!(wrong.len() == 1 && wrong[0].starts_with(expected), "{text}: {wrong:?}");
    }
    let fine: &[(&str, &str, Rule)] = &[
        ("src/cli/x.rs", "use crate::sql::A;\nuse crate::pool;\n", import_order),
        ("src/sql/x.rs", "// crate::pool\nconst A: &str = \"crate::pool\";\n", import_order),
        ("src/sql/x.rs", "#[cfg(test)]\nmod tests {\n    use crate::pool;\n}\n", import_order),
        ("src/route/x.rs", "//! PostgreSQL's\nconst A: char = '\"'; // mysql\n", engine_words),
        ("src/main.rs", "fn f() { println!(\"\") }\n", printing),
        ("src/pool/x.rs", "trait T {\n    fn f(&self);\n}\n", lengths),
    ];
    for (path, text, rule) in fine {
        assert_eq!(check(path, text, *rule), Vec::<String>::new(), "{text}");
    }
}
