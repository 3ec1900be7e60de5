//! PostgreSQL's frontend/backend protocol, versions 3.0 and 3.2 (manual, chapter 55).
//!
//! [`frame`] finds messages in a buffer; [`request`] reads what clients send and writes what the
//! proxy sends in their place; [`reply`] does the same for servers; [`startup`] and [`auth`] are
//! what comes before. Decoding borrows and checks every bound; nothing here panics on any input.

pub mod auth;
pub mod error;
pub mod frame;
pub mod md5;
pub mod reply;
pub mod request;
pub mod scram;
pub mod startup;
