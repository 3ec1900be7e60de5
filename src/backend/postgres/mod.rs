//! One PostgreSQL server's conversation.
//!
//! Its start: [`connect`] from the socket to the first ReadyForQuery, [`auth`] the proofs,
//! [`auth_wire`] whole messages over any stream. For everything that is not relay:
//! [`connect_control`], TLS for tokio-postgres, and [`auth_query`] on top of it.

pub mod auth;
pub mod auth_query;
pub mod auth_wire;
pub mod connect;
pub mod connect_control;
#[cfg(test)]
pub(crate) mod connect_fixture;
#[cfg(test)]
mod connect_tests;
