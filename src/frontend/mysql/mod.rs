//! Conversations in MySQL's protocol, for MySQL and MariaDB.
//!
//! [`startup`] lets a client in, [`compress`] is its stream; [`conversation`] is the list of stages
//! that each command goes through, a file each. They have the names of those in [`super::postgres`].

pub mod accounts;
pub mod active;
pub mod auth;
pub mod auth_context;
pub mod bring;
pub mod change_user;
pub mod classify;
pub mod compress;
pub mod conversation;
pub mod errors;
pub mod fault;
pub mod followed;
pub mod guard;
pub mod initiate;
pub mod learn;
pub mod local;
mod lone;
pub mod plan;
pub mod recall;
pub mod release;
pub mod repeatable;
pub mod replay;
pub mod replica;
pub mod resolve;
pub mod reword;
pub mod seeker;
pub mod serve;
pub mod startup;
pub mod startup_refusal;
pub mod statements;
pub mod stream;
pub mod welcome;

type LocalPool = crate::pool::LocalPool<crate::backend::mysql::connection::Connection>;
type Pooled = crate::pool::shared::Pooled<crate::backend::mysql::connection::Connection>;
