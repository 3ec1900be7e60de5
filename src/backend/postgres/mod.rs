//! Connections to PostgreSQL servers.
//!
//! Their start: [`connect`] from the socket to the first ReadyForQuery, [`auth`] the proofs,
//! [`auth_wire`] whole messages over any stream. Then: [`connection`] is a connection with what
//! is known of its state, and [`replies`] the queue of replies that it still owes ([`expected`]), with
//! [`watch`] what it tells and `passing` the way of the rest to the client. For everything that is not relay: [`connect_control`], TLS for tokio-postgres, and [`auth_query`] on top of it.

pub mod auth;
pub mod auth_query;
pub mod auth_wire;
pub mod connect;
pub mod connect_control;
pub mod connection;
pub mod expected;
mod owed;
mod passing;
pub mod replies;
mod replies_fuzz;

pub use replies_fuzz::fuzz_replies;
pub mod watch;

#[cfg(test)]
pub(crate) mod connect_fixture;
#[cfg(test)]
mod connect_tests;
