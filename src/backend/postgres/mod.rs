pub mod auth;
pub mod auth_query;
pub mod auth_wire;
pub mod connect;
