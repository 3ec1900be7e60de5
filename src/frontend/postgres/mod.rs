pub mod auth;
pub mod auth_context;
pub mod startup;
