//! A conversation while it holds a server connection: the buffers, and what is under way.

use super::errors::Code;
use super::guard::Guard;
use super::lone::Lone;
use super::replay::Record;
use super::stream::Upload;
use super::{LocalPool, Pooled};
use crate::backend::mysql::connection::Connection;
use crate::protocol::buffer::Buffer;
use crate::protocol::mysql::capabilities::Status;
use crate::protocol::mysql::packet;
use crate::protocol::mysql::replies::{Awaits, Reply};
use crate::topology::{Gtids, NodeId};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

/// Everything that exists only while a server connection is held.
#[derive(Debug)]
pub struct Active {
    pub server: Server,
    /// To the server.
    pub outbox: Buffer,
    /// From the server; its first `forwardable` bytes are the client's as they are.
    pub read: Buffer,
    pub forwardable: usize,
    /// To the client, before what is forwarded from `read`.
    pub local: Buffer,
    /// The replies that are still to come, in order.
    pub expected: VecDeque<Expected>,
    /// What the client is still sending for the command under way.
    pub upload: Option<Upload>,
    /// Whether the TLS layer towards the server, the client, still holds bytes.
    pub server_unflushed: bool,
    pub client_unflushed: bool,
    pub progress: Progress,
}

/// The connection and where it leads.
#[derive(Debug)]
pub struct Server {
    pub pooled: Pooled,
    pub pool: Rc<LocalPool>,
    pub node: NodeId,
    pub incarnation: u64,
    /// Whether it was chosen as the primary: everything may be sent to it.
    pub is_primary: bool,
}

/// A reply that is due.
#[derive(Debug)]
pub struct Expected {
    pub reply: Reply,
    pub whose: Whose,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The client.
    Client,
    /// The proxy, in the client's place: what it does is the session's, and the client is told
    /// nothing.
    Session,
    /// The proxy, to make the connection the session's.
    Own,
    /// The proxy, to prepare the client's statement of this id.
    Prepare(u32),
    /// The proxy, to find out about the commit behind it.
    Guard,
}

/// An error of what the proxy itself asked.
#[derive(Debug, Clone)]
pub struct Broken {
    pub code: Code,
    pub message: String,
    /// Only the client's statement could not be prepared: the connection is good.
    pub by_statement: bool,
}

#[derive(Debug, Default)]
pub struct Progress {
    /// The command only reads, and nothing of its reply has reached the client: it can be sent
    /// elsewhere.
    pub repeatable: bool,
    /// Bytes of the command that are still in the inbox, to be sent again if need be.
    pub retained: usize,
    /// An error was swallowed in order to do so.
    pub intercepted: bool,
    /// Something that may have written was sent since the last end of a transaction.
    pub writing: bool,
    /// Something that shows data was sent.
    pub reading: bool,
    /// The commit under way, by its id.
    pub commit: Option<u64>,
    /// The COMMIT under way can be found out about.
    pub guard: Option<Box<Guard>>,
    /// The command is a transaction of its own, in one of the proxy's.
    pub lone: Option<Lone>,
    /// What is kept of the open transaction, if it is to run again elsewhere.
    pub record: Option<Box<Record>>,
    /// It runs again, and nobody is told.
    pub silent: bool,
    /// How much of what comes the client has had from a lost server.
    pub heard: u64,
    /// The text that has begun the transaction, which has run nothing else yet.
    pub begun: Option<Box<str>>,
    /// The client's id of the statement that the command names.
    pub names: Option<u32>,
    /// When the command came, the connection was that of the session's last statement.
    pub was_last: bool,
    /// What a replica refuses of the command a primary would refuse for the transaction.
    pub refused_as_read_only: bool,
    /// As far as a long command, or a file, has come.
    pub uploaded: Option<Upload>,
    /// The command was sent and is not answered to its end.
    pub under_way: bool,
    pub broken: Option<Broken>,
    /// The client's command has ended with an error of this number.
    pub failed: Option<u16>,
    /// The transactions that the reply says it has committed.
    pub committed: Option<Gtids>,
    /// The reply has shown rows, or has several results.
    pub shown: bool,
    /// It has shown rows, and not only what a procedure's parameters are: FOUND_ROWS() tells of them.
    pub found: bool,
    /// What ROW_COUNT() gives behind it.
    pub row_count: i64,
    /// Warnings that the last statement has left.
    pub warnings: bool,
    /// Flags of the command's last OK.
    pub status: Status,
    /// Trackers told of a change of the session's state, and which variable or schema changed.
    pub state_change: bool,
    pub named_change: bool,
    /// Variables that the statement sets are set for itself; those of the one before are back now.
    pub sets_once: bool,
    pub went_back: bool,
    /// The client's own id of the statement that it prepares.
    pub preparing: Option<u32>,
    pub started: Option<Instant>,
}

impl Progress {
    /// Whether SHOW WARNINGS has something to tell behind the command.
    pub fn leaves_diagnostics(&self) -> bool {
        self.warnings || self.failed.is_some()
    }
}

impl Active {
    pub fn new(server: Server, outbox: Buffer, read: Buffer) -> Active {
        Active {
            server,
            outbox,
            read,
            forwardable: 0,
            local: Buffer::default(),
            expected: VecDeque::new(),
            upload: None,
            server_unflushed: false,
            client_unflushed: false,
            progress: Progress::default(),
        }
    }

    pub fn connection(&mut self) -> &mut Connection {
        &mut self.server.pooled.connection
    }

    /// Appends a command of the proxy's own.
    pub fn ask(&mut self, awaits: Awaits, whose: Whose, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        packet::put(&mut bytes, &mut 0, fill);
        self.outbox.extend(&bytes);
        self.expect(awaits, whose);
    }

    pub fn expect(&mut self, awaits: Awaits, whose: Whose) {
        if awaits != Awaits::Nothing {
            self.expected.push_back(Expected { reply: Reply::new(awaits), whose });
        }
    }

    /// Whether everything that was sent is answered and everything that came is passed on.
    pub fn is_quiet(&self) -> bool {
        self.expected.is_empty()
            && self.upload.is_none()
            && self.outbox.is_empty()
            && self.local.is_empty()
            && self.forwardable == 0
            && !self.server_unflushed
            && !self.client_unflushed
    }
}
