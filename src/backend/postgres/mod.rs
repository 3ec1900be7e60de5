//! Connections to PostgreSQL servers.
//!
//! [`replies`] is the heart: the queue of replies that a connection still owes, and what becomes
//! of each on its way to the client. [`connection`] is a connection with what is known of its
//! state; [`connect`] opens one.

pub mod auth;
pub mod auth_query;
pub mod auth_wire;
pub mod connect;
pub mod connect_control;
pub mod connection;
pub mod replies;
