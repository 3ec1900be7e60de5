//! Hints: the comment `/* tiffin: … */` at the head of a text.
//!
//! `primary` · `replica` · `node=NAME` · `max_lag=5s` · `consistency=LEVEL`, separated by commas
//! or white space. A hint narrows the choice among safe nodes; it never makes a write a read.

use super::lex::{comment_end, line_end};
use super::statement::{Consistency, Hint, HintTarget};
use std::sync::Arc;
use std::time::Duration;

/// A longer comment is not a hint. It bounds what is copied into each digest.
const HINT_BYTES_MAX: usize = 1024;

/// The first comment at the head of the text that begins with `tiffin:`, its inside.
pub fn find(text: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        match (text.get(at)?, text.get(at + 1)) {
            (byte, _) if byte.is_ascii_whitespace() => at += 1,
            (b'-', Some(b'-')) | (b'#', _) => at = line_end(text, at),
            (b'/', Some(b'*')) => {
                let end = comment_end(text, at)?;
                let inside = text.get(at + 2..end - 2)?.trim_ascii();
                if inside.len() <= HINT_BYTES_MAX
                    && inside.get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"tiffin:"))
                {
                    return Some(inside);
                }
                at = end;
            }
            _ => return None,
        }
    }
}

/// The hint in a comment's inside, and a sentence for each part that was not understood.
pub fn parse(inside: &[u8]) -> (Hint, Vec<String>) {
    let text = String::from_utf8_lossy(inside);
    let body = text.split_once(':').map_or("", |(_, body)| body);
    let mut hint = Hint::default();
    let mut problems = Vec::new();
    for part in body.split(|c: char| c == ',' || c.is_whitespace()).filter(|p| !p.is_empty()) {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (part.to_ascii_lowercase(), None),
        };
        if let Err(problem) = apply(&mut hint, &key, value) {
            problems.push(problem);
        }
    }
    (hint, problems)
}

impl Hint {
    /// Takes one more choice in, from beside the text. One that is not understood is noted.
    pub fn set(&mut self, key: &str, value: Option<&str>) {
        if let Err(problem) = apply(self, key, value) {
            self.problem = Some(problem.into());
        }
    }
}

fn apply(hint: &mut Hint, key: &str, value: Option<&str>) -> Result<(), String> {
    match (key, value) {
        ("primary", None) => hint.target = Some(HintTarget::Primary),
        ("replica", None) => hint.target = Some(HintTarget::Replica),
        ("node", Some(name)) if !name.is_empty() => {
            hint.target = Some(HintTarget::Node(Arc::from(name)));
        }
        ("target", Some(value)) => hint.target = Some(target(value)),
        ("max_lag", Some(value)) => {
            let lag = duration(value).ok_or_else(|| {
                format!("max_lag={value} is not a duration such as 500ms, 5s or 1min")
            })?;
            hint.lag_max = Some(lag);
        }
        ("consistency", Some(value)) => {
            let level = Consistency::parse(&value.to_ascii_lowercase())
                .ok_or_else(|| format!("consistency={value} is not a known level"))?;
            hint.consistency = Some(level);
        }
        _ => return Err(format!("{key} is not a known hint")),
    }
    Ok(())
}

/// `primary`, `replica`, or the name of a node: the values of `tiffin.target`.
pub fn target(value: &str) -> HintTarget {
    match value.to_ascii_lowercase().as_str() {
        "primary" => HintTarget::Primary,
        "replica" => HintTarget::Replica,
        _ => HintTarget::Node(Arc::from(value)),
    }
}

/// A duration as PostgreSQL writes them: a whole number and `us`, `ms`, `s`, `min`, `h` or `d`;
/// milliseconds without a unit.
pub fn duration(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = value.get(..digits)?.parse().ok()?;
    let micros = match value.get(digits..)?.trim() {
        "us" => 1,
        "ms" | "" => 1_000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    Some(Duration::from_micros(number.checked_mul(micros)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(Hint, usize)> {
        let (hint, problems) = parse(find(text.as_bytes())?);
        Some((hint, problems.len()))
    }

    #[test]
    fn hints_stand_at_the_head_only() {
        let target = |target| Hint { target: Some(target), ..Hint::default() };
        let cases = [
            ("/* tiffin: primary */ select 1", Some((target(HintTarget::Primary), 0))),
            ("-- x\n /* y */ /*TIFFIN:replica*/", Some((target(HintTarget::Replica), 0))),
            ("/* tiffin: node=pg-b */", Some((target(HintTarget::Node("pg-b".into())), 0))),
            ("select 1 /* tiffin: primary */", None),
            ("/* tiffin primary */ select 1", None),
            ("/* tiffin: primary", None),
            ("/* tiffin: */", Some((Hint::default(), 0))),
            ("/* tiffin: colour=red, max_lag=soon */", Some((Hint::default(), 2))),
            (
                "/* tiffin: replica, max_lag=5s consistency=eventual */",
                Some((
                    Hint {
                        target: Some(HintTarget::Replica),
                        lag_max: Some(Duration::from_secs(5)),
                        consistency: Some(Consistency::Eventual),
                        problem: None,
                    },
                    0,
                )),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn durations_have_postgresql_units() {
        let cases = [
            ("5s", Some(5_000)),
            ("250", Some(250)),
            ("2 min", Some(120_000)),
            ("5x", None),
            ("", None),
            ("99999999999999999999s", None),
            ("9999999999999999999d", None),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }
}
