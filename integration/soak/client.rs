//! One client's connection: sends the messages of a step, reads what belongs to it.

use super::script::Message;
use crate::support::wire::{self, frame};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

/// A query that is to be cancelled has begun well within this; if it ends by itself in this time
/// it was refused.
const CANCEL_AFTER: Duration = Duration::from_millis(60);
const CANCEL_AGAIN: Duration = Duration::from_millis(20);
const CANCEL_REQUEST: u32 = 80_877_102;

/// Why a step has no replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Broken {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Broken("no answer".into()),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Broken("the connection was closed".into())
            }
            _ => Broken(error.to_string()),
        }
    }
}

pub struct Client {
    stream: TcpStream,
    port: u16,
    /// Process id and secret, as in a cancel request.
    key: Vec<u8>,
    /// What was sent of this step without being answered, and what has been seen.
    progress: Progress,
}

#[derive(Default)]
struct Progress {
    readies_due: usize,
    readies: usize,
    /// Replies due since the last Sync, and seen since the last ReadyForQuery.
    completions_due: usize,
    completions: usize,
    failed: bool,
}

/// Where and as whom to log in.
#[derive(Debug, Clone)]
pub struct Door {
    pub port: u16,
    pub user: String,
    pub password: String,
    pub database: String,
    pub patience: Duration,
}

impl Client {
    /// Logs in; also gives what came before ReadyForQuery.
    pub fn connect(
        door: &Door,
        parameters: &[(String, String)],
    ) -> Result<(Client, Vec<wire::Message>), Broken> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, door.port))?;
        stream.set_read_timeout(Some(door.patience))?;
        stream.set_nodelay(true)?;
        let mut client =
            Client { stream, port: door.port, key: Vec::new(), progress: Progress::default() };
        let mut body = wire::VERSION_3_0.to_be_bytes().to_vec();
        let known = [("user", door.user.as_str()), ("database", door.database.as_str())];
        let chosen = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in known.into_iter().chain(chosen) {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap();
        client.send(&[&length.to_be_bytes()[..], &body].concat())?;
        let mut seen = Vec::new();
        loop {
            let message = client.message()?;
            match (message.tag, message.body.get(..4)) {
                (b'R', Some([0, 0, 0, 3])) => {
                    client.send(&frame(b'p', &[door.password.as_bytes(), b"\0"].concat()))?;
                }
                (b'R', _) => {}
                (b'K', _) => client.key = message.body,
                (b'E', _) => {
                    seen.push(message);
                    return Ok((client, seen));
                }
                (b'Z', _) => return Ok((client, seen)),
                _ => seen.push(message),
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        Ok(self.stream.write_all(bytes)?)
    }

    fn message(&mut self) -> Result<wire::Message, Broken> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; usize::try_from(length).unwrap().saturating_sub(4)];
        self.stream.read_exact(&mut body)?;
        Ok(wire::Message { tag: head[0], body })
    }

    /// Sends a step's messages and reads all that they bring.
    pub fn run(
        &mut self,
        messages: &[Message],
        seen: &mut Vec<wire::Message>,
    ) -> Result<(), Broken> {
        self.progress = Progress::default();
        let mut bytes = Vec::new();
        for (at, message) in messages.iter().enumerate() {
            bytes.extend(message.encode());
            self.progress.expect(message);
            if *message == Message::Flush {
                self.send(&std::mem::take(&mut bytes))?;
                self.read_until(messages, at, seen, Progress::is_flushed)?;
            }
        }
        self.send(&bytes)?;
        self.read_until(messages, messages.len(), seen, Progress::is_done)
    }

    fn read_until(
        &mut self,
        messages: &[Message],
        sent: usize,
        seen: &mut Vec<wire::Message>,
        done: fn(&Progress) -> bool,
    ) -> Result<(), Broken> {
        while !done(&self.progress) {
            let message = self.message()?;
            let tag = message.tag;
            seen.push(message);
            self.progress.see(tag);
            if tag == b'G' {
                self.copy_in(messages, sent)?;
            }
        }
        Ok(())
    }

    /// The server wants data: what follows is known to be sent, or is made up for.
    fn copy_in(&mut self, messages: &[Message], sent: usize) -> Result<(), Broken> {
        let is_end =
            |message: &Message| matches!(message, Message::CopyDone | Message::CopyFail(_));
        let extended = messages.iter().any(|message| matches!(message, Message::Execute(..)));
        let end = messages.iter().position(is_end);
        if let Some(end) = end {
            // Syncs ahead of the data are not answered.
            let ahead = messages[..end.min(sent)].iter().filter(|m| **m == Message::Sync).count();
            if extended {
                self.progress.readies_due -= ahead.min(self.progress.readies_due);
            }
            return Ok(());
        }
        let mut bytes = Message::CopyFail("no data in the script".into()).encode();
        if extended {
            bytes.extend(Message::Sync.encode());
            self.progress.readies_due = self.progress.readies + 1;
        }
        self.send(&bytes)
    }

    /// Sends what takes long, and cancels it until it has ended.
    pub fn cancel(
        &mut self,
        messages: &[Message],
        seen: &mut Vec<wire::Message>,
        patience: Duration,
    ) -> Result<(), Broken> {
        self.progress = Progress::default();
        let bytes: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
        messages.iter().for_each(|message| self.progress.expect(message));
        self.send(&bytes)?;
        let first = seen.len();
        let mut wait = CANCEL_AFTER;
        let mut waited = Duration::ZERO;
        while !self.progress.is_done() {
            match self.peek(wait)? {
                true => self.read_one(seen)?,
                false if waited > patience => return Err(Broken("the cancel does nothing".into())),
                false => self.stray_cancel()?,
            }
            waited += wait;
            wait = CANCEL_AGAIN;
        }
        // On a busy machine the cancel may come between the query and its description.
        let replies: Vec<wire::Message> = seen.drain(first..).collect();
        seen.extend(replies.into_iter().filter(|message| message.tag != b'T'));
        Ok(())
    }

    fn read_one(&mut self, seen: &mut Vec<wire::Message>) -> Result<(), Broken> {
        let message = self.message()?;
        self.progress.see(message.tag);
        seen.push(message);
        Ok(())
    }

    fn peek(&self, wait: Duration) -> Result<bool, Broken> {
        let patience = self.stream.read_timeout()?;
        self.stream.set_read_timeout(Some(wait))?;
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(patience)?;
        match peeked {
            Ok(0) => Err(Broken("the connection was closed".into())),
            Ok(_) => Ok(true),
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a cancel request and waits until it has been passed on.
    pub fn stray_cancel(&self) -> Result<(), Broken> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(self.stream.read_timeout()?)?;
        let length = u32::try_from(self.key.len() + 8).unwrap();
        let head = [length.to_be_bytes(), CANCEL_REQUEST.to_be_bytes()].concat();
        stream.write_all(&[head, self.key.clone()].concat())?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    }

    /// Leaves, and waits until the other side has closed.
    pub fn leave(mut self, politely: bool) -> Result<(), Broken> {
        if politely {
            self.send(&frame(b'X', b""))?;
        }
        // A server that has already gone is no worse.
        let _ = self.stream.shutdown(Shutdown::Write);
        match self.stream.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    /// A message that comes by itself, if one comes in this time.
    pub fn unasked(&mut self, wait: Duration) -> Result<Option<wire::Message>, Broken> {
        if self.peek(wait)? { Ok(Some(self.message()?)) } else { Ok(None) }
    }
}

impl Progress {
    fn expect(&mut self, message: &Message) {
        match message {
            Message::Query(_) | Message::Function(..) | Message::Sync => {
                self.readies_due += 1;
                self.completions_due = 0;
            }
            Message::Describe('S', _) => self.completions_due += 2,
            Message::Parse { .. }
            | Message::Bind { .. }
            | Message::Describe(..)
            | Message::Execute(..)
            | Message::Close(..) => self.completions_due += 1,
            Message::Flush | Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_) => {}
        }
    }

    fn see(&mut self, tag: u8) {
        match tag {
            b'Z' => {
                self.readies += 1;
                self.completions = 0;
                self.failed = false;
            }
            b'E' => self.failed = true,
            b'1' | b'2' | b'3' | b't' | b'T' | b'n' | b'C' | b's' | b'I' | b'G' => {
                self.completions += 1;
            }
            _ => {}
        }
    }

    fn is_done(&self) -> bool {
        self.readies >= self.readies_due
    }

    fn is_flushed(&self) -> bool {
        self.readies >= self.readies_due
            && (self.failed || self.completions >= self.completions_due)
    }
}
