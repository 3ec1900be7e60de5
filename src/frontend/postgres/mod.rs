//! Conversations in PostgreSQL's protocol.
//!
//! [`startup`] lets a client in; [`conversation`] is the list of stages that each request goes
//! through, a file each.

pub mod active;
pub mod ask;
pub mod auth;
pub mod auth_context;
pub mod conversation;
pub mod effects;
pub mod encode;
pub mod errors;
pub mod extent;
pub mod fault;
pub mod guard;
pub mod intake;
pub mod local;
pub mod observer;
pub mod op;
pub mod own_names;
pub mod parameters;
pub mod plan;
pub mod release;

pub mod replay;
pub mod replica;
pub mod replication;
pub mod resolve;
pub mod scratch;
pub mod seeker;
pub mod send;
pub mod serve;
pub mod shapes;
pub mod startup;
#[cfg(test)]
mod startup_raw_tests;
pub mod startup_refusal;
pub mod statements;
pub mod stream;
pub mod unseen;
pub mod welcome;

#[cfg(test)]
mod startup_tests;

type LocalPool = crate::pool::LocalPool<crate::backend::postgres::connection::Connection>;
type Pooled = crate::pool::shared::Pooled<crate::backend::postgres::connection::Connection>;
