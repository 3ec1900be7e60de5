//! Conversations in MySQL's protocol, for MySQL and MariaDB.
//!
//! [`startup`] lets a client in; [`compress`] is its stream.

pub mod auth;
pub mod auth_context;
pub mod compress;
pub mod startup;
pub mod startup_refusal;
