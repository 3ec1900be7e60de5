//! What ends a request or a conversation, and how the client is told.

use crate::protocol::postgres::error::Report;
use crate::protocol::postgres::frame::FrameError;
use std::io;
use std::time::Duration;
use thiserror::Error;

/// A request that was not run; the session goes on.
#[derive(Debug, Clone)]
pub struct Refused {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<&'static str>,
}

impl Refused {
    pub fn new(sqlstate: &str, message: impl Into<String>) -> Refused {
        let (sqlstate, message) = (sqlstate.to_owned(), message.into());
        Refused { sqlstate, message, detail: None, hint: None }
    }

    pub fn report(&self) -> Report<'_> {
        let detail = self.detail.as_deref();
        Report { detail, hint: self.hint, ..Report::error(&self.sqlstate, &self.message) }
    }
}

/// What ends a conversation.
#[derive(Debug, Error)]
pub enum Fault {
    /// The client closed, or its connection broke.
    #[error("the client left")]
    ClientLeft,
    #[error("the client broke the protocol: {0}")]
    ClientProtocol(#[from] FrameError),
    #[error("the client sent the first part of a message and then nothing for {0:?}")]
    ClientStalled(Duration),
    #[error("the client has not read its replies for {0:?}")]
    ClientDoesNotRead(Duration),
    /// The connection of the server broke with a request under way. `writing`: whether it may
    /// have changed something.
    #[error("the connection to {node} broke: {error}")]
    ServerLost { node: String, error: String, writing: bool, told: bool },
    /// The primary changed under an open transaction.
    #[error("the primary changed: the transaction was open on {node}")]
    PrimaryChanged { node: String },
    /// The open transaction runs again, and what its client has had of an answer comes in another
    /// way.
    #[error("an answer of which a part was passed on comes in another way now")]
    AnswersDiffer,
    /// The open transaction was lost with its server, with more under way than one error can
    /// answer.
    #[error("the server was lost with this transaction open, and running it again has failed")]
    TransactionLost { hint: &'static str, is_cut: bool },
    /// A setting that the session has could not be made on the server.
    #[error("the session's settings could not be brought to the server: {0}")]
    Settings(String),
    #[error("{sqlstate}: {message}")]
    Login { sqlstate: String, message: String },
    #[error("the proxy shuts down")]
    ShuttingDown,
}

impl Fault {
    pub fn sqlstate(&self) -> &str {
        match self {
            Fault::ClientLeft => "08003",
            Fault::ClientProtocol(_) | Fault::ClientStalled(_) => "08P01",
            Fault::ClientDoesNotRead(_) => "08006",
            // transaction_resolution_unknown
            Fault::ServerLost { writing: true, .. } => "08007",
            Fault::ServerLost { writing: false, .. } => "08006",
            Fault::PrimaryChanged { .. } => "57P01",
            Fault::AnswersDiffer | Fault::TransactionLost { .. } => "40001",
            Fault::Settings(message) => message.get(..5).unwrap_or("XX000"),
            Fault::Login { sqlstate, .. } => sqlstate,
            Fault::ShuttingDown => "57P01",
        }
    }

    /// The FATAL message for the client; `None` when nothing more can or should be told.
    pub fn put(&self, out: &mut Vec<u8>) {
        let message = match self {
            Fault::ClientLeft
            | Fault::ServerLost { told: true, .. }
            | Fault::TransactionLost { is_cut: true, .. } => return,
            Fault::ShuttingDown => "terminating connection due to administrator command".to_owned(),
            Fault::ClientProtocol(error) => error.to_string(),
            Fault::Login { message, .. } => message.clone(),
            other => other.to_string(),
        };
        let hint = match self {
            Fault::ServerLost { writing: true, .. } => Some(
                "A statement that may write was under way. Whether it was committed is not known.",
            ),
            Fault::TransactionLost { hint, .. } => Some(*hint),
            _ => None,
        };
        Report { hint, ..Report::fatal(self.sqlstate(), &message) }.put(out);
    }
}

impl From<io::Error> for Fault {
    /// Only reading from and writing to the client is passed on with `?`.
    fn from(_: io::Error) -> Fault {
        Fault::ClientLeft
    }
}
