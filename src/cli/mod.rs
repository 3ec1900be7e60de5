//! The commands of the binary, one file each. Only here are errors of type `anyhow`.

pub mod sandbox;
