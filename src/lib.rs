//! tiffin: a proxy that applications connect to instead of their database.

pub mod admin;
pub mod backend;
pub mod config;
pub mod metrics;
pub mod sql;
pub mod topology;
