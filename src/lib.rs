//! tiffin: a proxy that applications connect to instead of their database.

pub mod admin;
pub mod backend;
pub mod cli;
pub mod config;
pub mod failover;
pub mod frontend;
pub mod metrics;
pub mod monitor;
pub mod pool;
pub mod protocol;
pub mod route;
pub mod server;
pub mod session;
pub mod sql;
pub mod topology;

#[cfg(test)]
mod tidy;
