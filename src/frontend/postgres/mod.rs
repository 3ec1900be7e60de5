//! One PostgreSQL client's conversation.
//!
//! Its start: [`startup`] from the first byte to AuthenticationOk, [`auth`] the proofs,
//! [`auth_context`] what is known of users, [`startup_refusal`] what those are told who are not
//! let in.

pub mod auth;
pub mod auth_context;
pub mod startup;
#[cfg(test)]
mod startup_raw_tests;
pub mod startup_refusal;
#[cfg(test)]
mod startup_tests;
