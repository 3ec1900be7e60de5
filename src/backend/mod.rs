//! Server connections: the byte stream, the handshake, and what is known of a connection's state.

pub mod postgres;
pub mod stream;
