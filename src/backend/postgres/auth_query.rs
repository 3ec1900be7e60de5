//! Users that only the servers know: `auth.query`.
//!
//! Here: the hook that a client's start calls ([`SecretLookup`]).

use crate::config::Secret;
use std::future::Future;
use std::pin::Pin;

/// A user that exists.
#[derive(Debug, Clone)]
pub struct Found {
    /// `None`: the user has no password, or one of an unknown kind.
    pub secret: Option<Secret>,
}

/// Why nothing is known of a user, which is not to say that there is none.
#[derive(Debug, thiserror::Error)]
#[error("users cannot be looked up: {reason}")]
pub struct LookupError {
    pub reason: String,
}

/// The answer of a lookup. `Ok(None)`: there is no such user.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Result<Option<Found>, LookupError>> + Send + 'a>>;

/// Asks for a user's secret on behalf of a client that wants this database.
pub trait SecretLookup: Send + Sync {
    fn lookup<'a>(&'a self, user: &'a str, database: &'a str) -> Lookup<'a>;
}
