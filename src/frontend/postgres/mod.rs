pub mod auth;
pub mod auth_context;
pub mod startup;
#[cfg(test)]
mod startup_tests;
