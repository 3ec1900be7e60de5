//! What a session has left on a connection, as far as the proxy follows it.

#[derive(Debug, Default)]
pub struct Traces {
    /// Number of the session that used it last, in the proxy.
    pub owner: Option<i32>,
}
