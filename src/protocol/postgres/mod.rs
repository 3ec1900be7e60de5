//! PostgreSQL's messages as bytes: no sockets, no clock, no randomness.
//!
//! Of a connection's start: [`startup`] the packets without a tag, [`auth`] what servers ask and
//! clients answer, [`scram`] and [`md5`] the proofs. Throughout: [`error`].

pub mod auth;
pub mod error;
pub mod md5;
pub mod scram;
pub mod startup;
mod startup_fuzz;

pub use startup_fuzz::fuzz_startup;
