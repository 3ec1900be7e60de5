//! tiffin: a proxy that applications connect to instead of their database.

pub mod backend;
pub mod cli;
pub mod config;
pub mod failover;
pub mod frontend;
pub mod monitor;
pub mod protocol;
pub mod sql;
pub mod topology;
