pub mod auth;
pub mod error;
pub mod md5;
pub mod scram;
pub mod startup;
