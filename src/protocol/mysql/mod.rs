//! The client/server protocol of MySQL and MariaDB, version 10 with `CLIENT_PROTOCOL_41` (MySQL's
//! source documentation, "Client/Server Protocol"; MariaDB's knowledge base, "Client/Server
//! Protocol").
//!
//! [`packet`] finds packets in a buffer, [`lenenc`] reads and writes their fields,
//! [`capabilities`] names the flags. [`command`] is what clients send, with [`execute`] for what
//! is executed, [`reply`] the packets that answer it, [`replies`] follows one command's reply as it arrives, and [`translate`] shows it to
//! a client that negotiated less than the proxy did. Of a connection's start: [`handshake`] the
//! packets, [`auth`] the proofs. Decoding borrows and checks every bound; nothing panics on any
//! input.

pub mod auth;
pub mod capabilities;
pub mod command;
pub mod execute;
pub mod handshake;
pub mod lenenc;
pub mod packet;
pub mod replies;
mod replies_fuzz;
pub mod reply;
pub mod translate;

pub use handshake::fuzz_handshake;
pub use replies_fuzz::{fuzz_packets, fuzz_replies};

use thiserror::Error;

/// What cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PacketError {
    #[error("a packet ends too early")]
    Short,
    #[error("a packet has bytes behind its end")]
    Long,
    #[error("a packet has an unexpected shape")]
    Shape,
    /// Bytes that must be looked at together are more than is kept.
    #[error("a packet is too long")]
    TooLong,
    /// Its number is not the one that is due.
    #[error("packets came out of order")]
    Order,
}
