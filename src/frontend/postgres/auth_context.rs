//! What is known of users, and how it changes while connections come in.
//!
//! Here: the configured users with what has been derived from their passwords, the hook for users
//! that the file does not know, the TLS acceptor. Not here: the conversation ([`super::auth`]).

use crate::backend::postgres::auth::{ServerPassword, ServerSecret, derive_elsewhere};
use crate::backend::postgres::auth_query::{LookupError, SecretLookup};
use crate::config::tls::{Accepting, ClientTlsAcceptor, TlsError};
use crate::config::{AuthMethod, Config, Secret, User};
use crate::protocol::postgres::md5;
use crate::protocol::postgres::scram::{self, Key, Salting, Verifier};
use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Everything that a client's start needs. One for all workers; a reload swaps its parts under
/// them, and connections that are being opened finish with what they began with.
pub struct AuthContext {
    current: ArcSwap<AuthSettings>,
    tls: ClientTlsAcceptor,
    /// Makes salts that cannot be foreseen and stay the same while the program runs.
    seed: Key,
}

/// The users and how they log in.
pub struct AuthSettings {
    users: HashMap<Arc<str>, Arc<Credentials>>,
    lookup: Option<Arc<dyn SecretLookup>>,
    method: AuthMethod,
    pub(super) startup_timeout: Duration,
    pub(super) auth_delay: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no random numbers")]
    NoRandomness,
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
        lookup: Option<Arc<dyn SecretLookup>>,
    ) -> Result<AuthContext, ContextError> {
        let mut seed = [0; 32];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| ContextError::NoRandomness)?;
        Ok(AuthContext {
            current: ArcSwap::from_pointee(AuthSettings::new(config, lookup, None)),
            tls: ClientTlsAcceptor::new(&config.client_tls)?,
            seed,
        })
    }

    /// Takes a new configuration, TLS files included. On an error nothing changes. What was
    /// derived from a password that stays the same is kept.
    pub fn reload(
        &self,
        config: &Config,
        lookup: Option<Arc<dyn SecretLookup>>,
    ) -> Result<(), ContextError> {
        self.tls.reload(&config.client_tls)?;
        let next = AuthSettings::new(config, lookup, Some(&self.current.load()));
        self.current.store(Arc::new(next));
        Ok(())
    }

    pub(super) fn settings(&self) -> Arc<AuthSettings> {
        self.current.load_full()
    }

    pub(super) fn tls(&self) -> Arc<Accepting> {
        self.tls.load()
    }

    pub(super) fn seed(&self) -> &Key {
        &self.seed
    }
}

impl AuthSettings {
    fn new(
        config: &Config,
        lookup: Option<Arc<dyn SecretLookup>>,
        old: Option<&AuthSettings>,
    ) -> AuthSettings {
        let credentials = |user: &User| {
            let fresh = Credentials::of(user);
            let old = old.and_then(|old| old.users.get(&user.name));
            let kept = old.filter(|old| old.same_as(&fresh)).cloned();
            (user.name.clone(), kept.unwrap_or_else(|| Arc::new(fresh)))
        };
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
        database: &str,
    ) -> Result<Option<Arc<Credentials>>, LookupError> {
        if let Some(credentials) = self.users.get(user) {
            return Ok(Some(credentials.clone()));
        }
        let Some(lookup) = &self.lookup else { return Ok(None) };
        let found = lookup.lookup(user, database).await?;
        Ok(found.map(|found| Arc::new(Credentials::looked_up(found.secret.as_ref()))))
    }

    /// A password did not fit. Only a lookup can have changed its mind meanwhile.
    pub(super) fn doubt(&self, user: &str, database: &str) {
        if let Some(lookup) = self.lookup.as_ref().filter(|_| !self.users.contains_key(user)) {
            lookup.doubt(user, database);
        }
    }

    pub(super) fn method_of(&self, credentials: Option<&Credentials>) -> AuthMethod {
        credentials.and_then(|credentials| credentials.method).unwrap_or(self.method)
    }
}

/// What is known of one user.
pub(super) struct Credentials {
    method: Option<AuthMethod>,
    pub(super) known: Known,
    /// What servers are given whatever the client's login was.
    server: Option<Arc<ServerPassword>>,
}

/// What is known of a password.
pub(super) enum Known {
    Nothing,
    Password {
        password: Arc<ServerPassword>,
        /// Derived at the first SCRAM login.
        verifier: OnceCell<Verifier>,
    },
    Verifier(Verifier),
    /// `md5` and 32 hex digits.
    Md5(Arc<str>),
}

impl Credentials {
    fn of(user: &User) -> Credentials {
        let server = user.server_password.clone().map(|p| Arc::new(ServerPassword::new(p)));
        Credentials { method: user.method, known: Known::of(user.secret.as_ref()), server }
    }

    fn looked_up(secret: Option<&Secret>) -> Credentials {
        Credentials { method: None, known: Known::of(secret), server: None }
    }

    fn same_as(&self, other: &Credentials) -> bool {
        let server = match (&self.server, &other.server) {
            (Some(left), Some(right)) => same_text(left.expose(), right.expose()),
            (None, None) => true,
            _ => false,
        };
        server && self.method == other.method && self.known.same_as(&other.known)
    }

    /// What to log in to servers with, given what the client's login showed.
    pub(super) fn server_secret(&self, shown: ServerSecret) -> ServerSecret {
        match (&self.server, shown) {
            (Some(password), _) => ServerSecret::Password(password.clone()),
            (None, ServerSecret::None) => match &self.known {
                Known::Password { password, .. } => ServerSecret::Password(password.clone()),
                Known::Md5(stored) => ServerSecret::Md5Hash(stored.clone()),
                Known::Nothing | Known::Verifier(_) => ServerSecret::None,
            },
            (None, shown) => shown,
        }
    }
}

impl Known {
    fn of(secret: Option<&Secret>) -> Known {
        match secret {
            None => Known::Nothing,
            Some(Secret::Password(password)) => Known::Password {
                password: Arc::new(ServerPassword::new(password.clone())),
                verifier: OnceCell::new(),
            },
            Some(Secret::ScramVerifier(text)) => {
                Verifier::parse(text.expose_secret()).map_or(Known::Nothing, Known::Verifier)
            }
            Some(Secret::Md5(text)) if md5::is_stored(text.expose_secret()) => {
                Known::Md5(text.expose_secret().into())
            }
            Some(Secret::Md5(_)) => Known::Nothing,
        }
    }

    fn same_as(&self, other: &Known) -> bool {
        match (self, other) {
            (Known::Nothing, Known::Nothing) => true,
            (Known::Password { password: left, .. }, Known::Password { password: right, .. }) => {
                same_text(left.expose(), right.expose())
            }
            (Known::Verifier(left), Known::Verifier(right)) => left == right,
            (Known::Md5(left), Known::Md5(right)) => left == right,
            _ => false,
        }
    }

    /// The verifier to run SCRAM with; `None`: there is none, or the runtime ends.
    pub(super) async fn verifier(&self, seed: &Key, user: &str) -> Option<&Verifier> {
        match self {
            Known::Verifier(verifier) => Some(verifier),
            Known::Password { password, verifier } => {
                let derive = || async {
                    let salt = scram::salt_for(seed, user.as_bytes());
                    let salting = Salting { salt, iterations: scram::ITERATIONS };
                    let keys = derive_elsewhere(password.expose().clone(), salting.clone()).await;
                    keys.map(|keys| keys.verifier(salting)).ok_or(())
                };
                verifier.get_or_try_init(derive).await.ok()
            }
            Known::Nothing | Known::Md5(_) => None,
        }
    }
}

/// Compares what the operator wrote with what the operator wrote: no secret to be guessed here.
fn same_text(left: &SecretString, right: &SecretString) -> bool {
    left.expose_secret() == right.expose_secret()
}
