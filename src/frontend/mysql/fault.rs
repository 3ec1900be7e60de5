//! What ends a request or a conversation, and how the client is told.

use super::errors::{self, Code};
use crate::protocol::mysql::PacketError;
use std::io;
use std::time::Duration;
use thiserror::Error;

/// A request that was not run; the session goes on.
#[derive(Debug, Clone)]
pub struct Refused {
    pub code: Code,
    pub message: String,
}

impl Refused {
    pub fn new(code: Code, message: impl Into<String>) -> Refused {
        Refused { code, message: message.into() }
    }
}

/// What ends a conversation.
#[derive(Debug, Error)]
pub enum Fault {
    /// The client closed, or its connection broke.
    #[error("the client left")]
    ClientLeft,
    #[error("the client broke the protocol: {0}")]
    ClientProtocol(#[from] PacketError),
    #[error("the client sent the first part of a packet and then nothing for {0:?}")]
    ClientStalled(Duration),
    #[error("the client has not read its replies for {0:?}")]
    ClientDoesNotRead(Duration),
    /// The connection of the server broke with a request under way. `writing`: whether it may
    /// have changed something.
    #[error("the connection to {node} broke: {error}")]
    ServerLost { node: String, error: String, writing: bool },
    /// The primary changed under an open transaction.
    #[error("the primary changed: the transaction was open on {node}")]
    PrimaryChanged { node: String },
    /// What was under way when a server was lost has been answered in another way on the next one.
    #[error("the answer on the next server is another one")]
    AnswersDiffer,
    /// A transaction cannot go on, and the client is in the middle of an answer.
    #[error("the server was lost with this transaction open: {hint}")]
    TransactionLost { hint: &'static str },
    #[error("{message}")]
    Login { code: Code, message: String },
    #[error("connection was killed")]
    Killed,
    /// It has ended its transaction and the connection with it (COMMIT RELEASE), and has the answer.
    #[error("the client has released its connection")]
    Released,
    #[error("the proxy shuts down")]
    ShuttingDown,
}

/// What a client is told of a write whose fate is not known.
const OUTCOME: &str =
    "; a statement that may write was under way, and whether it was committed is not known";

impl Fault {
    pub fn code(&self) -> Code {
        match self {
            Fault::ClientLeft
            | Fault::Released
            | Fault::ClientStalled(_)
            | Fault::ClientDoesNotRead(_) => errors::SERVER_LOST,
            Fault::ClientProtocol(PacketError::Order) => errors::OUT_OF_ORDER,
            Fault::ClientProtocol(PacketError::TooLong) => errors::PACKET_TOO_LARGE,
            Fault::ClientProtocol(_) => errors::MALFORMED,
            Fault::ServerLost { writing: true, .. } => errors::OUTCOME_UNKNOWN,
            Fault::ServerLost { writing: false, .. } | Fault::PrimaryChanged { .. } => {
                errors::SERVER_LOST
            }
            Fault::AnswersDiffer | Fault::TransactionLost { .. } => errors::NOT_COMMITTED,
            Fault::Login { code, .. } => *code,
            Fault::Killed => errors::KILLED,
            Fault::ShuttingDown => errors::SHUTDOWN,
        }
    }

    /// The last words to the client; `None` when nothing more can or should be told.
    pub fn message(&self) -> Option<String> {
        Some(match self {
            Fault::ClientLeft | Fault::Released => return None,
            Fault::ShuttingDown => "Server shutdown in progress".to_owned(),
            Fault::Killed => "Connection was killed".to_owned(),
            Fault::ServerLost { writing: true, .. } => format!("{self}{OUTCOME}"),
            other => other.to_string(),
        })
    }
}

impl From<io::Error> for Fault {
    /// Only reading from and writing to the client is passed on with `?`.
    fn from(_: io::Error) -> Fault {
        Fault::ClientLeft
    }
}
