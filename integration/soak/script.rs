//! What clients do, as data that can be written down and run again.
//!
//! ```text
//! # anything
//! narrow user=app clients=2
//! @0 send
//! Q BEGIN
//! @1 connect application_name=x
//! @0 cancel
//! Q SELECT pg_sleep(60)
//! ```
//!
//! A step begins with `@client`; the messages that it sends follow, one per line. `-` is the
//! empty name; a line break in a text is `\n`, a backslash `\\`. Binds end in a JSON list of the
//! parameters. `P s1 23,25 SELECT $1` declares int4 and text.

use crate::support::wire;
use std::fmt::{self, Write as _};

/// One run: who takes part, and what they do in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    pub arena: Arena,
    /// The login of all clients.
    pub user: User,
    pub clients: usize,
    pub steps: Vec<Step>,
}

/// How many server connections there are for the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arena {
    /// One per node: a client's turn ends with nothing that holds it.
    Narrow,
    /// One per node and client: turns end anywhere.
    Wide,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    App,
    /// May SET SESSION AUTHORIZATION.
    Superuser,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub client: usize,
    pub act: Act,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Sends all messages, reads all replies.
    Send(Vec<Message>),
    /// Sends messages that take long, and cancels them.
    Cancel(Vec<Message>),
    /// A cancel request while nothing runs.
    StrayCancel,
    /// Leaves and comes back with these start-up parameters.
    Connect(Vec<(String, String)>),
    /// The same without a good-bye.
    Abort(Vec<(String, String)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Query(String),
    Parse {
        name: String,
        types: Vec<u32>,
        sql: String,
    },
    Bind {
        portal: String,
        statement: String,
        binary: bool,
        parameters: Vec<Option<String>>,
    },
    Describe(char, String),
    Execute(String, u32),
    Close(char, String),
    Sync,
    Flush,
    CopyData(String),
    CopyDone,
    CopyFail(String),
    /// A function of this OID with these int4 arguments.
    Function(u32, Vec<i32>),
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Message::Query(sql) => wire::query(sql),
            Message::Parse { name, types, sql } => {
                let mut body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0"].concat();
                body.extend(count(types.len()));
                types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
                wire::frame(b'P', &body)
            }
            Message::Bind { portal, statement, binary, parameters } => {
                let mut body = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0"].concat();
                body.extend(count(0));
                body.extend(count(parameters.len()));
                for parameter in parameters {
                    match parameter {
                        Some(text) => {
                            body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                            body.extend(text.as_bytes());
                        }
                        None => body.extend((-1i32).to_be_bytes()),
                    }
                }
                body.extend(count(1));
                body.extend(count(usize::from(*binary)));
                wire::frame(b'B', &body)
            }
            Message::Describe(kind, name) => wire::named(b'D', *kind as u8, name),
            Message::Execute(portal, rows) => wire::execute(portal, *rows),
            Message::Close(kind, name) => wire::named(b'C', *kind as u8, name),
            Message::Sync => wire::sync(),
            Message::Flush => wire::flush(),
            Message::CopyData(text) => wire::frame(b'd', text.as_bytes()),
            Message::CopyDone => wire::frame(b'c', b""),
            Message::CopyFail(text) => wire::frame(b'f', &[text.as_bytes(), b"\0"].concat()),
            Message::Function(oid, arguments) => {
                let mut body = oid.to_be_bytes().to_vec();
                body.extend(count(1));
                body.extend(count(1));
                body.extend(count(arguments.len()));
                for argument in arguments {
                    body.extend(4u32.to_be_bytes());
                    body.extend(argument.to_be_bytes());
                }
                body.extend(count(1));
                wire::frame(b'F', &body)
            }
        }
    }
}

fn count(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap().to_be_bytes()
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arena = match self.arena {
            Arena::Narrow => "narrow",
            Arena::Wide => "wide",
        };
        let user = match self.user {
            User::App => "app",
            User::Superuser => "superuser",
        };
        writeln!(f, "{arena} user={user} clients={}", self.clients)?;
        self.steps.iter().try_for_each(|step| write!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, messages, parameters): (_, &[Message], &[(String, String)]) = match &self.act {
            Act::Send(messages) => ("send", messages, &[]),
            Act::Cancel(messages) => ("cancel", messages, &[]),
            Act::StrayCancel => ("stray-cancel", &[], &[]),
            Act::Connect(parameters) => ("connect", &[], parameters),
            Act::Abort(parameters) => ("abort", &[], parameters),
        };
        write!(f, "@{} {word}", self.client)?;
        for (name, value) in parameters {
            write!(f, " {name}={}", value.replace(' ', "\\s"))?;
        }
        writeln!(f)?;
        messages.iter().try_for_each(|message| writeln!(f, "{message}"))
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Query(sql) => write!(f, "Q {}", escaped(sql)),
            Message::Parse { name, types, sql } => {
                let types: Vec<String> = types.iter().map(u32::to_string).collect();
                write!(f, "P {} {} {}", dash(name), dash(&types.join(",")), escaped(sql))
            }
            Message::Bind { portal, statement, binary, parameters } => {
                let format = if *binary { "binary" } else { "text" };
                let list = serde_json::to_string(parameters).unwrap_or_default();
                write!(f, "B {} {} {format} {list}", dash(portal), dash(statement))
            }
            Message::Describe(kind, name) => write!(f, "D {kind} {}", dash(name)),
            Message::Execute(portal, rows) => write!(f, "E {} {rows}", dash(portal)),
            Message::Close(kind, name) => write!(f, "C {kind} {}", dash(name)),
            Message::Sync => f.write_char('S'),
            Message::Flush => f.write_char('H'),
            Message::CopyData(text) => write!(f, "d {}", escaped(text)),
            Message::CopyDone => f.write_char('c'),
            Message::CopyFail(text) => write!(f, "f {}", escaped(text)),
            Message::Function(oid, arguments) => {
                write!(f, "F {oid}")?;
                arguments.iter().try_for_each(|argument| write!(f, " {argument}"))
            }
        }
    }
}

fn dash(name: &str) -> &str {
    if name.is_empty() { "-" } else { name }
}

fn undash(word: &str) -> String {
    if word == "-" { String::new() } else { word.to_owned() }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    out
}

/// Reads what [`Script`]'s `Display` writes. Panics on anything else, with the line.
pub fn read(text: &str) -> Script {
    let mut script = None;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let Some(script) = &mut script else {
            script = Some(read_head(line));
            continue;
        };
        match line.strip_prefix('@') {
            Some(head) => script.steps.push(read_step(head)),
            None => match script.steps.last_mut().map(|step| &mut step.act) {
                Some(Act::Send(messages) | Act::Cancel(messages)) => {
                    messages.push(read_message(line));
                }
                _ => panic!("a message where none is sent: {line}"),
            },
        }
    }
    script.expect("a script")
}

fn read_head(line: &str) -> Script {
    let mut script = Script { arena: Arena::Wide, user: User::App, clients: 2, steps: Vec::new() };
    for word in line.split_whitespace() {
        match word.split_once('=') {
            None if word == "narrow" => script.arena = Arena::Narrow,
            None if word == "wide" => script.arena = Arena::Wide,
            Some(("user", "app")) => script.user = User::App,
            Some(("user", "superuser")) => script.user = User::Superuser,
            Some(("clients", number)) => script.clients = number.parse().expect(line),
            _ => panic!("{word} in {line}"),
        }
    }
    script
}

fn read_step(head: &str) -> Step {
    let mut words = head.split_whitespace();
    let client = words.next().and_then(|word| word.parse().ok()).expect(head);
    let word = words.next().expect(head);
    let parameters = words
        .map(|word| word.split_once('=').expect(head))
        .map(|(name, value)| (name.to_owned(), value.replace("\\s", " ")))
        .collect();
    let act = match word {
        "send" => Act::Send(Vec::new()),
        "cancel" => Act::Cancel(Vec::new()),
        "stray-cancel" => Act::StrayCancel,
        "connect" => Act::Connect(parameters),
        "abort" => Act::Abort(parameters),
        _ => panic!("@{head}"),
    };
    Step { client, act }
}

fn read_message(line: &str) -> Message {
    let (tag, rest) = line.split_once(' ').unwrap_or((line, ""));
    let word = |at: usize| rest.splitn(at + 2, ' ').nth(at).expect(line);
    let last = |at: usize| rest.splitn(at + 1, ' ').nth(at).unwrap_or_default();
    let kind = || word(0).chars().next().expect(line);
    match tag {
        "Q" => Message::Query(unescaped(rest)),
        "P" => Message::Parse {
            name: undash(word(0)),
            types: undash(word(1)).split(',').filter_map(|oid| oid.parse().ok()).collect(),
            sql: unescaped(last(2)),
        },
        "B" => Message::Bind {
            portal: undash(word(0)),
            statement: undash(word(1)),
            binary: word(2) == "binary",
            parameters: serde_json::from_str(last(3)).expect(line),
        },
        "D" => Message::Describe(kind(), undash(word(1))),
        "E" => Message::Execute(undash(word(0)), last(1).parse().expect(line)),
        "C" => Message::Close(kind(), undash(word(1))),
        "S" => Message::Sync,
        "H" => Message::Flush,
        "d" => Message::CopyData(unescaped(rest)),
        "c" => Message::CopyDone,
        "f" => Message::CopyFail(unescaped(rest)),
        "F" => Message::Function(
            word(0).parse().expect(line),
            rest.split_whitespace().skip(1).map(|word| word.parse().expect(line)).collect(),
        ),
        _ => panic!("{line}"),
    }
}
