//! Bytes to messages and back. No sockets, no clock, no randomness.
//!
//! Open [`postgres`] for the wire protocol of PostgreSQL and [`mysql`] for that of MySQL and
//! MariaDB; [`buffer`] is what every stream reads into.

pub mod buffer;
#[cfg(test)]
pub(crate) mod fuzz_driver;
pub mod mysql;
pub mod postgres;
