//! PostgreSQL's frontend/backend protocol, versions 3.0 and 3.2 (manual, chapter 55).
//!
//! [`frame`] finds messages in a buffer; [`request`] reads what clients send and writes what the
//! proxy sends in their place; [`reply`] does the same for servers. Of a connection's start:
//! [`startup`] the packets without a tag, [`auth`] what servers ask and clients answer, [`scram`]
//! and [`md5`] the proofs. Decoding borrows and checks every bound; nothing panics on any input.

pub mod auth;
pub mod error;
pub mod frame;
pub mod md5;
mod messages_fuzz;
pub mod reply;
pub mod request;
pub mod scram;
pub mod startup;
mod startup_fuzz;

pub use messages_fuzz::fuzz_messages;
pub use startup_fuzz::fuzz_startup;
