//! tiffin: a proxy that applications connect to instead of their database.

pub mod backend;
pub mod cli;
pub mod config;
pub mod sql;
pub mod topology;
