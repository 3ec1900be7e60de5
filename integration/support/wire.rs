//! PostgreSQL's protocol byte by byte, for what no client library would send.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// A proxy that says nothing for so long hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Protocol 3.0 and 3.2 as in the start-up packet.
pub const VERSION_3_0: u32 = 196_608;
pub const VERSION_3_2: u32 = 196_610;

pub struct Wire {
    pub stream: TcpStream,
}

/// One message of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Wire {
    pub fn connect(port: u16) -> Wire {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire { stream }
    }

    /// Sends a start-up packet with these parameters.
    pub fn startup(&mut self, version: u32, parameters: &[(&str, &str)]) {
        let mut body = version.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap();
        self.send(&[&length.to_be_bytes()[..], &body].concat());
    }

    /// Logs in as a user with method `password` or `trust` and returns what came before
    /// ReadyForQuery.
    pub fn login(port: u16, version: u32, user: &str, password: &str) -> (Wire, Vec<Message>) {
        let mut wire = Wire::connect(port);
        wire.startup(version, &[("user", user), ("database", "app")]);
        let mut seen = Vec::new();
        loop {
            let message = wire.message().expect("an answer to the login");
            match (message.tag, message.body.get(..4)) {
                (b'R', Some([0, 0, 0, 3])) => {
                    wire.send(&frame(b'p', &[password.as_bytes(), b"\0"].concat()));
                }
                (b'E', _) => panic!("{}", message.text()),
                (b'Z', _) => return (wire, seen),
                _ => seen.push(message),
            }
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// The next message; `None` at the end of the stream.
    pub fn message(&mut self) -> Option<Message> {
        match self.try_message() {
            Ok(message) => message,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                None
            }
        }
    }

    /// The next message; `None` at the end of the stream.
    pub fn try_message(&mut self) -> std::io::Result<Option<Message>> {
        let mut head = [0; 5];
        match self.stream.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        self.stream.read_exact(&mut body)?;
        Ok(Some(Message { tag: head[0], body }))
    }

    /// All messages to the next ReadyForQuery, that one included, or to the end.
    pub fn until_ready(&mut self) -> Vec<Message> {
        let mut seen = Vec::new();
        while let Some(message) = self.message() {
            seen.push(message);
            if seen.last().is_some_and(|last| last.tag == b'Z') {
                break;
            }
        }
        seen
    }

    /// Runs a simple query.
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql));
        self.until_ready()
    }

    /// The last error before the end of the stream, as its SQLSTATE; panics if it does not end.
    pub fn closed_with(&mut self) -> Option<String> {
        let mut state = None;
        while let Some(message) = self.message() {
            if message.tag == b'E' {
                state = Some(message.field(b'C'));
            }
        }
        state
    }
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse; empty if absent.
    pub fn field(&self, code: u8) -> String {
        let fields = self.body.split(|byte| *byte == 0);
        let found = fields.into_iter().find(|field| field.first() == Some(&code));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).replace('\0', " ")
    }

    /// The first column of a DataRow.
    pub fn first_column(&self) -> Option<String> {
        let length = u32::from_be_bytes(self.body.get(2..6)?.try_into().ok()?);
        let bytes = self.body.get(6..6 + usize::try_from(length).ok()?)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// The tags of messages, as one word.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

/// The first column of the first row.
pub fn first_value(messages: &[Message]) -> Option<String> {
    messages.iter().find(|message| message.tag == b'D')?.first_column()
}

pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    frame(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

/// Bind without parameters, results as text.
pub fn bind(portal: &str, statement: &str) -> Vec<u8> {
    let names = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0"].concat();
    frame(b'B', &[&names[..], &[0; 6]].concat())
}

/// Describe or Close: `kind` is `S` or `P`.
pub fn named(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    frame(tag, &[&[kind], name.as_bytes(), b"\0"].concat())
}

/// `rows` is 0 for all.
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    frame(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

pub fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    frame(b'H', b"")
}
