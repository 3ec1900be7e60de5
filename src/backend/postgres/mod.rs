pub mod auth;
pub mod auth_wire;
pub mod connect;
