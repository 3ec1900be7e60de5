//! What is known of MySQL's users, and how it changes while connections come in.
//!
//! Here: the configured users, the hook for users that the file does not know, what has been
//! learned from logins, the TLS acceptor and the RSA key. Not here: the conversation
//! ([`super::auth`]).

use crate::backend::mysql::auth::ServerSecret;
use crate::backend::mysql::rsa::{RsaError, RsaKey};
use crate::config::tls::{Accepting, ClientTlsAcceptor, TlsError};
use crate::config::{AuthMethod, Config, Secret, User};
use crate::protocol::mysql::auth::{
    NativeKey, Plugin, SHA1_BYTES, Sha2Digest, Sha2Stored, parse_native_stored, same_password,
    sha2_digest,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// A user that the servers know.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// `plugin` of `mysql.user`.
    pub plugin: String,
    /// `authentication_string` of `mysql.user`; any bytes.
    pub stored: Vec<u8>,
}

/// Why nothing is known of a user, which is not to say that there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("users cannot be looked up: {reason}")]
pub struct LookupError {
    pub reason: String,
}

/// The answer of a lookup. `Ok(None)`: there is no such user.
pub type Lookup<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Arc<Credentials>>, LookupError>> + Send + 'a>>;

/// Asks the servers for a user that the configuration does not have. Answers are remembered by
/// whoever implements this: what is learned from a login stays with them.
pub trait AccountLookup: Send + Sync {
    fn lookup<'a>(&'a self, user: &'a str, database: Option<&'a str>) -> Lookup<'a>;

    /// The client's password did not fit the answer. It may have been changed since.
    fn doubt(&self, user: &str, database: Option<&str>);
}

/// Everything that a client's start needs. One for all workers; a reload swaps its parts under
/// them, and connections that are being opened finish with what they began with.
pub struct AuthContext {
    current: ArcSwap<AuthSettings>,
    tls: ClientTlsAcceptor,
    /// Made when the first client needs it.
    rsa: OnceCell<Arc<RsaKey>>,
}

/// The users and how they log in.
pub struct AuthSettings {
    users: HashMap<Arc<str>, Arc<Credentials>>,
    lookup: Option<Arc<dyn AccountLookup>>,
    method: AuthMethod,
    pub(super) startup_timeout: Duration,
    pub(super) auth_delay: Duration,
}

impl fmt::Debug for AuthContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthContext").finish_non_exhaustive()
    }
}

impl AuthContext {
    /// `lookup` is asked for users that the configuration does not have. Reads the TLS files.
    pub fn new(
        config: &Config,
        lookup: Option<Arc<dyn AccountLookup>>,
    ) -> Result<AuthContext, TlsError> {
        Ok(AuthContext {
            current: ArcSwap::from_pointee(AuthSettings::new(config, lookup)),
            tls: ClientTlsAcceptor::new(&config.client_tls)?,
            rsa: OnceCell::new(),
        })
    }

    /// Takes a new configuration, TLS files included. On an error nothing changes.
    pub fn reload(
        &self,
        config: &Config,
        lookup: Option<Arc<dyn AccountLookup>>,
    ) -> Result<(), TlsError> {
        self.tls.reload(&config.client_tls)?;
        self.current.store(Arc::new(AuthSettings::new(config, lookup)));
        Ok(())
    }

    pub(super) fn settings(&self) -> Arc<AuthSettings> {
        self.current.load_full()
    }

    pub(super) fn tls(&self) -> Arc<Accepting> {
        self.tls.load()
    }

    /// The key for passwords on connections without TLS; made on another thread.
    pub(super) async fn rsa(&self) -> Result<&RsaKey, RsaError> {
        let make = || async {
            let made = tokio::task::spawn_blocking(RsaKey::generate).await;
            made.map_err(|_| RsaError::Generate)?.map(Arc::new)
        };
        self.rsa.get_or_try_init(make).await.map(|key| &**key)
    }
}

impl AuthSettings {
    fn new(config: &Config, lookup: Option<Arc<dyn AccountLookup>>) -> AuthSettings {
        let credentials = |user: &User| (user.name.clone(), Arc::new(Credentials::of(user)));
        AuthSettings {
            users: config.users.iter().map(credentials).collect(),
            lookup,
            method: config.auth.method,
            startup_timeout: config.limits.startup_timeout,
            auth_delay: config.limits.auth_delay,
        }
    }

    /// The user of the configuration, else of the lookup.
    pub(super) async fn find(
        &self,
        user: &str,
        database: Option<&str>,
    ) -> Result<Option<Arc<Credentials>>, LookupError> {
        if let Some(credentials) = self.users.get(user) {
            return Ok(Some(credentials.clone()));
        }
        match &self.lookup {
            Some(lookup) => lookup.lookup(user, database).await,
            None => Ok(None),
        }
    }

    /// A password did not fit. Only a lookup can have changed its mind meanwhile.
    pub(super) fn doubt(&self, user: &str, database: Option<&str>) {
        if let Some(lookup) = self.lookup.as_ref().filter(|_| !self.users.contains_key(user)) {
            lookup.doubt(user, database);
        }
    }

    pub(super) fn method_of(&self, credentials: Option<&Credentials>) -> AuthMethod {
        credentials.and_then(|credentials| credentials.method).unwrap_or(self.method)
    }
}

/// What is known of one user.
pub struct Credentials {
    method: Option<AuthMethod>,
    pub(super) known: Known,
    /// What servers are given whatever the client's login was.
    server: Option<Arc<SecretString>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(secret)")
    }
}

/// What is known of a password.
pub(super) enum Known {
    Nothing,
    Password {
        password: Arc<SecretString>,
        digest: Sha2Digest,
    },
    /// Of a server's account with mysql_native_password.
    Native([u8; SHA1_BYTES]),
    /// Of a server's account with caching_sha2_password.
    Sha2(Box<Sha2Account>),
}

/// An account with caching_sha2_password: its hash can only be checked with the password itself.
/// Once that was shown, it is remembered as the servers do it, and for logging in to them.
pub(super) struct Sha2Account {
    pub stored: Sha2Stored,
    learned: ArcSwapOption<Learned>,
}

/// A password that fitted.
pub(super) struct Learned {
    pub password: Arc<SecretString>,
    pub digest: Sha2Digest,
}

impl Sha2Account {
    pub fn learned(&self) -> Option<Arc<Learned>> {
        self.learned.load_full()
    }

    pub fn learn(&self, password: Arc<SecretString>) {
        let digest = sha2_digest(password.expose_secret().as_bytes());
        self.learned.store(Some(Arc::new(Learned { password, digest })));
    }
}

impl Credentials {
    fn of(user: &User) -> Credentials {
        let known = match &user.secret {
            Some(Secret::Password(password)) => Known::Password {
                digest: sha2_digest(password.expose_secret().as_bytes()),
                password: Arc::new(password.clone()),
            },
            // Of PostgreSQL.
            Some(Secret::ScramVerifier(_) | Secret::Md5(_)) | None => Known::Nothing,
        };
        let server = user.server_password.clone().map(Arc::new);
        Credentials { method: user.method, known, server }
    }

    /// Of an account that a server told of.
    pub fn of_account(account: &Account) -> Credentials {
        let native = || parse_native_stored(std::str::from_utf8(&account.stored).ok()?);
        let known = match Plugin::of(account.plugin.as_bytes()) {
            Some(Plugin::Native) => native().map_or(Known::Nothing, Known::Native),
            Some(Plugin::CachingSha2) => match Sha2Stored::parse(&account.stored) {
                Some(stored) => {
                    Known::Sha2(Box::new(Sha2Account { stored, learned: ArcSwapOption::empty() }))
                }
                None => Known::Nothing,
            },
            _ => Known::Nothing,
        };
        Credentials { method: None, known, server: None }
    }

    /// What to log in to servers with, given what the client's login showed.
    pub(super) fn server_secret(&self, shown: Shown) -> ServerSecret {
        match (&self.server, shown, &self.known) {
            (Some(password), ..) => ServerSecret::Password(password.clone()),
            (None, Shown::Password(password), _) => ServerSecret::Password(password),
            (None, Shown::NativeKey(key), _) => ServerSecret::NativeKey(Arc::new(key)),
            (None, Shown::Nothing, Known::Password { password, .. }) => {
                ServerSecret::Password(password.clone())
            }
            (None, Shown::Nothing, _) => ServerSecret::None,
        }
    }
}

/// What a login showed of the password.
pub(super) enum Shown {
    /// It was not needed.
    Nothing,
    Password(Arc<SecretString>),
    NativeKey(NativeKey),
}

/// Whether what the client sent is the password, in a time that does not tell its length.
pub(super) fn is_password(expected: &SecretString, given: &[u8]) -> bool {
    same_password(expected.expose_secret().as_bytes(), given)
}
