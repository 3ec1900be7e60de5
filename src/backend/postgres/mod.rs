pub mod auth;
pub mod auth_query;
pub mod auth_wire;
pub mod connect;
pub mod connect_control;

#[cfg(test)]
pub(crate) mod connect_fixture;
#[cfg(test)]
mod connect_tests;
