pub mod auth;
pub mod auth_context;
pub mod startup;
pub mod startup_refusal;
#[cfg(test)]
mod startup_tests;
