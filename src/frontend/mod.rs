//! Clients' conversations, and what the conversations of one worker share.
//!
//! Open [`postgres::conversation`] for the stages of a request.

pub mod acquire;
pub mod choice;
pub mod cluster;
pub mod commits;
mod failure;
mod farewell;
pub mod mysql;
pub mod postgres;
pub mod repeats;
pub mod stall;
pub mod worker;
