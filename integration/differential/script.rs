//! Cases as text: what two clients, or more, send. `integration/data/differential/README.md` has
//! the format.

use crate::support::wire::frame;
use std::path::Path;

/// One session with a server, or several that run beside each other.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    /// File and line.
    pub place: String,
    /// The login; `app` unless the case says otherwise.
    pub user: String,
    /// Further parameters of the start-up packet.
    pub startup: Vec<(String, String)>,
    pub exceptions: Vec<Exception>,
    /// Why the whole case is answered otherwise by the proxy.
    pub differs: Option<String>,
    /// Only if things come in one order and not in another.
    pub at_times: bool,
    pub steps: Vec<Step>,
}

/// One line of a case.
#[derive(Debug)]
pub struct Step {
    /// Which of the case's connections, from 1.
    pub connection: usize,
    pub text: String,
    pub actions: Vec<Action>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Kept until the next action of another kind, then sent in one write.
    Send(Vec<u8>),
    /// Reads to this many ReadyForQuery.
    Wait(usize),
    /// Reads to a message with one of these tags.
    Until(Vec<u8>),
    /// Reads to the end of the stream.
    End,
    /// Closes without a word.
    Drop,
}

/// Where the two servers may differ in a case.
#[derive(Debug)]
pub struct Exception {
    pub tag: u8,
    /// Fields of an error or notice; empty: messages with this tag are left out.
    pub fields: Vec<u8>,
    pub reason: String,
}

/// The cases of one file.
pub fn read(path: &Path) -> Vec<Case> {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{file}:{}", number + 1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case {
                name: name.trim().to_owned(),
                place,
                user: "app".to_owned(),
                startup: Vec::new(),
                exceptions: Vec::new(),
                differs: None,
                at_times: false,
                steps: Vec::new(),
            });
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("{place}: no case begins before"));
        add_line(case, line).unwrap_or_else(|error| panic!("{place}: {error}: {line}"));
    }
    cases
}

fn add_line(case: &mut Case, line: &str) -> Result<(), String> {
    let (word, rest) = split(line);
    match word {
        "as" => case.user = rest.to_owned(),
        "with" => {
            let (name, value) = rest.split_once('=').ok_or("a parameter is name=value")?;
            case.startup.push((name.to_owned(), value.to_owned()));
        }
        "differs:" => case.differs = Some(rest.to_owned()),
        "may-differ:" => (case.differs, case.at_times) = (Some(rest.to_owned()), true),
        "except" => case.exceptions.push(exception(rest)?),
        _ => {
            let (connection, command) = match word.strip_suffix(':').map(str::parse) {
                Some(Ok(number)) => (number, rest),
                _ => (1, line),
            };
            let actions = actions(command)?;
            case.steps.push(Step { connection, text: command.to_owned(), actions });
        }
    }
    Ok(())
}

/// `E.FLR: reason` or `S: reason`.
fn exception(text: &str) -> Result<Exception, String> {
    let (what, reason) = text.split_once(": ").ok_or("an exception has a reason")?;
    let (tag, fields) = what.split_once('.').unwrap_or((what, ""));
    let [tag] = tag.as_bytes() else { return Err("a tag is one letter".into()) };
    Ok(Exception { tag: *tag, fields: fields.into(), reason: reason.to_owned() })
}

fn actions(command: &str) -> Result<Vec<Action>, String> {
    let (word, rest) = split(command);
    let ready = |message| vec![Action::Send(message), Action::Wait(1)];
    Ok(match word {
        "Q" => ready(query(rest)?),
        "S" => ready(frame(b'S', b"")),
        "F" => ready(function_call(rest)?),
        "ext" => {
            let mut messages = extended(rest)?;
            messages.extend(frame(b'S', b""));
            ready(messages)
        }
        "wait" if rest.is_empty() => vec![Action::Wait(1)],
        "wait" => vec![Action::Wait(rest.parse().map_err(|_| "wait for how many?")?)],
        "until" => vec![Action::Until(rest.into())],
        "end" => vec![Action::End],
        "drop" => vec![Action::Drop],
        _ => vec![Action::Send(message(word, rest)?)],
    })
}

fn message(word: &str, rest: &str) -> Result<Vec<u8>, String> {
    Ok(match word {
        "q" => query(rest)?,
        "s" => frame(b'S', b""),
        "fc" => function_call(rest)?,
        "run" => extended(rest)?,
        "P" => parse(rest)?,
        "B" => bind(rest)?,
        "D" | "C" => {
            let (kind, name) = split(rest);
            if !matches!(kind, "S" | "P") {
                return Err("S or P, then a name".into());
            }
            frame(word.as_bytes()[0], &[kind.as_bytes(), &text(named(name))?, b"\0"].concat())
        }
        "E" => {
            let (portal, rows) = split(rest);
            let rows: u32 =
                if rows.is_empty() { 0 } else { rows.parse().map_err(|_| "rows are a number")? };
            frame(b'E', &[&text(named(portal))?[..], b"\0", &rows.to_be_bytes()].concat())
        }
        "H" => frame(b'H', b""),
        "d" => frame(b'd', &text(rest)?),
        "c" => frame(b'c', b""),
        "f" => frame(b'f', &[&text(rest)?[..], b"\0"].concat()),
        "X" => frame(b'X', b""),
        "message" => {
            let (tag, body) = split(rest);
            frame(*tag.as_bytes().first().ok_or("a tag")?, &text(body)?)
        }
        "raw" => text(rest)?,
        _ => return Err("not a command".into()),
    })
}

fn query(sql: &str) -> Result<Vec<u8>, String> {
    Ok(frame(b'Q', &[&text(sql)?[..], b"\0"].concat()))
}

/// Parse, Bind, Describe and Execute of the unnamed statement and portal.
fn extended(sql: &str) -> Result<Vec<u8>, String> {
    let parse = frame(b'P', &[b"\0", &text(sql)?[..], b"\0\0\0"].concat());
    Ok([parse, bind("- -")?, frame(b'D', b"P\0"), frame(b'E', b"\0\0\0\0\0")].concat())
}

/// `name SQL` or `name(types) SQL`.
fn parse(rest: &str) -> Result<Vec<u8>, String> {
    let (head, sql) = split(rest);
    let (name, types) = match head.split_once('(') {
        Some((name, types)) => (name, types.strip_suffix(')').ok_or("no ) after the types")?),
        None => (head, ""),
    };
    let types: Vec<&str> = types.split(',').filter(|word| !word.is_empty()).collect();
    let mut body = [&text(named(name))?[..], b"\0", &text(sql)?, b"\0"].concat();
    body.extend(count(types.len())?);
    for word in types {
        body.extend(type_oid(word)?.to_be_bytes());
    }
    Ok(frame(b'P', &body))
}

/// `portal statement values -> formats`: a value is `null`, `'text'` or `b:hex`; formats are `t`
/// and `b`, one for each column or one for all.
fn bind(rest: &str) -> Result<Vec<u8>, String> {
    let (portal, rest) = split(rest);
    let (statement, rest) = split(rest);
    let (values, formats) = rest.rsplit_once("->").unwrap_or((rest, ""));
    let mut body = [&text(named(portal))?[..], b"\0", &text(named(statement))?, b"\0"].concat();
    body.extend(arguments(values)?);
    let formats: Vec<&str> = formats.split_whitespace().collect();
    body.extend(count(formats.len())?);
    for format in formats {
        body.extend(format_code(format == "b"));
    }
    Ok(frame(b'B', &body))
}

/// `oid values -> format`.
fn function_call(rest: &str) -> Result<Vec<u8>, String> {
    let (oid, rest) = split(rest);
    let (values, format) = rest.rsplit_once("->").unwrap_or((rest, "t"));
    let oid: u32 = oid.parse().map_err(|_| "the function's OID is a number")?;
    let mut body = oid.to_be_bytes().to_vec();
    body.extend(arguments(values)?);
    body.extend(format_code(format.trim() == "b"));
    Ok(frame(b'F', &body))
}

/// Format codes and values, as in Bind and FunctionCall.
fn arguments(text: &str) -> Result<Vec<u8>, String> {
    let values = values(text)?;
    let binary = values.iter().any(|(binary, _)| *binary);
    let mut body = Vec::new();
    if binary {
        body.extend(count(values.len())?);
        values.iter().for_each(|(binary, _)| body.extend(format_code(*binary)));
    } else {
        body.extend(count(0)?);
    }
    body.extend(count(values.len())?);
    for (_, value) in values {
        match value {
            Some(value) => {
                let length = u32::try_from(value.len()).map_err(|_| "too long")?;
                body.extend(length.to_be_bytes());
                body.extend(value);
            }
            None => body.extend([255; 4]),
        }
    }
    Ok(body)
}

type Value = (bool, Option<Vec<u8>>);

fn values(text_: &str) -> Result<Vec<Value>, String> {
    let mut values = Vec::new();
    let mut rest = text_.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let (value, after) = quoted.split_once('\'').ok_or("no quote at the end")?;
            values.push((false, Some(text(value)?)));
            rest = after.trim_start();
            continue;
        }
        let (word, after) = split(rest);
        values.push(match word.strip_prefix("b:") {
            Some(digits) => (true, Some(hex(digits)?)),
            None if word == "null" => (false, None),
            None => return Err(format!("{word:?} is not a value")),
        });
        rest = after;
    }
    Ok(values)
}

fn format_code(binary: bool) -> [u8; 2] {
    u16::from(binary).to_be_bytes()
}

fn count(number: usize) -> Result<[u8; 2], String> {
    u16::try_from(number).map(u16::to_be_bytes).map_err(|_| "too many".into())
}

fn type_oid(word: &str) -> Result<u32, String> {
    Ok(match word {
        "unknown" => 0,
        "bool" => 16,
        "bytea" => 17,
        "int8" => 20,
        "int4" => 23,
        "text" => 25,
        "date" => 1082,
        "numeric" => 1700,
        number => number.parse().map_err(|_| format!("{number} is not a type"))?,
    })
}

/// `-` is the empty name.
fn named(name: &str) -> &str {
    if name == "-" { "" } else { name }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_once(' ').map_or((text, ""), |(word, rest)| (word, rest.trim_start()))
}

fn hex(digits: &str) -> Result<Vec<u8>, String> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or(""));
    pairs.map(|pair| u8::from_str_radix(pair, 16).map_err(|_| "not hex".to_owned())).collect()
}

/// The bytes of a text with its escapes: `\n`, `\t`, `\0`, `\\`, `\xHH`, and `\r{1000:ab}` for a
/// text a thousand times.
pub fn text(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend(before.as_bytes());
        let kind = after.chars().next().ok_or("nothing after \\")?;
        rest = &after[kind.len_utf8()..];
        match kind {
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                bytes.extend(hex(rest.get(..2).ok_or("two digits after \\x")?)?);
                rest = &rest[2..];
            }
            'r' => {
                let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
                let (repeated, after) = inside.ok_or("\\r{times:text}")?;
                let (times, what) = repeated.split_once(':').ok_or("\\r{times:text}")?;
                bytes.extend(what.repeat(times.parse().map_err(|_| "how often?")?).as_bytes());
                rest = after;
            }
            other => return Err(format!("\\{other} is no escape")),
        }
    }
    bytes.extend(rest.as_bytes());
    Ok(bytes)
}

#[test]
fn scripts_are_read() {
    let actions = |line| actions(line).unwrap();
    assert_eq!(actions("Q a\\n"), [Action::Send(b"Q\0\0\0\x07a\n\0".into()), Action::Wait(1)]);
    let bytes = b"P\0\0\0\x11s\0x  y\0\0\x01\0\0\0\x17";
    assert_eq!(actions("P s(int4) x  y"), [Action::Send(bytes.into())]);
    let bytes = b"B\0\0\0\x1d\0s\0\0\x02\0\x01\0\0\0\x02\0\0\0\x01\xff\0\0\0\x01a\0\x01\0\x01";
    assert_eq!(actions("B - s b:ff 'a' -> b"), [Action::Send(bytes.into())]);
    assert_eq!(text("\\r{3:ab}\\x00\\\\").unwrap(), b"ababab\0\\");
    assert_eq!(actions("wait 2"), [Action::Wait(2)]);
    assert!(message("P", "s(int4 x").is_err() && message("nonsense", "").is_err());
}
