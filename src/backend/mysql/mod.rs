//! Connections to MySQL and MariaDB servers.
//!
//! Their start: [`connect`] from the socket to the OK that ends authentication, [`auth`] and
//! [`rsa`] the proofs, [`wire`] whole packets over any stream. Then: [`connection`] is a
//! connection with what is known of its state.

pub mod auth;
pub mod connect;
pub mod connection;
pub mod rsa;
pub mod traces;
pub mod variables;
pub mod wire;

pub use traces::Traces;
