//! What is wrong with a file: all of it at once, each with its place, key and a sentence.

use std::fmt;

/// More are counted, not told: nobody reads them, and each costs a look at the file.
pub(super) const PROBLEMS_MAX: usize = 200;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 when the file could not be read at all.
    pub line: usize,
    /// From 1; 0 when the file could not be read at all.
    pub column: usize,
    /// `clusters.main.routing.max_lag`; empty when no key is to blame.
    pub key: String,
    /// What is wrong and what is allowed. Never contains a secret.
    pub message: String,
}

/// The problems of one file, in the order of its lines. Printed one per line:
/// `tiffin.yaml:12:5: clusters.main.routing.max_lag: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file's name as it was given.
    pub file: String,
    pub list: Vec<Problem>,
    /// How many more there are than `list` tells.
    pub left_out: usize,
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are, told or not.
    pub fn count(&self) -> usize {
        self.list.len() + self.left_out
    }

    /// As printed, with a word such as `warning: ` between the place and the key.
    pub fn lines(&self, label: &str) -> String {
        let file = &self.file;
        let line = |problem: &Problem| {
            let Problem { line, column, key, message } = problem;
            let place = if *line > 0 { format!(":{line}:{column}") } else { String::new() };
            let key = if key.is_empty() { String::new() } else { format!("{key}: ") };
            format!("{file}{place}: {label}{key}{message}")
        };
        let mut lines: Vec<String> = self.list.iter().map(line).collect();
        if self.left_out > 0 {
            lines.push(format!("{file}: and {} more", self.left_out));
        }
        lines.join("\n")
    }

    /// One problem of the file as a whole.
    pub(super) fn of_file(file: &str, message: String) -> Problems {
        let problem = Problem { line: 0, column: 0, key: String::new(), message };
        Problems { file: file.to_owned(), list: vec![problem], left_out: 0 }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines(""))
    }
}

impl std::error::Error for Problems {}
